//! With the kernel's namespaces and the real netavark, in a network of the test's own.

use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::*;
use crate::{
    error::Kind,
    spec::request::{EndpointIpam, EndpointSettings, Request},
    store::{Store, StoreOptions},
    sys,
};

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

struct World {
    dir: tempfile::TempDir,
    networks: Networks,
}

impl World {
    fn new(config: &config::Network) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&StoreOptions::new(dir.path().join("root"), "copy")).unwrap();
        let networks = Networks::new(&store, &dir.path().join("run"), config);
        Self { dir, networks }
    }

    fn netns(&self, id: &str) -> std::path::PathBuf {
        self.dir.path().join("run/netns").join(id)
    }

    /// Nothing of any container is left, neither here nor in the kernel.
    fn assert_clean(&self) {
        let list = |dir: &str| -> Vec<String> {
            let dir = self.dir.path().join("run").join(dir);
            let entries = fs::read_dir(dir).map(|d| {
                d.map(|e| e.unwrap().file_name().into_string().unwrap())
                    .filter(|n| n != "lock")
                    .collect()
            });
            entries.unwrap_or_default()
        };
        assert!(list("netns").is_empty(), "{:?}", list("netns"));
        assert!(list("network").is_empty(), "{:?}", list("network"));
        let store = &self.networks.store;
        assert!(
            store
                .read_networks(|tx| tx.containers())
                .unwrap()
                .is_empty()
        );
        let links = run("ip", &["-o", "link"]);
        assert!(
            !links.contains("veth") && !links.contains("unlade0"),
            "{links}"
        );
        for table in ["nat", "filter"] {
            let rules = run("iptables", &["-t", table, "-S"]);
            assert!(!rules.contains("dnat name"), "{rules}");
            assert!(
                !rules.contains("MASQUERADE") || !rules.contains("-s 172."),
                "{rules}"
            );
        }
    }
}

fn who<'a>(id: &'a str, name: &'a str) -> Member<'a> {
    Member {
        id,
        name,
        hostname: name,
        other: None,
    }
}

fn on(network: &str, published: &[&str]) -> Request {
    let mut request = Request::default();
    network.clone_into(&mut request.host_config.network_mode);
    let published: Vec<String> = published.iter().map(|p| (*p).to_owned()).collect();
    ports::publish(&published, &[], &mut request).unwrap();
    request
}

fn run(program: &str, args: &[&str]) -> String {
    let out = Command::new(program)
        .args(args)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .unwrap();
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn has(program: &str) -> bool {
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .any(|d| Path::new(d).join(program).exists())
}

/// Runs a test in a network namespace that stands for the host's.
fn isolated(test: impl FnOnce() + Send + 'static) {
    let root = rustix::process::geteuid().is_root();
    let programs = netavark::Programs::new(&config::Network::default());
    for (there, what) in [
        (root, "only root can make network namespaces"),
        (programs.netavark().is_ok(), "netavark is not installed"),
        (
            programs.aardvark_dns().is_ok(),
            "aardvark-dns is not installed",
        ),
        (
            has("ip") && has("iptables"),
            "iproute2 or iptables is not installed",
        ),
    ] {
        if !there {
            eprintln!("skipped: {what}");
            return;
        }
    }
    let host = thread::spawn(move || {
        sys::unshare_network().unwrap();
        run("ip", &["link", "set", "lo", "up"]);
        test();
    });
    if let Err(e) = host.join() {
        std::panic::resume_unwind(e);
    }
}

/// Does `f` in a container's network.
fn inside<T: Send>(netns: &Path, f: impl FnOnce() -> T + Send) -> T {
    let file = fs::File::open(netns).unwrap();
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            use std::os::fd::AsFd;
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            f()
        });
        thread.join().unwrap()
    })
}

/// A server in a container that tells its name.
fn serve(netns: &Path, port: u16, name: &'static str) {
    let listener = inside(netns, || TcpListener::bind(("0.0.0.0", port)).unwrap());
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(name.as_bytes());
        }
    });
}

