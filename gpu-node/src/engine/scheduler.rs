//! Continuous batching: every step is one pass over a decode row of each active request and a chunk of prompts.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prompt::Prompter;
use tokio::sync::mpsc;
use wire::node::FinishReason;

use super::forward::StepOutput;
use super::measure::{Busy, Rate};
use super::pages::PageTable;
use super::sequence::Sequence;
use super::{Decoder, EngineConfig, EngineEvent, EngineFailure, EngineJob, EngineLoad, Refusal, SampleError, Sampler};
use crate::backend::{Backend, BackendError, Draw, Found, PageId, Placement, Row};

/// What handles and the engine's thread share.
pub(super) struct Shared {
    state: Mutex<State>,
    work: Condvar,
    max_queued: usize,
}

struct State {
    queue: VecDeque<Queued>,
    stopped: bool,
    /// Why the device computes nothing any more.
    device_error: Option<String>,
    load: EngineLoad,
    busy: Busy,
}

struct Queued {
    job: EngineJob,
    sampler: Sampler,
    events: mpsc::Sender<EngineEvent>,
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
        let state = State { queue: VecDeque::new(), stopped: false, device_error: None, load, busy: Busy::idle(Instant::now()) };
        Self { state: Mutex::new(state), work: Condvar::new(), max_queued: config.max_queued }
    }

    pub(super) fn enqueue(&self, job: EngineJob, sampler: Sampler, events: mpsc::Sender<EngineEvent>) -> Result<(), Refusal> {
        let mut state = self.lock();
        if state.stopped {
            return Err(Refusal::Stopped);
        }
        if let Some(reason) = &state.device_error {
            return Err(Refusal::Device(reason.clone()));
        }
        if state.queue.len() >= self.max_queued {
            return Err(Refusal::Busy { queued: state.queue.len(), most: self.max_queued });
        }
        state.queue.push_back(Queued { job, sampler, events, submitted: Instant::now() });
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    pub(super) fn load(&self) -> EngineLoad {
        let mut state = self.lock();
        let utilization_percent = state.busy.percent(Instant::now());
        EngineLoad { queued: state.queue.len(), utilization_percent, ..state.load }
    }

    pub(super) fn device_error(&self) -> Option<String> {
        self.lock().device_error.clone()
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
    pool: B::Pool,
    table: PageTable,
    /// In the order of arrival.
    active: Vec<Sequence>,
    /// Preempted ones, which go before the queue; the longest waiting first.
    preempted: VecDeque<Sequence>,
    weight_bytes: usize,
    page_bytes: usize,
    output: StepOutput,
    decode_rate: Rate,
    prefill_rate: Rate,
    /// Operations per second at most so far.
    flops_peak: f64,
    prefix_hit_tokens: u64,
    preemptions: u64,
}

/// Rows of one sequence in a step.
struct Share {
    sequence: usize,
    first_row: usize,
    rows: usize,
    /// The next token can be drawn after this step.
    draws: bool,
}

/// Why a sequence ends.
type Ending = Result<FinishReason, EngineFailure>;

impl<B: Backend> Scheduler<B> {
    /// A scheduler over a pool of so many pages.
    pub(super) fn new(
        decoder: Decoder<B>,
        prompter: Prompter,
        config: EngineConfig,
        shared: Arc<Shared>,
        pages: usize,
    ) -> Result<Self, BackendError> {
        let weight_bytes = shared.lock().load.memory_used_bytes;
        Ok(Self {
            pool: decoder.pool(pages)?,
            table: PageTable::new(pages),
            page_bytes: decoder.page_bytes(),
            decoder,
            prompter,
            config,
            shared,
            active: Vec::new(),
            preempted: VecDeque::new(),
            weight_bytes,
            output: StepOutput::default(),
            decode_rate: Rate::default(),
            prefill_rate: Rate::default(),
            flops_peak: 0.0,
            prefix_hit_tokens: 0,
            preemptions: 0,
        })
    }

    /// Serves until the engine is stopped.
    pub(super) fn run(mut self) {
        self.decoder.enter_thread();
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
            if let Some(reason) = self.decoder.fault() {
                self.lose_device(reason);
            }
        }
        self.fail_all(&EngineFailure::Stopped);
        let waiting = std::mem::take(&mut self.shared.lock().queue);
        for queued in waiting {
            let _ = queued.events.try_send(EngineEvent::Failed(EngineFailure::Stopped));
        }
    }

    /// Waits for work when there is none, then starts requests in order while pages are there: first preempted ones, then the
    /// queue. False: stopped.
    fn admit(&mut self) -> bool {
        loop {
            let next = {
                let mut state = self.shared.lock();
                self.publish(&mut state.load);
                while self.active.is_empty() && self.preempted.is_empty() && state.queue.is_empty() && !state.stopped {
                    state.busy.set(false, Instant::now());
                    state = self.shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                state.busy.set(true, Instant::now());
                if state.stopped {
                    return false;
                }
                if self.active.len() >= self.config.max_active {
                    return true;
                }
                // The first in line is not overtaken by a smaller one, or it might wait for ever.
                match self.preempted.pop_front() {
                    Some(sequence) => sequence,
                    None => {
                        let Some(Queued { job, sampler, events, submitted }) = state.queue.pop_front() else { return true };
                        // Counted as active at once, so that a drain never sees it nowhere.
                        state.load.active += 1;
                        Sequence::new(job, sampler, events, &self.prompter, submitted)
                    }
                }
            };
            if next.pages_to_start() > self.table.available() && !self.active.is_empty() && !next.cancelled() {
                self.preempted.push_front(next);
                return true;
            }
            self.start(next);
        }
    }

    fn start(&mut self, mut sequence: Sequence) {
        sequence.share_prefix(&mut self.table);
        self.prefix_hit_tokens += sequence.computed() as u64;
        self.active.push(sequence);
    }

    fn drop_cancelled(&mut self) {
        let cancelled = |sequence: &mut Sequence| sequence.cancelled();
        let mut gone: Vec<Sequence> = self.active.extract_if(.., cancelled).collect();
        while let Some(index) = self.preempted.iter().position(Sequence::cancelled) {
            gone.extend(self.preempted.remove(index));
        }
        for mut sequence in gone {
            sequence.release(&mut self.table);
            sequence.finish(FinishReason::Cancelled);
        }
    }

    fn fail_all(&mut self, failure: &EngineFailure) {
        for mut sequence in self.active.drain(..).chain(self.preempted.drain(..)) {
            sequence.release(&mut self.table);
            sequence.fail(failure.clone());
        }
    }

    /// Fails everything, now and from here on: a device that failed gives no bits that could be trusted.
    fn lose_device(&mut self, reason: String) {
        tracing::error!(reason, "the device failed; this engine takes no more jobs");
        let failure = EngineFailure::Device(reason.clone());
        // First of all: who hears of the failure is refused from then on.
        let waiting = {
            let mut state = self.shared.lock();
            state.device_error = Some(reason);
            std::mem::take(&mut state.queue)
        };
        self.fail_all(&failure);
        for queued in waiting {
            let _ = queued.events.try_send(EngineEvent::Failed(failure.clone()));
        }
    }

    fn step(&mut self) {
        let started = Instant::now();
        let shares = self.plan();
        if shares.is_empty() {
            return;
        }
        // Before the step's tokens go out: whoever has one sees the memory that it took.
        self.publish(&mut self.shared.lock().load);
        let (mut rows, mut tokens) = (Vec::new(), Vec::new());
        for share in &shares {
            let sequence = &self.active[share.sequence];
            rows.extend((0..share.rows).map(|i| Row { sequence: share.sequence, position: sequence.computed() + i }));
            tokens.extend_from_slice(&sequence.pending()[..share.rows]);
        }
        let chosen: Vec<usize> = shares.iter().filter(|s| s.draws).map(|s| s.first_row + s.rows - 1).collect();
        self.output.draws = self.draws(&shares);
        let tables: Vec<&[PageId]> = self.active.iter().map(Sequence::pages).collect();
        let placement = Placement { rows: &rows, tables: &tables };
        self.decoder.step(&placement, &tokens, &mut self.pool, &chosen, &mut self.output);
        if self.decoder.fault().is_some() {
            return;
        }

        let decoded = shares.iter().filter(|s| self.active[s.sequence].decodes()).count();
        let mut ended = Vec::new();
        let mut logits = self.output.logits.chunks_exact_mut(self.decoder.vocab_size());
        let mut found = self.output.found.iter();
        for share in &shares {
            let sequence = &mut self.active[share.sequence];
            let found = if share.draws { found.next().copied().unwrap_or(Found::Open) } else { Found::Open };
            let logits = if share.draws && found == Found::Open { logits.next() } else { None };
            let digests = &self.output.digests[share.first_row..share.first_row + share.rows];
            if !sequence.advance(digests, &mut self.table) {
                ended.push((share.sequence, Err(EngineFailure::NotFinite)));
                continue;
            }
            let drawn = match found {
                Found::Token(token) => Some(sequence.take(token)),
                Found::NotFinite => Some(Err(SampleError::NotFinite)),
                Found::Open => logits.map(|logits| sequence.draw(logits)),
            };
            match drawn {
                Some(Ok(None)) | None => {}
                Some(Ok(Some(reason))) => ended.push((share.sequence, Ok(reason))),
                Some(Err(error)) => ended.push((share.sequence, Err(error.into()))),
            }
        }
        self.end(ended);
        self.measure(decoded, rows.len() - decoded, started.elapsed());
    }

    /// What the device is to draw in this step; nothing where every row's logits are read anyway.
    fn draws(&self, shares: &[Share]) -> Vec<Option<Draw>> {
        if !self.decoder.draws() {
            return Vec::new();
        }
        let draws: Vec<Option<Draw>> = shares.iter().filter(|s| s.draws).map(|s| self.active[s.sequence].for_device()).collect();
        if draws.iter().any(Option::is_some) { draws } else { Vec::new() }
    }

    /// One row of each decoding request, then prompt tokens in the order of arrival up to the chunk size, or several times that while
    /// nobody decodes; with pages for all of them. When pages run out, the youngest request gives its own back and waits.
    fn plan(&mut self) -> Vec<Share> {
        let mut shares: Vec<Share> = Vec::new();
        let is_alone = !self.active.iter().any(Sequence::decodes);
        let mut prefill_room = if is_alone { self.config.prefill_alone_tokens() } else { self.config.prefill_chunk_tokens };
        let mut index = 0;
        while index < self.active.len() {
            let sequence = &self.active[index];
            let pending = sequence.pending().len();
            let take = if sequence.decodes() { 1 } else { pending.min(prefill_room) };
            if take == 0 {
                index += 1;
                continue;
            }
            match self.give_pages(index, take) {
                Ok(true) => {}
                // It gave way itself; it was the youngest, so nobody follows.
                Ok(false) => break,
                Err(error) => {
                    self.end(vec![(index, Err(error.into()))]);
                    continue;
                }
            }
            if pending > 1 {
                prefill_room -= take;
            }
            let first_row = shares.last().map_or(0, |last| last.first_row + last.rows);
            shares.push(Share { sequence: index, first_row, rows: take, draws: take == pending });
            index += 1;
        }
        shares
    }

    /// Gives a sequence pages for its next rows. False: it was preempted.
    fn give_pages(&mut self, index: usize, rows: usize) -> Result<bool, BackendError> {
        for _ in 0..self.active[index].missing_pages(rows) {
            let page = loop {
                if let Some(page) = self.table.take() {
                    break page;
                }
                let youngest = self.active.len() - 1;
                self.preempt(youngest);
                if youngest == index {
                    return Ok(false);
                }
            };
            if let Err(error) = self.decoder.prepare(&mut self.pool, page) {
                self.table.release(page);
                return Err(error);
            }
            self.active[index].add_page(page);
        }
        Ok(true)
    }

    /// Takes all pages from a sequence; it is computed again when there is room, to the same bits.
    fn preempt(&mut self, index: usize) {
        let mut sequence = self.active.remove(index);
        sequence.release(&mut self.table);
        self.preemptions += 1;
        self.preempted.push_front(sequence);
    }

    /// Sends last events; pages of the ended requests are free from here on.
    fn end(&mut self, ended: Vec<(usize, Ending)>) {
        // From the back, so that earlier indices stay what they are.
        for (index, outcome) in ended.into_iter().rev() {
            let mut sequence = self.active.remove(index);
            sequence.release(&mut self.table);
            match outcome {
                Ok(reason) => sequence.finish(reason),
                Err(failure) => sequence.fail(failure),
            }
        }
    }

    fn measure(&mut self, decoded: usize, prefilled: usize, took: Duration) {
        if took > Duration::ZERO {
            let operations = (decoded + prefilled) as f64 * self.decoder.operations_per_token() as f64;
            self.flops_peak = self.flops_peak.max(operations / took.as_secs_f64());
        }
        if decoded > 0 && prefilled == 0 {
            self.decode_rate.add(decoded, took);
        }
        if prefilled > 0 {
            self.prefill_rate.add(prefilled, took);
        }
    }

    fn publish(&self, load: &mut EngineLoad) {
        load.active = self.active.len() + self.preempted.len();
        load.decode_tokens_per_s = self.decode_rate.per_second();
        load.prefill_tokens_per_s = self.prefill_rate.per_second();
        load.tflops = (self.flops_peak / 1e12) as f32;
        load.prefix_hit_tokens = self.prefix_hit_tokens;
        load.preemptions = self.preemptions;
        load.kv_used_bytes = self.table.held() * self.page_bytes;
        load.memory_used_bytes = self.weight_bytes + load.kv_used_bytes;
    }
}
