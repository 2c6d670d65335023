//! Why the ledger says no.

use alloy::primitives::B256;
use thiserror::Error;
use wire::settlement::SignedBatch;
use wire::{AccountId, AmountError, Credits};

use super::types::ReceiptState;

/// The ledger could not do its work; what was asked for may be asked for again under the same ids.
#[derive(Clone, Debug, Error)]
pub enum LedgerError {
    /// Not a URL that we know.
    #[error("`{url}` is no database URL of ours; use sqlite://PATH or postgres://HOST/NAME")]
    Url {
        /// What was given, without its secrets.
        url: String,
    },
    /// The database refused, is gone, or the outcome of a commit is unknown.
    #[error("the ledger's database failed: {reason}")]
    Database {
        /// What it said.
        reason: String,
    },
    /// The writer has stopped.
    #[error("the ledger is closed; the process is stopping")]
    Closed,
    /// A stored row can't be read.
    #[error("the ledger's {table} hold what this version can't read: {reason}")]
    Row {
        /// Where.
        table: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A sum that an account can't hold: a broken invariant, nothing was written.
    #[error("a movement of {amount} credits would take an account beyond what it can hold")]
    Overflow {
        /// The movement.
        amount: i64,
    },
    /// Another process uses the same instance id.
    #[error("instance `{instance}` was opened by another process; give each meter its own `instance`")]
    Fenced {
        /// The id.
        instance: String,
    },
    /// No such account.
    #[error("account {account} is not known; deposit or authorize first, and wait for its block to be deep enough")]
    UnknownAccount {
        /// Which.
        account: AccountId,
    },
}

/// Why a hold was not made, in the order of the checks (`docs/protocol.md`, section 8).
#[derive(Clone, Debug, Error)]
pub enum HoldRefusal {
    /// No live authorization.
    #[error("no live spending authorization; sign one with the wallet")]
    AuthorizationRequired {
        /// What could be spent under one.
        available: Credits,
        /// The worst case of the request.
        needed: Credits,
    },
    /// The payer was given a clearance that the vault may still take: nothing may be outstanding.
    #[error(
        "the account is being closed: a clearance stands until {until}, seconds since the epoch, and a block after that; wait, or sign a new authorization"
    )]
    Closing {
        /// The clearance's deadline.
        until: u64,
        /// What is available.
        available: Credits,
        /// The worst case of the request.
        needed: Credits,
    },
    /// Too few credits.
    #[error("{available} PRLX are available and {needed} are needed; deposit more, or ask for fewer tokens")]
    InsufficientCredits {
        /// What is available.
        available: Credits,
        /// The worst case of the request.
        needed: Credits,
    },
    /// Metered and unsettled would be too much.
    #[error("the authorization's exposure leaves {available} PRLX and {needed} are needed; wait for settlement, or sign a higher exposure")]
    ExposureExceeded {
        /// What the exposure leaves.
        available: Credits,
        /// The worst case of the request.
        needed: Credits,
    },
    /// The authorization is used up.
    #[error("the authorization's cap leaves {available} PRLX and {needed} are needed; sign a new authorization")]
    CapExceeded {
        /// What the cap leaves.
        available: Credits,
        /// The worst case of the request.
        needed: Credits,
    },
    /// The key is used up.
    #[error("the API key's limit leaves {available} PRLX and {needed} are needed; use another key, or make one with a higher limit")]
    KeyLimit {
        /// What the limit leaves.
        available: Credits,
        /// The worst case of the request.
        needed: Credits,
    },
    /// The request id is taken by another content.
    #[error("request {request_id} already has a hold of another content; mint a new id")]
    Conflict {
        /// The id.
        request_id: B256,
    },
    /// `worst_case` isn't what rate and tokens cost.
    #[error("a worst case of {given} was given where rate and tokens cost {cost}")]
    Misstated {
        /// As given.
        given: Credits,
        /// As it should be.
        cost: Credits,
    },
    /// The cost is beyond any account.
    #[error(transparent)]
    Amount(#[from] AmountError),
    /// Fail closed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Why a capture was not made.
#[derive(Clone, Debug, Error)]
pub enum CaptureError {
    /// No such hold.
    #[error("request {request_id} has no hold")]
    Unknown {
        /// The id.
        request_id: B256,
    },
    /// The hold went back to the payer.
    #[error("the hold of request {request_id} was released; nothing can be charged")]
    Released {
        /// The id.
        request_id: B256,
    },
    /// The charge would be above the hold.
    #[error("{amount} PRLX are above the hold of {held}")]
    AboveHold {
        /// The charge.
        amount: Credits,
        /// The hold.
        held: Credits,
    },
    /// The hold was captured by another receipt, for example by recovery after a crash.
    #[error("request {request_id} was captured before, by another receipt of {amount} PRLX")]
    Conflict {
        /// The id.
        request_id: B256,
        /// What that one charged.
        amount: Credits,
        /// Where that one stands.
        state: ReceiptState,
    },
    /// The receipt differs from the hold, or its amount from its counts.
    #[error("the receipt's {field} is not the hold's")]
    Mismatch {
        /// Which field.
        field: &'static str,
    },
    /// Fail closed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Why a signature was not attached.
#[derive(Clone, Debug, Error)]
pub enum AttachError {
    /// No such receipt.
    #[error("request {request_id} has no receipt")]
    Unknown {
        /// The id.
        request_id: B256,
    },
    /// Another receipt stands.
    #[error("the receipt's {field} is not the ledger's")]
    Mismatch {
        /// Which field.
        field: &'static str,
    },
    /// The receipt was refunded before.
    #[error("the receipt of request {request_id} was refunded; it came too late")]
    Refunded {
        /// The id.
        request_id: B256,
    },
    /// Fail closed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Why a batch was not signed.
#[derive(Debug, Error)]
pub enum CountersignError {
    /// Not the next one.
    #[error("batch {seq} is not the next one; propose {next_seq}")]
    Seq {
        /// As proposed.
        seq: u64,
        /// As the meter sees the chain.
        next_seq: u64,
    },
    /// Another content stands under this number.
    #[error("batch {} is signed with another content; relay that one", .standing.proposal.seq)]
    SeqTaken {
        /// The batch that stands.
        standing: Box<SignedBatch>,
    },
    /// Deadline in the past or too far.
    #[error("a deadline of {deadline} is not within {now} and {max}")]
    Deadline {
        /// As proposed.
        deadline: u64,
        /// The meter's clock.
        now: u64,
        /// The latest possible.
        max: u64,
    },
    /// None, too many, not ascending, or the same twice.
    #[error("a batch has 1 to {max} receipts or carries, the receipts ascending by request id; this one has {receipts} receipts")]
    Receipts {
        /// As proposed.
        receipts: usize,
        /// The limit.
        max: usize,
    },
    /// Not in the ledger, not signed, or in another batch.
    #[error("receipt {request_id} can't be batched: {reason}")]
    Receipt {
        /// The id.
        request_id: B256,
        /// Why.
        reason: &'static str,
    },
    /// A carry that the ledger doesn't have so.
    #[error("account {account} owes a carry of {ledger}, not of {proposed}")]
    Carry {
        /// Who pays.
        account: AccountId,
        /// As the ledger has it.
        ledger: Credits,
        /// As proposed.
        proposed: Credits,
    },
    /// More than the chain would debit.
    #[error("account {account} would be debited {amount}, and the chain allows {allowed}; leave receipts for a later batch")]
    AboveLimit {
        /// Who pays.
        account: AccountId,
        /// As proposed.
        amount: Credits,
        /// The least of exposure and limit.
        allowed: Credits,
    },
    /// Rows differ.
    #[error("the rows are not what the ledger makes of these receipts and carries")]
    Rows,
    /// Root differs.
    #[error("the receipts' root is {ledger}, not {proposed}")]
    Root {
        /// As the ledger has it.
        ledger: B256,
        /// As proposed.
        proposed: B256,
    },
    /// The signer refused.
    #[error("the settler's key did not sign: {reason}")]
    Signer {
        /// Why.
        reason: String,
    },
    /// Fail closed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}
