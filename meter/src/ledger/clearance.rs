//! A closure at once: what the settler promises to a payer who owes nothing (`docs/protocol.md`, section 8.2).

use thiserror::Error;
use wire::{AccountId, Credits};

use super::error::LedgerError;

/// The promise that nothing more than `settled` is debited; durable, and still to be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clearance {
    /// Whose account may be closed.
    pub account: AccountId,
    /// What was debited on chain, over all time.
    pub settled: Credits,
    /// The account's next nonce: a new authorization or a revocation outdates the promise.
    pub auth_nonce: u32,
    /// Last second at which the vault takes it, seconds since the epoch, by the chain's clock.
    pub deadline: u64,
}

/// Why no clearance was given; nothing was changed.
#[derive(Clone, Debug, Error)]
pub enum ClearanceRefusal {
    /// No authorization is in force on chain, so the vault keeps nothing back.
    #[error("no spending authorization is in force, so nothing is kept back; withdraw everything, no closure is needed")]
    NothingKept,
    /// Requests are running, or their charges are not on chain and deep enough.
    #[error(
        "{held} PRLX are held for running requests and {unsettled} PRLX are charged and not settled; let them end and be settled, then ask again"
    )]
    Outstanding {
        /// Reserved for requests in flight.
        held: Credits,
        /// Charged, not yet on chain.
        unsettled: Credits,
    },
    /// Blocks left the chain since the last clearance was given, and may come back with what it was given for.
    #[error(
        "the chain went back behind the last clearance, which may be used until {until}, seconds since the epoch; ask again after that"
    )]
    Standing {
        /// The last clearance's deadline.
        until: u64,
    },
    /// Fail closed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}
