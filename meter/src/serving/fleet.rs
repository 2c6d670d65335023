//! The linked nodes: who they are, what they serve, how much they carry, and the jobs on them.

mod job; // one job, and what may come next
mod runs; // what measurements come to

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use daemon::CancellationToken;
use thiserror::Error;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;
use wire::node::{AuditJob, AuditOutcome, Device, FailureCode, FinishReason, FromMeter, Job, NodeStatus, ServedModel, TokenLogprobs};
use wire::proof::Window;
use wire::receipt::ServiceReceipt;
use wire::{AccountId, Address, B256, Bytes, OperatorId};

use job::JobSlot;
pub use runs::{Measurements, Run};

use super::asks::Asks;
use super::stream::Tokens;
pub use crate::config::STALE_S;
use crate::ledger::Quarantine;

/// Frames that wait for a slow link; a node that lets so many pile up gets no more.
pub const OUTGOING_MAX: usize = 256;

/// What a job hears from its node.
#[derive(Debug)]
pub enum NodeEvent {
    /// The next tokens, contiguous, never past `max_tokens`.
    Tokens(Tokens),
    /// The node's own end of the answer.
    Finished {
        /// Why.
        finish_reason: FinishReason,
        /// Its statement.
        receipt: Box<ServiceReceipt>,
        /// By its key.
        signature: Bytes,
    },
    /// The node can't serve, or can't go on.
    Failed {
        /// What kind.
        code: FailureCode,
        /// For operators.
        message: String,
    },
    /// The link is gone.
    Lost,
}

/// A node as it said hello.
#[derive(Clone, Debug)]
pub struct NodeFacts {
    /// Key that signs its receipts.
    pub node: Address,
    /// Who registered the key.
    pub operator: OperatorId,
    /// Whether it is the project's own.
    pub fallback: bool,
    /// Ours to the digest; at least one.
    pub models: Vec<ServedModel>,
    /// Most jobs at once.
    pub capacity: u32,
    /// As declared.
    pub device: Device,
    /// Version of its program.
    pub version: String,
    /// Where it stands, as declared.
    pub region: Option<String>,
    /// Seconds since the epoch.
    pub linked_at: u64,
    /// As the ledger had it when the link opened.
    pub quarantine: Option<Quarantine>,
}

/// One linked node.
pub struct Node {
    /// What it said.
    pub facts: NodeFacts,
    /// Cancelled when the link is over, or must end.
    pub closed: CancellationToken,
    link: u64,
    outgoing: mpsc::Sender<FromMeter>,
    status: Mutex<NodeStatus>,
    /// When that came, seconds since the epoch; 0 before the first.
    status_at: AtomicU64,
    jobs: Mutex<HashMap<B256, JobSlot>>,
    active: AtomicU32,
    outstanding_tokens: AtomicU64,
    /// Measured here, milli-tokens per second of one answer; 0 before any.
    speed_milli: AtomicU64,
    served: AtomicU64,
    /// Of its last job.
    last_account: AtomicU32,
    failing: AtomicBool,
    quarantine: Mutex<Option<Quarantine>>,
    /// Windows that somebody waits for.
    pub proofs: Asks<Option<Vec<Window>>>,
    /// Audits that somebody waits for.
    pub audits: Asks<AuditOutcome>,
    /// How fast it computed when it was measured.
    pub measurements: Measurements,
    /// Places that were ever reserved.
    reserved: AtomicU64,
    room: Arc<Notify>,
}

/// Load and speed of a node, for the pool and for dispatch.
#[derive(Clone, Debug)]
pub struct NodeLoad {
    /// As the node reports.
    pub status: NodeStatus,
    /// When that report came, seconds since the epoch; `None` before the first.
    pub status_at: Option<u64>,
    /// Jobs of ours on it.
    pub active: u32,
    /// Those of which tokens arrive.
    pub streaming: u32,
    /// Tokens that those may still take.
    pub outstanding_tokens: u64,
    /// Of one answer, as it arrived here; `None` before any.
    pub measured_tokens_per_s: Option<f64>,
    /// Answers that it finished over this link.
    pub served: u64,
}

/// All linked nodes.
#[derive(Clone, Default)]
pub struct Fleet(Arc<FleetState>);

