//! The mirror against an endpoint that the test writes: forks, lags, lies, silence.

mod closures;

use std::sync::{Arc, Mutex};

use alloy::primitives::{Address, B256, Bytes, LogData, keccak256};
use alloy::sol_types::SolEvent;
use axum::extract::State;
use axum::{Json, Router, http::StatusCode, routing::post};
use daemon::CancellationToken;
use daemon::clock::ManualClock;
use serde_json::{Value, json};
use tokio::sync::Notify;
use wire::contracts::{Credits, Registry, Settlement};
use wire::deployment::Deployment;
use wire::{AccountId, OperatorId};

use super::*;
use crate::ledger::{InstanceId, Ledger, LedgerSettings};

const NOW: u64 = 1_800_000_000;
const VAULT: Address = Address::repeat_byte(0x01);
const SETTLEMENT: Address = Address::repeat_byte(0x02);
const REGISTRY: Address = Address::repeat_byte(0x03);
const WALLET: Address = Address::repeat_byte(0x0a);
const PAYER: AccountId = AccountId(1);
/// As many blocks, each a second later than the one before.
const CLEARANCE_S: u64 = 5;

#[derive(Clone, Debug)]
struct Block {
    hash: B256,
    parent: B256,
    logs: Vec<(Address, LogData)>,
}

/// A chain as the endpoint shows it, and its faults.
#[derive(Debug, Default)]
struct Script {
    blocks: Vec<Block>,
    finalized: usize,
    chain_id: u64,
    /// Makes hashes of a fork differ.
    salt: u64,
    fails: bool,
    /// Claims that logs are of this contract.
    forged: Option<Address>,
    /// Leaves out the first log of each answer.
    omits: bool,
    /// Ranges above this are refused, as public endpoints do.
    range_max: u64,
    requests: usize,
}

impl Script {
    fn mine(&mut self, logs: Vec<(Address, LogData)>) {
        let number = self.blocks.len() as u64;
        let parent = self.blocks.last().map_or(B256::ZERO, |block| block.hash);
        let hash = keccak256([number.to_be_bytes().as_slice(), &self.salt.to_be_bytes(), parent.as_slice()].concat());
        self.blocks.push(Block { hash, parent, logs });
    }

    fn answer(&self, method: &str, params: &Value) -> Result<Value, String> {
        let number = |value: &Value| -> Option<usize> {
            match value.as_str()? {
                "latest" => self.blocks.len().checked_sub(1),
                "finalized" => Some(self.finalized),
                hex => usize::from_str_radix(hex.strip_prefix("0x")?, 16).ok(),
            }
        };
        match method {
            "eth_chainId" => Ok(json!(format!("{:#x}", self.chain_id))),
            "eth_getBlockByNumber" => {
                let number = number(&params[0]).ok_or("bad block")?;
                Ok(self.blocks.get(number).map_or(Value::Null, |block| {
                    json!({ "number": format!("{number:#x}"), "hash": block.hash, "parentHash": block.parent,
                        "timestamp": format!("{:#x}", NOW + number as u64), "extraField": "tolerated" })
                }))
            }
            "eth_getLogs" => {
                let (from, to) = (number(&params[0]["fromBlock"]).ok_or("from")?, number(&params[0]["toBlock"]).ok_or("to")?);
                if (to - from) as u64 >= self.range_max {
                    return Err("range too large".to_owned());
                }
                let logs = (from..=to).filter_map(|number| Some((number, self.blocks.get(number)?)));
                let logs = logs.flat_map(|(number, block)| {
                    block.logs.iter().enumerate().map(move |(index, (address, log))| {
                        json!({ "address": self.forged.unwrap_or(*address), "topics": log.topics(), "data": log.data,
                            "blockNumber": format!("{number:#x}"), "blockHash": block.hash, "transactionHash": keccak256(block.hash),
                            "transactionIndex": "0x0", "logIndex": format!("{index:#x}"), "removed": false })
                    })
                });
                Ok(Value::Array(logs.skip(usize::from(self.omits)).collect()))
            }
            "eth_call" => Ok(json!(Bytes::from(alloy::primitives::U256::from(1_000).to_be_bytes_vec()))),
            _ => Err(format!("no method {method}")),
        }
    }
}

type Shared = Arc<Mutex<Script>>;

async fn serve(State(script): State<Shared>, Json(request): Json<Value>) -> Result<Json<Value>, StatusCode> {
    let mut script = script.lock().unwrap();
    script.requests += 1;
    if script.fails {
        return Err(StatusCode::BAD_GATEWAY);
    }
    let answer = script.answer(request["method"].as_str().unwrap_or_default(), &request["params"]);
    Ok(Json(match answer {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": request["id"], "result": result }),
        Err(message) => json!({ "jsonrpc": "2.0", "id": request["id"], "error": { "code": -32000, "message": message } }),
    }))
}

