//! What the keeper planned, had signed and sent: one SQLite file, written before anything is acted on.
//!
//! Every arrow between states is one compare-and-set on the batch's version, so that a second writer loses instead of
//! overwriting. Invariant of absence: nothing is ever deleted, and nothing here knows the chain.

mod codec; // rows of the tables, read and written
mod error;

use std::path::Path;
use std::time::Duration;

use alloy::primitives::{Address, B256, Bytes};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Row, Sqlite, SqlitePool, Transaction};
use wire::deployment::Deployment;
use wire::settlement::{BatchProposal, SignedBatch};

use self::codec::{fixed, int, json, read_attempt, read_batch, uint};
pub use self::error::JournalError;
use crate::attempt::{Attempt, AttemptState};
use crate::batch::OperatorAmount;

/// Own code's patience for SQLite's lock; the journal has one writer.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a batch is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Content decided, not countersigned.
    Planned,
    /// Countersigned: anybody may relay it.
    Signed,
    /// A transaction is stored, and perhaps broadcast.
    Sent,
    /// In a block.
    Mined,
    /// Deep enough.
    Final,
    /// Another content was settled or signed for its sequence number.
    Replaced,
    /// The meter's ledger does not agree with it.
    Quarantined,
}

impl State {
    const NAMES: [(Self, &'static str); 7] = [
        (Self::Planned, "planned"),
        (Self::Signed, "signed"),
        (Self::Sent, "sent"),
        (Self::Mined, "mined"),
        (Self::Final, "final"),
        (Self::Replaced, "replaced"),
        (Self::Quarantined, "quarantined"),
    ];

    /// As the journal and reports write it.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(state, _)| *state == self).map_or("", |(_, name)| name)
    }

    fn read(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, known)| *known == name).map(|(state, _)| *state)
    }

    /// The arrows. Back to `Planned`: a deadline passed. Back to `Signed` or `Sent`: its block left the chain.
    pub fn may_become(self, next: Self) -> bool {
        use State::{Final, Mined, Planned, Quarantined, Replaced, Sent, Signed};
        match self {
            Planned => matches!(next, Signed | Mined | Replaced | Quarantined),
            Signed => matches!(next, Sent | Mined | Planned | Replaced),
            Sent => matches!(next, Sent | Mined | Planned | Replaced),
            Mined => matches!(next, Final | Signed | Sent),
            Final => matches!(next, Signed | Sent),
            Replaced | Quarantined => false,
        }
    }
}

/// One batch as the journal has it.
#[derive(Clone, Debug, PartialEq)]
pub struct JournalBatch {
    /// Row.
    pub id: i64,
    /// Counts the changes.
    pub version: i64,
    /// Where it is.
    pub state: State,
    /// Another keeper proposed it.
    pub adopted: bool,
    /// The content.
    pub proposal: BatchProposal,
    /// Signature and settler, once countersigned.
    pub countersignature: Option<(Bytes, Address)>,
    /// Credits per operator before the fee, as planned.
    pub amounts: Vec<OperatorAmount>,
    /// What came of it, once final.
    pub outcome: Option<Outcome>,
    /// It can't have landed below this height.
    pub from_block: u64,
    /// Where it landed.
    pub landing: Option<Landing>,
    /// For people.
    pub note: String,
    /// Seconds since the epoch.
    pub created_at: u64,
    /// Seconds since the epoch.
    pub updated_at: u64,
}

/// Where a transaction was mined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Landing {
    /// Which transaction.
    pub tx_hash: B256,
    /// Its block.
    pub block_hash: B256,
    /// Height of its block.
    pub block_number: u64,
}

/// What a final batch moved, as the chain's events say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Credits taken from payers.
    pub debited: u64,
    /// Credits of it kept as fee.
    pub fee: u64,
    /// Credits per operator before the fee.
    pub applied: Vec<OperatorAmount>,
}

impl JournalBatch {
    /// What anybody needs to relay it; `None` before it is countersigned.
    pub fn signed(&self) -> Option<SignedBatch> {
        let (signature, settler) = self.countersignature.clone()?;
        Some(SignedBatch { proposal: self.proposal.clone(), signature, settler })
    }
}

/// A batch that is to be written down for the first time.
#[derive(Clone, Debug)]
pub struct NewBatch {
    /// The content.
    pub proposal: BatchProposal,
    /// Present when another keeper had it signed.
    pub countersignature: Option<(Bytes, Address)>,
    /// Credits per operator before the fee.
    pub amounts: Vec<OperatorAmount>,
    /// Height at which it was decided.
    pub from_block: u64,
}

