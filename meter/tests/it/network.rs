//! A meter with its ledger, its payers and its clients.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use alloy::signers::local::PrivateKeySigner;
use axum::Router;
use daemon::CancellationToken;
use daemon::admin::Readiness;
use daemon::clock::{Clock, SystemClock};
use meter::api::pool::PoolFeed;
use meter::api::{self, ApiState, listener};
use meter::chain::{ChainProxy, Depth};
use meter::config::{AuditSettings, Limits, ModelConfig, RATE_BPS_MAX, RateConfig};
use meter::identity::{Identity, IdentitySettings, KeyLimits, Neighbours};
use meter::ledger::{
    Advance, BlockRow, ChainEvent, ChainOrigin, ChainPoint, CreditsView, Fact, InstanceId, Ledger, LedgerSettings, Stepped, StoredReceipt,
};
use meter::serving::catalog::Catalog;
use meter::serving::demo::Demo;
use meter::serving::{Parts, Serving};
use reqwest::{RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use wire::deployment::Deployment;
use wire::receipt::seconds_u40;
use wire::typed::{self, KeeperAccess};
use wire::{AccountId, Address, B256, Bytes, Credits, OperatorId, keccak256};

pub const MODEL: &str = "test/tiny";
/// One credit a token.
pub const RATE: u64 = 1_000_000;
pub const CONTEXT_TOKENS: u32 = 512;
/// Of the scripted model, for one token.
pub const OPERATIONS: u64 = 1_000_000_000;
pub const OPERATOR: OperatorId = OperatorId(7);
pub const FALLBACK_OPERATOR: OperatorId = OperatorId(9);
const DEMO_FILE: &str = "demo.json";
const FAR: u64 = 4_000_000_000;
/// Longest wait for anything that must happen.
pub const DEADLINE: Duration = Duration::from_secs(10);

pub struct Network {
    pub address: SocketAddr,
    pub ledger: Ledger,
    pub serving: Serving,
    pub identity: Identity,
    pub keeper: PrivateKeySigner,
    pub stop: CancellationToken,
    pub served: JoinHandle<()>,
    pub client: reqwest::Client,
    tip: std::sync::Mutex<Option<ChainPoint>>,
    next_account: std::sync::atomic::AtomicU32,
    folder: Arc<tempfile::TempDir>,
}

/// An account, and an API key of it.
#[derive(Clone)]
pub struct Payer {
    pub account: AccountId,
    pub key: String,
}

/// What a payer has on chain.
#[derive(Clone, Copy)]
pub struct Funds {
    pub deposited: u64,
    pub exposure: u64,
    pub cap: u64,
    pub valid_until: u64,
    pub key_limit: Option<u64>,
}

impl Default for Funds {
    fn default() -> Self {
        Self { deposited: 100_000, exposure: 100_000, cap: 100_000, valid_until: FAR, key_limit: None }
    }
}

pub fn deployment(settler: Address) -> Deployment {
    Deployment {
        chain_id: 31_337,
        deploy_block: 0,
        prlx: Address::repeat_byte(1),
        credits: Address::repeat_byte(2),
        settlement: Address::repeat_byte(3),
        registry: Address::repeat_byte(4),
        exit_delay: 60,
        velocity_window: 1,
        fee_bps: 1_000,
        settler,
    }
}

fn wallet_of(account: AccountId) -> Address {
    Address::left_padding_from(&account.0.to_be_bytes())
}

pub fn model_folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/model"))
}

