//! The loop: compare the chain, the journal and the feed, and do the one next thing. Every step may be repeated, and the
//! process may end between any two.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use thiserror::Error;
use wire::rows::RowsError;

use crate::attempt::{AttemptError, AttemptState};
use crate::batch::PlanError;
use crate::chain::{Chain, ChainError, Head};
use crate::config::Config;
use crate::feed::{FeedError, Meter};
use crate::journal::{Journal, JournalBatch, JournalError, NewBatch, State};
use crate::propose::{Draft, draft};
use crate::submit::{Held, Sender, SubmitError};

/// Steps in one round: a batch's whole way on a chain that mines at once is seven.
const STEPS_MAX: usize = 12;
/// Landed batches and transactions that are compared with the chain's blocks, newest first, until one still stands.
const UNWIND_MAX: u32 = 32;
/// A receipt that the meter refused alone is tried again after an hour.
const REFUSED_S: u64 = 3_600;
/// The meter's codes for a refusal of which some receipt is the cause.
const REFUSED_FOR_A_RECEIPT: [&str; 2] = ["invalid_receipts", "above_limit"];
/// Rest after a refusal.
const REFUSAL_REST_S: u64 = 30;

/// The daemon's one function and what it works with.
#[derive(Debug)]
pub struct Keeper {
    pub(crate) config: Config,
    pub(crate) chain: Chain,
    pub(crate) meter: Meter,
    pub(crate) journal: Journal,
    pub(crate) sender: Sender,
    // Halved after a refusal, so that the receipt that the meter does not agree with is found; lost on a restart, which only costs time.
    receipts_max: AtomicUsize,
    rest_until: AtomicU64,
}

/// The one next thing, done or not yet possible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Something moved.
    Moved {
        /// What.
        what: Moved,
        /// Which batch; zero for what is none's.
        seq: u64,
    },
    /// Nothing to do now, for this reason.
    Waits(String),
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is its own word")]
pub enum Moved {
    Planned,
    Adopted,
    Signed,
    DeadlinePassed,
    Sent,
    Broadcast,
    Mined,
    Final,
    LeftTheChain,
    Replaced,
    Quarantined,
    ClaimSent,
    CancelSent,
    ErrandDone,
}

impl Keeper {
    /// Puts the parts together; moves nothing.
    pub fn new(config: Config, chain: Chain, meter: Meter, journal: Journal, sender: Sender) -> Self {
        let receipts_max = AtomicUsize::new(config.batch.receipts_max);
        Self { config, chain, meter, journal, sender, receipts_max, rest_until: AtomicU64::new(0) }
    }

    /// Steps until nothing more can be done now. Errors as [`Keeper::step`]; what was done stays done.
    pub async fn round(&self, now: u64) -> Result<Vec<Step>, KeeperError> {
        let mut steps = Vec::new();
        while steps.len() < STEPS_MAX {
            let step = self.step(now).await?;
            let over = matches!(step, Step::Waits(_));
            steps.push(step);
            if over {
                break;
            }
        }
        Ok(steps)
    }

    /// Does the one next thing at `now`, seconds since the epoch. An error means that something is unknown: nothing is
    /// concluded from it, and the next round asks again.
    pub async fn step(&self, now: u64) -> Result<Step, KeeperError> {
        let head = self.chain.head().await?;
        metrics::gauge!("keeper_head_block").set(head.number as f64);
        metrics::gauge!("keeper_last_seq").set(head.last_seq as f64);
        let step = match self.unwind(now).await? {
            Some(step) => step,
            None => match self.journal.active().await? {
                Some(batch) => self.drive(&head, batch, now).await?,
                None => self.begin(&head, now).await?,
            },
        };
        match &step {
            Step::Moved { what, seq } => {
                metrics::counter!("keeper_steps_total", "step" => format!("{what:?}")).increment(1);
                tracing::info!(seq, step = ?what, "stepped");
            }
            Step::Waits(reason) => tracing::debug!(%reason, "waiting"),
        }
        Ok(step)
    }

