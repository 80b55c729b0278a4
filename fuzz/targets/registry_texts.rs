//! Texts that registries and their configuration consist of: no panic, no secret in an error, and
//! what parses means one thing.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use unlade_engine::{
    error::Error,
    image::Reference,
    registry::{HostsToml, Registries, RegistryConfig, challenge, credentials::AuthFile},
};
use unlade_fuzz::input::Input;

/// In a password; nothing may show it.
const SECRET: &str = "s3cret";

fn reference(text: &str) {
    match Reference::parse(text) {
        Ok(r) => {
            for form in [r.to_string(), r.canonical(), r.familiar()] {
                assert_eq!(Reference::parse(&form).ok().as_ref(), Some(&r), "{form}");
            }
            assert!(r.path().len() <= 255 && !r.path().contains(".."));
            assert!(r.tag().is_none_or(|t| t.len() <= 128));
            assert_eq!(r.repository(), format!("{}/{}", r.domain(), r.path()));
            let repository = r.familiar_repository();
            assert!(r.familiar().starts_with(&repository));
            assert!(
                r.clone().with_default_tag().tag().or(r.tag()).is_some() || r.digest().is_some()
            );
        }
        Err(e) => explained(&e),
    }
}

fn explained(e: &Error) {
    assert!(e.hint().is_some(), "{e:?}");
    assert!(!e.message().contains(['\n', '\u{1b}', '\0']), "{e:?}");
}

fn challenges(text: &str) {
    let all = challenge::parse(text.split('\n'));
    for one in &all {
        assert!(!one.scheme.is_empty() && one.scheme == one.scheme.to_ascii_lowercase());
        // What is written down in the usual form reads the same.
        let quote = |v: &str| v.replace('\\', "\\\\").replace('"', "\\\"");
        let params: Vec<String> = (one.params.iter())
            .map(|(n, v)| format!("{n}=\"{}\"", quote(v)))
            .collect();
        let text = format!("{} {}", one.scheme, params.join(", "));
        if text.len() < 16_000 {
            assert_eq!(challenge::parse([&*text]), [one.clone()], "{text}");
        }
    }
}

fn credentials(text: &str) {
    let file = match AuthFile::parse(Path::new("auth.json"), text.as_bytes()) {
        Ok(file) => file,
        Err(e) => {
            explained(&e);
            assert!(!format!("{e:?}").contains(SECRET));
            return;
        }
    };
    for host in ["docker.io", "h.io:5000", "localhost"] {
        let _ = file.helper_for(host);
        for repository in ["library/alpine", "team/app", "x"] {
            match file.find(host, repository) {
                Ok(found) => {
                    let shown = format!("{found:?}");
                    // A user's name is shown, a password is not.
                    assert!(!shown.contains("password: \""), "{shown}");
                }
                Err(e) => explained(&e),
            }
        }
    }
}

fn names() -> [Reference; 4] {
    [
        "alpine:3",
        "h.io:5000/team/app",
        "a.corp.example/x/y",
        "localhost/x",
    ]
    .map(|n| Reference::parse(n).expect("a name"))
}

fn hosts(text: &str) {
    let config = RegistryConfig::isolated();
    match HostsToml::parse(text) {
        Ok(file) => {
            for name in names() {
                match file.hosts(&config, &name) {
                    Ok(all) => assert!(all.last().is_some_and(|e| !e.ends_with("(mirror)"))),
                    Err(e) => explained(&e),
                }
            }
        }
        Err(e) => explained(&e),
    }
}

fn registries(text: &str) {
    let mut all = Registries::default();
    if let Err(e) = all.add(text) {
        explained(&e);
    }
    for name in names() {
        for location in all.locations(&name) {
            assert!(
                !location.is_empty() && !location.contains("://"),
                "{location}"
            );
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let kind = input.byte();
    let Ok(text) = std::str::from_utf8(input.0) else {
        return;
    };
    match kind % 5 {
        0 => reference(text),
        1 => challenges(text),
        2 => credentials(text),
        3 => hosts(text),
        _ => registries(text),
    }
});
