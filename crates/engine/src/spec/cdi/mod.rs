//! Devices by the Container Device Interface: files of vendors say what a container needs to use a
//! device, and `--device vendor.com/class=name` and `--gpus` ask for it.
//!
//! The files are the host's. Of two directories the later one's description of a device counts;
//! two in one directory are a conflict, and neither does. A file that cannot be used hides only
//! its own devices.

mod apply;
mod file;
mod name;

use std::{
    collections::HashMap,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

pub use self::{apply::Edits, name::Name};
use self::{
    apply::{hook, rdt},
    file::{Bind, ContainerEdits, Document, Node},
};
use super::{
    devices, mounts,
    place::{DeviceNode, ResolvedUser},
    request::DeviceRequest,
};
use crate::{
    error::{Error, Kind, Result},
    image::json::show,
};

/// The kind that `--gpus` asks for, as Docker has it.
const GPU: &str = "nvidia.com/gpu";
/// Most files of one directory.
const MOST_FILES: usize = 1000;
/// Most GPUs by number.
const MOST_GPUS: i64 = 1024;

/// The names of the devices that a request asks for.
///
/// # Errors
/// [`Kind::BadInput`] for what is no name and what asks for numbers and names at once,
/// [`Kind::Unsupported`] for drivers that there are not.
pub fn names(requests: &[DeviceRequest]) -> Result<Vec<Name>> {
    let mut out = Vec::new();
    for asked in requests {
        let parse = |text: &str| {
            Name::parse(text).ok_or_else(|| {
                let m = format!("`{}` is no name of a CDI device", show(text));
                Error::new(Kind::BadInput, m).with_hint("write vendor.com/class=name")
            })
        };
        if asked.count != 0 && !asked.device_ids.is_empty() {
            let m = "cannot set both Count and DeviceIDs on device request";
            let hint = "--gpus takes a number or device=…; quote a list: '\"device=0,1\"'";
            return Err(Error::new(Kind::BadInput, m).with_hint(hint));
        }
        if asked.driver == "cdi" {
            for id in &asked.device_ids {
                out.push(parse(id)?);
            }
            continue;
        }
        let gpu = |set: &Vec<String>| set.iter().any(|c| c == "gpu");
        if !matches!(&*asked.driver, "" | "nvidia") || !asked.capabilities.iter().any(gpu) {
            let m = format!(
                "could not select device driver \"{}\" with capabilities: {:?}",
                show(&asked.driver),
                asked.capabilities
            );
            let hint = "--gpus works through CDI: leave driver= out, or say nvidia";
            return Err(Error::new(Kind::Unsupported, m).with_hint(hint));
        }
        match asked.count {
            -1 => out.push(parse(&format!("{GPU}=all"))?),
            n @ 0..=MOST_GPUS => {
                for n in 0..n {
                    out.push(parse(&format!("{GPU}={n}"))?);
                }
            }
            n => {
                let m = format!("{n} is no number of GPUs");
                return Err(Error::new(Kind::BadInput, m).with_hint("write all, or how many"));
            }
        }
        for id in &asked.device_ids {
            out.push(parse(&format!("{GPU}={id}"))?);
        }
    }
    Ok(out)
}

/// What the devices that are asked for change in the container of `user`, by the files of `dirs`,
/// of which the last comes first.
///
/// # Errors
/// As [`names`]; [`Kind::NotFound`] with what is wrong with which file if a device is not there,
/// [`Kind::Conflict`] if two files have it.
pub fn find(dirs: &[PathBuf], requests: &[DeviceRequest], user: &ResolvedUser) -> Result<Edits> {
    let names = names(requests)?;
    let mut edits = Edits::default();
    if names.is_empty() {
        return Ok(edits);
    }
    let files = Files::read(dirs)?;
    let mut whole = Vec::new();
    for name in names {
        let text = name.to_string();
        if edits.names.contains(&text) {
            continue;
        }
        edits.names.push(text);
        let (at, device) = files.device(&name)?;
        let document = &files.documents[at].document;
        let of = |e: Error| e.context(format!("CDI device {name}"));
        if !whole.contains(&at) {
            whole.push(at);
            add(&document.container_edits, user, &mut edits).map_err(of)?;
        }
        add(&document.devices[device].container_edits, user, &mut edits).map_err(of)?;
    }
    Ok(edits)
}

/// A file that could be read, and how much its directory counts.
struct Known {
    path: PathBuf,
    priority: usize,
    document: Document,
}

/// What the directories have.
struct Files {
    documents: Vec<Known>,
    /// Which document and which device of it, by kind and name.
    devices: HashMap<(String, String), Vec<(usize, usize)>>,
    wrong: Vec<Error>,
    dirs: String,
}

impl Files {
    fn read(dirs: &[PathBuf]) -> Result<Self> {
        let shown: Vec<String> = dirs.iter().map(|d| d.display().to_string()).collect();
        let mut files = Self {
            documents: Vec::new(),
            devices: HashMap::new(),
            wrong: Vec::new(),
            dirs: shown.join(", "),
        };
        for (priority, dir) in dirs.iter().enumerate() {
            for path in list(dir)? {
                match file::read(&path) {
                    Ok(document) => files.documents.push(Known {
                        path,
                        priority,
                        document,
                    }),
                    Err(e) => files.wrong.push(e),
                }
            }
        }
        for (at, known) in files.documents.iter().enumerate() {
            for (device, described) in known.document.devices.iter().enumerate() {
                let key = (known.document.kind.clone(), described.name.clone());
                files.devices.entry(key).or_default().push((at, device));
            }
        }
        Ok(files)
    }

    fn device(&self, name: &Name) -> Result<(usize, usize)> {
        let key = (name.kind.clone(), name.device.clone());
        let all = self.devices.get(&key).map_or(&[][..], |all| all);
        let priority = |(at, _): &&(usize, usize)| self.documents[*at].priority;
        let top = all.iter().map(|one| priority(&one)).max();
        let best: Vec<&(usize, usize)> = all
            .iter()
            .filter(|one| Some(priority(one)) == top)
            .collect();
        match best[..] {
            [one] => Ok(*one),
            [] => Err(self.missing(name)),
            [..] => {
                let paths: Vec<String> = best
                    .iter()
                    .map(|(at, _)| self.documents[*at].path.display().to_string())
                    .collect();
                let m = format!(
                    "the CDI device {name} is described in {}",
                    paths.join(" and ")
                );
                Err(Error::new(Kind::Conflict, m)
                    .with_hint("remove one, or put it in a directory that comes later"))
            }
        }
    }

    fn missing(&self, name: &Name) -> Error {
        let mut m = format!(
            "unresolvable CDI device {name}: no file in {} describes it",
            self.dirs
        );
        for e in &self.wrong {
            m.push_str(&format!("; {e}"));
        }
        let hint = match &*name.kind {
            GPU => {
                "`nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml` writes one for its GPUs"
            }
            _ => "the vendor's tools write it; `cdi-spec-dirs` says where files are looked for",
        };
        Error::new(Kind::NotFound, m).with_hint(hint)
    }
}

/// The files of a directory, by name.
fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e| Error::host(format!("list `{}`", dir.display()), e);
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut out = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|e| e == "json" || e == "yaml") {
            out.push(path);
        }
        if out.len() > MOST_FILES {
            let m = format!("more than {MOST_FILES} files in `{}`", dir.display());
            return Err(Error::new(Kind::Limit, m).with_hint("remove those of no device"));
        }
    }
    out.sort();
    Ok(out)
}

