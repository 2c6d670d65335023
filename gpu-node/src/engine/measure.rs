//! Load and measured speed of an engine.

use std::time::Duration;

/// Work older than this counts half in the measured speed.
const HALF_LIFE: Duration = Duration::from_secs(5);

/// A snapshot for heartbeats and the operator's status.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct EngineLoad {
    pub active: usize,
    pub queued: usize,
    /// Requests decoded at once, at most.
    pub capacity: usize,
    /// All requests together, over the last seconds of work; 0 before any.
    pub decode_tokens_per_s: f32,
    pub prefill_tokens_per_s: f32,
    /// Prompt tokens that did not have to be computed, since the start.
    pub prefix_hit_tokens: u64,
    /// Requests that gave their pages back for a while, since the start.
    pub preemptions: u64,
    /// Held by active requests.
    pub kv_used_bytes: usize,
    pub kv_budget_bytes: usize,
    /// Weights and held KV pages.
    pub memory_used_bytes: usize,
}

/// Tokens over seconds of work, the recent ones counting more. Idle time does not count.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rate {
    tokens: f64,
    seconds: f64,
}

impl Rate {
    pub(super) fn add(&mut self, tokens: usize, took: Duration) {
        let keep = 0.5f64.powf(took.as_secs_f64() / HALF_LIFE.as_secs_f64());
        self.tokens = self.tokens * keep + tokens as f64;
        self.seconds = self.seconds * keep + took.as_secs_f64();
    }

    pub(super) fn per_second(&self) -> f32 {
        if self.seconds > 0.0 { (self.tokens / self.seconds) as f32 } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recent_work_outweighs_old_work() {
        let mut rate = Rate::default();
        assert_eq!(rate.per_second(), 0.0);
        for _ in 0..100 {
            rate.add(1, Duration::from_secs(1));
        }
        for _ in 0..30 {
            rate.add(10, Duration::from_secs(1));
        }
        assert!((9.0..=10.0).contains(&rate.per_second()), "{}", rate.per_second());
    }
}
