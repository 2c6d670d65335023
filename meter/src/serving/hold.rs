//! The worst case of a request, reserved before anything is dispatched.

use wire::{AccountId, B256, Credits, ModelRate, message_cost_up};

use super::catalog::Model;
use crate::ledger::{HoldRefusal, HoldRequest, KeyId, Ledger};

/// How often a hold is sized anew when other requests of the same payer took what it was sized for.
const RESIZES_MAX: u32 = 3;

/// Who pays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payer {
    /// Account in the vault.
    pub account: AccountId,
    /// API key in use, if one is.
    pub key: Option<KeyId>,
    /// What that key may spend in all.
    pub key_limit: Option<Credits>,
}

/// How long an answer may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerLength {
    /// The client named it; at most what the context leaves.
    Named(u32),
    /// What the context leaves, or less when the payer can't cover that.
    UpTo(u32),
}

/// A reserved worst case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// Ceiling of the answer.
    pub max_tokens: u32,
    /// Whether credits, and not the client or the context, set that ceiling.
    pub clamped: bool,
    /// Rate in force, charged whatever comes after.
    pub rate: ModelRate,
}

/// What is held, apart from how long the answer may become.
pub struct HoldFor<'a> {
    /// Minted for this request.
    pub request_id: B256,
    /// Who pays.
    pub payer: &'a Payer,
    /// What is served.
    pub model: &'a Model,
    /// Its price now.
    pub rate: ModelRate,
    /// Tokens of the rendered prompt.
    pub prompt_tokens: u32,
    /// When recovery may settle it, seconds since the epoch.
    pub expires_at_s: u64,
}

/// Reserves the worst case; durable when it returns. Errors as the ledger refuses; nothing is held then.
pub async fn reserve(ledger: &Ledger, request: &HoldFor<'_>, length: AnswerLength) -> Result<Reservation, HoldRefusal> {
    let most = match length {
        AnswerLength::Named(max_tokens) => {
            hold(ledger, request, max_tokens).await?;
            return Ok(Reservation { max_tokens, clamped: false, rate: request.rate });
        }
        AnswerLength::UpTo(most) => most,
    };
    let mut resizes = 0;
    loop {
        let affordable = affordable_tokens(ledger, request).await?;
        let max_tokens = affordable.saturating_sub(u64::from(request.prompt_tokens)).clamp(1, u64::from(most)) as u32;
        match hold(ledger, request, max_tokens).await {
            Ok(()) => return Ok(Reservation { max_tokens, clamped: max_tokens < most, rate: request.rate }),
            Err(refusal) if max_tokens == 1 || resizes == RESIZES_MAX || !is_short(&refusal) => return Err(refusal),
            Err(_) => resizes += 1,
        }
    }
}

/// Most tokens that `credits` cover at `rate`, rounded down: the inverse of [`message_cost_up`].
pub fn tokens_covered_down(credits: Credits, rate: ModelRate) -> u64 {
    if rate.0 == 0 {
        return u64::MAX;
    }
    u64::try_from(u128::from(credits.get()) * 1_000_000 / u128::from(rate.0)).unwrap_or(u64::MAX)
}

async fn affordable_tokens(ledger: &Ledger, request: &HoldFor<'_>) -> Result<u64, HoldRefusal> {
    let mut spendable = ledger.credits(request.payer.account).await?.spendable;
    if let (Some(key), Some(limit)) = (&request.payer.key, request.payer.key_limit) {
        spendable = spendable.min(limit.saturating_sub(ledger.key_usage(key).await?));
    }
    Ok(tokens_covered_down(spendable, request.rate))
}

async fn hold(ledger: &Ledger, request: &HoldFor<'_>, max_tokens: u32) -> Result<(), HoldRefusal> {
    let worst_case = message_cost_up(request.rate, u64::from(request.prompt_tokens) + u64::from(max_tokens))?;
    let hold = HoldRequest {
        request_id: request.request_id,
        account: request.payer.account,
        key: request.payer.key.clone(),
        key_limit: request.payer.key_limit,
        model: request.model.id.clone(),
        rate: request.rate,
        prompt_tokens: request.prompt_tokens,
        max_tokens,
        worst_case,
        expires_at_s: request.expires_at_s,
    };
    let held = ledger.hold(hold).await?;
    // A hold that was there already belongs to a request that was served, or is being served: never twice under one hold.
    if held.replayed { Err(HoldRefusal::Conflict { request_id: request.request_id }) } else { Ok(()) }
}

fn is_short(refusal: &HoldRefusal) -> bool {
    use HoldRefusal::{CapExceeded, ExposureExceeded, InsufficientCredits, KeyLimit};
    matches!(refusal, InsufficientCredits { .. } | ExposureExceeded { .. } | CapExceeded { .. } | KeyLimit { .. })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn covered_tokens_are_the_most_that_credits_pay_for(credits in 0u64..1 << 50, rate in 1u64..1 << 40) {
            let credits = Credits::new(credits).unwrap();
            let tokens = tokens_covered_down(credits, ModelRate(rate));
            if let Ok(cost) = message_cost_up(ModelRate(rate), tokens) {
                prop_assert!(cost <= credits);
            }
            if let Ok(cost) = message_cost_up(ModelRate(rate), tokens.saturating_add(1)) {
                prop_assert!(cost > credits);
            }
        }
    }

    #[test]
    fn a_free_model_is_always_covered() {
        assert_eq!(tokens_covered_down(Credits::ZERO, ModelRate(0)), u64::MAX);
    }
}
