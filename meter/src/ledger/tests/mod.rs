//! The ledger's behaviours, the same on both stores. PostgreSQL runs where `DATABASE_URL` names a server; each test has a schema of
//! its own there, and drops it.

mod audits;
mod batches;
mod clearances;
mod crashes;
mod facts;
mod histories;
mod requests;

use std::future::Future;
use std::sync::Arc;

use alloy::primitives::{Address, B256, Bytes, keccak256};
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::Eip712Domain;
use daemon::clock::ManualClock;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection as _};
use wire::receipt::ServiceReceipt;
use wire::{AccountId, Credits, ModelRate, OperatorId, message_cost_up, typed};

use super::*;

const NOW: u64 = 1_800_000_000;
/// One credit a token.
const RATE: ModelRate = ModelRate(1_000_000);
const VAULT: Address = Address::repeat_byte(0xee);
const ORIGIN: ChainOrigin = ChainOrigin { chain_id: 31_337, vault: VAULT };
const NODE: Address = Address::repeat_byte(0x0d);
const OPERATOR: OperatorId = OperatorId(7);
const PAYER: AccountId = AccountId(1);

/// A database of the test's own, and its clock.
#[derive(Clone)]
struct Ground {
    url: String,
    clock: Arc<ManualClock>,
}

impl Ground {
    async fn open(&self) -> Ledger {
        self.open_as("meter-1").await
    }

    /// Opens the ledger without periods of its own: tests call `sweep`.
    async fn open_as(&self, instance: &str) -> Ledger {
        let settings = LedgerSettings {
            sweep_period_ms: 3_600_000,
            progress_period_ms: 3_600_000,
            ..LedgerSettings::of(InstanceId(instance.to_owned()))
        };
        Ledger::open(&self.url, settings, self.clock.clone()).await.unwrap()
    }
}

/// Runs a test on a fresh SQLite file.
async fn on_sqlite<F: Future<Output = ()> + Send + 'static>(test: impl FnOnce(Ground) -> F) {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("ledger.db").display());
    test(Ground { url, clock: ManualClock::at_s(NOW) }).await;
}

/// Runs a test on a fresh PostgreSQL schema, where there is a server.
async fn on_postgres<F: Future<Output = ()> + Send + 'static>(test: impl FnOnce(Ground) -> F) {
    let Ok(server) = std::env::var("DATABASE_URL") else {
        eprintln!("PostgreSQL did not run: DATABASE_URL is not set");
        return;
    };
    let schema = format!("ledger_{:016x}", rand::random::<u64>());
    let options: sqlx::postgres::PgConnectOptions = server.parse().unwrap();
    let mut connection = options.connect().await.unwrap();
    sqlx::query(AssertSqlSafe(format!("CREATE SCHEMA {schema}"))).execute(&mut connection).await.unwrap();
    let separator = if server.contains('?') { '&' } else { '?' };
    let url = format!("{server}{separator}options[search_path]={schema}");
    // In a task of its own, so that the schema goes also when the test fails.
    let outcome = tokio::spawn(test(Ground { url, clock: ManualClock::at_s(NOW) })).await;
    sqlx::query(AssertSqlSafe(format!("DROP SCHEMA {schema} CASCADE"))).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    outcome.unwrap();
}

/// Names each behaviour once and runs it on both stores.
macro_rules! behaviours {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { crate::ledger::tests::on_sqlite(super::$name).await; })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { crate::ledger::tests::on_postgres(super::$name).await; })*
        }
    };
}
pub(crate) use behaviours;

/// A chain that the test writes: each block has the facts given to it.
#[derive(Clone, Debug)]
struct TestChain {
    tip: Option<ChainPoint>,
    /// How far its clock is ahead of a block a second since the tests' moment, seconds.
    ahead_s: u64,
    /// Makes hashes of a fork differ.
    salt: u64,
}

impl TestChain {
    fn new() -> Self {
        Self { tip: None, ahead_s: 0, salt: 0 }
    }

    fn hash(&self, number: u64) -> B256 {
        keccak256([number.to_be_bytes(), self.salt.to_be_bytes()].concat())
    }

    /// The step that applies one more block.
    fn block(&mut self, facts: Vec<Fact>) -> Advance {
        let number = self.tip.map_or(1, |tip| tip.number + 1);
        let to = ChainPoint { number, hash: self.hash(number), timestamp: NOW + self.ahead_s + number };
        let parent = self.tip.map_or(B256::ZERO, |tip| tip.hash);
        let event = |(index, fact)| ChainEvent {
            block_number: number,
            block_hash: to.hash,
            timestamp: to.timestamp,
            transaction: keccak256(to.hash),
            log_index: index as u64,
            fact,
        };
        let step = Advance {
            origin: ORIGIN,
            from: self.tip,
            to,
            blocks: vec![BlockRow { number: number as i64, hash: to.hash, parent }],
            events: facts.into_iter().enumerate().map(event).collect(),
        };
        self.tip = Some(to);
        step
    }