fn add(from: &ContainerEdits, user: &ResolvedUser, to: &mut Edits) -> Result<()> {
    to.env.extend(from.env.iter().cloned());
    for asked in &from.device_nodes {
        to.devices.push(node(asked, user)?);
    }
    for asked in &from.mounts {
        to.mounts.push(bind(asked)?);
    }
    to.hooks.extend(from.hooks.iter().map(hook));
    to.gids.extend(&from.additional_gids);
    if let Some(asked) = &from.intel_rdt {
        to.rdt = Some(rdt(asked)?);
    }
    Ok(())
}

/// A node: what the file leaves open is looked up, and belongs to the container's user.
fn node(asked: &Node, user: &ResolvedUser) -> Result<DeviceNode> {
    let access = match &*asked.permissions {
        "" => "rwm",
        some => some,
    };
    let mut node = if asked.typ.is_empty() || asked.major == 0 {
        let from = match &*asked.host_path {
            "" => &asked.path,
            path => path,
        };
        devices::look(from, &asked.path, access)?
    } else {
        DeviceNode {
            path: asked.path.clone(),
            block: asked.typ == "b",
            major: asked.major,
            minor: asked.minor,
            access: access.to_owned(),
            ..DeviceNode::default()
        }
    };
    node.mode = asked.file_mode.unwrap_or(0o666);
    node.uid = asked.uid.unwrap_or(user.uid);
    node.gid = asked.gid.unwrap_or(user.gid);
    Ok(node)
}

fn bind(asked: &Bind) -> Result<oci_spec::runtime::Mount> {
    let mut options: Vec<&str> = asked.options.iter().map(String::as_str).collect();
    let bound = options.iter().any(|o| matches!(*o, "bind" | "rbind"));
    // Every kind but `bind` is a file system of its own.
    let typ = match &*asked.typ {
        "" => "bind",
        typ => typ,
    };
    if typ == "bind" && !bound {
        options.insert(0, "rbind");
    }
    mounts::mount(&asked.container_path, typ, &asked.host_path, &options)
}

#[cfg(test)]
mod tests;