#[derive(Default)]
struct FleetState {
    nodes: RwLock<HashMap<Address, Arc<Node>>>,
    links: AtomicU64,
    room: Arc<Notify>,
}

impl Fleet {
    /// Takes a node in, with `welcome` as its first frame; an older link of the same key is closed. `None` when `nodes_max`
    /// others are linked.
    pub fn join(&self, facts: NodeFacts, welcome: FromMeter, nodes_max: usize) -> Option<(Arc<Node>, mpsc::Receiver<FromMeter>)> {
        let (outgoing, outbox) = mpsc::channel(OUTGOING_MAX);
        outgoing.try_send(welcome).ok()?;
        let node = Arc::new(Node {
            quarantine: Mutex::new(facts.quarantine.clone()),
            proofs: Asks::default(),
            audits: Asks::default(),
            measurements: Measurements::default(),
            reserved: AtomicU64::new(0),
            facts,
            closed: CancellationToken::new(),
            link: self.0.links.fetch_add(1, Ordering::Relaxed),
            outgoing,
            status: Mutex::default(),
            status_at: AtomicU64::new(0),
            jobs: Mutex::default(),
            active: AtomicU32::new(0),
            outstanding_tokens: AtomicU64::new(0),
            speed_milli: AtomicU64::new(0),
            served: AtomicU64::new(0),
            last_account: AtomicU32::new(1),
            failing: AtomicBool::new(false),
            room: Arc::clone(&self.0.room),
        });
        let replaced = {
            let mut nodes = self.0.nodes.write().unwrap_or_else(PoisonError::into_inner);
            if nodes.len() >= nodes_max && !nodes.contains_key(&node.facts.node) {
                return None;
            }
            nodes.insert(node.facts.node, Arc::clone(&node))
        };
        if let Some(older) = replaced {
            older.closed.cancel();
        }
        self.0.room.notify_waiters();
        Some((node, outbox))
    }

    /// Takes a node out, unless a newer link has replaced it, and tells its jobs.
    pub fn leave(&self, node: &Node) {
        let mut nodes = self.0.nodes.write().unwrap_or_else(PoisonError::into_inner);
        if nodes.get(&node.facts.node).is_some_and(|current| current.link == node.link) {
            nodes.remove(&node.facts.node);
        }
        drop(nodes);
        node.closed.cancel();
        node.lose_jobs();
        node.proofs.close();
        node.audits.close();
        self.0.room.notify_waiters();
    }

    /// Everybody who is linked, in no order.
    pub fn nodes(&self) -> Vec<Arc<Node>> {
        self.0.nodes.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The node of that key, if it is linked.
    pub fn node(&self, key: Address) -> Option<Arc<Node>> {
        self.0.nodes.read().unwrap_or_else(PoisonError::into_inner).get(&key).cloned()
    }

    /// Told whenever a node joins, or has room again.
    pub fn room(&self) -> &Notify {
        &self.0.room
    }
}

impl Node {
    /// Whether it serves `model` with room for `context_tokens` in one sequence and takes jobs at all.
    pub fn serves(&self, model: &str, context_tokens: u32) -> bool {
        let capable = self.facts.models.iter().any(|served| served.model == model && served.context_tokens >= context_tokens);
        capable && !self.closed.is_cancelled() && !self.status().draining && self.quarantined().is_none()
    }

    /// Why it gets no jobs, if it failed an audit.
    pub fn quarantine(&self) -> Option<Quarantine> {
        self.quarantined().clone()
    }

    /// Takes what the ledger says of it now.
    pub fn set_quarantine(&self, quarantine: Option<Quarantine>) {
        *self.quarantined() = quarantine;
        self.room.notify_waiters();
    }

    /// Asks for the windows under a receipt's proof root; `None` when the node does not keep them any more. Unchecked.
    pub async fn ask_proof(&self, request_id: B256, wait: Duration) -> Result<Option<Vec<Window>>, AskError> {
        let waiting = self.proofs.open(request_id).ok_or(AskError::Busy)?;
        self.ask(FromMeter::ProofRequest { request_id }, waiting, wait).await
    }

    /// Has another node's answer computed again.
    pub async fn ask_audit(&self, job: AuditJob, wait: Duration) -> Result<AuditOutcome, AskError> {
        let waiting = self.audits.open(job.audit_id).ok_or(AskError::Busy)?;
        self.ask(FromMeter::Audit(job), waiting, wait).await
    }

