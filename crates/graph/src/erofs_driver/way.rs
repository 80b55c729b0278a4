//! How images are mounted on this kernel, found out by mounting small ones.

use std::{
    fs::File,
    io::Read,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::{FileExt, MetadataExt},
    },
    path::PathBuf,
};

use rustix::{
    fs::{Mode, OFlags, mkdirat, openat},
    io::Errno,
};
use unlade_unpack::{
    Error, Kind, Result,
    entry::{Entry, EntryKind, Meta},
};

use crate::{
    erofs::{build, content::Content, tree::Tree},
    layout::{DIRECTORY, Layout, Place},
    mount::{self, Setting},
    sys,
};

/// A way of mounting images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Way {
    /// An index over the layers' tars, all of them files: blocks of 512 bytes, extra devices,
    /// mounts of files (Linux 6.12).
    Index,
    /// An image with all data in it, mounted as a file (Linux 6.12).
    Full,
    /// The same on a loop device (any kernel with EROFS).
    Loop,
}

impl Way {
    /// All of them, best first.
    pub const ALL: [Self; 3] = [Self::Index, Self::Full, Self::Loop];

    /// Its name in [`Way::VARIABLE`].
    pub fn name(self) -> &'static str {
        match self {
            Self::Index => "index",
            Self::Full => "full",
            Self::Loop => "loop",
        }
    }

    /// Environment variable that names the way to be used, whatever the kernel can: for tests,
    /// and for kernels that only claim to work.
    pub const VARIABLE: &str = "UNLADE_EROFS";

    /// The way that the environment asks for, if it does.
    ///
    /// # Errors
    /// If it asks for what is no way.
    pub fn from_environment() -> Result<Option<Self>> {
        let Some(text) = std::env::var_os(Self::VARIABLE) else {
            return Ok(None);
        };
        let known = Self::ALL.into_iter().find(|w| *w.name() == *text);
        known.map(Some).ok_or_else(|| {
            let message = format!(
                "{}={} is no way of mounting EROFS",
                Self::VARIABLE,
                text.display()
            );
            Error::new(Kind::Unsupported, message).with_hint("use `index`, `full` or `loop`")
        })
    }
}

/// The way chosen, and why.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) way: Way,
    pub(super) why: String,
}

impl Found {
    pub(super) fn forced(way: Way) -> Self {
        let why = format!("{}, as asked for", describe(way));
        Self { way, why }
    }
}

fn describe(way: Way) -> &'static str {
    match way {
        Way::Index => "one index over the layers' tars",
        Way::Full => "full images",
        Way::Loop => "full images on loop devices",
    }
}

/// Mounts an image. `path` is where people find it, for the table of mounts.
pub(super) fn mount(way: Way, image: &File, path: &str, devices: &[File]) -> Result<OwnedFd> {
    if way == Way::Loop {
        let host = |e| Error::host("make a loop device over an image", e);
        let device = sys::loop_device(image.as_fd(), 4096).map_err(host)?;
        let mounted = mount::file_system("erofs", &[Setting::Text("source", &device.path)], true);
        drop(device.fd);
        return mounted;
    }
    let mut settings = vec![source(image, path)];
    settings.extend(devices.iter().map(|d| Setting::Path("device", d.as_fd())));
    mount::file_system("erofs", &settings, true)
}

/// By its path if that is short and leads there, else by its descriptor.
fn source<'a>(image: &'a File, path: &'a str) -> Setting<'a> {
    let same = || {
        let (a, b) = (image.metadata().ok()?, std::fs::metadata(path).ok()?);
        ((a.dev(), a.ino()) == (b.dev(), b.ino())).then_some(())
    };
    if path.len() < 250 && same().is_some() {
        Setting::Text("source", path)
    } else {
        Setting::Path("source", image.as_fd())
    }
}

const TEXT: &[u8; 5] = b"hello";

/// A small image in a place: an index over one tar, an empty index over none, a full image.
struct Sample {
    place: Place,
    tar: File,
}

impl Sample {
    fn new(layout: &Layout) -> Result<Self> {
        let place = layout.stage()?;
        let tar = place.file("tar")?;
        let host = |e| Error::host("write a small image", e);
        tar.write_all_at(TEXT, 512).map_err(host)?;
        tar.set_len(1024).map_err(host)?;
        Ok(Self { place, tar })
    }

    fn tree(with_file: bool) -> Result<Tree> {
        let mut tree = Tree::new();
        tree.begin_layer()?;
        let entry = Entry {
            index: 0,
            offset: 0,
            payload: 512,
            path: b"f".as_slice().into(),
            kind: EntryKind::File {
                size: TEXT.len() as u64,
                sparse: None,
            },
            meta: Meta::default(),
        };
        if with_file {
            tree.apply(&entry, Content::Whole(512))?;
        }
        Ok(tree)
    }

