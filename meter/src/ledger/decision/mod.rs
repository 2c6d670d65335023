//! The decision: touched rows and an operation in, an answer and changed rows out. No I/O, no clock; both stores and the tests use it.
//!
//! Invariants of every function here: an operation that is refused changes nothing; credits move only through [`State::transfer`], so
//! transfers and balances can't part; `available + held + unsettled − written_off = net_deposited − settled` for every payer; a payer
//! with a write-off has nothing available.

pub(crate) mod audit; // an audit ends, a node is quarantined, its receipts are disputed
pub(crate) mod batch; // a batch is signed
pub(crate) mod chain; // the chain's facts are applied and undone
pub(crate) mod clearance; // a payer is promised that nothing more is debited
pub(crate) mod request; // hold, capture, release and what happens to a receipt

use std::collections::BTreeMap;

use alloy::primitives::{Address, B256};
use wire::{AccountId, Credits, OperatorId};

use super::accounts::{LedgerAccount, Transfer, TransferKind};
use super::error::LedgerError;
use super::rows::{
    BatchRow, BlockRow, CarryRow, CursorRow, EventRow, HoldRow, KeyRow, NodeKeyRow, OperatorRow, PayerRow, QuarantineRow, ReceiptRow,
};

/// Rows of one table: those that were loaded, those that changed.
#[derive(Clone, Debug)]
pub(crate) struct Table<K, V> {
    rows: BTreeMap<K, (V, bool)>,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { rows: BTreeMap::new() }
    }
}

impl<K: Ord, V> Table<K, V> {
    /// Takes a row as the database has it.
    pub(crate) fn load(&mut self, key: K, row: V) {
        self.rows.insert(key, (row, false));
    }

    /// Reads a row.
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.rows.get(key).map(|(row, _)| row)
    }

    /// Writes to a row.
    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.rows.get_mut(key).map(|(row, changed)| {
            *changed = true;
            row
        })
    }

    /// Puts a new row, or another in its place.
    pub(crate) fn put(&mut self, key: K, row: V) {
        self.rows.insert(key, (row, true));
    }

    /// Rows to write.
    pub(crate) fn changed(&self) -> impl Iterator<Item = &V> {
        self.rows.values().filter(|(_, changed)| *changed).map(|(row, _)| row)
    }

    /// All rows.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &V> {
        self.rows.values().map(|(row, _)| row)
    }
}

/// A receipt's place in a new batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Assignment {
    /// Which receipt.
    pub(crate) request_id: B256,
    /// Its leaf.
    pub(crate) leaf: B256,
    /// The batch.
    pub(crate) seq: i64,
}

/// All rows that a group of operations touches, and what became of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// Seconds since the epoch.
    pub(crate) now: u64,
    /// Time of the newest block whose facts count, seconds since the epoch; zero before the first. Read when a payer that is touched was
    /// ever given a clearance, or asks for one.
    pub(crate) chain_time: u64,
    /// Who makes holds here.
    pub(crate) instance: String,
    pub(crate) payers: Table<AccountId, PayerRow>,
    pub(crate) keys: Table<String, KeyRow>,
    pub(crate) holds: Table<B256, HoldRow>,
    pub(crate) receipts: Table<B256, ReceiptRow>,
    pub(crate) carries: Table<(AccountId, OperatorId), CarryRow>,
    pub(crate) batches: Table<i64, BatchRow>,
    pub(crate) cursor: Table<(), CursorRow>,
    pub(crate) events: Table<(B256, i64), EventRow>,
    pub(crate) operators: Table<OperatorId, OperatorRow>,
    pub(crate) node_keys: Table<Address, NodeKeyRow>,
    pub(crate) quarantines: Table<Address, QuarantineRow>,
    /// Blocks to remember.
    pub(crate) blocks: Vec<BlockRow>,
    /// Blocks above this left the chain.
    pub(crate) blocks_after: Option<i64>,
    /// Operators to forget: the block that registered them left the chain.
    pub(crate) operators_gone: Vec<u32>,
    /// Node keys to forget, likewise.
    pub(crate) node_keys_gone: Vec<Address>,
    /// Receipts that go into a batch.
    pub(crate) assignments: Vec<Assignment>,
    /// Batches whose receipts are settled now, and those whose receipts are batched again.
    pub(crate) settled: Vec<i64>,
    pub(crate) unsettled: Vec<i64>,
    /// Movements to write, in order.
    pub(crate) transfers: Vec<Transfer>,
    /// Changes of the balances that are no payer's.
    pub(crate) deltas: BTreeMap<LedgerAccount, i64>,
    /// A broken invariant: nothing of this group may be written.
    pub(crate) broken: Option<LedgerError>,
}

