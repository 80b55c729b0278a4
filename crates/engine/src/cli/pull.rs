//! `unlade pull`.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use clap::Args;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use unlade_unpack::Cancel;

use super::{args::When, flush, globals::Globals, human, out, report, trust::Trust};
use crate::{
    config::KeepBlobs,
    engine::Engine,
    error::{Error, Kind, Result},
    image::{Descriptor, Platform, name::Reference},
    pull::{LayerEvent, LayerPulled, PullRequest, PullWatch, Pulled, Quiet},
};

/// Layers of an image that are pulled, at most.
const MOST_LAYERS: usize = 1000;

#[derive(Debug, Args)]
pub(super) struct PullArgs {
    /// The image: NAME[:TAG|@DIGEST].
    #[arg(value_name = "NAME")]
    name: String,

    /// Pull all tags of the repository.
    #[arg(short, long)]
    all_tags: bool,

    /// Which image of several: os/arch[/variant]. Default: this machine's.
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,

    /// Say nothing but the image's name.
    #[arg(short, long)]
    quiet: bool,

    /// Write a report as JSON to a file, or - for stdout.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,

    /// When to show a bar for each layer.
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = When::Auto)]
    progress: When,

    #[command(flatten)]
    trust: Trust,
}

/// A pull by the configuration of `engine`.
pub(super) fn request(engine: &Engine, reference: Reference, cancel: &Cancel) -> PullRequest {
    let config = engine.config();
    PullRequest {
        reference,
        platform: None,
        at_once: config.max_concurrent_downloads,
        max_layers: MOST_LAYERS,
        keep_blobs: config.keep_blobs == KeepBlobs::Always,
        complete: false,
        cancel: cancel.clone(),
        watch: Arc::new(Quiet),
    }
}

pub(super) fn run(globals: &Globals, args: &PullArgs, cancel: &Cancel) -> Result<()> {
    args.trust.check()?;
    let reference = Reference::parse(&args.name)?;
    if args.all_tags && (reference.tag().is_some() || reference.digest().is_some()) {
        return Err(
            Error::new(Kind::BadInput, "tag can't be used with --all-tags/-a")
                .with_hint("give the repository's name alone"),
        );
    }
    if reference.repository() == "docker.io/library/scratch" {
        let m = "'scratch' is a reserved name";
        return Err(Error::new(Kind::BadInput, m)
            .with_hint("it stands for an image without layers, and cannot be pulled"));
    }
    let engine = globals.engine(cancel)?;
    let mut to = args.report.as_deref().map(Report::open).transpose()?;
    if !args.all_tags {
        if reference.tag().is_none() && reference.digest().is_none() && !args.quiet {
            out::line("Using default tag: latest")?;
        }
        one(&engine, reference.with_default_tag(), args, &mut to, cancel)?;
    } else {
        for tag in engine.tags(&reference)? {
            one(&engine, reference.with_tag(&tag)?, args, &mut to, cancel)?;
        }
    }
    flush::soon(&engine);
    Ok(())
}

/// Where `--report` goes: opened before the work, and written once an image; of several tags a
/// document each.
enum Report<'a> {
    Stdout,
    File(&'a Path, File),
}

impl<'a> Report<'a> {
    fn open(path: &'a Path) -> Result<Self> {
        if path.as_os_str() == "-" {
            return Ok(Self::Stdout);
        }
        let file = File::create(path).map_err(|e| {
            Error::host(format!("open the report `{}`", path.display()), e)
                .with_hint("choose a file that can be written for --report")
        })?;
        Ok(Self::File(path, file))
    }

    fn write(&mut self, text: &str) -> Result<()> {
        match self {
            Self::Stdout => out::text(text),
            Self::File(path, file) => file
                .write_all(text.as_bytes())
                .map_err(|e| Error::host(format!("write the report `{}`", path.display()), e)),
        }
    }
}

fn one(
    engine: &Engine,
    reference: Reference,
    args: &PullArgs,
    to: &mut Option<Report<'_>>,
    cancel: &Cancel,
) -> Result<()> {
    let shown = reference.familiar();
    if !args.quiet {
        let version = reference.tag().map(str::to_owned);
        let version = version.or_else(|| reference.digest().map(ToString::to_string));
        let (version, path) = (version.unwrap_or_default(), reference.familiar_repository());
        out::line(&format!("{version}: Pulling from {path}"))?;
    }
    let bars = super::wanted(args.progress, args.quiet).then(Bars::new);
    let platform = args.platform.as_ref();
    let pulled = watched(engine, reference.clone(), platform, bars, cancel)?;
    if let Some(to) = to {
        to.write(&format!("{:#}\n", json(&reference, &pulled)))?;
        if matches!(to, Report::Stdout) {
            return Ok(());
        }
    }
    if !args.quiet {
        out::line(&status(&pulled, &shown))?;
    }
    out::line(&reference.canonical())
}