    fn layer(&self) -> build::Layer<'_> {
        build::Layer {
            tar: &self.tar,
            spill: None,
            entries: None,
            tag: [b'0'; 64],
        }
    }

    /// A file of the place, open for reading alone as images are.
    fn image(&self, name: &str, write: impl FnOnce(&File) -> Result<()>) -> Result<File> {
        write(&self.place.file(name)?)?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = openat(self.place.fd(), name, flags, Mode::empty());
        file.map(File::from)
            .map_err(|e| Error::host("open a small image", e))
    }

    fn index(&self) -> Result<()> {
        let layers = [self.layer()];
        let tree = Self::tree(true)?;
        let devices = build::devices(&tree, &layers)?;
        let extras: Vec<_> = devices.iter().map(|d| d.0).collect();
        let image = self.image("index", |f| build::index(&tree, &extras, f).map(drop))?;
        let tar = self.tar.try_clone();
        let tar = tar.map_err(|e| Error::host("duplicate a descriptor", e))?;
        right(&mount(Way::Index, &image, "", &[tar])?)
    }

    /// Blocks of 512 bytes alone.
    fn blocks(&self) -> Result<()> {
        let tree = Self::tree(false)?;
        let image = self.image("blocks", |f| build::index(&tree, &[], f).map(drop))?;
        mount(Way::Index, &image, "", &[]).map(drop)
    }

    fn full(&self, way: Way) -> Result<()> {
        let tree = Self::tree(true)?;
        let layers = [self.layer()];
        let name = way.name();
        let image = self.image(name, |f| build::full(&tree, &layers, f).map(drop))?;
        right(&mount(way, &image, "", &[])?)
    }
}

/// Whether the file in a mounted small image is right.
fn right(mount: &OwnedFd) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let host = |e| Error::host("read from a small EROFS mount", e);
    let mut text = Vec::new();
    let file = openat(mount, "f", flags, Mode::empty()).map_err(|e| host(e.into()))?;
    File::from(file).read_to_end(&mut text).map_err(host)?;
    if text == TEXT {
        Ok(())
    } else {
        let message = "a small EROFS mount has not what was put there";
        Err(Error::new(Kind::Unsupported, message))
    }
}

/// An error by which a kernel says that it cannot do that; others are errors for us too.
fn refusal(e: Error) -> Result<Error> {
    let cannot = [
        Errno::INVAL,
        Errno::OPNOTSUPP,
        Errno::NOTBLK,
        Errno::NOSYS,
        // Blocks of 512 bytes, in kernels that know them by halves.
        Errno::BADMSG,
    ];
    let cannot = |n: i32| cannot.iter().any(|e| e.raw_os_error() == n);
    if e.kind() == Kind::Unsupported || e.raw_os_error().is_some_and(cannot) {
        Ok(e)
    } else {
        Err(e)
    }
}

/// The best way that works.
pub(super) fn find(layout: &Layout) -> Result<Found> {
    let sample = Sample::new(layout)?;
    let found = |way, why: &str| {
        let why = format!("{}{why}", describe(way));
        Ok(Found { way, why })
    };
    let no_index = match sample.index() {
        Ok(()) => return found(Way::Index, ", mounted from files"),
        Err(e) => refusal(e)?,
    };
    tracing::debug!(error = %no_index, "no EROFS over tars");
    match sample.full(Way::Full) {
        Ok(()) => {
            let what = match sample.blocks() {
                Ok(()) => "extra devices in files",
                Err(_) => "blocks of 512 bytes",
            };
            let why = format!(", as this kernel has no {what} for EROFS (Linux 6.12 has)");
            found(Way::Full, &why)
        }
        Err(e) => {
            tracing::debug!(error = %refusal(e)?, "no EROFS from files");
            sample.full(Way::Loop).map_err(|e| {
                e.with_hint(
                    "EROFS needs root and a kernel with it (modprobe erofs); choose another driver",
                )
            })?;
            found(
                Way::Loop,
                ", as this kernel mounts EROFS from no files (Linux 6.12 does)",
            )
        }
    }
}

/// Since when overlayfs takes layers from mounts that have no path.
const DETACHED: (u32, u32) = (6, 15);

fn kernel_is_at_least((major, minor): (u32, u32)) -> bool {
    let release = rustix::system::uname();
    let text = release.release().to_string_lossy().into_owned();
    let mut numbers = text
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(a)), Some(Ok(b))) => (a, b) >= (major, minor),
        _ => false,
    }
}

