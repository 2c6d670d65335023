//! What keeper and meter exchange to settle receipts (`docs/protocol.md`, section 9).

use alloy::primitives::{Address, B256, Bytes};
use serde::{Deserialize, Serialize};

use crate::receipt::ServiceReceipt;
use crate::{AccountId, Credits, OperatorId};

/// Most receipts in one feed and one batch.
pub const RECEIPTS_MAX: usize = 10_000;
/// How far ahead a batch's deadline may lie, seconds.
pub const DEADLINE_SECONDS_MAX: u64 = 15 * 60;
/// How far ahead a keeper's pass may be valid, seconds.
pub const ACCESS_SECONDS_MAX: u64 = 10 * 60;
/// Scheme of the keeper's `Authorization` header: `Keeper <address>.<validUntil>.<signature hex>`.
pub const ACCESS_SCHEME: &str = "Keeper";

/// What waits to be settled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Feed {
    /// Sequence number of the next batch, as the meter sees the chain.
    pub next_seq: u64,
    /// Signed and in no batch, oldest first.
    pub receipts: Vec<SignedReceipt>,
    /// What an earlier batch could not debit.
    pub carries: Vec<Carry>,
}

/// A receipt with the node's signature.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedReceipt {
    /// The statement.
    pub receipt: ServiceReceipt,
    /// By `node`.
    pub signature: Bytes,
    /// Node key, which the registry must know as the operator's.
    pub node: Address,
}

/// An amount that an operator is owed from an earlier batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Carry {
    /// Who pays.
    pub account: AccountId,
    /// Who is owed.
    pub operator: OperatorId,
    /// How much.
    pub amount: Credits,
}

/// A batch that a keeper asks the meter to sign.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchProposal {
    /// Must be the next one.
    pub seq: u64,
    /// Request ids of the receipts inside, ascending.
    pub receipts: Vec<B256>,
    /// The carries inside.
    pub carries: Vec<Carry>,
    /// Packed rows.
    pub rows: Bytes,
    /// Root over the receipts.
    pub receipts_root: B256,
    /// Last second at which it may be settled.
    pub deadline: u64,
}

/// A batch with the settler's signature: all that anybody needs to relay it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedBatch {
    /// What was signed.
    pub proposal: BatchProposal,
    /// By the settler.
    pub signature: Bytes,
    /// Who signed.
    pub settler: Address,
}
