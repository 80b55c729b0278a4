//! Containers in bridges: their ports, names and addresses.

use std::{
    net::{IpAddr, TcpListener},
    thread,
};

use super::*;
use crate::{
    error::Kind,
    spec::request::{EndpointIpam, EndpointSettings},
};

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
fn the_default_bridge_stays() {
    isolated(|| {
        let world = World::new(&config::Network {
            keep_bridge: Some(true),
            ..config::Network::default()
        });
        let nets = &world.networks;
        let links = || run("ip", &["-o", "link"]);
        let rules = || run("iptables", &["-t", "nat", "-S"]);
        let plain = on("default", &[]);
        let mut first = None;
        for _ in 0..2 {
            let a = nets.attach(&who(A, "web"), &plain).unwrap();
            let netns = world.netns(A);
            serve(&netns, 80, "web");
            // The same place again, which the host reaches.
            let address: IpAddr = a.settings.ip_address.parse().unwrap();
            assert_eq!(*first.get_or_insert(address), address);
            assert_eq!(ask((address, 80)).as_deref(), Some("web"));
            nets.detach(A).unwrap();
            assert!(!netns.exists() && nets.attached(A).unwrap().is_none());
            assert!(links().contains("unlade0"), "{}", links());
            assert!(rules().contains("-s 172.17.0.0/16"), "{}", rules());
        }
        // What is one container's alone goes with it.
        let a = nets
            .attach(&who(A, "web"), &on("default", &["80"]))
            .unwrap();
        assert!(rules().contains("--to-destination"), "{}", rules());
        nets.detach(A).unwrap();
        drop(a);
        assert!(!rules().contains("--to-destination"), "{}", rules());
        // So do other networks.
        nets.create(&called("mine")).unwrap();
        nets.attach(&who(A, "web"), &on("mine", &[])).unwrap();
        nets.detach(A).unwrap();
        world.assert_clean();
    });
}

#[test]
fn names_resolve_and_networks_are_apart() {
    isolated(|| {
        let world = World::new(&config::Network::default());
        let nets = &world.networks;
        let one = nets.create(&called("one")).unwrap();
        nets.create(&called("two")).unwrap();
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
fn many_at_once() {
    isolated(|| {
        let world = World::new(&config::Network::default());
        let nets = &world.networks;
        nets.create(&called("mine")).unwrap();
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
