//! One look at the chain: is it our chain, did it fork under us, what is new and deep enough, what is coming.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use alloy::primitives::Address;
use alloy::sol_types::SolCall;
use daemon::clock::SharedClock;
use tokio::sync::watch;
use wire::Credits;
use wire::contracts::Settlement;

use super::events::Reading;
use super::rpc::{Endpoint, Header, PlacedLog};
use super::{Depth, MirrorError, MirrorSettings, MirrorStatus};
use crate::ledger::{Advance, BlockRow, ChainEvent, ChainOrigin, ChainPoint, Fact, Ledger, Pending, Stepped};

/// Blocks whose hashes are remembered; a fork that began earlier stops the mirror for a person.
const WINDOW_BLOCKS: u64 = 256;
/// Most ranges in one look, so that a look ends.
const RANGES_MAX: usize = 64;

/// Follows the chain into the ledger.
pub struct Mirror {
    ledger: Ledger,
    settings: MirrorSettings,
    clock: SharedClock,
    endpoint: Endpoint,
    origin: ChainOrigin,
    addresses: [Address; 3],
    /// Halved when the endpoint refuses a range, doubled when it doesn't.
    range_blocks: AtomicU64,
    pub(super) status: watch::Sender<MirrorStatus>,
}

impl Mirror {
    /// Connects nothing yet. Errors on a malformed endpoint.
    pub fn new(ledger: Ledger, settings: MirrorSettings, clock: SharedClock) -> Result<Self, MirrorError> {
        let endpoint = Endpoint::new(&settings.rpc_url, Duration::from_millis(settings.request_timeout_ms))?;
        let deployment = &settings.deployment;
        let origin = ChainOrigin { chain_id: deployment.chain_id, vault: deployment.credits };
        let addresses = [deployment.credits, deployment.settlement, deployment.registry];
        let range_blocks = AtomicU64::new(settings.range_blocks_max.max(1));
        Ok(Self { ledger, settings, clock, endpoint, origin, addresses, range_blocks, status: watch::Sender::new(MirrorStatus::default()) })
    }

    /// One look, idempotent. An error changed nothing that the chain hasn't; the next look begins anew.
    pub async fn look(&self) -> Result<MirrorStatus, MirrorError> {
        let outcome = self.follow().await;
        self.status.send_modify(|status| match &outcome {
            Ok(seen) => *status = seen.clone(),
            Err(error) => {
                status.in_step = false;
                status.error = Some(error.to_string());
            }
        });
        outcome
    }

    pub(super) fn period_ms(&self) -> u64 {
        self.settings.period_ms.max(1)
    }

    async fn follow(&self) -> Result<MirrorStatus, MirrorError> {
        let chain_id = self.endpoint.chain_id().await?;
        if chain_id != self.origin.chain_id {
            return Err(MirrorError::WrongChain { expected: self.origin.chain_id, actual: chain_id });
        }
        let head = self.endpoint.tagged("latest").await?;
        let target = self.target(&head).await?;
        let mut point = self.standing_point(&head).await?;
        for _ in 0..RANGES_MAX {
            let from = point.map_or(self.settings.deployment.deploy_block, |point| point.number + 1);
            let Some(target) = target.filter(|target| from <= *target) else { break };
            point = self.advance(point, from, target).await?;
        }
        let applied = point.map_or(0, |point| point.number);
        let in_step = target.is_none_or(|target| applied >= target || target < self.settings.deployment.deploy_block);
        if in_step {
            let after = target.map_or(0, |target| target + 1).max(self.settings.deployment.deploy_block);
            self.show_pending(after, head.number()).await?;
        }
        Ok(MirrorStatus { head: head.number(), applied, seen_at: Some(self.clock.now_s()), in_step, error: None })
    }

    /// The newest height that counts. `None` while the chain is too short to have one.
    async fn target(&self, head: &Header) -> Result<Option<u64>, MirrorError> {
        match self.settings.depth {
            Depth::Confirmations(blocks) => Ok(head.number().checked_sub(blocks)),
            Depth::Finalized => Ok(Some(self.endpoint.tagged("finalized").await?.number().min(head.number()))),
        }
    }

    /// Where the ledger stands on the chain as it is now: walks back to the last block that both have.
    async fn standing_point(&self, head: &Header) -> Result<Option<ChainPoint>, MirrorError> {
        let Some((origin, point)) = self.ledger.chain_point().await? else { return Ok(None) };
        if origin != self.origin {
            return Err(MirrorError::OtherDeployment { stored: origin, given: self.origin });
        }
        if head.number() < point.number {
            return Err(MirrorError::StaleHead { head: head.number(), applied: point.number });
        }
        let Some(header) = self.endpoint.header(point.number).await? else {
            return Err(MirrorError::NoBlock { block: point.number.to_string() });
        };
        if header.hash == point.hash {
            return Ok(Some(point));
        }
        let ancestor = self.common_ancestor(point).await?;
        tracing::warn!(from = point.number, to = ancestor.number, "the chain forked below the depth that counts; undoing its facts");
        match self.ledger.rewind(self.origin, point, ancestor).await? {
            Stepped::Done(_) => Ok(Some(ancestor)),
            Stepped::Stale => Err(MirrorError::Raced),
        }
    }

