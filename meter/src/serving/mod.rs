//! The serving rooms: one request from its worst case to its receipt.
//!
//! In reading order: [`request`] walks `hold` → `dispatch` → `stream` → `receipt`; [`fleet`] and [`link`] are the nodes it
//! walks to, [`catalog`] what they serve.
//!
//! Invariants of absence: nothing here knows HTTP status codes, and no text of a prompt or an answer is logged or stored.

mod asks; // questions to a node
pub mod audits; // a sample of answers, computed again
pub mod benchmarks; // how fast idle nodes compute
pub mod catalog; // models, prices, digests
pub mod demo; // the answer that the operator publishes
pub mod dispatch; // which node
pub mod fleet; // linked nodes and their jobs
pub mod hold; // worst case, reserved
pub mod jobs; // answers that outlive their readers
pub mod link; // one node's WebSocket
mod live; // one answer while it arrives
pub mod proof; // the windows under a receipt's root
pub mod receipt; // own count against the node's claim
pub mod request; // the rooms in order
pub mod speeds; // medians of a model's last answers
pub mod stream; // token ids → text
mod weights; // what a model computes for one token

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use alloy::sol_types::Eip712Domain;
use daemon::CancellationToken;
use daemon::clock::SharedClock;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wire::deployment::Deployment;
use wire::{AccountId, B256, OperatorId};

use crate::config::{AuditSettings, Limits};
use crate::ledger::Ledger;
use audits::{Audits, Lot};
use catalog::Catalog;
use dispatch::Dispatcher;
use fleet::Fleet;
use jobs::Jobs;
use speeds::Speeds;

/// Links at once that have not said hello yet; each holds a socket for ten seconds at most.
const LINKS_OPENING_MAX: usize = 256;

/// The rooms and what they share. Clones share everything.
#[derive(Clone)]
pub struct Serving(Arc<Rooms>);

/// What the rooms work with.
pub struct Rooms {
    /// What is served.
    pub catalog: Catalog,
    /// By whom.
    pub fleet: Fleet,
    /// Choice of a node.
    pub dispatcher: Dispatcher,
    /// The sample that is computed again.
    pub audits: Audits,
    /// Answers that belong to the meter.
    pub jobs: Arc<Jobs>,
    /// How fast answers came.
    pub speeds: Speeds,
    /// Where money is counted.
    pub ledger: Ledger,
    /// Where the contracts are.
    pub deployment: Deployment,
    /// Domain of receipts and hellos.
    pub domain: Eip712Domain,
    /// Operators whose nodes are the project's own.
    pub fallback_operators: BTreeSet<OperatorId>,
    /// Everything that is bounded.
    pub limits: Limits,
    /// What time it is.
    pub clock: SharedClock,
    admission: CancellationToken,
    cut: CancellationToken,
    streams: Arc<Semaphore>,
    opening: Arc<Semaphore>,
    running: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    requests: HashSet<B256>,
    of_account: HashMap<AccountId, usize>,
}

/// What [`Serving::new`] needs.
pub struct Parts {
    /// What is served.
    pub catalog: Catalog,
    /// Where money is counted.
    pub ledger: Ledger,
    /// Where the contracts are.
    pub deployment: Deployment,
    /// Operators whose nodes are the project's own.
    pub fallback_operators: BTreeSet<OperatorId>,
    /// Everything that is bounded.
    pub limits: Limits,
    /// Which answers are computed again.
    pub audits: AuditSettings,
    /// Draws them.
    pub lot: Lot,
    /// What time it is.
    pub clock: SharedClock,
}

impl Serving {
    /// Rooms without nodes.
    pub fn new(parts: Parts) -> Self {
        let fleet = Fleet::default();
        let limits = parts.limits;
        Self(Arc::new(Rooms {
            dispatcher: Dispatcher::new(
                fleet.clone(),
                limits.queue_max,
                Duration::from_millis(limits.queue_timeout_ms),
                parts.clock.clone(),
            ),
            fleet,
            catalog: parts.catalog,
            audits: Audits::new(parts.audits, parts.lot),
            jobs: Jobs::new(&limits, parts.clock.clone()),
            speeds: Speeds::default(),
            ledger: parts.ledger,
            domain: parts.deployment.settlement_domain(),
            deployment: parts.deployment,
            fallback_operators: parts.fallback_operators,
            clock: parts.clock,
            admission: CancellationToken::new(),
            cut: CancellationToken::new(),
            streams: Arc::new(Semaphore::new(limits.streams_max.min(Semaphore::MAX_PERMITS))),
            opening: Arc::new(Semaphore::new(LINKS_OPENING_MAX)),
            running: Mutex::default(),
            limits,
        }))
    }

    /// What the rooms work with.
    pub fn rooms(&self) -> &Rooms {
        &self.0
    }

    /// Takes no new request from now on, lets running answers go on for `drain_timeout_ms`, then cuts and charges them for
    /// what arrived, and closes the links. Returns when every answer is captured or released.
    pub async fn drain(&self) {
        let rooms = &self.0;
        rooms.admission.cancel();
        let permits = rooms.limits.streams_max.min(Semaphore::MAX_PERMITS) as u32;
        let all_done = rooms.streams.acquire_many(permits);
        if tokio::time::timeout(Duration::from_millis(rooms.limits.drain_timeout_ms), all_done).await.is_err() {
            tracing::warn!(running = rooms.running().requests.len(), "drain deadline passed: cutting answers");
            rooms.cut.cancel();
            // Bounded: a cut answer waits `cancel_timeout_ms` for its node, and captures with a bounded number of tries.
            let _ = rooms.streams.acquire_many(permits).await;
        }
        for node in rooms.fleet.nodes() {
            node.closed.cancel();
        }
    }

    /// A place for a link that has not said hello yet; `None` when too many are at it.
    pub fn link_place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0.opening).try_acquire_owned().ok()
    }

    /// Whether new requests are taken.
    pub fn admits(&self) -> bool {
        !self.0.admission.is_cancelled()
    }
}

impl Rooms {
    /// Whether the request is between its hold and its capture.
    pub fn is_running(&self, request: B256) -> bool {
        self.running().requests.contains(&request)
    }

    /// How many answers are being served.
    pub fn running_count(&self) -> usize {
        self.running().requests.len()
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Running> {
        // Whole after every change, also in a panicking task.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running request's place; given back when dropped.
struct Place {
    serving: Serving,
    request: B256,
    account: AccountId,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    /// `None` when the account, or all together, have as many answers as they may.
    fn take(serving: &Serving, request: B256, account: AccountId) -> Option<Self> {
        let permit = Arc::clone(&serving.0.streams).try_acquire_owned().ok()?;
        let mut running = serving.0.running();
        let count = running.of_account.entry(account).or_default();
        if *count >= serving.0.limits.streams_per_account_max {
            return None;
        }
        *count += 1;
        running.requests.insert(request);
        metrics::gauge!("meter_streams_running").set(running.requests.len() as f64);
        drop(running);
        Some(Self { serving: serving.clone(), request, account, _permit: permit })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut running = self.serving.0.running();
        running.requests.remove(&self.request);
        if let Some(count) = running.of_account.get_mut(&self.account) {
            *count -= 1;
            if *count == 0 {
                running.of_account.remove(&self.account);
            }
        }
        metrics::gauge!("meter_streams_running").set(running.requests.len() as f64);
    }
}
