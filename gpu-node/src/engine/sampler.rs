//! Draws the next token from logits.
//!
//! Order: penalties, temperature, top-k, top-p, min-p, draw. The draw at position `i` of an answer depends on the seed and `i`
//! alone, so a request gives the same answer in any batch, and anybody can repeat one draw.

use std::cmp::Ordering;
use std::collections::HashMap;

use wire::node::SamplingParams;

use crate::backend::cpu::exp;

/// Candidates that top-p sorts at first; it sorts four times as many while they do not hold enough probability.
const FIRST_SORTED: usize = 256;

/// Why no token could be drawn.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SampleError {
    #[error("the model computed a logit that is not a number; its weights are damaged: run `gpu-node model verify`")]
    NotANumber,
}

/// The sampling state of one answer.
#[derive(Debug, Clone)]
pub struct Sampler {
    params: SamplingParams,
    /// How often each token stands in the answer. Kept only when a penalty needs it.
    in_answer: HashMap<u32, u32>,
    /// Tokens of the prompt that are not in the answer yet. Kept only for the repetition penalty.
    in_prompt: HashMap<u32, ()>,
    drawn: u32,
    candidates: Vec<(f32, u32)>,
}

impl Sampler {
    pub fn new(params: &SamplingParams, prompt: &[u32]) -> Self {
        let repetition = params.repetition_penalty != 1.0;
        let in_prompt = if repetition { prompt.iter().map(|token| (*token, ())).collect() } else { HashMap::new() };
        Self { params: params.clone(), in_answer: HashMap::new(), in_prompt, drawn: 0, candidates: Vec::new() }
    }

    /// Draws the next token; `logits` are changed by the penalties.
    pub fn draw(&mut self, logits: &mut [f32]) -> Result<u32, SampleError> {
        self.penalize(logits);
        if logits.iter().any(|x| x.is_nan()) {
            return Err(SampleError::NotANumber);
        }
        let token = if self.params.temperature == 0.0 { greatest(logits).1 } else { self.draw_warm(logits) };
        self.drawn += 1;
        if self.penalizes() {
            *self.in_answer.entry(token).or_default() += 1;
            self.in_prompt.remove(&token);
        }
        Ok(token)
    }

    fn penalizes(&self) -> bool {
        let p = &self.params;
        p.repetition_penalty != 1.0 || p.presence_penalty != 0.0 || p.frequency_penalty != 0.0
    }

    /// Repetition counts prompt and answer (Hugging Face); presence and frequency count the answer alone (OpenAI).
    fn penalize(&self, logits: &mut [f32]) {
        if !self.penalizes() {
            return;
        }
        let p = &self.params;
        let seen = self.in_prompt.keys().chain(self.in_answer.keys());
        for logit in seen.map(|token| *token as usize) {
            if let Some(logit) = logits.get_mut(logit) {
                *logit = if *logit > 0.0 { *logit / p.repetition_penalty } else { *logit * p.repetition_penalty };
            }
        }
        for (token, count) in &self.in_answer {
            if let Some(logit) = logits.get_mut(*token as usize) {
                *logit -= p.presence_penalty + p.frequency_penalty * *count as f32;
            }
        }
    }

    fn draw_warm(&mut self, logits: &[f32]) -> u32 {
        let p = &self.params;
        let (max, likeliest) = greatest(logits);
        let weight = |logit: f32| exp((logit - max) / p.temperature);
        let candidates = &mut self.candidates;
        candidates.clear();
        candidates.extend(logits.iter().zip(0..).map(|(logit, id)| (weight(*logit), id)));

        let top_k = p.top_k as usize;
        if top_k > 0 && top_k < candidates.len() {
            candidates.select_nth_unstable_by(top_k - 1, likelier_first);
            candidates.truncate(top_k);
            candidates.sort_unstable_by(likelier_first);
        }
        if p.top_p < 1.0 {
            keep_nucleus(candidates, f64::from(p.top_p));
        }
        if p.min_p > 0.0 {
            // The likeliest has weight 1.
            candidates.retain(|(weight, _)| *weight >= p.min_p);
        }

        let total: f64 = candidates.iter().map(|(weight, _)| f64::from(*weight)).sum();
        let target = uniform(p.seed, self.drawn) * total;
        let mut below = 0.0;
        for (weight, id) in candidates.iter() {
            below += f64::from(*weight);
            if below > target {
                return *id;
            }
        }
        // Rounding may leave the target at the total.
        candidates.last().map_or(likeliest, |(_, id)| *id)
    }
}

/// Keeps the fewest likeliest candidates that together hold `top_p` of the weight, in descending order.
fn keep_nucleus(candidates: &mut Vec<(f32, u32)>, top_p: f64) {
    let wanted = top_p * candidates.iter().map(|(weight, _)| f64::from(*weight)).sum::<f64>();
    let mut sorted = FIRST_SORTED;
    loop {
        let all = sorted >= candidates.len();
        if !all {
            candidates.select_nth_unstable_by(sorted - 1, likelier_first);
        }
        let head_len = sorted.min(candidates.len());
        let head = &mut candidates[..head_len];
        head.sort_unstable_by(likelier_first);
        let mut held = 0.0;
        let enough = head.iter().position(|(weight, _)| {
            held += f64::from(*weight);
            held >= wanted
        });
        if let Some(last) = enough {
            candidates.truncate(last + 1);
            return;
        }
        if all {
            return;
        }
        sorted *= 4;
    }
}

/// Descending weight, ties by ascending id: a total order, so that unstable sorting is deterministic.
fn likelier_first(a: &(f32, u32), b: &(f32, u32)) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

