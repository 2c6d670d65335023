//! The node's links: one outbound WebSocket to each meter (`docs/protocol.md`, section 6).
//!
//! Reading order: [`serve`] is what the link needs of an engine, and `engine` how ours gives it; `socket` carries frames; `handshake` opens
//! a link, `session` is one from welcome to close; `answer` is one job from the engine to its signed receipt; [`terms`] decides, purely, what may be
//! taken and what may be signed; [`outbox`] keeps signed receipts until they are acknowledged.
//!
//! Invariants of absence: no text, only token ids; nothing from a chain; no key but the node's own.

mod answer;
mod backoff;
mod board;
mod engine;
mod error;
mod handshake;
pub mod outbox;
pub mod serve;
mod served;
mod session;
mod socket;
pub mod terms;
mod url;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use alloy::signers::local::PrivateKeySigner;
use daemon::CancellationToken;
use daemon::clock::SharedClock;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use wire::deployment::Deployment;
use wire::node::{Device, Hello, NodeStatus, PROTOCOL, ServedModel};
use wire::proof::Window;
use wire::receipt::ServiceReceipt;
use wire::typed::{self, TypedError};
use wire::{Address, B256, Bytes, OperatorId};

pub use board::{Board, LinkState, next_step};
pub use error::LinkError;
pub use handshake::{Greeting, greet};
pub use socket::LinkTimings;
pub use url::MeterUrl;

use backoff::Backoff;
use outbox::{Kept, Outbox, OutboxError};
use serve::ServingModel;
use served::Served;

use crate::proof::store::ProofStore;

/// A number in [0, 1), uniform: spreads reconnects.
pub type Jitter = Arc<dyn Fn() -> f64 + Send + Sync>;

/// Who this node is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The operator that registered the node key.
    pub operator: OperatorId,
    /// The node key.
    pub signer: PrivateKeySigner,
    /// The contracts that it signs for, and no others.
    pub deployment: Deployment,
}

/// What the links of this node may use.
#[derive(Clone, Copy, Debug)]
pub struct LinkLimits {
    /// Most requests at once, over all meters.
    pub capacity: u32,
    /// An engine that says nothing for so long has failed.
    pub answer_silence: Duration,
    /// A draining node lets answers run for so long, then cancels them.
    pub drain: Duration,
    /// Of each link.
    pub timings: LinkTimings,
}

/// What a node keeps on disk.
#[derive(Debug)]
pub struct Stores {
    /// Signed receipts, until they are acknowledged.
    pub outbox: Outbox,
    /// Windows under their proof roots, for a time.
    pub proofs: ProofStore,
}

/// What the operator says of the machine; nobody measures it.
#[derive(Clone, Debug)]
pub struct Declared {
    /// What computes.
    pub device: Device,
    /// Where it stands.
    pub region: Option<String>,
}

/// The node as its links see it; they share one.
pub struct Node {
    identity: Identity,
    models: Vec<ServingModel>,
    declared: Declared,
    limits: LinkLimits,
    outbox: Arc<Outbox>,
    proofs: Arc<ProofStore>,
    clock: SharedClock,
    jitter: Jitter,
    slots: Arc<Semaphore>,
    served: Mutex<Served>,
    board: Board,
}

impl Node {
    /// A node that serves `models` on the declared device. `jitter` and `clock` are arguments so that tests own them.
    pub fn new(
        identity: Identity,
        models: Vec<ServingModel>,
        declared: Declared,
        limits: LinkLimits,
        stores: Stores,
        clock: SharedClock,
        jitter: Jitter,
    ) -> Arc<Self> {
        let slots = Arc::new(Semaphore::new(limits.capacity as usize));
        let (outbox, proofs) = (Arc::new(stores.outbox), Arc::new(stores.proofs));
        let (served, board) = (Mutex::default(), Board::default());
        Arc::new(Self { identity, models, declared, limits, outbox, proofs, clock, jitter, slots, served, board })
    }

