//! The wish to stop, and waiting that heeds it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// Set once, by a signal or by a caller; everything that waits looks at it.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Set by Ctrl-C, SIGTERM and SIGHUP. A second Ctrl-C ends the process at once, with 130.
    pub fn on_signals() -> Result<Self> {
        let stop = Self::default();
        signal_hook::flag::register_conditional_shutdown(SIGINT, 130, Arc::clone(&stop.0)).context("cannot watch for Ctrl-C")?;
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&stop.0)).context("cannot watch for signals")?;
        }
        Ok(stop)
    }

    /// Asks everything to stop.
    pub fn request(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether somebody asked.
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// An error when somebody asked.
    pub fn check(&self) -> Result<()> {
        if self.requested() {
            bail!("stopped on request");
        }
        Ok(())
    }
}

/// Calls `probe` until it yields a value; `Err` ends the wait at once.
///
/// Errors when `limit` is over, naming `what`, and when a stop was requested.
pub fn wait_until<T>(what: &str, limit: Duration, stop: &Stop, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let started = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        if let Some(value) = probe()? {
            return Ok(value);
        }
        stop.check()?;
        if started.elapsed() >= limit {
            bail!("waited {} s for {what}, in vain", limit.as_secs());
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_with_the_value_with_its_limit_or_with_the_stop() {
        let stop = Stop::default();
        let mut left = 3;
        let value = wait_until("a value", Duration::from_secs(5), &stop, || {
            left -= 1;
            Ok((left == 0).then_some(7))
        });
        assert_eq!(value.unwrap(), 7);

        let late = wait_until::<()>("rain", Duration::ZERO, &stop, || Ok(None)).unwrap_err();
        assert_eq!(late.to_string(), "waited 0 s for rain, in vain");

        stop.request();
        let stopped = wait_until::<()>("rain", Duration::from_secs(5), &stop, || Ok(None)).unwrap_err();
        assert_eq!(stopped.to_string(), "stopped on request");
    }
}