/// The open journal. One process writes it.
#[derive(Clone, Debug)]
pub struct Journal {
    pool: SqlitePool,
    // Held as long as the journal is open for writing; the system frees it however the process ends.
    _lock: Option<std::sync::Arc<std::fs::File>>,
}

impl Journal {
    /// Opens `path` for this deployment, making it when it is missing. Errors when another process writes it, or when it
    /// belongs to another chain or contract.
    pub async fn open(path: &Path, deployment: &Deployment) -> Result<Self, JournalError> {
        let lock_path = path.with_extension("lock");
        let lock_error = |error: std::io::Error| JournalError::Lock { path: lock_path.clone(), error };
        let lock = std::fs::File::options().create(true).truncate(false).write(true).open(&lock_path).map_err(lock_error)?;
        lock.try_lock().map_err(|error| lock_error(error.into()))?;

        let pool = connect(path, false).await?;
        sqlx::migrate!("./migrations").run(&pool).await.map_err(JournalError::Migrate)?;
        let journal = Self { pool, _lock: Some(std::sync::Arc::new(lock)) };
        journal.check_scope(deployment).await?;
        Ok(journal)
    }

    /// Opens an existing journal for reading, beside the process that writes it.
    pub async fn read(path: &Path) -> Result<Self, JournalError> {
        Ok(Self { pool: connect(path, true).await?, _lock: None })
    }

    /// An empty journal that is never written to disk, for a look without one.
    pub async fn in_memory() -> Result<Self, JournalError> {
        let pool = SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:").await?;
        sqlx::migrate!("./migrations").run(&pool).await.map_err(JournalError::Migrate)?;
        Ok(Self { pool, _lock: None })
    }

    async fn check_scope(&self, deployment: &Deployment) -> Result<(), JournalError> {
        let (chain_id, settlement) = (int(deployment.chain_id)?, deployment.settlement.to_vec());
        sqlx::query("INSERT INTO scope (id, chain_id, settlement) VALUES (1, ?, ?) ON CONFLICT DO NOTHING")
            .bind(chain_id)
            .bind(&settlement)
            .execute(&self.pool)
            .await?;
        let row = sqlx::query("SELECT chain_id, settlement FROM scope").fetch_one(&self.pool).await?;
        if row.try_get::<i64, _>(0)? == chain_id && row.try_get::<Vec<u8>, _>(1)? == settlement {
            return Ok(());
        }
        Err(JournalError::OtherDeployment { chain_id: deployment.chain_id, settlement: deployment.settlement })
    }

    /// Writes down a batch: `signed` when it comes with a signature, else `planned`. Errors when one stands for its `seq`.
    pub async fn insert(&self, new: &NewBatch, now: u64) -> Result<JournalBatch, JournalError> {
        let state = if new.countersignature.is_some() { State::Signed } else { State::Planned };
        let id = sqlx::query(
            "INSERT INTO batches (seq, state, version, adopted, proposal, signature, settler, amounts, from_block, note, created_at, updated_at)
             VALUES (?, ?, 0, ?, ?, ?, ?, ?, ?, '', ?, ?)",
        )
        .bind(int(new.proposal.seq)?)
        .bind(state.name())
        .bind(new.countersignature.is_some())
        .bind(json(&new.proposal)?)
        .bind(new.countersignature.as_ref().map(|(signature, _)| signature.to_vec()))
        .bind(new.countersignature.as_ref().map(|(_, settler)| settler.to_vec()))
        .bind(json(&new.amounts)?)
        .bind(int(new.from_block)?)
        .bind(int(now)?)
        .bind(int(now)?)
        .execute(&self.pool)
        .await?
        .last_insert_rowid();
        let row = sqlx::query("SELECT * FROM batches WHERE id = ?").bind(id).fetch_one(&self.pool).await?;
        read_batch(&row)
    }

    /// Moves a batch from `before` to `after`. Errors on an arrow that does not exist, or when somebody moved it meanwhile.
    pub async fn advance(&self, before: &JournalBatch, after: JournalBatch, now: u64) -> Result<JournalBatch, JournalError> {
        let mut transaction = self.pool.begin().await?;
        let after = store(&mut transaction, before, after, now).await?;
        transaction.commit().await?;
        Ok(after)
    }

