//! `unlade info` and `unlade system`.

mod check;
mod df;
mod prune;

use clap::Args;
use serde_json::json;
use unlade_unpack::Cancel;

pub(super) use self::{
    check::{CheckArgs, check},
    df::{DfArgs, df},
    prune::{PruneArgs, prune},
};
use super::{containers, globals::Globals, human, out, template::Template, unit::unit, version};
use crate::{
    container::Begin,
    error::{Error, Result},
    image::Platform,
    runtime::cgroup,
};

#[derive(Debug, Args)]
pub(super) struct InfoArgs {
    /// json, or a template such as {{.Driver}}.
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
}

pub(super) fn info(globals: &Globals, args: &InfoArgs, cancel: &Cancel) -> Result<()> {
    let info = globals.engine(cancel)?.info()?;
    let mounts: Vec<_> = info
        .mounts
        .iter()
        .map(|(at, id)| json!({ "Path": at.display().to_string(), "Image": id.to_string() }))
        .collect();
    let counts = info.containers;
    let (uname, platform) = (rustix::system::uname(), Platform::host());
    let (os, ..) = platform.parts();
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
        "LoggingDriver": "json-file",
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

#[derive(Debug, Args)]
#[command(after_help = "\
Those with the policy always are started; with unless-stopped, unless they were stopped; with
on-failure, if they had failed or were running. One that has run since the boot is left alone, so
the command may be given again. With systemd:
  unlade system boot --unit > /etc/systemd/system/unlade-boot.service
  systemctl enable unlade-boot")]
pub(super) struct BootArgs {
    /// Print a unit for systemd that does this at each boot, and start nothing.
    #[arg(long)]
    unit: bool,
}

pub(super) fn boot(globals: &Globals, args: &BootArgs, cancel: &Cancel) -> Result<()> {
    if args.unit {
        return out::text(&unit(&globals.config()?, &globals.given()?)?);
    }
    let engine = globals.engine(cancel)?;
    let begin = Begin {
        cleanup: containers::cleanup_line(&engine),
        ..Begin::default()
    };
    let mut failed: Option<Error> = None;
    engine.start_after_boot(&begin, &mut |record, done| match done {
        Ok(()) => out::line(&record.name),
        Err(e) => {
            let e = e.context(format!("start {}", record.name));
            if let Some(before) = failed.replace(e) {
                super::say(&before.to_string());
            }
            Ok(())
        }
    })?;
    failed.map_or(Ok(()), Err)
}
