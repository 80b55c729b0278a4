//! A bar for each layer that is on its way.

use std::sync::{Arc, OnceLock};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use unlade_unpack::Progress;

use super::args::When;
use crate::unpack::Watch;

/// All bars.
pub(super) struct Bars(MultiProgress);

impl Bars {
    /// Bars on stderr, if they are wanted.
    pub(super) fn new(when: When, quiet: bool) -> Option<Self> {
        let wanted = super::wanted(when, quiet);
        wanted.then(|| Self(MultiProgress::with_draw_target(ProgressDrawTarget::stderr())))
    }

    /// Makes a bar for each layer.
    pub(super) fn watch(&self) -> Box<Watch> {
        let bars = self.0.clone();
        Box::new(move |layer, count, bytes| {
            let label = format!("layer {}/{count}", layer + 1);
            Arc::new(Bar {
                bars: bars.clone(),
                label,
                bytes,
                bar: OnceLock::new(),
            })
        })
    }

    /// Removes the bars that are left.
    pub(super) fn clear(&self) {
        // A terminal that is gone needs no clearing.
        let _ = self.0.clear();
    }
}

struct Bar {
    bars: MultiProgress,
    label: String,
    bytes: Option<u64>,
    /// Appears with the layer's first bytes.
    bar: OnceLock<ProgressBar>,
}

impl Bar {
    fn bar(&self, total: Option<u64>) -> &ProgressBar {
        self.bar.get_or_init(|| {
            let known = "{prefix:16} {bar:30} {bytes:>11} of {total_bytes:<11} {bytes_per_sec}";
            let unknown = "{prefix:16} {spinner} {bytes:>11} {bytes_per_sec}";
            let (bar, template) = match total.or(self.bytes) {
                Some(total) => (ProgressBar::new(total), known),
                None => (ProgressBar::no_length(), unknown),
            };
            let style = ProgressStyle::with_template(template);
            let bar = bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            self.bars.add(bar.with_prefix(self.label.clone()))
        })
    }
}

impl Progress for Bar {
    fn advance(&self, compressed: u64, total: Option<u64>) {
        self.bar(total).set_position(compressed);
    }

    fn done(&self) {
        self.bar(None).finish_and_clear();
    }
}