    /// Stores a signed transaction, and moves its batch (if it is a batch's) to `sent`, in one commit.
    pub async fn insert_attempt(&self, attempt: &Attempt, batch: Option<&JournalBatch>, now: u64) -> Result<(), JournalError> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query(
            "INSERT INTO attempts (hash, batch_id, purpose, nonce, raw, max_fee_wei, max_priority_fee_wei, gas_limit, state, signed_at)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'live', ?)",
        )
        .bind(attempt.hash.to_vec())
        .bind(batch.map(|batch| batch.id))
        .bind(attempt.purpose.name())
        .bind(int(attempt.nonce)?)
        .bind(attempt.raw.to_vec())
        .bind(int(attempt.max_fee_wei)?)
        .bind(int(attempt.max_priority_fee_wei)?)
        .bind(int(attempt.gas_limit)?)
        .bind(int(attempt.signed_at)?)
        .execute(&mut *transaction)
        .await?;
        if let Some(batch) = batch {
            store(&mut transaction, batch, JournalBatch { state: State::Sent, ..batch.clone() }, now).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Writes down how an attempt ended, or that its block left the chain (`Live`).
    pub async fn set_attempt(&self, hash: B256, state: AttemptState) -> Result<(), JournalError> {
        let (name, landing) = match &state {
            AttemptState::Live => ("live", None),
            AttemptState::Mined(landing) => ("mined", Some(landing)),
            AttemptState::Reverted(landing) => ("reverted", Some(landing)),
        };
        sqlx::query("UPDATE attempts SET state = ?, block_hash = ?, block_number = ?, gas_used = ?, gas_price_wei = ? WHERE hash = ?")
            .bind(name)
            .bind(landing.map(|paid| paid.block_hash.to_vec()))
            .bind(landing.map(|paid| int(paid.block_number)).transpose()?)
            .bind(landing.map(|paid| int(paid.gas_used)).transpose()?)
            .bind(landing.map(|paid| int(paid.gas_price_wei)).transpose()?)
            .bind(hash.to_vec())
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// The batch to work on: the lowest one that is neither final nor given up.
    pub async fn active(&self) -> Result<Option<JournalBatch>, JournalError> {
        let open = "SELECT * FROM batches WHERE state IN ('planned', 'signed', 'sent', 'mined') ORDER BY seq LIMIT 1";
        sqlx::query(open).fetch_optional(&self.pool).await?.as_ref().map(read_batch).transpose()
    }

    /// The highest batches that landed, newest first, at most `count`.
    pub async fn landed(&self, count: u32) -> Result<Vec<JournalBatch>, JournalError> {
        let landed = "SELECT * FROM batches WHERE state IN ('mined', 'final') ORDER BY seq DESC LIMIT ?";
        sqlx::query(landed).bind(count).fetch_all(&self.pool).await?.iter().map(read_batch).collect()
    }

    /// The last `count` batches, newest first.
    pub async fn recent(&self, count: u32) -> Result<Vec<JournalBatch>, JournalError> {
        let recent = "SELECT * FROM batches ORDER BY id DESC LIMIT ?";
        sqlx::query(recent).bind(count).fetch_all(&self.pool).await?.iter().map(read_batch).collect()
    }

    /// The batch's last `count` attempts, newest first.
    pub async fn attempts_of(&self, batch: &JournalBatch, count: u32) -> Result<Vec<Attempt>, JournalError> {
        let attempts = "SELECT * FROM attempts WHERE batch_id = ? ORDER BY signed_at DESC, rowid DESC LIMIT ?";
        sqlx::query(attempts).bind(batch.id).bind(count).fetch_all(&self.pool).await?.iter().map(read_attempt).collect()
    }

    /// Attempts without an outcome at `nonce` or above, dearest first.
    pub async fn live_attempts(&self, nonce: u64) -> Result<Vec<Attempt>, JournalError> {
        let live = "SELECT * FROM attempts WHERE state = 'live' AND nonce >= ? ORDER BY nonce, max_fee_wei DESC LIMIT 256";
        sqlx::query(live).bind(int(nonce)?).fetch_all(&self.pool).await?.iter().map(read_attempt).collect()
    }

    /// Claims and cancellations without an outcome, newest first.
    pub async fn open_errands(&self) -> Result<Vec<Attempt>, JournalError> {
        let open = "SELECT * FROM attempts WHERE state = 'live' AND purpose <> 'settle' ORDER BY rowid DESC LIMIT 16";
        sqlx::query(open).fetch_all(&self.pool).await?.iter().map(read_attempt).collect()
    }

    /// Mined and reverted attempts, newest block first, at most `count`.
    pub async fn mined_attempts(&self, count: u32) -> Result<Vec<Attempt>, JournalError> {
        let mined = "SELECT * FROM attempts WHERE state <> 'live' ORDER BY block_number DESC LIMIT ?";
        sqlx::query(mined).bind(count).fetch_all(&self.pool).await?.iter().map(read_attempt).collect()
    }

    /// The nonce after the highest one that is known to be used.
    pub async fn nonce_floor(&self) -> Result<u64, JournalError> {
        let floor = "SELECT COALESCE(MAX(nonce) + 1, 0) FROM attempts WHERE state <> 'live'";
        uint(sqlx::query(floor).fetch_one(&self.pool).await?.try_get(0)?)
    }

    /// Wei spent on attempts that were signed at `since` or later.
    pub async fn spent_wei(&self, since: u64) -> Result<u128, JournalError> {
        let rows = sqlx::query("SELECT gas_used, gas_price_wei FROM attempts WHERE state <> 'live' AND signed_at >= ?")
            .bind(int(since)?)
            .fetch_all(&self.pool)
            .await?;
        // Gas times price can leave 64 bits, which SQL would turn into a float.
        rows.iter().try_fold(0u128, |sum, row| {
            let paid = u128::from(uint(row.try_get(0)?)?) * u128::from(uint(row.try_get(1)?)?);
            Ok(sum.saturating_add(paid))
        })
    }

    /// Sets a receipt aside that the meter refused alone.
    pub async fn refuse_receipt(&self, request_id: B256, reason: &str, now: u64) -> Result<(), JournalError> {
        sqlx::query("INSERT INTO refused_receipts (request_id, reason, refused_at) VALUES (?, ?, ?) ON CONFLICT (request_id) DO UPDATE SET reason = excluded.reason, refused_at = excluded.refused_at")
            .bind(request_id.to_vec())
            .bind(reason)
            .bind(int(now)?)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Receipts that were refused at `since` or later, with the meter's words.
    pub async fn refused_receipts(&self, since: u64) -> Result<Vec<(B256, String)>, JournalError> {
        let refused = sqlx::query("SELECT request_id, reason FROM refused_receipts WHERE refused_at >= ? LIMIT 10000")
            .bind(int(since)?)
            .fetch_all(&self.pool)
            .await?;
        refused.iter().map(|row| Ok((fixed(row, "request_id")?.unwrap_or_default(), row.try_get("reason")?))).collect()
    }
}

async fn connect(path: &Path, read_only: bool) -> Result<SqlitePool, JournalError> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(!read_only)
        .read_only(read_only)
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(true);
    // A power cut must not lose a transaction that was broadcast.
    let options = if read_only { options } else { options.journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full) };
    let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await;
    pool.map_err(|error| JournalError::Open { path: path.to_owned(), error })
}

async fn store(
    transaction: &mut Transaction<'_, Sqlite>,
    before: &JournalBatch,
    after: JournalBatch,
    now: u64,
) -> Result<JournalBatch, JournalError> {
    let (from, to) = (before.state, after.state);
    if !from.may_become(to) {
        return Err(JournalError::NoArrow { seq: before.proposal.seq, from: from.name(), to: to.name() });
    }
    let after = JournalBatch { version: before.version + 1, updated_at: now, ..after };
    let changed = sqlx::query(
        "UPDATE batches SET state = ?, version = ?, proposal = ?, signature = ?, settler = ?, applied = ?, tx_hash = ?, block_hash = ?,
         block_number = ?, debited = ?, fee = ?, note = ?, updated_at = ? WHERE id = ? AND version = ? AND state = ?",
    )
    .bind(to.name())
    .bind(after.version)
    .bind(json(&after.proposal)?)
    .bind(after.countersignature.as_ref().map(|(signature, _)| signature.to_vec()))
    .bind(after.countersignature.as_ref().map(|(_, settler)| settler.to_vec()))
    .bind(after.outcome.as_ref().map(|outcome| json(&outcome.applied)).transpose()?)
    .bind(after.landing.map(|landing| landing.tx_hash.to_vec()))
    .bind(after.landing.map(|landing| landing.block_hash.to_vec()))
    .bind(after.landing.map(|landing| int(landing.block_number)).transpose()?)
    .bind(after.outcome.as_ref().map(|outcome| int(outcome.debited)).transpose()?)
    .bind(after.outcome.as_ref().map(|outcome| int(outcome.fee)).transpose()?)
    .bind(&after.note)
    .bind(int(now)?)
    .bind(before.id)
    .bind(before.version)
    .bind(from.name())
    .execute(&mut **transaction)
    .await?
    .rows_affected();
    if changed == 1 { Ok(after) } else { Err(JournalError::Lost { seq: before.proposal.seq, version: before.version }) }
}
