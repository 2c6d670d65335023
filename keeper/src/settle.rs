//! One batch on its way from `planned` to `final`.

use std::collections::{BTreeMap, BTreeSet};

use wire::rows::{self, Group};
use wire::{AccountId, Credits};

use crate::attempt::{AttemptState, Call, Paid, Purpose};
use crate::batch::{AccountState, OperatorAmount, row_amounts};
use crate::chain::{Head, Mined, Revert, Settled, Simulated, settle_gas_up, settle_input};
use crate::feed::Countersigned;
use crate::journal::{JournalBatch, Landing, Outcome, State};
use crate::reconcile::{Keeper, KeeperError, Moved, Step, held};
use crate::submit::Submission;

/// A batch is not sent when its deadline is nearer than this: it would land too late.
const DEADLINE_MARGIN_S: u64 = 15;
/// A fresh signature that the contract refuses is not asked for again at once.
const RESIGN_REST_S: u64 = 30;
/// Own hashes that are looked up; bids rise by an eighth, so there are fewer.
const ATTEMPTS_MAX: u32 = 64;
/// Blocks in one log query: what small providers allow.
const LOG_BLOCKS: u64 = 2_000;
/// A reorg may move a landing below the block at which the batch was decided.
const REORG_BLOCKS: u64 = 64;

impl Keeper {
    pub(crate) async fn drive(&self, head: &Head, batch: JournalBatch, now: u64) -> Result<Step, KeeperError> {
        if batch.state == State::Mined {
            return self.deepen(head, batch, now).await;
        }
        if let Some(step) = self.find_landing(head, &batch, now).await? {
            return Ok(step);
        }
        match batch.state {
            State::Planned => self.countersign(batch, now).await,
            State::Signed => self.send(head, batch, now).await,
            _ => self.watch(head, batch, now).await,
        }
    }

    /// Looks for the batch on the chain: by own hashes first, then, when the contract says that its number is used, by its event.
    async fn find_landing(&self, head: &Head, batch: &JournalBatch, now: u64) -> Result<Option<Step>, KeeperError> {
        for attempt in self.journal.attempts_of(batch, ATTEMPTS_MAX).await? {
            let Some(mined) = self.chain.mined(attempt.hash).await? else { continue };
            let paid = paid(&mined);
            if mined.success {
                self.journal.set_attempt(attempt.hash, AttemptState::Mined(paid)).await?;
                return self.landed(batch, &mined, now).await.map(Some);
            }
            if attempt.state != AttemptState::Reverted(paid) {
                tracing::warn!(seq = batch.proposal.seq, hash = %attempt.hash, "transaction reverted");
                self.journal.set_attempt(attempt.hash, AttemptState::Reverted(paid)).await?;
            }
        }
        if head.last_seq < batch.proposal.seq {
            return Ok(None);
        }
        let lowest = batch.from_block.saturating_sub(REORG_BLOCKS);
        let mut to = head.number;
        while to >= lowest {
            let from = to.saturating_sub(LOG_BLOCKS - 1).max(lowest);
            if let Some(tx_hash) = self.chain.settlement_of(batch.proposal.seq, from, to).await?
                && let Some(mined) = self.chain.mined(tx_hash).await?
            {
                return self.landed(batch, &mined, now).await.map(Some);
            }
            let Some(below) = from.checked_sub(1) else { break };
            to = below;
        }
        Ok(Some(Step::Waits(format!("seq {} is settled, but the node does not show the event yet", batch.proposal.seq))))
    }

    async fn landed(&self, batch: &JournalBatch, mined: &Mined, now: u64) -> Result<Step, KeeperError> {
        let seq = batch.proposal.seq;
        let contradiction = KeeperError::Contradiction { tx_hash: mined.tx_hash, seq };
        let settled = self.chain.settled(seq, mined).ok_or(contradiction)?;
        if settled.rows_hash != rows::hash(&batch.proposal.rows) || settled.receipts_root != batch.proposal.receipts_root {
            let note = format!("another content was settled by {}", mined.tx_hash);
            self.journal.advance(batch, JournalBatch { state: State::Replaced, note, ..batch.clone() }, now).await?;
            return Ok(Step::Moved { what: Moved::Replaced, seq });
        }
        let landing = Landing { tx_hash: mined.tx_hash, block_hash: mined.block_hash, block_number: mined.block_number };
        self.journal.advance(batch, JournalBatch { state: State::Mined, landing: Some(landing), ..batch.clone() }, now).await?;
        Ok(Step::Moved { what: Moved::Mined, seq })
    }

