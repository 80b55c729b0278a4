//! Where each field of a spec comes from.

use serde::Serialize;
use serde_json::Value;

/// Who decided on a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// unlade, for every container.
    Default,
    /// The image's config.
    Image,
    /// A label of the image.
    Label,
    /// A seccomp profile.
    Profile,
    /// A flag of the user's.
    User,
    /// What this host or the runtime is like.
    Host,
    /// The engine, for this container: its id, its files, its network.
    Engine,
}

/// A field of a spec and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Field {
    /// Its place: names with dots; entries of lists by their own name, as in `mounts[/proc].type`.
    pub path: String,
    /// Its value as JSON.
    pub value: Value,
    /// Who decided on it.
    pub origin: Origin,
    /// The flag, label or file, where there is one.
    pub detail: String,
}

/// What was noted while a spec was assembled: a note stands for all below its path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Notes(Vec<(String, Origin, String)>);

impl Notes {
    /// Notes that what is at `path` comes from `origin`. The last note of a path counts.
    pub(super) fn set(&mut self, path: impl Into<String>, origin: Origin, detail: &str) {
        self.0.push((path.into(), origin, detail.to_owned()));
    }

    /// Notes that what is at `path` is the default, or was given with `flag`.
    pub(super) fn given(&mut self, path: impl Into<String>, given: bool, flag: &str) {
        match given {
            true => self.set(path, Origin::User, flag),
            false => self.set(path, Origin::Default, ""),
        }
    }

    fn of(&self, path: &str) -> Option<(Origin, &str)> {
        let covers = |note: &str| {
            path.strip_prefix(note)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        let mut best: Option<&(String, Origin, String)> = None;
        for note in &self.0 {
            if covers(&note.0) && best.is_none_or(|b| note.0.len() >= b.0.len()) {
                best = Some(note);
            }
        }
        best.map(|(_, origin, detail)| (*origin, detail.as_str()))
    }

    /// Every leaf of `spec` with its origin, in the document's order.
    pub(super) fn fields(&self, spec: &Value) -> Vec<Field> {
        let mut out = Vec::new();
        leaves("", spec, &mut |path, value| {
            // Each set of capabilities has the same origins.
            let capability = path
                .strip_prefix("process.capabilities.")
                .and_then(|rest| rest.find('[').map(|at| &rest[at..]))
                .map(|name| format!("process.capabilities{name}"));
            let noted = self.of(capability.as_deref().unwrap_or(&path));
            debug_assert!(noted.is_some(), "nobody has said where {path} comes from");
            let (origin, detail) = noted.unwrap_or((Origin::Default, ""));
            out.push(Field {
                detail: detail.to_owned(),
                path,
                value,
                origin,
            });
        });
        out
    }
}

/// What names an entry of a list of objects.
fn key(path: &str) -> &'static str {
    match path {
        "mounts" => "destination",
        "linux.devices" => "path",
        _ => "type",
    }
}

fn leaves(path: &str, value: &Value, leaf: &mut impl FnMut(String, Value)) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                let below = match path {
                    "" => key.clone(),
                    // Names of these may have dots.
                    "linux.sysctl" | "annotations" | "linux.resources.unified" => {
                        format!("{path}[{key}]")
                    }
                    _ => format!("{path}.{key}"),
                };
                leaves(&below, value, leaf);
            }
        }
        // One line for a rule, not one for each of its hundreds of names.
        Value::Array(list) if path == "linux.seccomp.syscalls" => {
            for (n, rule) in list.iter().enumerate() {
                leaf(format!("{path}[{n}]"), rule.clone());
            }
        }
        Value::Array(list) if path.starts_with("linux.resources.devices") => {
            for (n, rule) in list.iter().enumerate() {
                leaf(format!("{path}[{n}]"), rule.clone());
            }
        }
        Value::Array(list) if named(path) && !list.is_empty() => {
            for entry in list {
                match entry {
                    Value::String(text) if path == "process.env" => {
                        let (name, value) = text.split_once('=').unwrap_or((text, ""));
                        leaf(format!("{path}[{name}]"), value.into());
                    }
                    Value::String(text) => leaf(format!("{path}[{text}]"), true.into()),
                    Value::Object(map) => {
                        let name = map.get(key(path)).and_then(Value::as_str);
                        let below = format!("{path}[{}]", name.unwrap_or_default());
                        leaves(&below, entry, leaf);
                    }
                    other => leaf(path.to_owned(), other.clone()),
                }
            }
        }
        other => leaf(path.to_owned(), other.clone()),
    }
}

/// Lists that are sets: their entries have names of their own.
fn named(path: &str) -> bool {
    let sets = [
        "process.env",
        "process.rlimits",
        "mounts",
        "linux.namespaces",
        "linux.devices",
        "linux.maskedPaths",
        "linux.readonlyPaths",
    ];
    sets.contains(&path) || path.starts_with("process.capabilities.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn leaves_get_the_nearest_note() {
        let spec = json!({
            "ociVersion": "1.0.2",
            "process": {
                "args": ["a", "b"],
                "env": ["PATH=/bin", "A=b=c"],
                "capabilities": {"bounding": ["CAP_KILL", "CAP_CHOWN"], "ambient": []},
            },
            "mounts": [{"destination": "/proc", "type": "proc", "options": ["ro"]}],
            "linux": {"sysctl": {"net.a": "1"}, "namespaces": [{"type": "pid"}],
                "seccomp": {"syscalls": [{"names": ["x"]}]}},
        });
        let mut notes = Notes::default();
        for path in ["ociVersion", "mounts", "linux"] {
            notes.set(path, Origin::Default, "");
        }
        notes.set("process", Origin::Engine, "");
        notes.set("process.args", Origin::Image, "Cmd");
        notes.set("process.arg", Origin::Host, "no prefix by letters");
        notes.set("process.env[A]", Origin::Host, "overwritten");
        notes.set("process.env[A]", Origin::User, "-e");
        notes.set("process.capabilities[CAP_KILL]", Origin::User, "--cap-add");
        notes.set("mounts[/proc].options", Origin::User, "--read-only");
        notes.set("linux.sysctl[net.a]", Origin::User, "--sysctl");
        let fields = notes.fields(&spec);
        let text: Vec<String> = fields
            .iter()
            .map(|f| format!("{}={} {:?} {}", f.path, f.value, f.origin, f.detail))
            .collect();
        let want = [
            r#"linux.namespaces[pid].type="pid" Default "#,
            r#"linux.seccomp.syscalls[0]={"names":["x"]} Default "#,
            r#"linux.sysctl[net.a]="1" User --sysctl"#,
            r#"mounts[/proc].destination="/proc" Default "#,
            r#"mounts[/proc].options=["ro"] User --read-only"#,
            r#"mounts[/proc].type="proc" Default "#,
            r#"ociVersion="1.0.2" Default "#,
            r#"process.args=["a","b"] Image Cmd"#,
            "process.capabilities.ambient=[] Engine ",
            "process.capabilities.bounding[CAP_KILL]=true User --cap-add",
            "process.capabilities.bounding[CAP_CHOWN]=true Engine ",
            r#"process.env[PATH]="/bin" Engine "#,
            r#"process.env[A]="b=c" User -e"#,
        ];
        let mut text: Vec<&str> = text.iter().map(String::as_str).collect();
        let mut want = want.to_vec();
        text.sort_unstable();
        want.sort_unstable();
        assert_eq!(text, want);
    }
}