    async fn ask<T>(&self, question: FromMeter, answer: oneshot::Receiver<T>, wait: Duration) -> Result<T, AskError> {
        if !self.send(question) {
            return Err(AskError::Lost);
        }
        tokio::select! {
            answered = timeout(wait, answer) => answered.map_err(|_| AskError::Silent { wait })?.map_err(|_| AskError::Lost),
            () = self.closed.cancelled() => Err(AskError::Lost),
        }
    }

    /// Reserves one of its places for a job of at most `tokens`; `None` when it is full.
    pub fn reserve(self: &Arc<Self>, tokens: u64) -> Option<Lease> {
        self.reserve_below(self.facts.capacity, tokens)
    }

    /// As [`Node::reserve`], when no job of ours is on it at all.
    pub fn reserve_idle(self: &Arc<Self>, tokens: u64) -> Option<Lease> {
        self.reserve_below(1, tokens)
    }

    fn reserve_below(self: &Arc<Self>, most: u32, tokens: u64) -> Option<Lease> {
        let taken = self.active.fetch_update(Ordering::AcqRel, Ordering::Acquire, |active| (active < most).then_some(active + 1));
        taken.ok()?;
        self.reserved.fetch_add(1, Ordering::AcqRel);
        self.outstanding_tokens.fetch_add(tokens, Ordering::AcqRel);
        Some(Lease { node: Arc::clone(self), tokens, request: None })
    }

    /// The account of its last job; the chain's first one before any.
    pub fn last_account(&self) -> AccountId {
        AccountId(self.last_account.load(Ordering::Acquire))
    }

    /// Places reserved since the link opened: equal at two moments when none was in between.
    pub fn reserved(&self) -> u64 {
        self.reserved.load(Ordering::Acquire)
    }

    /// Seconds until it would be through with its work and `tokens` more, at its measured speed; 0 outstanding is best.
    pub fn backlog(&self, tokens: u64) -> f64 {
        let outstanding = self.outstanding_tokens.load(Ordering::Acquire) + tokens;
        let load = self.load();
        let speed = load.measured_tokens_per_s.unwrap_or_else(|| f64::from(load.status.decode_tokens_per_s));
        // A node that was never measured counts as a slow one, so that it is tried but not flooded; one that just failed as
        // a hundred times slower, so that it is the last choice until it serves again.
        let speed = if speed > 0.0 { speed } else { 1.0 };
        let penalty = if self.failing.load(Ordering::Acquire) { 100.0 } else { 1.0 };
        outstanding as f64 / speed * penalty
    }

    /// Queues a frame without waiting. `false` when the link is over or takes nothing.
    pub fn send(&self, frame: FromMeter) -> bool {
        !self.closed.is_cancelled() && self.outgoing.try_send(frame).is_ok()
    }

    /// Queues a frame, waiting for room. `false` when the link is over.
    pub async fn send_waiting(&self, frame: FromMeter) -> bool {
        tokio::select! {
            () = self.closed.cancelled() => false,
            sent = self.outgoing.send(frame) => sent.is_ok(),
        }
    }

    /// What it last reported, and what was measured here.
    pub fn load(&self) -> NodeLoad {
        let speed_milli = self.speed_milli.load(Ordering::Acquire);
        NodeLoad {
            status: self.status().clone(),
            status_at: Some(self.status_at.load(Ordering::Acquire)).filter(|at| *at > 0),
            active: self.active.load(Ordering::Acquire),
            streaming: self.jobs().values().filter(|slot| slot.next > 0).count() as u32,
            outstanding_tokens: self.outstanding_tokens.load(Ordering::Acquire),
            measured_tokens_per_s: (speed_milli > 0).then_some(speed_milli as f64 / 1_000.0),
            served: self.served.load(Ordering::Acquire),
        }
    }

    /// Whether it stopped reporting, while its link is still open.
    pub fn is_stale(&self, now_s: u64) -> bool {
        let reported_at = self.status_at.load(Ordering::Acquire).max(self.facts.linked_at);
        now_s.saturating_sub(reported_at) > STALE_S
    }

    /// Takes a status report.
    pub fn report(&self, status: NodeStatus, now_s: u64) {
        *self.status() = status;
        self.status_at.store(now_s, Ordering::Release);
        self.room.notify_waiters();
    }

