//! `unlade info`: what the engine is and has, and what the machine is, under docker's names too.

use std::fs;

use clap::Args;
use serde_json::{Map, Value as Json, json};
use unlade_unpack::Cancel;

use crate::{
    cli::{globals::Globals, human, out, template::Template, version},
    container,
    error::Result,
    image::Platform,
    runtime::{Runtime, cgroup},
    spec::HostFacts,
};

#[derive(Debug, Args)]
pub(in crate::cli) struct InfoArgs {
    /// json, or a template such as {{.Driver}}.
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
}

pub(in crate::cli) fn info(globals: &Globals, args: &InfoArgs, cancel: &Cancel) -> Result<()> {
    let engine = globals.engine(cancel)?;
    let info = engine.info()?;
    let mounts: Vec<_> = info
        .mounts
        .iter()
        .map(|(at, id)| json!({ "Path": at.display().to_string(), "Image": id.to_string() }))
        .collect();
    let counts = info.containers;
    let (uname, platform) = (rustix::system::uname(), Platform::host());
    let (os, ..) = platform.parts();
    // A machine without a runtime has images all the same.
    let runtime = Runtime::find(None, engine.config()).ok();
    let runtimes: Map<String, Json> = runtime
        .iter()
        .map(|r| {
            (
                r.flavor.name().to_owned(),
                json!({ "path": r.path.display().to_string() }),
            )
        })
        .collect();
    let facts = HostFacts::gather();
    let has = |controller: &str| facts.controllers.contains(controller);
    let document = json!({
        "ServerVersion": env!("CARGO_PKG_VERSION"),
        "Driver": info.driver,
        "DriverNotes": info.driver_notes,
        "DriverReasons": info.reasons,
        "Root": info.root.display().to_string(),
        "ConfigFile": info.config_file.as_ref().map(|f| f.display().to_string()),
        "Durability": info.durability,
        "KeepBlobs": info.keep_blobs,
        "Rootless": !info.rootless.is_empty(),
        "RootlessNotes": info.rootless,
        "Containers": counts.running + counts.paused + counts.stopped,
        "ContainersRunning": counts.running,
        "ContainersPaused": counts.paused,
        "ContainersStopped": counts.stopped,
        "Images": info.images,
        "Mounts": mounts,
        // As docker calls them.
        "DockerRootDir": info.root.display().to_string(),
        "Name": uname.nodename().to_string_lossy(),
        "OSType": os,
        "Architecture": uname.machine().to_string_lossy(),
        "KernelVersion": version::kernel(),
        "NCPU": std::thread::available_parallelism().map_or(1, usize::from),
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": if cgroup::v2() { "2" } else { "1" },
        "LoggingDriver": container::DEFAULT_LOG,
        "OperatingSystem": operating_system(),
        "MemTotal": container::stats::machine_memory(),
        "SystemTime": jiff::Timestamp::now().to_string(),
        "DefaultRuntime": runtime.as_ref().map_or("", |r| r.flavor.name()),
        "Runtimes": runtimes,
        "SecurityOptions": security(&facts, !info.rootless.is_empty()),
        "MemoryLimit": has("memory"),
        "SwapLimit": facts.swap_limit,
        "PidsLimit": has("pids"),
        "CPUShares": has("cpu"),
        "CPUSet": has("cpuset"),
        "LiveRestoreEnabled": true,
        "Swarm": { "LocalNodeState": "inactive" },
    });
    match args.format.as_deref() {
        None => {}
        Some("json") => return out::line(&document.to_string()),
        Some(text) => return out::line(&Template::parse(text)?.render_value(&document.into())?),
    }
    let mut text = format!(
        "Version: {}\nRoot: {}\nConfig file: {}\nContainers: {}\n Running: {}\n \
         Paused: {}\n Stopped: {}\nImages: {}\nGraph driver: {}\n",
        env!("CARGO_PKG_VERSION"),
        info.root.display(),
        info.config_file
            .map_or("none".to_owned(), |f| f.display().to_string()),
        counts.running + counts.paused + counts.stopped,
        counts.running,
        counts.paused,
        counts.stopped,
        info.images,
        info.driver,
    );
    for line in info.driver_notes.iter().chain(&info.reasons) {
        text.push_str(&format!("  {line}\n"));
    }
    text.push_str(&format!(
        "Durability: {}\nKeep blobs: {}\n",
        info.durability, info.keep_blobs
    ));
    if !info.rootless.is_empty() {
        text.push_str("Rootless: yes\n");
    }
    for line in &info.rootless {
        text.push_str(&format!("  {line}\n"));
    }
    for (at, id) in &info.mounts {
        let id = id.to_string();
        text.push_str(&format!(
            "Mounted: {} at {}\n",
            human::short_id(&id),
            at.display()
        ));
    }
    out::text(&text)
}

/// What the distribution calls itself.
fn operating_system() -> String {
    let files = ["/etc/os-release", "/usr/lib/os-release"];
    let text = files.iter().find_map(|f| fs::read_to_string(f).ok());
    let text = text.unwrap_or_default();
    let name = text.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    name.map_or("Linux", |n| n.trim_matches(['"', '\'']))
        .to_owned()
}

/// What keeps containers apart here.
fn security(facts: &HostFacts, rootless: bool) -> Vec<&'static str> {
    [
        (facts.apparmor_profile.is_some(), "name=apparmor"),
        (true, "name=seccomp,profile=builtin"),
        (facts.selinux, "name=selinux"),
        (facts.cgroup_v2 && facts.cgroup_namespace, "name=cgroupns"),
        (rootless, "name=rootless"),
    ]
    .into_iter()
    .filter_map(|(is, name)| is.then_some(name))
    .collect()
}
