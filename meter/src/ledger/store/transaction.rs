//! Loads all rows that a group of operations touches, in one order, so that several writers on one PostgreSQL can't wait for each
//! other in a circle: cursor, then payers by id, then what belongs to them. Writes what changed with one statement a table.

use std::collections::BTreeSet;

use alloy::primitives::{Address, B256};
use serde::Serialize;
use wire::{AccountId, OperatorId, rows};

use super::Connection;
use crate::ledger::decision::State;
use crate::ledger::error::LedgerError;
use crate::ledger::facts::{ChainEvent, Fact};
use crate::ledger::rows::{
    BatchRow, CarryRow, CursorRow, EventRow, HoldRow, KeyRow, NodeKeyRow, OperatorRow, PayerRow, QuarantineRow, ReceiptRow, TransferRow,
};

/// Blocks that are remembered, to find where a fork began.
pub(crate) const BLOCKS_KEPT: i64 = 256;

/// What a group of operations needs to see.
#[derive(Clone, Debug, Default)]
pub(crate) struct Touched {
    pub(crate) accounts: BTreeSet<u32>,
    pub(crate) requests: BTreeSet<B256>,
    pub(crate) keys: BTreeSet<String>,
    /// Whether quarantines are needed, of `nodes` and of the nodes of the receipts in `requests`.
    pub(crate) quarantines: bool,
    /// Whether the chain's rows are needed: cursor, carries, batches and what follows here.
    pub(crate) chain: bool,
    /// Whether the chain's time is needed, whatever the payers have.
    pub(crate) chain_time: bool,
    pub(crate) seqs: BTreeSet<u64>,
    pub(crate) block_hashes: BTreeSet<B256>,
    pub(crate) operators: BTreeSet<u32>,
    pub(crate) nodes: BTreeSet<Address>,
    /// Events above this height are to be undone.
    pub(crate) events_after: Option<u64>,
}

impl Touched {
    /// Adds what a chain event changes.
    pub(crate) fn add_event(&mut self, event: &ChainEvent) {
        self.chain = true;
        self.block_hashes.insert(event.block_hash);
        self.add_fact(&event.fact);
    }

    fn add_fact(&mut self, fact: &Fact) {
        match fact {
            Fact::AccountOpened { account, .. }
            | Fact::Deposited { account, .. }
            | Fact::Withdrawn { account, .. }
            | Fact::Authorized { account, .. }
            | Fact::Revoked { account, .. }
            | Fact::Closed { account } => self.accounts.extend([account.0]),
            Fact::Settled { seq, .. } => self.seqs.extend([*seq]),
            Fact::OperatorRegistered { operator, .. } | Fact::PayoutChanged { operator, .. } => self.operators.extend([operator.0]),
            Fact::NodeKeyAdded { node, .. } | Fact::NodeKeyRemoved { node, .. } => self.nodes.extend([*node]),
        }
    }

    /// Accounts of a batch's rows.
    fn add_batch(&mut self, batch: &BatchRow) -> Result<(), LedgerError> {
        let unreadable = |reason: String| LedgerError::Row { table: "batches", reason };
        let proposal: wire::settlement::BatchProposal =
            serde_json::from_str(&batch.proposal).map_err(|error| unreadable(error.to_string()))?;
        let groups = rows::decode(&proposal.rows).map_err(|error| unreadable(error.to_string()))?;
        self.accounts.extend(groups.iter().flat_map(|group| &group.rows).map(|row| row.account.0));
        Ok(())
    }
}

impl Connection {
    /// Reads what is touched, and on PostgreSQL locks it until the transaction ends.
    pub(crate) async fn load(&mut self, mut touched: Touched, now: u64, instance: &str) -> Result<State, LedgerError> {
        let mut state = State { now, instance: instance.to_owned(), ..State::default() };
        if touched.chain {
            self.load_chain(&mut state, &mut touched).await?;
        }
        let statements = self.statements();
        let (accounts, requests) = (json(&touched.accounts)?, bytes_json(touched.requests.iter())?);
        for row in self.rows::<PayerRow>(statements.load_payers, &[&accounts, &requests]).await? {
            state.payers.load(AccountId(row.account), row);
        }
        if touched.chain_time || state.payers.iter().any(|payer| payer.clearance.deadline > 0) {
            // Read after the payers are locked, and without a lock: a cursor moves on only after the payers that its blocks touch.
            let cursor = self.rows::<CursorRow>(statements.read_cursor, &[]).await?;
            state.chain_time = cursor.first().map_or(0, |cursor| cursor.timestamp.unsigned_abs());
        }
        if !touched.requests.is_empty() {
            for row in self.rows::<HoldRow>(statements.load_holds, &[&requests]).await? {
                state.holds.load(row.request_id, row);
            }
            for row in self.rows::<ReceiptRow>(statements.load_receipts, &[&requests]).await? {
                state.receipts.load(row.request_id, row);
            }
            for row in self.rows::<KeyRow>(statements.load_keys, &[&json(&touched.keys)?, &requests]).await? {
                state.keys.load(row.key.clone(), row);
            }
        }
        if touched.quarantines {
            let nodes = bytes_json(touched.nodes.iter())?;
            for row in self.rows::<QuarantineRow>(statements.load_quarantines, &[&nodes, &requests]).await? {
                state.quarantines.load(row.node, row);
            }
        }
        if touched.chain {
            let accounts = json(&state.payers.iter().map(|payer| payer.account).collect::<Vec<_>>())?;
            for row in self.rows::<CarryRow>(statements.load_carries, &[&accounts]).await? {
                state.carries.load((AccountId(row.account), OperatorId(row.operator)), row);
            }
        }
        Ok(state)
    }

