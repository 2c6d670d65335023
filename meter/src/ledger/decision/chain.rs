//! The chain's facts: applied in the chain's order, undone in the opposite one when their block leaves the chain.

use alloy::primitives::{Address, B256};
use serde::{Deserialize, Serialize};
use wire::{AccountId, Credits, OperatorId, fee_down, rows};

use super::{State, seconds};
use crate::ledger::accounts::{LedgerAccount, TransferKind};
use crate::ledger::error::LedgerError;
use crate::ledger::facts::{Advance, ChainEvent, ChainOrigin, ChainPoint, Fact, FactError, Short, Stepped};
use crate::ledger::rows::{CarryRow, CursorRow, EventRow, NodeKeyRow, OperatorRow, PayerFacts, PayerRow};
use crate::ledger::types::BatchState;

/// What was before a fact, beside what the fact itself says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Undo {
    payers: Vec<(u32, PayerFacts)>,
    settled: Option<SettledUndo>,
    operator: Option<OperatorRow>,
    node_key: Option<NodeKeyRow>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct SettledUndo {
    carries: Vec<CarryRow>,
    applied: Vec<CarryRow>,
    fees: Vec<(u32, i64)>,
}

/// Applies new blocks. Nothing at all is applied when one of their events doesn't fit.
pub(crate) fn advance(state: &mut State, step: &Advance) -> Result<Stepped, FactError> {
    if !stands_at(state, step.origin, step.from)? {
        return Ok(Stepped::Stale);
    }
    let settled_seq = state.cursor.get(&()).map_or(0, |cursor| cursor.settled_seq);
    let cursor = CursorRow {
        chain_id: seconds(step.origin.chain_id),
        vault: step.origin.vault,
        number: seconds(step.to.number),
        hash: step.to.hash,
        timestamp: seconds(step.to.timestamp),
        settled_seq,
    };
    state.cursor.put((), cursor);
    for event in &step.events {
        apply(state, event)?;
    }
    state.blocks.extend(step.blocks.iter().copied());
    Ok(Stepped::Done(step.events.len()))
}

/// Undoes the blocks above `to`, whose events are loaded.
pub(crate) fn rewind(state: &mut State, origin: ChainOrigin, from: ChainPoint, to: ChainPoint) -> Result<Stepped, FactError> {
    if !stands_at(state, origin, Some(from))? {
        return Ok(Stepped::Stale);
    }
    let mut events: Vec<EventRow> = state.events.iter().filter(|event| event.applied == 1).cloned().collect();
    events.sort_by_key(|event| (event.block_number, event.log_index));
    for event in events.iter().rev() {
        undo(state, event)?;
    }
    if let Some(cursor) = state.cursor.get_mut(&()) {
        cursor.number = seconds(to.number);
        cursor.hash = to.hash;
        cursor.timestamp = seconds(to.timestamp);
    }
    state.blocks_after = Some(seconds(to.number));
    Ok(Stepped::Done(events.len()))
}

fn stands_at(state: &State, origin: ChainOrigin, from: Option<ChainPoint>) -> Result<bool, FactError> {
    let Some(cursor) = state.cursor.get(&()) else { return Ok(from.is_none()) };
    let stored = ChainOrigin { chain_id: u64::try_from(cursor.chain_id).unwrap_or(0), vault: cursor.vault };
    if stored != origin {
        return Err(FactError::Origin { stored, given: origin });
    }
    Ok(from.is_some_and(|from| seconds(from.number) == cursor.number && from.hash == cursor.hash))
}

fn apply(state: &mut State, event: &ChainEvent) -> Result<(), FactError> {
    let applications = match state.events.get(&event.key()) {
        Some(row) if row.applied == 1 => return Ok(()),
        Some(row) => row.applications + 1,
        None => 1,
    };
    let reference = reference(event.block_hash, event.key().1, applications);
    let undo = apply_fact(state, event, &reference)?;
    let row = EventRow {
        block_hash: event.block_hash,
        log_index: event.key().1,
        transaction: event.transaction,
        block_number: seconds(event.block_number),
        timestamp: seconds(event.timestamp),
        body: to_json(&event.fact)?,
        undo: to_json(&undo)?,
        applications,
        applied: 1,
    };
    state.events.put(event.key(), row);
    Ok(())
}

/// Block hash, log index, and how often the event was applied, since a block may leave the chain and come back.
fn reference(block_hash: B256, log_index: i64, applications: i64) -> Vec<u8> {
    [block_hash.as_slice(), &log_index.to_be_bytes(), &applications.to_be_bytes()].concat()
}

