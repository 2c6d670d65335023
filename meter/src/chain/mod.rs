//! The chain as the meter sees it: the mirror that follows it (`docs/protocol.md`, sections 3 and 8).

mod countersign;

use std::sync::Arc;

use daemon::CancellationToken;
use daemon::clock::SharedClock;
use thiserror::Error;
use tokio::sync::{Notify, watch};
use wire::deployment::Deployment;

use crate::ledger::{Ledger, LedgerError};

/// How deep a block must be to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// This many blocks on top of it; zero counts the head itself.
    Confirmations(u64),
    /// What the node calls finalized.
    Finalized,
}

/// Limits and periods of the mirror.
#[derive(Clone, Debug)]
pub struct MirrorSettings {
    /// JSON-RPC endpoint.
    pub rpc_url: String,
    /// The contracts.
    pub deployment: Deployment,
    /// Depth at which facts count.
    pub depth: Depth,
    /// Period between two looks at the chain, milliseconds.
    pub period_ms: u64,
    /// Most blocks in one `eth_getLogs`.
    pub range_blocks_max: u64,
    /// Longest wait for one answer, milliseconds.
    pub request_timeout_ms: u64,
}

/// Where the mirror stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MirrorStatus {
    /// Newest block the endpoint showed.
    pub head: u64,
    /// Newest block whose facts count.
    pub applied: u64,
    /// When the last look succeeded, seconds since the epoch; `None` before the first.
    pub seen_at: Option<u64>,
    /// Whether all that is deep enough was applied.
    pub in_step: bool,
    /// What went wrong since.
    pub error: Option<String>,
}

/// Follows the chain into the ledger.
pub struct Mirror {
    status: watch::Sender<MirrorStatus>,
}

#[allow(unused_variables)]
impl Mirror {
    /// Connects nothing yet. Errors on a malformed endpoint.
    pub fn new(ledger: Ledger, settings: MirrorSettings, clock: SharedClock) -> Result<Self, MirrorError> {
        Ok(Self { status: watch::Sender::new(MirrorStatus::default()) })
    }

    /// Where it stands, now and on each change.
    pub fn status(&self) -> watch::Receiver<MirrorStatus> {
        self.status.subscribe()
    }

    /// Runs until `shutdown`: one look each period, or at once when woken.
    pub async fn run(self, wake: Arc<Notify>, shutdown: CancellationToken) {
        shutdown.cancelled().await;
    }
}

/// Why a look at the chain changed nothing.
#[derive(Debug, Error)]
pub enum MirrorError {
    /// Fail closed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}
