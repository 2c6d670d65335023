//! Continuous batching: every step is one pass over a decode row of each active request and a chunk of prompts.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prompt::Prompter;
use tokio::sync::mpsc;
use wire::node::FinishReason;

use super::forward::StepOutput;
use super::measure::Rate;
use super::sequence::Sequence;
use super::{Decoder, EngineConfig, EngineEvent, EngineFailure, EngineJob, EngineLoad, Refusal, Sampler};
use crate::backend::{Backend, Row};

/// What handles and the engine's thread share.
pub(super) struct Shared {
    state: Mutex<State>,
    work: Condvar,
    max_queued: usize,
}

struct State {
    queue: VecDeque<Queued>,
    stopped: bool,
    load: EngineLoad,
}

struct Queued {
    job: EngineJob,
    sampler: Sampler,
    events: mpsc::Sender<EngineEvent>,
    kv_bytes: usize,
    submitted: Instant,
}

impl Shared {
    pub(super) fn new(config: &EngineConfig, weight_bytes: usize) -> Self {
        let load = EngineLoad {
            capacity: config.max_active,
            kv_budget_bytes: config.kv_budget_bytes,
            memory_used_bytes: weight_bytes,
            ..EngineLoad::default()
        };
        let state = State { queue: VecDeque::new(), stopped: false, load };
        Self { state: Mutex::new(state), work: Condvar::new(), max_queued: config.max_queued }
    }