    /// A block of exactly this time; later ones come a second after each other.
    async fn mine_at(&mut self, ledger: &Ledger, timestamp: u64, facts: Vec<Fact>) {
        self.ahead_s = timestamp - NOW - self.tip.map_or(1, |tip| tip.number + 1);
        self.mine(ledger, facts).await;
    }

    async fn mine(&mut self, ledger: &Ledger, facts: Vec<Fact>) {
        let count = facts.len();
        assert_eq!(ledger.advance(self.block(facts)).await.unwrap(), Stepped::Done(count));
    }
}

fn opened(account: AccountId) -> Fact {
    Fact::AccountOpened { account, wallet: wallet(account) }
}

fn wallet(account: AccountId) -> Address {
    Address::from_word(keccak256(account.0.to_be_bytes()))
}

fn deposited(account: AccountId, amount: u64, net_deposited: u64) -> Fact {
    Fact::Deposited { account, amount, net_deposited }
}

fn authorized(account: AccountId, authorized_cum: u64, exposure: u64) -> Fact {
    authorized_again(account, authorized_cum, exposure, 0)
}

fn authorized_again(account: AccountId, authorized_cum: u64, exposure: u64, nonce: u32) -> Fact {
    let (valid_until, settle_deadline) = (NOW + 100_000, NOW + 103_600);
    Fact::Authorized { account, authorized_cum, exposure, settle_deadline, valid_until, nonce }
}

/// A payer with credits, an authorization of just as much, and nothing else.
async fn fund(ledger: &Ledger, chain: &mut TestChain, account: AccountId, amount: u64) {
    chain.mine(ledger, vec![opened(account), deposited(account, amount, amount), authorized(account, amount, amount)]).await;
}

fn id(seed: u64) -> B256 {
    keccak256(seed.to_be_bytes())
}

fn credits(amount: u64) -> Credits {
    Credits::new(amount).unwrap()
}

/// A hold of `amount` credits: one prompt token, the rest completion.
fn hold(account: AccountId, seed: u64, amount: u32) -> HoldRequest {
    HoldRequest {
        request_id: id(seed),
        account,
        key: None,
        key_limit: None,
        model: "smollm2-135m".to_owned(),
        rate: RATE,
        prompt_tokens: 1,
        max_tokens: amount - 1,
        worst_case: credits(u64::from(amount)),
        expires_at_s: NOW + 600,
    }
}

/// A receipt over `amount` credits for such a hold.
fn receipt(account: AccountId, seed: u64, amount: u32) -> ServiceReceipt {
    ServiceReceipt {
        request_id: id(seed),
        account,
        operator: OPERATOR,
        model_root: B256::repeat_byte(1),
        engine: B256::repeat_byte(2),
        prompt_tokens: 1,
        completion_tokens: amount - 1,
        model_rate: RATE,
        amount: message_cost_up(RATE, u64::from(amount)).unwrap(),
        prompt_hash: B256::repeat_byte(3),
        completion_hash: B256::repeat_byte(4),
        params_hash: B256::repeat_byte(5),
        proof_root: B256::repeat_byte(6),
        started_at: NOW,
        served_at: NOW,
    }
}

fn capture(receipt: ServiceReceipt, signature: Option<Bytes>) -> Capture {
    Capture { receipt, signature, node: NODE, fallback: false, finish_reason: "stop".to_owned(), audit: None }
}

fn signature() -> Bytes {
    Bytes::from(vec![7; 65])
}

fn template(account: AccountId, seed: u64) -> DispatchRecord {
    let template = receipt(account, seed, 2).for_fewer(0, B256::ZERO).unwrap();
    DispatchRecord { request_id: id(seed), node: NODE, fallback: false, template }
}

/// Available, held, unsettled.
async fn money(ledger: &Ledger, account: AccountId) -> (u64, u64, u64) {
    let view = ledger.credits(account).await.unwrap();
    (view.available.get(), view.held.get(), view.unsettled.get())
}

async fn assert_clean(ledger: &Ledger) {
    assert_eq!(ledger.audit().await.unwrap().findings, vec![]);
}

fn settler() -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&B256::repeat_byte(9)).unwrap()
}

fn domain() -> Eip712Domain {
    typed::settlement_domain(ORIGIN.chain_id, Address::repeat_byte(0x5e))
}
