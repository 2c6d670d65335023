//! Log-probabilities of a token and of the likeliest ones beside it (`docs/numerics.md`, "Sampler and log-probabilities").
//!
//! Of the model's own distribution: before penalties, bias, format and temperature, as OpenAI's API has it.

use std::cmp::Ordering;

use wire::node::TokenLogprobs;

use super::sampler::greatest;
use crate::backend::cpu::weights;

/// ln x for x ≥ 1 by `x = m · 2^e`, `m` in (√½, √2], and `ln m = 2 artanh((m − 1) / (m + 1))` to the 19th power.
///
/// Within 1e-15 of the logarithm. Plain f64 operations in one order, so that the bits do not depend on a system's library.
pub(super) fn ln(x: f64) -> f64 {
    /// The explicit bits of an f64's mantissa, and the exponent of 1.
    const MANTISSA: u64 = (1 << 52) - 1;
    const BIAS: i64 = 1023;
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as i64 - BIAS;
    let mut mantissa = f64::from_bits((bits & MANTISSA) | ((BIAS as u64) << 52));
    if mantissa > std::f64::consts::SQRT_2 {
        (mantissa, exponent) = (mantissa * 0.5, exponent + 1);
    }
    let t = (mantissa - 1.0) / (mantissa + 1.0);
    let square = t * t;
    let mut series = 1.0 / 19.0;
    for power in [17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        series = series * square + 1.0 / power;
    }
    exponent as f64 * std::f64::consts::LN_2 + 2.0 * t * series
}

/// The logarithm of softmax, prepared for one position.
pub(super) struct LogSoftmax<'a> {
    logits: &'a [f32],
    max: f32,
    ln_sum: f64,
}

impl<'a> LogSoftmax<'a> {
    /// `logits` are finite and at least one. The weights e^(logit − max) are added in f64, ascending by id.
    pub(super) fn new(logits: &'a [f32], scratch: &mut Vec<f32>) -> Self {
        let (max, _) = greatest(logits);
        weights(logits, max, 1.0, scratch);
        let sum: f64 = scratch.iter().map(|weight| f64::from(*weight)).sum();
        Self { logits, max, ln_sum: ln(sum) }
    }

    /// Of `token`, and of the `count` likeliest ones.
    pub(super) fn of(&self, token: u32, count: usize) -> TokenLogprobs {
        let logprob = self.logits.get(token as usize).map_or(TokenLogprobs::LEAST, |logit| self.at(*logit));
        TokenLogprobs { logprob, top: self.likeliest(count) }
    }

    /// Rounded once, to f32.
    fn at(&self, logit: f32) -> f32 {
        let logprob = f64::from(logit) - f64::from(self.max) - self.ln_sum;
        (logprob as f32).clamp(TokenLogprobs::LEAST, 0.0)
    }

    fn likeliest(&self, count: usize) -> Vec<(u32, f32)> {
        let mut top: Vec<(f32, u32)> = Vec::with_capacity(count + 1);
        for (&logit, id) in self.logits.iter().zip(0..) {
            // Ids ascend, so an equal logit comes after those that are there.
            if top.len() == count && top.last().is_none_or(|(least, _)| logit.total_cmp(least) != Ordering::Greater) {
                continue;
            }
            let place = top.partition_point(|(other, _)| other.total_cmp(&logit) != Ordering::Less);
            top.insert(place, (logit, id));
            top.truncate(count);
        }
        top.into_iter().map(|(logit, id)| (id, self.at(logit))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scored(logits: &[f32], token: u32, count: usize) -> TokenLogprobs {
        LogSoftmax::new(logits, &mut Vec::new()).of(token, count)
    }

    /// In f64 throughout, with the system's functions.
    fn reference(logits: &[f32], token: usize) -> f64 {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|logit| (f64::from(*logit) - f64::from(max)).exp()).sum();
        f64::from(logits[token]) - f64::from(max) - sum.ln()
    }

    #[test]
    fn ln_is_within_its_stated_error() {
        let mut worst = 0.0f64;
        for i in 0..200_000u32 {
            let x = 1.0 + f64::from(i).powi(2) * 1e-4;
            worst = worst.max((ln(x) - x.ln()).abs() / x.ln().max(1.0));
        }
        assert!(worst < 1e-15, "{worst:e}");
        assert_eq!(ln(1.0), 0.0);
    }

    /// Bits that must not change: those of logits i mod 7 − 3 and one greater, made by this code and checked against f64 beside it.
    #[test]
    fn known_logits_have_known_bits() {
        let mut logits: Vec<f32> = (0..1_000).map(|i| (i % 7) as f32 - 3.0).collect();
        logits[500] = 8.5;
        let found = scored(&logits, 500, 3);
        let bits: Vec<(u32, u32)> = found.top.iter().map(|(id, logprob)| (*id, logprob.to_bits())).collect();
        assert_eq!((found.logprob.to_bits(), bits), (GOLDEN.0, GOLDEN.1.to_vec()));
        for (id, logprob) in found.top {
            assert!((f64::from(logprob) - reference(&logits, id as usize)).abs() < 1e-6);
        }
    }
    const GOLDEN: (u32, [(u32, u32); 3]) = (3_206_998_492, [(500, 3_206_998_492), (6, 3_234_127_163), (13, 3_234_127_163)]);

    #[test]
    fn equal_tokens_are_shown_by_ascending_id() {
        let found = scored(&[1.0, 2.0, 2.0, 0.0, 2.0], 0, 4);
        assert_eq!(found.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 2, 4, 0]);
    }

    #[test]
    fn the_ends_are_certainty_and_what_stands_for_impossible() {
        assert_eq!(scored(&[3.0], 0, 5), TokenLogprobs { logprob: 0.0, top: vec![(0, 0.0)] });
        assert_eq!(scored(&[f32::MAX, f32::MIN], 1, 2).logprob, TokenLogprobs::LEAST);
        assert!(scored(&[0.0; 4], 1, 0).top.is_empty());
    }

    proptest! {
        #[test]
        fn log_probabilities_are_those_of_f64(
            logits in prop::collection::vec(prop_oneof![-40f32..40.0, Just(7.0f32)], 1..3000), pick in any::<prop::sample::Index>(), count in 0usize..21,
        ) {
            let token = pick.index(logits.len());
            let found = scored(&logits, token as u32, count);
            let near = |ours: f32, token: usize| (f64::from(ours) - reference(&logits, token)).abs() < 1e-6 * (1.0 + f64::from(ours).abs());
            prop_assert!(near(found.logprob, token));
            prop_assert!(found.top.iter().all(|(id, logprob)| near(*logprob, *id as usize)));

            let mut sorted: Vec<usize> = (0..logits.len()).collect();
            sorted.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
            let expected: Vec<u32> = sorted.into_iter().take(count).map(|id| id as u32).collect();
            prop_assert_eq!(found.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), expected);
        }
    }
}