impl State {
    /// Moves `amount` from `source` to `target`; nothing when it is zero. A movement that an account can't hold breaks the group.
    pub(crate) fn transfer(&mut self, kind: TransferKind, reference: &[u8], source: LedgerAccount, target: LedgerAccount, amount: i64) {
        if amount == 0 {
            return;
        }
        let moved = amount > 0 && self.add(source, -amount) && self.add(target, amount);
        if !moved {
            self.broken.get_or_insert(LedgerError::Overflow { amount });
        }
        self.transfers.push(Transfer { source, target, amount, kind, reference: reference.to_vec() });
    }

    /// Gives a payer `amount` from `source`; what was once written off for them is paid back first of all.
    pub(crate) fn credit_payer(&mut self, kind: TransferKind, reference: &[u8], source: LedgerAccount, account: AccountId, amount: i64) {
        self.transfer(kind, reference, source, LedgerAccount::Payer(account), amount);
        let Some(payer) = self.payers.get_mut(&account) else { return };
        let repaid = payer.written_off.min(payer.available);
        payer.written_off -= repaid;
        let reference = [kind.as_str().as_bytes(), reference].concat();
        self.transfer(TransferKind::Repayment, &reference, LedgerAccount::Payer(account), LedgerAccount::WriteOff, repaid);
    }

    /// Takes `amount` from a payer for `target`; what the payer lacks is written off.
    pub(crate) fn debit_payer(&mut self, kind: TransferKind, reference: &[u8], account: AccountId, target: LedgerAccount, amount: i64) {
        let Some(payer) = self.payers.get_mut(&account) else {
            self.broken.get_or_insert(LedgerError::UnknownAccount { account });
            return;
        };
        let short = amount.saturating_sub(payer.available).max(0);
        payer.written_off = payer.written_off.saturating_add(short);
        let short_reference = [kind.as_str().as_bytes(), reference].concat();
        self.transfer(TransferKind::Shortfall, &short_reference, LedgerAccount::WriteOff, LedgerAccount::Payer(account), short);
        self.transfer(kind, reference, LedgerAccount::Payer(account), target, amount);
    }

    fn add(&mut self, account: LedgerAccount, amount: i64) -> bool {
        let payer_balance = match account {
            LedgerAccount::Payer(id) => self.payers.get_mut(&id).map(|payer| &mut payer.available),
            LedgerAccount::Held(id) => self.payers.get_mut(&id).map(|payer| &mut payer.held),
            _ => return add_to(self.deltas.entry(account).or_default(), amount),
        };
        payer_balance.is_some_and(|balance| add_to(balance, amount) && *balance >= 0)
    }
}

fn add_to(balance: &mut i64, amount: i64) -> bool {
    balance.checked_add(amount).map(|sum| *balance = sum).is_some()
}

/// A stored amount as credits; negative room reads as none.
pub(crate) fn credits_or_zero(amount: i64) -> Credits {
    Credits::try_from(amount.max(0)).unwrap_or(Credits::ZERO)
}

/// Seconds as the database keeps them.
pub(crate) fn seconds(time: u64) -> i64 {
    i64::try_from(time).unwrap_or(i64::MAX)
}
