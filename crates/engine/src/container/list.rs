//! Containers as lists show them.

use std::collections::BTreeMap;

use unlade_graph::driver::NodeId;

use super::{Containers, Record, View};
use crate::{
    error::{Kind, Result},
    network::NetworkSettings,
    shim::Log,
    spec::request::ContainerConfig,
    volume::Point,
};

/// A container with all that `ps` and `inspect` show.
#[derive(Debug)]
pub struct Listed {
    /// What is recorded.
    pub record: Record,
    /// How it is.
    pub view: View,
}

impl Listed {
    /// What runs in it, in one line, arguments with blanks between quotes, as docker's list has it.
    pub fn command(&self) -> String {
        let (path, args) = path_and_args(&self.record.request.config);
        let mut line = path;
        for arg in args {
            match arg.contains(' ') {
                true => line.push_str(&format!(" '{arg}'")),
                false => line.push_str(&format!(" {arg}")),
            }
        }
        line
    }
}

/// What runs in a container: the program, and its arguments.
pub(super) fn path_and_args(config: &ContainerConfig) -> (String, Vec<String>) {
    let words = config
        .entrypoint
        .iter()
        .flatten()
        .chain(config.cmd.iter().flatten());
    let mut words = words
        .filter(|w| !w.is_empty() || config.entrypoint.is_none())
        .cloned();
    let path = words.next().unwrap_or_default();
    (path, words.collect())
}

impl Containers<'_> {
    /// All containers with their states, the newest first.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn list(&self) -> Result<Vec<Listed>> {
        let mut all = Vec::new();
        for record in self.all()? {
            let view = match self.view(&record) {
                // One that nobody can tell of is not to hide the others.
                Err(e) if e.kind() == Kind::Integrity => {
                    tracing::warn!(error = %e, "the state of {} is not known", record.name);
                    View::unknown(&record, e.to_string())
                }
                view => view?,
            };
            all.push(Listed { record, view });
        }
        Ok(all)
    }

    /// What was written to a container's root, and that and its image together, in bytes.
    ///
    /// # Errors
    /// If it cannot be looked at.
    pub fn size(&self, record: &Record) -> Result<(u64, u64)> {
        let snapshot = Self::snapshot(&record.id)?;
        let own = self.driver.usage(&NodeId::Snapshot(snapshot))?.bytes;
        let image = self.store.image(&record.image)?.map_or(0, |i| i.size);
        Ok((own, own + image))
    }

    /// How a container is in its networks.
    ///
    /// # Errors
    /// If that cannot be read.
    pub fn network_settings(&self, record: &Record, view: &View) -> Result<NetworkSettings> {
        if view.is_running()
            && let Some(state) = self.networks.attached(&record.id)?
        {
            return Ok(state.settings);
        }
        self.networks.idle_settings(&record.request)
    }

    /// Its mounts as docker shows them.
    pub fn points(&self, record: &Record) -> Vec<Point> {
        record
            .facts
            .mounts
            .iter()
            .map(|m| m.point(&self.volumes))
            .collect()
    }

    /// Where what a container writes is kept; `None` for nowhere.
    ///
    /// # Errors
    /// If an option of it is none.
    pub fn log(&self, record: &Record) -> Result<Option<Log>> {
        let log = super::logging::log(&record.request, &self.place(&record.id)?)?;
        Ok((log != Log::None).then_some(log))
    }

    /// Labels of a container.
    pub fn labels(record: &Record) -> &BTreeMap<String, String> {
        &record.request.config.labels
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs() {
        let of = |entrypoint: Option<&[&str]>, cmd: Option<&[&str]>| {
            let words = |w: &[&str]| w.iter().map(|w| (*w).to_owned()).collect();
            path_and_args(&ContainerConfig {
                entrypoint: entrypoint.map(words),
                cmd: cmd.map(words),
                ..ContainerConfig::default()
            })
        };
        let is = |path: &str, args: &[&str]| {
            (
                path.to_owned(),
                args.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>(),
            )
        };
        assert_eq!(of(None, Some(&["sh", "-c", "x"])), is("sh", &["-c", "x"]));
        assert_eq!(of(Some(&["/e"]), Some(&["a"])), is("/e", &["a"]));
        assert_eq!(of(Some(&[""]), Some(&["a", "b"])), is("a", &["b"]));
        assert_eq!(of(None, None), is("", &[]));
    }
}
