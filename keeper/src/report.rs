//! What `status` and `report` print: the journal's words, as data.

use serde::Serialize;
use wire::{Address, B256, Credits};

use crate::attempt::{Attempt, AttemptState};
use crate::batch::OperatorAmount;
use crate::journal::{Journal, JournalBatch, JournalError};

/// One batch, one line.
#[derive(Debug, Serialize)]
pub struct BatchLine {
    /// Sequence number.
    pub seq: u64,
    /// Where it is on its way.
    pub state: &'static str,
    /// Another keeper proposed it.
    pub adopted: bool,
    /// How many receipts.
    pub receipts: usize,
    /// Credits per operator before the fee: as applied once final, else as planned.
    pub operators: Vec<OperatorAmount>,
    /// Credits taken from payers; once final.
    pub debited_credits: Option<u64>,
    /// The same in PRLX.
    pub debited_prlx: Option<String>,
    /// Credits kept as fee; once final.
    pub fee_credits: Option<u64>,
    /// Transaction that landed it.
    pub transaction: Option<B256>,
    /// Its block.
    pub block: Option<u64>,
    /// How many transactions of ours were signed for it.
    pub attempts: usize,
    /// Gas of ours that was used, reverted ones too.
    pub gas_used: u64,
    /// Wei of ours that it cost.
    pub gas_wei: String,
    /// For people.
    pub note: String,
    /// Seconds since the epoch.
    pub created_at: u64,
    /// Seconds since the epoch.
    pub updated_at: u64,
}

/// What the keeper is doing.
#[derive(Debug, Serialize)]
pub struct Status {
    /// Who pays for gas.
    pub keeper: Option<Address>,
    /// The batch under way.
    pub active: Option<BatchLine>,
    /// The newest final batch.
    pub last_final: Option<BatchLine>,
}

/// The last `count` batches, newest first.
pub async fn lines(journal: &Journal, count: u32) -> Result<Vec<BatchLine>, JournalError> {
    let mut lines = Vec::new();
    for batch in journal.recent(count).await? {
        lines.push(line(journal, batch).await?);
    }
    Ok(lines)
}

/// What is under way and what was last.
pub async fn status(journal: &Journal, keeper: Option<Address>) -> Result<Status, JournalError> {
    let active = match journal.active().await? {
        Some(batch) => Some(line(journal, batch).await?),
        None => None,
    };
    let last_final = journal.landed(8).await?.into_iter().find(|batch| batch.outcome.is_some());
    let last_final = match last_final {
        Some(batch) => Some(line(journal, batch).await?),
        None => None,
    };
    Ok(Status { keeper, active, last_final })
}

/// One line for each operator of each batch, with a head line; RFC 4180 needs no quotes in these fields.
pub fn csv(lines: &[BatchLine]) -> String {
    let mut text = String::from(
        "seq,state,operator,credits,batch_debited_credits,batch_fee_credits,batch_gas_used,batch_gas_wei,transaction,block,updated_at\n",
    );
    let cell = |value: Option<String>| value.unwrap_or_default();
    for line in lines {
        for amount in &line.operators {
            let cells = [
                line.seq.to_string(),
                line.state.to_owned(),
                amount.operator.to_string(),
                amount.credits.get().to_string(),
                cell(line.debited_credits.map(|credits| credits.to_string())),
                cell(line.fee_credits.map(|credits| credits.to_string())),
                line.gas_used.to_string(),
                line.gas_wei.clone(),
                cell(line.transaction.map(|hash| hash.to_string())),
                cell(line.block.map(|block| block.to_string())),
                line.updated_at.to_string(),
            ];
            text.push_str(&cells.join(","));
            text.push('\n');
        }
    }
    text
}

async fn line(journal: &Journal, batch: JournalBatch) -> Result<BatchLine, JournalError> {
    let attempts = journal.attempts_of(&batch, 256).await?;
    let paid = attempts.iter().filter_map(paid);
    let (gas_used, gas_wei) = paid.fold((0u64, 0u128), |(gas, wei), (used, price)| {
        (gas.saturating_add(used), wei.saturating_add(u128::from(used) * u128::from(price)))
    });
    Ok(BatchLine {
        seq: batch.proposal.seq,
        state: batch.state.name(),
        adopted: batch.adopted,
        receipts: batch.proposal.receipts.len(),
        operators: batch.outcome.as_ref().map_or(batch.amounts, |outcome| outcome.applied.clone()),
        debited_credits: batch.outcome.as_ref().map(|outcome| outcome.debited),
        debited_prlx: batch.outcome.as_ref().and_then(|outcome| Credits::new(outcome.debited).ok()).map(|credits| credits.to_string()),
        fee_credits: batch.outcome.as_ref().map(|outcome| outcome.fee),
        transaction: batch.landing.map(|landing| landing.tx_hash),
        block: batch.landing.map(|landing| landing.block_number),
        attempts: attempts.len(),
        gas_used,
        gas_wei: gas_wei.to_string(),
        note: batch.note,
        created_at: batch.created_at,
        updated_at: batch.updated_at,
    })
}

fn paid(attempt: &Attempt) -> Option<(u64, u64)> {
    match attempt.state {
        AttemptState::Live => None,
        AttemptState::Mined(paid) | AttemptState::Reverted(paid) => Some((paid.gas_used, paid.gas_price_wei)),
    }
}
