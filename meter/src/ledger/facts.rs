//! What the chain says, as the ledger takes it in: one fact per event of our contracts (`docs/protocol.md`, section 3).

use alloy::primitives::{Address, B256};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use wire::{AccountId, OperatorId};

use super::error::LedgerError;
use super::rows::BlockRow;

/// A fact and where it stands on the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainEvent {
    /// Its block.
    pub block_number: u64,
    /// Its block.
    pub block_hash: B256,
    /// Its block's time, seconds since the epoch.
    pub timestamp: u64,
    /// Its transaction.
    pub transaction: B256,
    /// Its place in the block.
    pub log_index: u64,
    /// What happened.
    pub fact: Fact,
}

impl ChainEvent {
    /// What no other event of this chain has.
    pub(crate) fn key(&self) -> (B256, i64) {
        (self.block_hash, i64::try_from(self.log_index).unwrap_or(i64::MAX))
    }
}

/// What happened, amounts in credits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub enum Fact {
    /// A wallet got an account.
    AccountOpened { account: AccountId, wallet: Address },
    /// Credits came in.
    Deposited { account: AccountId, amount: u64, net_deposited: u64 },
    /// Credits went out.
    Withdrawn { account: AccountId, amount: u64, net_deposited: u64 },
    /// Spending was authorized.
    Authorized { account: AccountId, authorized_cum: u64, exposure: u64, settle_deadline: u64, valid_until: u64, nonce: u32 },
    /// Spending was ended.
    Revoked { account: AccountId, authorized_cum: u64, settle_deadline: u64, nonce: u32 },
    /// Spending was ended at once, with nothing outstanding.
    Closed { account: AccountId },
    /// A batch was debited.
    Settled { seq: u64, receipts_root: B256, rows_hash: B256, debited: u64, fee: u64, fee_bps: u16, shorts: Vec<Short> },
    /// An operator came.
    OperatorRegistered { operator: OperatorId, owner: Address, payout: Address },
    /// An operator is paid elsewhere.
    PayoutChanged { operator: OperatorId, payout: Address },
    /// A key signs for an operator.
    NodeKeyAdded { operator: OperatorId, node: Address },
    /// A key signs no more.
    NodeKeyRemoved { operator: OperatorId, node: Address },
}

/// A row that debited less than it asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Short {
    /// Who pays.
    pub account: AccountId,
    /// Who is paid.
    pub operator: OperatorId,
    /// What was debited.
    pub applied: u64,
}

/// Which contracts on which chain; a ledger follows one vault for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainOrigin {
    /// The chain.
    pub chain_id: u64,
    /// The vault on it.
    pub vault: Address,
}

/// A block of the chain, by number and hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainPoint {
    /// Its height.
    pub number: u64,
    /// Its hash.
    pub hash: B256,
    /// Its time, seconds since the epoch.
    pub timestamp: u64,
}

/// Facts of the blocks after `from`, up to and with `to`.
#[derive(Clone, Debug)]
pub struct Advance {
    /// Which contracts.
    pub origin: ChainOrigin,
    /// Where the mirror stands; `None` before the first time.
    pub from: Option<ChainPoint>,
    /// Where it stands afterwards.
    pub to: ChainPoint,
    /// The last of the blocks, ascending.
    pub blocks: Vec<BlockRow>,
    /// The events in them, in the chain's order.
    pub events: Vec<ChainEvent>,
}

/// How the mirror's step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stepped {
    /// It was done; so many events.
    Done(usize),
    /// Another meter on the same database was quicker; look again.
    Stale,
}

/// Why facts don't fit the books: nothing was applied, a person must look.
#[derive(Clone, Debug, Error)]
pub enum FactError {
    /// The database follows other contracts.
    #[error("the ledger follows chain {} and vault {}, not chain {} and vault {}; use another database", .stored.chain_id, .stored.vault, .given.chain_id, .given.vault)]
    Origin {
        /// As stored.
        stored: ChainOrigin,
        /// As configured.
        given: ChainOrigin,
    },
    /// An event of an account that was never opened: events are missing.
    #[error("an event of account {account} came before the one that opened it; the endpoint leaves out events")]
    UnopenedAccount {
        /// Which.
        account: AccountId,
    },
    /// An account id went to another wallet while the old one's money is in the books.
    #[error("account {account} was opened for {old} before a reorg and for {new} after it, with credits in between")]
    Reassigned {
        /// Which.
        account: AccountId,
        /// Wallet in the books.
        old: Address,
        /// Wallet on the chain.
        new: Address,
    },
    /// The event's own total differs: events are missing.
    #[error("account {account} should have {ledger} credits deposited in all, and the chain says {chain}; the endpoint leaves out events")]
    NetDeposited {
        /// Which.
        account: AccountId,
        /// As the books have it.
        ledger: i64,
        /// As the event has it.
        chain: u64,
    },
    /// An amount beyond the ledger.
    #[error("{amount} credits are more than the ledger can hold")]
    Amount {
        /// As the event has it.
        amount: u64,
    },
    /// A batch out of turn.
    #[error("batch {seq} was settled, and {expected} was expected; the endpoint leaves out events")]
    Seq {
        /// As the event has it.
        seq: u64,
        /// As the books have it.
        expected: u64,
    },
    /// A batch that was not signed here, or another content.
    #[error("batch {seq} on chain is not the one signed here; suspend the settler")]
    ForeignBatch {
        /// Which.
        seq: u64,
    },
    /// The events don't add up to what the batch says it debited.
    #[error("batch {seq} debited {chain} with a fee of {chain_fee}, and its rows make {ledger} with {ledger_fee}")]
    BatchTotals {
        /// Which.
        seq: u64,
        /// As the rows make it.
        ledger: u64,
        /// As the event has it.
        chain: u64,
        /// As the rows make it.
        ledger_fee: u64,
        /// As the event has it.
        chain_fee: u64,
    },
    /// A row debited more than the books say is owed.
    #[error("batch {seq} debited {applied} from account {account} for operator {operator}, and {owed} was owed")]
    Overdebit {
        /// Which.
        seq: u64,
        /// Who paid.
        account: AccountId,
        /// Who was paid.
        operator: OperatorId,
        /// What was debited.
        applied: u64,
        /// What was owed.
        owed: i64,
    },
    /// An event of a key that was never added.
    #[error("node key {node} was removed before it was added; the endpoint leaves out events")]
    UnknownNodeKey {
        /// Which.
        node: Address,
    },
    /// Fail closed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}
