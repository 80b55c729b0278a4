//! Flags as they are typed, and the requests that they make.

use clap::Parser;

use super::*;
use crate::cli::containers::flags::Words;

#[derive(Debug, Parser)]
#[command(disable_help_flag = true)]
struct Line {
    #[command(flatten)]
    flags: Flags,
    #[command(flatten)]
    words: Words,
}

fn typed(line: &str) -> Result<Request> {
    let words = ["run"].into_iter().chain(line.split(' '));
    let command = crate::cli::containers::booleans(<Line as clap::CommandFactory>::command());
    let matches = command
        .try_get_matches_from(words)
        .unwrap_or_else(|e| panic!("{line}: {e}"));
    let line = <Line as clap::FromArgMatches>::from_arg_matches(&matches).unwrap();
    request(
        &line.flags,
        line.words.image(),
        line.words.command(),
        &|name| (name == "HOME").then(|| "/h".to_owned()),
    )
}

fn refused(line: &str) -> String {
    typed(line).unwrap_err().message().to_owned()
}

#[test]
fn nothing_but_an_image() {
    let r = typed("alpine").unwrap();
    assert_eq!(r.config.image, "alpine");
    assert_eq!((r.config.cmd, r.config.entrypoint), (None, None));
    assert!(r.config.attach_stdout && r.config.attach_stderr && !r.config.attach_stdin);
    assert!(!r.config.open_stdin && !r.config.stdin_once && !r.config.tty);
    assert_eq!(r.host_config.network_mode, "default");
    assert_eq!(r.host_config.restart_policy.name, "no");
    assert_eq!(
        (r.host_config.init, r.host_config.oom_kill_disable),
        (None, None)
    );
    assert!(r.networks.is_empty() && r.config.healthcheck.is_none());
}

#[test]
fn what_follows_the_image_is_the_containers() {
    let r = typed("-it --rm alpine sh -c -d --name=x -- y").unwrap();
    let words = ["sh", "-c", "-d", "--name=x", "--", "y"].map(str::to_owned);
    assert_eq!(r.config.cmd, Some(words.to_vec()));
    assert!(r.config.tty && r.config.open_stdin && r.config.stdin_once && r.config.attach_stdin);
    assert!(r.host_config.auto_remove);
    let r = typed("--rm=false --init=false -t=true --entrypoint= x").unwrap();
    assert!(!r.host_config.auto_remove && r.config.tty);
    assert_eq!(r.host_config.init, Some(false));
    assert_eq!(r.config.entrypoint, Some(vec![String::new()]));
    assert_eq!(typed("--init x").unwrap().host_config.init, Some(true));
    assert_eq!(
        typed("--entrypoint /e x").unwrap().config.entrypoint,
        Some(vec!["/e".into()])
    );
}

#[test]
fn process() {
    let r = typed("-e A=1 -e HOME -w /w -u 1:2 --group-add g -h host --domainname d -l a=b --stop-signal 9 --stop-timeout -1 --annotation o=1 x").unwrap();
    let c = &r.config;
    assert_eq!(c.env, ["A=1", "HOME=/h"]);
    assert_eq!(
        (&*c.working_dir, &*c.user, &*c.hostname, &*c.domainname),
        ("/w", "1:2", "host", "d")
    );
    assert_eq!(
        (c.stop_signal.as_deref(), c.stop_timeout),
        (Some("9"), Some(-1))
    );
    assert_eq!(c.labels["a"], "b");
    assert_eq!(r.host_config.annotations["o"], "1");
    assert_eq!(r.host_config.group_add, ["g"]);
    let r = typed("-a stdin -a STDERR x").unwrap();
    assert!(r.config.attach_stdin && !r.config.attach_stdout && r.config.attach_stderr);
    assert!(refused("-a x y").contains("valid streams are STDIN, STDOUT and STDERR"));
    assert!(refused("--rm --restart always x").contains("both --restart and --rm"));
}

#[test]
fn limits_of_resources() {
    let r = typed("-m 64m --memory-swap -1 --memory-reservation 32m --memory-swappiness 5 --cpus 1.5 -c 512 --cpuset-cpus 0-1 --cpuset-mems 0 --pids-limit -1 --ulimit nofile=10:20 --shm-size 1m --oom-score-adj -5 --oom-kill-disable --blkio-weight 10 --cgroup-parent /p x").unwrap();
    let h = &r.host_config;
    assert_eq!(
        (h.memory, h.memory_swap, h.memory_reservation),
        (64 << 20, -1, 32 << 20)
    );
    assert_eq!(
        (h.memory_swappiness, h.nano_cpus, h.cpu_shares),
        (Some(5), 1_500_000_000, 512)
    );
    assert_eq!(
        (&*h.cpuset_cpus, &*h.cpuset_mems, h.pids_limit),
        ("0-1", "0", Some(-1))
    );
    assert_eq!(
        (h.shm_size, h.oom_score_adj, h.oom_kill_disable),
        (1 << 20, -5, Some(true))
    );
    assert_eq!(
        (h.blkio_weight, &*h.cgroup_parent, h.ulimits[0].hard),
        (10, "/p", 20)
    );
    let h = typed("--cpu-period 10000 --cpu-quota -1 --device /dev/fuse x")
        .unwrap()
        .host_config;
    assert_eq!((h.cpu_period, h.cpu_quota), (10000, -1));
    assert_eq!(h.devices[0].path_in_container, "/dev/fuse");
    assert!(refused("--memory-swappiness 101 x").contains("range is 0-100"));
}

