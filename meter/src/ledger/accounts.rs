//! Ledger accounts and the movements between them.

use std::fmt;

use wire::{AccountId, OperatorId};

/// One side of a movement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum LedgerAccount {
    /// What the chain holds for payers; negative by nature.
    Vault,
    /// A payer's credits that are neither held nor spent.
    Payer(AccountId),
    /// A payer's credits reserved for requests in flight.
    Held(AccountId),
    /// Charged for an operator's work, not yet on chain.
    Unsettled(OperatorId),
    /// Credited to an operator on chain.
    Settled(OperatorId),
    /// Credited to the project on chain.
    Fees,
    /// What payers took back that was spent already; negative by nature.
    WriteOff,
}

impl LedgerAccount {
    /// The number under which the database keeps it: kind × 2^32 + id.
    pub(crate) fn code(self) -> i64 {
        let (kind, id) = match self {
            Self::Vault => (1, 0),
            Self::Payer(account) => (2, account.0),
            Self::Held(account) => (3, account.0),
            Self::Unsettled(operator) => (4, operator.0),
            Self::Settled(operator) => (5, operator.0),
            Self::Fees => (6, 0),
            Self::WriteOff => (7, 0),
        };
        (kind << 32) | i64::from(id)
    }

    /// Reads [`LedgerAccount::code`] back. `None` for a number of no account.
    pub(crate) fn from_code(code: i64) -> Option<Self> {
        let id = u32::try_from(code & 0xffff_ffff).ok()?;
        Some(match code >> 32 {
            1 => Self::Vault,
            2 => Self::Payer(AccountId(id)),
            3 => Self::Held(AccountId(id)),
            4 => Self::Unsettled(OperatorId(id)),
            5 => Self::Settled(OperatorId(id)),
            6 => Self::Fees,
            7 => Self::WriteOff,
            _ => return None,
        })
    }
}

impl fmt::Display for LedgerAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vault => f.write_str("vault"),
            Self::Payer(account) => write!(f, "payer:{account}"),
            Self::Held(account) => write!(f, "held:{account}"),
            Self::Unsettled(operator) => write!(f, "unsettled:{operator}"),
            Self::Settled(operator) => write!(f, "settled:{operator}"),
            Self::Fees => f.write_str("fees"),
            Self::WriteOff => f.write_str("write_off"),
        }
    }
}

/// Why credits moved; with the reference, unique for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum TransferKind {
    /// `vault → payer`; reference: chain event.
    Deposit,
    /// `payer → vault`; reference: chain event.
    Withdrawal,
    /// `write_off → payer`, for what a withdrawal or a reversal took beyond the balance; reference: that of the movement.
    Shortfall,
    /// `payer → write_off`, as soon as credits come in again; reference: that of the movement.
    Repayment,
    /// `payer → held`; reference: request.
    Hold,
    /// `held → unsettled`; reference: request.
    Capture,
    /// `held → payer`; reference: request.
    Release,
    /// `unsettled → payer`; reference: request.
    Refund,
    /// `unsettled → settled`; reference: chain event, account, operator.
    Settle,
    /// `settled → fees`; reference: chain event, operator.
    Fee,
    /// The opposite of a movement whose block left the chain; reference: that of the movement.
    Reversal,
}

impl TransferKind {
    /// The word under which the database keeps it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Deposit => "deposit",
            Self::Withdrawal => "withdrawal",
            Self::Shortfall => "shortfall",
            Self::Repayment => "repayment",
            Self::Hold => "hold",
            Self::Capture => "capture",
            Self::Release => "release",
            Self::Refund => "refund",
            Self::Settle => "settle",
            Self::Fee => "fee",
            Self::Reversal => "reversal",
        }
    }
}

/// One movement, never changed once written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Transfer {
    /// From here.
    pub(crate) source: LedgerAccount,
    /// To there.
    pub(crate) target: LedgerAccount,
    /// Credits, above zero.
    pub(crate) amount: i64,
    /// Why.
    pub(crate) kind: TransferKind,
    /// Unique within the kind.
    pub(crate) reference: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_account_reads_back_from_its_code() {
        use LedgerAccount::*;
        let (account, operator) = (AccountId(u32::MAX), OperatorId(7));
        for ledger_account in
            [Vault, Payer(account), Held(AccountId(1)), Unsettled(operator), Settled(OperatorId(u32::MAX)), Fees, WriteOff]
        {
            assert_eq!(LedgerAccount::from_code(ledger_account.code()), Some(ledger_account));
        }
        assert_eq!(LedgerAccount::from_code(0), None);
        assert_eq!(LedgerAccount::from_code(-1), None);
        assert_eq!(LedgerAccount::from_code(8 << 32), None);
    }
}