/// Pulls one image behind bars, if there are any.
fn watched(
    engine: &Engine,
    reference: Reference,
    platform: Option<&Platform>,
    bars: Option<Arc<Bars>>,
    cancel: &Cancel,
) -> Result<Pulled> {
    let shown = reference.familiar();
    let mut request = request(engine, reference, cancel);
    request.platform = platform.cloned();
    if let Some(bars) = &bars {
        request.watch = bars.clone();
    }
    let done = engine.pull(&request);
    if let Some(bars) = &bars {
        bars.clear();
    }
    done.map_err(|e| e.context(format!("pull {shown}")))
}

/// What docker says of an image that was pulled.
fn status(pulled: &Pulled, shown: &str) -> String {
    let status = if pulled.up_to_date {
        "Image is up to date"
    } else {
        "Downloaded newer image"
    };
    format!("Digest: {}\nStatus: {status} for {shown}", pulled.digest)
}

/// A name as it is shown to people, with its tag.
pub(super) fn shown(name: &str) -> String {
    Reference::parse(name).map_or_else(|_| name.to_owned(), |r| r.with_default_tag().familiar())
}

/// Pulls an image that a container is to be made of. All that is said goes to standard error.
pub(super) fn for_run(
    engine: &Engine,
    name: &str,
    platform: Option<&Platform>,
    quiet: bool,
    cancel: &Cancel,
) -> Result<()> {
    let reference = Reference::parse(name)?.with_default_tag();
    let shown = reference.familiar();
    let bars = super::wanted(When::Auto, quiet).then(Bars::new);
    let pulled = watched(engine, reference, platform, bars, cancel)?;
    flush::soon(engine);
    if !quiet {
        super::say(&status(&pulled, &shown));
    }
    Ok(())
}

fn json(reference: &Reference, pulled: &Pulled) -> Value {
    json!({
        "report_version": report::VERSION,
        "unlade_version": env!("CARGO_PKG_VERSION"),
        "name": reference.canonical(),
        "image_id": pulled.id.to_string(),
        "digest": pulled.digest.to_string(),
        "manifest_digest": pulled.manifest.to_string(),
        "up_to_date": pulled.up_to_date,
        "resolve_seconds": pulled.resolve_seconds,
        "seconds": pulled.seconds,
        "layers": pulled.layers.iter().map(layer).collect::<Vec<_>>(),
    })
}

fn layer(layer: &LayerPulled) -> Value {
    json!({
        "digest": layer.blob.digest.to_string(),
        "size": layer.blob.size,
        "media_type": layer.blob.media_type,
        "layer": layer.id.to_string(),
        "existed": layer.report.is_none(),
        "received_bytes": layer.received_bytes,
        "resumed_bytes": layer.resumed_bytes,
        "bytes_on_disk": layer.bytes,
        "seconds": layer.seconds,
        "unpack": layer.report.as_ref().map(|r| report::layer(Some(&layer.blob.media_type), r)),
    })
}

/// A bar for each layer, as docker shows them.
#[derive(Debug)]
struct Bars {
    all: MultiProgress,
    layers: Mutex<Vec<Bar>>,
}

#[derive(Debug)]
struct Bar {
    bar: ProgressBar,
    size: u64,
}

impl Bars {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            all: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()),
            layers: Mutex::default(),
        })
    }

    fn clear(&self) {
        // A terminal that is gone needs no clearing.
        let _ = self.all.clear();
    }
}

impl PullWatch for Bars {
    fn chosen(&self, layers: &[Descriptor]) {
        let style =
            ProgressStyle::with_template("{prefix}: {msg:14} {bar:30} {bytes} / {total_bytes}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
        let make = |layer: &Descriptor| {
            let digest = layer.digest.hex();
            let bar = ProgressBar::new(layer.size).with_style(style.clone());
            let bar = bar.with_prefix(human::short_id(&digest).to_owned());
            let bar = self.all.add(bar);
            bar.set_message("Waiting");
            Bar {
                bar,
                size: layer.size,
            }
        };
        *self.layers.lock().unwrap_or_else(PoisonError::into_inner) =
            layers.iter().map(make).collect();
    }

    fn layer(&self, n: usize, event: LayerEvent) {
        let layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Bar { bar, size }) = layers.get(n) else {
            return;
        };
        match event {
            LayerEvent::Exists => bar.finish_with_message("Already exists"),
            LayerEvent::Waiting => bar.set_message("Waiting"),
            LayerEvent::Received(bytes) => {
                bar.set_message("Downloading");
                bar.set_position(bytes);
            }
            // Downloading is ahead; what is unpacked is shown once all has come.
            LayerEvent::Unpacked(bytes) if bar.position() >= *size => {
                bar.set_message(if bytes >= *size {
                    "Verifying"
                } else {
                    "Extracting"
                });
            }
            LayerEvent::Unpacked(_) => {}
            LayerEvent::Done => bar.finish_with_message("Pull complete"),
        }
    }
}
