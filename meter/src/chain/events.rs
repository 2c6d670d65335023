//! Logs of our contracts, read as facts (`docs/protocol.md`, section 3). Events that no fact comes from are skipped.

use alloy::primitives::B256;
use alloy::sol_types::SolEvent;
use wire::contracts::{Credits, Registry, Settlement};
use wire::deployment::Deployment;
use wire::{AccountId, OperatorId};

use super::MirrorError;
use super::rpc::PlacedLog;
use crate::ledger::{Fact, Short};

/// Reads logs in order. A batch is one fact: its short rows and totals come from the vault, earlier in the same transaction.
pub(super) struct Reading<'a> {
    deployment: &'a Deployment,
    transaction: B256,
    shorts: Vec<(u64, Short)>,
    totals: Option<(u64, u64, u64)>,
}

impl<'a> Reading<'a> {
    pub(super) fn of(deployment: &'a Deployment) -> Self {
        Self { deployment, transaction: B256::ZERO, shorts: Vec::new(), totals: None }
    }

    /// The fact of the next log. Errors when a log of ours can't be read, or when a batch's logs don't fit together.
    pub(super) fn next(&mut self, log: &PlacedLog) -> Result<Option<Fact>, MirrorError> {
        if log.transaction != self.transaction {
            self.finish()?;
            self.transaction = log.transaction;
        }
        let address = log.log.address;
        if address == self.deployment.credits {
            self.credits(log)
        } else if address == self.deployment.settlement {
            self.settlement(log)
        } else {
            registry(log)
        }
    }

    /// To be called after the last log.
    pub(super) fn finish(&mut self) -> Result<(), MirrorError> {
        if self.totals.is_none() && self.shorts.is_empty() {
            return Ok(());
        }
        Err(MirrorError::Inconsistent { what: "rows were debited without a batch" })
    }

    fn credits(&mut self, log: &PlacedLog) -> Result<Option<Fact>, MirrorError> {
        let fact = match topic(log) {
            Credits::AccountOpened::SIGNATURE_HASH => {
                let event = read::<Credits::AccountOpened>(log)?;
                Fact::AccountOpened { account: AccountId(event.account), wallet: event.owner }
            }
            Credits::Deposited::SIGNATURE_HASH => {
                let event = read::<Credits::Deposited>(log)?;
                Fact::Deposited { account: AccountId(event.account), amount: event.amount, net_deposited: event.netDeposited }
            }
            Credits::Withdrawn::SIGNATURE_HASH => {
                let event = read::<Credits::Withdrawn>(log)?;
                Fact::Withdrawn { account: AccountId(event.account), amount: event.amount, net_deposited: event.netDeposited }
            }
            Credits::Authorized::SIGNATURE_HASH => {
                let event = read::<Credits::Authorized>(log)?;
                Fact::Authorized {
                    account: AccountId(event.account),
                    authorized_cum: event.authorizedCum,
                    exposure: event.exposure.to(),
                    settle_deadline: event.settleDeadline.to(),
                    valid_until: event.validUntil.to(),
                    nonce: event.nonce,
                }
            }
            Credits::Revoked::SIGNATURE_HASH => {
                let event = read::<Credits::Revoked>(log)?;
                let (account, settle_deadline) = (AccountId(event.account), event.settleDeadline.to());
                Fact::Revoked { account, authorized_cum: event.authorizedCum, settle_deadline, nonce: event.nonce }
            }
            Credits::Closed::SIGNATURE_HASH => Fact::Closed { account: AccountId(read::<Credits::Closed>(log)?.account) },
            Credits::RowShort::SIGNATURE_HASH => {
                let event = read::<Credits::RowShort>(log)?;
                let (account, operator) = (AccountId(event.account), OperatorId(event.operator));
                self.shorts.push((event.seq, Short { account, operator, applied: event.applied }));
                return Ok(None);
            }
            Credits::BatchDebited::SIGNATURE_HASH => {
                let event = read::<Credits::BatchDebited>(log)?;
                self.totals = Some((event.seq, event.debited, event.fee));
                return Ok(None);
            }
            _ => return Ok(None),
        };
        Ok(Some(fact))
    }

    fn settlement(&mut self, log: &PlacedLog) -> Result<Option<Fact>, MirrorError> {
        if topic(log) != Settlement::Settled::SIGNATURE_HASH {
            return Ok(None);
        }
        let event = read::<Settlement::Settled>(log)?;
        let shorts = std::mem::take(&mut self.shorts);
        let fits = self.totals.take() == Some((event.seq, event.debited, event.fee));
        if !fits || shorts.iter().any(|(seq, _)| *seq != event.seq) {
            return Err(MirrorError::Inconsistent { what: "vault and settlement contract differ on a batch" });
        }
        Ok(Some(Fact::Settled {
            seq: event.seq,
            receipts_root: event.receiptsRoot,
            rows_hash: event.rowsHash,
            debited: event.debited,
            fee: event.fee,
            fee_bps: self.deployment.fee_bps,
            shorts: shorts.into_iter().map(|(_, short)| short).collect(),
        }))
    }
}

fn registry(log: &PlacedLog) -> Result<Option<Fact>, MirrorError> {
    let fact = match topic(log) {
        Registry::OperatorRegistered::SIGNATURE_HASH => {
            let event = read::<Registry::OperatorRegistered>(log)?;
            Fact::OperatorRegistered { operator: OperatorId(event.operator), owner: event.owner, payout: event.payout }
        }
        Registry::PayoutChanged::SIGNATURE_HASH => {
            let event = read::<Registry::PayoutChanged>(log)?;
            Fact::PayoutChanged { operator: OperatorId(event.operator), payout: event.payout }
        }
        Registry::NodeKeyAdded::SIGNATURE_HASH => {
            let event = read::<Registry::NodeKeyAdded>(log)?;
            Fact::NodeKeyAdded { operator: OperatorId(event.operator), node: event.key }
        }
        Registry::NodeKeyRemoved::SIGNATURE_HASH => {
            let event = read::<Registry::NodeKeyRemoved>(log)?;
            Fact::NodeKeyRemoved { operator: OperatorId(event.operator), node: event.key }
        }
        _ => return Ok(None),
    };
    Ok(Some(fact))
}

fn topic(log: &PlacedLog) -> B256 {
    log.log.topics().first().copied().unwrap_or_default()
}

fn read<E: SolEvent>(log: &PlacedLog) -> Result<E, MirrorError> {
    E::decode_log(&log.log).map(|decoded| decoded.data).map_err(|error| MirrorError::Event {
        event: E::SIGNATURE,
        block: log.block_number,
        reason: error.to_string(),
    })
}
