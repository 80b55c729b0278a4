//! Mounts, made without attaching them to any path: by the new mount API (Linux 5.12 and later),
//! and through the old call where overlayfs does not know `lowerdir+` (before Linux 6.8).
//!
//! Layers are hostile: overlayfs is told to follow no redirect and no metacopy, and devices of
//! any tree are dead (`nodev`).

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::atomic::{AtomicU8, Ordering},
    thread,
    time::Duration,
};

use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags,
        UnmountFlags, fsconfig_create, fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string,
        fsmount, fsopen, move_mount, open_tree, unmount as unmount_path,
    },
};
use unlade_unpack::{Error, Kind, Result, fault};

pub use crate::sys::{LoopDevice, loop_device};
use crate::{layout::Layout, sys};

/// The most layers that overlayfs merges.
pub const MOST_LOWERS: usize = 500;

/// What every mount gets.
const ALWAYS: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NODEV;

/// An overlay to be mounted.
#[derive(Clone, Copy)]
pub struct Overlay<'a> {
    /// How many layers.
    pub count: usize,
    /// Opens the root directory of one, counted from the topmost.
    pub lower: &'a dyn Fn(usize) -> Result<OwnedFd>,
    /// Directories for changes and for overlayfs's work; without them it is read-only.
    pub upper: Option<(BorrowedFd<'a>, BorrowedFd<'a>)>,
    /// Attributes are `user.overlay.*`, for mounts in a user namespace.
    pub userxattr: bool,
    /// SELinux label of all files.
    pub label: Option<&'a str>,
    /// Nothing is written back for its sake, not even when it is unmounted (Linux 5.10).
    pub volatile: bool,
    /// What `mount` shows as its source.
    pub source: &'a str,
}

impl std::fmt::Debug for Overlay<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Overlay")
            .field("count", &self.count)
            .field("upper", &self.upper)
            .finish_non_exhaustive()
    }
}

/// How lower layers are named to overlayfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Api {
    /// `lowerdir+` by descriptor (Linux 6.13).
    Descriptors = 0,
    /// `lowerdir+` by path (Linux 6.8).
    Paths = 1,
    /// One `lowerdir` for `mount(2)`.
    Old = 2,
}

/// What overlayfs was found to know; a test may hold it down.
static API: AtomicU8 = AtomicU8::new(Api::Descriptors as u8);

/// The way of mounting overlays that is in use. Exact once an overlay was mounted.
pub fn api() -> Api {
    match API.load(Ordering::Relaxed) {
        0 => Api::Descriptors,
        1 => Api::Paths,
        _ => Api::Old,
    }
}

/// Mounts no overlay in a newer way than this from now on. For tests of older ways.
#[doc(hidden)]
pub fn limit_api(api: Api) {
    API.store(api as u8, Ordering::Relaxed);
}

/// Mounts an overlay. `layout` is where a kernel without `lowerdir+` needs a directory to mount
/// it on for a moment.
///
/// # Errors
/// If there are too many layers, one cannot be opened, or the kernel refuses.
pub fn overlay(layout: &Layout, what: &Overlay<'_>) -> Result<OwnedFd> {
    if what.count > MOST_LOWERS {
        let message = format!(
            "{} layers, overlayfs merges at most {MOST_LOWERS}",
            what.count
        );
        return Err(Error::new(Kind::Unsupported, message)
            .with_hint("choose another graph driver, such as erofs (--graph-driver)"));
    }
    fault::point("mount").map_err(|e| Error::host("mount an overlay", e))?;
    loop {
        let api = api();
        if api == Api::Old {
            return old_overlay(layout, what);
        }
        match new_overlay(what, api)? {
            Some(mount) => return Ok(mount),
            // The kernel is older: so for all mounts to come.
            None => API.store(api as u8 + 1, Ordering::Relaxed),
        }
    }
}

/// Options that are the same for all overlays. None of what they turn off is needed, and all of
/// it obeys attributes that a layer or a container could have set.
const OPTIONS: [(&str, &str); 3] = [
    ("redirect_dir", "nofollow"),
    ("metacopy", "off"),
    ("index", "off"),
];