    /// Keeps a link to each of `meters` until `shutdown`; then drains them all: no new job, running answers to their end or
    /// to the limit, acknowledgements, close.
    pub async fn run(self: &Arc<Self>, meters: &[MeterUrl], shutdown: &CancellationToken) {
        let all: Arc<Vec<String>> = Arc::new(meters.iter().map(MeterUrl::link).collect());
        let mut links = JoinSet::new();
        for meter in meters {
            links.spawn(Arc::clone(self).keep_linked(meter.clone(), Arc::clone(&all), shutdown.clone()));
        }
        while let Some(ended) = links.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "link task ended");
            }
        }
    }

    /// How the links are.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// Signed receipts that wait for a meter.
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Who this node is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// What this node serves.
    pub fn models(&self) -> Vec<ServedModel> {
        self.models.iter().map(|serving| serving.model.clone()).collect()
    }

    /// Load and speed of all engines together.
    pub fn status(&self, draining: bool) -> NodeStatus {
        // JSON has no word for what is not a number.
        let finite = |value: f32| if value.is_finite() { value } else { 0.0 };
        let device_error = self.models.iter().find_map(|serving| serving.engine.device_error());
        let draining = draining || device_error.is_some();
        let empty = NodeStatus { capacity: self.limits.capacity, draining, device_error, ..NodeStatus::default() };
        self.models.iter().map(|serving| serving.engine.load()).fold(empty, |sum, load| NodeStatus {
            active: sum.active.saturating_add(load.active),
            queued: sum.queued.saturating_add(load.queued),
            decode_tokens_per_s: sum.decode_tokens_per_s + finite(load.decode_tokens_per_s),
            prefill_tokens_per_s: sum.prefill_tokens_per_s + finite(load.prefill_tokens_per_s),
            memory_used_bytes: sum.memory_used_bytes.saturating_add(load.memory_used_bytes),
            // They share the device, so neither adds up.
            utilization_percent: sum.utilization_percent.max(finite(load.utilization_percent)),
            tflops: sum.tflops.max(finite(load.tflops)),
            ..sum
        })
    }

    async fn keep_linked(self: Arc<Self>, meter: MeterUrl, meters: Arc<Vec<String>>, shutdown: CancellationToken) {
        let timings = self.limits.timings;
        let mut backoff = Backoff::new(timings.retry_first, timings.retry_most);
        let address = meter.link();
        let mut after = None;
        while !shutdown.is_cancelled() {
            self.board.set(&address, LinkState::Connecting { after: after.take() });
            let started = Instant::now();
            let ended = session::run(&self, &meter, &meters, &shutdown).await;
            let Err(error) = ended else { break };
            if started.elapsed() > timings.retry_most {
                backoff.reset();
            }
            let (reason, wait) = self.note_loss(&address, &error, &mut backoff);
            after = Some(reason);
            tokio::select! {
                () = sleep(wait) => {}
                () = shutdown.cancelled() => {}
            }
        }
        self.board.set(&address, LinkState::Closed);
    }

    /// Says why the link is gone, where an operator looks; returns that, and how long to wait.
    fn note_loss(&self, address: &str, error: &LinkError, backoff: &mut Backoff) -> (String, Duration) {
        metrics::counter!("node_link_losses_total", "meter" => address.to_owned()).increment(1);
        if let LinkError::Refused { code, message } = error {
            let next_step = next_step(code);
            backoff.exhaust();
            tracing::error!(meter = address, code, message, next_step, "meter refused this node");
            let reason = format!("{error}; {next_step}");
            self.board.set(address, LinkState::Refused { code: code.clone(), message: message.clone(), next_step });
            return (reason, backoff.next((self.jitter)()));
        }
        let wait = backoff.next((self.jitter)());
        let retry_ms = wait.as_millis() as u64;
        tracing::warn!(meter = address, reason = %error, retry_ms, "link lost");
        self.board.set(address, LinkState::Lost { reason: error.to_string(), retry_ms });
        (error.to_string(), wait)
    }

    fn hello(&self, challenge: B256) -> Result<Hello, TypedError> {
        let mut hello = Hello {
            protocol: PROTOCOL,
            operator: self.identity.operator,
            node: self.address(),
            models: self.models(),
            capacity: self.limits.capacity,
            device: self.declared.device.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            region: self.declared.region.clone(),
            signature: Bytes::new(),
        };
        let domain = self.identity.deployment.settlement_domain();
        hello.signature = typed::sign(&hello.typed(challenge), &domain, &self.identity.signer)?.into();
        Ok(hello)
    }

    /// Signs `receipt` and puts it on disk. A disk that fails is an error in the log and no reason to withhold the receipt:
    /// the meter asks again for what it never got. Errors when the key can't sign.
    async fn sign_and_keep(&self, meter: &str, receipt: &ServiceReceipt) -> Result<Bytes, SignError> {
        let domain = self.identity.deployment.settlement_domain();
        let signature: Bytes = typed::sign(&receipt.typed(), &domain, &self.identity.signer)?.into();
        let kept = Kept { meter: meter.to_owned(), receipt: receipt.clone(), signature: signature.clone() };
        let outbox = Arc::clone(&self.outbox);
        let stored = tokio::task::spawn_blocking(move || outbox.add(kept)).await;
        match stored {
            Ok(Ok(())) => {}
            Ok(Err(error @ OutboxError::Full { .. })) => return Err(error.into()),
            Ok(Err(error)) => tracing::error!(request_id = %receipt.request_id, %error, "receipt was not stored"),
            Err(error) => tracing::error!(request_id = %receipt.request_id, %error, "receipt was not stored"),
        }
        metrics::gauge!("node_receipts_unacknowledged").set(self.outbox.len() as f64);
        Ok(signature)
    }

    /// Keeps the windows of an answer, before its receipt is signed. A disk that fails costs this one proof and nothing else.
    async fn keep_proof(&self, request_id: B256, windows: Vec<Window>) {
        let (proofs, now_s) = (Arc::clone(&self.proofs), self.now_s());
        let stored = tokio::task::spawn_blocking(move || proofs.add(request_id, &windows, now_s)).await;
        match stored {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%request_id, %error, "proof was not stored"),
            Err(error) => tracing::error!(%request_id, %error, "proof was not stored"),
        }
    }

    /// The windows of an answer, when they are still kept and can be read.
    async fn kept_proof(&self, request_id: B256) -> Option<Vec<Window>> {
        let proofs = Arc::clone(&self.proofs);
        let read = tokio::task::spawn_blocking(move || proofs.get(&request_id)).await;
        match read {
            Ok(Ok(windows)) => windows,
            Ok(Err(error)) => {
                tracing::error!(%request_id, %error, "proof can't be read");
                None
            }
            Err(error) => {
                tracing::error!(%request_id, %error, "proof can't be read");
                None
            }
        }
    }

    fn address(&self) -> Address {
        self.identity.signer.address()
    }

    fn now_s(&self) -> u64 {
        self.clock.now_s()
    }

    fn served(&self) -> MutexGuard<'_, Served> {
        // Whole after each call.
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a receipt is not signed.
#[derive(Debug, thiserror::Error)]
enum SignError {
    #[error(transparent)]
    Signature(#[from] TypedError),
    #[error(transparent)]
    Outbox(#[from] OutboxError),
}
