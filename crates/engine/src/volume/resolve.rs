//! The mounts of a container that starts.

use std::{
    fs::{self, DirBuilder},
    io,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::fs::DirBuilderExt,
    },
    path::{Path, PathBuf},
};

use super::{
    Planned, Volumes, What,
    device::{self, Source},
    failed,
    manage::Volume,
    stage::Staged,
};
use crate::{
    error::{Error, Kind, Result},
    spec::RuntimeFacts,
    store::{VolumeUser, random_id},
};
use oci_spec::runtime::{Mount, MountBuilder};

/// Longest table of mounts that is read.
const MOST_MOUNTS: u64 = 64 << 20;

/// What a container that starts gets mounted.
#[derive(Debug)]
pub struct Resolved {
    /// For the spec.
    pub mounts: Vec<Mount>,
    /// Whether mounts of the host must go on reaching the container, or its own the host: it has
    /// to be started in the host's mount namespace.
    pub shared: bool,
    /// What is mounted on the machine for it.
    pub staged: Staged,
}

/// Whether the mount that `path` is on is shared, and whether it follows another.
fn spreads(path: &Path) -> Result<(bool, bool)> {
    use std::io::Read as _;
    let whole = fs::canonicalize(path).map_err(failed("find", path))?;
    let table = "/proc/self/mountinfo";
    let mut bytes = Vec::new();
    fs::File::open(table)
        .and_then(|file| file.take(MOST_MOUNTS).read_to_end(&mut bytes))
        .map_err(failed("read", Path::new(table)))?;
    let text = String::from_utf8_lossy(&bytes);
    let mut best = (0, (false, false));
    for line in text.lines() {
        let mut fields = line.split(' ');
        let Some(at) = fields.nth(4).map(unescape) else {
            continue;
        };
        if whole.starts_with(&at) && at.len() >= best.0 {
            let tags: Vec<&str> = fields.skip(1).take_while(|f| *f != "-").collect();
            let has = |tag: &str| tags.iter().any(|t| t.starts_with(tag));
            best = (at.len(), (has("shared:"), has("master:")));
        }
    }
    Ok(best.1)
}

