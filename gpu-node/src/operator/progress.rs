//! Progress on a terminal as bars, elsewhere as one line per step.

use std::io::IsTerminal;
use std::sync::Mutex;

use indicatif::{ProgressBar, ProgressStyle};

use crate::model::import::Progress;

/// Writes to standard error, so that standard output stays data.
pub(super) struct TerminalProgress {
    bar: Mutex<Option<ProgressBar>>,
    bars: bool,
}

impl TerminalProgress {
    pub(super) fn new() -> Self {
        Self { bar: Mutex::new(None), bars: std::io::stderr().is_terminal() }
    }
}

impl Progress for TerminalProgress {
    fn begin(&self, label: &str, total_bytes: u64) {
        if !self.bars {
            eprintln!("{label}: {:.1} MB", total_bytes as f64 / 1e6);
            return;
        }
        let bar = ProgressBar::new(total_bytes).with_message(label.to_owned());
        if let Ok(style) = ProgressStyle::with_template("{msg:16} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec}") {
            bar.set_style(style.progress_chars("=> "));
        }
        if let Ok(mut current) = self.bar.lock() {
            *current = Some(bar);
        }
    }

    fn advance(&self, bytes: u64) {
        if let Ok(current) = self.bar.lock()
            && let Some(bar) = current.as_ref()
        {
            bar.inc(bytes);
        }
    }

    fn end(&self) {
        if let Ok(mut current) = self.bar.lock()
            && let Some(bar) = current.take()
        {
            bar.finish();
        }
    }
}
