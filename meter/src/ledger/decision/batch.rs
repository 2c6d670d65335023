//! A batch is signed: its receipts leave the feed, and its number is taken for ever (`docs/protocol.md`, section 9).

use std::collections::BTreeMap;

use alloy::primitives::{B256, Bytes};
use wire::settlement::{BatchProposal, Carry, DEADLINE_SECONDS_MAX, RECEIPTS_MAX, SignedBatch};
use wire::{AccountId, OperatorId, merkle, rows};

use super::audit::is_quarantined;
use super::{Assignment, State, credits_or_zero, seconds};
use crate::ledger::error::{CountersignError, LedgerError};
use crate::ledger::rows::{BatchRow, CarryRow};
use crate::ledger::types::{AuditState, BatchState, ReceiptState};

/// A proposal with the signature that it gets if the books agree, and the leaves of its receipts as the meter computed them.
#[derive(Clone, Debug)]
pub(crate) struct Signing {
    /// As the keeper sent it, signed.
    pub(crate) batch: SignedBatch,
    /// One leaf for each receipt, in the proposal's order.
    pub(crate) leaves: Vec<B256>,
}

/// Stores a batch and its signature, or the newer signature of the same batch. Refuses whatever the books don't make of it.
pub(crate) fn sign(state: &mut State, signing: &Signing) -> Result<SignedBatch, CountersignError> {
    let proposal = &signing.batch.proposal;
    check_deadline(proposal.deadline, state.now)?;
    if let Some(standing) = state.batches.get(&seconds(proposal.seq)) {
        let standing = signed_batch(standing)?;
        return sign_again(state, &signing.batch, standing);
    }
    let settled_seq = state.cursor.get(&()).map_or(0, |cursor| cursor.settled_seq);
    let next_seq = settled_seq.unsigned_abs() + 1;
    if proposal.seq != next_seq {
        return Err(CountersignError::Seq { seq: proposal.seq, next_seq });
    }
    let owed = owed_by_receipts(state, proposal)?;
    let due = add_carries(state, &owed, &proposal.carries)?;
    check_rows(state, proposal, &due)?;
    let root = merkle::root(&signing.leaves).unwrap_or_default();
    if signing.leaves.len() != proposal.receipts.len() || root != proposal.receipts_root {
        return Err(CountersignError::Root { ledger: root, proposed: proposal.receipts_root });
    }

    let seq = seconds(proposal.seq);
    let assigned = proposal.receipts.iter().zip(&signing.leaves);
    state.assignments.extend(assigned.map(|(request_id, leaf)| Assignment { request_id: *request_id, leaf: *leaf, seq }));
    let owed = owed.iter().map(|((operator, account), amount)| carry_row(*account, *operator, *amount)).collect::<Vec<_>>();
    let row = batch_row(state.now, &signing.batch, &owed)?;
    state.batches.put(seq, row);
    Ok(signing.batch.clone())
}

fn check_deadline(deadline: u64, now: u64) -> Result<(), CountersignError> {
    let max = now.saturating_add(DEADLINE_SECONDS_MAX);
    if deadline <= now || deadline > max { Err(CountersignError::Deadline { deadline, now, max }) } else { Ok(()) }
}

fn sign_again(state: &mut State, batch: &SignedBatch, standing: SignedBatch) -> Result<SignedBatch, CountersignError> {
    let same = BatchProposal { deadline: standing.proposal.deadline, ..batch.proposal.clone() } == standing.proposal;
    if !same {
        return Err(CountersignError::SeqTaken { standing: Box::new(standing) });
    }
    if batch.proposal.deadline <= standing.proposal.deadline && batch.settler == standing.settler {
        return Ok(standing);
    }
    let proposal = to_json(&batch.proposal)?;
    if let Some(row) = state.batches.get_mut(&seconds(batch.proposal.seq)) {
        row.proposal = proposal;
        row.signature = batch.signature.to_vec();
        row.settler = batch.settler;
    }
    Ok(batch.clone())
}

type Sums = BTreeMap<(OperatorId, AccountId), i64>;

