//! One request while it is served.

use std::time::{Duration, Instant};

use alloy::primitives::B256;
use prompt::{Detokenizer, Prompter, StopMatcher};
use tokio::sync::mpsc;
use wire::node::FinishReason;

use super::pages::{PageTable, PrefixKey, next_key, scope_key};
use super::{Cancel, Drawn, EngineEvent, EngineFailure, EngineJob, Finished, SampleError, Sampler, Timings};
use crate::backend::{Draw, PAGE_TOKENS, PageId};
use crate::proof;

/// A request's tokens, pages and everything that ends it.
pub(super) struct Sequence {
    /// Held pages, in the order of positions.
    pages: Vec<PageId>,
    /// Names of the full pages among them.
    keys: Vec<PrefixKey>,
    root_key: PrefixKey,
    tokens: Vec<u32>,
    prompt_tokens: usize,
    /// Positions whose keys and values are in the pages.
    computed: usize,
    /// Digests of the hidden states of all positions that were ever computed. Preemption keeps them.
    digests: Vec<B256>,
    max_tokens: usize,
    sampler: Sampler,
    ends: Vec<u32>,
    stops: Option<StopText>,
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

impl Sequence {
    pub(super) fn new(
        job: EngineJob,
        sampler: Sampler,
        events: mpsc::Sender<EngineEvent>,
        prompter: &Prompter,
        submitted: Instant,
    ) -> Self {
        let EngineJob { prompt, params, cancel, scope } = job;
        let ends = [prompter.eos_token_ids(), &params.stop_token_ids].concat();
        // `submit` checked the stop strings against the same limits.
        let matcher = StopMatcher::new(params.stop.clone()).ok().filter(|_| !params.stop.is_empty());
        let stops = matcher.map(|matcher| StopText { detokenizer: prompter.detokenizer(), matcher });
        Self {
            pages: Vec::new(),
            keys: Vec::new(),
            root_key: scope_key(scope),
            prompt_tokens: prompt.len(),
            computed: 0,
            digests: Vec::new(),
            max_tokens: params.max_tokens as usize,
            sampler,
            ends,
            stops,
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
        self.tokens.len() == self.computed + 1
    }

    /// Tokens that are not in the pages yet: one while decoding.
    pub(super) fn pending(&self) -> &[u32] {
        &self.tokens[self.computed..]
    }

    pub(super) fn computed(&self) -> usize {
        self.computed
    }

    pub(super) fn pages(&self) -> &[PageId] {
        &self.pages
    }

    pub(super) fn cancelled(&self) -> bool {
        self.cancel.is_cancelled() || self.events.is_closed()
    }

    /// Pages that all tokens so far take, and one token more.
    pub(super) fn pages_to_start(&self) -> usize {
        (self.tokens.len() + 1).div_ceil(PAGE_TOKENS)
    }

    /// Pages missing for the next `rows` positions.
    pub(super) fn missing_pages(&self, rows: usize) -> usize {
        (self.computed + rows).div_ceil(PAGE_TOKENS).saturating_sub(self.pages.len())
    }

    pub(super) fn add_page(&mut self, page: PageId) {
        self.pages.push(page);
    }

    /// Takes over published pages of the same prefix. The last token is always left to compute: the next is drawn from it.
    pub(super) fn share_prefix(&mut self, table: &mut PageTable) {
        while self.computed + PAGE_TOKENS < self.tokens.len() {
            let key = self.key_after(&self.tokens[self.computed..self.computed + PAGE_TOKENS]);
            let Some((page, digests)) = table.find(key) else { return };
            let known = self.digests.len().saturating_sub(self.computed).min(PAGE_TOKENS);
            self.digests.extend_from_slice(&digests[known..]);
            self.pages.push(page);
            self.keys.push(key);
            self.computed += PAGE_TOKENS;
        }
    }

    fn key_after(&self, tokens: &[u32]) -> PrefixKey {
        next_key(self.keys.last().copied().unwrap_or(self.root_key), tokens)
    }

    /// Gives all pages back. The tokens stay, and so does everything that was drawn; positions are computed again later, to the
    /// same bits.
    pub(super) fn release(&mut self, table: &mut PageTable) {
        self.pages.drain(..).for_each(|page| table.release(page));
        self.keys.clear();
        self.computed = 0;
    }

    /// Takes the digests of the positions that a step computed, and publishes pages that became full. False: a state is not finite.
    pub(super) fn advance(&mut self, digests: &[Option<B256>], table: &mut PageTable) -> bool {
        for digest in digests {
            let Some(digest) = digest else { return false };
            if self.computed == self.digests.len() {
                self.digests.push(*digest);
            }
            self.computed += 1;
            if self.computed.is_multiple_of(PAGE_TOKENS) {
                let (first, page) = (self.computed - PAGE_TOKENS, self.pages[self.computed / PAGE_TOKENS - 1]);
                let key = self.key_after(&self.tokens[first..self.computed]);
                self.keys.push(key);
                table.publish(page, key, &self.digests[first..self.computed]);
            }
        }
        true
    }

    /// What a device needs to draw the next token; `None` when the logits themselves are needed.
    pub(super) fn for_device(&self) -> Option<Draw> {
        self.sampler.for_device()
    }

    /// Draws the next token and sends it. Some when the answer ends with it.
    pub(super) fn draw(&mut self, logits: &mut [f32]) -> Result<Option<FinishReason>, SampleError> {
        let drawn = self.sampler.draw(logits)?;
        Ok(self.send(drawn))
    }

    /// The same with a token that a device has drawn.
    pub(super) fn take(&mut self, token: u32) -> Result<Option<FinishReason>, SampleError> {
        let drawn = self.sampler.take(token)?;
        Ok(self.send(drawn))
    }

    fn send(&mut self, drawn: Drawn) -> Option<FinishReason> {
        let Drawn { token, logprobs } = drawn;
        self.first_token.get_or_insert_with(Instant::now);
        self.tokens.push(token);
        // The channel has room for every token; a closed one is seen as cancellation before the next step.
        let _ = self.events.try_send(EngineEvent::Tokens { ids: vec![token], logprobs: logprobs.into_iter().collect() });

        let stopped = self.stops.as_mut().is_some_and(|stops| {
            let piece = stops.detokenizer.push(token);
            stops.matcher.push(&piece).stopped
        });
        if stopped || self.ends.contains(&token) {
            return Some(FinishReason::Stop);
        }
        let full = self.tokens.len() - self.prompt_tokens >= self.max_tokens;
        full.then_some(FinishReason::Length)
    }

    /// Sends the last event. Pages were released before.
    pub(super) fn finish(self, reason: FinishReason) {
        let (prompt, completion) = self.tokens.split_at(self.prompt_tokens);
        let whole_prompt = self.digests.len() >= self.prompt_tokens;
        let windows = if whole_prompt { proof::windows(self.prompt_tokens, &self.digests) } else { Vec::new() };
        let now = Instant::now();
        let first_token = self.first_token.unwrap_or(now);
        let finished = Finished {
            reason,
            prompt_tokens: prompt.len() as u32,
            completion_tokens: completion.len() as u32,
            prompt_hash: wire::receipt::tokens_hash(prompt),
            completion_hash: wire::receipt::tokens_hash(completion),
            proof_root: proof::proof_root(&windows),
            windows,
            timings: Timings {
                queued_us: micros(self.started - self.submitted),
                prefill_us: micros(first_token - self.started),
                decode_us: micros(now - first_token),
            },
        };
        let _ = self.events.try_send(EngineEvent::Finished(finished));
    }

    /// Sends a failure as the last event. Pages were released before.
    pub(super) fn fail(self, failure: EngineFailure) {
        let _ = self.events.try_send(EngineEvent::Failed(failure));
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