/// Greatest logit and its token; ties go to the lowest id.
fn greatest(logits: &[f32]) -> (f32, u32) {
    let better = |best: (f32, u32), (logit, id): (&f32, u32)| if *logit > best.0 { (*logit, id) } else { best };
    logits.iter().zip(0..).fold((f32::NEG_INFINITY, 0), better)
}

/// A number in [0, 1) with 53 bits from seed and index: Philox 4x32-10 (Salmon et al., SC 2011), key = seed, counter = index.
fn uniform(seed: u64, index: u32) -> f64 {
    let mut counter = [index, 0, 0, 0];
    let mut key = [seed as u32, (seed >> 32) as u32];
    for _ in 0..10 {
        let first = u64::from(counter[0]) * 0xD251_1F53;
        let second = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [(second >> 32) as u32 ^ counter[1] ^ key[0], second as u32, (first >> 32) as u32 ^ counter[3] ^ key[1], first as u32];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    let bits = (u64::from(counter[0]) << 21) ^ (u64::from(counter[1]) >> 11);
    bits as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn warm() -> SamplingParams {
        SamplingParams { temperature: 1.0, ..SamplingParams::greedy(16) }
    }

    fn drawn(params: &SamplingParams, logits: &[f32], times: u32) -> HashMap<u32, u32> {
        let mut counts = HashMap::new();
        for seed in 0..times {
            let params = SamplingParams { seed: u64::from(seed), ..params.clone() };
            *counts.entry(Sampler::new(&params, &[]).draw(&mut logits.to_vec()).unwrap()).or_default() += 1;
        }
        counts
    }

    #[test]
    fn greedy_takes_the_lowest_of_equal_tokens() {
        let mut sampler = Sampler::new(&SamplingParams::greedy(4), &[]);
        assert_eq!(sampler.draw(&mut [0.0, 3.0, 3.0, -1.0]), Ok(1));
    }

    #[test]
    fn frequencies_follow_probabilities() {
        let counts = drawn(&warm(), &[0.0, (3.0f32).ln()], 4000);
        assert!((2850..3150).contains(&counts[&1]), "{counts:?}");
    }

    #[test]
    fn top_k_top_p_and_min_p_cut_the_tail() {
        let logits: Vec<f32> = [0.5f32, 0.3, 0.15, 0.05].iter().map(|p| p.ln()).collect();
        let kept = |params: SamplingParams| {
            let mut ids: Vec<u32> = drawn(&params, &logits, 400).into_keys().collect();
            ids.sort_unstable();
            ids
        };
        assert_eq!(kept(warm()), [0, 1, 2, 3]);
        assert_eq!(kept(SamplingParams { top_k: 2, ..warm() }), [0, 1]);
        assert_eq!(kept(SamplingParams { top_p: 0.79, ..warm() }), [0, 1]);
        assert_eq!(kept(SamplingParams { top_p: 0.9, ..warm() }), [0, 1, 2]);
        assert_eq!(kept(SamplingParams { min_p: 0.2, ..warm() }), [0, 1, 2]);
        assert_eq!(kept(SamplingParams { top_p: 1e-9, ..warm() }), [0]);
    }

    #[test]
    fn penalties_move_logits_as_documented() {
        let params =
            SamplingParams { presence_penalty: 0.5, frequency_penalty: 0.25, repetition_penalty: 2.0, ..SamplingParams::greedy(9) };
        let mut sampler = Sampler::new(&params, &[2]);
        let mut logits = [1.0, 10.0, 4.0, -1.0];
        assert_eq!(sampler.draw(&mut logits), Ok(1));
        assert_eq!(logits, [1.0, 10.0, 2.0, -1.0]);
        let mut logits = [1.0, 10.0, 4.0, -1.0];
        assert_eq!(sampler.draw(&mut logits), Ok(1));
        assert_eq!(logits, [1.0, 10.0 / 2.0 - 0.75, 2.0, -1.0]);
    }

    #[test]
    fn a_logit_that_is_no_number_is_an_error() {
        let mut sampler = Sampler::new(&warm(), &[]);
        assert_eq!(sampler.draw(&mut [0.0, f32::NAN]), Err(SampleError::NotANumber));
    }

    #[test]
    fn philox_gives_the_published_vectors() {
        // Known answer of Random123 for counter 0 and key 0: 6627e8d5 e169c58d bc57ac4c 9b00dbd8.
        let bits = (uniform(0, 0) * (1u64 << 53) as f64) as u64;
        assert_eq!(bits, (0x6627_e8d5u64 << 21) ^ (0xe169_c58du64 >> 11));
    }

    proptest! {
        #[test]
        fn nucleus_equals_the_one_of_a_full_sort(weights in prop::collection::vec(0.0f32..1.0, 1..2000), top_p in 0.01f64..1.0) {
            let all: Vec<(f32, u32)> = weights.iter().copied().zip(0..).collect();
            let mut expected = all.clone();
            expected.sort_unstable_by(likelier_first);
            let wanted = top_p * all.iter().map(|(w, _)| f64::from(*w)).sum::<f64>();
            let mut held = 0.0;
            let end = expected.iter().position(|(w, _)| { held += f64::from(*w); held >= wanted }).map_or(expected.len(), |i| i + 1);
            expected.truncate(end);
            let mut kept = all;
            keep_nucleus(&mut kept, top_p);
            prop_assert_eq!(kept, expected);
        }

        #[test]
        fn draws_are_finite_choices_for_any_logits(logits in prop::collection::vec(-1e30f32..1e30, 1..300), seed in any::<u64>(), t in 0.01f32..2.0) {
            let params = SamplingParams { seed, temperature: t, top_p: 0.9, top_k: 40, ..warm() };
            let token = Sampler::new(&params, &[]).draw(&mut logits.clone()).unwrap();
            prop_assert!((token as usize) < logits.len());
        }
    }
}
