//! Draws the next token from logits (`docs/numerics.md`, "Sampler and log-probabilities").
//!
//! Order: log-probabilities, repetition penalty, presence and frequency penalties, bias, format, temperature, top-k, top-p,
//! min-p, draw. The draw at position `i` of an answer depends on the seed and `i` alone, so a request gives the same answer in
//! any batch. Everything here follows from parameters, prompt and logits, so that anybody can repeat each draw.

mod device; // draws that a device makes
mod maxima; // the greatest logits of a vocabulary

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};

use prompt::{Grammar, GrammarError, Prompter};
use wire::node::{SamplingParams, TokenLogprobs};

use super::logprobs::LogSoftmax;
use crate::backend::cpu::{exp, weights};
pub(super) use maxima::greatest;
use maxima::{BOUND_BLOCK, block_maxima, greatest_in_blocks, reached_by};

/// Candidates that top-p sorts at first; it sorts four times as many while they do not hold enough probability.
const FIRST_SORTED: usize = 256;

/// Why no token could be drawn.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SampleError {
    #[error("the model computed a logit that is not finite; its weights are damaged: run `gpu-node model verify`")]
    NotFinite,
    #[error("the answer's format allows none of the model's tokens")]
    NothingAllowed,
    #[error(transparent)]
    Grammar(#[from] GrammarError),
}

/// A token and what was asked for beside it.
#[derive(Debug, Clone, PartialEq)]
pub struct Drawn {
    pub token: u32,
    /// When the parameters ask for them.
    pub logprobs: Option<TokenLogprobs>,
}

/// The sampling state of one answer.
#[derive(Debug)]
pub struct Sampler {
    params: SamplingParams,
    /// Holds the answer to its format.
    grammar: Option<Grammar>,
    /// How often each token stands in the answer. Kept only when a penalty needs it.
    in_answer: HashMap<u32, u32>,
    /// Tokens of the prompt that are not in the answer yet. Kept only for the repetition penalty.
    in_prompt: HashSet<u32>,
    drawn: u32,
    candidates: Vec<(f32, u32)>,
    /// The greatest logit of each block.
    maxima: Vec<f32>,
    scratch: Vec<f32>,
}

/// Draws the token after `drawn` as serving does, from the logits of its position alone: what a verifier repeats. It takes
/// the whole state anew; who repeats a whole answer keeps one [`Sampler`] and draws position by position.
pub fn redraw(
    prompter: &Prompter,
    params: &SamplingParams,
    prompt: &[u32],
    drawn: &[u32],
    logits: &mut [f32],
) -> Result<Drawn, SampleError> {
    let mut sampler = Sampler::for_request(prompter, params, prompt)?;
    drawn.iter().try_for_each(|token| sampler.accept(*token))?;
    sampler.draw(logits)
}

impl Sampler {
    /// For an answer to `prompt`. Compiles the format: milliseconds, so not on the engine's thread.
    pub fn for_request(prompter: &Prompter, params: &SamplingParams, prompt: &[u32]) -> Result<Self, GrammarError> {
        Ok(Self::new(params, prompt, prompter.grammar(&params.format)?))
    }