/// `None` if the kernel does not know this way of naming layers.
fn new_overlay(what: &Overlay<'_>, api: Api) -> Result<Option<OwnedFd>> {
    let fs = match fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC) {
        Err(Errno::NOSYS) => return Ok(None),
        done => done.map_err(|e| {
            Error::host("open the file system type overlay", e)
                .with_hint("load the kernel module (modprobe overlay) or choose another driver")
        })?,
    };
    // Before Linux 6.5 overlayfs takes any text here, and refuses what it does not know in the end.
    if api == Api::Paths && takes_anything()? {
        return Ok(None);
    }
    let refused = |doing: &str, e| failed(fs.as_fd(), doing, e);
    // Small descriptors cost overlayfs's option less than their paths would; both are resolved at
    // once, so one open layer at a time is enough.
    let set = |key: &str, dir: BorrowedFd<'_>| match api {
        Api::Descriptors => fsconfig_set_fd(&fs, key, dir),
        _ => fsconfig_set_string(&fs, key, in_proc(dir)),
    };
    for n in 0..what.count {
        let dir = (what.lower)(n)?;
        match set("lowerdir+", dir.as_fd()) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::OPNOTSUPP) if n == 0 => return Ok(None),
            Err(e) => return Err(refused("name a layer to overlayfs", e)),
        }
    }
    if let Some((upper, work)) = what.upper {
        for (key, dir) in [("upperdir", upper), ("workdir", work)] {
            set(key, dir).map_err(|e| refused("name a directory to overlayfs", e))?;
        }
    }
    for (key, value) in OPTIONS {
        fsconfig_set_string(&fs, key, value).map_err(|e| refused("set a mount option", e))?;
    }
    if what.userxattr {
        fsconfig_set_flag(&fs, "userxattr").map_err(|e| refused("set a mount option", e))?;
    }
    if what.volatile {
        fsconfig_set_flag(&fs, "volatile").map_err(|e| refused("set a mount option", e))?;
    }
    if let Some(label) = what.label {
        fsconfig_set_string(&fs, "context", label)
            .map_err(|e| refused(&format!("set the SELinux label `{label}`"), e))?;
    }
    fsconfig_set_string(&fs, "source", what.source)
        .map_err(|e| refused("name the mount's source", e))?;
    fsconfig_create(&fs).map_err(|e| refused("mount an overlay", e))?;
    let attributes = attributes(what.upper.is_none());
    fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        .map(Some)
        .map_err(|e| refused("mount an overlay", e))
}

/// Whether overlayfs looks at its options only once all are there.
fn takes_anything() -> Result<bool> {
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(|e| Error::host("open the file system type overlay", e))?;
    Ok(fsconfig_set_flag(&fs, "unlade-asks").is_ok())
}

fn attributes(read_only: bool) -> MountAttrFlags {
    if read_only {
        ALWAYS | MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOATIME
    } else {
        ALWAYS
    }
}

