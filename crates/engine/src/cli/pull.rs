//! `unlade pull`.

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use clap::Args;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use unlade_unpack::Cancel;

use super::{args::When, globals::Globals, human, out, report};
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
    let reference = Reference::parse(&args.name)?;
    if args.all_tags && (reference.tag().is_some() || reference.digest().is_some()) {
        return Err(
            Error::new(Kind::BadInput, "tag can't be used with --all-tags/-a")
                .with_hint("give the repository's name alone"),
        );
    }
    let engine = globals.engine(cancel)?;
    if !args.all_tags {
        if reference.tag().is_none() && reference.digest().is_none() && !args.quiet {
            out::line("Using default tag: latest")?;
        }
        return one(&engine, reference.with_default_tag(), args, cancel);
    }
    let tags = engine.tags(&reference)?;
    for tag in tags {
        one(&engine, reference.with_tag(&tag)?, args, cancel)?;
    }
    Ok(())
}

fn one(engine: &Engine, reference: Reference, args: &PullArgs, cancel: &Cancel) -> Result<()> {
    let shown = reference.familiar();
    let bars = super::wanted(args.progress, args.quiet).then(Bars::new);
    let mut request = request(engine, reference.clone(), cancel);
    request.platform.clone_from(&args.platform);
    if let Some(bars) = &bars {
        request.watch = bars.clone();
    }
    if !args.quiet {
        let version = reference.tag().map(str::to_owned);
        let version = version.or_else(|| reference.digest().map(ToString::to_string));
        let (version, path) = (version.unwrap_or_default(), reference.familiar_repository());
        out::line(&format!("{version}: Pulling from {path}"))?;
    }
    let done = engine.pull(&request);
    if let Some(bars) = &bars {
        bars.clear();
    }
    let pulled = done.map_err(|e| e.context(format!("pull {shown}")))?;
    if let Some(path) = &args.report {
        let text = format!("{:#}\n", json(&reference, &pulled));
        if path.as_os_str() == "-" {
            return out::text(&text);
        }
        fs::write(path, text)
            .map_err(|e| Error::host(format!("write the report `{}`", path.display()), e))?;
    }
    if !args.quiet {
        let status = if pulled.up_to_date {
            "Image is up to date"
        } else {
            "Downloaded newer image"
        };
        out::line(&format!(
            "Digest: {}\nStatus: {status} for {shown}",
            pulled.digest
        ))?;
    }
    out::line(&reference.canonical())
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
