//! What the next batch would be: feed and chain are read, everything is checked, nothing is moved.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use wire::merkle::receipt_leaf;
use wire::settlement::{BatchProposal, Feed};
use wire::{AccountId, B256, OperatorId};

use crate::batch::{self, Batch, Limits, OperatorAmount, Wait};
use crate::chain::{Chain, Head, Simulated};
use crate::config::BatchConfig;
use crate::reconcile::KeeperError;
use crate::verify::{Exclusion, Known, Verified, verify};

/// What a look at feed and chain comes to.
#[derive(Debug)]
pub struct Draft {
    /// The next batch; `None` when nothing can be settled now.
    pub batch: Option<Batch>,
    /// Receipts set aside, and why.
    pub excluded: Vec<(B256, Exclusion)>,
    /// Operators whose rows the vault would refuse, and why.
    pub refused_operators: Vec<(OperatorId, String)>,
    /// Credits that the vault would debit, by its own word; below the batch's total when rows would come out short.
    pub debited: u64,
}

/// The draft as `settle --dry-run` prints it.
#[derive(Debug, Serialize)]
pub struct DraftView {
    /// Sequence number it would have.
    pub seq: u64,
    /// Whether a round would propose it now.
    pub due: bool,
    /// What the meter would be asked to sign.
    pub proposal: Option<BatchProposal>,
    /// Credits per operator before the fee.
    pub operators: Vec<OperatorAmount>,
    /// Credits in all.
    pub total_credits: u64,
    /// Credits that the vault would debit.
    pub debited_credits: u64,
    /// How many items wait, by reason.
    pub waiting: BTreeMap<Wait, usize>,
    /// Receipts set aside, and why.
    pub excluded: Vec<(B256, String)>,
    /// Operators set aside, and why.
    pub refused_operators: Vec<(OperatorId, String)>,
}

/// Drafts the next batch from `feed` at `head`; `refused` receipts are left out, at most `receipts_max` are taken.
pub async fn draft(
    chain: &Chain,
    config: &BatchConfig,
    (head, feed): (&Head, &Feed),
    (receipts_max, refused): (usize, Vec<(B256, String)>),
    now: u64,
) -> Result<Draft, KeeperError> {
    let known = known(chain, feed, head.number).await?;
    let domain = chain.deployment().settlement_domain();
    let Verified { mut receipts, mut carries, mut excluded } = verify(feed, &known, &domain, now);
    let refused: BTreeMap<B256, String> = refused.into_iter().collect();
    receipts.retain(|receipt| match refused.get(&receipt.request_id) {
        Some(reason) => {
            excluded.push((receipt.request_id, Exclusion::Refused { reason: reason.clone() }));
            false
        }
        None => true,
    });

    let accounts: BTreeSet<AccountId> = receipts.iter().map(|r| r.account).chain(carries.iter().map(|c| c.account)).collect();
    let accounts = chain.accounts(&Vec::from_iter(accounts), head.number).await?;
    let limits = Limits {
        rows_max: config.rows_max,
        receipts_max,
        velocity_window_s: chain.deployment().velocity_window,
        urgent_s: config.urgent_s,
    };
    let leaf = |receipt: &wire::receipt::ServiceReceipt| receipt_leaf(receipt.digest(&domain));
    let mut refused_operators = Vec::new();
    loop {
        let batch = batch::plan(&receipts, &carries, &accounts, &limits, now, leaf)?;
        let Some(batch) = batch else { return Ok(Draft { batch, excluded, refused_operators, debited: 0 }) };
        let proposal = batch.proposal(feed.next_seq, 0)?;
        match chain.preflight(proposal.seq, &proposal.rows, now).await? {
            Simulated::Passes(debited) => return Ok(Draft { batch: Some(batch), excluded, refused_operators, debited }),
            Simulated::Reverts(revert) => {
                let poisoned = poisoned(chain, &batch, feed.next_seq, now).await?;
                if poisoned.is_empty() {
                    return Err(KeeperError::Preflight { revert: format!("{revert:?}") });
                }
                receipts.retain(|receipt| !poisoned.contains_key(&receipt.operator));
                carries.retain(|carry| !poisoned.contains_key(&carry.operator));
                refused_operators.extend(poisoned);
            }
        }
    }
}

/// Operators whose group alone makes the vault refuse.
async fn poisoned(chain: &Chain, batch: &Batch, seq: u64, now: u64) -> Result<BTreeMap<OperatorId, String>, KeeperError> {
    let mut poisoned = BTreeMap::new();
    for group in &batch.groups {
        let rows = wire::rows::encode(std::slice::from_ref(group))?.into();
        if let Simulated::Reverts(revert) = chain.preflight(seq, &rows, now).await? {
            poisoned.insert(group.operator, format!("{revert:?}"));
        }
    }
    Ok(poisoned)
}

async fn known(chain: &Chain, feed: &Feed, block: u64) -> Result<Known, KeeperError> {
    let operators: BTreeSet<OperatorId> =
        feed.receipts.iter().map(|signed| signed.receipt.operator).chain(feed.carries.iter().map(|carry| carry.operator)).collect();
    let payable = chain.claimable(&Vec::from_iter(operators), block).await?.into_keys().collect();
    let keys: BTreeSet<_> = feed.receipts.iter().map(|signed| signed.node).collect();
    let mut nodes = BTreeMap::new();
    for key in keys {
        if let Some(owner) = chain.node_owner(key, block).await? {
            nodes.insert(key, owner);
        }
    }
    Ok(Known { nodes, payable })
}

impl Draft {
    /// For people and scripts.
    pub fn view(&self, seq: u64, config: &BatchConfig, now: u64) -> Result<DraftView, KeeperError> {
        let batch = self.batch.as_ref();
        Ok(DraftView {
            seq,
            due: batch.is_some_and(|batch| batch.is_due(config.min_credits, config.max_age_s, now)),
            proposal: batch.map(|batch| batch.proposal(seq, now + config.deadline_s)).transpose()?,
            operators: batch.map(|batch| batch.amounts.clone()).unwrap_or_default(),
            total_credits: batch.map_or(0, |batch| batch.total.get()),
            debited_credits: self.debited,
            waiting: batch.map(|batch| batch.waiting.clone()).unwrap_or_default(),
            excluded: self.excluded.iter().map(|(id, exclusion)| (*id, exclusion.to_string())).collect(),
            refused_operators: self.refused_operators.clone(),
        })
    }
}
