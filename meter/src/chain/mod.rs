//! The chain as the meter sees it: `mirror` follows it into the ledger, `countersign` and `clearance` give the meter's word on what goes back to it
//! (`docs/protocol.md`, sections 3, 8 and 9).
//!
//! Invariant of absence: nothing here decides about money. What the chain says becomes facts; the ledger applies them or refuses.

mod clearance;
mod countersign;
mod events; // logs → facts
mod mirror; // one look at the chain
mod proxy; // a few reads for the page
mod rpc; // the endpoint, and what of it is believed

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::Address;
use alloy::transports::TransportError;
use daemon::CancellationToken;
use thiserror::Error;
use tokio::sync::{Notify, watch};
use wire::deployment::Deployment;

use crate::ledger::{ChainOrigin, FactError, LedgerError};

pub use clearance::{ClearanceError, SignedClearance};
pub use mirror::Mirror;
pub use proxy::{ChainAnswer, ChainProxy, ProxyError};

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

impl Mirror {
    /// Where it stands, now and on each change.
    pub fn status(&self) -> watch::Receiver<MirrorStatus> {
        self.status.subscribe()
    }

    /// Runs until `shutdown`: one look each period, or at once when woken.
    pub async fn run(self, wake: Arc<Notify>, shutdown: CancellationToken) {
        let mut period = tokio::time::interval(Duration::from_millis(self.period_ms()));
        period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut failing = false;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = period.tick() => {}
                () = wake.notified() => {}
            }
            let looked = tokio::select! {
                () = shutdown.cancelled() => return,
                looked = self.look() => looked,
            };
            match looked {
                Ok(status) => {
                    metrics::gauge!("meter_chain_head").set(status.head as f64);
                    metrics::gauge!("meter_chain_applied").set(status.applied as f64);
                    failing = false;
                }
                Err(error) => {
                    metrics::counter!("meter_chain_look_failures_total").increment(1);
                    report(&error, failing);
                    failing = true;
                }
            }
        }
    }
}

/// Facts that don't fit need a person; an endpoint that doesn't answer gets well by itself.
fn report(error: &MirrorError, again: bool) {
    match error {
        MirrorError::Facts(_) | MirrorError::DeepFork { .. } | MirrorError::WrongChain { .. } | MirrorError::OtherDeployment { .. } => {
            tracing::error!(%error, "the mirror stands still");
        }
        _ if again => tracing::debug!(%error, "the chain could not be read again"),
        _ => tracing::warn!(%error, "the chain could not be read; credits stay as they are"),
    }
}

/// Why a look at the chain went no further.
#[derive(Debug, Error)]
pub enum MirrorError {
    /// Not a URL.
    #[error("the chain's endpoint can't be used: {reason}; give an http:// or https:// URL")]
    Url {
        /// What is wrong with it.
        reason: String,
    },
    /// No answer, or one that can't be read: nothing is known.
    #[error("the chain's endpoint failed: {0}")]
    Endpoint(#[from] TransportError),
    /// Another chain.
    #[error("the endpoint serves chain {actual}, the contracts are on chain {expected}; point it at the right network")]
    WrongChain {
        /// Of the deployment.
        expected: u64,
        /// Of the endpoint.
        actual: u64,
    },
    /// The database follows other contracts.
    #[error("the ledger follows chain {} and vault {}, not chain {} and vault {}; use another database", .stored.chain_id, .stored.vault, .given.chain_id, .given.vault)]
    OtherDeployment {
        /// As stored.
        stored: ChainOrigin,
        /// As configured.
        given: ChainOrigin,
    },
    /// The endpoint is behind what was seen before.
    #[error("the endpoint's newest block is {head}, and {applied} was applied before; it lags")]
    StaleHead {
        /// Its newest block.
        head: u64,
        /// Newest block applied.
        applied: u64,
    },
    /// A block that should be there is not.
    #[error("the endpoint has no block {block}")]
    NoBlock {
        /// Height or tag.
        block: String,
    },
    /// An answer about another block.
    #[error("the endpoint answered with block {given} where {asked} was asked for")]
    OtherBlock {
        /// As asked.
        asked: u64,
        /// As answered.
        given: u64,
    },
    /// A log of a contract or block that was not asked for.
    #[error("the endpoint gave a log of {address} in block {block}, which was not asked for")]
    ForgedLog {
        /// Its contract.
        address: Address,
        /// Its block.
        block: u64,
    },
    /// More than a sane range holds.
    #[error("the endpoint gave {logs} logs, more than {max}")]
    TooManyLogs {
        /// As given.
        logs: usize,
        /// The limit.
        max: usize,
    },
    /// An event that isn't what the interface says.
    #[error("a log of {event} in block {block} can't be read: {reason}")]
    Event {
        /// Its signature.
        event: &'static str,
        /// Its block.
        block: u64,
        /// Why.
        reason: String,
    },
    /// Answers that contradict each other.
    #[error("the endpoint's answers don't fit together: {what}")]
    Inconsistent {
        /// What doesn't.
        what: &'static str,
    },
    /// A fork from before the remembered blocks.
    #[error("the chain forked more than {window} blocks below {applied}; check the endpoint, then start with another database")]
    DeepFork {
        /// Newest block applied.
        applied: u64,
        /// Blocks remembered.
        window: u64,
    },
    /// Another meter on the same database was quicker.
    #[error("another meter moved the mirror at the same moment")]
    Raced,
    /// The books refuse the facts.
    #[error(transparent)]
    Facts(#[from] FactError),
    /// Fail closed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}
