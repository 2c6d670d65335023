//! What goes into the ledger and what comes out (`docs/protocol.md`, section 8).

use std::fmt;

use alloy::primitives::{Address, B256, Bytes};
use serde::{Deserialize, Serialize};
use wire::receipt::ServiceReceipt;
use wire::settlement::SignedBatch;
use wire::{AccountId, Credits, ModelRate, OperatorId};

/// Name of one meter process, stable over its restarts and unique among the meters that share a database.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InstanceId(pub String);

/// Id of an API key. A key belongs to one account for ever.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(pub String);

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Limits and periods of the ledger.
#[derive(Clone, Debug)]
pub struct LedgerSettings {
    /// Who owns the holds made here.
    pub instance: InstanceId,
    /// After this many seconds without a commit or renewal, other instances settle this one's holds.
    pub lease_s: u64,
    /// Most operations in one commit.
    pub group_ops_max: usize,
    /// How long a commit waits for company once its first operations are there, milliseconds; one that comes alone after one that came
    /// alone doesn't wait.
    pub group_wait_ms: u64,
    /// Most operations that wait for the writer; callers beyond wait their turn.
    pub queue_ops_max: usize,
    /// A receipt unsigned for so long is refunded, seconds.
    pub refund_after_s: u64,
    /// An audit that is pending for so long is skipped, and its receipt may be batched, seconds.
    pub audit_wait_s: u64,
    /// How long a clearance may be used, seconds: enough for a wallet's question and a few blocks; so long at least the payer can't spend.
    pub clearance_s: u64,
    /// Period of the reconciler that settles expired and orphaned holds, refunds, and renews the lease, milliseconds.
    pub sweep_period_ms: u64,
    /// Period at which delivered counts are written, milliseconds.
    pub progress_period_ms: u64,
    /// Connections for reading.
    pub read_connections: u32,
}

impl LedgerSettings {
    /// The defaults of `docs/protocol.md` for one instance.
    pub fn of(instance: InstanceId) -> Self {
        Self {
            instance,
            lease_s: 15,
            group_ops_max: 512,
            group_wait_ms: 1,
            queue_ops_max: 4_096,
            refund_after_s: 24 * 60 * 60,
            audit_wait_s: 30 * 60,
            clearance_s: 10 * 60,
            sweep_period_ms: 1_000,
            progress_period_ms: 1_000,
            read_connections: 4,
        }
    }
}

/// Reserve the worst case of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldRequest {
    /// Minted by the meter, random.
    pub request_id: B256,
    /// Who pays.
    pub account: AccountId,
    /// API key in use, if one is.
    pub key: Option<KeyId>,
    /// What the key may spend in all.
    pub key_limit: Option<Credits>,
    /// Model id.
    pub model: String,
    /// Rate in force.
    pub rate: ModelRate,
    /// Tokens of the rendered prompt.
    pub prompt_tokens: u32,
    /// Ceiling of the answer.
    pub max_tokens: u32,
    /// `message_cost_up(rate, prompt_tokens + max_tokens)`.
    pub worst_case: Credits,
    /// When the hold is settled whoever owns it, seconds since the epoch: later than any answer can last.
    pub expires_at_s: u64,
}

/// An accepted hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Which request.
    pub request_id: B256,
    /// What is reserved.
    pub amount: Credits,
    /// Whether the hold was already there.
    pub replayed: bool,
}

/// Which node got the job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DispatchRecord {
    /// Which request.
    pub request_id: B256,
    /// Key of the node.
    pub node: Address,
    /// Whether it is project fallback hardware.
    pub fallback: bool,
    /// The receipt so far, with no completion tokens; recovery after a crash builds on it.
    pub template: ServiceReceipt,
}

/// Charge what was served, release the rest, keep the receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capture {
    /// The meter's receipt, or the node's lower one. The caller has checked the signature, counts and hashes.
    pub receipt: ServiceReceipt,
    /// The node's signature; without one the receipt waits for it.
    pub signature: Option<Bytes>,
    /// Key of the node.
    pub node: Address,
    /// Whether it is project fallback hardware.
    pub fallback: bool,
    /// `stop`, `length`, `cancelled` or `error`.
    pub finish_reason: String,
    /// `Pending` when the lot fell on it: it goes into no batch before the audit is over.
    pub audit: Option<AuditState>,
}

/// A capture that is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// The receipt's id, which is the request's.
    pub receipt_id: B256,
    /// Where the receipt stands.
    pub state: ReceiptState,
    /// What was charged.
    pub amount: Credits,
    /// Whether the capture was already there.
    pub replayed: bool,
}

/// A release that is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Released {
    /// The whole hold went back.
    Now {
        /// How much.
        amount: Credits,
    },
    /// It had gone back before.
    Before,
    /// The hold was captured and stays so.
    Captured {
        /// What was charged.
        amount: Credits,
    },
    /// No such hold.
    Unknown,
}

/// Where a receipt stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReceiptState {
    /// Captured; the node has not signed yet.
    AwaitingSignature,
    /// Signed, waiting for a batch.
    Signed,
    /// In a batch that is signed and not yet booked.
    Batched,
    /// Its batch is on chain.
    Settled,
    /// Never signed; the payer has the credits back.
    Refunded,
    /// Its node failed an audit before it was batched; not paid, the payer has the credits back.
    Disputed,
}

