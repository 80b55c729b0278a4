//! `daemon.json`, Docker's own configuration: of it the mirrors of Docker Hub and the registries that
//! may be spoken to without TLS. All else is for its daemon.

use std::{fs::File, io, io::Read, path::Path};

use serde::Deserialize;

use super::RegistryConfig;

/// Largest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Daemon {
    registry_mirrors: Vec<String>,
    insecure_registries: Vec<String>,
}

/// Adds what the file at `path` says. One that is not there or cannot be understood says nothing:
/// it belongs to another program, which complains of it.
pub(super) fn add(config: &mut RegistryConfig, path: &Path) {
    let daemon = match read(path) {
        Ok(daemon) => daemon,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return,
        Err(e) => {
            tracing::warn!(path = %path.display(), error = %e, "passed over");
            return;
        }
    };
    config.mirrors.extend(daemon.registry_mirrors);
    config.insecure.extend(daemon.insecure_registries);
}

fn read(path: &Path) -> io::Result<Daemon> {
    let mut text = String::new();
    let file = File::open(path)?;
    file.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io::Error::other("it is too large"));
    }
    if text.trim().is_empty() {
        return Ok(Daemon::default());
    }
    Ok(serde_json::from_str(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_and_insecure_registries() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("daemon.json");
        let said = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let mut config = RegistryConfig::isolated();
            add(&mut config, &path);
            (config.mirrors, config.insecure)
        };
        let (mirrors, insecure) = said(
            r#"{"debug": true, "registry-mirrors": ["https://m.example"],
                "insecure-registries": ["10.0.0.0/8", "host:5000"]}"#,
        );
        assert_eq!(mirrors, ["https://m.example"]);
        assert_eq!(insecure, ["10.0.0.0/8", "host:5000"]);
        let large = " ".repeat(2 << 20);
        for nothing in ["", "{}", "{\"registry-mirrors\": 7}", "nonsense", &large] {
            assert_eq!(said(nothing), (Vec::new(), Vec::new()), "{nothing:.20}");
        }
        let mut config = RegistryConfig::isolated();
        add(&mut config, Path::new("/nonexistent/daemon.json"));
        assert!(config.mirrors.is_empty());
    }
}
