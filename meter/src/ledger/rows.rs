//! Rows as both databases keep them; they travel as JSON, so that one statement carries any number of them.

use alloy::primitives::{Address, B256};
use serde::{Deserialize, Serialize};
use wire::{AccountId, OperatorId};

use super::types::{AuditState, BatchState, ReceiptState};

/// A payer: cached balances, and the chain's facts at depth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PayerRow {
    pub(crate) account: u32,
    #[serde(with = "bytes")]
    pub(crate) wallet: Address,
    /// 1, or 0 while the block that opened it has left the chain.
    pub(crate) opened: i64,
    pub(crate) available: i64,
    pub(crate) held: i64,
    pub(crate) unsettled: i64,
    pub(crate) written_off: i64,
    #[serde(flatten)]
    pub(crate) facts: PayerFacts,
    #[serde(flatten)]
    pub(crate) clearance: ClearanceTerms,
}

/// What the chain says of a payer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PayerFacts {
    pub(crate) net_deposited: i64,
    pub(crate) settled: i64,
    pub(crate) authorized_cum: i64,
    pub(crate) exposure: i64,
    pub(crate) valid_until: i64,
    pub(crate) settle_deadline: i64,
    pub(crate) next_nonce: u32,
    pub(crate) last_settled_at: i64,
}

/// The clearance that a payer was given last. A fact of ours and not of the chain's: a reorg leaves it as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClearanceTerms {
    #[serde(rename = "clearance_settled")]
    pub(crate) settled: i64,
    #[serde(rename = "clearance_nonce")]
    pub(crate) nonce: u32,
    /// Last second at which the vault takes it; zero before the first.
    #[serde(rename = "clearance_deadline")]
    pub(crate) deadline: i64,
}

impl PayerRow {
    /// An account that has nothing yet.
    pub(crate) fn opened(account: AccountId, wallet: Address) -> Self {
        Self {
            account: account.0,
            wallet,
            opened: 1,
            available: 0,
            held: 0,
            unsettled: 0,
            written_off: 0,
            facts: PayerFacts::default(),
            clearance: ClearanceTerms::default(),
        }
    }

    /// Whether money may be metered at `now`, seconds since the epoch.
    pub(crate) fn is_live(&self, now: u64) -> bool {
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        self.opened == 1 && now < self.facts.valid_until && now <= self.facts.settle_deadline
    }

    /// Whether the vault keeps anything back at `now`, seconds since the epoch.
    pub(crate) fn is_kept_back(&self, now: u64) -> bool {
        self.opened == 1 && self.facts.next_nonce > 0 && i64::try_from(now).unwrap_or(i64::MAX) <= self.facts.settle_deadline
    }

    /// Until when the vault may still take the clearance that was given; `None` when it can't. `chain_time` is the time of the newest
    /// block whose facts count: every later block has that time or a later one, and had an earlier one taken the clearance, that would
    /// be among the facts. So neither this machine's clock nor the mirror's lag matters. What `settled` and the nonce have passed is
    /// outdated; what they fell behind, because blocks left the chain, may come back.
    pub(crate) fn closing_until(&self, chain_time: u64) -> Option<u64> {
        let ClearanceTerms { settled, nonce, deadline } = self.clearance;
        let outdated = self.facts.settled > settled || self.facts.next_nonce > nonce;
        let over = i64::try_from(chain_time).unwrap_or(i64::MAX) > deadline;
        (deadline > 0 && !outdated && !over).then_some(deadline.unsigned_abs())
    }

    /// What the exposure still allows; negative after a reorg or a lowered exposure.
    pub(crate) fn exposure_room(&self) -> i64 {
        self.facts.exposure.saturating_sub(self.unsettled).saturating_sub(self.held)
    }

    /// What the cap still allows; negative after a revocation.
    pub(crate) fn cap_room(&self) -> i64 {
        self.facts.authorized_cum.saturating_sub(self.facts.settled).saturating_sub(self.unsettled).saturating_sub(self.held)
    }
}

/// What a key has spent and holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeyRow {
    pub(crate) key: String,
    pub(crate) account: u32,
    pub(crate) captured: i64,
    pub(crate) held: i64,
}

/// Where a hold stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum HoldState {
    Held,
    Captured,
    Released,
}

/// A hold and how far its answer has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HoldRow {
    #[serde(with = "bytes")]
    pub(crate) request_id: B256,
    pub(crate) account: u32,
    pub(crate) key: Option<String>,
    pub(crate) model: String,
    pub(crate) rate: i64,
    pub(crate) prompt_tokens: u32,
    pub(crate) max_tokens: u32,
    pub(crate) amount: i64,
    pub(crate) state: HoldState,
    pub(crate) captured: i64,
    pub(crate) instance: String,
    pub(crate) expires_at: i64,
    #[serde(with = "bytes_option")]
    pub(crate) node: Option<Address>,
    pub(crate) fallback: i64,
    /// JSON of the receipt with no completion tokens.
    pub(crate) template: Option<String>,
    pub(crate) delivered_tokens: u32,
    #[serde(with = "bytes_option")]
    pub(crate) delivered_hash: Option<B256>,
    pub(crate) reason: Option<String>,
    pub(crate) created_at: i64,
    pub(crate) ended_at: Option<i64>,
}

