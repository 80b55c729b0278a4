//! What an image says completes what was asked, by Docker's rules.

use std::collections::BTreeMap;

use super::{
    check::{no_controls, no_nul},
    image::ImageConfig,
    request::{ContainerConfig, Healthcheck, Request},
};
use crate::error::{Error, Kind, Result};

/// Completes `request` with the defaults of `image`. The result is what is stored and shown; for
/// [`super::assemble`] it must have been done once, and doing it twice changes nothing.
///
/// What the user says comes first: an entrypoint of the user's takes the image's command away,
/// variables and labels are united by name. Variables of the image without a value are dropped:
/// a bare name stands for the caller's variable in other places, and must not reach those.
///
/// # Errors
/// [`Kind::BadInput`] for values of the image that no container can have, and if nothing is left
/// to run.
pub fn merge(image: &ImageConfig, request: &mut Request) -> Result<()> {
    let c = &mut request.config;
    command(image, c)?;
    env(image, c)?;
    for (what, ours, theirs) in [
        ("user", &mut c.user, &image.user),
        ("working directory", &mut c.working_dir, &image.working_dir),
    ] {
        if ours.is_empty() {
            no_controls(&format!("the image's {what}"), theirs)?;
            ours.clone_from(theirs);
        }
    }
    if c.stop_signal.as_ref().is_none_or(String::is_empty) {
        no_controls("the image's stop signal", &image.stop_signal)?;
        c.stop_signal = Some(image.stop_signal.clone()).filter(|s| !s.is_empty());
    }
    for (what, ours, theirs) in [
        ("port", &mut c.exposed_ports, &image.exposed_ports),
        ("volume", &mut c.volumes, &image.volumes),
    ] {
        for (name, nothing) in theirs {
            no_controls(&format!("a {what} of the image"), name)?;
            ours.entry(name.clone()).or_insert(*nothing);
        }
    }
    unite(&mut c.labels, &image.labels);
    health(image, c);
    Ok(())
}

fn command(image: &ImageConfig, c: &mut ContainerConfig) -> Result<()> {
    let given = |words: &Option<Vec<String>>| words.as_ref().is_some_and(|w| !w.is_empty());
    if !given(&c.entrypoint) {
        if !given(&c.cmd) {
            c.cmd.clone_from(&image.cmd);
        }
        if c.entrypoint.is_none() {
            c.entrypoint.clone_from(&image.entrypoint);
        }
    }
    // One empty word is how a client says "none".
    if c.entrypoint.as_deref() == Some(&[String::new()]) {
        c.entrypoint = Some(Vec::new());
    }
    for word in c.entrypoint.iter().chain(&c.cmd).flatten() {
        no_nul("an argument", word)?;
    }
    if given(&c.entrypoint) || given(&c.cmd) {
        return Ok(());
    }
    let e = Error::new(Kind::BadInput, "no command specified");
    Err(e.with_hint("the image names none: add the command to run after the image's name"))
}

fn env(image: &ImageConfig, c: &mut ContainerConfig) -> Result<()> {
    let name = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let asked: Vec<String> = c.env.iter().map(|e| name(e)).collect();
    let mut added: Vec<String> = Vec::new();
    for entry in &image.env {
        no_nul("a variable of the image", entry)?;
        let key = name(entry);
        if key.is_empty() || key.len() == entry.len() || asked.contains(&key) {
            continue;
        }
        no_controls("the name of a variable of the image", &key)?;
        // Of two with one name the last counts.
        added.retain(|e| name(e) != key);
        added.push(entry.clone());
    }
    c.env.append(&mut added);
    Ok(())
}

fn unite(ours: &mut BTreeMap<String, String>, theirs: &BTreeMap<String, String>) {
    for (name, value) in theirs {
        ours.entry(name.clone()).or_insert_with(|| value.clone());
    }
}

