//! What the next batch is: a pure function of feed, chain view, limits and time (`docs/protocol.md`, section 9).
//!
//! Invariants of absence: no I/O, no clock, no randomness, and no dependence on the order of the feed.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use wire::receipt::ServiceReceipt;
use wire::rows::{self, Group, Row, RowsError};
use wire::settlement::{BatchProposal, Carry};
use wire::{AccountId, B256, Credits, OperatorId, merkle};

/// What the vault says of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccountState {
    /// Total ever debited, credits.
    pub settled: u64,
    /// Ceiling of `settled`, credits.
    pub limit: u64,
    /// Most that one window can debit, credits.
    pub exposure: u64,
    /// When the account was last debited, seconds since the epoch.
    pub last_settled_at: u64,
    /// Last second of a possible debit.
    pub settle_deadline: u64,
}

/// What bounds a batch.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most rows.
    pub rows_max: usize,
    /// Most receipts.
    pub receipts_max: usize,
    /// Least time between two debits of one account, seconds.
    pub velocity_window_s: u64,
    /// An account that can be debited for less than this makes the batch urgent, seconds.
    pub urgent_s: u64,
}

/// Why an item is not in the batch although nothing is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Wait {
    /// The vault does not know the account, or its authorization is over.
    NotLive,
    /// The account was debited less than a window ago.
    Velocity,
    /// More than exposure or limit leave.
    Room,
    /// The batch is full.
    Full,
}

/// Credits that a batch gives to one operator, before the fee.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorAmount {
    /// Who is paid.
    pub operator: OperatorId,
    /// How much.
    pub credits: Credits,
}

/// A batch that fits the chain as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Operators ascending, accounts ascending inside.
    pub groups: Vec<Group>,
    /// Request ids inside, ascending.
    pub receipts: Vec<B256>,
    /// Carries inside, by operator, account, amount.
    pub carries: Vec<Carry>,
    /// Root over the receipts.
    pub receipts_root: B256,
    /// What each operator is given, before the fee.
    pub amounts: Vec<OperatorAmount>,
    /// Sum of all.
    pub total: Credits,
    /// When the oldest receipt inside was served.
    pub oldest_served_at: Option<u64>,
    /// Some account inside can't be debited for much longer.
    pub urgent: bool,
    /// How many items wait, by reason.
    pub waiting: BTreeMap<Wait, usize>,
}

impl Batch {
    /// What the meter is asked to sign. Errors as [`rows::encode`].
    pub fn proposal(&self, seq: u64, deadline: u64) -> Result<BatchProposal, RowsError> {
        Ok(BatchProposal {
            seq,
            receipts: self.receipts.clone(),
            carries: self.carries.clone(),
            rows: rows::encode(&self.groups)?.into(),
            receipts_root: self.receipts_root,
            deadline,
        })
    }

    /// Whether it is worth its gas now: large enough, old enough, or urgent.
    pub fn is_due(&self, min_credits: u64, max_age_s: u64, now: u64) -> bool {
        let old = self.oldest_served_at.is_some_and(|served_at| now.saturating_sub(served_at) >= max_age_s);
        self.urgent || old || self.total.get() >= min_credits
    }
}

/// One thing to settle, in the order in which things are taken: carries first, then receipts by age.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Item {
    Carry { operator: OperatorId, account: AccountId, amount: Credits },
    Receipt { served_at: u64, request_id: B256, operator: OperatorId, account: AccountId, amount: Credits },
}

impl Item {
    fn parts(&self) -> (OperatorId, AccountId, Credits) {
        match *self {
            Self::Carry { operator, account, amount } | Self::Receipt { operator, account, amount, .. } => (operator, account, amount),
        }
    }
}

/// Makes the batch of everything that fits; `leaf` is a receipt's Merkle leaf. `None` when no receipt fits now.
///
/// An item goes in whole or waits: receipts and carries are never split. An account's sum stays within `exposure` and
/// `limit - settled`, so that no row comes out short. Errors when sums leave 63 bits, which no honest feed does.
pub fn plan(
    receipts: &[ServiceReceipt],
    carries: &[Carry],
    accounts: &BTreeMap<AccountId, AccountState>,
    limits: &Limits,
    now: u64,
    leaf: impl Fn(&ServiceReceipt) -> B256,
) -> Result<Option<Batch>, PlanError> {
    let mut taken = Taken::default();
    for item in ordered(receipts, carries) {
        if let Err(wait) = taken.try_take(item, accounts, limits, now) {
            *taken.waiting.entry(wait).or_default() += 1;
        }
    }
    // A batch needs a root, and a root needs a receipt: carries ride with the next one.
    if taken.receipts.is_empty() {
        return Ok(None);
    }
    let groups = grouped(&taken.sums, accounts)?;
    let amounts = amounts(&taken.sums)?;
    let total = checked_sum(amounts.iter().map(|amount| amount.credits))?;
    let leaves: BTreeMap<B256, B256> =
        receipts.iter().filter(|r| taken.receipts.contains(&r.request_id)).map(|r| (r.request_id, leaf(r))).collect();
    let leaves: Vec<B256> = leaves.into_values().collect();
    Ok(Some(Batch {
        groups,
        receipts: taken.receipts.into_iter().collect(),
        carries: taken.carries,
        receipts_root: merkle::root(&leaves).unwrap_or_default(),
        amounts,
        total,
        oldest_served_at: taken.oldest_served_at,
        urgent: taken.urgent,
        waiting: taken.waiting,
    }))
}