    pub(super) fn enqueue(
        &self,
        job: EngineJob,
        sampler: Sampler,
        events: mpsc::Sender<EngineEvent>,
        kv_bytes: usize,
    ) -> Result<(), Refusal> {
        let mut state = self.lock();
        if state.stopped {
            return Err(Refusal::Stopped);
        }
        if state.queue.len() >= self.max_queued {
            return Err(Refusal::Busy { queued: state.queue.len(), most: self.max_queued });
        }
        state.queue.push_back(Queued { job, sampler, events, kv_bytes, submitted: Instant::now() });
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    pub(super) fn load(&self) -> EngineLoad {
        let state = self.lock();
        EngineLoad { queued: state.queue.len(), ..state.load }
    }

    pub(super) fn stop(&self) {
        self.lock().stopped = true;
        self.work.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is complete by itself, so a poisoned state is still a good one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The engine's thread.
pub(super) struct Scheduler<B: Backend> {
    decoder: Decoder<B>,
    prompter: Prompter,
    config: EngineConfig,
    shared: Arc<Shared>,
    active: Vec<Sequence<B>>,
    weight_bytes: usize,
    output: StepOutput,
    decode_rate: Rate,
    prefill_rate: Rate,
}

/// Rows of one sequence in a step.
struct Share {
    sequence: usize,
    first_row: usize,
    rows: usize,
    /// The next token can be drawn after this step.
    draws: bool,
}

impl<B: Backend> Scheduler<B> {
    pub(super) fn new(decoder: Decoder<B>, prompter: Prompter, config: EngineConfig, shared: Arc<Shared>) -> Self {
        let weight_bytes = shared.lock().load.memory_used_bytes;
        Self {
            decoder,
            prompter,
            config,
            shared,
            active: Vec::new(),
            weight_bytes,
            output: StepOutput::default(),
            decode_rate: Rate::default(),
            prefill_rate: Rate::default(),
        }
    }

    /// Serves until the engine is stopped.
    pub(super) fn run(mut self) {
        while self.admit() {
            self.drop_cancelled();
            if self.active.is_empty() {
                continue;
            }
            let step = catch_unwind(AssertUnwindSafe(|| self.step()));
            if let Err(panic) = step {
                let reason = panic.downcast_ref::<&str>().map(|s| (*s).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
                let reason = reason.unwrap_or_else(|| "a panic without a message".to_owned());
                tracing::error!(reason, "engine step failed");
                self.fail_all(&EngineFailure::Step(reason));
            }
        }
        self.fail_all(&EngineFailure::Stopped);
        let waiting = std::mem::take(&mut self.shared.lock().queue);
        for queued in waiting {
            let _ = queued.events.try_send(EngineEvent::Failed(EngineFailure::Stopped));
        }
    }

    /// Waits for work when there is none, then starts queued requests in order while the KV budget allows. False: stopped.
    fn admit(&mut self) -> bool {
        loop {
            let next = {
                let mut state = self.shared.lock();
                self.publish(&mut state.load);
                while self.active.is_empty() && state.queue.is_empty() && !state.stopped {
                    state = self.shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                if state.stopped {
                    return false;
                }
                let room = self.config.kv_budget_bytes.saturating_sub(self.kv_used_bytes());
                // The first in the queue is not overtaken by a smaller one, or it might wait for ever.
                let fits = state.queue.front().is_some_and(|q| q.kv_bytes <= room || q.events.is_closed());
                if self.active.len() >= self.config.max_active || !fits {
                    return true;
                }
                let Some(next) = state.queue.pop_front() else { return true };
                // Counted as active at once, so that a drain never sees it nowhere.
                state.load.active += 1;
                next
            };
            self.start(next);
        }
    }

    fn start(&mut self, queued: Queued) {
        let Queued { job, sampler, events, kv_bytes, submitted } = queued;
        let tokens = job.prompt.len() + job.params.max_tokens as usize;
        match self.decoder.cache(tokens) {
            Ok(cache) => self.active.push(Sequence::new(job, sampler, events, &self.prompter, cache, kv_bytes, submitted)),
            Err(error) => {
                let _ = events.try_send(EngineEvent::Failed(error.into()));
            }
        }
    }

    fn drop_cancelled(&mut self) {
        for sequence in self.active.extract_if(.., |sequence| sequence.cancelled()) {
            sequence.finish(FinishReason::Cancelled);
        }
    }

    fn fail_all(&mut self, failure: &EngineFailure) {
        for sequence in self.active.drain(..) {
            sequence.fail(failure.clone());
        }
    }

    fn step(&mut self) {
        let started = Instant::now();
        let (shares, rows, tokens) = self.plan();
        let chosen: Vec<usize> = shares.iter().filter(|s| s.draws).map(|s| s.first_row + s.rows - 1).collect();
        let mut caches: Vec<&mut B::Cache> = self.active.iter_mut().map(|sequence| &mut sequence.cache).collect();
        self.decoder.step(&rows, &tokens, &mut caches, &chosen, &mut self.output);

        let decoded = shares.iter().filter(|s| self.active[s.sequence].decodes()).count();
        let mut ended = Vec::new();
        let (dim, vocabulary) = (self.decoder.dim(), self.decoder.vocab_size());
        let mut logits = self.output.logits.chunks_exact_mut(vocabulary);
        for share in &shares {
            let sequence = &mut self.active[share.sequence];
            sequence.advance(&self.output.hidden[share.first_row * dim..(share.first_row + share.rows) * dim], dim);
            if !share.draws {
                continue;
            }
            match logits.next().map(|logits| sequence.draw(logits)) {
                Some(Ok(None)) | None => {}
                Some(Ok(Some(reason))) => ended.push((share.sequence, Ok(reason))),
                Some(Err(error)) => ended.push((share.sequence, Err(error))),
            }
        }
        self.end(ended);
        self.measure(decoded, rows.len() - decoded, started.elapsed());
    }

    /// One row of each decoding request, then prompt tokens in the order of arrival up to the chunk size.
    fn plan(&self) -> (Vec<Share>, Vec<Row>, Vec<u32>) {
        let (mut shares, mut rows, mut tokens) = (Vec::new(), Vec::new(), Vec::new());
        let mut prefill_room = self.config.prefill_chunk_tokens;
        for (index, sequence) in self.active.iter().enumerate() {
            let pending = sequence.pending();
            let take = if sequence.decodes() { pending.len() } else { pending.len().min(prefill_room) };
            if take == 0 {
                continue;
            }
            if !sequence.decodes() {
                prefill_room -= take;
            }
            shares.push(Share { sequence: index, first_row: rows.len(), rows: take, draws: take == pending.len() });
            rows.extend((0..take).map(|i| Row { cache: index, position: sequence.computed() + i }));
            tokens.extend_from_slice(&pending[..take]);
        }
        (shares, rows, tokens)
    }

    /// Sends last events; memory of the ended requests is free from here on.
    fn end(&mut self, ended: Vec<(usize, Result<FinishReason, super::SampleError>)>) {
        // From the back, so that earlier indices stay what they are.
        for (index, outcome) in ended.into_iter().rev() {
            let sequence = self.active.remove(index);
            match outcome {
                Ok(reason) => sequence.finish(reason),
                Err(error) => sequence.fail(error.into()),
            }
        }
    }

    fn measure(&mut self, decoded: usize, prefilled: usize, took: Duration) {
        if decoded > 0 && prefilled == 0 {
            self.decode_rate.add(decoded, took);
        }
        if prefilled > 0 {
            self.prefill_rate.add(prefilled, took);
        }
    }

    fn publish(&self, load: &mut EngineLoad) {
        load.active = self.active.len();
        load.decode_tokens_per_s = self.decode_rate.per_second();
        load.prefill_tokens_per_s = self.prefill_rate.per_second();
        load.kv_used_bytes = self.kv_used_bytes();
        load.memory_used_bytes = self.weight_bytes + load.kv_used_bytes;
    }

    fn kv_used_bytes(&self) -> usize {
        self.active.iter().map(|sequence| sequence.kv_bytes).sum()
    }
}
