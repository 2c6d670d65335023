//! The ledger: every movement of money between two accounts, in one place (`docs/protocol.md`, section 8).
//!
//! Reading order: `accounts` (who can hold credits), `decision` (pure: what an operation does), `writer` (one durable commit for many
//! operations), `store` (SQLite and PostgreSQL), `reads`, `audit` (the one question that must have no answer).
//!
//! Invariants of absence: no HTTP, no chain client, no float; no movement without a transfer row; no answer before its commit.

mod accounts;
mod audit;
mod clearance;
mod decision;
mod error;
mod facts;
mod reads;
mod rows;
mod store;
mod types;
mod writer;

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use alloy::primitives::{Address, B256, Bytes};
use daemon::clock::SharedClock;
use tokio::sync::{mpsc, oneshot};
use wire::AccountId;
use wire::receipt::ServiceReceipt;
use wire::settlement::SignedBatch;

pub use clearance::{Clearance, ClearanceRefusal};
pub use error::{AttachError, CaptureError, CountersignError, HoldRefusal, LedgerError};
pub use facts::{Advance, ChainEvent, ChainOrigin, ChainPoint, Fact, FactError, Short, Stepped};
pub use reads::{Pending, RECEIPTS_PAGE_MAX, USAGE_ROWS_MAX, UsageRow};
pub use rows::BlockRow;
pub use types::*;

pub(crate) use decision::batch::Signing;
pub(crate) use decision::request::stored_receipt;

use store::{Readers, Store};
use writer::{Answer, Command, Operation, Progress, Writer};

/// Handle to the writer task and the read connections; cheap to clone. The writer ends when the last handle is dropped, or by
/// [`Ledger::close`].
#[derive(Clone)]
pub struct Ledger {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    readers: Readers,
    clock: SharedClock,
    clearance_s: u64,
    progress: Arc<Mutex<Progress>>,
    pending: RwLock<Pending>,
}

impl Ledger {
    /// Opens `sqlite://PATH` or `postgres://…`, migrates it, and settles what this instance held in its former life: what is known to
    /// have reached the payer is charged, the rest released.
    pub async fn open(database_url: &str, settings: LedgerSettings, clock: SharedClock) -> Result<Self, LedgerError> {
        let store = Store::at(database_url)?;
        store.migrate().await?;
        let progress = Arc::new(Mutex::new(Progress::default()));
        let readers = store.readers(settings.read_connections);
        let clearance_s = settings.clearance_s;
        let (commands, waiting) = mpsc::channel(settings.queue_ops_max.max(1));
        let writer = Writer::enter(store.clone(), settings, clock.clone(), progress.clone()).await?;
        tokio::spawn(writer.run(waiting));
        let shared = Shared { store, readers, clock, clearance_s, progress, pending: RwLock::default() };
        Ok(Self { commands, shared: Arc::new(shared) })
    }

    /// Writes what is queued and stops the writer; operations asked for later answer [`LedgerError::Closed`].
    pub async fn close(&self) {
        let (reply, done) = oneshot::channel();
        if self.commands.send(Command::Close(reply)).await.is_ok() {
            let _ = done.await;
        }
        self.shared.readers.close().await;
    }

    /// Reserves the worst case of a request; durable when it returns. The same content again has the same answer.
    pub async fn hold(&self, request: HoldRequest) -> Result<Held, HoldRefusal> {
        match self.ask(Operation::Hold(request)).await? {
            Answer::Hold(answer) => answer,
            _ => Err(LedgerError::Closed.into()),
        }
    }

    /// Notes which node has the job. Queued; written with the next commit.
    pub fn dispatched(&self, record: DispatchRecord) {
        self.shared.progress.lock().unwrap_or_else(PoisonError::into_inner).dispatched(record);
    }

    /// Notes how much of the answer arrived. Queued; the latest per request is written each `progress_period_ms`.
    pub fn checkpoint(&self, request_id: B256, delivered_tokens: u32, delivered_hash: B256) {
        let mut progress = self.shared.progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.checkpoint(request_id, delivered_tokens, delivered_hash);
    }

    /// Charges, releases the rest and keeps the receipt, in one transaction; durable when it returns. Idempotent.
    pub async fn capture(&self, capture: Capture) -> Result<Captured, CaptureError> {
        match self.ask(Operation::Capture(Box::new(capture))).await? {
            Answer::Capture(answer) => answer,
            _ => Err(LedgerError::Closed.into()),
        }
    }

    /// Gives the whole hold back; durable when it returns. Idempotent.
    pub async fn release(&self, request_id: B256, reason: &str) -> Result<Released, LedgerError> {
        match self.ask(Operation::Release { request_id, reason: reason.to_owned() }).await? {
            Answer::Release(released) => Ok(released),
            _ => Err(LedgerError::Closed),
        }
    }