fn ask(address: impl Into<SocketAddr>) -> Option<String> {
    let time = Duration::from_millis(700);
    let mut stream = TcpStream::connect_timeout(&address.into(), time).ok()?;
    stream.set_read_timeout(Some(time)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

/// Asks a name server for an IPv4 address, as a container does.
fn resolve(netns: &Path, server: IpAddr, name: &str) -> Option<IpAddr> {
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    query.push(u8::try_from(name.len()).unwrap());
    query.extend(name.bytes());
    query.extend([0, 0, 1, 0, 1]);
    inside(netns, || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let time = Some(Duration::from_secs(1));
        socket.set_read_timeout(time).unwrap();
        for _ in 0..5 {
            socket.send_to(&query, (server, 53)).unwrap();
            let mut answer = [0; 512];
            let Ok(len) = socket.recv(&mut answer) else {
                thread::sleep(Duration::from_millis(100));
                continue;
            };
            let found = answer[7] > 0 && answer[3] & 15 == 0;
            let tail: [u8; 4] = answer[len - 4..len].try_into().unwrap();
            return found.then(|| IpAddr::from(tail));
        }
        None
    })
}

#[test]
fn the_default_bridge_with_ports() {
    isolated(|| {
        let world = World::new(&config::Network::default());
        let nets = &world.networks;
        let mut request = on("default", &["80", "127.0.0.1:0:81/udp", "127.0.0.1::80"]);
        nets.check(&mut request).unwrap();
        let a = nets.attach(&who(A, "web"), &request).unwrap();
        let shown = &a.settings;
        let bridge = nets.find("bridge").unwrap();
        let subnet = bridge.subnets[0].subnet;
        assert_eq!(bridge.interface, "unlade0");
        assert_eq!(shown.ip_address, subnet.nth(2).unwrap().to_string());
        assert_eq!(shown.gateway, subnet.nth(1).unwrap().to_string());
        assert_eq!(shown.networks["bridge"].ip_address, shown.ip_address);
        assert!(shown.mac_address.starts_with("02:42:"), "{shown:?}");
        assert_eq!(a.dns, Dns::Filtered);
        let netns = world.netns(A);
        assert_eq!(a.ns, crate::spec::Ns::Path(netns.clone()));
        let seen = inside(&netns, || run("ip", &["addr"]));
        assert!(seen.contains(&format!("{}/16", shown.ip_address)), "{seen}");
        assert!(seen.contains(&shown.mac_address), "{seen}");

        // From the host by loopback and by the bridge's address.
        serve(&netns, 80, "web");
        let port: u16 = shown.ports["80/tcp"].as_ref().unwrap()[0]
            .host_port
            .parse()
            .unwrap();
        let gateway: IpAddr = shown.gateway.parse().unwrap();
        for at in [IpAddr::from([127, 0, 0, 1]), gateway] {
            assert_eq!(ask((at, port)).as_deref(), Some("web"), "{at}");
        }
        assert_eq!(
            shown.ports["81/udp"].as_ref().unwrap()[0].host_ip,
            "127.0.0.1"
        );
        // Nobody else gets the port, and another container is told who has it.
        assert!(TcpListener::bind(("0.0.0.0", port)).is_err());
        let clash = on("bridge", &[&format!("{port}:9")]);
        let e = nets.attach(&who(B, "other"), &clash).unwrap_err();
        assert_eq!(e.kind(), Kind::Conflict);
        let want = format!("Bind for 0.0.0.0:{port}/tcp failed: port is already allocated");
        assert_eq!(e.message(), want);
        assert_eq!(e.hint(), Some("container aaaaaaaaaaaa has it"));
        assert!(!world.netns(B).exists());
        let e = nets
            .attach(&who(B, "other"), &on("bridge", &["[::1]::80"]))
            .unwrap_err();
        assert_eq!(e.kind(), Kind::Unsupported);

        // Neighbours reach each other.
        let b = nets.attach(&who(B, "other"), &on("bridge", &[])).unwrap();
        assert_eq!(b.settings.ip_address, subnet.nth(3).unwrap().to_string());
        let web: IpAddr = shown.ip_address.parse().unwrap();
        assert_eq!(
            inside(&world.netns(B), || ask((web, 80))).as_deref(),
            Some("web")
        );
        // Through the published port as well.
        let there = inside(&world.netns(B), || ask((gateway, port)));
        assert_eq!(there.as_deref(), Some("web"));
        assert_eq!(nets.members(&bridge).unwrap().len(), 2);
        assert_eq!(nets.attached(A).unwrap().unwrap().settings, *shown);

        nets.detach(A).unwrap();
        nets.detach(A).unwrap();
        drop(a);
        assert!(ask((IpAddr::from([127, 0, 0, 1]), port)).is_none());
        assert!(nets.attached(A).unwrap().is_none());
        nets.detach(B).unwrap();
        world.assert_clean();
    });
}

#[test]
fn names_resolve_and_networks_are_apart() {
    isolated(|| {
        let world = World::new(&config::Network::default());
        let nets = &world.networks;
        let new = |name: &str| NewNetwork {
            name: name.to_owned(),
            ..NewNetwork::default()
        };
        let one = nets.create(&new("one")).unwrap();
        nets.create(&new("two")).unwrap();
        let mut request = on("one", &[]);
        let place = EndpointSettings {
            aliases: vec!["store".to_owned()],
            ..EndpointSettings::default()
        };
        request.networks.insert("one".to_owned(), place);
        nets.check(&mut request).unwrap();
        let db = nets.attach(&who(A, "db"), &request).unwrap();
        let web = nets.attach(&who(B, "web"), &on("one", &[])).unwrap();
        let Dns::Servers(servers) = &web.dns else {
            panic!("{:?}", web.dns)
        };
        let address: IpAddr = db.settings.networks["one"].ip_address.parse().unwrap();
        for name in ["db", "store", &A[..12]] {
            assert_eq!(
                resolve(&world.netns(B), servers[0], name),
                Some(address),
                "{name}"
            );
        }
        assert_eq!(
            db.settings.networks["one"].dns_names.as_ref().unwrap()[..2],
            ["db", "store"]
        );
        // The network cannot go while they are in it.
        let e = nets.remove("one").unwrap_err();
        assert!(e.message().contains("has active endpoints: db, web"), "{e}");
        nets.detach(B).unwrap();

        // Another network cannot be reached, until it is joined.
        serve(&world.netns(A), 80, "db");
        nets.attach(&who(B, "web"), &on("two", &[])).unwrap();
        assert_eq!(inside(&world.netns(B), || ask((address, 80))), None);
        let joined = nets
            .connect(&who(B, "web"), &one.id[..12], &EndpointSettings::default())
            .unwrap();
        assert_eq!(joined.settings.networks.len(), 2);
        assert_eq!(joined.joined[1].endpoint.interface, "eth1");
        assert_eq!(
            inside(&world.netns(B), || ask((address, 80))).as_deref(),
            Some("db")
        );
        // What was there first stays the way out.
        let routes = inside(&world.netns(B), || {
            run("ip", &["route", "get", "192.0.2.1"])
        });
        assert!(routes.contains("dev eth0"), "{routes}");
        let e = nets
            .connect(&who(B, "web"), "one", &EndpointSettings::default())
            .unwrap_err();
        assert_eq!(e.kind(), Kind::Conflict);
        let left = nets.disconnect(B, "one").unwrap().unwrap();
        assert_eq!(left.settings.networks.keys().collect::<Vec<_>>(), ["two"]);
        assert_eq!(inside(&world.netns(B), || ask((address, 80))), None);
        assert_eq!(
            nets.disconnect(B, "one").unwrap_err().kind(),
            Kind::NotFound
        );
        nets.detach(A).unwrap();
        nets.detach(B).unwrap();
        assert_eq!(nets.prune(&|_| Ok(true)).unwrap(), ["one", "two"]);
        world.assert_clean();
    });
}

#[test]
fn addresses_as_asked() {
    isolated(|| {
        let world = World::new(&config::Network::default());
        let nets = &world.networks;
        let new = NewNetwork {
            name: "dual".to_owned(),
            subnets: vec!["10.77.0.0/24".to_owned(), "fd77::/64".to_owned()],
            gateways: vec!["10.77.0.254".to_owned()],
            ranges: vec!["10.77.0.128/25".to_owned()],
            internal: true,
            no_dns: true,
            options: [("mtu".to_owned(), "1400".to_owned())].into(),
            ..NewNetwork::default()
        };
        let made = nets.create(&new).unwrap();
        assert!(made.ipv6 && made.internal);
        let overlapping = NewNetwork {
            name: "again".to_owned(),
            subnets: vec!["10.77.0.0/16".to_owned()],
            ..NewNetwork::default()
        };
        let e = nets.create(&overlapping).unwrap_err();
        assert!(e.message().starts_with("Pool overlaps"), "{e}");
        let mut request = on("dual", &[]);
        let place = EndpointSettings {
            ipam_config: Some(EndpointIpam {
                ipv4: "10.77.0.9".to_owned(),
                ipv6: "fd77::9".to_owned(),
            }),
            mac_address: "02:00:00:00:00:09".to_owned(),
            ..EndpointSettings::default()
        };
        request.networks.insert("dual".to_owned(), place);
        nets.check(&mut request).unwrap();
        let a = nets.attach(&who(A, "a"), &request).unwrap();
        assert_eq!(a.settings.networks["dual"].global_ipv6_address, "fd77::9");
        let seen = inside(&world.netns(A), || run("ip", &["addr"]));
        for part in [
            "10.77.0.9/24",
            "fd77::9/64",
            "02:00:00:00:00:09",
            "mtu 1400",
        ] {
            assert!(seen.contains(part), "{part}: {seen}");
        }
        let routes = inside(&world.netns(A), || run("ip", &["route"]));
        assert!(!routes.contains("default"), "{routes}");
        let e = nets.attach(&who(B, "b"), &request).unwrap_err();
        assert_eq!(e.message(), "Address already in use: 10.77.0.9");
        let b = nets.attach(&who(B, "b"), &on("dual", &[])).unwrap();
        assert_eq!(b.settings.networks["dual"].ip_address, "10.77.0.128");
        nets.detach(A).unwrap();
        nets.detach(B).unwrap();
        nets.remove(&made.id[..6]).unwrap();
        world.assert_clean();
    });
}

#[test]
fn what_a_kill_leaves_is_removed() {
    isolated(|| {
        let world = World::new(&config::Network::default());
        let nets = &world.networks;
        let published = on("bridge", &["80"]);
        nets.predefine().unwrap();
        let alive = |_: &str| Ok(true);
        let dead = |_: &str| Ok(false);
        // After each of the steps of an attachment.
        for step in 0..4 {
            let netns = world.netns(A);
            if step == 3 {
                nets.attach(&who(A, "a"), &published).unwrap();
                // And the namespace went on its own.
                netns::remove(&netns).unwrap();
            } else {
                let (state, _) = nets.take(&who(A, "a"), &published).unwrap();
                if step > 0 {
                    nets.places.write(&state).unwrap();
                }
                if step > 1 {
                    netns::create(&netns).unwrap();
                }
            }
            let swept = nets.sweep(&alive).unwrap();
            assert!(swept.detached.is_empty() && swept.forgotten.is_empty());
            let swept = nets.sweep(&dead).unwrap();
            let all = [swept.detached, swept.forgotten].concat();
            assert_eq!(all, [A], "{step}");
            world.assert_clean();
        }
        // A namespace without a state, and one that was not mounted yet.
        netns::create(&world.netns(A)).unwrap();
        fs::write(world.netns(B), "").unwrap();
        // While somebody attaches, nothing is swept.
        let lock = nets.places.lock(false).unwrap();
        assert!(nets.sweep(&dead).unwrap().detached.is_empty());
        drop(lock);
        assert_eq!(nets.sweep(&dead).unwrap().detached, [A, B]);
        world.assert_clean();
        // What a run has left is no obstacle to the next.
        nets.attach(&who(A, "a"), &published).unwrap();
        nets.attach(&who(A, "a"), &published).unwrap();
        nets.detach(A).unwrap();
        world.assert_clean();
    });
}

#[test]
fn a_netavark_that_fails_leaves_nothing() {
    isolated(|| {
        let bin = tempfile::tempdir().unwrap();
        let script = bin.path().join("netavark");
        fs::write(
            &script,
            "#!/bin/sh\necho '{\"error\":\"no bridges today\"}'\nexit 1\n",
        )
        .unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&script, mode).unwrap();
        for (path, want) in [
            (script, "network bridge: netavark setup: no bridges today"),
            (
                "/nonexistent".into(),
                "which connects containers to networks, `/nonexistent` is not",
            ),
        ] {
            let world = World::new(&config::Network {
                netavark: Some(path),
                ..config::Network::default()
            });
            let nets = &world.networks;
            let e = nets
                .attach(&who(A, "a"), &on("bridge", &["80"]))
                .unwrap_err();
            assert!(e.message().contains(want) && e.hint().is_some(), "{e:?}");
            assert_eq!(e.kind(), Kind::Host);
            world.assert_clean();
        }
        let world = World::new(&config::Network {
            aardvark_dns: Some("/nonexistent".into()),
            ..config::Network::default()
        });
        let nets = &world.networks;
        let new = NewNetwork {
            name: "mine".to_owned(),
            ..NewNetwork::default()
        };
        nets.create(&new).unwrap();
        let e = nets.attach(&who(A, "a"), &on("mine", &[])).unwrap_err();
        assert!(e.message().contains("aardvark-dns"), "{e}");
        world.assert_clean();
        // Networks without names do without it.
        nets.attach(&who(A, "a"), &on("bridge", &[])).unwrap();
        nets.detach(A).unwrap();
        world.assert_clean();
    });
}