/// A receipt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReceiptRow {
    /// Given by the database.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) position: Option<i64>,
    #[serde(with = "bytes")]
    pub(crate) request_id: B256,
    pub(crate) account: u32,
    pub(crate) operator: u32,
    pub(crate) amount: i64,
    pub(crate) key: Option<String>,
    pub(crate) model: String,
    #[serde(with = "bytes")]
    pub(crate) node: Address,
    pub(crate) fallback: i64,
    pub(crate) finish_reason: String,
    pub(crate) state: ReceiptState,
    /// JSON of the receipt.
    pub(crate) receipt: String,
    #[serde(with = "bytes_option")]
    pub(crate) signature: Option<Vec<u8>>,
    pub(crate) seq: Option<i64>,
    #[serde(with = "bytes_option")]
    pub(crate) leaf: Option<B256>,
    pub(crate) created_at: i64,
    pub(crate) signed_at: Option<i64>,
    pub(crate) audit: Option<AuditState>,
    #[serde(with = "bytes_option")]
    pub(crate) auditor: Option<Address>,
}

/// What is owed from earlier batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CarryRow {
    pub(crate) account: u32,
    pub(crate) operator: u32,
    pub(crate) amount: i64,
}

/// A signed batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BatchRow {
    pub(crate) seq: i64,
    /// JSON of the proposal.
    pub(crate) proposal: String,
    /// JSON list of [`CarryRow`]: what the receipts inside cost, per account and operator, carries not counted.
    pub(crate) owed: String,
    #[serde(with = "bytes")]
    pub(crate) rows_hash: B256,
    #[serde(with = "bytes")]
    pub(crate) signature: Vec<u8>,
    #[serde(with = "bytes")]
    pub(crate) settler: Address,
    pub(crate) state: BatchState,
    #[serde(with = "bytes_option")]
    pub(crate) transaction: Option<B256>,
    pub(crate) created_at: i64,
}

/// How far the mirror is, and of which contracts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CursorRow {
    pub(crate) chain_id: i64,
    #[serde(with = "bytes")]
    pub(crate) vault: Address,
    pub(crate) number: i64,
    #[serde(with = "bytes")]
    pub(crate) hash: B256,
    pub(crate) timestamp: i64,
    pub(crate) settled_seq: i64,
}

/// A block of the mirrored chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRow {
    /// Its height.
    pub number: i64,
    /// Its hash.
    #[serde(with = "bytes")]
    pub hash: B256,
    /// The hash of the block before it.
    #[serde(with = "bytes")]
    pub parent: B256,
}

/// An event that was applied, and how to undo it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EventRow {
    #[serde(with = "bytes")]
    pub(crate) block_hash: B256,
    pub(crate) log_index: i64,
    #[serde(with = "bytes")]
    pub(crate) transaction: B256,
    pub(crate) block_number: i64,
    pub(crate) timestamp: i64,
    /// JSON of the fact.
    pub(crate) body: String,
    /// JSON of what was before.
    pub(crate) undo: String,
    /// How often it was applied: a block may leave the chain and come back.
    pub(crate) applications: i64,
    /// 1 while its block is in the chain.
    pub(crate) applied: i64,
}

/// An operator of the registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OperatorRow {
    pub(crate) operator: u32,
    #[serde(with = "bytes")]
    pub(crate) owner: Address,
    #[serde(with = "bytes")]
    pub(crate) payout: Address,
}

/// A node key of the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeKeyRow {
    #[serde(with = "bytes")]
    pub(crate) node: Address,
    pub(crate) operator: u32,
    pub(crate) since: i64,
    pub(crate) until: Option<i64>,
}

impl NodeKeyRow {
    /// Whose key it is.
    pub(crate) fn operator(&self) -> OperatorId {
        OperatorId(self.operator)
    }
}

/// A node that failed an audit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct QuarantineRow {
    #[serde(with = "bytes")]
    pub(crate) node: Address,
    pub(crate) operator: u32,
    /// The receipt that failed.
    #[serde(with = "bytes")]
    pub(crate) request_id: B256,
    pub(crate) reason: String,
    pub(crate) since: i64,
    pub(crate) cleared_at: Option<i64>,
}

/// A movement as written.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct TransferRow<'a> {
    pub(crate) source: i64,
    pub(crate) target: i64,
    pub(crate) amount: i64,
    pub(crate) kind: &'static str,
    #[serde(serialize_with = "bytes::serialize")]
    pub(crate) reference: &'a [u8],
    pub(crate) created_at: u64,
}

/// Byte strings as `\x…`, which PostgreSQL reads as `bytea` and SQLite by `unhex(substr(…, 3))`.
mod bytes {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<T: AsRef<[u8]> + ?Sized, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&text(value.as_ref()))
    }

    pub(super) fn deserialize<'de, T: for<'a> TryFrom<&'a [u8]>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        parse(&String::deserialize(deserializer)?)
    }

    pub(super) fn text(bytes: &[u8]) -> String {
        let mut text = String::with_capacity(2 + 2 * bytes.len());
        text.push_str("\\x");
        text.push_str(&hex::encode(bytes));
        text
    }

    pub(super) fn parse<T: for<'a> TryFrom<&'a [u8]>, E: Error>(text: &str) -> Result<T, E> {
        let bytes = text.strip_prefix("\\x").and_then(|digits| hex::decode(digits).ok()).ok_or_else(|| E::custom("not bytes"))?;
        T::try_from(&bytes).map_err(|_| E::custom("bytes of a wrong length"))
    }
}

mod bytes_option {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<T: AsRef<[u8]>, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
        value.as_ref().map(|bytes| super::bytes::text(bytes.as_ref())).serialize(serializer)
    }

    pub(super) fn deserialize<'de, T: for<'a> TryFrom<&'a [u8]>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
        Option::<String>::deserialize(deserializer)?.map(|text| super::bytes::parse(&text)).transpose()
    }
}