/// By `mount(2)`, whose options are one page of text. The thread that calls it works in
/// `/proc/self/fd`, so that a layer is named by its descriptor's number alone: 500 of them fit.
fn old_overlay(layout: &Layout, what: &Overlay<'_>) -> Result<OwnedFd> {
    let place = layout.stage()?;
    let target = place.directory("mnt")?;
    drop(target);
    let lowers = (0..what.count)
        .map(what.lower)
        .collect::<Result<Vec<_>>>()?;
    let numbers: Vec<String> = lowers.iter().map(|d| d.as_raw_fd().to_string()).collect();
    let mut data = format!("lowerdir={}", numbers.join(":"));
    if let Some((upper, work)) = what.upper {
        let (upper, work) = (upper.as_raw_fd(), work.as_raw_fd());
        data.push_str(&format!(",upperdir={upper},workdir={work}"));
    }
    for (key, value) in OPTIONS {
        data.push_str(&format!(",{key}={value}"));
    }
    if what.userxattr {
        data.push_str(",userxattr");
    }
    if what.volatile {
        data.push_str(",volatile");
    }
    if let Some(label) = what.label {
        data.push_str(&format!(",context=\"{label}\""));
    }
    if data.len() >= 4096 {
        let message = format!("the kernel takes no mount of {} layers", what.count);
        return Err(Error::new(Kind::Unsupported, message)
            .with_hint("Linux 6.8 and later do; or choose another graph driver"));
    }
    let data = std::ffi::CString::new(data)
        .map_err(|_| Error::new(Kind::BadInput, "a mount option with a NUL in it"))?;
    let host = |e| Error::host("mount an overlay by mount(2)", e);
    let flags = if what.upper.is_none() {
        MountFlags::NODEV | MountFlags::RDONLY | MountFlags::NOATIME
    } else {
        MountFlags::NODEV
    };
    let target = format!("{}/mnt", place.fd().as_raw_fd());
    let source = what.source;
    thread::scope(|scope| {
        let worker = scope.spawn(|| -> Result<OwnedFd, Errno> {
            sys::unshare_working_directory()?;
            let dir = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::process::fchdir(openat(CWD, c"/proc/self/fd", dir, Mode::empty())?)?;
            rustix::mount::mount(source, &*target, c"overlay", flags, Some(&*data))?;
            let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            let detached = open_tree(CWD, &*target, clone);
            unmount_path(&*target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
            detached
        });
        worker.join().unwrap_or(Err(Errno::IO)).map_err(host)
    })
}

/// An option of a file system to be mounted.
#[derive(Debug, Clone, Copy)]
pub enum Setting<'a> {
    /// `key`.
    Flag(&'a str),
    /// `key=value`.
    Text(&'a str, &'a str),
    /// `key` is what a descriptor stands for, given as its path in `/proc`.
    Path(&'a str, BorrowedFd<'a>),
}

/// Mounts a file system of the type `kind`.
///
/// # Errors
/// If the kernel refuses; the message has the reason that it gives.
pub fn file_system(kind: &str, settings: &[Setting<'_>], read_only: bool) -> Result<OwnedFd> {
    fault::point("mount").map_err(|e| Error::host(format!("mount {kind}"), e))?;
    let fs = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(|e| Error::host(format!("open the file system type {kind}"), e))?;
    let refused = |doing: String, e| failed(fs.as_fd(), &doing, e);
    for setting in settings {
        let (key, done) = match *setting {
            Setting::Flag(key) => (key, fsconfig_set_flag(&fs, key)),
            Setting::Text(key, value) => (key, fsconfig_set_string(&fs, key, value)),
            Setting::Path(key, fd) => (key, fsconfig_set_string(&fs, key, in_proc(fd))),
        };
        done.map_err(|e| refused(format!("set the option `{key}` of {kind}"), e))?;
    }
    if read_only {
        fsconfig_set_flag(&fs, "ro").map_err(|e| refused(format!("mount {kind} read-only"), e))?;
    }
    fsconfig_create(&fs).map_err(|e| refused(format!("mount {kind}"), e))?;
    fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes(read_only))
        .map_err(|e| refused(format!("mount {kind}"), e))
}

/// Binds a directory: a mount of its own, not attached to any path.
///
/// # Errors
/// If the kernel refuses.
pub fn bind(dir: BorrowedFd<'_>, read_only: bool) -> Result<OwnedFd> {
    let host = |e| Error::host("bind-mount a tree", e);
    fault::point("mount").map_err(|e| Error::host("bind-mount a tree", e))?;
    let how = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let mount = open_tree(dir, c"", how).map_err(host)?;
    let attributes = if read_only {
        ALWAYS | MountAttrFlags::MOUNT_ATTR_RDONLY
    } else {
        ALWAYS
    };
    sys::mount_setattr(mount.as_fd(), attributes.bits().into()).map_err(host)?;
    Ok(mount)
}

/// Attaches a mount that has no path yet.
///
/// # Errors
/// If the kernel refuses.
pub fn attach(mount: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let how = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(mount, c"", CWD, path, how)
        .map_err(|e| Error::host(format!("mount on `{}`", path.display()), e))
}

/// How often, and after how long, a mount that is in use is tried again.
const BUSY_TRIES: u32 = 40;
const BUSY_WAIT: Duration = Duration::from_millis(20);

/// Unmounts what is mounted on `path`. What is in use is waited for, a second at most.
///
/// # Errors
/// If nothing is, or it is in use.
pub fn unmount(path: &Path) -> Result<()> {
    // Who makes a mount namespace of his own, as every start of a container does, holds all mounts
    // for a moment.
    let mut tries = BUSY_TRIES;
    let done = loop {
        match unmount_path(path, UnmountFlags::NOFOLLOW) {
            Err(Errno::BUSY) if tries > 0 => {
                tries -= 1;
                thread::sleep(BUSY_WAIT);
            }
            done => break done,
        }
    };
    done.map_err(|e| {
        let error = Error::host(format!("unmount `{}`", path.display()), e);
        match e {
            Errno::INVAL => error.with_hint("nothing is mounted there"),
            Errno::BUSY => error.with_hint("a process works in it: end it, then retry"),
            _ => error,
        }
    })
}

/// An error if a snapshot is mounted in this mount namespace: as a bind mount of a directory on the
/// file system of `layout` whose path there ends in `tree`, or from the source `source`. Mounts in
/// other namespaces, which any service may have copies of, and those without a path are not seen.
pub(crate) fn refuse_if_mounted(layout: &Layout, id: &str, tree: &str, source: &str) -> Result<()> {
    let read = |path: &str| {
        std::fs::read_to_string(path).map_err(|e| Error::host(format!("read {path}"), e))
    };
    let table = read("/proc/self/mountinfo")?;
    let info = read(&format!("/proc/self/fdinfo/{}", layout.root().as_raw_fd()))?;
    let our_mount = info.lines().find_map(|l| l.strip_prefix("mnt_id:"));
    let mounts: Vec<_> = table.lines().filter_map(Mounted::parse).collect();
    let ours = mounts
        .iter()
        .find(|m| Some(m.id) == our_mount.map(str::trim));
    let uses = |m: &&Mounted<'_>| {
        let bound = ours.is_some_and(|o| o.device == m.device) && unescape(m.root).ends_with(tree);
        bound || unescape(m.source) == source
    };
    match mounts.iter().find(uses) {
        None => Ok(()),
        Some(mounted) => {
            let at = unescape(mounted.at);
            let message = format!("snapshot `{id}` is mounted on `{at}`");
            Err(Error::new(Kind::Host, message)
                .with_hint("stop the container that uses it, or unmount it, then retry"))
        }
    }
}

