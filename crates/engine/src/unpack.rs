//! The use case "unpack": an image from a source to a tree, or only verified.
//!
//! Says nothing to anybody: what happened is in the [`UnpackReport`].

use std::{
    collections::VecDeque,
    fmt, io,
    io::Write,
    num::NonZeroUsize,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::Arc,
    time::Instant,
};

use rustix::{
    fs::{Mode, OFlags, XattrFlags, fchmod, fremovexattr, fsetxattr, mkdirat, openat},
    io::Errno,
};
use unlade_unpack::{
    Cancel, Digest, DirOptions, Error, Expect, IoChoice, Kind, Layer, LayerReport, Limits,
    NullSink, Owners, Progress, Result, Sink, Unpacker, Whiteouts,
};

use crate::{
    dest::{Dest, Staging},
    image::Platform,
    source::{self, Image, LayerBlob, Opening, Scheme, Scratch, Source},
    sys,
};

/// Name of the file that lists an unpacked image's overlay directories.
pub const LOWERDIRS: &str = "lowerdirs";

/// Makes the [`Progress`] of a layer, given its number from 0, how many there are, and its size
/// in bytes.
pub type Watch = dyn Fn(usize, usize, Option<u64>) -> Arc<dyn Progress>;

/// What is to be done.
pub struct UnpackRequest {
    /// The image.
    pub source: Source,
    /// Where its tree is to appear; `None` verifies it and writes nothing.
    pub dest: Option<Dest>,
    /// Which of an index's images; this machine's if not given.
    pub platform: Option<Platform>,
    /// Whose the files are.
    pub owners: Owners,
    /// What becomes of whiteouts. With the overlay choices the tree is a directory for each
    /// layer, `000` the lowest, and [`LOWERDIRS`], their names topmost first.
    pub whiteouts: Whiteouts,
    /// Limits on every layer.
    pub limits: Limits,
    /// Most layers of an image.
    pub max_layers: usize,
    /// Memory for decoded data, in bytes.
    pub memory_bytes: Option<usize>,
    /// Threads that write.
    pub threads: Option<NonZeroUsize>,
    /// Threads that decode a large gzip layer. Default: by idle cores.
    pub decode_threads: Option<NonZeroUsize>,
    /// How files are written.
    pub io: IoChoice,
    /// Believe a layer's bytes rather than its media type about its compression.
    pub sniff: bool,
    /// Stops everything.
    pub cancel: Cancel,
    /// Watches the layers.
    pub watch: Option<Box<Watch>>,
}

impl fmt::Debug for UnpackRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnpackRequest")
            .field("source", &self.source)
            .field("dest", &self.dest)
            .finish_non_exhaustive()
    }
}

impl UnpackRequest {
    /// Unpacks `source` to `dest`, all else by default.
    pub fn new(source: Source, dest: Option<Dest>) -> Self {
        Self {
            source,
            dest,
            platform: None,
            owners: Owners::default(),
            whiteouts: Whiteouts::default(),
            limits: Limits::default(),
            max_layers: 1000,
            memory_bytes: None,
            threads: None,
            decode_threads: None,
            io: IoChoice::default(),
            sniff: false,
            cancel: Cancel::new(),
            watch: None,
        }
    }
}

/// What was done.
#[derive(Debug)]
pub struct UnpackReport {
    /// Digest of the manifest; Docker archives and single layers have none.
    pub manifest_digest: Option<Digest>,
    /// Digest of the config; a single layer has none.
    pub config_digest: Option<Digest>,
    /// What the image runs on, as far as it says so.
    pub platform: Option<Platform>,
    /// Where the tree is.
    pub dest: Option<PathBuf>,
    /// Whether the process could write to nothing but DEST's parent meanwhile.
    pub confined: bool,
    /// The layers, lowest first.
    pub layers: Vec<LayerDone>,
    /// Wall time in seconds.
    pub seconds: f64,
    /// CPU time of the whole process so far, user and system, in seconds.
    pub cpu_seconds: (f64, f64),
    /// Most memory that the process has held, in bytes.
    pub peak_rss_bytes: u64,
    /// The tree is in place, but the one that it replaced could not be removed.
    pub left_behind: Option<Error>,
}

/// A layer of an [`UnpackReport`].
#[derive(Debug)]
pub struct LayerDone {
    /// The media type, where the image gives one.
    pub media_type: Option<String>,
    /// What the unpacker says.
    pub report: LayerReport,
}

