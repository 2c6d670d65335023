//! What is done when no batch is under way: free a nonce that waits for nothing, and, where configured, pay operators out.

use crate::attempt::{Attempt, AttemptState, Call, Purpose};
use crate::chain::{Head, claim_input};
use crate::reconcile::{Keeper, KeeperError, Moved, Step, held};
use crate::settle::paid;
use crate::submit::Submission;

/// Gas of sending nothing to oneself.
const CANCEL_GAS: u64 = 21_000;
/// Gas that one operator's payout surely stays below: two cold slots, a first transfer to a fresh address, an event.
const CLAIM_GAS_PER_OPERATOR: u64 = 75_000;
const CLAIM_GAS_BASE: u64 = 80_000;

impl Keeper {
    /// The next errand; `None` when there is none.
    pub(crate) async fn errand(&self, head: &Head, now: u64) -> Result<Option<Step>, KeeperError> {
        for errand in self.journal.open_errands().await? {
            let Some(mined) = self.chain.mined(errand.hash).await? else { continue };
            let paid = paid(&mined);
            let state = if mined.success { AttemptState::Mined(paid) } else { AttemptState::Reverted(paid) };
            self.journal.set_attempt(errand.hash, state).await?;
            tracing::info!(hash = %errand.hash, purpose = errand.purpose.name(), success = mined.success, "errand done");
            return Ok(Some(Step::Moved { what: Moved::ErrandDone, seq: 0 }));
        }
        let nonce = self.sender.next_nonce().await?;
        let waiting = self.journal.live_attempts(nonce).await?;
        match waiting.iter().find(|attempt| attempt.nonce == nonce) {
            Some(dearest) => self.tend(head, dearest, now).await,
            None => self.claim(head, now).await,
        }
    }

    /// A transaction waits at the next nonce while no batch needs it.
    async fn tend(&self, head: &Head, attempt: &Attempt, now: u64) -> Result<Option<Step>, KeeperError> {
        let known = self.chain.knows(attempt.hash).await?;
        if attempt.purpose == Purpose::Settle {
            // Its batch landed otherwise, so it can only revert, and cost. Where the node dropped it the nonce is free.
            let cancel = Call { purpose: Purpose::Cancel, to: self.sender.address(), input: Default::default(), gas_limit: CANCEL_GAS };
            return if known { self.run_errand(head, &cancel, Moved::CancelSent, now).await } else { self.claim(head, now).await };
        }
        if self.sender.is_stuck(attempt, now) {
            let what = if attempt.purpose == Purpose::Claim { Moved::ClaimSent } else { Moved::CancelSent };
            return self.run_errand(head, &attempt.call()?, what, now).await;
        }
        if known {
            return Ok(Some(Step::Waits(format!("{} waits to be mined as {}", attempt.purpose.name(), attempt.hash))));
        }
        Ok(Some(match self.sender.broadcast(attempt).await {
            Ok(()) => Step::Moved { what: Moved::Broadcast, seq: 0 },
            Err(error) => Step::Waits(error.to_string()),
        }))
    }

    async fn claim(&self, head: &Head, now: u64) -> Result<Option<Step>, KeeperError> {
        if self.config.claim_operators.is_empty() {
            return Ok(None);
        }
        let claimable = self.chain.claimable(&self.config.claim_operators, head.number).await?;
        let operators: Vec<_> = claimable.iter().filter(|(_, credits)| **credits > 0).map(|(operator, _)| *operator).collect();
        let sum: u128 = claimable.values().map(|credits| u128::from(*credits)).sum();
        if operators.is_empty() || sum < u128::from(self.config.claim_min_credits) {
            return Ok(None);
        }
        let (to, input) = (self.chain.deployment().credits, claim_input(&operators));
        let estimate = self.chain.estimate(self.sender.address(), to, &input).await?;
        let bound = CLAIM_GAS_BASE + CLAIM_GAS_PER_OPERATOR * operators.len() as u64;
        let gas_limit = self.sender.gas_limit_up(bound, Some(estimate));
        let call = Call { purpose: Purpose::Claim, to, input, gas_limit };
        self.run_errand(head, &call, Moved::ClaimSent, now).await
    }

    async fn run_errand(&self, head: &Head, call: &Call, what: Moved, now: u64) -> Result<Option<Step>, KeeperError> {
        Ok(Some(match self.sender.submit(head, call, None, now).await? {
            Submission::Stored(_) => Step::Moved { what, seq: 0 },
            Submission::Held(cap) => held(&cap),
        }))
    }
}