    /// `planned → signed`: the same content with a fresh deadline, as often as needed.
    async fn countersign(&self, batch: JournalBatch, now: u64) -> Result<Step, KeeperError> {
        let seq = batch.proposal.seq;
        let mut proposal = batch.proposal.clone();
        proposal.deadline = now + self.config.batch.deadline_s;
        let (after, what) = match self.meter.countersign(&proposal, now).await? {
            Countersigned::Signed(signed) => {
                self.widen();
                let countersignature = Some((signed.signature, signed.settler));
                let after = JournalBatch { state: State::Signed, proposal: signed.proposal, countersignature, ..batch.clone() };
                (after, Moved::Signed)
            }
            Countersigned::SeqTaken => {
                let note = "another batch stands for this seq".to_owned();
                (JournalBatch { state: State::Replaced, note, ..batch.clone() }, Moved::Replaced)
            }
            Countersigned::Refused { status, code, message } => {
                let note = format!("HTTP {status} {code}: {message}");
                tracing::error!(seq, reason = %note, "meter refused the batch");
                self.narrow(&batch, &code, &note, now).await?;
                (JournalBatch { state: State::Quarantined, note, ..batch.clone() }, Moved::Quarantined)
            }
        };
        self.journal.advance(&batch, after, now).await?;
        Ok(Step::Moved { what, seq })
    }

    /// `signed → sent`: simulate the exact call, sign, store.
    async fn send(&self, head: &Head, batch: JournalBatch, now: u64) -> Result<Step, KeeperError> {
        let seq = batch.proposal.seq;
        let grace_until = batch.created_at.saturating_add(self.config.batch.adopt_after_s);
        if batch.state == State::Signed && batch.adopted && now < grace_until {
            return Ok(Step::Waits(format!("seq {seq} is another keeper's to land until {grace_until}")));
        }
        let Some(signed) = batch.signed() else { return self.resign(batch, now).await };
        if now.saturating_add(DEADLINE_MARGIN_S) > batch.proposal.deadline {
            return self.resign(batch, now).await;
        }
        let groups = rows::decode(&batch.proposal.rows)?;
        if let Some(wait) = self.wait_for_windows(seq, &groups, head, now).await? {
            return Ok(wait);
        }
        let simulated = self.chain.simulate_settle(self.sender.address(), &signed, now.max(head.timestamp)).await?;
        let estimate = match simulated {
            Simulated::Passes(estimate) => estimate,
            Simulated::Reverts(Revert::Seq { expected }) => {
                return Ok(Step::Waits(format!("the contract expects seq {expected}, this batch is {seq}")));
            }
            Simulated::Reverts(Revert::Signature) if now >= batch.updated_at.saturating_add(RESIGN_REST_S) => {
                return self.resign(batch, now).await;
            }
            Simulated::Reverts(revert) => {
                metrics::counter!("keeper_simulation_reverts_total").increment(1);
                tracing::error!(seq, ?revert, settler = %signed.settler, "countersigned batch would revert");
                return Ok(Step::Waits(format!("seq {seq} would revert: {revert:?}")));
            }
        };
        let call = Call {
            purpose: Purpose::Settle,
            to: self.chain.deployment().settlement,
            input: settle_input(&signed),
            gas_limit: self.sender.gas_limit_up(settle_gas_up(&groups), estimate),
        };
        match self.sender.submit(head, &call, Some(&batch), now).await? {
            Submission::Stored(_) => Ok(Step::Moved { what: Moved::Sent, seq }),
            Submission::Held(cap) => Ok(held(&cap)),
        }
    }

    /// A deadline passed, or the settler changed: the same content, signed anew.
    async fn resign(&self, batch: JournalBatch, now: u64) -> Result<Step, KeeperError> {
        let after = JournalBatch { state: State::Planned, ..batch.clone() };
        self.journal.advance(&batch, after, now).await?;
        Ok(Step::Moved { what: Moved::DeadlinePassed, seq: batch.proposal.seq })
    }

    /// `sent`: make sure that the node has it, and outbid it when it is stuck.
    async fn watch(&self, head: &Head, batch: JournalBatch, now: u64) -> Result<Step, KeeperError> {
        let seq = batch.proposal.seq;
        if now > batch.proposal.deadline {
            return self.resign(batch, now).await;
        }
        let nonce = self.sender.next_nonce().await?;
        let attempts = self.journal.attempts_of(&batch, ATTEMPTS_MAX).await?;
        let Some(newest) = attempts.iter().find(|attempt| attempt.state == AttemptState::Live && attempt.nonce >= nonce) else {
            // Its nonce is used by something else: another transaction is needed.
            return self.send(head, batch, now).await;
        };
        if self.sender.is_stuck(newest, now) {
            tracing::warn!(seq, hash = %newest.hash, "transaction stuck");
            return self.send(head, batch, now).await;
        }
        if self.chain.knows(newest.hash).await? {
            return Ok(Step::Waits(format!("seq {seq} waits to be mined as {}", newest.hash)));
        }
        if let Some(wait) = self.wait_for_windows(seq, &rows::decode(&batch.proposal.rows)?, head, now).await? {
            return Ok(wait);
        }
        match self.sender.broadcast(newest).await {
            Ok(()) => Ok(Step::Moved { what: Moved::Broadcast, seq }),
            Err(error) => Ok(Step::Waits(format!("seq {seq}: {error}"))),
        }
    }

