//! What devices of CDI change in a container's spec.

use std::path::PathBuf;

use oci_spec::runtime::{Hook, Hooks, LinuxIntelRdt, LinuxIntelRdtBuilder, Mount, Process, Spec};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Kind, Result},
    spec::{
        explain::{Notes, Origin},
        place::{DeviceNode, Placement},
        process,
    },
};

/// The kinds of hooks that runtimes know.
pub(super) const HOOKS: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

/// What the devices of CDI that a container gets change in its spec.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Edits {
    /// The devices, as they were asked for.
    pub names: Vec<String>,
    /// `NAME=VALUE`.
    pub env: Vec<String>,
    /// Nodes of this host.
    pub devices: Vec<DeviceNode>,
    /// Of files and directories of this host.
    pub mounts: Vec<Mount>,
    /// Programs of this host, each with when it runs.
    pub hooks: Vec<(String, Hook)>,
    /// Further groups of the container's processes.
    pub gids: Vec<u32>,
    /// Shares of caches and of the way to memory.
    pub rdt: Option<LinuxIntelRdt>,
}

impl Edits {
    /// A placement with the nodes, mounts and groups in it: a later one of a path replaces an
    /// earlier one.
    pub(in crate::spec) fn place(&self, place: &Placement) -> Placement {
        let mut place = place.clone();
        for node in &self.devices {
            place.devices.retain(|d| d.path != node.path);
            place.devices.push(node.clone());
        }
        for mount in &self.mounts {
            place
                .mounts
                .retain(|m| m.destination() != mount.destination());
            place.mounts.push(mount.clone());
        }
        let gids = &mut place.user.additional_gids;
        gids.extend(self.gids.iter().filter(|gid| **gid != 0));
        gids.sort_unstable();
        gids.dedup();
        place
    }

    /// The first process, with the variables.
    pub(in crate::spec) fn environment(&self, first: &mut Process) {
        let mut env = first.env().clone().unwrap_or_default();
        process::overlay(&mut env, &self.env);
        first.set_env(Some(env));
    }

    /// What no other part of the request can ask for, and who decided on all of it.
    pub(in crate::spec) fn finish(&self, spec: &mut Spec, notes: &mut Notes) -> Result<()> {
        let detail = format!("CDI {}", self.names.join(" "));
        let mut note = |path: String| notes.set(path, Origin::Host, &detail);
        for env in &self.env {
            let name = env.split('=').next().unwrap_or_default();
            note(format!("process.env[{name}]"));
        }
        for mount in &self.mounts {
            note(format!("mounts[{}]", mount.destination().display()));
        }
        for node in &self.devices {
            note(format!("linux.devices[{}]", node.path));
        }
        if !self.gids.is_empty() {
            note("process.user.additionalGids".to_owned());
        }
        note("hooks".to_owned());
        note("linux.intelRdt".to_owned());
        if !self.hooks.is_empty() {
            spec.set_hooks(Some(self.hooks()));
        }
        if let (Some(rdt), Some(linux)) = (&self.rdt, spec.linux_mut()) {
            linux.set_intel_rdt(Some(rdt.clone()));
        }
        Ok(())
    }

    fn hooks(&self) -> Hooks {
        let of = |kind: &str| {
            let hooks = self.hooks.iter().filter(|(k, _)| k == kind);
            let hooks: Vec<Hook> = hooks.map(|(_, hook)| hook.clone()).collect();
            Some(hooks).filter(|h| !h.is_empty())
        };
        let mut hooks = Hooks::default();
        #[allow(deprecated, reason = "files of CDI have them")]
        hooks.set_prestart(of("prestart"));
        hooks
            .set_create_runtime(of("createRuntime"))
            .set_create_container(of("createContainer"))
            .set_start_container(of("startContainer"))
            .set_poststart(of("poststart"))
            .set_poststop(of("poststop"));
        hooks
    }
}

/// A hook for the runtime.
pub(super) fn hook(from: &super::file::Hook) -> (String, Hook) {
    let some = |list: &Vec<String>| Some(list.clone()).filter(|l| !l.is_empty());
    let mut hook = Hook::default();
    hook.set_path(PathBuf::from(&from.path))
        .set_args(some(&from.args))
        .set_env(some(&from.env))
        .set_timeout(from.timeout);
    (from.hook_name.clone(), hook)
}

/// Shares of caches for the runtime.
pub(super) fn rdt(from: &super::file::Rdt) -> Result<LinuxIntelRdt> {
    let some = |text: &String| Some(text.clone()).filter(|t| !t.is_empty());
    let mut rdt = LinuxIntelRdtBuilder::default()
        .build()
        .map_err(|e| Error::new(Kind::Bug, e.to_string()))?;
    rdt.set_clos_id(some(&from.clos_id))
        .set_l3_cache_schema(some(&from.l3))
        .set_mem_bw_schema(some(&from.bandwidth));
    #[allow(deprecated, reason = "files of CDI have them")]
    rdt.set_enable_cmt(from.cmt.then_some(true))
        .set_enable_mbm(from.mbm.then_some(true));
    Ok(rdt)
}