fn owed_by_receipts(state: &State, proposal: &BatchProposal) -> Result<Sums, CountersignError> {
    let ascending = proposal.receipts.is_sorted_by(|a, b| a < b);
    let count = proposal.receipts.len();
    if !ascending || count == 0 || count > RECEIPTS_MAX {
        return Err(CountersignError::Receipts { receipts: count, max: RECEIPTS_MAX });
    }
    let mut owed = Sums::new();
    for request_id in &proposal.receipts {
        let refused = |reason| CountersignError::Receipt { request_id: *request_id, reason };
        let row = state.receipts.get(request_id).ok_or(refused("it is not in the ledger"))?;
        match (row.state, row.seq) {
            (ReceiptState::Signed, None) => {}
            (ReceiptState::AwaitingSignature, _) => return Err(refused("the node has not signed it")),
            (_, Some(_)) => return Err(refused("it stands in another batch")),
            _ => return Err(refused("it was refunded or is disputed")),
        }
        if row.audit == Some(AuditState::Pending) {
            return Err(refused("its audit is not over"));
        }
        if is_quarantined(state, row.node) {
            return Err(refused("its node failed an audit and is quarantined"));
        }
        let sum = owed.entry((OperatorId(row.operator), AccountId(row.account))).or_default();
        *sum = sum.saturating_add(row.amount);
    }
    Ok(owed)
}

fn add_carries(state: &State, owed: &Sums, carries: &[Carry]) -> Result<Sums, CountersignError> {
    let mut due = owed.clone();
    let mut seen = Sums::new();
    for carry in carries {
        let ledger = state.carries.get(&(carry.account, carry.operator)).map_or(0, |row| row.amount);
        let twice = seen.insert((carry.operator, carry.account), ledger).is_some();
        if ledger == 0 || ledger != carry.amount.as_i64() || twice {
            return Err(CountersignError::Carry { account: carry.account, ledger: credits_or_zero(ledger), proposed: carry.amount });
        }
        let sum = due.entry((carry.operator, carry.account)).or_default();
        *sum = sum.saturating_add(ledger);
    }
    Ok(due)
}

/// Operators ascending, accounts ascending inside; each row's cumulative counts all earlier rows of its account.
fn check_rows(state: &State, proposal: &BatchProposal, due: &Sums) -> Result<(), CountersignError> {
    let mut debits = BTreeMap::<AccountId, i64>::new();
    let mut groups = Vec::<rows::Group>::new();
    for ((operator, account), amount) in due {
        let payer = state.payers.get(account).ok_or(LedgerError::UnknownAccount { account: *account })?;
        let debit = debits.entry(*account).or_default();
        *debit = debit.saturating_add(*amount);
        let limit = payer.facts.net_deposited.min(payer.facts.authorized_cum).saturating_sub(payer.facts.settled);
        let allowed = payer.facts.exposure.min(limit).max(0);
        if *debit > allowed {
            let (amount, allowed) = (credits_or_zero(*debit), credits_or_zero(allowed));
            return Err(CountersignError::AboveLimit { account: *account, amount, allowed });
        }
        let cumulative = payer.facts.settled.saturating_add(*debit).unsigned_abs();
        let row = rows::Row { account: *account, cumulative };
        match groups.last_mut() {
            Some(group) if group.operator == *operator => group.rows.push(row),
            _ => groups.push(rows::Group { operator: *operator, rows: vec![row] }),
        }
    }
    let encoded = rows::encode(&groups).map_err(|_| CountersignError::Rows)?;
    if encoded != proposal.rows { Err(CountersignError::Rows) } else { Ok(()) }
}

fn carry_row(account: AccountId, operator: OperatorId, amount: i64) -> CarryRow {
    CarryRow { account: account.0, operator: operator.0, amount }
}

fn batch_row(now: u64, batch: &SignedBatch, owed: &[CarryRow]) -> Result<BatchRow, LedgerError> {
    Ok(BatchRow {
        seq: seconds(batch.proposal.seq),
        proposal: to_json(&batch.proposal)?,
        owed: to_json(&owed)?,
        rows_hash: rows::hash(&batch.proposal.rows),
        signature: batch.signature.to_vec(),
        settler: batch.settler,
        state: BatchState::Signed,
        transaction: None,
        created_at: seconds(now),
    })
}

/// The batch of a row.
pub(crate) fn signed_batch(row: &BatchRow) -> Result<SignedBatch, LedgerError> {
    let proposal = serde_json::from_str(&row.proposal).map_err(|error| LedgerError::Row { table: "batches", reason: error.to_string() })?;
    Ok(SignedBatch { proposal, signature: Bytes::from(row.signature.clone()), settler: row.settler })
}

fn to_json<T: serde::Serialize>(value: &T) -> Result<String, LedgerError> {
    serde_json::to_string(value).map_err(|error| LedgerError::Row { table: "batches", reason: error.to_string() })
}