fn apply_fact(state: &mut State, event: &ChainEvent, reference: &[u8]) -> Result<Undo, FactError> {
    match &event.fact {
        Fact::AccountOpened { account, wallet } => open_account(state, *account, *wallet),
        Fact::Deposited { account, amount, net_deposited } => {
            let before = facts(state, *account)?;
            let amount = stored(*amount)?;
            set_net_deposited(state, *account, before.net_deposited.saturating_add(amount), *net_deposited)?;
            state.credit_payer(TransferKind::Deposit, reference, LedgerAccount::Vault, *account, amount);
            Ok(undo_of(*account, before))
        }
        Fact::Withdrawn { account, amount, net_deposited } => {
            let before = facts(state, *account)?;
            let amount = stored(*amount)?;
            set_net_deposited(state, *account, before.net_deposited.saturating_sub(amount), *net_deposited)?;
            state.debit_payer(TransferKind::Withdrawal, reference, *account, LedgerAccount::Vault, amount);
            Ok(undo_of(*account, before))
        }
        Fact::Authorized { account, authorized_cum, exposure, settle_deadline, valid_until, nonce } => {
            set_facts(state, *account, |facts| PayerFacts {
                authorized_cum: clamped(*authorized_cum),
                exposure: clamped(*exposure),
                settle_deadline: clamped(*settle_deadline),
                valid_until: clamped(*valid_until),
                next_nonce: nonce.saturating_add(1),
                ..facts
            })
        }
        Fact::Revoked { account, authorized_cum, settle_deadline, nonce } => set_facts(state, *account, |facts| PayerFacts {
            authorized_cum: clamped(*authorized_cum),
            settle_deadline: clamped(*settle_deadline),
            valid_until: 0,
            next_nonce: nonce.saturating_add(1),
            ..facts
        }),
        Fact::Closed { account } => {
            let closed_at = seconds(event.timestamp) - 1;
            set_facts(state, *account, |facts| PayerFacts {
                settle_deadline: facts.settle_deadline.min(closed_at),
                valid_until: 0,
                ..facts
            })
        }
        Fact::Settled { .. } => settle(state, event, reference),
        Fact::OperatorRegistered { operator, owner, payout } => {
            state.operators.put(*operator, OperatorRow { operator: operator.0, owner: *owner, payout: *payout });
            Ok(Undo::default())
        }
        Fact::PayoutChanged { operator, payout } => {
            let before = state.operators.get(operator).cloned();
            state.operators.get_mut(operator).into_iter().for_each(|row| row.payout = *payout);
            Ok(Undo { operator: before, ..Undo::default() })
        }
        Fact::NodeKeyAdded { operator, node } => {
            let before = state.node_keys.get(node).copied();
            let row = NodeKeyRow { node: *node, operator: operator.0, since: seconds(event.timestamp), until: None };
            state.node_keys.put(*node, row);
            Ok(Undo { node_key: before, ..Undo::default() })
        }
        Fact::NodeKeyRemoved { node, .. } => {
            let before = *state.node_keys.get(node).ok_or(FactError::UnknownNodeKey { node: *node })?;
            state.node_keys.put(*node, NodeKeyRow { until: Some(seconds(event.timestamp)), ..before });
            Ok(Undo { node_key: Some(before), ..Undo::default() })
        }
    }
}

fn open_account(state: &mut State, account: AccountId, wallet: Address) -> Result<Undo, FactError> {
    let Some(row) = state.payers.get_mut(&account) else {
        state.payers.put(account, PayerRow::opened(account, wallet));
        return Ok(Undo::default());
    };
    let empty = row.available == 0 && row.held == 0 && row.unsettled == 0 && row.written_off == 0;
    if row.wallet != wallet && !empty {
        return Err(FactError::Reassigned { account, old: row.wallet, new: wallet });
    }
    row.wallet = wallet;
    row.opened = 1;
    Ok(Undo::default())
}

fn facts(state: &State, account: AccountId) -> Result<PayerFacts, FactError> {
    let opened = state.payers.get(&account).filter(|payer| payer.opened == 1);
    opened.map(|payer| payer.facts).ok_or(FactError::UnopenedAccount { account })
}

fn set_facts(state: &mut State, account: AccountId, change: impl FnOnce(PayerFacts) -> PayerFacts) -> Result<Undo, FactError> {
    let before = facts(state, account)?;
    if let Some(payer) = state.payers.get_mut(&account) {
        payer.facts = change(before);
    }
    Ok(undo_of(account, before))
}

fn undo_of(account: AccountId, before: PayerFacts) -> Undo {
    Undo { payers: vec![(account.0, before)], ..Undo::default() }
}

/// The event states the total after it, so an endpoint that leaves out events is found out by the next one.
fn set_net_deposited(state: &mut State, account: AccountId, ledger: i64, chain: u64) -> Result<(), FactError> {
    if i64::try_from(chain) != Ok(ledger) {
        return Err(FactError::NetDeposited { account, ledger, chain });
    }
    set_facts(state, account, |facts| PayerFacts { net_deposited: ledger, ..facts }).map(drop)
}

