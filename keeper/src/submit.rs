//! Signing and broadcasting within the caps. The nonce is the journal's: stored with the signed bytes, before they leave.
//!
//! Invariant of absence: no conclusion is drawn from an error text; whether a transaction was taken is looked up by its hash.

use alloy::primitives::{Address, U256};
use alloy::signers::local::PrivateKeySigner;
use thiserror::Error;

use crate::attempt::{Attempt, AttemptError, Call, Fees};
use crate::chain::{Chain, ChainError, Head};
use crate::config::GasConfig;
use crate::journal::{Journal, JournalBatch, JournalError};

const WEI_PER_GWEI: u128 = 1_000_000_000;
const DAY_S: u64 = 86_400;

/// Signs with one key, spends within one set of caps.
#[derive(Clone, Debug)]
pub struct Sender {
    chain: Chain,
    journal: Journal,
    signer: PrivateKeySigner,
    caps: GasConfig,
}

/// What became of a request to send.
#[derive(Debug)]
pub enum Submission {
    /// Stored in the journal, not broadcast yet.
    Stored(Attempt),
    /// A cap stands in the way.
    Held(Held),
}

/// Which cap stands in the way of a transaction. A person decides whether to raise it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Held {
    /// The market, or a higher bid, asks too much.
    #[error("gas costs {needed_wei} wei, gas.price_max_gwei allows {cap_wei} wei")]
    GasPrice {
        /// What it takes.
        needed_wei: u64,
        /// What the config allows.
        cap_wei: u64,
    },
    /// Too much gas for one transaction.
    #[error("the transaction needs {needed} gas, gas.limit_max allows {cap}; lower batch.rows_max")]
    GasLimit {
        /// What it takes.
        needed: u64,
        /// What the config allows.
        cap: u64,
    },
    /// The day's budget is spent.
    #[error("{spent_wei} wei were spent in 24 hours and this takes up to {needed_wei}; gas.spend_per_day_max_gwei allows {cap_wei} wei")]
    Spend {
        /// Spent so far.
        spent_wei: u128,
        /// What this one may cost.
        needed_wei: u128,
        /// What the config allows.
        cap_wei: u128,
    },
    /// The key is out of gas money.
    #[error("{keeper} holds {balance_wei} wei and this takes up to {needed_wei}; send it gas money")]
    Balance {
        /// Whose balance.
        keeper: Address,
        /// What is there.
        balance_wei: U256,
        /// What this one may cost.
        needed_wei: u128,
    },
}

impl Held {
    /// One word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::GasPrice { .. } => "gas_price",
            Self::GasLimit { .. } => "gas_limit",
            Self::Spend { .. } => "spend",
            Self::Balance { .. } => "balance",
        }
    }
}

impl Sender {
    /// Sends with `signer` within `caps`.
    pub fn new(chain: Chain, journal: Journal, signer: PrivateKeySigner, caps: GasConfig) -> Self {
        Self { chain, journal, signer, caps }
    }

    /// Who pays for gas.
    pub fn address(&self) -> Address {
        self.signer.address()
    }

    /// The gas limit for a call that surely takes at most `bound` and by the node's `estimate` so much: a quarter above
    /// the estimate, not below the bound, within the cap.
    pub fn gas_limit_up(&self, bound: u64, estimate: Option<u64>) -> u64 {
        let estimate = estimate.map_or(0, |gas| gas.saturating_add(gas.div_ceil(4)));
        estimate.max(bound.min(self.caps.limit_max))
    }

