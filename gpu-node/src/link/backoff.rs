//! How long to wait before the next attempt.

use std::time::Duration;

/// Exponential backoff with jitter: attempt `n` waits between half and the whole of `first × 2^n`, at most `most`.
///
/// The jitter keeps a thousand nodes from coming back in the same instant after the meter restarts.
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    first: Duration,
    most: Duration,
    attempt: u32,
}

impl Backoff {
    /// Starts with `first`, never above `most`.
    pub(super) fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, attempt: 0 }
    }

    /// The wait before the next attempt; `jitter` is uniform in [0, 1).
    pub(super) fn next(&mut self, jitter: f64) -> Duration {
        let whole = self.first.saturating_mul(1u32.checked_shl(self.attempt).unwrap_or(u32::MAX)).min(self.most);
        self.attempt = self.attempt.saturating_add(1).min(31);
        whole.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
    }

    /// Goes straight to the longest wait: for refusals that only a person's act will change.
    pub(super) fn exhaust(&mut self) {
        self.attempt = 31;
    }

    /// The next wait is the first again.
    pub(super) fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_most_and_start_again_after_a_reset() {
        let (first, most) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut backoff = Backoff::new(first, most);
        let waits: Vec<u128> = (0..6).map(|_| backoff.next(1.0).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(backoff.next(0.0).as_millis(), 500);
        for _ in 0..100 {
            assert!(backoff.next(0.5) <= most);
        }
        backoff.reset();
        assert_eq!(backoff.next(1.0), first);
        backoff.exhaust();
        assert_eq!(backoff.next(1.0), most);
    }
}