/// Books a batch: each row debits what the events say, the rest of what is owed becomes a carry.
fn settle(state: &mut State, event: &ChainEvent, reference: &[u8]) -> Result<Undo, FactError> {
    let Fact::Settled { seq, receipts_root, rows_hash, debited, fee, fee_bps, shorts } = &event.fact else {
        return Ok(Undo::default());
    };
    let (proposal, mut owed) = standing_batch(state, *seq, *receipts_root, *rows_hash)?;
    let groups = rows::decode(&proposal.rows).map_err(|_| FactError::ForeignBatch { seq: *seq })?;
    let mut undo = Undo::default();
    let mut booked = SettledUndo::default();
    let (mut total, mut total_fee) = (0u64, 0u64);
    for group in &groups {
        let mut group_total = 0u64;
        for row in &group.rows {
            let before = facts(state, row.account)?;
            undo.payers.push((row.account.0, before));
            let applied = applied(before.settled, row, group.operator, shorts);
            let pair = (row.account, group.operator);
            let owed_receipts = take_owed(&mut owed, pair);
            book_row(state, event, *seq, pair, owed_receipts, applied, reference, &mut booked)?;
            group_total = group_total.saturating_add(applied);
        }
        let group_fee = fee_down(Credits::new(group_total).map_err(|_| FactError::Amount { amount: group_total })?, *fee_bps);
        let fee_reference = [reference, &group.operator.0.to_be_bytes()].concat();
        let settled = LedgerAccount::Settled(group.operator);
        state.transfer(TransferKind::Fee, &fee_reference, settled, LedgerAccount::Fees, group_fee.as_i64());
        booked.fees.push((group.operator.0, group_fee.as_i64()));
        total = total.saturating_add(group_total);
        total_fee = total_fee.saturating_add(group_fee.get());
    }
    if (total, total_fee) != (*debited, *fee) {
        return Err(FactError::BatchTotals { seq: *seq, ledger: total, chain: *debited, ledger_fee: total_fee, chain_fee: *fee });
    }
    mark_batch(state, *seq, BatchState::Settled, Some(event.transaction));
    Ok(Undo { settled: Some(booked), ..undo })
}

fn standing_batch(
    state: &State,
    seq: u64,
    receipts_root: B256,
    rows_hash: B256,
) -> Result<(wire::settlement::BatchProposal, Vec<CarryRow>), FactError> {
    let expected = state.cursor.get(&()).map_or(0, |cursor| cursor.settled_seq).unsigned_abs() + 1;
    if seq != expected {
        return Err(FactError::Seq { seq, expected });
    }
    let foreign = FactError::ForeignBatch { seq };
    let batch = state.batches.get(&seconds(seq)).ok_or(foreign.clone())?;
    let proposal: wire::settlement::BatchProposal = from_json("batches", &batch.proposal)?;
    if proposal.receipts_root != receipts_root || batch.rows_hash != rows_hash {
        return Err(foreign);
    }
    Ok((proposal, from_json("batches", &batch.owed)?))
}

/// What the vault debited for a row: what it asked for, unless an event says less.
fn applied(settled: i64, row: &rows::Row, operator: OperatorId, shorts: &[Short]) -> u64 {
    let short = shorts.iter().find(|short| short.account == row.account && short.operator == operator);
    short.map_or_else(|| row.cumulative.saturating_sub(settled.unsigned_abs()), |short| short.applied)
}

fn take_owed(owed: &mut Vec<CarryRow>, (account, operator): (AccountId, OperatorId)) -> i64 {
    let index = owed.iter().position(|row| row.account == account.0 && row.operator == operator.0);
    index.map_or(0, |index| owed.swap_remove(index).amount)
}

#[allow(clippy::too_many_arguments)]
fn book_row(
    state: &mut State,
    event: &ChainEvent,
    seq: u64,
    (account, operator): (AccountId, OperatorId),
    owed_receipts: i64,
    applied: u64,
    reference: &[u8],
    booked: &mut SettledUndo,
) -> Result<(), FactError> {
    let carry = state.carries.get(&(account, operator)).map_or(0, |row| row.amount);
    booked.carries.push(CarryRow { account: account.0, operator: operator.0, amount: carry });
    let owed = carry.saturating_add(owed_receipts);
    let amount = stored(applied)?;
    if amount > owed {
        return Err(FactError::Overdebit { seq, account, operator, applied, owed });
    }
    booked.applied.push(CarryRow { account: account.0, operator: operator.0, amount });
    state.carries.put((account, operator), CarryRow { account: account.0, operator: operator.0, amount: owed - amount });
    if let Some(payer) = state.payers.get_mut(&account) {
        payer.unsettled -= amount;
        payer.facts.settled += amount;
        payer.facts.last_settled_at = if amount > 0 { seconds(event.timestamp) } else { payer.facts.last_settled_at };
    }
    let reference = [reference, &account.0.to_be_bytes(), &operator.0.to_be_bytes()].concat();
    state.transfer(TransferKind::Settle, &reference, LedgerAccount::Unsettled(operator), LedgerAccount::Settled(operator), amount);
    Ok(())
}

