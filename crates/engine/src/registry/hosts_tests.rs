use std::fs;

use super::*;

fn config() -> RegistryConfig {
    RegistryConfig::isolated()
}

fn list(config: &RegistryConfig, name: &str, purpose: Purpose) -> Vec<String> {
    let hosts = Hosts::read(config).unwrap();
    let reference = Reference::parse(name).unwrap();
    let all = hosts.endpoints(config, &reference, purpose).unwrap();
    all.iter().map(|e| format!("{e:?}")).collect()
}

#[test]
fn without_any_rules() {
    let mut c = config();
    c.insecure = vec![
        "lab.example:5000".into(),
        "10.0.0.0/8".into(),
        "old.example".into(),
    ];
    for (name, want) in [
        ("alpine", "https://registry-1.docker.io/v2/library/alpine"),
        ("quay.io/a/b", "https://quay.io/v2/a/b"),
        ("localhost:5000/x", "http|https://localhost:5000/v2/x"),
        ("127.0.0.2/x", "http|https://127.0.0.2/v2/x"),
        ("[::1]:5000/x", "http|https://[::1]:5000/v2/x"),
        (
            "lab.example:5000/x",
            "https|http://lab.example:5000/v2/x (unverified)",
        ),
        ("lab.example/x", "https://lab.example/v2/x"),
        (
            "old.example:7/x",
            "https|http://old.example:7/v2/x (unverified)",
        ),
        ("10.9.8.7:5/x", "https|http://10.9.8.7:5/v2/x (unverified)"),
        ("11.9.8.7:5/x", "https://11.9.8.7:5/v2/x"),
    ] {
        assert_eq!(list(&c, name, Purpose::Pull), [want], "{name}");
    }
}

#[test]
fn networks() {
    let is = |entry: &str, host: &str| is_listed(&[entry.to_owned()], host);
    assert!(is("10.0.0.0/8", "10.255.1.2:5000") && !is("10.0.0.0/8", "11.0.0.1"));
    assert!(is("fd00::/8", "[fd12::1]:5000") && !is("fd00::/8", "[fe00::1]"));
    assert!(is("0.0.0.0/0", "8.8.8.8") && !is("0.0.0.0/0", "h.io"));
    assert!(!is("10.0.0.0/33", "10.0.0.0") && !is("10.0.0.0/x", "10.0.0.0"));
    assert!(is("h.io", "H.io:5") && is("h.io:5", "h.io:5") && !is("h.io:5", "h.io:6"));
    assert!(is("[::1]:5", "[::1]:5") && !is("[::1]:5", "[::1]:6") && is("::1", "[::1]:6"));
}

#[test]
fn dockers_mirrors_are_for_the_hub_alone() {
    let mut c = config();
    c.mirrors = vec![
        "https://mirror.example".into(),
        "http://10.0.0.1:5000/hub/".into(),
    ];
    let hub = "https://registry-1.docker.io/v2/library/alpine";
    assert_eq!(
        list(&c, "alpine", Purpose::Resolve),
        [
            "https://mirror.example/v2/library/alpine (mirror)",
            "http://10.0.0.1:5000/hub/v2/library/alpine (mirror)",
            hub,
        ]
    );
    assert_eq!(list(&c, "alpine", Purpose::Push), [hub]);
    assert_eq!(list(&c, "quay.io/x", Purpose::Pull).len(), 1);
    c.mirrors = vec!["ftp://x".into()];
    let hosts = Hosts::read(&c).unwrap();
    let alpine = Reference::parse("alpine").unwrap();
    assert!(hosts.endpoints(&c, &alpine, Purpose::Pull).is_err());
}

#[test]
fn hosts_toml_in_the_order_written() {
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("docker.io");
    fs::create_dir(&own).unwrap();
    fs::write(
        own.join("hosts.toml"),
        r#"
        server = "https://registry-1.docker.io"
        [host."https://z.example"]
          capabilities = ["pull", "resolve"]
          ca = "z.crt"
          client = [["z.cert", "z.key"], "both.pem"]
          [host."https://z.example".header]
            X-One = "1"
            X-Two = ["2", "3"]
        [host."http://a.example:5000/deep"]
          capabilities = ["pull"]
          skip_verify = true
          override_path = true
        "#,
    )
    .unwrap();
    let mut c = config();
    c.hosts_dirs = vec![dir.path().to_owned()];
    // Not asked, as hosts.toml decides.
    c.mirrors = vec!["https://unused.example".into()];
    let (z, a, hub) = (
        "https://z.example/v2/library/alpine (mirror)",
        "http://a.example:5000/deep/library/alpine (unverified) (mirror)",
        "https://registry-1.docker.io/v2/library/alpine",
    );
    assert_eq!(list(&c, "alpine", Purpose::Pull), [z, a, hub]);
    assert_eq!(list(&c, "alpine", Purpose::Resolve), [z, hub]);
    assert_eq!(list(&c, "alpine", Purpose::Push), [hub]);
    let hosts = Hosts::read(&c).unwrap();
    let alpine = Reference::parse("alpine").unwrap();
    let all = hosts.endpoints(&c, &alpine, Purpose::Pull).unwrap();
    assert_eq!(all[0].tls.ca, [own.join("z.crt")]);
    let client = [
        (own.join("z.cert"), Some(own.join("z.key"))),
        (own.join("both.pem"), None),
    ];
    assert_eq!(all[0].tls.client, client);
    assert_eq!(all[0].headers.get_all("x-two").iter().count(), 2);
    assert_eq!(
        all[0].url(Scheme::Https, "manifests/3").unwrap().as_str(),
        "https://z.example/v2/library/alpine/manifests/3?ns=docker.io"
    );
    assert_eq!(all[2].credentials_host, "docker.io");
    assert_eq!(all[0].credentials_host, "z.example");
}