    /// Signs `call` and stores it; with `batch`, moves that to `sent` in the same commit. It outbids what waits at its nonce.
    pub async fn submit(&self, head: &Head, call: &Call, batch: Option<&JournalBatch>, now: u64) -> Result<Submission, SubmitError> {
        if call.gas_limit > self.caps.limit_max {
            return Ok(Submission::Held(Held::GasLimit { needed: call.gas_limit, cap: self.caps.limit_max }));
        }
        let nonce = self.next_nonce().await?;
        let rivals = self.journal.live_attempts(nonce).await?;
        let outbid = rivals.iter().filter(|rival| rival.nonce == nonce).map(Attempt::fees);
        let fees = match self.fees(head, outbid).await {
            Ok(fees) => fees,
            Err(held) => return Ok(Submission::Held(held)),
        };
        if let Some(held) = self.over_budget(call, fees, now).await? {
            return Ok(Submission::Held(held));
        }

        let attempt = Attempt::sign(call, (self.chain.deployment().chain_id, nonce), fees, &self.signer, now)?;
        self.journal.insert_attempt(&attempt, batch, now).await?;
        tracing::info!(hash = %attempt.hash, purpose = attempt.purpose.name(), nonce, max_fee_wei = attempt.max_fee_wei, "transaction stored");
        metrics::counter!("keeper_attempts_total", "purpose" => attempt.purpose.name()).increment(1);
        Ok(Submission::Stored(attempt))
    }

    /// Hands a stored transaction to the node; the same bytes as often as needed. `Err` holds the node's words, which prove nothing.
    pub async fn broadcast(&self, attempt: &Attempt) -> Result<(), ChainError> {
        let answer = self.chain.broadcast(&attempt.raw).await;
        match &answer {
            Ok(()) => tracing::info!(hash = %attempt.hash, nonce = attempt.nonce, "transaction broadcast"),
            Err(error) => tracing::warn!(hash = %attempt.hash, nonce = attempt.nonce, %error, "broadcast unclear"),
        }
        answer
    }

    /// The first nonce that neither the chain nor the journal knows as used.
    pub async fn next_nonce(&self) -> Result<u64, SubmitError> {
        Ok(self.chain.nonce(self.signer.address()).await?.max(self.journal.nonce_floor().await?))
    }

    /// Whether an attempt has waited long enough to be replaced.
    pub fn is_stuck(&self, attempt: &Attempt, now: u64) -> bool {
        now >= attempt.signed_at.saturating_add(self.caps.stuck_after_s)
    }

    async fn fees(&self, head: &Head, outbid: impl Iterator<Item = Fees>) -> Result<Fees, Held> {
        let tip = self.chain.priority_fee_wei().await.unwrap_or(0).max(self.caps.priority_fee_min_wei);
        let cap_wei = u64::try_from(u128::from(self.caps.price_max_gwei) * WEI_PER_GWEI).unwrap_or(u64::MAX);
        let needed_wei = head.base_fee_wei.saturating_add(tip);
        if needed_wei > cap_wei {
            return Err(Held::GasPrice { needed_wei, cap_wei });
        }
        let market = Fees::market(head.base_fee_wei, tip);
        let market = Fees { max_fee_wei: market.max_fee_wei.min(cap_wei), ..market };
        let fees = outbid.fold(market, Fees::outbidding_up);
        if fees.max_fee_wei > cap_wei { Err(Held::GasPrice { needed_wei: fees.max_fee_wei, cap_wei }) } else { Ok(fees) }
    }

    async fn over_budget(&self, call: &Call, fees: Fees, now: u64) -> Result<Option<Held>, SubmitError> {
        let needed_wei = u128::from(call.gas_limit) * u128::from(fees.max_fee_wei);
        let spent_wei = self.journal.spent_wei(now.saturating_sub(DAY_S)).await?;
        let cap_wei = u128::from(self.caps.spend_per_day_max_gwei) * WEI_PER_GWEI;
        if spent_wei.saturating_add(needed_wei) > cap_wei {
            return Ok(Some(Held::Spend { spent_wei, needed_wei, cap_wei }));
        }
        let balance_wei = self.chain.balance_wei(self.signer.address()).await?;
        metrics::gauge!("keeper_balance_wei").set(u128::try_from(balance_wei).unwrap_or(u128::MAX) as f64);
        let short = balance_wei < U256::from(needed_wei);
        Ok(short.then(|| Held::Balance { keeper: self.signer.address(), balance_wei, needed_wei }))
    }
}

/// Why nothing was stored.
#[derive(Debug, Error)]
pub enum SubmitError {
    /// The chain did not answer.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The journal did not take it.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The key refused.
    #[error(transparent)]
    Attempt(#[from] AttemptError),
}