    /// `grammar` is that of the parameters' format.
    pub fn new(params: &SamplingParams, prompt: &[u32], grammar: Option<Grammar>) -> Self {
        let in_prompt = if params.repetition_penalty == 1.0 { HashSet::new() } else { prompt.iter().copied().collect() };
        Self {
            params: params.clone(),
            grammar,
            in_answer: HashMap::new(),
            in_prompt,
            drawn: 0,
            candidates: Vec::new(),
            maxima: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Draws the next token and takes it; `logits` are changed.
    pub fn draw(&mut self, logits: &mut [f32]) -> Result<Drawn, SampleError> {
        let drawn = self.choose(logits)?;
        self.accept(drawn.token)?;
        Ok(drawn)
    }

    /// The token that comes next; the state stays before it. `logits` are changed.
    pub fn choose(&mut self, logits: &mut [f32]) -> Result<Drawn, SampleError> {
        if !all_finite(logits) {
            return Err(SampleError::NotFinite);
        }
        let unchanged = self.params.logprobs.map(|count| (count as usize, logits.to_vec()));
        self.adjust(logits);
        if let Some(grammar) = &mut self.grammar {
            grammar.forbid(logits)?;
        }
        block_maxima(logits, &mut self.maxima);
        let (max, likeliest) = greatest_in_blocks(logits, &self.maxima);
        if max == f32::NEG_INFINITY {
            return Err(SampleError::NothingAllowed);
        }
        let token = if self.params.temperature == 0.0 { likeliest } else { self.draw_warm(logits, max, likeliest) };
        let logprobs = unchanged.map(|(count, logits)| LogSoftmax::new(&logits, &mut self.scratch).of(token, count));
        Ok(Drawn { token, logprobs })
    }

    /// Goes on with `token`, whoever drew it. Errors when the format does not allow it.
    pub fn accept(&mut self, token: u32) -> Result<(), SampleError> {
        if let Some(grammar) = &mut self.grammar {
            grammar.accept(token)?;
        }
        self.drawn += 1;
        if self.penalizes() {
            *self.in_answer.entry(token).or_default() += 1;
            self.in_prompt.remove(&token);
        }
        Ok(())
    }

    fn penalizes(&self) -> bool {
        let p = &self.params;
        p.repetition_penalty != 1.0 || p.presence_penalty != 0.0 || p.frequency_penalty != 0.0
    }

    /// Repetition counts prompt and answer (Hugging Face); presence and frequency count the answer alone (OpenAI). Each
    /// token's logit is changed by itself, so the order of tokens does not matter; it stays finite.
    fn adjust(&self, logits: &mut [f32]) {
        let p = &self.params;
        if self.penalizes() {
            for token in self.in_prompt.iter().chain(self.in_answer.keys()) {
                change(logits, *token, |logit| if logit > 0.0 { logit / p.repetition_penalty } else { logit * p.repetition_penalty });
            }
            for (token, count) in &self.in_answer {
                change(logits, *token, |logit| logit - self.lessened_by(*count));
            }
        }
        for (token, bias) in &p.logit_bias {
            change(logits, *token, |logit| logit + bias);
        }
    }

    /// Presence and frequency penalty of a token that stands in the answer so often.
    fn lessened_by(&self, count: u32) -> f32 {
        self.params.presence_penalty + self.params.frequency_penalty * count as f32
    }

    fn draw_warm(&mut self, logits: &[f32], max: f32, likeliest: u32) -> u32 {
        let p = &self.params;
        let candidates = &mut self.candidates;
        candidates.clear();
        // What the format forbids is no candidate; e^x never becomes 0.
        let allowed = |(logit, id): (&f32, u32)| (*logit > f32::NEG_INFINITY).then_some((*logit, id));
        let top_k = p.top_k as usize;
        if top_k > 0 && top_k < logits.len() {
            let least = reached_by(&self.maxima, top_k, &mut self.scratch);
            for (block, _) in self.maxima.iter().enumerate().filter(|(_, max)| **max >= least) {
                let first = block * BOUND_BLOCK;
                let those = logits[first..logits.len().min(first + BOUND_BLOCK)].iter().zip(first as u32..);
                candidates.extend(those.filter(|(logit, _)| **logit >= least).filter_map(allowed));
            }
            if top_k < candidates.len() {
                candidates.select_nth_unstable_by(top_k - 1, likelier_first);
                candidates.truncate(top_k);
            }
            candidates.sort_unstable_by(likelier_first);
            candidates.iter_mut().for_each(|(logit, _)| *logit = exp((*logit - max) / p.temperature));
        } else {
            weights(logits, max, p.temperature, &mut self.scratch);
            let weighed = self.scratch.iter().zip(logits.iter().zip(0..));
            candidates.extend(weighed.filter_map(|(weight, logit)| allowed(logit).map(|(_, id)| (*weight, id))));
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

/// Changes the logit of `token`, if the model has it; what would overflow stays the greatest number.
fn change(logits: &mut [f32], token: u32, by: impl FnOnce(f32) -> f32) {
    if let Some(logit) = logits.get_mut(token as usize) {
        *logit = by(*logit).clamp(f32::MIN, f32::MAX);
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

/// Descending logit or weight, ties by ascending id: a total order, so that unstable sorting is deterministic.
fn likelier_first(a: &(f32, u32), b: &(f32, u32)) -> Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

fn all_finite(logits: &[f32]) -> bool {
    const INFINITY_BITS: i32 = 0x7f80_0000;
    logits.iter().fold(0, |most, logit| most.max((logit.to_bits() & 0x7fff_ffff) as i32)) < INFINITY_BITS
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

    proptest! {
        #[test]
        fn one_number_that_is_not_finite_is_found_wherever_it_stands(
            mut logits in prop::collection::vec(-1e30f32..1e30, 1..100),
            at in any::<prop::sample::Index>(),
            wrong in prop_oneof![Just(f32::NAN), Just(-f32::NAN), Just(f32::INFINITY), Just(f32::NEG_INFINITY)],
        ) {
            prop_assert!(all_finite(&logits));
            *at.get_mut(&mut logits) = wrong;
            prop_assert!(!all_finite(&logits));
        }
    }

    fn warm() -> SamplingParams {
        SamplingParams { temperature: 1.0, ..SamplingParams::greedy(16) }
    }

    fn drawn(params: &SamplingParams, logits: &[f32], times: u32) -> HashMap<u32, u32> {
        let mut counts = HashMap::new();
        for seed in 0..times {
            let params = SamplingParams { seed: u64::from(seed), ..params.clone() };
            *counts.entry(Sampler::new(&params, &[], None).draw(&mut logits.to_vec()).unwrap().token).or_default() += 1;
        }
        counts
    }

    #[test]
    fn greedy_takes_the_lowest_of_equal_tokens() {
        let mut sampler = Sampler::new(&SamplingParams::greedy(4), &[], None);
        assert_eq!(sampler.draw(&mut [0.0, 3.0, 3.0, -1.0]), Ok(Drawn { token: 1, logprobs: None }));
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
        let mut sampler = Sampler::new(&params, &[2], None);
        let mut logits = [1.0, 10.0, 4.0, -1.0];
        assert_eq!(sampler.draw(&mut logits).unwrap().token, 1);
        assert_eq!(logits, [1.0, 10.0, 2.0, -1.0]);
        let mut logits = [1.0, 10.0, 4.0, -1.0];
        assert_eq!(sampler.draw(&mut logits).unwrap().token, 1);
        assert_eq!(logits, [1.0, 10.0 / 2.0 - 0.75, 2.0, -1.0]);
    }

    #[test]
    fn a_logit_that_is_not_finite_is_an_error() {
        for params in [warm(), SamplingParams::greedy(1)] {
            for damaged in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut sampler = Sampler::new(&params, &[], None);
                assert_eq!(sampler.draw(&mut [0.0, damaged]), Err(SampleError::NotFinite));
            }
            assert_eq!(Sampler::new(&params, &[], None).draw(&mut []), Err(SampleError::NothingAllowed));
        }
    }

    #[test]
    fn a_bias_moves_its_token_after_the_penalties_and_not_the_log_probability() {
        let plain = SamplingParams { logprobs: Some(2), ..SamplingParams::greedy(9) };
        let params = SamplingParams { logit_bias: vec![(0, 100.0), (2, -100.0), (9, 5.0)], repetition_penalty: 2.0, ..plain.clone() };
        let mut logits = [1.0, 10.0, 4.0];
        let biased = Sampler::new(&params, &[0], None).draw(&mut logits).unwrap();
        assert_eq!((biased.token, logits), (0, [100.5, 10.0, -96.0]));
        let unbiased = Sampler::new(&plain, &[0], None).draw(&mut [1.0, 10.0, 4.0]).unwrap();
        let (biased, unbiased) = (biased.logprobs.unwrap(), unbiased.logprobs.unwrap());
        assert_eq!(biased.top, unbiased.top);
        assert!(biased.logprob < -9.0 && unbiased.logprob > -0.1);
    }

    #[test]
    fn absurd_penalties_leave_a_choice_that_is_finite() {
        let params =
            SamplingParams { repetition_penalty: f32::MIN_POSITIVE, presence_penalty: -2.0, temperature: f32::MIN_POSITIVE, ..warm() };
        let mut sampler = Sampler::new(&params, &[0, 1, 2], None);
        for _ in 0..4 {
            assert!(sampler.draw(&mut [f32::MAX, f32::MIN, 3.0, -3.0]).unwrap().token < 4);
        }
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
        fn draws_are_finite_choices_for_any_logits(
            logits in prop::collection::vec(prop_oneof![-1e30f32..1e30, Just(1.0f32), Just(f32::MAX), Just(f32::MIN)], 1..300), params in any_params(),
        ) {
            let mut sampler = Sampler::new(&params, &[0, 1, 2, 3], None);
            for _ in 0..4 {
                let drawn = sampler.draw(&mut logits.clone()).unwrap();
                prop_assert!((drawn.token as usize) < logits.len());
                let logprobs = drawn.logprobs.unwrap();
                prop_assert_eq!(logprobs.top.len(), logits.len().min(3));
                prop_assert!((TokenLogprobs::LEAST..=0.0).contains(&logprobs.logprob));
            }
        }

        #[test]
        fn a_draw_follows_from_parameters_prompt_and_tokens_alone(
            rows in prop::collection::vec(prop::collection::vec(-8f32..8.0, 40), 1..8), params in any_params(),
        ) {
            let mut serving = Sampler::new(&params, &[3, 4], None);
            let mut tokens = Vec::new();
            for row in rows {
                let drawn = serving.draw(&mut row.clone()).unwrap();
                let mut verifier = Sampler::new(&params, &[3, 4], None);
                tokens.iter().for_each(|token| verifier.accept(*token).unwrap());
                prop_assert_eq!(&verifier.draw(&mut row.clone()).unwrap(), &drawn);
                tokens.push(drawn.token);
            }
        }

        #[test]
        fn top_k_is_the_one_of_a_full_sort(logits in prop::collection::vec(prop_oneof![-8f32..8.0, Just(1.0f32)], 2..200), k in 1u32..40) {
            let mut sorted: Vec<(f32, u32)> = logits.iter().copied().zip(0..).collect();
            sorted.sort_unstable_by(likelier_first);
            let kept: Vec<u32> = sorted.into_iter().take(k as usize).map(|(_, id)| id).collect();
            for seed in 0..20 {
                let params = SamplingParams { top_k: k, seed, temperature: 2.0, ..warm() };
                let token = Sampler::new(&params, &[], None).draw(&mut logits.clone()).unwrap().token;
                prop_assert!(kept.contains(&token));
            }
        }
    }

    fn any_params() -> impl Strategy<Value = SamplingParams> {
        let numbers = (prop_oneof![Just(0.0f32), 0.01f32..2.0], 0.01f32..1.0, 0u32..60, 0.0f32..1.0, -2f32..2.0, -2f32..2.0, 0.01f32..2.0);
        (numbers, any::<u64>(), prop::collection::btree_map(0u32..60, -100f32..100.0, 0..5)).prop_map(|(numbers, seed, bias)| {
            let (temperature, top_p, top_k, min_p, presence_penalty, frequency_penalty, repetition_penalty) = numbers;
            let logit_bias = bias.into_iter().collect();
            let penalties = SamplingParams { presence_penalty, frequency_penalty, repetition_penalty, logit_bias, ..warm() };
            SamplingParams { temperature, top_p, top_k, min_p, seed, logprobs: Some(3), ..penalties }
        })
    }
}