#[test]
fn hosts_toml_for_ports_and_for_all() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [
        (
            "h.io_5000_",
            "server = \"https://h.io:5000\"\nskip_verify = true",
        ),
        ("_default", "[host.\"cache.example\"]"),
        ("bad.io", "server = 1"),
        ("caps.io", "capabilities = [\"fly\"]"),
        ("none.io", "capabilities = [\"push\"]"),
    ] {
        fs::create_dir(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join("hosts.toml"), text).unwrap();
    }
    let mut c = config();
    c.hosts_dirs = vec![dir.path().to_owned()];
    assert_eq!(
        list(&c, "h.io:5000/x", Purpose::Pull),
        ["https://h.io:5000/v2/x (unverified)"]
    );
    assert_eq!(
        list(&c, "other.io/x", Purpose::Pull),
        [
            "https://cache.example/v2/x (mirror)",
            "https://other.io/v2/x"
        ]
    );
    let hosts = Hosts::read(&c).unwrap();
    for (name, part) in [
        ("bad.io/x", "bad.io/hosts.toml"),
        ("caps.io/x", "no capability"),
        ("none.io/x", "can do this"),
    ] {
        let reference = Reference::parse(name).unwrap();
        let e = hosts.endpoints(&c, &reference, Purpose::Pull).unwrap_err();
        assert!(e.message().contains(part) && e.hint().is_some(), "{e}");
    }
}

#[test]
fn registries_conf() {
    let dir = tempfile::tempdir().unwrap();
    let (main, more) = (dir.path().join("r.conf"), dir.path().join("r.d"));
    fs::create_dir(&more).unwrap();
    fs::write(
        &main,
        r#"
        unqualified-search-registries = ["x.io"]
        short-name-mode = "enforcing"
        [aliases]
        "a" = "b/a"
        [[registry]]
        location = "docker.io"
        [[registry.mirror]]
        location = "m1.example:5000/hub"
        insecure = true
        [[registry.mirror]]
        location = "m2.example"
        pull-from-mirror = "digest-only"
        [[registry.mirror]]
        location = "m3.example"
        pull-from-mirror = "tag-only"
        [[registry]]
        prefix = "docker.io/secret"
        blocked = true
        [[registry]]
        prefix = "*.corp.example"
        insecure = true
        [[registry]]
        prefix = "x.io/team"
        location = "y.io/others/team2"
        mirror-by-digest-only = true
        [[registry.mirror]]
        location = "m.example/t"
        "#,
    )
    .unwrap();
    fs::write(
        more.join("50.conf"),
        "[[registry]]\nlocation = \"late.io\"\ninsecure = true\n",
    )
    .unwrap();
    let mut c = config();
    c.registries_conf = vec![main, more, dir.path().join("missing")];
    let hub = "https://registry-1.docker.io/v2/library/a";
    let m1 = "https|http://m1.example:5000/v2/hub/library/a (unverified) (mirror)";
    assert_eq!(
        list(&c, "a", Purpose::Pull),
        [m1, "https://m2.example/v2/library/a (mirror)", hub]
    );
    assert_eq!(
        list(&c, "a", Purpose::Resolve),
        [m1, "https://m3.example/v2/library/a (mirror)", hub]
    );
    assert_eq!(list(&c, "a", Purpose::Push), [hub]);
    for (name, want) in [
        (
            "a.corp.example/x",
            "https|http://a.corp.example/v2/x (unverified)",
        ),
        (
            "b.a.corp.example:5/x",
            "https|http://b.a.corp.example:5/v2/x (unverified)",
        ),
        ("corp.example/x", "https://corp.example/v2/x"),
        ("x.io/a.corp.example", "https://x.io/v2/a.corp.example"),
        ("late.io/x", "https|http://late.io/v2/x (unverified)"),
        ("x.io/teams/a", "https://x.io/v2/teams/a"),
    ] {
        assert_eq!(list(&c, name, Purpose::Pull), [want], "{name}");
    }
    assert_eq!(
        list(&c, "x.io/team/a:1", Purpose::Pull),
        [
            "https://m.example/v2/t/a (mirror)",
            "https://y.io/v2/others/team2/a"
        ]
    );
    assert_eq!(
        list(&c, "x.io/team/a:1", Purpose::Resolve),
        ["https://y.io/v2/others/team2/a"]
    );
    let hosts = Hosts::read(&c).unwrap();
    let secret = Reference::parse("secret/x").unwrap();
    let e = hosts.endpoints(&c, &secret, Purpose::Pull).unwrap_err();
    assert!(e.kind() == Kind::Denied && e.message().contains("blocked"));
}

#[test]
fn registries_conf_that_is_broken() {
    for text in [
        "x",
        "[[registry]]",
        "[[registry]]\nlocation = \"https://x.io\"",
        "[[registry]]\nlocation = \"x.io\"\n[[registry.mirror]]\nlocation = \"\"",
        "[[registry]]\nlocation = \"x\"\n[[registry.mirror]]\nlocation = \"y\"\npull-from-mirror = \"x\"",
        "[registries.search]\nregistries = [\"x\"]",
    ] {
        let e = Registries::default().add(text).unwrap_err();
        assert!(e.kind() == Kind::BadInput && e.hint().is_some(), "{text}");
    }
}

#[test]
fn a_mirrors_certificates_make_it_tls() {
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("localhost:5000");
    fs::create_dir(&own).unwrap();
    fs::write(own.join("ca.crt"), "").unwrap();
    let mut c = config();
    c.cert_dirs = vec![dir.path().to_owned()];
    assert_eq!(
        list(&c, "localhost:5000/x", Purpose::Pull),
        ["https://localhost:5000/v2/x"]
    );
}
