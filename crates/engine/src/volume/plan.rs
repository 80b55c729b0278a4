//! What a container gets mounted, decided when it is made.

use std::{collections::BTreeMap, path::Path};

use super::{Planned, Volumes, What, is_volume_name, manage::NewVolume, parse};
use crate::{
    error::{Error, Kind, Result},
    spec::request::{Mount, Request},
    store::VolumeUser,
};

/// Most mounts of a container: an image can ask for any number of volumes.
const MOST: usize = 1024;

fn bad(message: impl Into<String>) -> Error {
    Error::new(Kind::BadInput, message)
}

/// Mounts by their targets, none twice.
#[derive(Debug, Default)]
struct Points(BTreeMap<String, Planned>);

impl Points {
    fn add(&mut self, planned: Planned) -> Result<()> {
        if self.0.len() >= MOST {
            return Err(Error::new(Kind::Limit, format!("more than {MOST} mounts")));
        }
        let target = planned.target.clone();
        if self.0.insert(target.clone(), planned).is_some() {
            return Err(bad(format!(
                "Duplicate mount point: {}",
                target.escape_debug()
            )));
        }
        Ok(())
    }
}

/// One `-v` that has a source or options.
fn bound(text: &str) -> Result<Planned> {
    let bind = parse::bind(text)?;
    if bind.relabel && Path::new("/sys/fs/selinux/enforce").exists() {
        let m = "the options z and Z of -v are not supported: unlade does not relabel";
        return Err(Error::new(Kind::Unsupported, m)
            .with_hint("label the directory: chcon -Rt container_file_t DIR"));
    }
    let is_path = bind.source.starts_with('/');
    Ok(Planned {
        what: if is_path { What::Bind } else { What::Volume },
        source: bind.source,
        target: bind.target,
        read_only: bind.read_only,
        propagation: bind.propagation,
        mode: bind.mode,
        create_source: is_path,
        copy: !is_path && !bind.no_copy,
        ..Planned::default()
    })
}

/// One `--mount`.
fn mounted(mount: &Mount) -> Result<Planned> {
    parse::check(mount)?;
    let mut planned = Planned {
        source: mount.source.clone(),
        target: parse::target(&mount.target)?,
        read_only: mount.read_only,
        ..Planned::default()
    };
    match &*mount.r#type {
        "bind" => {
            let bind = mount.bind_options.clone().unwrap_or_default();
            planned.propagation = bind.propagation;
            planned.non_recursive = bind.non_recursive;
            planned.read_only_non_recursive = bind.read_only_non_recursive;
            planned.read_only_force_recursive = bind.read_only_force_recursive;
            planned.create_source = bind.create_mountpoint;
            if !planned.create_source
                && let Err(e) = std::fs::metadata(&mount.source)
            {
                let m = format!(
                    "invalid mount config for type \"bind\": bind source path does not exist: {}",
                    mount.source
                );
                return Err(if e.kind() == std::io::ErrorKind::NotFound {
                    bad(m)
                } else {
                    Error::host(format!("look at `{}`", mount.source), e)
                });
            }
        }
        "volume" => {
            let volume = mount.volume_options.clone().unwrap_or_default();
            planned.what = What::Volume;
            planned.copy = !volume.no_copy;
            planned.subpath = volume.subpath;
        }
        "image" => {
            planned.what = What::Image;
            planned.name.clone_from(&mount.source);
            planned.read_only = true;
            planned.subpath = mount.image_options.clone().unwrap_or_default().subpath;
        }
        _ => {
            let tmpfs = mount.tmpfs_options.clone().unwrap_or_default();
            planned.what = What::Tmpfs;
            let mode = if tmpfs.mode == 0 { 0o1777 } else { tmpfs.mode };
            planned.options = parse::tmpfs_options(&format!("mode={mode:o}"))?;
            if tmpfs.size_bytes != 0 {
                planned.options.push(format!("size={}", tmpfs.size_bytes));
            }
        }
    }
    Ok(planned)
}