struct Bench {
    script: Shared,
    ledger: Ledger,
    mirror: Mirror,
    _folder: tempfile::TempDir,
}

impl Bench {
    async fn new(depth: Depth) -> Self {
        let script = Shared::default();
        {
            let mut script = script.lock().unwrap();
            script.chain_id = 31_337;
            script.range_max = 1_000;
            script.mine(vec![]);
        }
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let rpc_url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().route("/", post(serve)).with_state(script.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let folder = tempfile::tempdir().unwrap();
        let clock = ManualClock::at_s(NOW);
        let url = format!("sqlite://{}", folder.path().join("ledger.db").display());
        let settings = LedgerSettings { clearance_s: CLEARANCE_S, ..LedgerSettings::of(InstanceId("meter-1".to_owned())) };
        let ledger = Ledger::open(&url, settings, clock.clone()).await.unwrap();
        let settings = MirrorSettings {
            rpc_url,
            deployment: deployment(),
            depth,
            period_ms: 3_600_000,
            range_blocks_max: 100,
            request_timeout_ms: 5_000,
        };
        let mirror = Mirror::new(ledger.clone(), settings, clock).unwrap();
        Self { script, ledger, mirror, _folder: folder }
    }

    fn change(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script.lock().unwrap());
    }

    fn mine(&self, logs: Vec<(Address, LogData)>) {
        self.change(|script| script.mine(logs));
    }

    /// Blocks above `height` leave the chain.
    fn fork(&self, height: usize) {
        self.change(|script| {
            script.blocks.truncate(height + 1);
            script.salt += 1;
        });
    }

    async fn available(&self) -> u64 {
        self.ledger.credits(PAYER).await.unwrap().available.get()
    }

    async fn assert_clean(&self) {
        assert_eq!(self.ledger.audit().await.unwrap().findings, vec![]);
    }
}

fn deployment() -> Deployment {
    Deployment {
        chain_id: 31_337,
        deploy_block: 1,
        prlx: Address::repeat_byte(0x04),
        credits: VAULT,
        settlement: SETTLEMENT,
        registry: REGISTRY,
        exit_delay: 3_600,
        velocity_window: 60,
        fee_bps: 1_000,
        settler: Address::repeat_byte(0x05),
    }
}

fn opened() -> (Address, LogData) {
    (VAULT, Credits::AccountOpened { account: PAYER.0, owner: WALLET }.encode_log_data())
}

fn deposited(amount: u64, net: u64) -> (Address, LogData) {
    (VAULT, Credits::Deposited { account: PAYER.0, from: WALLET, amount, netDeposited: net }.encode_log_data())
}

/// An authorization over 60 credits at a time.
fn authorized(nonce: u32) -> (Address, LogData) {
    let authorized = Credits::Authorized {
        account: PAYER.0,
        authorizedCum: u64::MAX,
        exposure: alloy::primitives::aliases::U48::from(60),
        settleDeadline: alloy::primitives::aliases::U40::from(NOW + 4_000),
        validUntil: alloy::primitives::aliases::U40::from(NOW + 400),
        nonce,
        challenge: B256::ZERO,
    };
    (VAULT, authorized.encode_log_data())
}

#[tokio::test]
async fn a_deposit_counts_at_depth_and_is_pending_before() {
    let bench = Bench::new(Depth::Confirmations(2)).await;
    bench.mine(vec![opened(), deposited(100, 100)]);
    bench.mine(vec![]);
    let status = bench.mirror.look().await.unwrap();
    assert_eq!((status.head, status.applied, status.in_step), (2, 0, true));
    let view = bench.ledger.credits(PAYER).await.unwrap();
    assert_eq!((view.available.get(), view.pending_deposits.get()), (0, 100));
    assert!(!bench.ledger.account_of_wallet(WALLET).await.unwrap().unwrap().confirmed);

    bench.mine(vec![]);
    let status = bench.mirror.look().await.unwrap();
    assert_eq!((status.head, status.applied, status.in_step), (3, 1, true));
    let view = bench.ledger.credits(PAYER).await.unwrap();
    assert_eq!((view.available.get(), view.pending_deposits.get()), (100, 0));
    assert!(bench.ledger.account_of_wallet(WALLET).await.unwrap().unwrap().confirmed);
    bench.mirror.look().await.unwrap();
    assert_eq!(bench.available().await, 100);
    bench.assert_clean().await;
}

