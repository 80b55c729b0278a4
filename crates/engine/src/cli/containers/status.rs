//! How `ps` words the state of a container and its ports.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::{
    cli::human,
    container::{Listed, Status, View},
    network::NetworkSettings,
};

fn seconds(time: &str) -> i64 {
    time.parse::<Timestamp>().map_or(0, |t| t.as_second())
}

/// `Up 5 minutes (healthy)`, `Exited (0) 3 seconds ago`.
pub(super) fn status(view: &View, now: Timestamp) -> String {
    let since = |time: &str| human::duration(now.as_second().saturating_sub(seconds(time)));
    match view.status {
        Status::Created => "Created".to_owned(),
        Status::Removing => "Removal In Progress".to_owned(),
        Status::Dead => "Dead".to_owned(),
        Status::Restarting => {
            format!(
                "Restarting ({}) {} ago",
                view.exit_code,
                since(&view.finished)
            )
        }
        Status::Exited => format!("Exited ({}) {} ago", view.exit_code, since(&view.finished)),
        Status::Paused => format!("Up {} (Paused)", since(&view.started)),
        Status::Running => {
            let up = format!("Up {}", since(&view.started));
            match view.health.as_ref().map(|h| &*h.status) {
                Some("starting") => format!("{up} (health: starting)"),
                Some(health) if !health.is_empty() => format!("{up} ({health})"),
                _ => up,
            }
        }
    }
}

/// `0.0.0.0:8080->80/tcp, 90/tcp`; runs of ports are drawn together.
pub(super) fn ports(settings: &NetworkSettings, listed: &Listed) -> String {
    if !listed.view.is_running() {
        return String::new();
    }
    type Published<'a> = BTreeMap<(String, &'a str, i32), Vec<(u16, u16)>>;
    // By where they are bound, protocol and distance: those that follow each other are one.
    let mut exposed: BTreeMap<&str, Vec<u16>> = BTreeMap::new();
    let mut published = Published::new();
    for (port, bindings) in &settings.ports {
        let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
        let Ok(number) = number.parse::<u16>() else {
            continue;
        };
        match bindings {
            Some(bindings) if !bindings.is_empty() => {
                for binding in bindings {
                    let Ok(host) = binding.host_port.parse::<u16>() else {
                        continue;
                    };
                    let ip = match &*binding.host_ip {
                        "" => "0.0.0.0".to_owned(),
                        ip if ip.contains(':') => format!("[{ip}]"),
                        ip => ip.to_owned(),
                    };
                    let distance = i32::from(host) - i32::from(number);
                    published
                        .entry((ip, protocol, distance))
                        .or_default()
                        .push((host, number));
                }
            }
            _ => exposed.entry(protocol).or_default().push(number),
        }
    }
    let mut all = Vec::new();
    for ((ip, protocol, _), mut pairs) in published {
        pairs.sort_unstable();
        for run in pairs.chunk_by(|a, b| a.1 + 1 == b.1) {
            let (first, last) = (run[0], run[run.len() - 1]);
            let text = if run.len() == 1 {
                format!("{ip}:{}->{}/{protocol}", first.0, first.1)
            } else {
                format!(
                    "{ip}:{}-{}->{}-{}/{protocol}",
                    first.0, last.0, first.1, last.1
                )
            };
            all.push((first.1, text));
        }
    }
    for (protocol, mut numbers) in exposed {
        numbers.sort_unstable();
        for run in numbers.chunk_by(|a, b| a + 1 == *b) {
            let (first, last) = (run[0], run[run.len() - 1]);
            let text = if run.len() == 1 {
                format!("{first}/{protocol}")
            } else {
                format!("{first}-{last}/{protocol}")
            };
            all.push((first, text));
        }
    }
    all.sort();
    let all: Vec<String> = all.into_iter().map(|(_, text)| text).collect();
    all.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{container::NEVER, shim::Feels};

    fn view(status: Status) -> View {
        View {
            status,
            pid: 0,
            exit_code: 3,
            oom: false,
            error: String::new(),
            started: "2026-01-01T00:00:00Z".into(),
            finished: "2026-01-01T00:01:00.5Z".into(),
            restarts: 0,
            health: None,
        }
    }

    #[test]
    fn words() {
        let now: Timestamp = "2026-01-01T00:05:00Z".parse().unwrap();
        for (of, want) in [
            (Status::Created, "Created"),
            (Status::Running, "Up 5 minutes"),
            (Status::Paused, "Up 5 minutes (Paused)"),
            (Status::Exited, "Exited (3) 4 minutes ago"),
            (Status::Restarting, "Restarting (3) 4 minutes ago"),
            (Status::Dead, "Dead"),
            (Status::Removing, "Removal In Progress"),
        ] {
            assert_eq!(status(&view(of), now), want);
        }
        let mut up = view(Status::Running);
        for (health, want) in [
            ("starting", "Up 5 minutes (health: starting)"),
            ("healthy", "Up 5 minutes (healthy)"),
        ] {
            up.health = Some(Feels {
                status: health.into(),
                ..Feels::default()
            });
            assert_eq!(status(&up, now), want);
        }
        assert_eq!(seconds(NEVER), -62_135_596_800);
    }
}