/// Unpacks an image.
///
/// # Errors
/// The first thing that went wrong; nothing has appeared at DEST then.
pub fn unpack(mut request: UnpackRequest) -> Result<UnpackReport> {
    let started = Instant::now();
    let dest = request.dest.take();
    let path = dest.as_ref().map(|d| d.path().to_owned());
    let confined = dest.as_ref().is_some_and(Dest::is_confined);
    let scratch = match &dest {
        Some(dest) => {
            let dir = dest.parent().try_clone_to_owned();
            Scratch::new(dir.map_err(|e| Error::host("duplicate a descriptor", e))?)
        }
        None => Scratch::system(),
    };
    if let Some(dest) = &dest {
        spare_the_source(&request.source, dest)?;
    }
    let image = source::open(
        &request.source,
        &Opening {
            platform: request.platform.as_ref(),
            limits: &request.limits,
            max_layers: request.max_layers,
            scratch: &scratch,
            cancel: &request.cancel,
        },
    )?;
    tracing::debug!(manifest = ?image.manifest_digest, layers = image.layers.len(), "image");
    let run = Run::new(&request, &image);
    let (layers, left_behind) = match dest {
        None => (run.all(|_, layer| layer.apply(&mut NullSink::new()))?, None),
        Some(dest) => {
            let staging = dest.stage()?;
            if request.whiteouts == Whiteouts::Overlay {
                check_trusted(&staging)?;
            }
            let layers = run.into_tree(&staging)?;
            if request.cancel.is_cancelled() {
                return Err(Error::new(Kind::Cancelled, "cancelled"));
            }
            (layers, staging.commit()?.err())
        }
    };
    let usage = sys::usage();
    Ok(UnpackReport {
        manifest_digest: image.manifest_digest,
        config_digest: image.config_digest,
        platform: image.platform,
        dest: path,
        confined,
        layers,
        seconds: started.elapsed().as_secs_f64(),
        cpu_seconds: (usage.user, usage.system),
        peak_rss_bytes: usage.peak_rss_bytes,
        left_behind,
    })
}

/// Refuses a destination that would be removed together with the source.
fn spare_the_source(source: &Source, dest: &Dest) -> Result<()> {
    if source.is_stdin() {
        return Ok(());
    }
    let (path, _) = source.locate()?;
    let blobs = path.join("blobs");
    let in_blobs = source.scheme() == Scheme::Oci
        && dest.path().canonicalize().is_ok_and(|dest| {
            blobs
                .canonicalize()
                .is_ok_and(|blobs| dest.starts_with(blobs))
        });
    if in_blobs || dest.holds(&path) {
        let m = format!("`{}` holds the image itself", dest.path().display());
        return Err(Error::new(Kind::Host, m).with_hint("choose another destination"));
    }
    Ok(())
}

/// The layers of an image on their way.
struct Run<'a> {
    request: &'a UnpackRequest,
    image: &'a Image,
    unpacker: Unpacker,
    /// How many layers may be started ahead of the one that is being applied.
    ahead: usize,
}

impl<'a> Run<'a> {
    fn new(request: &'a UnpackRequest, image: &'a Image) -> Self {
        let threads = request.threads.map_or_else(
            || std::thread::available_parallelism().map_or(2, NonZeroUsize::get),
            NonZeroUsize::get,
        );
        let mut unpacker = Unpacker::new()
            .limits(request.limits.clone())
            .threads(threads)
            .io(request.io)
            .cancel(request.cancel.clone());
        if let Some(threads) = request.decode_threads {
            unpacker = unpacker.decode_threads(threads.get());
        }
        if let Some(bytes) = request.memory_bytes {
            unpacker = unpacker.memory_budget_bytes(bytes);
        }
        Self {
            request,
            image,
            unpacker,
            ahead: threads.max(2),
        }
    }

    fn into_tree(self, staging: &Staging) -> Result<Vec<LayerDone>> {
        match self.request.whiteouts {
            Whiteouts::Overlay | Whiteouts::OverlayUserXattr => self.overlay(staging),
            _ => {
                let root = staging.tree().try_clone_to_owned();
                let root = root.map_err(|e| Error::host("duplicate a descriptor", e))?;
                let mut sink = self.unpacker.dir_sink(root, self.options(Vec::new()))?;
                self.all(|_, layer| layer.apply(&mut sink))
            }
        }
    }