impl Volumes {
    /// What a container gets mounted, by path; volumes without a name have none yet. `others` has, for each of the request's `VolumesFrom`, how (`ro`, `rw`
    /// or nothing) and what that container has mounted. Paths of volumes that the image asks for
    /// are expected in `Config.Volumes`.
    ///
    /// # Errors
    /// [`Kind::BadInput`] for what is wrong or mounted twice, [`Kind::NotFound`] for parts of
    /// volumes that are not there, or if the host refuses.
    pub fn wanted(request: &Request, others: &[(&str, Vec<Planned>)]) -> Result<Vec<Planned>> {
        let host = &request.host_config;
        if !matches!(&*host.volume_driver, "" | "local") {
            let m = format!(
                "there is no volume driver `{}`",
                host.volume_driver.escape_debug()
            );
            return Err(Error::new(Kind::Unsupported, m).with_hint(
                "the only one is local; `unlade volume create -o` mounts other devices",
            ));
        }
        let mut points = Points::default();
        for text in &host.binds {
            points.add(bound(text)?)?;
        }
        for mount in &host.mounts {
            points.add(mounted(mount)?)?;
        }
        for (path, options) in &host.tmpfs {
            points.add(Planned {
                what: What::Tmpfs,
                target: parse::target(path)?,
                options: parse::tmpfs_options(options)?,
                ..Planned::default()
            })?;
        }
        // What was asked for here comes before what others have, and that before what the image
        // asks for.
        for (mode, mounts) in others {
            let read_only = match *mode {
                "" | "rw" => false,
                "ro" => true,
                mode => return Err(bad(format!("invalid mode: {}", mode.escape_debug()))),
            };
            for planned in mounts.iter().filter(|p| p.what != What::Tmpfs) {
                if !points.0.contains_key(&planned.target) {
                    points.add(Planned {
                        read_only: planned.read_only || read_only,
                        copy: false,
                        ..planned.clone()
                    })?;
                }
            }
        }
        for path in request.config.volumes.keys() {
            let target = parse::target(path)?;
            if !points.0.contains_key(&target) {
                points.add(Planned {
                    what: What::Volume,
                    target,
                    copy: true,
                    ..Planned::default()
                })?;
            }
        }
        Ok(points.0.into_values().collect())
    }

    /// As [`Volumes::wanted`]; makes the volumes that are not there, and records that the container
    /// uses them.
    ///
    /// # Errors
    /// Those, and if the host refuses.
    pub fn plan(
        &self,
        id: &str,
        request: &Request,
        others: &[(&str, Vec<Planned>)],
    ) -> Result<Vec<Planned>> {
        let planned = Self::wanted(request, others)?;
        let mut labels = BTreeMap::new();
        for mount in &request.host_config.mounts {
            if let Some(options) = &mount.volume_options {
                labels.insert(parse::target(&mount.target)?, options.labels.clone());
            }
        }
        if !planned.iter().any(|p| p.what == What::Volume) {
            return Ok(planned);
        }
        self.store.volumes(|tx| {
            let mut planned = planned.clone();
            for p in planned.iter_mut().filter(|p| p.what == What::Volume) {
                let none = BTreeMap::new();
                let labels = labels.get(&p.target).unwrap_or(&none);
                let volume = if p.source.is_empty() {
                    self.anonymous(labels)?
                } else {
                    self.ensure(&NewVolume {
                        name: p.source.clone(),
                        labels: labels.clone(),
                        ..NewVolume::default()
                    })?
                };
                p.source = volume.name;
                tx.put(&VolumeUser {
                    volume: p.source.clone(),
                    container: id.to_owned(),
                    filled: !p.copy,
                })?;
            }
            Ok(planned)
        })
    }

    /// The container and the mode of one of `VolumesFrom`.
    ///
    /// # Errors
    /// [`Kind::BadInput`] if it is neither.
    pub fn from(text: &str) -> Result<(&str, &str)> {
        let (name, mode) = text.split_once(':').unwrap_or((text, ""));
        let good = is_volume_name(name) || !name.is_empty() && name.len() == 1;
        if good && matches!(mode, "" | "ro" | "rw" | "z" | "Z") {
            return Ok((
                name,
                if mode.eq_ignore_ascii_case("z") {
                    ""
                } else {
                    mode
                },
            ));
        }
        let m = format!("invalid --volumes-from `{}`", text.escape_debug());
        Err(bad(m).with_hint("write a container, and :ro or :rw"))
    }
}
