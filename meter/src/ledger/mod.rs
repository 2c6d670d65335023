//! The ledger: every movement of money between two accounts, in one place (`docs/protocol.md`, section 8).

mod error;
mod types;

use alloy::primitives::{Address, B256, Bytes};
use alloy::signers::SignerSync;
use alloy::sol_types::Eip712Domain;
use daemon::clock::SharedClock;
use wire::receipt::ServiceReceipt;
use wire::settlement::{BatchProposal, Feed, SignedBatch};
use wire::{AccountId, Credits};

pub use error::{AttachError, CaptureError, CountersignError, HoldRefusal, LedgerError};
pub use types::*;

/// Handle to the writer task and the read connections; cheap to clone.
#[derive(Clone)]
pub struct Ledger {
    settings: std::sync::Arc<LedgerSettings>,
}

#[allow(unused_variables)]
impl Ledger {
    /// Opens `sqlite://PATH` or `postgres://…`, migrates it, and settles what this instance held in its former life.
    pub async fn open(database_url: &str, settings: LedgerSettings, clock: SharedClock) -> Result<Self, LedgerError> {
        Ok(Self { settings: settings.into() })
    }

    /// Writes what is queued and stops the writer; operations asked for later answer [`LedgerError::Closed`].
    pub async fn close(&self) {}

    /// Reserves the worst case of a request; durable when it returns. The same content again has the same answer.
    pub async fn hold(&self, request: HoldRequest) -> Result<Held, HoldRefusal> {
        Err(LedgerError::Closed.into())
    }

    /// Notes which node has the job. Queued; written with the next commit.
    pub fn dispatched(&self, record: DispatchRecord) {}

    /// Notes how much of the answer arrived. Queued; the latest per request is written each `progress_period_ms`.
    pub fn checkpoint(&self, request_id: B256, delivered_tokens: u32, delivered_hash: B256) {}

    /// Charges, releases the rest and keeps the receipt, in one transaction; durable when it returns. Idempotent.
    pub async fn capture(&self, capture: Capture) -> Result<Captured, CaptureError> {
        Err(LedgerError::Closed.into())
    }

    /// Gives the whole hold back; durable when it returns. Idempotent.
    pub async fn release(&self, request_id: B256, reason: &str) -> Result<Released, LedgerError> {
        Err(LedgerError::Closed)
    }

    /// Attaches the node's signature to a receipt that waits for one. `receipt` must equal the stored one but for `proof_root` and
    /// `served_at`, which the node states. The caller has checked the signature. Idempotent.
    pub async fn attach_signature(&self, receipt: &ServiceReceipt, signature: Bytes) -> Result<ReceiptState, AttachError> {
        Err(LedgerError::Closed.into())
    }

    /// Receipts of a node that it has not signed yet, oldest first, at most 1,000.
    pub async fn awaiting_signature(&self, node: Address) -> Result<Vec<ServiceReceipt>, LedgerError> {
        Err(LedgerError::Closed)
    }

    /// An account's money. All zero for an account that is not known.
    pub async fn credits(&self, account: AccountId) -> Result<CreditsView, LedgerError> {
        Err(LedgerError::Closed)
    }

    /// An account's receipts, newest first, at most `limit` (1,000), before position `before`.
    pub async fn receipts(&self, account: AccountId, limit: u32, before: Option<u64>) -> Result<Vec<StoredReceipt>, LedgerError> {
        Err(LedgerError::Closed)
    }

    /// One receipt with its proof once it is in a batch.
    pub async fn receipt(&self, request_id: B256) -> Result<Option<StoredReceipt>, LedgerError> {
        Err(LedgerError::Closed)
    }

    /// What a key has spent and holds.
    pub async fn key_usage(&self, key: &KeyId) -> Result<Credits, LedgerError> {
        Err(LedgerError::Closed)
    }

    /// What waits to be settled (`docs/protocol.md`, section 9).
    pub async fn feed(&self) -> Result<Feed, LedgerError> {
        Err(LedgerError::Closed)
    }

    /// Checks a proposed batch against the books, stores it, and signs it with the settler's key.
    pub async fn countersign<S: SignerSync + Sync>(
        &self,
        proposal: BatchProposal,
        signer: &S,
        settler: Address,
        domain: &Eip712Domain,
    ) -> Result<SignedBatch, CountersignError> {
        Err(LedgerError::Closed.into())
    }

    /// A batch that was signed here.
    pub async fn batch(&self, seq: u64) -> Result<Option<BatchView>, LedgerError> {
        Err(LedgerError::Closed)
    }

    /// The account of a wallet, also while the block that opened it is not deep enough.
    pub async fn account_of_wallet(&self, wallet: Address) -> Result<Option<AccountView>, LedgerError> {
        Err(LedgerError::Closed)
    }

    /// The account of an id.
    pub async fn account(&self, account: AccountId) -> Result<Option<AccountView>, LedgerError> {
        Err(LedgerError::Closed)
    }

    /// Who a node key belongs or belonged to, as the registry has it.
    pub async fn node_operator(&self, node: Address) -> Result<Option<NodeOwner>, LedgerError> {
        Err(LedgerError::Closed)
    }

    /// Checks that the books are right: entries sum to balances, holds and receipts equal what is held and unsettled.
    pub async fn audit(&self) -> Result<AuditReport, LedgerError> {
        Err(LedgerError::Closed)
    }
}