#[test]
fn modes_without_a_bridge() {
    let world = World::new(&config::Network {
        netavark: Some("/nonexistent".into()),
        ..config::Network::default()
    });
    let nets = &world.networks;
    let none = nets.attach(&who(A, "a"), &on("none", &[])).unwrap();
    assert!(none.ns == crate::spec::Ns::New && none.held.is_empty());
    let host = nets.attach(&who(A, "a"), &on("host", &["80:80"])).unwrap();
    assert!(host.ns == crate::spec::Ns::Host && host.dns == Dns::Host);
    assert_eq!(host.settings.networks.keys().collect::<Vec<_>>(), ["host"]);
    let mut other = who(A, "a");
    assert!(nets.attach(&other, &on("container:x", &[])).is_err());
    other.other = Some((B, 7));
    let joined = nets.attach(&other, &on("container:x", &[])).unwrap();
    assert_eq!(joined.ns, crate::spec::Ns::Path("/proc/7/ns/net".into()));
    // None of them has left anything, not even a table row.
    assert!(!world.dir.path().join("run").exists());
    for (mode, with) in [("none", "one"), ("host", "one"), ("container:x", "one")] {
        let mut request = on(mode, &[]);
        let place = EndpointSettings::default();
        request.networks.insert(with.to_owned(), place);
        assert!(nets.check(&mut request).is_err(), "{mode}");
    }
    let e = nets.check(&mut on("nowhere", &[])).unwrap_err();
    assert_eq!(e.message(), "network nowhere not found");
    let e = nets.check(&mut on("host", &[])).map(|()| 0);
    assert_eq!(e.unwrap(), 0);
    // Only on networks of one's own.
    let mut request = on("bridge", &[]);
    let place = EndpointSettings {
        aliases: vec!["x".to_owned()],
        ..EndpointSettings::default()
    };
    request.networks.insert("bridge".to_owned(), place);
    let e = nets.check(&mut request).unwrap_err();
    assert!(e.message().contains("user defined networks only"), "{e}");
}

