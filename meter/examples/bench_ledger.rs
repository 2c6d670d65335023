//! How many requests a second the ledger carries: one durable hold and one durable capture with its receipt each.
//!
//!     cargo run --release -p meter --example bench_ledger -- sqlite:///tmp/ledger.db
//!     cargo run --release -p meter --example bench_ledger -- postgres://localhost/test 40000 256 1
//!
//! Arguments: database URL (an empty one), requests, clients at once, milliseconds that a commit waits for company. The last line is
//! `figure ledger_hold_capture_per_s VALUE requests/s`; the books are audited before it is printed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use alloy::primitives::{Address, B256, Bytes, keccak256};
use anyhow::{Context, ensure};
use daemon::clock::{Clock, SystemClock};
use meter::ledger::{
    Advance, BlockRow, Capture, ChainEvent, ChainOrigin, ChainPoint, Fact, HoldRequest, InstanceId, Ledger, LedgerSettings,
};
use wire::receipt::ServiceReceipt;
use wire::{AccountId, Credits, ModelRate, OperatorId, message_cost_up};

const ACCOUNTS: u32 = 10_000;
const RATE: ModelRate = ModelRate(1_000_000);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let url = arguments.first().context("name an empty database: sqlite://PATH or postgres://HOST/NAME")?;
    let number = |index: usize, default: u64| arguments.get(index).map_or(Ok(default), |text| text.parse::<u64>());
    let (requests, clients, group_wait_ms) = (number(1, 40_000)?, number(2, 256)?, number(3, 1)?);
    let settings = LedgerSettings { group_wait_ms, ..LedgerSettings::of(InstanceId("bench".to_owned())) };
    let ledger = Ledger::open(url, settings, SystemClock::shared()).await?;
    fund(&ledger).await?;

    let next = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let serving = (0..clients).map(|_| tokio::spawn(serve(ledger.clone(), next.clone(), requests)));
    for client in futures_util::future::join_all(serving).await {
        client??;
    }
    let elapsed_s = started.elapsed().as_secs_f64();

    let report = ledger.audit().await?;
    ensure!(report.clean(), "the books are wrong: {:?}", report.findings);
    println!("{requests} requests, {clients} clients, {ACCOUNTS} accounts, {elapsed_s:.2} s, {} rules hold", report.rules);
    println!("figure ledger_hold_capture_per_s {:.0} requests/s", requests as f64 / elapsed_s);
    ledger.close().await;
    Ok(())
}

async fn fund(ledger: &Ledger) -> anyhow::Result<()> {
    let to = ChainPoint { number: 1, hash: B256::repeat_byte(1), timestamp: SystemClock.now_s() };
    let valid_until = SystemClock.now_s() + 100_000;
    let facts = (1..=ACCOUNTS).flat_map(|id| {
        let (account, amount) = (AccountId(id), 1_000_000_000);
        let wallet = Address::from_word(keccak256(id.to_be_bytes()));
        let authorized = Fact::Authorized {
            account,
            authorized_cum: amount,
            exposure: amount,
            settle_deadline: valid_until + 3_600,
            valid_until,
            nonce: 0,
        };
        [Fact::AccountOpened { account, wallet }, Fact::Deposited { account, amount, net_deposited: amount }, authorized]
    });
    let event = |(index, fact)| ChainEvent {
        block_number: 1,
        block_hash: to.hash,
        timestamp: valid_until,
        transaction: B256::ZERO,
        log_index: index as u64,
        fact,
    };
    let origin = ChainOrigin { chain_id: 31_337, vault: Address::repeat_byte(1) };
    let blocks = vec![BlockRow { number: 1, hash: to.hash, parent: B256::ZERO }];
    ledger.advance(Advance { origin, from: None, to, blocks, events: facts.enumerate().map(event).collect() }).await?;
    Ok(())
}

async fn serve(ledger: Ledger, next: Arc<AtomicU64>, requests: u64) -> anyhow::Result<()> {
    let started_at = SystemClock.now_s();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= requests {
            return Ok(());
        }
        let request_id = keccak256(number.to_be_bytes());
        let account = AccountId(u32::from_be_bytes(request_id[..4].try_into()?) % ACCOUNTS + 1);
        let hold = HoldRequest {
            request_id,
            account,
            key: None,
            key_limit: None,
            model: "bench".to_owned(),
            rate: RATE,
            prompt_tokens: 100,
            max_tokens: 1_000,
            worst_case: message_cost_up(RATE, 1_100)?,
            expires_at_s: started_at + 600,
        };
        ledger.hold(hold).await?;
        ledger.capture(capture(request_id, account, started_at, message_cost_up(RATE, 300)?)).await?;
    }
}

fn capture(request_id: B256, account: AccountId, started_at: u64, amount: Credits) -> Capture {
    let receipt = ServiceReceipt {
        request_id,
        account,
        operator: OperatorId(1 + u32::from(request_id[31] % 10)),
        model_root: B256::repeat_byte(1),
        engine: B256::repeat_byte(2),
        prompt_tokens: 100,
        completion_tokens: 200,
        model_rate: RATE,
        amount,
        prompt_hash: B256::repeat_byte(3),
        completion_hash: B256::repeat_byte(4),
        params_hash: B256::repeat_byte(5),
        proof_root: B256::repeat_byte(6),
        started_at,
        served_at: started_at,
    };
    Capture {
        receipt,
        signature: Some(Bytes::from(vec![7; 65])),
        node: Address::repeat_byte(2),
        fallback: false,
        finish_reason: "stop".to_owned(),
        audit: None,
    }
}