impl Network {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut Limits)) -> Self {
        let unaudited = AuditSettings { rate_bps: 0, ..AuditSettings::default() };
        Self::start_in(Arc::new(tempfile::tempdir().unwrap()), None, unaudited, change).await
    }

    /// A meter that audits at `rate_bps`, and gives auditors `timeout_ms`.
    pub async fn start_auditing(rate_bps: u32, timeout_ms: u64) -> Self {
        let audits = AuditSettings { rate_bps, timeout_ms, ..AuditSettings::default() };
        Self::start_in(Arc::new(tempfile::tempdir().unwrap()), None, audits, |_| {}).await
    }

    /// Another meter over what this one had on disk, which must be stopped.
    pub async fn restarted(self) -> Self {
        self.stop.cancel();
        self.served.await.unwrap();
        self.ledger.close().await;
        let audits = AuditSettings { rate_bps: RATE_BPS_MAX, ..AuditSettings::default() };
        let tip = *self.tip.lock().unwrap();
        let next_account = self.next_account.load(std::sync::atomic::Ordering::SeqCst);
        let network = Self::start_in(self.folder, tip, audits, |_| {}).await;
        network.next_account.store(next_account, std::sync::atomic::Ordering::SeqCst);
        network
    }

    async fn start_in(
        folder: Arc<tempfile::TempDir>,
        tip: Option<ChainPoint>,
        audits: AuditSettings,
        change: impl FnOnce(&mut Limits),
    ) -> Self {
        daemon::install_tls();
        let url = format!("sqlite://{}", folder.path().join("meter.db").display());
        let clock = SystemClock::shared();
        let settler = PrivateKeySigner::random();
        let keeper = PrivateKeySigner::random();
        let mut limits = Limits { cancel_timeout_ms: 1_000, registry_check_ms: 200, ..Limits::default() };
        change(&mut limits);

        let ledger = Ledger::open(&url, LedgerSettings::of(InstanceId("meter-1".into())), clock.clone()).await.unwrap();
        let neighbours = Neighbours { accounts: Some(Arc::new(ledger.clone())), contract_wallets: None };
        let identity = Identity::open(&url, IdentitySettings::default(), clock.clone(), neighbours).await.unwrap();
        let model = ModelConfig {
            id: MODEL.into(),
            folder: model_folder().to_owned(),
            context_tokens: CONTEXT_TOKENS,
            numeric_contract: "parallelix-x8-1".into(),
            model_root: Some(B256::repeat_byte(0xaa)),
            operations_per_token: Some(OPERATIONS),
            rates: vec![RateConfig { credits_per_million_tokens: RATE, starts_at: 0 }],
        };
        let serving = Serving::new(Parts {
            catalog: Catalog::open(&[model]).unwrap(),
            ledger: ledger.clone(),
            deployment: deployment(settler.address()),
            fallback_operators: [FALLBACK_OPERATOR].into(),
            limits: limits.clone(),
            audits,
            lot: Arc::new(|| rand::random_range(0..RATE_BPS_MAX)),
            clock,
        });
        let state = ApiState {
            serving: serving.clone(),
            identity: identity.clone(),
            ledger: ledger.clone(),
            settler,
            keepers: Arc::new(BTreeSet::from([keeper.address()])),
            readiness: Readiness::of(&[]),
            rendering: Arc::new(Semaphore::new(2)),
            pool: PoolFeed::new(limits.readers_max),
            chain: ChainProxy::new("http://127.0.0.1:1", &deployment(Address::ZERO)).unwrap(),
            uptime: meter::uptime::Board::default(),
            depth: Depth::Confirmations(3),
            demo: Demo::of(Some(folder.path().join(DEMO_FILE))),
            strict_transport: None,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let served = tokio::spawn(serve(listener, api::router(state), limits, stop.clone(), serving.clone()));
        let client = reqwest::Client::builder().timeout(DEADLINE).build().unwrap();
        Self {
            address,
            ledger,
            serving,
            identity,
            keeper,
            stop,
            served,
            client,
            tip: std::sync::Mutex::new(tip),
            next_account: 1.into(),
            folder,
        }
    }

    /// One more block of the chain, with these facts, deep enough at once.
    pub async fn mine(&self, facts: Vec<Fact>) {
        self.mine_at(SystemClock.now_s(), facts).await;
    }

    /// As `mine`, at a time of the chain's own.
    pub async fn mine_at(&self, timestamp: u64, facts: Vec<Fact>) {
        let from = *self.tip.lock().unwrap();
        let number = from.map_or(1, |tip| tip.number + 1);
        let to = ChainPoint { number, hash: keccak256(number.to_be_bytes()), timestamp };
        let count = facts.len();
        let events = facts.into_iter().enumerate().map(|(index, fact)| ChainEvent {
            block_number: number,
            block_hash: to.hash,
            timestamp,
            transaction: keccak256(to.hash),
            log_index: index as u64,
            fact,
        });
        let step = Advance {
            origin: ChainOrigin { chain_id: 31_337, vault: Address::repeat_byte(2) },
            from,
            to,
            blocks: vec![BlockRow { number: number as i64, hash: to.hash, parent: from.map_or(B256::ZERO, |tip| tip.hash) }],
            events: events.collect(),
        };
        assert_eq!(self.ledger.advance(step).await.unwrap(), Stepped::Done(count));
        *self.tip.lock().unwrap() = Some(to);
    }

    /// Registers a node key.
    pub async fn register(&self, operator: OperatorId, node: Address) {
        self.mine(vec![Fact::NodeKeyAdded { operator, node }]).await;
    }

    /// A wallet with the usual funds.
    pub async fn payer(&self) -> Payer {
        self.payer_with(Funds::default()).await
    }

    pub async fn payer_with(&self, funds: Funds) -> Payer {
        let account = self.account_id();
        self.funded(account, wallet_of(account), funds).await
    }

    /// The account of a wallet that can sign, with the usual funds.
    pub async fn payer_of(&self, wallet: Address) -> Payer {
        self.funded(self.account_id(), wallet, Funds::default()).await
    }

    fn account_id(&self) -> AccountId {
        AccountId(self.next_account.fetch_add(1, std::sync::atomic::Ordering::SeqCst))
    }

    async fn funded(&self, account: AccountId, wallet: Address, funds: Funds) -> Payer {
        let mut facts = vec![Fact::AccountOpened { account, wallet }];
        if funds.deposited > 0 {
            facts.push(Fact::Deposited { account, amount: funds.deposited, net_deposited: funds.deposited });
        }
        if funds.valid_until > 0 {
            facts.push(Fact::Authorized {
                account,
                authorized_cum: funds.cap,
                exposure: funds.exposure,
                settle_deadline: funds.valid_until + 60,
                valid_until: funds.valid_until,
                nonce: 0,
            });
        }
        self.mine(facts).await;
        let credits = funds.key_limit.map(|limit| Credits::new(limit).unwrap());
        let limits = KeyLimits { credits, ..KeyLimits::default() };
        let key = self.identity.create_key(wallet, "test", limits).await.unwrap().key.reveal().to_owned();
        Payer { account, key }
    }

    /// Where the operator of this meter publishes an answer.
    pub fn demo_file(&self) -> PathBuf {
        self.folder.path().join(DEMO_FILE)
    }

    /// An API key of the account's wallet.
    pub async fn key_of(&self, account: AccountId, limits: KeyLimits) -> String {
        self.identity.create_key(wallet_of(account), "test", limits).await.unwrap().key.reveal().to_owned()
    }

    pub fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(format!("http://{}{path}", self.address))
    }

    pub fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(format!("http://{}{path}", self.address))
    }

    /// A chat request of `payer`; `extra` replaces or adds fields.
    pub fn chat(&self, payer: &Payer, extra: Value) -> RequestBuilder {
        let mut body = json!({ "model": MODEL, "messages": [{ "role": "user", "content": "hello" }], "max_tokens": 20, "temperature": 0 });
        for (field, value) in extra.as_object().unwrap() {
            body[field] = value.clone();
        }
        self.post("/v1/chat/completions").bearer_auth(&payer.key).json(&body)
    }

    pub async fn credits(&self, payer: &Payer) -> CreditsView {
        self.ledger.credits(payer.account).await.unwrap()
    }

    /// Available, held and unsettled, in credits.
    pub async fn money(&self, payer: &Payer) -> (u64, u64, u64) {
        let view = self.credits(payer).await;
        (view.available.get(), view.held.get(), view.unsettled.get())
    }

    pub async fn receipts(&self, payer: &Payer) -> Vec<StoredReceipt> {
        self.ledger.receipts(payer.account, 100, None).await.unwrap()
    }

    pub async fn assert_books_are_right(&self) {
        let report = self.ledger.audit().await.unwrap();
        assert!(report.clean(), "{report:?}");
    }
}

