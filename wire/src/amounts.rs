//! Credits, rates and ids, with the rounding direction in every name (`docs/protocol.md`, section 1).

use std::fmt;
use std::str::FromStr;

use alloy::primitives::U256;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// One credit is this many wei of the 18-decimal PRLX.
pub const WEI_PER_CREDIT: u64 = 1_000_000_000;

/// Rates are per this many tokens.
const TOKENS_PER_RATE: u128 = 1_000_000;

const BPS_PER_ONE: u128 = 10_000;

/// An amount of money: 1 credit = 1 nano-PRLX = 10^9 wei. At most `i64::MAX`, so that the ledger can hold it signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Credits(u64);

impl Credits {
    /// No money.
    pub const ZERO: Self = Self(0);
    /// The most that any account, hold or batch can name.
    pub const MAX: Self = Self(i64::MAX as u64);

    /// Takes a count of credits. Errors above [`Credits::MAX`].
    pub const fn new(credits: u64) -> Result<Self, AmountError> {
        if credits > Self::MAX.0 { Err(AmountError::AboveMaximum { credits: credits as u128 }) } else { Ok(Self(credits)) }
    }

    /// Takes wei of the 18-decimal token. Errors when it is not a whole number of credits, or too much.
    pub fn from_wei_exact(wei: U256) -> Result<Self, AmountError> {
        let (credits, dust) = wei.div_rem(U256::from(WEI_PER_CREDIT));
        if !dust.is_zero() {
            return Err(AmountError::NotWholeCredits { wei });
        }
        let credits = u128::try_from(credits).unwrap_or(u128::MAX);
        u64::try_from(credits).ok().map_or(Err(AmountError::AboveMaximum { credits }), Self::new)
    }

    /// The count of credits.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The count of credits as the ledger stores it; exact, because [`Credits::MAX`] is `i64::MAX`.
    pub const fn as_i64(self) -> i64 {
        self.0 as i64
    }

    /// The same amount in wei; exact.
    pub fn to_wei(self) -> U256 {
        U256::from(self.0) * U256::from(WEI_PER_CREDIT)
    }

    /// Sum, or `None` above [`Credits::MAX`].
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).filter(|sum| *sum <= Self::MAX.0).map(Self)
    }

    /// Difference, or `None` below zero.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// Difference, zero where it would fall below.
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl TryFrom<i64> for Credits {
    type Error = AmountError;

    fn try_from(credits: i64) -> Result<Self, AmountError> {
        u64::try_from(credits).map(Self).map_err(|_| AmountError::Negative { credits })
    }
}

/// Writes decimal PRLX with trailing zeros cut: 5,680,000 credits are `0.00568`.
impl fmt::Display for Credits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) = (self.0 / WEI_PER_CREDIT, self.0 % WEI_PER_CREDIT);
        if fraction == 0 {
            return write!(f, "{whole}");
        }
        let digits = format!("{fraction:09}");
        write!(f, "{whole}.{}", digits.trim_end_matches('0'))
    }
}

/// Reads decimal PRLX, at most nine digits after the point: `0.00568` is 5,680,000 credits.
impl FromStr for Credits {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, AmountError> {
        let malformed = || AmountError::Malformed { text: text.chars().take(64).collect() };
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !all_digits(whole) || !all_digits(fraction) || fraction.len() > 9 {
            return Err(malformed());
        }
        let whole: u64 = whole.parse().map_err(|_| malformed())?;
        let fraction: u64 = format!("{fraction:0<9}").parse().map_err(|_| malformed())?;
        let credits = u128::from(whole) * u128::from(WEI_PER_CREDIT) + u128::from(fraction);
        u64::try_from(credits).ok().map_or(Err(AmountError::AboveMaximum { credits }), Self::new)
    }
}

/// Price of a model in credits per 1,000,000 tokens, prompt and completion alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ModelRate(pub u64);

/// A payer's id in the vault, at least 1, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AccountId(pub u32);

