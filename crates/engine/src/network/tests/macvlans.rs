//! Containers beside an interface of the host, whose other end stands for a network outside.

use std::net::IpAddr;

use super::*;
use crate::{error::Kind, network::Driver};

fn macvlan(name: &str, options: &[(&str, &str)]) -> NewNetwork {
    let own = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
    NewNetwork {
        driver: "macvlan".to_owned(),
        subnets: vec!["10.77.0.0/24".to_owned()],
        options: options.iter().map(own).collect(),
        ..called(name)
    }
}

#[test]
fn beside_an_interface_of_the_host() {
    isolated(|| {
        let link = ["link", "add", "p0", "type", "veth", "peer", "name", "p1"];
        run("ip", &link);
        // The network that the parent leads to, with a router that also serves.
        let world = World::new(&config::Network::default());
        let outside = world.dir.path().join("outside");
        netns::create(&outside).unwrap();
        let at = format!("--net={}", outside.display());
        run("ip", &["link", "set", "p0", "up"]);
        run("nsenter", &[&at, "ip", "link", "set", "lo", "up"]);
        let there = outside.to_str().unwrap();
        run("ip", &["link", "set", "p1", "netns", there]);
        run(
            "nsenter",
            &[&at, "ip", "addr", "add", "10.77.0.1/24", "dev", "p1"],
        );
        run("nsenter", &[&at, "ip", "link", "set", "p1", "up"]);
        serve(&outside, 80, "outside");
        let router: IpAddr = [10, 77, 0, 1].into();

        let nets = &world.networks;
        let made = nets
            .create(&macvlan("beside", &[("parent", "p0"), ("mtu", "1400")]))
            .unwrap();
        assert_eq!(
            (made.driver, &*made.interface, made.dns),
            (Driver::Macvlan, "p0", false)
        );
        let mut request = on("beside", &["8080:80"]);
        nets.check(&mut request).unwrap();
        let a = nets.attach(&who(A, "web"), &request).unwrap();
        let shown = &a.settings.networks["beside"];
        assert_eq!(shown.ip_address, "10.77.0.2");
        assert_eq!(shown.gateway, "10.77.0.1");
        assert_eq!((a.gateway, &a.dns), (None, &Dns::Filtered));
        let seen = inside(&world.netns(A), || run("ip", &["-d", "addr"]));
        for want in [
            "10.77.0.2/24",
            "mtu 1400",
            "macvlan mode bridge",
            &shown.mac_address,
        ] {
            assert!(seen.contains(want), "{want}: {seen}");
        }
        let route = inside(&world.netns(A), || run("ip", &["route"]));
        assert!(route.contains("default via 10.77.0.1"), "{route}");
        assert_eq!(
            inside(&world.netns(A), || ask((router, 80))).as_deref(),
            Some("outside")
        );

        // Ports are the container's own, and reached from outside and by its neighbours.
        assert!(
            a.held.is_empty() && a.settings.ports.values().all(Option::is_none),
            "{:?}",
            a.settings
        );
        serve(&world.netns(A), 80, "web");
        let web: IpAddr = [10, 77, 0, 2].into();
        assert_eq!(inside(&outside, || ask((web, 80))).as_deref(), Some("web"));
        let b = nets.attach(&who(B, "other"), &on("beside", &[])).unwrap();
        assert_eq!(b.settings.networks["beside"].ip_address, "10.77.0.3");
        assert_eq!(
            inside(&world.netns(B), || ask((web, 80))).as_deref(),
            Some("web")
        );

        nets.detach(A).unwrap();
        nets.detach(B).unwrap();
        nets.remove("beside").unwrap();
        // The parent is the host's.
        assert!(run("ip", &["-o", "link"]).contains("p0@"));
        run("ip", &["link", "delete", "p0"]);
        netns::remove(&outside).unwrap();
        world.assert_clean();
    });
}

#[test]
fn a_container_in_a_bridge_too() {
    isolated(|| {
        run(
            "ip",
            &["link", "add", "p0", "type", "veth", "peer", "name", "p1"],
        );
        run("ip", &["link", "set", "p0", "up"]);
        run("ip", &["link", "set", "p1", "up"]);
        let world = World::new(&config::Network::default());
        let nets = &world.networks;
        nets.create(&macvlan(
            "beside",
            &[("parent", "p0"), ("macvlan_mode", "private")],
        ))
        .unwrap();
        let mut request = on("beside", &["127.0.0.1::80"]);
        request
            .networks
            .insert("bridge".to_owned(), Default::default());
        nets.check(&mut request).unwrap();
        let a = nets.attach(&who(A, "web"), &request).unwrap();
        assert_eq!(a.settings.networks.len(), 2);
        let bridge = nets.find("bridge").unwrap();
        assert_eq!(a.gateway, Some(bridge.subnets[0].gateway));
        let seen = inside(&world.netns(A), || run("ip", &["-d", "link"]));
        assert!(seen.contains("macvlan mode private"), "{seen}");
        // Ports are published through the bridge.
        serve(&world.netns(A), 80, "web");
        let port = a.settings.ports["80/tcp"].as_ref().unwrap()[0]
            .host_port
            .parse()
            .unwrap();
        let here: IpAddr = [127, 0, 0, 1].into();
        assert_eq!(ask((here, port)).as_deref(), Some("web"));
        nets.disconnect(A, "beside").unwrap();
        assert_eq!(ask((here, port)).as_deref(), Some("web"));
        // The parent may go first.
        nets.connect(&who(A, "web"), "beside", &Default::default())
            .unwrap();
        run("ip", &["link", "delete", "p0"]);
        nets.detach(A).unwrap();
        nets.remove("beside").unwrap();
        world.assert_clean();
    });
}

#[test]
fn what_is_refused() {
    isolated(|| {
        run(
            "ip",
            &["link", "add", "p0", "type", "veth", "peer", "name", "p1"],
        );
        let world = World::new(&config::Network::default());
        let nets = &world.networks;
        let fails = |name: &str, options: &[(&str, &str)]| {
            let e = nets.create(&macvlan(name, options)).unwrap_err();
            (e.kind(), e.message().to_owned())
        };
        use Kind::{BadInput, Conflict, NotFound, Unsupported};
        let m = "a macvlan network needs an interface of the host as its parent";
        assert_eq!(fails("a", &[]), (BadInput, m.to_owned()));
        let m = "the parent p7 is no interface of this host";
        assert_eq!(fails("a", &[("parent", "p7")]), (NotFound, m.to_owned()));
        let m = "network option `parent` cannot be `../x`";
        assert_eq!(fails("a", &[("parent", "../x")]), (BadInput, m.to_owned()));
        let m = "network option `macvlan_mode` cannot be `x`";
        assert_eq!(
            fails("a", &[("parent", "p0"), ("macvlan_mode", "x")]),
            (BadInput, m.to_owned())
        );
        let m = "network option `isolate` is not supported";
        assert_eq!(
            fails("a", &[("isolate", "true")]),
            (Unsupported, m.to_owned())
        );
        nets.create(&macvlan("a", &[("parent", "p0")])).unwrap();
        let m = "network a has the interface p0";
        let other = NewNetwork {
            subnets: vec!["10.78.0.0/24".into()],
            ..macvlan("b", &[("parent", "p0")])
        };
        let e = nets.create(&other).unwrap_err();
        assert_eq!((e.kind(), e.message()), (Conflict, m));
        nets.remove("a").unwrap();
    });
}
