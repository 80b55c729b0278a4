//! The document of `inspect`, field by field as Docker has it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Containers, Listed, links, list::path_and_args, logging::DEFAULT as DEFAULT_LOG};
use crate::{
    error::Result,
    network::NetworkSettings,
    shim::Feels,
    shim::Log,
    spec::{
        self,
        request::{ContainerConfig, HostConfig},
    },
    volume::Point,
};

/// A container as `inspect` shows it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Inspect {
    id: String,
    created: String,
    path: String,
    args: Vec<String>,
    state: State,
    image: String,
    resolv_conf_path: String,
    hostname_path: String,
    hosts_path: String,
    log_path: String,
    name: String,
    restart_count: u32,
    driver: &'static str,
    platform: String,
    mount_label: String,
    process_label: String,
    app_armor_profile: String,
    #[serde(rename = "ExecIDs")]
    exec_ids: Option<Vec<String>>,
    host_config: HostConfig,
    graph_driver: GraphDriver,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_rw: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_root_fs: Option<u64>,
    mounts: Vec<Point>,
    config: ContainerConfig,
    network_settings: NetworkSettings,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    status: &'static str,
    running: bool,
    paused: bool,
    restarting: bool,
    #[serde(rename = "OOMKilled")]
    oom_killed: bool,
    dead: bool,
    pid: i32,
    exit_code: i32,
    error: String,
    started_at: String,
    finished_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    health: Option<Feels>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct GraphDriver {
    data: BTreeMap<String, String>,
    name: &'static str,
}

/// The document of a container; with `size` it tells what it takes of the disk.
///
/// # Errors
/// If something of it cannot be read.
pub fn inspect(containers: &Containers<'_>, listed: &Listed, size: bool) -> Result<Inspect> {
    use super::Status as S;
    let Listed { record, view } = listed;
    let place = containers.place(&record.id)?;
    let (path, args) = path_and_args(&record.request.config);
    let sizes = if size {
        Some(containers.size(record)?)
    } else {
        None
    };
    let file = |name: &str| {
        let path = place.run.join(name);
        if path.exists() {
            path.display().to_string()
        } else {
            String::new()
        }
    };
    let log = containers.log(record)?;
    let created = jiff::Timestamp::from_nanosecond(record.created.into()).unwrap_or_default();
    let driver = containers.driver.kind().name();
    let execs = std::fs::read_dir(place.run.join("exec")).map_or(None, |dir| {
        let names: Vec<String> = dir
            .filter_map(|e| e.ok()?.file_name().into_string().ok())
            .collect();
        (!names.is_empty()).then_some(names)
    });
    Ok(Inspect {
        id: record.id.clone(),
        created: created.to_string(),
        path,
        args,
        state: State {
            status: view.status.as_str(),
            running: view.is_active(),
            paused: view.status == S::Paused,
            restarting: view.status == S::Restarting,
            oom_killed: view.oom,
            dead: view.status == S::Dead,
            pid: view.pid,
            exit_code: view.exit_code,
            error: view.error.clone(),
            started_at: view.started.clone(),
            finished_at: view.finished.clone(),
            health: view.health.clone(),
        },
        image: record.image.to_string(),
        resolv_conf_path: file("resolv.conf"),
        hostname_path: file("hostname"),
        hosts_path: file("hosts"),
        log_path: match log {
            Some(Log::JsonFile(file) | Log::K8sFile(file)) => file.path.display().to_string(),
            // As docker: that file is nobody else's.
            Some(Log::Local(_) | Log::None) | None => String::new(),
        },
        name: format!("/{}", record.name),
        restart_count: view.restarts,
        driver,
        platform: "linux".to_owned(),
        mount_label: String::new(),
        process_label: String::new(),
        app_armor_profile: containers.apparmor(record),
        exec_ids: execs,
        host_config: containers.effective(record)?,
        graph_driver: GraphDriver {
            data: BTreeMap::new(),
            name: driver,
        },
        size_rw: sizes.map(|(own, _)| own),
        size_root_fs: sizes.map(|(_, all)| all),
        mounts: containers.points(record),
        config: record.request.config.clone(),
        network_settings: containers.network_settings(record, view)?,
    })
}

impl Containers<'_> {
    /// What the host gives it, with the values that count where none was asked for.
    fn effective(&self, record: &super::Record) -> Result<HostConfig> {
        let mut shown = spec::effective(&record.request.host_config, self.host())?;
        if shown.log_config.r#type.is_empty() {
            DEFAULT_LOG.clone_into(&mut shown.log_config.r#type);
        }
        if shown.runtime.is_empty() {
            // Its own words for the configured one; without any, nothing could run.
            let found = || self.runtime("").map(|r| r.flavor.name().to_owned());
            let name = self.config.runtime.clone().or_else(|| found().ok());
            shown.runtime = name.unwrap_or_default();
        }
        for link in &mut shown.links {
            if let Ok((name, alias)) = links::parse(link) {
                *link = format!("/{name}:/{}/{alias}", record.name);
            }
        }
        Ok(shown)
    }

    /// The AppArmor profile of a container that has one.
    fn apparmor(&self, record: &super::Record) -> String {
        let asked = record.request.host_config.security_opt.iter();
        let asked = asked
            .filter_map(|o| o.strip_prefix("apparmor="))
            .next_back();
        let host = self.host();
        match asked {
            Some(profile) => profile.to_owned(),
            None if host.apparmor && record.request.host_config.privileged => {
                "unconfined".to_owned()
            }
            None => host.apparmor_profile.clone().unwrap_or_default(),
        }
    }
}