fn health(image: &ImageConfig, c: &mut ContainerConfig) {
    let Some(theirs) = &image.healthcheck else {
        return;
    };
    let ours = c.healthcheck.get_or_insert_with(Healthcheck::default);
    if ours.test.is_empty() {
        ours.test.clone_from(&theirs.test);
    }
    for (ours, theirs) in [
        (&mut ours.interval, theirs.interval),
        (&mut ours.timeout, theirs.timeout),
        (&mut ours.start_period, theirs.start_period),
        (&mut ours.start_interval, theirs.start_interval),
        (&mut ours.retries, theirs.retries),
    ] {
        if *ours == 0 {
            *ours = theirs;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::request::Nothing;

    fn words(text: &str) -> Option<Vec<String>> {
        Some(text.split_terminator(' ').map(str::to_owned).collect())
    }

    fn with(image: &ImageConfig, config: ContainerConfig) -> Result<ContainerConfig> {
        let mut request = Request {
            config,
            ..Request::default()
        };
        merge(image, &mut request)?;
        let once = request.clone();
        merge(image, &mut request)?;
        assert_eq!(once, request, "twice is as good as once");
        Ok(request.config)
    }

    #[test]
    fn entrypoint_and_command() {
        let both = ImageConfig {
            entrypoint: words("/e a"),
            cmd: words("b c"),
            ..ImageConfig::default()
        };
        let only_cmd = ImageConfig {
            cmd: words("sh"),
            ..ImageConfig::default()
        };
        let none = ImageConfig::default();
        let empty = Some(vec![String::new()]);
        for (image, entrypoint, cmd, want) in [
            (&both, None, None, "/e a b c"),
            (&both, None, words("x"), "/e a x"),
            (&both, words("/u"), None, "/u"),
            (&both, words("/u"), words("x"), "/u x"),
            (&both, empty.clone(), words("x"), "x"),
            (&both, Some(vec![]), None, "b c"),
            (&only_cmd, None, None, "sh"),
            (&only_cmd, None, words("ls -l"), "ls -l"),
            (&none, None, words("ls"), "ls"),
        ] {
            let config = ContainerConfig {
                entrypoint,
                cmd,
                ..ContainerConfig::default()
            };
            let c = with(image, config).unwrap();
            let all: Vec<String> = c.entrypoint.into_iter().chain(c.cmd).flatten().collect();
            assert_eq!(all.join(" "), want);
        }
        for (image, entrypoint) in [(&none, None), (&both, empty), (&none, words("/u"))] {
            let config = ContainerConfig {
                entrypoint: entrypoint.clone(),
                ..ContainerConfig::default()
            };
            let done = with(image, config);
            if entrypoint == words("/u") {
                done.unwrap();
            } else {
                assert!(done.unwrap_err().message().contains("no command"));
            }
        }
    }

    #[test]
    fn variables() {
        let image = ImageConfig {
            cmd: words("sh"),
            env: ["A=1", "B=2", "HOME_OF_HOST", "=x", "", "A=3", "C=a=b\nc"]
                .map(str::to_owned)
                .to_vec(),
            ..ImageConfig::default()
        };
        let config = ContainerConfig {
            env: vec!["B=mine".into(), "GONE".into()],
            ..ContainerConfig::default()
        };
        let c = with(&image, config).unwrap();
        assert_eq!(c.env, ["B=mine", "GONE", "A=3", "C=a=b\nc"]);
        for bad in ["A=\0", "A\x1bB=1"] {
            let image = ImageConfig {
                env: vec![bad.to_owned()],
                ..image.clone()
            };
            let e = with(&image, ContainerConfig::default()).unwrap_err();
            assert_eq!(e.kind(), Kind::BadInput);
        }
    }

    #[test]
    fn the_rest() {
        let set = |names: &[&str]| names.iter().map(|n| (n.to_string(), Nothing {})).collect();
        let map = |of: &[(&str, &str)]| {
            let own = |(a, b): &(&str, &str)| (a.to_string(), b.to_string());
            of.iter().map(own).collect::<BTreeMap<_, _>>()
        };
        let image = ImageConfig {
            cmd: words("sh"),
            user: "u".into(),
            working_dir: "/w".into(),
            stop_signal: "SIGINT".into(),
            volumes: set(&["/v"]),
            exposed_ports: set(&["80/tcp", "81/tcp"]),
            labels: map(&[("a", "image"), ("b", "image")]),
            healthcheck: Some(Healthcheck {
                test: vec!["CMD".into(), "x".into()],
                interval: 7,
                retries: 2,
                ..Healthcheck::default()
            }),
            ..ImageConfig::default()
        };
        let c = with(&image, ContainerConfig::default()).unwrap();
        assert_eq!((&*c.user, &*c.working_dir), ("u", "/w"));
        assert_eq!(c.stop_signal.as_deref(), Some("SIGINT"));
        assert_eq!(c.healthcheck, image.healthcheck);
        let config = ContainerConfig {
            user: "me".into(),
            working_dir: "/".into(),
            stop_signal: Some("9".into()),
            exposed_ports: set(&["80/tcp", "90/udp"]),
            labels: map(&[("a", "user")]),
            healthcheck: Some(Healthcheck {
                interval: 9,
                ..Healthcheck::default()
            }),
            ..ContainerConfig::default()
        };
        let c = with(&image, config).unwrap();
        assert_eq!((&*c.user, &*c.working_dir), ("me", "/"));
        assert_eq!(c.stop_signal.as_deref(), Some("9"));
        assert_eq!(c.exposed_ports, set(&["80/tcp", "81/tcp", "90/udp"]));
        assert_eq!(c.labels, map(&[("a", "user"), ("b", "image")]));
        let h = c.healthcheck.unwrap();
        assert_eq!((h.test.len(), h.interval, h.retries), (2, 9, 2));
        let image = ImageConfig {
            working_dir: "/a\nb".into(),
            ..image
        };
        let e = with(&image, ContainerConfig::default()).unwrap_err();
        assert!(e.message().contains("control character"), "{e}");
    }
}