/// What rows would give each operator if every one were applied whole. An account without an entry counts as never debited.
pub fn row_amounts(groups: &[Group], accounts: &BTreeMap<AccountId, AccountState>) -> Result<Vec<OperatorAmount>, PlanError> {
    let mut reached: BTreeMap<AccountId, u64> = BTreeMap::new();
    let mut sums = BTreeMap::new();
    for group in groups {
        for row in &group.rows {
            let settled = accounts.get(&row.account).map_or(0, |account| account.settled);
            let before = reached.insert(row.account, row.cumulative).unwrap_or(settled);
            let sum: &mut u64 = sums.entry((group.operator, row.account)).or_default();
            *sum = sum.checked_add(row.cumulative.saturating_sub(before)).ok_or(PlanError::Overflow)?;
        }
    }
    amounts(&sums)
}

#[derive(Default)]
struct Taken {
    sums: BTreeMap<(OperatorId, AccountId), u64>,
    by_account: BTreeMap<AccountId, u64>,
    receipts: BTreeSet<B256>,
    carries: Vec<Carry>,
    oldest_served_at: Option<u64>,
    urgent: bool,
    waiting: BTreeMap<Wait, usize>,
}

impl Taken {
    fn try_take(&mut self, item: Item, accounts: &BTreeMap<AccountId, AccountState>, limits: &Limits, now: u64) -> Result<(), Wait> {
        let (operator, account, amount) = item.parts();
        let state = accounts.get(&account).filter(|state| now <= state.settle_deadline).ok_or(Wait::NotLive)?;
        if now < state.last_settled_at.saturating_add(limits.velocity_window_s) {
            return Err(Wait::Velocity);
        }
        let room = state.exposure.min(state.limit.saturating_sub(state.settled));
        let sum = self.by_account.get(&account).copied().unwrap_or(0);
        let sum = sum.checked_add(amount.get()).filter(|sum| *sum <= room).ok_or(Wait::Room)?;
        let new_row = !self.sums.contains_key(&(operator, account));
        let is_receipt = matches!(item, Item::Receipt { .. });
        if (new_row && self.sums.len() >= limits.rows_max) || (is_receipt && self.receipts.len() >= limits.receipts_max) {
            return Err(Wait::Full);
        }

        self.by_account.insert(account, sum);
        *self.sums.entry((operator, account)).or_default() += amount.get();
        self.urgent |= state.settle_deadline - now < limits.urgent_s;
        match item {
            Item::Carry { .. } => self.carries.push(Carry { account, operator, amount }),
            Item::Receipt { served_at, request_id, .. } => {
                self.receipts.insert(request_id);
                self.oldest_served_at.get_or_insert(served_at);
            }
        }
        Ok(())
    }
}

fn ordered(receipts: &[ServiceReceipt], carries: &[Carry]) -> BTreeSet<Item> {
    let carries = carries.iter().map(|c| Item::Carry { operator: c.operator, account: c.account, amount: c.amount });
    let receipts = receipts.iter().map(|r| Item::Receipt {
        served_at: r.served_at,
        request_id: r.request_id,
        operator: r.operator,
        account: r.account,
        amount: r.amount,
    });
    // Nothing to debit needs no row.
    carries.chain(receipts).filter(|item| item.parts().2 > Credits::ZERO).collect()
}

fn grouped(sums: &BTreeMap<(OperatorId, AccountId), u64>, accounts: &BTreeMap<AccountId, AccountState>) -> Result<Vec<Group>, PlanError> {
    let mut reached: BTreeMap<AccountId, u64> = BTreeMap::new();
    let mut groups: Vec<Group> = Vec::new();
    for (&(operator, account), sum) in sums {
        let settled = accounts.get(&account).map_or(0, |state| state.settled);
        let reached = reached.entry(account).or_insert(settled);
        *reached = reached.checked_add(*sum).ok_or(PlanError::Overflow)?;
        let row = Row { account, cumulative: *reached };
        match groups.last_mut().filter(|group| group.operator == operator) {
            Some(group) => group.rows.push(row),
            None => groups.push(Group { operator, rows: vec![row] }),
        }
    }
    Ok(groups)
}

fn amounts(sums: &BTreeMap<(OperatorId, AccountId), u64>) -> Result<Vec<OperatorAmount>, PlanError> {
    let mut amounts: Vec<OperatorAmount> = Vec::new();
    for ((operator, _), sum) in sums {
        let credits = Credits::new(*sum).map_err(|_| PlanError::Overflow)?;
        match amounts.last_mut().filter(|amount| amount.operator == *operator) {
            Some(amount) => amount.credits = amount.credits.checked_add(credits).ok_or(PlanError::Overflow)?,
            None => amounts.push(OperatorAmount { operator: *operator, credits }),
        }
    }
    Ok(amounts)
}

fn checked_sum(mut credits: impl Iterator<Item = Credits>) -> Result<Credits, PlanError> {
    credits.try_fold(Credits::ZERO, Credits::checked_add).ok_or(PlanError::Overflow)
}

/// Why no batch can be made.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlanError {
    /// More money than there is.
    #[error("the batch's sums exceed {} credits; the feed or the chain view is wrong", Credits::MAX.get())]
    Overflow,
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