    /// Attaches the node's signature to a receipt that waits for one. `receipt` must equal the stored one but for `proof_root` and
    /// `served_at`, which the node states. The caller has checked the signature. Idempotent: once signed, the first signature stands.
    pub async fn attach_signature(&self, receipt: &ServiceReceipt, signature: Bytes) -> Result<ReceiptState, AttachError> {
        match self.ask(Operation::Attach { receipt: Box::new(receipt.clone()), signature }).await? {
            Answer::Attach(answer) => answer,
            _ => Err(LedgerError::Closed.into()),
        }
    }

    /// Notes how an audit ended; a failure quarantines the node and disputes the receipt, in one transaction. Whether it changed
    /// anything: an audit that is over stays as it is.
    pub async fn conclude_audit(&self, record: AuditRecord) -> Result<bool, LedgerError> {
        self.change(Operation::Conclude(Box::new(record))).await
    }

    /// Lets a quarantined node work again. Whether it was quarantined.
    pub async fn clear_quarantine(&self, node: Address) -> Result<bool, LedgerError> {
        self.change(Operation::ClearQuarantine { node }).await
    }

    /// Promises that nothing more is debited from a payer who owes nothing, or says what is in the way; durable when it returns. From
    /// then on no hold is made for the payer until the promise can't be used any more: the chain's time passed its deadline, or the
    /// chain shows that it was used or is outdated. Asked again, the same promise; once its deadline is over, a new one.
    pub async fn give_clearance(&self, account: AccountId) -> Result<Clearance, ClearanceRefusal> {
        match self.ask(Operation::GiveClearance { account, valid_s: self.shared.clearance_s }).await? {
            Answer::Clearance(answer) => answer,
            _ => Err(LedgerError::Closed.into()),
        }
    }

    async fn change(&self, operation: Operation) -> Result<bool, LedgerError> {
        match self.ask(operation).await? {
            Answer::Changed(changed) => Ok(changed),
            _ => Err(LedgerError::Closed),
        }
    }

    /// Writes what is queued, settles expired and orphaned holds, refunds what was never signed: what the writer does each period, now.
    pub async fn sweep(&self) -> Result<(), LedgerError> {
        let (reply, done) = oneshot::channel();
        self.commands.send(Command::Sweep(reply)).await.map_err(|_| LedgerError::Closed)?;
        done.await.map_err(|_| LedgerError::Closed)?
    }

    /// Applies new blocks of the chain. The mirror's call.
    pub async fn advance(&self, step: Advance) -> Result<Stepped, FactError> {
        match self.ask(Operation::Advance(Box::new(step))).await? {
            Answer::Step(answer) => answer,
            _ => Err(LedgerError::Closed.into()),
        }
    }

    /// Undoes the blocks above `to`, which left the chain. The mirror's call.
    pub async fn rewind(&self, origin: ChainOrigin, from: ChainPoint, to: ChainPoint) -> Result<Stepped, FactError> {
        match self.ask(Operation::Rewind { origin, from, to }).await? {
            Answer::Step(answer) => answer,
            _ => Err(LedgerError::Closed.into()),
        }
    }

    /// Takes what the chain shows above the depth at which it counts. The mirror's call; kept in memory only.
    pub fn set_pending(&self, pending: Pending) {
        *self.shared.pending.write().unwrap_or_else(PoisonError::into_inner) = pending;
    }

    pub(crate) async fn sign(&self, signing: Signing) -> Result<SignedBatch, CountersignError> {
        match self.ask(Operation::Sign(Box::new(signing))).await? {
            Answer::Sign(answer) => answer,
            _ => Err(LedgerError::Closed.into()),
        }
    }

    /// The receipts of these requests that the ledger has.
    pub(crate) async fn receipts_of(&self, request_ids: &[B256]) -> Result<Vec<ServiceReceipt>, LedgerError> {
        let readers = &self.shared.readers;
        let ids: Vec<String> = request_ids.iter().map(|id| format!("\\x{id:x}")).collect();
        let ids = serde_json::to_string(&ids).map_err(|error| LedgerError::Row { table: "parameters", reason: error.to_string() })?;
        let rows: Vec<rows::ReceiptRow> = readers.rows(readers.statements().load_receipts, &[&ids]).await?;
        rows.iter().map(stored_receipt).collect()
    }

    fn pending<T>(&self, read: impl FnOnce(&Pending) -> T) -> T {
        read(&self.shared.pending.read().unwrap_or_else(PoisonError::into_inner))
    }

    async fn ask(&self, operation: Operation) -> Result<Answer, LedgerError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Operate(operation, reply)).await.map_err(|_| LedgerError::Closed)?;
        answer.await.map_err(|_| LedgerError::Closed)?
    }
}
