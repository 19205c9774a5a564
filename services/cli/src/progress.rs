//! How a pull is shown: bars on a terminal, JSON lines for programs, or not at all.

use std::collections::HashMap;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use larder_oci::Digest;
use larder_provider::{Progress, Watch};

use crate::screen::Screen;

/// Bars shown at a time; more would scroll a terminal away.
const BARS_MAX: usize = 12;

/// Chooses how to show pulls.
pub(crate) fn watch(screen: Screen) -> Option<Arc<dyn Watch>> {
    if screen.quiet {
        None
    } else if screen.json {
        Some(Arc::new(Lines))
    } else if io::stderr().is_terminal() {
        Some(Arc::new(Bars::new()))
    } else {
        None
    }
}

/// One JSON line per event.
struct Lines;

#[derive(serde::Serialize)]
struct Line<'a> {
    event: &'static str,
    #[serde(flatten)]
    progress: &'a Progress,
}

impl Watch for Lines {
    fn progress(&self, blob: &Progress) {
        let line = Line { event: "progress", progress: blob };
        if let Ok(json) = serde_json::to_string(&line) {
            let _ = writeln!(io::stdout(), "{json}");
        }
    }
}

/// A bar per blob, and one for all.
struct Bars {
    screen: MultiProgress,
    total: ProgressBar,
    blobs: Mutex<HashMap<Digest, Blob>>,
}

struct Blob {
    received_bytes: u64,
    bar: Option<ProgressBar>,
}

impl Bars {
    fn new() -> Self {
        let screen = MultiProgress::new();
        let total =
            screen.add(ProgressBar::new(0).with_style(style(
                "total        {wide_bar} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}",
            )));
        Self { screen, total, blobs: Mutex::new(HashMap::new()) }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is well-formed").progress_chars("=> ")
}

impl Watch for Bars {
    fn progress(&self, blob: &Progress) {
        let mut blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        let showing = blobs.values().filter(|known| known.bar.is_some()).count();
        let known = blobs.entry(blob.digest.clone()).or_insert_with(|| {
            self.total.inc_length(blob.size);
            Blob { received_bytes: 0, bar: None }
        });
        if known.bar.is_none() && !blob.stored && blob.received_bytes > 0 && showing < BARS_MAX {
            let bar = ProgressBar::new(blob.size).with_prefix(blob.digest.hex()[..12].to_owned());
            let bar = bar.with_style(style("{prefix} {wide_bar} {bytes}/{total_bytes}"));
            known.bar = Some(self.screen.insert_before(&self.total, bar));
        }
        // A blob that had to begin anew goes back.
        self.total.inc(blob.received_bytes.saturating_sub(known.received_bytes));
        self.total.dec(known.received_bytes.saturating_sub(blob.received_bytes));
        known.received_bytes = blob.received_bytes;
        if let Some(bar) = &known.bar {
            bar.set_position(blob.received_bytes);
        }
        if blob.stored
            && let Some(bar) = known.bar.take()
        {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        self.total.finish_and_clear();
    }
}