/// What lies over the one lower layer of an overlay.
#[derive(Clone, Copy)]
pub(super) struct Upper<'a> {
    /// Directories for changes and for overlayfs's work.
    pub(super) dirs: (BorrowedFd<'a>, BorrowedFd<'a>),
    pub(super) source: &'a str,
    pub(super) label: Option<&'a str>,
    pub(super) volatile: bool,
}

/// Mounts an overlay with one lower layer, itself a mount without a path.
pub(super) fn overlay(layout: &Layout, lower: &OwnedFd, upper: Upper<'_>) -> Result<OwnedFd> {
    if kernel_is_at_least(DETACHED) {
        return stack(layout, lower, upper);
    }
    attached(layout, lower, |lower| stack(layout, lower, upper))
}

fn stack(layout: &Layout, lower: &OwnedFd, upper: Upper<'_>) -> Result<OwnedFd> {
    let lower = |_| {
        let clone = lower.try_clone();
        clone.map_err(|e| Error::host("duplicate a descriptor", e))
    };
    let what = mount::Overlay {
        count: 1,
        lower: &lower,
        upper: Some(upper.dirs),
        userxattr: false,
        label: upper.label,
        volatile: upper.volatile,
        source: upper.source,
    };
    mount::overlay(layout, &what)
}

/// Gives a mount a path for as long as `body` works with its root.
fn attached<T>(
    layout: &Layout,
    mount: &OwnedFd,
    body: impl FnOnce(&OwnedFd) -> Result<T>,
) -> Result<T> {
    let place = layout.stage()?;
    let host = |e| Error::host("give a mount a path for a moment", e);
    mkdirat(place.fd(), "lower", Mode::RWXU).map_err(host)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/lower", place.fd().as_raw_fd()));
    mount::attach(mount.as_fd(), &path)?;
    let root = openat(place.fd(), "lower", DIRECTORY, Mode::empty()).map_err(host);
    let done = root.and_then(|root| body(&root));
    let flags = rustix::mount::UnmountFlags::DETACH | rustix::mount::UnmountFlags::NOFOLLOW;
    rustix::mount::unmount(&path, flags).map_err(host)?;
    done
}

/// Whether an overlay over an image can be written to.
pub(super) fn snapshots_work(layout: &Layout) -> Result<()> {
    let sample = Sample::new(layout)?;
    let tree = Sample::tree(true)?;
    let layers = [sample.layer()];
    let image = sample.image("image", |f| build::full(&tree, &layers, f).map(drop))?;
    let lower = mount(Way::Full, &image, "", &[]).or_else(|_| mount(Way::Loop, &image, "", &[]))?;
    let (upper, work) = (
        sample.place.directory("upper")?,
        sample.place.directory("work")?,
    );
    let over = Upper {
        dirs: (upper.as_fd(), work.as_fd()),
        source: "unlade",
        label: None,
        volatile: false,
    };
    let merged = overlay(layout, &lower, over)?;
    right(&merged)?;
    mkdirat(&merged, "new", Mode::RWXU).map_err(|e| Error::host("write to an overlay", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_and_a_lower_with_a_path() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root may mount");
            return;
        }
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let layout = Layout::open(dir.path()).unwrap();
        let found = find(&layout).unwrap();
        assert!(found.why.starts_with(describe(found.way)), "{found:?}");
        snapshots_work(&layout).unwrap();
        for way in [Way::Full, Way::Loop] {
            Sample::new(&layout).unwrap().full(way).unwrap();
        }
        let sample = Sample::new(&layout).unwrap();
        sample.blocks().unwrap();
        sample.index().unwrap();

        // As for kernels before 6.15.
        let tree = Sample::tree(true).unwrap();
        let write = |f: &File| build::full(&tree, &[sample.layer()], f).map(drop);
        let lower = mount(Way::Full, &sample.image("i", write).unwrap(), "", &[]).unwrap();
        let upper = sample.place.directory("upper").unwrap();
        let work = sample.place.directory("work").unwrap();
        let upper = Upper {
            dirs: (upper.as_fd(), work.as_fd()),
            source: "s",
            label: None,
            volatile: false,
        };
        let merged = attached(&layout, &lower, |lower| stack(&layout, lower, upper));
        right(&merged.unwrap()).unwrap();
        let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!table.contains(dir.path().to_str().unwrap()), "{table}");
        drop(sample);
        assert_eq!(
            std::fs::read_dir(dir.path().join("staging"))
                .unwrap()
                .count(),
            0
        );
    }

    #[test]
    fn only_refusals_lead_to_another_way() {
        assert!(refusal(Error::host("mount", Errno::INVAL)).is_ok());
        assert!(refusal(Error::host("mount", Errno::NOTBLK)).is_ok());
        assert!(refusal(Error::host("mount", Errno::IO)).is_err());
        assert!(refusal(Error::host("mount", Errno::PERM)).is_err());
    }
}