async fn serve(listener: TcpListener, routes: Router, limits: Limits, stop: CancellationToken, serving: Serving) {
    listener::serve(listener, routes, &limits, &[], stop, serving.drain()).await;
}

/// A keeper's pass, signed by `signer`.
pub fn keeper_pass(signer: &PrivateKeySigner, named: Address, valid_until: u64) -> String {
    let access = KeeperAccess { keeper: named, validUntil: seconds_u40(valid_until) };
    let domain = deployment(Address::ZERO).settlement_domain();
    let signature = Bytes::from(typed::sign(&access, &domain, signer).unwrap());
    format!("Keeper {named}.{valid_until}.{signature}")
}

/// Status and JSON of an answer.
pub async fn answered(request: RequestBuilder) -> (StatusCode, Value) {
    let response = request.send().await.unwrap();
    let status = response.status();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
}

/// Events of a stream: the JSON of each `data:` line but `[DONE]`, which must be the last.
pub fn events(body: &str) -> Vec<Value> {
    let lines: Vec<&str> = body.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).collect();
    let (last, events) = lines.split_last().expect("a stream has events");
    assert_eq!(*last, "[DONE]", "{body}");
    events.iter().map(|event| serde_json::from_str(event).unwrap()).collect()
}

/// Text of a stream's choices.
pub fn streamed_text(events: &[Value]) -> String {
    events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect()
}

/// Looks again until `look` has something, at most until the deadline.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