    /// Takes back what left the chain, newest first: below one block that still stands, everything does.
    async fn unwind(&self, now: u64) -> Result<Option<Step>, KeeperError> {
        for attempt in self.journal.mined_attempts(UNWIND_MAX).await? {
            let (AttemptState::Mined(paid) | AttemptState::Reverted(paid)) = attempt.state else { break };
            match self.chain.block_hash(paid.block_number).await? {
                Some(hash) if hash != paid.block_hash => self.journal.set_attempt(attempt.hash, AttemptState::Live).await?,
                // No block there: the node is behind, and nothing is known.
                _ => break,
            }
        }
        let mut reopened = None;
        for batch in self.journal.landed(UNWIND_MAX).await? {
            let Some(landing) = batch.landing else { break };
            match self.chain.block_hash(landing.block_number).await? {
                Some(hash) if hash != landing.block_hash => {
                    let own = !self.journal.attempts_of(&batch, 1).await?.is_empty();
                    let state = if own { State::Sent } else { State::Signed };
                    let seq = batch.proposal.seq;
                    tracing::warn!(seq, block = landing.block_number, left = %landing.block_hash, stands = %hash, "settlement left the chain");
                    let after = JournalBatch { state, landing: None, outcome: None, ..batch.clone() };
                    self.journal.advance(&batch, after, now).await?;
                    reopened = Some(Step::Moved { what: Moved::LeftTheChain, seq });
                }
                _ => break,
            }
        }
        Ok(reopened)
    }

    /// Nothing is under way: relay what stands, else propose, else run errands.
    async fn begin(&self, head: &Head, now: u64) -> Result<Step, KeeperError> {
        let seq = head.last_seq + 1;
        if let Some(standing) = self.meter.standing(seq, now).await? {
            let groups = wire::rows::decode(&standing.proposal.rows)?;
            let amounts = self.planned_amounts(&groups, head).await?;
            let countersignature = Some((standing.signature, standing.settler));
            let new = NewBatch { proposal: standing.proposal, countersignature, amounts, from_block: head.number };
            self.journal.insert(&new, now).await?;
            return Ok(Step::Moved { what: Moved::Adopted, seq });
        }
        let why = match self.propose(head, seq, now).await? {
            Ok(step) => return Ok(step),
            Err(why) => why,
        };
        match self.errand(head, now).await? {
            Some(step) => Ok(step),
            None => Ok(Step::Waits(why)),
        }
    }

    async fn propose(&self, head: &Head, seq: u64, now: u64) -> Result<Result<Step, String>, KeeperError> {
        if now < self.rest_until.load(Ordering::Relaxed) {
            return Ok(Err("resting after the meter refused a batch".into()));
        }
        let feed = self.meter.feed(now).await?;
        if feed.next_seq != seq {
            return Ok(Err(format!("the meter expects seq {}, the chain {seq}: one of them is behind", feed.next_seq)));
        }
        let receipts_max = self.receipts_max.load(Ordering::Relaxed).min(self.config.batch.receipts_max);
        let refused = self.journal.refused_receipts(now.saturating_sub(REFUSED_S)).await?;
        let draft = draft(&self.chain, &self.config.batch, (head, &feed), (receipts_max, refused), now).await?;
        report_exclusions(&draft);
        metrics::gauge!("keeper_feed_receipts").set(feed.receipts.len() as f64);

        let Some(batch) = draft.batch else { return Ok(Err("nothing can be settled now".into())) };
        if !batch.is_due(self.config.batch.min_credits, self.config.batch.max_age_s, now) {
            return Ok(Err(format!("{} credits are not due yet", batch.total.get())));
        }
        if draft.debited == 0 {
            return Ok(Err("the vault would debit nothing of this batch; its windows are not over yet, or the accounts changed".into()));
        }
        if draft.debited < batch.total.get() {
            tracing::warn!(seq, total = batch.total.get(), debited = draft.debited, "rows will come out short");
        }
        let proposal = batch.proposal(seq, now + self.config.batch.deadline_s)?;
        let new = NewBatch { proposal, countersignature: None, amounts: batch.amounts, from_block: head.number };
        self.journal.insert(&new, now).await?;
        tracing::info!(seq, receipts = batch.receipts.len(), carries = batch.carries.len(), credits = batch.total.get(), "batch planned");
        Ok(Ok(Step::Moved { what: Moved::Planned, seq }))
    }