    async fn load_chain(&mut self, state: &mut State, touched: &mut Touched) -> Result<(), LedgerError> {
        let statements = self.statements();
        for row in self.rows::<CursorRow>(statements.load_cursor, &[]).await? {
            state.cursor.load((), row);
        }
        if let Some(height) = touched.events_after {
            for row in self.rows::<EventRow>(statements.load_events_after, &[&height.to_string()]).await? {
                let fact = serde_json::from_str(&row.body);
                touched.add_fact(&fact.map_err(|error| LedgerError::Row { table: "chain_events", reason: error.to_string() })?);
                state.events.load((row.block_hash, row.log_index), row);
            }
        }
        let block_hashes = bytes_json(touched.block_hashes.iter())?;
        for row in self.rows::<EventRow>(statements.load_events, &[&block_hashes]).await? {
            state.events.load((row.block_hash, row.log_index), row);
        }
        for row in self.rows::<BatchRow>(statements.load_batches, &[&json(&touched.seqs)?]).await? {
            touched.add_batch(&row)?;
            state.batches.load(row.seq, row);
        }
        for row in self.rows::<OperatorRow>(statements.load_operators, &[&json(&touched.operators)?]).await? {
            state.operators.load(OperatorId(row.operator), row);
        }
        for row in self.rows::<NodeKeyRow>(statements.load_node_keys, &[&bytes_json(touched.nodes.iter())?]).await? {
            state.node_keys.load(row.node, row);
        }
        Ok(())
    }

    /// Writes what changed. The balances that all writers share come last, so that they are locked for the shortest time.
    pub(crate) async fn write(&mut self, state: &State) -> Result<(), LedgerError> {
        let statements = self.statements();
        self.put(statements.put_payers, state.payers.changed()).await?;
        self.put(statements.put_holds, state.holds.changed()).await?;
        self.put(statements.put_receipts, state.receipts.changed()).await?;
        self.put(statements.put_key_usage, state.keys.changed()).await?;
        self.put(statements.put_quarantines, state.quarantines.changed()).await?;
        if state.cursor.changed().next().is_some() || state.batches.changed().next().is_some() {
            self.write_chain(state).await?;
        }
        let transfers = state.transfers.iter().map(|transfer| TransferRow {
            source: transfer.source.code(),
            target: transfer.target.code(),
            amount: transfer.amount,
            kind: transfer.kind.as_str(),
            reference: &transfer.reference,
            created_at: state.now,
        });
        self.put(statements.put_transfers, transfers).await?;
        let deltas = state.deltas.iter().filter(|(_, amount)| **amount != 0);
        let deltas: Vec<Delta> = deltas.map(|(account, amount)| Delta { account: account.code(), amount: *amount }).collect();
        self.put(statements.open_balances, deltas.iter()).await?;
        self.put(statements.add_balances, deltas.iter()).await
    }

    async fn write_chain(&mut self, state: &State) -> Result<(), LedgerError> {
        let statements = self.statements();
        self.put(statements.put_carries, state.carries.changed()).await?;
        self.put(statements.put_batches, state.batches.changed()).await?;
        let places = state.assignments.iter().map(|place| Place {
            request_id: format!("\\x{:x}", place.request_id),
            leaf: format!("\\x{:x}", place.leaf),
            seq: place.seq,
        });
        self.put(statements.assign_receipts, places).await?;
        self.list(statements.settle_receipts, &state.settled).await?;
        self.list(statements.unsettle_receipts, &state.unsettled).await?;
        self.put(statements.put_chain_events, state.events.changed()).await?;
        self.put(statements.put_operators, state.operators.changed()).await?;
        self.put(statements.put_node_keys, state.node_keys.changed()).await?;
        self.list(statements.drop_operators, &state.operators_gone).await?;
        if !state.node_keys_gone.is_empty() {
            self.execute(statements.drop_node_keys, &[&bytes_json(state.node_keys_gone.iter())?]).await?;
        }
        if let Some(height) = state.blocks_after {
            self.execute(statements.drop_blocks_after, &[&height.to_string()]).await?;
        }
        self.put(statements.put_chain_blocks, state.blocks.iter()).await?;
        for cursor in state.cursor.changed() {
            self.put(statements.put_cursor, [cursor].into_iter()).await?;
            self.execute(statements.drop_blocks_before, &[&(cursor.number - BLOCKS_KEPT).to_string()]).await?;
        }
        Ok(())
    }

    async fn put<T: Serialize>(&mut self, sql: &'static str, rows: impl Iterator<Item = T>) -> Result<(), LedgerError> {
        self.list(sql, &rows.collect::<Vec<_>>()).await
    }

    async fn list<T: Serialize>(&mut self, sql: &'static str, list: &[T]) -> Result<(), LedgerError> {
        if !list.is_empty() {
            self.execute(sql, &[&json(&list)?]).await?;
        }
        Ok(())
    }
}

#[derive(Serialize)]
struct Delta {
    account: i64,
    amount: i64,
}

#[derive(Serialize)]
struct Place {
    request_id: String,
    leaf: String,
    seq: i64,
}

fn json<T: Serialize>(value: &T) -> Result<String, LedgerError> {
    serde_json::to_string(value).map_err(|error| LedgerError::Row { table: "parameters", reason: error.to_string() })
}

fn bytes_json<T: AsRef<[u8]>>(values: impl Iterator<Item = T>) -> Result<String, LedgerError> {
    json(&values.map(|value| format!("\\x{}", hex::encode(value))).collect::<Vec<_>>())
}