/// An operator's id in the registry, at least 1, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OperatorId(pub u32);

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for OperatorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What `tokens` cost at `rate`, rounded up to one credit. Errors above [`Credits::MAX`].
pub fn message_cost_up(rate: ModelRate, tokens: u64) -> Result<Credits, AmountError> {
    let credits = (u128::from(rate.0) * u128::from(tokens)).div_ceil(TOKENS_PER_RATE);
    u64::try_from(credits).ok().map_or(Err(AmountError::AboveMaximum { credits }), Credits::new)
}

/// The project's fee on one operator group of a batch, rounded down; the operator receives the rest. `bps` is at most 10,000.
pub fn fee_down(total: Credits, bps: u16) -> Credits {
    let bps = u128::from(bps).min(BPS_PER_ONE);
    let fee = u128::from(total.0) * bps / BPS_PER_ONE;
    // Exact: at most `total`.
    Credits(fee as u64)
}

/// Why a number is not an amount of credits.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AmountError {
    /// More than an `i64` of credits.
    #[error("{credits} credits are above the maximum of {} credits", Credits::MAX.0)]
    AboveMaximum {
        /// What was asked for.
        credits: u128,
    },
    /// Below zero.
    #[error("{credits} credits are below zero")]
    Negative {
        /// What was asked for.
        credits: i64,
    },
    /// Not a multiple of 10^9 wei.
    #[error("{wei} wei are not a whole number of credits; use a multiple of {WEI_PER_CREDIT} wei")]
    NotWholeCredits {
        /// What was asked for.
        wei: U256,
    },
    /// Not decimal PRLX.
    #[error("`{text}` is not an amount of PRLX; write digits with at most nine after the point, as in 0.00568")]
    Malformed {
        /// What was written, cut at 64 characters.
        text: String,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_design_example_costs_what_it_says() {
        let cost = message_cost_up(ModelRate(4_000_000_000), 1_420).unwrap();
        assert_eq!(cost.get(), 5_680_000);
        assert_eq!(cost.to_string(), "0.00568");
    }

    #[test]
    fn a_cost_rounds_up_and_a_fee_rounds_down() {
        assert_eq!(message_cost_up(ModelRate(1), 1).unwrap().get(), 1);
        assert_eq!(message_cost_up(ModelRate(1), 1_000_000).unwrap().get(), 1);
        assert_eq!(message_cost_up(ModelRate(1), 1_000_001).unwrap().get(), 2);
        assert_eq!(fee_down(Credits(9_999), 1).get(), 0);
        assert_eq!(fee_down(Credits(10_000), 1).get(), 1);
        assert_eq!(fee_down(Credits::MAX, 10_000), Credits::MAX);
    }

    #[test]
    fn a_cost_beyond_the_ledger_is_an_error_not_a_wrap() {
        assert!(matches!(message_cost_up(ModelRate(u64::MAX), u64::MAX), Err(AmountError::AboveMaximum { .. })));
        assert!(matches!(Credits::new(u64::MAX), Err(AmountError::AboveMaximum { .. })));
    }

    proptest! {
        #[test]
        fn decimal_text_round_trips(credits in 0..=Credits::MAX.0) {
            let amount = Credits(credits);
            prop_assert_eq!(amount.to_string().parse::<Credits>().unwrap(), amount);
            prop_assert_eq!(Credits::from_wei_exact(amount.to_wei()).unwrap(), amount);
        }

        #[test]
        fn parsing_any_text_never_panics(text in ".{0,40}") {
            let _ = text.parse::<Credits>();
        }

        #[test]
        fn a_cost_is_the_smallest_that_covers_the_rate(rate in 0u64..1 << 40, tokens in 0u64..1 << 24) {
            let cost = u128::from(message_cost_up(ModelRate(rate), tokens).unwrap().get());
            let exact = u128::from(rate) * u128::from(tokens);
            prop_assert!(cost * 1_000_000 >= exact);
            prop_assert!(cost == 0 || (cost - 1) * 1_000_000 < exact);
        }
    }
}