/// A path as the table of mounts writes it.
fn unescape(text: &str) -> String {
    let all = [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ];
    all.iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// Checks that mounts can spread as `planned` wants.
fn check_propagation(planned: &Planned, source: &Path) -> Result<bool> {
    let shared = planned.propagation.ends_with("shared");
    let slave = planned.propagation.ends_with("slave");
    if !shared && !slave {
        return Ok(false);
    }
    let (is_shared, is_slave) = spreads(source)?;
    if is_shared || (slave && is_slave) {
        return Ok(true);
    }
    let what = if slave {
        "a shared or slave"
    } else {
        "a shared"
    };
    let m = format!("path {} is not on {what} mount", source.display());
    Err(Error::new(Kind::BadInput, m).with_hint(format!(
        "make it one: mount --bind {0} {0} && mount --make-shared {0}",
        source.display()
    )))
}

/// How a volume is mounted that may be read-only itself.
fn within(planned: &Planned, read_only: bool) -> Planned {
    Planned {
        read_only: planned.read_only || read_only,
        ..planned.clone()
    }
}

/// Options of a bind.
fn options(planned: &Planned, facts: &RuntimeFacts) -> Result<Vec<String>> {
    let bind = if planned.non_recursive {
        "bind"
    } else {
        "rbind"
    };
    let propagation = match &*planned.propagation {
        "" => "rprivate",
        given => given,
    };
    // Runtimes that are told `rw` mount it anew, without flags such as `noexec` of the source.
    let access = if !planned.read_only {
        None
    } else if planned.non_recursive || planned.read_only_non_recursive {
        Some("ro")
    } else if facts.recursive_read_only && kernel() >= (5, 12) {
        Some("rro")
    } else if planned.read_only_force_recursive {
        let m = "the runtime cannot make mounts read-only recursively";
        return Err(Error::new(Kind::Unsupported, m)
            .with_hint("use runc 1.1 or crun 1.4 and Linux 5.12, or bind-recursive=writable"));
    } else {
        Some("ro")
    };
    let all = [bind, propagation].into_iter().chain(access);
    Ok(all.map(str::to_owned).collect())
}

/// Major and minor version of the kernel.
fn kernel() -> (u32, u32) {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn mount(kind: &str, source: &Path, target: &str, options: Vec<String>) -> Result<Mount> {
    let built = MountBuilder::default()
        .typ(kind)
        .source(source)
        .destination(target)
        .options(options)
        .build();
    built.map_err(|e| Error::new(Kind::Bug, format!("describe a mount: {e}")))
}

/// A mount as the spec has it.
fn described(p: &Planned, source: &Path, facts: &RuntimeFacts) -> Result<Mount> {
    if p.what != What::Tmpfs {
        return mount("bind", source, &p.target, options(p, facts)?);
    }
    let mut options = p.options.clone();
    let access = if p.read_only { "ro" } else { "rw" };
    if !options.iter().any(|o| matches!(&**o, "ro" | "rw")) {
        options.push(access.to_owned());
    }
    options.push("rprivate".to_owned());
    mount("tmpfs", Path::new("tmpfs"), &p.target, options)
}

impl Volumes {
    /// The mounts of a container that starts. New volumes are filled from its root, which may be
    /// mounted nowhere yet; sources of `-v` that are not there are made. `layers` mounts an image.
    ///
    /// # Errors
    /// If a source is not there or the host refuses.
    pub fn resolve(
        &self,
        id: &str,
        planned: &[Planned],
        rootfs: BorrowedFd<'_>,
        facts: &RuntimeFacts,
        layers: &dyn Fn(&[String]) -> Result<OwnedFd>,
    ) -> Result<Resolved> {
        // Of a start that was killed.
        self.take_away(id)?;
        let mut resolved = Resolved {
            mounts: Vec::new(),
            shared: false,
            staged: Staged::new(self, id),
        };
        for p in planned.iter().filter(|p| p.what == What::Volume) {
            let volume = self.find(&p.source)?;
            if let Source::Device { .. } = device::source(&volume.options)? {
                self.attach(id, &volume)?;
            }
        }
        self.fill_new(id, planned, rootfs)?;
        for (at, p) in planned.iter().enumerate() {
            let source = match p.what {
                What::Tmpfs => PathBuf::new(),
                What::Bind => {
                    let source = PathBuf::from(&p.source);
                    make_source(p, &source)?;
                    resolved.shared |= check_propagation(p, &source)?;
                    source
                }
                What::Image => self.stage_image(id, at, p, &layers(&p.layers)?)?,
                What::Volume => {
                    let (path, read_only) = self.place(&self.find(&p.source)?)?;
                    let source = match p.subpath.is_empty() {
                        true => path,
                        false => self.stage_part(id, at, p, &path)?,
                    };
                    let mount = described(&within(p, read_only), &source, facts)?;
                    resolved.mounts.push(mount);
                    continue;
                }
            };
            resolved.mounts.push(described(p, &source, facts)?);
        }
        Ok(resolved)
    }

    /// The mounts that [`Volumes::resolve`] gives, with nothing looked up, filled or made. A volume
    /// that is still to be made without a name gets one here that it will not have.
    ///
    /// # Errors
    /// If the record of a volume cannot be read, or the host or the runtime cannot do what is asked.
    pub fn describe(
        &self,
        id: &str,
        planned: &[Planned],
        facts: &RuntimeFacts,
    ) -> Result<Vec<Mount>> {
        let source = |at: usize, p: &Planned| -> Result<(PathBuf, bool)> {
            let path = match p.what {
                What::Bind | What::Tmpfs => PathBuf::from(&p.source),
                What::Image => self.staged_at(id, at),
                What::Volume if p.source.is_empty() => self.data(&random_id()?),
                What::Volume => {
                    let volume = self.load(&p.source)?;
                    let placed = volume.map(|volume| self.place(&volume)).transpose()?;
                    let (path, read_only) = placed.unwrap_or((self.data(&p.source), false));
                    return Ok(match p.subpath.is_empty() {
                        true => (path, read_only),
                        false => (self.staged_at(id, at), read_only),
                    });
                }
            };
            Ok((path, false))
        };
        let each = planned.iter().enumerate();
        each.map(|(at, p)| {
            let (source, read_only) = source(at, p)?;
            described(&within(p, read_only), &source, facts)
        })
        .collect()
    }

    /// Where what is in a volume is, and whether it can only be read.
    fn place(&self, volume: &Volume) -> Result<(PathBuf, bool)> {
        Ok(match device::source(&volume.options)? {
            Source::Bind { path, read_only } => (PathBuf::from(path), read_only),
            Source::Own | Source::Device { .. } => (self.data(&volume.name), false),
        })
    }

    /// Fills the volumes that are new to this container and wanted so.
    fn fill_new(&self, id: &str, planned: &[Planned], rootfs: BorrowedFd<'_>) -> Result<()> {
        let wanted: Vec<&Planned> = planned
            .iter()
            .filter(|p| p.what == What::Volume && p.copy && p.subpath.is_empty())
            .collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let used = self.store.read_volumes(|tx| tx.used_by(id))?;
        let done = |p: &Planned| used.iter().any(|u| u.volume == p.source && u.filled);
        let mut filled = Vec::new();
        for p in wanted.into_iter().filter(|p| !done(p)) {
            let volume = self.find(&p.source)?;
            if !matches!(device::source(&volume.options)?, Source::Bind { .. }) {
                self.fill(&p.source, rootfs, &p.target)?;
            }
            filled.push(p.source.clone());
        }
        if filled.is_empty() {
            return Ok(());
        }
        self.store.volumes(|tx| {
            for volume in &filled {
                tx.put(&VolumeUser {
                    volume: volume.clone(),
                    container: id.to_owned(),
                    filled: true,
                })?;
            }
            Ok(())
        })
    }

    /// Removes what killed commands have left: temporary mounts, volumes that were half made or
    /// half removed. Containers that are alive by `live` have theirs still.
    ///
    /// # Errors
    /// From `live`, or if the host refuses.
    pub fn sweep(&self, live: &dyn Fn(&str) -> Result<bool>) -> Result<()> {
        self.sweep_staged(live)?;
        let left = |name: &str| name.starts_with(".new-") || name.starts_with(".trash-");
        let any = fs::read_dir(&self.root).is_ok_and(|mut list| {
            list.any(|e| e.is_ok_and(|e| e.file_name().to_str().is_some_and(left)))
        });
        if any {
            // In a transaction nobody makes one.
            self.store
                .volumes(|_| Ok(self.remove_where(|name| name.starts_with(".new-"))?))?;
            self.empty_trash()?;
        }
        Ok(())
    }
}

/// Makes the source of a `-v` that is not there.
fn make_source(p: &Planned, source: &Path) -> Result<()> {
    match fs::metadata(source) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound && p.create_source => {
            let mut builder = DirBuilder::new();
            builder.recursive(true).mode(0o755);
            builder
                .create(source)
                .map_err(failed("make the directory", source))
        }
        Err(e) => Err(failed("find the source of a mount,", source)(e)),
    }
}