    async fn common_ancestor(&self, point: ChainPoint) -> Result<ChainPoint, MirrorError> {
        for block in self.ledger.chain_blocks().await? {
            let number = block.number.unsigned_abs();
            let header = self.endpoint.header(number).await?;
            if let Some(header) = header.filter(|header| header.hash == block.hash) {
                return Ok(ChainPoint { number, hash: header.hash, timestamp: header.timestamp() });
            }
        }
        Err(MirrorError::DeepFork { applied: point.number, window: WINDOW_BLOCKS })
    }

    /// Applies one range of blocks; where the ledger stands then.
    async fn advance(&self, point: Option<ChainPoint>, from: u64, target: u64) -> Result<Option<ChainPoint>, MirrorError> {
        let range = self.range_blocks.load(Ordering::Relaxed);
        let to = target.min(from.saturating_add(range - 1));
        let logs = match self.endpoint.logs(from, to, &self.addresses).await {
            Ok(logs) => logs,
            Err(error) => {
                self.range_blocks.store((range / 2).max(1), Ordering::Relaxed);
                return Err(error);
            }
        };
        self.range_blocks.store(range.saturating_mul(2).min(self.settings.range_blocks_max.max(1)), Ordering::Relaxed);
        let step = self.step(point, from, to, &logs).await?;
        let reached = step.to;
        match self.ledger.advance(step).await? {
            Stepped::Done(0) => {}
            Stepped::Done(events) => tracing::info!(from, to, events, "applied the chain's facts"),
            Stepped::Stale => return Err(MirrorError::Raced),
        }
        Ok(Some(reached))
    }

    /// The facts of a range, each checked to stand in a block of one and the same chain.
    async fn step(&self, point: Option<ChainPoint>, from: u64, to: u64, logs: &[PlacedLog]) -> Result<Advance, MirrorError> {
        let window_from = from.max((to + 1).saturating_sub(WINDOW_BLOCKS));
        let mut numbers: BTreeSet<u64> = (window_from..=to).collect();
        numbers.insert(from);
        numbers.extend(logs.iter().map(|log| log.block_number));
        let headers = self.endpoint.headers(&numbers).await?;
        let broken = headers.windows(2).any(|pair| pair[0].number() + 1 == pair[1].number() && pair[0].hash != pair[1].parent_hash);
        let parted = point.is_some_and(|point| headers.first().is_some_and(|first| first.parent_hash != point.hash));
        if broken || parted {
            return Err(MirrorError::Inconsistent { what: "the chain forked while it was read" });
        }
        let header_of = |number: u64| {
            let found = headers.binary_search_by_key(&number, Header::number).ok().and_then(|index| headers.get(index));
            found.ok_or(MirrorError::NoBlock { block: number.to_string() })
        };
        let mut reading = Reading::of(&self.settings.deployment);
        let mut events = Vec::new();
        for log in logs {
            let header = header_of(log.block_number)?;
            if header.hash != log.block_hash {
                return Err(MirrorError::Inconsistent { what: "a log's block is not in the chain" });
            }
            let Some(fact) = reading.next(log)? else { continue };
            events.push(ChainEvent {
                block_number: log.block_number,
                block_hash: log.block_hash,
                timestamp: header.timestamp(),
                transaction: log.transaction,
                log_index: log.log_index,
                fact: self.with_fee(fact, log.block_number).await,
            });
        }
        reading.finish()?;
        let last = header_of(to)?;
        let to = ChainPoint { number: to, hash: last.hash, timestamp: last.timestamp() };
        let blocks = headers.iter().filter(|header| header.number() >= window_from).map(block_row).collect();
        Ok(Advance { origin: self.origin, from: point, to, blocks, events })
    }

    /// The fee in force at a batch's block. When the endpoint can't say, the deployment's stands: a wrong one doesn't add up to the
    /// batch's totals, and the ledger refuses it.
    async fn with_fee(&self, fact: Fact, block: u64) -> Fact {
        let Fact::Settled { seq, receipts_root, rows_hash, debited, fee, fee_bps, shorts } = fact else { return fact };
        let input = Settlement::feeBpsCall {}.abi_encode().into();
        let answer = self.endpoint.call(self.settings.deployment.settlement, input, block).await.ok();
        let in_force = answer.and_then(|answer| Settlement::feeBpsCall::abi_decode_returns(&answer).ok());
        Fact::Settled { seq, receipts_root, rows_hash, debited, fee, fee_bps: in_force.unwrap_or(fee_bps), shorts }
    }

    /// Shows deposits that are on their way down; spendable they are not.
    async fn show_pending(&self, from: u64, head: u64) -> Result<(), MirrorError> {
        let mut pending = Pending::default();
        if from <= head {
            let from = from.max(head.saturating_sub(WINDOW_BLOCKS));
            let mut reading = Reading::of(&self.settings.deployment);
            for log in self.endpoint.logs(from, head, &self.addresses).await? {
                match reading.next(&log)? {
                    Some(Fact::AccountOpened { account, wallet }) => drop(pending.opened.insert(wallet, account)),
                    Some(Fact::Deposited { account, amount, .. }) => {
                        let sum = pending.deposits.entry(account).or_default();
                        *sum = Credits::new(amount).ok().and_then(|amount| sum.checked_add(amount)).unwrap_or(Credits::MAX);
                    }
                    _ => {}
                }
            }
        }
        self.ledger.set_pending(pending);
        Ok(())
    }
}

fn block_row(header: &Header) -> BlockRow {
    let number = i64::try_from(header.number()).unwrap_or(i64::MAX);
    BlockRow { number, hash: header.hash, parent: header.parent_hash }
}
