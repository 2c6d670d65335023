//! What a node's measurements come to: which one counts, until when, and whether it is time for another. Pure: no I/O, no clock.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Measurements of a node and a model of which the best counts: one may meet a cold cache, or a busy line.
const RUNS_MAX: usize = 3;
/// Periods after which a measurement counts no more, when no other could be made.
const PERIODS_KEPT: u64 = 4;
/// From an attempt that came to nothing, or that was one of the first, to the next, seconds.
const RETRY_S: u64 = 120;

/// One measurement.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// 10^12 multiplications and additions of weights per second, the way to the node and back included.
    pub tflops: f64,
    /// When, seconds since the epoch.
    pub at_s: u64,
    /// With which model.
    pub model: String,
    /// Whether fallback hardware computed the same and found the same.
    pub audited: bool,
    /// When it stops to count, seconds since the epoch.
    until_s: u64,
}

impl Run {
    /// A measurement of `at_s`, one of those made each `every_s`.
    pub(in super::super) fn new(model: &str, tflops: f64, audited: bool, at_s: u64, every_s: u64) -> Self {
        let until_s = at_s.saturating_add(every_s.saturating_mul(PERIODS_KEPT));
        Self { tflops, at_s, model: model.to_owned(), audited, until_s }
    }
}

/// A node's measurements, as long as its link stands.
#[derive(Default)]
pub struct Measurements(Mutex<BTreeMap<String, Runs>>);

#[derive(Default)]
struct Runs {
    attempted_at_s: Option<u64>,
    last: VecDeque<Run>,
}

impl Measurements {
    /// The best of the last measurements that count at `now_s`; what an auditor confirmed before what nobody looked at.
    pub fn best(&self, now_s: u64) -> Option<Run> {
        let models = self.models();
        let counting = models.values().flat_map(|runs| &runs.last).filter(|run| now_s < run.until_s);
        counting.max_by(|a, b| a.audited.cmp(&b.audited).then(a.tflops.total_cmp(&b.tflops))).cloned()
    }

    /// Whether it is time to measure with `model`: each `every_s`, and sooner until there are as many as count.
    pub(in super::super) fn is_due(&self, model: &str, now_s: u64, every_s: u64) -> bool {
        let models = self.models();
        let Some(runs) = models.get(model) else { return true };
        let has_enough = runs.last.iter().filter(|run| now_s < run.until_s).count() == RUNS_MAX;
        let last_run_s = runs.last.back().map(|run| run.at_s);
        let wait_s = if has_enough && runs.attempted_at_s == last_run_s { every_s } else { RETRY_S.min(every_s) };
        runs.attempted_at_s.is_none_or(|at_s| now_s >= at_s.saturating_add(wait_s))
    }

    /// Notes that a measurement with `model` begins.
    pub(in super::super) fn attempt(&self, model: &str, now_s: u64) {
        self.models().entry(model.to_owned()).or_default().attempted_at_s = Some(now_s);
    }

    /// Books a measurement.
    pub(in super::super) fn add(&self, run: Run) {
        let mut models = self.models();
        let last = &mut models.entry(run.model.clone()).or_default().last;
        if last.len() == RUNS_MAX {
            last.pop_front();
        }
        last.push_back(run);
    }

    /// Drops what nobody confirmed: the node was found to answer before it computed.
    pub(in super::super) fn distrust(&self) {
        self.models().values_mut().for_each(|runs| runs.last.retain(|run| run.audited));
    }

    fn models(&self) -> MutexGuard<'_, BTreeMap<String, Runs>> {
        // Whole after every change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY_S: u64 = 3_600;

    fn measured(measurements: &Measurements, tflops: f64, audited: bool, at_s: u64) {
        measurements.attempt("m", at_s);
        measurements.add(Run::new("m", tflops, audited, at_s, EVERY_S));
    }

    #[test]
    fn the_best_of_the_last_three_counts_until_it_is_four_periods_old() {
        let measurements = Measurements::default();
        assert_eq!(measurements.best(0), None);
        [9.0, 2.0, 4.0, 3.0].into_iter().zip(1..).for_each(|(tflops, at_s)| measured(&measurements, tflops, false, at_s));
        assert_eq!(measurements.best(5).map(|run| (run.tflops, run.at_s)), Some((4.0, 3)), "the first one of four is forgotten");
        assert_eq!(measurements.best(3 + 4 * EVERY_S).map(|run| run.tflops), Some(3.0));
        assert_eq!(measurements.best(4 + 4 * EVERY_S), None);
    }

    #[test]
    fn what_an_auditor_confirmed_counts_before_what_nobody_looked_at() {
        let measurements = Measurements::default();
        measured(&measurements, 900.0, false, 1);
        measured(&measurements, 5.0, true, 2);
        assert_eq!(measurements.best(3).map(|run| (run.tflops, run.audited)), Some((5.0, true)));
        measurements.distrust();
        assert_eq!(measurements.best(3).map(|run| run.tflops), Some(5.0));
        let unaudited = Measurements::default();
        measured(&unaudited, 900.0, false, 1);
        unaudited.distrust();
        assert_eq!(unaudited.best(2), None);
    }

    #[test]
    fn the_first_three_come_quickly_and_then_one_each_period() {
        let measurements = Measurements::default();
        let mut at_s = 1_000;
        for _ in 0..RUNS_MAX {
            assert!(measurements.is_due("m", at_s, EVERY_S));
            measured(&measurements, 1.0, false, at_s);
            assert!(!measurements.is_due("m", at_s + RETRY_S - 1, EVERY_S));
            at_s += RETRY_S;
        }
        let last_s = at_s - RETRY_S;
        assert!(!measurements.is_due("m", last_s + EVERY_S - 1, EVERY_S) && measurements.is_due("m", last_s + EVERY_S, EVERY_S));
        assert!(measurements.is_due("other", at_s, EVERY_S), "each model for itself");
    }

    #[test]
    fn an_attempt_that_came_to_nothing_is_made_again_soon_and_not_at_once() {
        let measurements = Measurements::default();
        (0..3).for_each(|at_s| measured(&measurements, 1.0, false, at_s));
        measurements.attempt("m", EVERY_S);
        assert!(!measurements.is_due("m", EVERY_S + RETRY_S - 1, EVERY_S) && measurements.is_due("m", EVERY_S + RETRY_S, EVERY_S));
        assert!(measurements.is_due("m", EVERY_S + 5, 5), "a shorter period is the longest wait");
    }
}
