//! Load and measured speed of an engine.

use std::time::{Duration, Instant};

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
    /// Share of the last seconds in which the engine's thread computed, 0 to 100.
    pub utilization_percent: f32,
    /// Most multiplications and additions of weights per second in any step so far, in 10^12; 0 before any.
    pub tflops: f32,
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

/// Share of time at work, the last seconds counting more.
#[derive(Debug, Clone, Copy)]
pub(super) struct Busy {
    works: bool,
    since: Instant,
    busy_s: f64,
    all_s: f64,
}

impl Busy {
    /// Idle from `now` on.
    pub(super) fn idle(now: Instant) -> Self {
        Self { works: false, since: now, busy_s: 0.0, all_s: 0.0 }
    }

    /// Work begins or ends; again: the same.
    pub(super) fn set(&mut self, works: bool, now: Instant) {
        self.advance(now);
        self.works = works;
    }

    /// 0 to 100.
    pub(super) fn percent(&mut self, now: Instant) -> f32 {
        self.advance(now);
        if self.all_s > 0.0 { (100.0 * self.busy_s / self.all_s) as f32 } else { 0.0 }
    }

    fn advance(&mut self, now: Instant) {
        let passed_s = now.saturating_duration_since(self.since).as_secs_f64();
        let keep = 0.5f64.powf(passed_s / HALF_LIFE.as_secs_f64());
        self.busy_s = self.busy_s * keep + if self.works { passed_s } else { 0.0 };
        self.all_s = self.all_s * keep + passed_s;
        self.since = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utilisation_is_the_share_of_time_at_work() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut busy = Busy::idle(start);
        assert_eq!(busy.percent(at(0)), 0.0);
        for second in 0..60 {
            busy.set(second % 2 == 0, at(second));
        }
        let half = busy.percent(at(60));
        assert!((45.0..=55.0).contains(&half), "{half}");
        busy.set(true, at(60));
        assert!(busy.percent(at(120)) > 99.0);
        busy.set(false, at(120));
        assert!(busy.percent(at(180)) < 1.0);
    }

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
