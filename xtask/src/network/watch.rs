//! One status line for each process, and the alarm when one dies.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::Network;
use crate::stop::Stop;

const PERIOD: Duration = Duration::from_secs(1);

/// What a process is doing: `state` is a word or two, `figures` change all the time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Name of the process.
    pub name: String,
    /// Such as `ready` or `not ready: no chain`.
    pub state: String,
    /// Such as `block 812`.
    pub figures: String,
}

/// Shows status lines until a stop is requested (`Ok`) or a process dies (an error that says which and why).
///
/// At a terminal the lines are refreshed in place; elsewhere a line is printed when a state changes.
pub fn watch(network: &mut Network, stop: &Stop) -> Result<()> {
    let mut lines = Lines::new();
    while !stop.requested() {
        if let Some(obituary) = network.obituary() {
            lines.clear();
            bail!(obituary);
        }
        for status in network.statuses() {
            lines.show(status);
        }
        let next = Instant::now() + PERIOD;
        while !stop.requested() && Instant::now() < next {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    lines.clear();
    Ok(())
}

struct Lines {
    bars: Option<MultiProgress>,
    shown: Vec<(Status, Option<ProgressBar>)>,
}

impl Lines {
    fn new() -> Self {
        Self { bars: std::io::stderr().is_terminal().then(MultiProgress::new), shown: Vec::new() }
    }

    fn show(&mut self, status: Status) {
        let line = format!("{:<10} {:<22} {}", status.name, status.state, status.figures);
        let Some(bars) = &self.bars else {
            match self.shown.iter_mut().find(|(shown, _)| shown.name == status.name) {
                Some((shown, _)) if shown.state == status.state => {}
                Some((shown, _)) => {
                    println!("{}", line.trim_end());
                    *shown = status;
                }
                None => {
                    println!("{}", line.trim_end());
                    self.shown.push((status, None));
                }
            }
            return;
        };
        if let Some((_, Some(bar))) = self.shown.iter().find(|(shown, _)| shown.name == status.name) {
            bar.set_message(line);
            return;
        }
        let style = ProgressStyle::with_template("  {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bar = bars.add(ProgressBar::new_spinner().with_style(style));
        bar.set_message(line);
        self.shown.push((status, Some(bar)));
    }

    fn clear(&self) {
        for bar in self.shown.iter().filter_map(|(_, bar)| bar.as_ref()) {
            bar.finish_and_clear();
        }
    }
}