#[test]
fn networks_by_name_and_mode() {
    let r = typed("--network none x").unwrap();
    assert_eq!(
        (&*r.host_config.network_mode, r.networks.len()),
        ("none", 0)
    );
    let r =
        typed("--net mine --net-alias a --ip 10.0.0.2 --mac-address 02:00:00:00:00:01 x").unwrap();
    let e = &r.networks["mine"];
    assert_eq!(e.aliases, ["a"]);
    assert_eq!(r.config.mac_address.as_deref(), Some("02:00:00:00:00:01"));
    assert_eq!(e.ipam_config.as_ref().unwrap().ipv4, "10.0.0.2");
    let r = typed("--network name=one,alias=x,ip6=fd00::2 --network two x").unwrap();
    assert_eq!(&*r.host_config.network_mode, "one");
    assert_eq!(r.networks.keys().collect::<Vec<_>>(), ["one", "two"]);
    for line in [
        "--network host --network one x",
        "--network one --network one x",
        "--network alias=a x",
        "--mac-address x y",
    ] {
        refused(line);
    }
    assert!(refused("--dns x y").contains("not correctly formatted"));
    assert!(refused("--add-host x y").contains("bad format for add-host"));
    let r = typed("-p 8080:80 --expose 90-91 --dns 1.1.1.1 --dns-opt ndots:1 --dns-search a.b --add-host a:1.2.3.4 -P x").unwrap();
    let ports: Vec<_> = r.config.exposed_ports.keys().map(|k| &**k).collect();
    assert_eq!(ports, ["80/tcp", "90/tcp", "91/tcp"]);
    let h = r.host_config;
    assert_eq!(
        h.port_bindings["80/tcp"].as_ref().unwrap()[0].host_port,
        "8080"
    );
    assert!(h.publish_all_ports && h.dns == ["1.1.1.1"] && h.dns_options == ["ndots:1"]);
    assert_eq!(
        (&*h.dns_search, &*h.extra_hosts),
        (&["a.b".to_owned()][..], &["a:1.2.3.4".to_owned()][..])
    );
}

#[test]
fn security_and_namespaces() {
    let h = typed("--privileged --cap-add A --cap-drop ALL --security-opt seccomp=unconfined --security-opt no-new-privileges --security-opt label:disable --security-opt systempaths=unconfined --sysctl net.a=1 --pid host --ipc container:c --uts host --cgroupns private --image-security ignore x").unwrap().host_config;
    assert!(h.privileged && h.masked_paths == Some(vec![]) && h.readonly_paths == Some(vec![]));
    assert_eq!(
        h.security_opt,
        ["seccomp=unconfined", "no-new-privileges", "label=disable"]
    );
    assert_eq!(
        (&*h.pid_mode, &*h.ipc_mode, &*h.cgroupns_mode),
        ("host", "container:c", "private")
    );
    assert_eq!((&*h.sysctls["net.a"], &*h.image_security), ("1", "ignore"));
    for (line, want) in [
        ("--pid x y", "--pid: invalid PID mode"),
        ("--pid container: y", "--pid: invalid PID mode"),
        ("--ipc x y", "--ipc: invalid IPC mode"),
        ("--uts x y", "--uts: invalid UTS mode"),
        ("--userns x y", "--userns: invalid USER mode"),
        ("--cgroupns x y", "--cgroupns: invalid CGROUP mode"),
        ("--security-opt x y", "invalid --security-opt: \"x\""),
        ("--image-security x y", "--image-security: invalid value x"),
    ] {
        assert_eq!(refused(line), want);
    }
    assert!(refused("--security-opt seccomp=/nonexistent x").contains("opening seccomp profile"));
}

#[test]
fn healthchecks() {
    let h = typed("--health-cmd true --health-interval 1s --health-retries 2 x").unwrap();
    let h = h.config.healthcheck.unwrap();
    assert_eq!(
        (h.test, h.interval, h.retries),
        (vec!["CMD-SHELL".into(), "true".into()], 1_000_000_000, 2)
    );
    let h = typed("--no-healthcheck x")
        .unwrap()
        .config
        .healthcheck
        .unwrap();
    assert_eq!(h.test, ["NONE"]);
    for (line, want) in [
        (
            "--no-healthcheck --health-cmd x y",
            "--no-healthcheck conflicts with --health-* options",
        ),
        (
            "--health-timeout -1s x",
            "--health-timeout cannot be negative",
        ),
        (
            "--health-retries -1 x",
            "--health-retries cannot be negative",
        ),
    ] {
        assert_eq!(refused(line), want);
    }
}

#[test]
fn mounts() {
    let r = typed("-v /data -v /a:/b:ro --tmpfs /t:size=1m --mount type=tmpfs,target=/m --volumes-from c --read-only --log-driver json-file --log-opt max-size=1m x").unwrap();
    assert!(r.config.volumes.contains_key("/data"));
    let h = r.host_config;
    assert_eq!(
        (&*h.binds, &*h.tmpfs["/t"]),
        (&["/a:/b:ro".to_owned()][..], "size=1m")
    );
    assert_eq!(
        (&*h.mounts[0].target, &*h.volumes_from),
        ("/m", &["c".to_owned()][..])
    );
    assert!(h.readonly_rootfs && h.log_config.config["max-size"] == "1m");
    assert!(refused("--log-driver none --log-opt a=b x").contains("invalid logging opts"));
}