#[test]
fn networks_come_and_go() {
    let world = World::new(&config::Network::default());
    let nets = &world.networks;
    let names =
        |n: &Networks| -> Vec<String> { n.list().unwrap().into_iter().map(|n| n.name).collect() };
    assert_eq!(names(nets), ["bridge", "host", "none"]);
    let new = NewNetwork {
        name: "mine".to_owned(),
        labels: [("a".to_owned(), "b".to_owned())].into(),
        ..NewNetwork::default()
    };
    let made = nets.create(&new).unwrap();
    assert_eq!(made.interface, format!("ul-{}", &made.id[..12]));
    assert!(made.dns && made.subnets.len() == 1);
    assert_eq!(nets.find(&made.id).unwrap(), made);
    let e = nets.create(&new).unwrap_err();
    assert_eq!(e.message(), "network with name mine already exists");
    for name in ["bridge", "host", "none", "default"] {
        let new = NewNetwork {
            name: name.to_owned(),
            ..NewNetwork::default()
        };
        assert_eq!(nets.create(&new).unwrap_err().kind(), Kind::Denied);
    }
    assert_eq!(nets.remove("bridge").unwrap_err().kind(), Kind::Denied);
    let change = |f: fn(&mut NewNetwork)| {
        let mut new = NewNetwork {
            name: "other".to_owned(),
            ..NewNetwork::default()
        };
        f(&mut new);
        nets.create(&new).unwrap_err().kind()
    };
    use Kind::{BadInput, Unsupported};
    let own = |s: &str| s.to_owned();
    let _ = own;
    assert_eq!(change(|n| n.name = "a/b".into()), BadInput);
    assert_eq!(change(|n| n.name = "-x".into()), BadInput);
    assert_eq!(change(|n| n.driver = "macvlan".into()), Unsupported);
    assert_eq!(change(|n| n.subnets = vec!["10.0.0.0".into()]), BadInput);
    assert_eq!(change(|n| n.subnets = vec!["127.0.0.0/8".into()]), BadInput);
    assert_eq!(change(|n| n.gateways = vec!["10.0.0.1".into()]), BadInput);
    let two = |n: &mut NewNetwork| n.subnets = vec!["10.8.0.0/16".into(), "10.9.0.0/16".into()];
    assert_eq!(change(two), Unsupported);
    let beyond = |n: &mut NewNetwork| {
        n.subnets = vec!["10.8.0.0/16".into()];
        n.ranges = vec!["10.8.0.0/15".into()];
    };
    assert_eq!(change(beyond), BadInput);
    let nonsense = |n: &mut NewNetwork| drop(n.options.insert("x".into(), "y".into()));
    assert_eq!(change(nonsense), Unsupported);
    let icc = |n: &mut NewNetwork| {
        let key = "com.docker.network.bridge.enable_icc";
        n.options.insert(key.into(), "false".into());
    };
    assert_eq!(change(icc), BadInput);
    assert_eq!(nets.prune(&|n| Ok(n.labels.is_empty())).unwrap(), [""; 0]);
    assert_eq!(nets.remove("mine").unwrap().id, made.id);
    assert_eq!(nets.remove("mine").unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn many_at_once() {
    isolated(|| {
        let world = World::new(&config::Network::default());
        let nets = &world.networks;
        let new = NewNetwork {
            name: "mine".to_owned(),
            ..NewNetwork::default()
        };
        nets.create(&new).unwrap();
        let ids: Vec<String> = (0..16).map(|n| format!("{n:064x}")).collect();
        let each = |f: &(dyn Fn(&str) + Sync)| {
            thread::scope(|scope| {
                for id in &ids {
                    scope.spawn(move || f(id));
                }
            });
        };
        each(&|id| {
            let network = if id.ends_with(['0', '1', '2', '3']) {
                "mine"
            } else {
                "bridge"
            };
            let name = &id[48..];
            nets.attach(&who(id, name), &on(network, &["80", "81/udp"]))
                .unwrap();
        });
        for (network, want) in [("mine", 4), ("bridge", 12)] {
            let members = nets.members(&nets.find(network).unwrap()).unwrap();
            let all: std::collections::BTreeSet<_> =
                members.iter().flat_map(|m| &m.addresses).collect();
            assert_eq!((members.len(), all.len()), (want, want));
        }
        // Each is reached by its port.
        for id in &ids {
            let state = nets.attached(id).unwrap().unwrap();
            serve(&world.netns(id), 80, "here");
            let tcp = state.ports.iter().find(|p| p.protocol == "tcp").unwrap();
            let at = (IpAddr::from([127, 0, 0, 1]), tcp.host_port);
            assert_eq!(ask(at).as_deref(), Some("here"), "{id}");
        }
        each(&|id| nets.detach(id).unwrap());
        world.assert_clean();
    });
}

/// What [`a_killed_command_is_undone`] starts and kills; by itself it does nothing.
#[test]
fn attached_and_killed() {
    let Ok(dir) = std::env::var("UNLADE_TEST_ATTACH") else {
        return;
    };
    let dir = Path::new(&dir);
    let store = Store::open(&StoreOptions::new(dir.join("root"), "copy")).unwrap();
    let config = config::Network {
        netavark: Some(dir.join("netavark")),
        ..config::Network::default()
    };
    let networks = Networks::new(&store, &dir.join("run"), &config);
    let done = networks.attach(&who(A, "a"), &on("mine", &["80"]));
    panic!("it was not killed: {done:?}");
}

#[test]
fn a_killed_command_is_undone() {
    isolated(|| {
        let world = World::new(&config::Network::default());
        let nets = &world.networks;
        let new = NewNetwork {
            name: "mine".to_owned(),
            ..NewNetwork::default()
        };
        nets.create(&new).unwrap();
        let programs = netavark::Programs::new(&config::Network::default());
        let real = programs.netavark().unwrap();
        let (script, mark) = (
            world.dir.path().join("netavark"),
            world.dir.path().join("mark"),
        );
        let slow = format!(
            "echo $$ > {0}.new; mv {0}.new {0}; sleep 100",
            mark.display()
        );
        // Before netavark has done anything, and after all that it does.
        for before in [true, false] {
            let all = format!("{} \"$@\" > /dev/null", real.display());
            let text = if before {
                format!("{slow}; {all}")
            } else {
                format!("{all}; {slow}")
            };
            fs::write(&script, format!("#!/bin/sh\n{text}\n")).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(&script, mode).unwrap();
            let mut command = Command::new(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    "network::tests::attached_and_killed",
                    "--nocapture",
                ])
                .env("UNLADE_TEST_ATTACH", world.dir.path())
                .spawn()
                .unwrap();
            while !mark.exists() {
                assert!(command.try_wait().unwrap().is_none(), "it has ended");
                thread::sleep(Duration::from_millis(10));
            }
            let pid = fs::read_to_string(&mark).unwrap();
            fs::remove_file(&mark).unwrap();
            assert!(world.netns(A).exists());
            // It is at work, and so nobody sweeps.
            assert!(nets.sweep(&|_| Ok(false)).unwrap().detached.is_empty());
            command.kill().unwrap();
            command.wait().unwrap();
            let path = format!("/proc/{}/status", pid.trim());
            let gone = (0..200).any(|_| {
                thread::sleep(Duration::from_millis(10));
                let text = fs::read_to_string(&path).unwrap_or_default();
                text.is_empty() || text.contains("State:\tZ")
            });
            assert!(gone, "netavark goes on");
            assert_eq!(nets.sweep(&|_| Ok(false)).unwrap().detached, [A]);
            world.assert_clean();
            let left = fs::read_dir(world.dir.path().join("run/netavark/aardvark-dns"));
            let left = left.map(|d| d.flatten().map(|e| e.file_name()).collect::<Vec<_>>());
            assert!(left.as_ref().is_ok_and(|l| l.is_empty()), "{left:?}");
        }
        nets.remove("mine").unwrap();
    });
}