    /// What the next round would propose; moves nothing.
    pub async fn dry_run(&self, now: u64) -> Result<(u64, Draft), KeeperError> {
        let head = self.chain.head().await?;
        let feed = self.meter.feed(now).await?;
        let receipts_max = self.config.batch.receipts_max;
        let refused = self.journal.refused_receipts(now.saturating_sub(REFUSED_S)).await?;
        let draft = draft(&self.chain, &self.config.batch, (&head, &feed), (receipts_max, refused), now).await?;
        Ok((feed.next_seq, draft))
    }

    /// After a refusal: rest, and where it was about a receipt, halve the next proposal, or set the one receipt aside that
    /// was refused alone. What is about the moment (number, deadline, a chain view that differs) only rests.
    pub(crate) async fn narrow(&self, batch: &JournalBatch, code: &str, reason: &str, now: u64) -> Result<(), KeeperError> {
        self.rest_until.store(now + REFUSAL_REST_S, Ordering::Relaxed);
        if !REFUSED_FOR_A_RECEIPT.contains(&code) {
            return Ok(());
        }
        let receipts = &batch.proposal.receipts;
        let next = match receipts.as_slice() {
            [alone] => {
                self.journal.refuse_receipt(*alone, reason, now).await?;
                self.config.batch.receipts_max
            }
            _ => receipts.len().div_ceil(2).max(1),
        };
        self.receipts_max.store(next, Ordering::Relaxed);
        Ok(())
    }

    pub(crate) fn widen(&self) {
        let widened = self.receipts_max.load(Ordering::Relaxed).saturating_mul(2).min(self.config.batch.receipts_max);
        self.receipts_max.store(widened, Ordering::Relaxed);
    }
}

/// A cap stands in the way: said loudly, because only a person can raise it.
pub(crate) fn held(held: &Held) -> Step {
    metrics::counter!("keeper_held_total", "cap" => held.label()).increment(1);
    tracing::error!(reason = %held, "transaction held back");
    Step::Waits(held.to_string())
}

fn report_exclusions(draft: &Draft) {
    for (request_id, exclusion) in &draft.excluded {
        metrics::counter!("keeper_receipts_excluded_total", "reason" => exclusion.label()).increment(1);
        tracing::warn!(%request_id, reason = %exclusion, "receipt excluded");
    }
    for (operator, reason) in &draft.refused_operators {
        tracing::error!(%operator, %reason, "operator excluded: the vault refuses its rows");
    }
}

/// Why a round ended early. Nothing is concluded from it.
#[derive(Debug, Error)]
pub enum KeeperError {
    /// The chain is unknown.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The meter was of no use.
    #[error(transparent)]
    Feed(#[from] FeedError),
    /// The journal did not take it.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Nothing was sent.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// No batch can be made.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Rows can't be encoded or read.
    #[error(transparent)]
    Rows(#[from] RowsError),
    /// A stored transaction can't be read.
    #[error(transparent)]
    Attempt(#[from] AttemptError),
    /// The vault refuses the batch and none of its groups alone.
    #[error("the vault refuses the planned rows ({revert}) but none of its groups alone; is the deployment file right?")]
    Preflight {
        /// What it said.
        revert: String,
    },
    /// A transaction that should have settled says something else.
    #[error("transaction {tx_hash} succeeded without settling seq {seq}; the node's answers do not fit together")]
    Contradiction {
        /// Which transaction.
        tx_hash: wire::B256,
        /// Which batch.
        seq: u64,
    },
}