#[tokio::test]
async fn only_finalized_blocks_count_when_told_so() {
    let bench = Bench::new(Depth::Finalized).await;
    bench.mine(vec![opened(), deposited(100, 100)]);
    bench.mine(vec![]);
    bench.mirror.look().await.unwrap();
    assert_eq!(bench.available().await, 0);
    bench.change(|script| script.finalized = 1);
    bench.mirror.look().await.unwrap();
    assert_eq!(bench.available().await, 100);
}

#[tokio::test]
async fn a_reorg_that_drops_a_deposit_takes_it_back() {
    let bench = Bench::new(Depth::Confirmations(0)).await;
    bench.mine(vec![opened(), deposited(100, 100)]);
    bench.mine(vec![]);
    bench.mirror.look().await.unwrap();
    bench.mine(vec![deposited(900, 1_000)]);
    bench.mine(vec![]);
    bench.mirror.look().await.unwrap();
    assert_eq!(bench.available().await, 1_000);

    bench.fork(2);
    bench.mine(vec![]);
    bench.mine(vec![deposited(7, 107)]);
    bench.mine(vec![]);
    let status = bench.mirror.look().await.unwrap();
    assert_eq!((status.applied, status.in_step), (5, true));
    assert_eq!(bench.available().await, 107);
    bench.assert_clean().await;
}

#[tokio::test]
async fn reorgs_of_every_depth_end_at_the_chain_that_stands() {
    let bench = Bench::new(Depth::Confirmations(0)).await;
    bench.mine(vec![opened(), deposited(1, 1)]);
    let (mut net, mut height) = (vec![0u64, 1], 1usize);
    for depth in [1usize, 3, 8, 21, 64] {
        for _ in 0..depth + 1 {
            height += 1;
            net.push(net[height - 1] + height as u64);
            bench.mine(vec![deposited(height as u64, net[height])]);
        }
        bench.mirror.look().await.unwrap();
        assert_eq!(bench.available().await, net[height]);
        height -= depth;
        net.truncate(height + 1);
        bench.fork(height);
        for _ in 0..depth + 1 {
            height += 1;
            net.push(net[height - 1] + 5);
            bench.mine(vec![deposited(5, net[height])]);
        }
        bench.mirror.look().await.unwrap();
        assert_eq!(bench.available().await, net[height], "depth {depth}");
        bench.assert_clean().await;
    }
}

#[tokio::test]
async fn a_stale_head_changes_nothing() {
    let bench = Bench::new(Depth::Confirmations(0)).await;
    bench.mine(vec![opened(), deposited(100, 100)]);
    bench.mine(vec![]);
    bench.mirror.look().await.unwrap();
    let kept = std::mem::take(&mut bench.script.lock().unwrap().blocks);
    bench.change(|script| script.blocks = kept[..2].to_vec());
    assert!(matches!(bench.mirror.look().await, Err(MirrorError::StaleHead { head: 1, applied: 2 })));
    assert_eq!(bench.available().await, 100);
    bench.change(|script| script.blocks = kept);
    assert!(bench.mirror.look().await.unwrap().in_step);
}

#[tokio::test]
async fn an_endpoint_of_another_chain_is_not_believed() {
    let bench = Bench::new(Depth::Confirmations(0)).await;
    bench.mine(vec![opened(), deposited(100, 100)]);
    bench.change(|script| script.chain_id = 1);
    assert!(matches!(bench.mirror.look().await, Err(MirrorError::WrongChain { expected: 31_337, actual: 1 })));
    assert_eq!(bench.available().await, 0);
}

#[tokio::test]
async fn a_log_of_another_contract_is_not_believed() {
    let bench = Bench::new(Depth::Confirmations(0)).await;
    bench.mine(vec![opened(), deposited(100, 100)]);
    bench.change(|script| script.forged = Some(Address::repeat_byte(0x66)));
    assert!(matches!(bench.mirror.look().await, Err(MirrorError::ForgedLog { .. })));
    assert_eq!(bench.available().await, 0);
}

#[tokio::test]
async fn a_log_that_is_left_out_is_noticed_by_the_next_one() {
    let bench = Bench::new(Depth::Confirmations(0)).await;
    bench.mine(vec![opened(), deposited(100, 100)]);
    bench.mirror.look().await.unwrap();
    bench.mine(vec![deposited(10, 110)]);
    bench.mine(vec![deposited(10, 120)]);
    bench.change(|script| script.omits = true);
    let left_out = bench.mirror.look().await;
    assert!(matches!(left_out, Err(MirrorError::Facts(FactError::NetDeposited { ledger: 110, chain: 120, .. }))));
    assert_eq!(bench.available().await, 100);
    bench.change(|script| script.omits = false);
    bench.mirror.look().await.unwrap();
    assert_eq!(bench.available().await, 120);
    bench.assert_clean().await;
}

