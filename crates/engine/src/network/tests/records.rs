//! What needs no bridge: other modes, and networks as they are recorded.

use super::*;
use crate::{error::Kind, spec::request::EndpointSettings};

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
        assert_eq!(nets.create(&called(name)).unwrap_err().kind(), Kind::Denied);
    }
    assert_eq!(nets.remove("bridge").unwrap_err().kind(), Kind::Denied);
    let change = |f: fn(&mut NewNetwork)| {
        let mut new = called("other");
        f(&mut new);
        nets.create(&new).unwrap_err().kind()
    };
    use Kind::{BadInput, Unsupported};
    assert_eq!(change(|n| n.name = "a/b".into()), BadInput);
    assert_eq!(change(|n| n.name = "-x".into()), BadInput);
    assert_eq!(change(|n| n.driver = "overlay".into()), Unsupported);
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