fn mark_batch(state: &mut State, seq: u64, to: BatchState, transaction: Option<B256>) {
    if let Some(batch) = state.batches.get_mut(&seconds(seq)) {
        batch.state = to;
        batch.transaction = transaction;
    }
    if let Some(cursor) = state.cursor.get_mut(&()) {
        cursor.settled_seq = if to == BatchState::Settled { seconds(seq) } else { seconds(seq) - 1 };
    }
    if to == BatchState::Settled { state.settled.push(seconds(seq)) } else { state.unsettled.push(seconds(seq)) }
}

/// Undoes one event. Events are undone from the last to the first, so what was before each is what is put back.
fn undo(state: &mut State, event: &EventRow) -> Result<(), FactError> {
    let fact: Fact = from_json("chain_events", &event.body)?;
    let undo: Undo = from_json("chain_events", &event.undo)?;
    let reference = reference(event.block_hash, event.log_index, event.applications);
    match &fact {
        Fact::AccountOpened { account, .. } => {
            state.payers.get_mut(account).into_iter().for_each(|payer| payer.opened = 0);
        }
        Fact::Deposited { account, amount, .. } => {
            state.debit_payer(TransferKind::Reversal, &reference, *account, LedgerAccount::Vault, stored(*amount)?);
        }
        Fact::Withdrawn { account, amount, .. } => {
            state.credit_payer(TransferKind::Reversal, &reference, LedgerAccount::Vault, *account, stored(*amount)?);
        }
        Fact::Settled { seq, .. } => unsettle(state, *seq, &undo, &reference),
        Fact::OperatorRegistered { operator, .. } => state.operators_gone.push(operator.0),
        Fact::NodeKeyAdded { node, .. } if undo.node_key.is_none() => state.node_keys_gone.push(*node),
        Fact::Authorized { .. } | Fact::Revoked { .. } | Fact::Closed { .. } => {}
        Fact::PayoutChanged { .. } | Fact::NodeKeyAdded { .. } | Fact::NodeKeyRemoved { .. } => {}
    }
    for (account, before) in undo.payers.iter().rev() {
        state.payers.get_mut(&AccountId(*account)).into_iter().for_each(|payer| payer.facts = *before);
    }
    if let Some(before) = undo.operator {
        state.operators.put(OperatorId(before.operator), before);
    }
    if let Some(before) = undo.node_key {
        state.node_keys.put(before.node, before);
    }
    state.events.get_mut(&(event.block_hash, event.log_index)).into_iter().for_each(|row| row.applied = 0);
    Ok(())
}

fn unsettle(state: &mut State, seq: u64, undo: &Undo, reference: &[u8]) {
    let Some(booked) = &undo.settled else { return };
    for (operator, fee) in &booked.fees {
        let reference = [reference, &operator.to_be_bytes()].concat();
        state.transfer(TransferKind::Reversal, &reference, LedgerAccount::Fees, LedgerAccount::Settled(OperatorId(*operator)), *fee);
    }
    for row in booked.applied.iter().rev() {
        let operator = OperatorId(row.operator);
        let reference = [reference, &row.account.to_be_bytes(), &row.operator.to_be_bytes()].concat();
        state.transfer(
            TransferKind::Reversal,
            &reference,
            LedgerAccount::Settled(operator),
            LedgerAccount::Unsettled(operator),
            row.amount,
        );
        state.payers.get_mut(&AccountId(row.account)).into_iter().for_each(|payer| payer.unsettled += row.amount);
    }
    for row in booked.carries.iter().rev() {
        state.carries.put((AccountId(row.account), OperatorId(row.operator)), *row);
    }
    mark_batch(state, seq, BatchState::Signed, None);
}

/// An amount that the ledger must hold exactly.
fn stored(amount: u64) -> Result<i64, FactError> {
    i64::try_from(amount).map_err(|_| FactError::Amount { amount })
}

/// A limit, which above `i64::MAX` allows everything just the same.
fn clamped(limit: u64) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

fn to_json<T: Serialize>(value: &T) -> Result<String, LedgerError> {
    serde_json::to_string(value).map_err(|error| LedgerError::Row { table: "chain_events", reason: error.to_string() })
}

fn from_json<T: for<'de> Deserialize<'de>>(table: &'static str, text: &str) -> Result<T, LedgerError> {
    serde_json::from_str(text).map_err(|error| LedgerError::Row { table, reason: error.to_string() })
}