#[tokio::test]
async fn an_endpoint_that_fails_leaves_credits_as_they_are() {
    let bench = Bench::new(Depth::Confirmations(0)).await;
    bench.mine(vec![opened(), deposited(100, 100)]);
    bench.mirror.look().await.unwrap();
    bench.mine(vec![deposited(10, 110)]);
    bench.change(|script| script.fails = true);
    let status = bench.mirror.status();
    assert!(matches!(bench.mirror.look().await, Err(MirrorError::Endpoint(_))));
    assert!(!status.borrow().in_step && status.borrow().error.is_some());
    assert_eq!(bench.available().await, 100);
    bench.change(|script| script.fails = false);
    bench.mirror.look().await.unwrap();
    assert_eq!(status.borrow().error, None);
    assert_eq!(bench.available().await, 110);
}

#[tokio::test]
async fn a_long_chain_is_read_in_ranges_that_the_endpoint_takes() {
    let bench = Bench::new(Depth::Confirmations(0)).await;
    bench.mine(vec![opened()]);
    for height in 1..=300u64 {
        bench.mine(vec![deposited(1, height)]);
    }
    bench.change(|script| script.range_max = 30);
    let mut looks = 0;
    while !bench.mirror.look().await.is_ok_and(|status| status.in_step) {
        looks += 1;
        assert!(looks < 40, "the mirror never got there");
    }
    assert_eq!(bench.available().await, 300);
    bench.assert_clean().await;
}

#[tokio::test]
async fn node_keys_and_authorizations_are_mirrored() {
    let bench = Bench::new(Depth::Confirmations(0)).await;
    let operator = Registry::OperatorRegistered { operator: 7, owner: WALLET, payout: WALLET, metadataHash: B256::ZERO };
    let node = Address::repeat_byte(0x0d);
    bench.mine(vec![
        (REGISTRY, operator.encode_log_data()),
        (REGISTRY, Registry::NodeKeyAdded { operator: 7, key: node }.encode_log_data()),
        opened(),
        deposited(100, 100),
        authorized(3),
        (VAULT, Credits::Claimed { operator: 7, payout: WALLET, amount: 1 }.encode_log_data()),
    ]);
    bench.mirror.look().await.unwrap();
    let owner = bench.ledger.node_operator(node).await.unwrap().unwrap();
    assert_eq!((owner.operator, owner.since, owner.until), (OperatorId(7), NOW + 1, None));
    let view = bench.ledger.credits(PAYER).await.unwrap();
    assert_eq!(view.spendable.get(), 60);
    let authorization = view.authorization.unwrap();
    assert_eq!((authorization.next_nonce, authorization.live, authorization.exposure.get()), (4, true, 60));
}

#[tokio::test]
async fn a_batch_whose_contracts_differ_is_not_believed() {
    let bench = Bench::new(Depth::Confirmations(0)).await;
    let settled = Settlement::Settled { seq: 1, receiptsRoot: B256::ZERO, rowsHash: B256::ZERO, debited: 10, fee: 1 };
    bench.mine(vec![
        (VAULT, Credits::BatchDebited { seq: 1, debited: 11, fee: 1 }.encode_log_data()),
        (SETTLEMENT, settled.encode_log_data()),
    ]);
    assert!(matches!(bench.mirror.look().await, Err(MirrorError::Inconsistent { .. })));
    bench.fork(0);
    bench.mine(vec![(VAULT, Credits::BatchDebited { seq: 1, debited: 10, fee: 1 }.encode_log_data())]);
    assert!(matches!(bench.mirror.look().await, Err(MirrorError::Inconsistent { .. })));
    bench.fork(0);
    bench.mine(vec![
        (VAULT, Credits::BatchDebited { seq: 1, debited: 10, fee: 1 }.encode_log_data()),
        (SETTLEMENT, settled.encode_log_data()),
    ]);
    assert!(matches!(bench.mirror.look().await, Err(MirrorError::Facts(FactError::ForeignBatch { seq: 1 }))));
}

#[tokio::test]
async fn a_running_mirror_looks_when_woken_and_ends_when_told() {
    let bench = Bench::new(Depth::Confirmations(0)).await;
    let (wake, shutdown) = (Arc::new(Notify::new()), CancellationToken::new());
    let mut status = bench.mirror.status();
    let running = tokio::spawn(bench.mirror.run(wake.clone(), shutdown.clone()));
    status.wait_for(|status| status.head == 0 && status.seen_at.is_some()).await.unwrap();
    bench.script.lock().unwrap().mine(vec![opened(), deposited(100, 100)]);
    wake.notify_one();
    status.wait_for(|status| status.applied == 1).await.unwrap();
    assert_eq!(bench.ledger.credits(PAYER).await.unwrap().available.get(), 100);
    shutdown.cancel();
    running.await.unwrap();
}