/// Where the audit of a receipt stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuditState {
    /// Drawn; an auditor computes it again.
    Pending,
    /// Computed again and found equal.
    Audited,
    /// Two looks found the same difference.
    Failed,
    /// Drawn, and nobody could say.
    Skipped,
}

/// How an audit ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRecord {
    /// Which receipt.
    pub request_id: B256,
    /// Anything but `Pending`.
    pub state: AuditState,
    /// Key of the node that looked last.
    pub auditor: Option<Address>,
    /// What was found, in words for people; kept with the quarantine that a failure makes.
    pub finding: String,
}

/// A node that gets no jobs, and no pay for what is not batched, until somebody clears it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Quarantine {
    /// Its key.
    pub node: Address,
    /// Whose it is.
    pub operator: OperatorId,
    /// The receipt that failed the audit.
    pub request_id: B256,
    /// What was found.
    pub reason: String,
    /// Seconds since the epoch.
    pub since: u64,
    /// When somebody cleared it.
    pub cleared_at: Option<u64>,
}

/// A receipt as the ledger keeps it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StoredReceipt {
    /// The statement.
    pub receipt: ServiceReceipt,
    /// The node's signature.
    pub signature: Option<Bytes>,
    /// Key of the node.
    pub node: Address,
    /// Whether it was project fallback hardware.
    pub fallback: bool,
    /// Where it stands.
    pub state: ReceiptState,
    /// Model id.
    pub model: String,
    /// Why the answer ended.
    pub finish_reason: String,
    /// Position in the ledger, for paging: newer is higher.
    pub position: u64,
    /// Batch it stands in.
    pub seq: Option<u64>,
    /// Its leaf in the batch's tree.
    pub leaf: Option<B256>,
    /// Siblings from the leaf to the root.
    pub proof: Option<Vec<B256>>,
    /// The batch's root.
    pub root: Option<B256>,
    /// Transaction that settled the batch.
    pub transaction: Option<B256>,
    /// When it was captured, seconds since the epoch.
    pub created_at: u64,
    /// Where its audit stands; `None` when the lot did not fall on it.
    pub audit: Option<AuditState>,
    /// Key of the node that audited it.
    pub auditor: Option<Address>,
}

/// An account's money.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CreditsView {
    /// Neither held nor spent.
    pub available: Credits,
    /// Reserved for requests in flight.
    pub held: Credits,
    /// Charged, not yet on chain.
    pub unsettled: Credits,
    /// What one request may cost now: the least of available, exposure room and authorization room.
    pub spendable: Credits,
    /// Until when a clearance may still be used, so that nothing may be spent, seconds since the epoch; `None` when none stands.
    pub closing_until: Option<u64>,
    /// Deposits that the chain has but not deep enough.
    pub pending_deposits: Credits,
    /// Deposits less withdrawals, over all time.
    pub deposited: Credits,
    /// Debited on chain, over all time.
    pub settled: Credits,
    /// The spending authorization; `None` before the first.
    pub authorization: Option<AuthorizationView>,
}

/// An authorization as the chain has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuthorizationView {
    /// Cumulative ceiling of `settled`.
    pub authorized_cum: Credits,
    /// Most that may be metered and unsettled.
    pub exposure: Credits,
    /// End of spending, seconds since the epoch; zero when revoked or closed.
    pub valid_until: u64,
    /// Last second at which the chain debits.
    pub settle_deadline: u64,
    /// Nonce for the next authorization or revocation.
    pub next_nonce: u32,
    /// Whether it may be spent under now.
    pub live: bool,
    /// What it still allows.
    pub room: Credits,
}

/// An account as mirrored from the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AccountView {
    /// Its id.
    pub account: AccountId,
    /// Its owner.
    pub wallet: Address,
    /// Whether the block that opened it is deep enough; credits of an unconfirmed account are all zero.
    pub confirmed: bool,
    /// The spending authorization; `None` before the first.
    pub authorization: Option<AuthorizationView>,
}

/// Who a node key belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct NodeOwner {
    /// Which operator.
    pub operator: OperatorId,
    /// When the key was added, seconds since the epoch.
    pub since: u64,
    /// When it was removed.
    pub until: Option<u64>,
}

/// Where a batch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchState {
    /// Signed, not booked.
    Signed,
    /// On chain, at depth, booked.
    Settled,
}

/// A batch as the ledger keeps it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BatchView {
    /// All that anybody needs to relay it.
    pub batch: SignedBatch,
    /// Where it stands.
    pub state: BatchState,
    /// Transaction that settled it.
    pub transaction: Option<B256>,
}

/// What the audit found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditReport {
    /// Rules that were checked.
    pub rules: u32,
    /// Differences; empty when the books are right.
    pub findings: Vec<Finding>,
}

impl AuditReport {
    /// Whether every rule held.
    pub fn clean(&self) -> bool {
        self.findings.is_empty()
    }
}

/// One difference between what must be equal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Which rule.
    pub rule: String,
    /// Which account, request or event.
    pub subject: String,
    /// One side, credits.
    pub expected: i64,
    /// The other side, credits.
    pub actual: i64,
}
