//! One request while it is served.

use std::time::{Duration, Instant};

use alloy::primitives::B256;
use prompt::{Detokenizer, Prompter, StopMatcher};
use tokio::sync::mpsc;
use wire::node::FinishReason;

use super::{Cancel, Drawn, EngineEvent, EngineJob, Finished, SampleError, Sampler, Timings};
use crate::backend::Backend;
use crate::proof::{ProofBuilder, proof_root};

/// A request's tokens, cache and everything that ends it.
pub(super) struct Sequence<B: Backend> {
    pub(super) cache: B::Cache,
    /// Reserved of the KV budget.
    pub(super) kv_bytes: usize,
    tokens: Vec<u32>,
    prompt_tokens: usize,
    /// Positions that are in the cache.
    computed: usize,
    max_tokens: usize,
    sampler: Sampler,
    ends: Vec<u32>,
    stops: Option<StopText>,
    proof: ProofBuilder,
    events: mpsc::Sender<EngineEvent>,
    cancel: Cancel,
    submitted: Instant,
    started: Instant,
    first_token: Option<Instant>,
}

/// Watches the answer's text for stop strings.
struct StopText {
    detokenizer: Detokenizer,
    matcher: StopMatcher,
}

impl<B: Backend> Sequence<B> {
    pub(super) fn new(
        job: EngineJob,
        sampler: Sampler,
        events: mpsc::Sender<EngineEvent>,
        prompter: &Prompter,
        cache: B::Cache,
        kv_bytes: usize,
        submitted: Instant,
    ) -> Self {
        let EngineJob { prompt, params, cancel } = job;
        let ends = [prompter.eos_token_ids(), &params.stop_token_ids].concat();
        // `submit` checked the stop strings against the same limits.
        let matcher = StopMatcher::new(params.stop.clone()).ok().filter(|_| !params.stop.is_empty());
        let stops = matcher.map(|matcher| StopText { detokenizer: prompter.detokenizer(), matcher });
        Self {
            cache,
            kv_bytes,
            prompt_tokens: prompt.len(),
            computed: 0,
            max_tokens: params.max_tokens as usize,
            sampler,
            ends,
            stops,
            proof: ProofBuilder::new(prompt.len()),
            tokens: prompt,
            events,
            cancel,
            submitted,
            started: Instant::now(),
            first_token: None,
        }
    }

    /// Whether all positions but the newest token's are computed.
    pub(super) fn decodes(&self) -> bool {
        self.computed >= self.prompt_tokens
    }

    /// Tokens that are not in the cache yet: one while decoding.
    pub(super) fn pending(&self) -> &[u32] {
        &self.tokens[self.computed..]
    }

    pub(super) fn computed(&self) -> usize {
        self.computed
    }

    pub(super) fn cancelled(&self) -> bool {
        self.cancel.is_cancelled() || self.events.is_closed()
    }

    /// Takes the hidden states of the positions that a step computed.
    pub(super) fn advance(&mut self, hidden: &[f32], dim: usize) {
        for state in hidden.chunks_exact(dim) {
            self.proof.push(state);
            self.computed += 1;
        }
    }

    /// Draws the next token and sends it. Some when the answer ends with it.
    pub(super) fn draw(&mut self, logits: &mut [f32]) -> Result<Option<FinishReason>, SampleError> {
        let Drawn { token, logprobs } = self.sampler.draw(logits)?;
        self.first_token.get_or_insert_with(Instant::now);
        self.tokens.push(token);
        // The channel has room for every token; a closed one is seen as cancellation before the next step.
        let _ = self.events.try_send(EngineEvent::Tokens { ids: vec![token], logprobs: logprobs.into_iter().collect() });

        let stopped = self.stops.as_mut().is_some_and(|stops| {
            let piece = stops.detokenizer.push(token);
            stops.matcher.push(&piece).stopped
        });
        if stopped || self.ends.contains(&token) {
            return Ok(Some(FinishReason::Stop));
        }
        let full = self.tokens.len() - self.prompt_tokens >= self.max_tokens;
        Ok(full.then_some(FinishReason::Length))
    }

    /// Sends the last event.
    pub(super) fn finish(self, reason: FinishReason) {
        let (prompt, completion) = self.tokens.split_at(self.prompt_tokens);
        let windows = if self.computed >= self.prompt_tokens { self.proof.finish() } else { Vec::new() };
        let now = Instant::now();
        let first_token = self.first_token.unwrap_or(now);
        let finished = Finished {
            reason,
            prompt_tokens: prompt.len() as u32,
            completion_tokens: completion.len() as u32,
            prompt_hash: wire::receipt::tokens_hash(prompt),
            completion_hash: wire::receipt::tokens_hash(completion),
            proof_root: if windows.is_empty() { B256::ZERO } else { proof_root(&windows) },
            windows,
            timings: Timings {
                queued_us: micros(self.started - self.submitted),
                prefill_us: micros(first_token - self.started),
                decode_us: micros(now - first_token),
            },
        };
        let _ = self.events.try_send(EngineEvent::Finished(finished));
    }

    /// Sends a failure as the last event.
    pub(super) fn fail(self, failure: super::EngineFailure) {
        let _ = self.events.try_send(EngineEvent::Failed(failure));
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
