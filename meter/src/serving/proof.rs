//! The windows under a receipt's proof root: asked of the node that signed it, checked against the root, kept for a while.

use std::time::Duration;

use thiserror::Error;
use wire::proof::{self, ProofError, Window};
use wire::{Address, B256};

use super::Serving;
use super::fleet::AskError;
use crate::ledger::StoredReceipt;

/// A node answers from its disk.
const NODE_WAIT: Duration = Duration::from_secs(10);

/// Windows that stand under `stored`'s root. Errors when nobody has them, or the node sends others.
pub async fn windows(serving: &Serving, stored: &StoredReceipt) -> Result<Vec<Window>, NoProof> {
    let rooms = serving.rooms();
    let (request_id, node) = (stored.receipt.request_id, stored.node);
    if stored.receipt.proof_root == B256::ZERO {
        return Err(NoProof::NoRoot);
    }
    if let Some(windows) = rooms.audits.known_windows(&request_id) {
        return Ok(windows);
    }
    let linked = rooms.fleet.node(node).ok_or(NoProof::Away { node })?;
    let windows = linked.ask_proof(request_id, NODE_WAIT).await?.ok_or(NoProof::NotKept)?;
    if let Err(problem) = proof::check(&stored.receipt, &windows) {
        metrics::counter!("meter_proofs_refused_total").increment(1);
        tracing::warn!(%request_id, %node, %problem, "node sent windows that are not those it signed");
        return Err(NoProof::Wrong { node, problem });
    }
    rooms.audits.keep_windows(request_id, windows.clone());
    Ok(windows)
}

/// Why there are no windows.
#[derive(Debug, Error)]
pub enum NoProof {
    /// Nothing was committed to.
    #[error("this receipt was signed without a proof: its node had lost its state, or was stopped; only its tokens can be checked")]
    NoRoot,
    /// The node is not here.
    #[error("node {node} is not linked now, and it alone has the proof; try again when it is back")]
    Away {
        /// Its key.
        node: Address,
    },
    /// It did not answer.
    #[error("the proof could not be fetched: {0}")]
    Unanswered(#[from] AskError),
    /// Too long ago.
    #[error("the node does not keep this proof any more; computing the answer again gives the same windows, if it is right")]
    NotKept,
    /// Not what it signed.
    #[error("node {node} sent a proof that is not the one it signed: {problem}")]
    Wrong {
        /// Its key.
        node: Address,
        /// What is wrong.
        problem: ProofError,
    },
}