    /// A directory for each layer, and the list of them.
    fn overlay(&self, staging: &Staging) -> Result<Vec<LayerDone>> {
        let mut lowers: Vec<Arc<OwnedFd>> = Vec::new();
        let mut names = Vec::new();
        let done = self.all(|n, layer| {
            let name = format!("{n:03}");
            let host = |e: io::Error| Error::host(format!("make the directory `{name}`"), e);
            let dir = layer_dir(staging, &name).map_err(host)?;
            let root = dir.try_clone().map_err(host)?;
            let options = self.options(lowers.clone());
            let mut sink = self.unpacker.dir_sink(root, options)?;
            let report = layer.apply(&mut sink as &mut dyn Sink)?;
            lowers.insert(0, Arc::new(dir));
            names.insert(0, name);
            Ok(report)
        })?;
        let list: String = names.iter().map(|n| format!("{n}\n")).collect();
        write_list(staging, &list).map_err(|e| Error::host(format!("write `{LOWERDIRS}`"), e))?;
        Ok(done)
    }

    fn options(&self, lowers: Vec<Arc<OwnedFd>>) -> DirOptions {
        let mut options = DirOptions::default();
        options.owners = self.request.owners.clone();
        options.whiteouts = self.request.whiteouts;
        options.lowers = lowers;
        options
    }

    /// Starts the layers, a few ahead, and gives them to `apply` in order. The first error drops,
    /// and so stops, what was started.
    fn all(
        &self,
        mut apply: impl FnMut(usize, Layer) -> Result<LayerReport>,
    ) -> Result<Vec<LayerDone>> {
        let layers = &self.image.layers;
        let count = layers.len();
        let part = |n: usize| format!("layer {} of {count}", n + 1);
        let mut started = VecDeque::new();
        let mut waiting = layers.iter().enumerate();
        let mut done = Vec::with_capacity(count);
        for (n, layer) in layers.iter().enumerate() {
            while started.len() <= self.ahead
                && let Some((n, next)) = waiting.next()
            {
                let handle = self.start(n, next).map_err(|e| match next.digest {
                    Some(digest) => e.in_part(part(n)).in_blob(digest),
                    None => e.in_part(part(n)),
                })?;
                started.push_back(handle);
            }
            let Some(handle) = started.pop_front() else {
                break;
            };
            tracing::debug!(layer = n, "applying");
            let report = apply(n, handle).map_err(|e| e.in_part(part(n)))?;
            done.push(LayerDone {
                media_type: layer.media_type.clone(),
                report,
            });
        }
        Ok(done)
    }

    fn start(&self, n: usize, layer: &LayerBlob) -> Result<Layer> {
        let expect = Expect {
            blob: layer.digest,
            blob_size: layer.size,
            diff_id: layer.diff_id,
            compression: layer.compression.filter(|_| !self.request.sniff),
        };
        let count = self.image.layers.len();
        let progress = self
            .request
            .watch
            .as_ref()
            .map(|watch| watch(n, count, layer.size));
        self.unpacker.start(layer.open()?, expect, progress)
    }
}

/// Fails if this process may not set the attributes that make directories opaque to overlayfs.
fn check_trusted(staging: &Staging) -> Result<()> {
    const PROBE: &str = "trusted.unlade.probe";
    match fsetxattr(staging.tree(), PROBE, b"y", XattrFlags::empty()) {
        Err(e @ (Errno::PERM | Errno::ACCESS)) => Err(Error::host(
            "set attributes in the namespace `trusted`, as --whiteouts overlay does",
            e,
        )
        .with_hint(
            "run as root, or use --whiteouts overlay-userxattr and mount with `-o userxattr`",
        )),
        // Where the file system has none, an image may do without.
        Err(_) => Ok(()),
        Ok(()) => fremovexattr(staging.tree(), PROBE)
            .map_err(|e| Error::host("remove an extended attribute", e)),
    }
}

fn layer_dir(staging: &Staging, name: &str) -> io::Result<OwnedFd> {
    let tree = staging.tree();
    mkdirat(tree, name, Mode::RWXU)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = openat(tree, name, flags, Mode::empty())?;
    fchmod(&dir, Mode::from_raw_mode(0o755))?;
    Ok(dir)
}

fn write_list(staging: &Staging, list: &str) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = openat(
        staging.tree().as_fd(),
        LOWERDIRS,
        flags,
        Mode::from_raw_mode(0o644),
    )?;
    std::fs::File::from(file).write_all(list.as_bytes())
}