/// A line of `/proc/self/mountinfo`: proc(5).
struct Mounted<'a> {
    id: &'a str,
    device: &'a str,
    root: &'a str,
    at: &'a str,
    source: &'a str,
}

impl<'a> Mounted<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ');
        let (id, _, device) = (before.next()?, before.next()?, before.next()?);
        Some(Self {
            id,
            device,
            root: before.next()?,
            at: before.next()?,
            source: after.split(' ').nth(1)?,
        })
    }
}

/// Undoes what the kernel does to blanks, line ends and backslashes.
fn unescape(field: &str) -> String {
    let mut out = String::new();
    let mut rest = field;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4).map(|c| u8::from_str_radix(c, 8));
        let Some(Ok(byte)) = code else {
            out.push_str(&rest[at..]);
            return out;
        };
        out.push(char::from(byte));
        rest = &rest[at + 4..];
    }
    out + rest
}

/// The path by which the kernel finds what a descriptor stands for.
fn in_proc(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// An error with what the kernel wrote to the file system's context.
fn failed(fs: BorrowedFd<'_>, doing: &str, e: Errno) -> Error {
    let mut said = Vec::new();
    let mut line = [0_u8; 1024];
    while let Ok(n) = rustix::io::read(fs, &mut line[..]) {
        if n == 0 || said.len() > 2048 {
            break;
        }
        let text = String::from_utf8_lossy(&line[..n]);
        // "e overlay: what is wrong"
        said.push(
            text.trim_end()
                .trim_start_matches(['e', 'w', 'i', ' '])
                .to_owned(),
        );
    }
    if said.is_empty() {
        Error::host(doing, e)
    } else {
        Error::host(format!("{doing} (the kernel says: {})", said.join("; ")), e)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use rustix::fs::{FileType, mkdirat, mknodat};

    use super::*;
    use crate::walk::DIRECTORY;

    fn open(dir: impl AsFd, path: &str) -> Result<OwnedFd, Errno> {
        openat(dir, path, DIRECTORY, Mode::empty())
    }

    fn read(dir: impl AsFd, path: &str) -> String {
        let fd = openat(dir, path, OFlags::RDONLY, Mode::empty()).unwrap();
        let mut text = String::new();
        std::fs::File::from(fd).read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn overlays_of_many_layers_by_every_api() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root may mount");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open(dir.path()).unwrap();
        let at = |n: usize| format!("{}/{n}", dir.path().display());
        for n in 0..MOST_LOWERS {
            std::fs::create_dir(at(n)).unwrap();
            std::fs::write(format!("{}/top", at(n)), n.to_string()).unwrap();
            std::fs::write(format!("{}/f{n}", at(n)), "").unwrap();
        }
        // A device, and an order to overlayfs that must not be obeyed.
        std::fs::create_dir(format!("{}/away", at(1))).unwrap();
        std::fs::create_dir(format!("{}/grafted", at(0))).unwrap();
        let grafted = open(CWD, &format!("{}/grafted", at(0))).unwrap();
        std::fs::write(format!("{}/away/secret", at(1)), "").unwrap();
        let set = rustix::fs::XattrFlags::empty();
        rustix::fs::fsetxattr(&grafted, "trusted.overlay.redirect", b"/away", set).unwrap();
        let top = open(CWD, &at(0)).unwrap();
        mknodat(&top, "null", FileType::CharacterDevice, 0o666.into(), 259).unwrap();

        let lower = |n: usize| Ok(open(CWD, &at(n)).unwrap());
        for api in [Api::Descriptors, Api::Paths, Api::Old] {
            limit_api(api);
            for (count, writable) in [(2, false), (1, true), (MOST_LOWERS, true)] {
                let place = layout.stage().unwrap();
                let (upper, work) = (place.directory("u").unwrap(), place.directory("w").unwrap());
                let what = Overlay {
                    count,
                    lower: &lower,
                    upper: writable.then(|| (upper.as_fd(), work.as_fd())),
                    userxattr: false,
                    label: None,
                    volatile: writable,
                    source: "a test",
                };
                let mount = overlay(&layout, &what).unwrap_or_else(|e| panic!("{api:?}: {e}"));
                let root = open(&mount, ".").unwrap();
                assert_eq!(read(&root, "top"), "0");
                assert_eq!(read(&root, &format!("f{}", count - 1)), "");
                assert!(openat(&root, "grafted/secret", OFlags::PATH, Mode::empty()).is_err());
                let device = openat(&root, "null", OFlags::RDONLY, Mode::empty());
                assert_eq!(device.unwrap_err(), Errno::ACCESS, "devices are dead");
                let made = mkdirat(&root, "new", Mode::RWXU);
                if writable {
                    made.unwrap();
                    open(&upper, "new").unwrap();
                } else {
                    assert_eq!(made, Err(Errno::ROFS));
                }
                // Nothing of it was ever in this namespace's table.
                let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
                assert!(!table.contains(&at(0)) && !table.contains("/staging/"));
                drop((root, mount));
            }
        }
        limit_api(Api::Descriptors);
        let too_many = Overlay {
            count: MOST_LOWERS + 1,
            lower: &lower,
            upper: None,
            userxattr: false,
            label: None,
            volatile: false,
            source: "a test",
        };
        let e = overlay(&layout, &too_many).unwrap_err();
        assert_eq!(e.kind(), Kind::Unsupported);
    }

    #[test]
    fn lines_of_mountinfo() {
        let line = "44 27 0:39 /a\\040b /m\\134n rw,relatime shared:1 - overlay /x\\012y rw,a=b";
        let mounted = Mounted::parse(line).unwrap();
        assert_eq!((mounted.id, mounted.device), ("44", "0:39"));
        let fields = [mounted.root, mounted.at, mounted.source].map(unescape);
        assert_eq!(fields, ["/a b", "/m\\n", "/x\ny"]);
        assert_eq!(unescape("a\\9"), "a\\9");
        assert!(Mounted::parse("").is_none());
    }

    #[test]
    fn binds_and_refusals() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root may mount");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "text").unwrap();
        let fd = open(CWD, dir.path().to_str().unwrap()).unwrap();
        let mount = bind(fd.as_fd(), true).unwrap();
        let root = open(&mount, ".").unwrap();
        assert_eq!(read(&root, "f"), "text");
        assert_eq!(mkdirat(&root, "d", Mode::RWXU), Err(Errno::ROFS));
        mkdirat(bind(fd.as_fd(), false).unwrap(), "d", Mode::RWXU).unwrap();

        let e = unmount(dir.path()).unwrap_err();
        assert_eq!(e.hint(), Some("nothing is mounted there"));
        let e = file_system("tmpfs", &[Setting::Text("mode", "wrong")], false).unwrap_err();
        assert!(e.message().contains("mode"), "{e}");
        let tmp = file_system("tmpfs", &[Setting::Text("mode", "0700")], false).unwrap();
        mkdirat(&tmp, "d", Mode::RWXU).unwrap();
    }
}