    /// Books an answer of `tokens` that took `elapsed_s` from its first token to its last.
    pub fn measured(&self, tokens: u32, elapsed_s: f64) {
        self.served.fetch_add(1, Ordering::AcqRel);
        self.failing.store(false, Ordering::Release);
        if tokens < 2 || elapsed_s <= 0.0 {
            return;
        }
        let sample = (f64::from(tokens - 1) / elapsed_s * 1_000.0).min(1e12) as u64;
        let _ = self
            .speed_milli
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| Some(if old == 0 { sample } else { (old * 4 + sample) / 5 }.max(1)));
    }

    /// Books a failure; the node is the last choice until it serves again.
    pub fn failed(&self) {
        self.failing.store(true, Ordering::Release);
    }

    /// Passes tokens on to their job. Tokens past `max_tokens` are dropped; a gap, an overlap or other log-probabilities than
    /// were asked for end the job.
    pub fn deliver_tokens(&self, request: B256, first: u32, mut tokens: Vec<u32>, logprobs: Option<Vec<TokenLogprobs>>) {
        let mut jobs = self.jobs();
        let Some(slot) = jobs.get_mut(&request) else { return };
        if let Some(message) = slot.fault(first, &tokens, logprobs.as_deref()) {
            let _ = slot.events.try_send(NodeEvent::Failed { code: FailureCode::Engine, message });
            jobs.remove(&request);
            return;
        }
        tokens.truncate((slot.max_tokens - slot.next) as usize);
        if tokens.is_empty() {
            return;
        }
        slot.next += tokens.len() as u32;
        // One place a token is reserved, so the channel has room.
        let _ = slot.events.try_send(NodeEvent::Tokens(Tokens { ids: tokens, logprobs: logprobs.unwrap_or_default() }));
    }

    /// Passes the last event of a job on. `false` when the node has no such job here.
    pub fn deliver_end(&self, request: B256, event: NodeEvent) -> bool {
        self.jobs().remove(&request).is_some_and(|slot| slot.events.try_send(event).is_ok())
    }

    fn lose_jobs(&self) {
        for (_, slot) in self.jobs().drain() {
            let _ = slot.events.try_send(NodeEvent::Lost);
        }
    }

    fn jobs(&self) -> MutexGuard<'_, HashMap<B256, JobSlot>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn quarantined(&self) -> MutexGuard<'_, Option<Quarantine>> {
        self.quarantine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self) -> MutexGuard<'_, NodeStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AskError {
    /// Asked already, or too much is asked.
    #[error("the node is asked too much at once; try again in a few seconds")]
    Busy,
    /// The link is over, or takes nothing.
    #[error("the node's link is over")]
    Lost,
    /// Nothing came.
    #[error("the node did not answer within {} ms", wait.as_millis())]
    Silent {
        /// The limit.
        wait: Duration,
    },
}

/// A reserved place on a node; given back when dropped, and its job forgotten.
pub struct Lease {
    node: Arc<Node>,
    tokens: u64,
    request: Option<B256>,
}

impl Lease {
    /// The node.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Sends the job; its events arrive on the receiver. `None` when the link is over or takes nothing.
    pub fn start(&mut self, job: Job) -> Option<mpsc::Receiver<NodeEvent>> {
        let request = job.request_id;
        self.node.last_account.store(job.account.0, Ordering::Release);
        // One place for each token, since frames without any are dropped, and some for the end.
        let (events, receiver) = mpsc::channel(job.params.max_tokens as usize + 4);
        let slot = JobSlot { events, next: 0, max_tokens: job.params.max_tokens, logprobs: job.params.logprobs };
        self.node.jobs().insert(request, slot);
        self.request = Some(request);
        let sent = self.node.send(FromMeter::Job(job));
        // The link may have ended between the two: its jobs were told before this one was known.
        if sent && !self.node.closed.is_cancelled() { Some(receiver) } else { None }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(request) = self.request {
            self.node.jobs().remove(&request);
        }
        self.node.active.fetch_sub(1, Ordering::AcqRel);
        self.node.outstanding_tokens.fetch_sub(self.tokens, Ordering::AcqRel);
        self.node.room.notify_waiters();
    }
}

#[cfg(test)]
pub(crate) mod tests;
