//! A [`Request`] made of the flags of `run` and `create`, by docker's rules.

use std::path::Path;

use super::{
    flags::{Flags, HealthFlags, NetworkFlags, ResourceFlags, SecurityFlags, StorageFlags},
    parse::{self, bad},
};
use crate::{
    error::{Error, Kind, Result},
    image::{json::show, time::go_duration},
    network::{flag, ports},
    spec::{
        cdi,
        request::{
            ContainerConfig, DeviceRequest, Healthcheck, HostConfig, LogConfig, Nothing, Request,
        },
        security::read_profile,
    },
    volume,
};

/// The request that the flags make, with `image` and `command` from the words after them.
pub(super) fn request(
    flags: &Flags,
    image: &str,
    command: &[String],
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Request> {
    let mut request = Request {
        config: config(flags, image, command, environment)?,
        host_config: HostConfig {
            container_id_file: flags
                .cidfile
                .as_ref()
                .map_or_else(String::new, |f| f.display().to_string()),
            log_config: LogConfig {
                r#type: flags.log_driver.clone(),
                config: log_options(&flags.log_driver, &flags.log_opt)?,
            },
            restart_policy: parse::restart_policy(&flags.restart)?,
            auto_remove: flags.rm,
            annotations: parse::pairs(&flags.annotation, "annotation")?,
            group_add: flags.group_add.clone(),
            runtime: flags.runtime.clone(),
            init: flags.init,
            ..HostConfig::default()
        },
        ..Request::default()
    };
    let policy = &request.host_config.restart_policy.name;
    if flags.rm && !policy.is_empty() && policy != "no" {
        let m = "conflicting options: cannot specify both --restart and --rm";
        return Err(bad(m, "leave out one of them"));
    }
    without(flags)?;
    storage(&mut request, &flags.storage)?;
    network(&mut request, &flags.network)?;
    resources(&mut request.host_config, &flags.resources)?;
    security(&mut request.host_config, &flags.security)?;
    request.config.healthcheck = health(&flags.health)?;
    Ok(request)
}

/// Refuses what Docker's daemon gives and unlade cannot.
fn without(flags: &Flags) -> Result<()> {
    let refused =
        |message: &str, hint: &str| Err(Error::new(Kind::Unsupported, message).with_hint(hint));
    if flags.use_api_socket {
        let m = "--use-api-socket: unlade has no API socket that a container could get";
        return refused(m, "no daemon runs; mount another engine's socket with -v");
    }
    if !flags.network.link_local_ip.is_empty() {
        let m = "--link-local-ip: networks through netavark give no link-local addresses";
        return refused(m, "--ip and --ip6 give addresses of a network's subnets");
    }
    Ok(())
}

fn config(
    flags: &Flags,
    image: &str,
    command: &[String],
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<ContainerConfig> {
    let [stdin, stdout, stderr] = streams(&flags.attach)?;
    let attached = !flags.attach.is_empty();
    let attach_stdin = stdin || flags.interactive;
    Ok(ContainerConfig {
        hostname: flags.hostname.clone(),
        domainname: flags.domainname.clone(),
        user: flags.user.clone(),
        attach_stdin,
        attach_stdout: stdout || !attached,
        attach_stderr: stderr || !attached,
        tty: flags.tty,
        open_stdin: flags.interactive,
        // Standard input ends with the client's, as docker has it.
        stdin_once: flags.interactive && attach_stdin,
        env: parse::env(&flags.env_file, &flags.env, environment)?,
        cmd: (!command.is_empty()).then(|| command.to_vec()),
        image: image.to_owned(),
        working_dir: flags.workdir.clone(),
        entrypoint: flags.entrypoint.as_ref().map(|e| vec![e.clone()]),
        labels: parse::labels(&flags.label_file, &flags.label)?,
        stop_signal: flags.stop_signal.clone(),
        stop_timeout: flags.stop_timeout,
        ..ContainerConfig::default()
    })
}

fn streams(attach: &[String]) -> Result<[bool; 3]> {
    let mut wanted = [false; 3];
    for stream in attach {
        let names = ["stdin", "stdout", "stderr"];
        let at = names.iter().position(|n| *n == stream.to_ascii_lowercase());
        let Some(at) = at else {
            let m = format!(
                "invalid argument \"{}\" for \"-a, --attach\" flag: valid streams are STDIN, STDOUT and STDERR",
                show(stream)
            );
            return Err(bad(m, "give one of them; the flag may be repeated"));
        };
        wanted[at] = true;
    }
    Ok(wanted)
}

fn log_options(
    driver: &str,
    options: &[String],
) -> Result<std::collections::BTreeMap<String, String>> {
    if driver == "none" && !options.is_empty() {
        let m = format!("invalid logging opts for driver {driver}");
        return Err(bad(m, "nothing is logged with that driver"));
    }
    parse::full_pairs(options, "logging opt")
}

fn storage(request: &mut Request, flags: &StorageFlags) -> Result<()> {
    let host = &mut request.host_config;
    let cwd = std::env::current_dir().unwrap_or_else(|_| "/".into());
    for text in &flags.volume {
        match volume::parse::volume(text, &cwd)? {
            volume::parse::Flag::Anonymous(target) => {
                request.config.volumes.insert(target, Nothing {});
            }
            volume::parse::Flag::Bind(bind) => host.binds.push(bind),
        }
    }
    for text in &flags.mount {
        host.mounts.push(volume::parse::mount(text, &cwd)?);
    }
    for text in &flags.tmpfs {
        let (target, options) = volume::parse::tmpfs(text)?;
        host.tmpfs.insert(target, options);
    }
    host.volumes_from.clone_from(&flags.volumes_from);
    host.volume_driver.clone_from(&flags.volume_driver);
    host.readonly_rootfs = flags.read_only;
    host.storage_opt = parse::full_pairs(&flags.storage_opt, "storage option")?;
    Ok(())
}

fn network(request: &mut Request, flags: &NetworkFlags) -> Result<()> {
    let host = &mut request.host_config;
    host.dns = flags
        .dns
        .iter()
        .map(|a| parse::address(a))
        .collect::<Result<_>>()?;
    host.dns_options.clone_from(&flags.dns_option);
    host.dns_search = flags
        .dns_search
        .iter()
        .map(|d| domain(d))
        .collect::<Result<_>>()?;
    host.extra_hosts = flags
        .add_host
        .iter()
        .map(|h| parse::extra_host(h))
        .collect::<Result<_>>()?;
    host.links.clone_from(&flags.link);
    host.publish_all_ports = flags.publish_all;
    ports::publish(&flags.publish, &flags.expose, request)?;
    let mac = if flags.mac_address.is_empty() {
        None
    } else {
        Some(parse::mac_address(&flags.mac_address)?)
    };
    request.config.mac_address.clone_from(&mac);
    let given = |text: &'_ String| (!text.is_empty()).then(|| text.clone());
    let (ip, ip6) = (given(&flags.ip), given(&flags.ip6));
    flag::apply(
        &flag::Options {
            network: &flags.network,
            aliases: &flags.network_alias,
            ip: ip.as_deref(),
            ip6: ip6.as_deref(),
            mac: mac.as_deref(),
        },
        request,
    )
}

fn domain(text: &str) -> Result<String> {
    let text = text.trim();
    if text == "." || (!text.is_empty() && !text.contains(char::is_whitespace)) {
        return Ok(text.to_owned());
    }
    Err(bad(
        format!("{} is not a valid domain", show(text)),
        "write a domain such as example.org",
    ))
}

fn resources(host: &mut HostConfig, flags: &ResourceFlags) -> Result<()> {
    let bytes = |text: &Option<String>| text.as_deref().map_or(Ok(0), parse::bytes);
    host.memory = bytes(&flags.memory)?;
    host.memory_swap = flags
        .memory_swap
        .as_deref()
        .map_or(Ok(0), parse::bytes_or_unlimited)?;
    host.memory_reservation = bytes(&flags.memory_reservation)?;
    host.memory_swappiness = match flags.memory_swappiness {
        None | Some(-1) => None,
        Some(n) if (0..=100).contains(&n) => Some(n),
        Some(n) => {
            let m = format!("invalid value: {n}. Valid memory swappiness range is 0-100");
            return Err(bad(m, "-1 is the kernel's own"));
        }
    };
    host.oom_kill_disable = flags.oom_kill_disable;
    host.oom_score_adj = flags.oom_score_adj;
    host.nano_cpus = flags.cpus.as_deref().map_or(Ok(0), parse::cpus)?;
    host.cpu_shares = flags.cpu_shares;
    host.cpu_period = flags.cpu_period;
    host.cpu_quota = flags.cpu_quota;
    host.cpu_realtime_period = flags.cpu_rt_period;
    host.cpu_realtime_runtime = flags.cpu_rt_runtime;
    bytes(&flags.kernel_memory)?;
    host.cpuset_cpus.clone_from(&flags.cpuset_cpus);
    host.cpuset_mems.clone_from(&flags.cpuset_mems);
    host.blkio_weight = flags.blkio_weight;
    let weights = flags.blkio_weight_device.iter();
    host.blkio_weight_device = weights.map(|w| parse::weight(w)).collect::<Result<_>>()?;
    for (to, from, in_bytes) in [
        (
            &mut host.blkio_device_read_bps,
            &flags.device_read_bps,
            true,
        ),
        (
            &mut host.blkio_device_write_bps,
            &flags.device_write_bps,
            true,
        ),
        (
            &mut host.blkio_device_read_iops,
            &flags.device_read_iops,
            false,
        ),
        (
            &mut host.blkio_device_write_iops,
            &flags.device_write_iops,
            false,
        ),
    ] {
        let rates = from.iter().map(|rate| parse::rate(rate, in_bytes));
        *to = rates.collect::<Result<_>>()?;
    }
    host.pids_limit = flags.pids_limit;
    host.ulimits = flags
        .ulimit
        .iter()
        .map(|u| parse::ulimit(u))
        .collect::<Result<_>>()?;
    host.shm_size = bytes(&flags.shm_size)?;
    let (cdi, nodes): (Vec<_>, Vec<_>) = flags
        .device
        .iter()
        .partition(|d| cdi::Name::parse(d).is_some());
    host.devices = nodes
        .into_iter()
        .map(|d| parse::device(d))
        .collect::<Result<_>>()?;
    for text in &flags.gpus {
        host.device_requests.push(parse::gpus(text)?);
    }
    if !cdi.is_empty() {
        host.device_requests.push(DeviceRequest {
            driver: "cdi".to_owned(),
            device_ids: cdi.into_iter().cloned().collect(),
            ..DeviceRequest::default()
        });
    }
    host.device_cgroup_rules = flags
        .device_cgroup_rule
        .iter()
        .map(|r| parse::device_rule(r))
        .collect::<Result<_>>()?;
    host.cgroup_parent.clone_from(&flags.cgroup_parent);
    Ok(())
}

fn security(host: &mut HostConfig, flags: &SecurityFlags) -> Result<()> {
    let of_container = |text: &str| {
        text.strip_prefix("container:")
            .is_some_and(|c| !c.is_empty())
    };
    let one_of = |flag: &str, what: &str, text: &str, known: &[&str]| {
        if text.is_empty()
            || (known.contains(&text) && !text.ends_with(':'))
            || (known.contains(&"container:") && of_container(text))
        {
            return Ok(());
        }
        Err(bad(
            format!("{flag}: invalid {what} mode"),
            &format!("modes are {}", known.join(", ")),
        ))
    };
    one_of("--pid", "PID", &flags.pid, &["host", "container:"])?;
    one_of("--uts", "UTS", &flags.uts, &["host"])?;
    one_of("--userns", "USER", &flags.userns, &["host"])?;
    one_of(
        "--cgroupns",
        "CGROUP",
        &flags.cgroupns,
        &["host", "private"],
    )?;
    one_of(
        "--ipc",
        "IPC",
        &flags.ipc,
        &["private", "shareable", "none", "host", "container:"],
    )?;
    if !["", "default"].contains(&&*flags.isolation) {
        let m = format!(
            "invalid isolation: \"{}\" - linux only supports 'default'",
            show(&flags.isolation)
        );
        return Err(bad(m, "leave out --isolation"));
    }
    if !["", "narrow", "replace", "ignore"].contains(&&*flags.image_security) {
        let m = format!(
            "--image-security: invalid value {}",
            show(&flags.image_security)
        );
        return Err(bad(m, "write narrow, replace or ignore"));
    }
    host.privileged = flags.privileged;
    host.cap_add.clone_from(&flags.cap_add);
    host.cap_drop.clone_from(&flags.cap_drop);
    host.image_security.clone_from(&flags.image_security);
    host.sysctls = parse::full_pairs(&flags.sysctl, "sysctl")?;
    host.pid_mode.clone_from(&flags.pid);
    host.ipc_mode.clone_from(&flags.ipc);
    host.uts_mode.clone_from(&flags.uts);
    host.userns_mode.clone_from(&flags.userns);
    host.isolation.clone_from(&flags.isolation);
    host.cgroupns_mode.clone_from(&flags.cgroupns);
    for text in &flags.security_opt {
        security_option(host, text)?;
    }
    Ok(())
}

fn security_option(host: &mut HostConfig, text: &str) -> Result<()> {
    // Docker has the colon from its early days.
    let (key, value) = match text.split_once('=').or_else(|| text.split_once(':')) {
        Some(pair) => pair,
        None if text == "no-new-privileges" => (text, ""),
        None => {
            let m = format!("invalid --security-opt: \"{}\"", show(text));
            return Err(bad(m, "write KEY=VALUE"));
        }
    };
    match (key, value) {
        ("systempaths", "unconfined") => {
            host.masked_paths = Some(Vec::new());
            host.readonly_paths = Some(Vec::new());
        }
        ("seccomp", profile) if !matches!(profile, "unconfined" | "builtin") => {
            let json = read_profile(Path::new(profile)).map_err(|e| {
                e.context(format!(
                    "opening seccomp profile ({}) failed",
                    show(profile)
                ))
            })?;
            host.security_opt.push(format!("seccomp={json}"));
        }
        ("no-new-privileges", "") => host.security_opt.push(key.to_owned()),
        _ => host.security_opt.push(format!("{key}={value}")),
    }
    Ok(())
}

fn health(flags: &HealthFlags) -> Result<Option<Healthcheck>> {
    let times = [
        ("interval", &flags.health_interval),
        ("timeout", &flags.health_timeout),
        ("start-period", &flags.health_start_period),
        ("start-interval", &flags.health_start_interval),
    ];
    let any = flags.health_cmd.is_some()
        || flags.health_retries.is_some()
        || times.iter().any(|(_, t)| t.is_some());
    if flags.no_healthcheck {
        if any {
            let m = "--no-healthcheck conflicts with --health-* options";
            return Err(bad(m, "leave out one or the other"));
        }
        let test = vec!["NONE".to_owned()];
        return Ok(Some(Healthcheck {
            test,
            ..Healthcheck::default()
        }));
    }
    if !any {
        return Ok(None);
    }
    let mut nanoseconds = [0_i64; 4];
    for (at, (name, text)) in times.iter().enumerate() {
        if let Some(text) = text {
            nanoseconds[at] = go_duration(text)?;
        }
        if nanoseconds[at] < 0 {
            return Err(bad(
                format!("--health-{name} cannot be negative"),
                "write a time such as 30s",
            ));
        }
    }
    let retries = flags.health_retries.unwrap_or(0);
    if retries < 0 {
        return Err(bad(
            "--health-retries cannot be negative",
            "0 is the default of 3",
        ));
    }
    let command = flags.health_cmd.as_deref().filter(|c| !c.is_empty());
    let [interval, timeout, start_period, start_interval] = nanoseconds;
    Ok(Some(Healthcheck {
        test: command.map_or_else(Vec::new, |c| vec!["CMD-SHELL".to_owned(), c.to_owned()]),
        interval,
        timeout,
        start_period,
        start_interval,
        retries,
    }))
}

#[cfg(test)]
mod tests;