    /// `mined → final`: deep enough, and the events say what was applied.
    async fn deepen(&self, head: &Head, batch: JournalBatch, now: u64) -> Result<Step, KeeperError> {
        let seq = batch.proposal.seq;
        let Some(landing) = batch.landing else { return Ok(Step::Waits(format!("seq {seq} has no landing"))) };
        let depth = (head.number + 1).saturating_sub(landing.block_number);
        let confirmations = self.config.chain.confirmations;
        if depth < confirmations || head.last_seq < seq {
            return Ok(Step::Waits(format!("seq {seq} is {depth} of {confirmations} blocks deep")));
        }
        let mined = self.chain.mined(landing.tx_hash).await?.filter(|mined| mined.block_hash == landing.block_hash);
        let Some(mined) = mined else { return Ok(Step::Waits(format!("the node does not show {} any more", landing.tx_hash))) };
        let settled = self.chain.settled(seq, &mined).ok_or(KeeperError::Contradiction { tx_hash: mined.tx_hash, seq })?;
        let outcome = outcome(&batch.amounts, &settled);
        let sum: u64 = outcome.applied.iter().map(|amount| amount.credits.get()).sum();
        if sum != settled.debited {
            tracing::error!(seq, planned = sum, debited = settled.debited, "the chain's total differs from the journal's");
        }
        tracing::info!(seq, debited = settled.debited, fee = settled.fee, short = settled.short.len(), tx = %mined.tx_hash, "batch final");
        metrics::counter!("keeper_settled_credits_total").increment(settled.debited);
        metrics::gauge!("keeper_last_final_at").set(now as f64);
        let after = JournalBatch { state: State::Final, outcome: Some(outcome), ..batch.clone() };
        self.journal.advance(&batch, after, now).await?;
        Ok(Step::Moved { what: Moved::Final, seq })
    }

    /// Waits while an account in the rows was debited less than a window ago. Two batches that left the chain together come
    /// back one after the other, and the second one's rows would be skipped within the windows that the first one began.
    async fn wait_for_windows(&self, seq: u64, groups: &[Group], head: &Head, now: u64) -> Result<Option<Step>, KeeperError> {
        let accounts = self.accounts_in(groups, head).await?;
        let last_settled_at = accounts.values().map(|account| account.last_settled_at).max().unwrap_or(0);
        let opens_at = last_settled_at.saturating_add(self.chain.deployment().velocity_window);
        Ok((now < opens_at).then(|| Step::Waits(format!("seq {seq} has an account whose velocity window ends at {opens_at}"))))
    }

    pub(crate) async fn planned_amounts(&self, groups: &[Group], head: &Head) -> Result<Vec<OperatorAmount>, KeeperError> {
        Ok(row_amounts(groups, &self.accounts_in(groups, head).await?)?)
    }

    async fn accounts_in(&self, groups: &[Group], head: &Head) -> Result<BTreeMap<AccountId, AccountState>, KeeperError> {
        let ids: BTreeSet<AccountId> = groups.iter().flat_map(|group| &group.rows).map(|row| row.account).collect();
        Ok(self.chain.accounts(&Vec::from_iter(ids), head.number).await?)
    }
}

fn outcome(planned: &[OperatorAmount], settled: &Settled) -> Outcome {
    let applied = planned.iter().map(|amount| {
        let short = settled.short.get(&amount.operator).copied().unwrap_or(0);
        let short = Credits::new(short).unwrap_or(amount.credits);
        OperatorAmount { operator: amount.operator, credits: amount.credits.saturating_sub(short) }
    });
    Outcome { debited: settled.debited, fee: settled.fee, applied: applied.collect() }
}

/// What a mined transaction cost.
pub(crate) fn paid(mined: &Mined) -> Paid {
    Paid { block_hash: mined.block_hash, block_number: mined.block_number, gas_used: mined.gas_used, gas_price_wei: mined.gas_price_wei }
}
