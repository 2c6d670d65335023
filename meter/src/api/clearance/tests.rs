//! Closing as the owner's client sees it, through the whole router, beside a chain that says who the settler is.

use std::sync::{Arc, Mutex};

use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::{SolCall, SolValue};
use axum::body::Body;
use axum::routing::post;
use axum::{Router, extract};
use serde_json::{Value, json};
use wire::contracts::Settlement;
use wire::receipt::seconds_u40;
use wire::typed::{self, ClosureClearance};
use wire::{Address, B256, Bytes, ModelRate};

use super::super::session::tests::{Meter, NOW_S, OWN_PAGE, Reply, bearer};
use super::*;
use crate::chain::ChainProxy;
use crate::ledger::{Advance, BlockRow, ChainEvent, ChainOrigin, ChainPoint, Fact, HoldRefusal, HoldRequest};

const ACCOUNT: AccountId = AccountId(7);
/// Ten minutes after the moment of the tests.
const DEADLINE: u64 = NOW_S + 600;

/// Who the settlement contract has as its settler, and until when they are suspended.
#[derive(Clone, Copy)]
struct OnChain {
    settler: Address,
    suspended_until: u64,
}

struct Bench {
    meter: Meter,
    on_chain: Arc<Mutex<OnChain>>,
    session: String,
}

/// Answers the two views that a clearance needs.
fn view(on_chain: OnChain, request: &Value) -> Value {
    let input: Bytes = serde_json::from_value(request["params"][0]["input"].clone()).unwrap();
    let output = match input[..4].try_into().unwrap() {
        Settlement::settlerCall::SELECTOR => on_chain.settler.abi_encode(),
        Settlement::settlerSuspensionCall::SELECTOR => (on_chain.suspended_until, 0u64).abi_encode(),
        other => panic!("nothing answers {other:?}"),
    };
    json!({ "jsonrpc": "2.0", "id": request["id"], "result": Bytes::from(output) })
}

impl Bench {
    /// A meter whose owner has 1,000 credits and an authorization over all of them.
    async fn open() -> Self {
        let mut meter = Meter::open().await;
        let on_chain = Arc::new(Mutex::new(OnChain { settler: meter.state.settler.address(), suspended_until: NOW_S }));
        let answering = on_chain.clone();
        let answer = async move |extract::Json(request): extract::Json<Value>| Json(view(*answering.lock().unwrap(), &request));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, Router::new().route("/", post(answer))).await });
        meter.state.chain = ChainProxy::new(&url, &meter.state.serving.rooms().deployment).unwrap();
        let bench = Self { session: bearer(&meter.sign_in().await), meter, on_chain };
        let authorized = Fact::Authorized {
            account: ACCOUNT,
            authorized_cum: 1_000,
            exposure: 1_000,
            settle_deadline: NOW_S + 9_000,
            valid_until: NOW_S + 5_400,
            nonce: 4,
        };
        let opened = Fact::AccountOpened { account: ACCOUNT, wallet: bench.meter.wallet.address() };
        bench.mine(vec![opened, Fact::Deposited { account: ACCOUNT, amount: 1_000, net_deposited: 1_000 }, authorized]).await;
        bench
    }

    /// The chain's first block that counts.
    async fn mine(&self, facts: Vec<Fact>) {
        let rooms = self.meter.state.serving.rooms();
        let to = ChainPoint { number: 1, hash: B256::repeat_byte(1), timestamp: NOW_S };
        let event = |(index, fact)| ChainEvent {
            block_number: 1,
            block_hash: to.hash,
            timestamp: to.timestamp,
            transaction: B256::ZERO,
            log_index: index as u64,
            fact,
        };
        let origin = ChainOrigin { chain_id: rooms.deployment.chain_id, vault: rooms.deployment.credits };
        let blocks = vec![BlockRow { number: 1, hash: to.hash, parent: B256::ZERO }];
        let events = facts.into_iter().enumerate().map(event).collect();
        self.meter.state.ledger.advance(Advance { origin, from: None, to, blocks, events }).await.unwrap();
    }

    async fn ask(&self) -> Reply {
        self.meter.call("POST", "/v1/account/clearance", &[("authorization", &self.session)], "{}").await
    }

    async fn hold(&self) -> Result<(), HoldRefusal> {
        let request = HoldRequest {
            request_id: B256::repeat_byte(3),
            account: ACCOUNT,
            key: None,
            key_limit: None,
            model: "m".to_owned(),
            rate: ModelRate(1_000_000),
            prompt_tokens: 1,
            max_tokens: 99,
            worst_case: Credits::new(100).unwrap(),
            expires_at_s: NOW_S + 600,
        };
        self.meter.state.ledger.hold(request).await.map(drop)
    }

    async fn closing_until(&self) -> Value {
        let reply = self.meter.call("GET", "/v1/credits", &[("authorization", &self.session)], Body::empty()).await;
        assert_eq!(reply.status, 200);
        reply.body["closing_until"].clone()
    }
}

#[tokio::test]
async fn an_owner_who_owes_nothing_gets_what_the_vault_takes_and_spends_nothing_meanwhile() {
    let bench = Bench::open().await;
    assert_eq!(bench.closing_until().await, Value::Null);
    let given = bench.ask().await;
    let expected = json!({ "account": ACCOUNT, "settled": 0, "authNonce": 5, "deadline": DEADLINE });
    assert_eq!((given.status, &given.body["clearance"]), (200, &expected), "{}", given.body);
    assert_eq!(given.headers["cache-control"], "no-store");
    let signed = ClosureClearance { account: ACCOUNT.0, settled: 0, authNonce: 5, deadline: seconds_u40(DEADLINE) };
    let signature: Bytes = serde_json::from_value(given.body["signature"].clone()).unwrap();
    let rooms = bench.meter.state.serving.rooms();
    let signer = typed::recover(&signed, &rooms.deployment.credits_domain(), &signature).unwrap();
    assert_eq!(signer, bench.meter.state.settler.address());
    assert_eq!(bench.ask().await.body, given.body);

    assert_eq!(bench.closing_until().await, json!(DEADLINE));
    let refused = ApiError::from(bench.hold().await.unwrap_err()).object();
    assert_eq!(refused["code"], "account_closing");
    assert_eq!(refused["message"], "this account is being closed until 2030-03-17 17:56:40 UTC; nothing can be spent before");
    let facts = &refused["metadata"];
    assert_eq!((&facts["closing_until"], &facts["needed_credits"], &facts["action"]), (&json!(DEADLINE), &json!(100), &json!("wait")));
}

#[tokio::test]
async fn what_is_outstanding_is_named_and_the_account_stays_open() {
    let bench = Bench::open().await;
    bench.hold().await.unwrap();
    let refused = bench.ask().await;
    assert_eq!(refused.code(), (409, "outstanding"));
    let expected = json!({ "held_credits": 100, "held": "0.0000001", "unsettled_credits": 0, "unsettled": "0" });
    assert_eq!(refused.body["error"]["metadata"], expected);
    assert_eq!(bench.closing_until().await, Value::Null);
}

#[tokio::test]
async fn only_the_owners_own_session_asks() {
    let bench = Bench::open().await;
    let (meter, path) = (&bench.meter, "/v1/account/clearance");
    assert_eq!(meter.call("POST", path, &[], "{}").await.code(), (401, "missing_credentials"));
    let made = meter.call("POST", "/v1/keys", &[("authorization", &bench.session)], r#"{"name":"a"}"#).await;
    let key = format!("Bearer {}", made.body["key"].as_str().unwrap());
    assert_eq!(meter.call("POST", path, &[("authorization", &key)], "{}").await.code(), (403, "session_required"));
    let cookie = meter.sign_in().await.headers["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let json = ("content-type", "application/json");
    for elsewhere in [&[("cookie", cookie.as_str()), json][..], &[("cookie", &cookie), json, ("sec-fetch-site", "cross-site")]] {
        assert_eq!(meter.call("POST", path, elsewhere, "{}").await.code(), (403, "cross_site"));
    }
    // There is no naming another account.
    let named = meter.call("POST", path, &[("authorization", &bench.session)], r#"{"account":1}"#).await;
    assert_eq!(named.code(), (400, "invalid_json"));
    assert_eq!(bench.closing_until().await, Value::Null);

    let own = meter.call("POST", path, &[("cookie", &cookie), OWN_PAGE, json], "{}").await;
    assert_eq!((own.status, &own.body["clearance"]["account"]), (200, &json!(ACCOUNT)));
}

#[tokio::test]
async fn a_wallet_without_an_account_has_nothing_to_close() {
    let mut meter = Meter::open().await;
    meter.wallet = PrivateKeySigner::from_bytes(&B256::repeat_byte(0x22)).unwrap();
    let session = bearer(&meter.sign_in().await);
    let refused = meter.call("POST", "/v1/account/clearance", &[("authorization", &session)], Body::empty()).await;
    assert_eq!(refused.code(), (409, "nothing_to_close"));
}

#[tokio::test]
async fn nothing_is_promised_that_the_vault_would_refuse() {
    let bench = Bench::open().await;
    let good = *bench.on_chain.lock().unwrap();
    let set = |on_chain: OnChain| *bench.on_chain.lock().unwrap() = on_chain;
    set(OnChain { settler: Address::repeat_byte(9), ..good });
    assert_eq!(bench.ask().await.code(), (409, "not_the_settler"));
    set(OnChain { suspended_until: NOW_S + 1, ..good });
    let suspended = bench.ask().await;
    assert_eq!(
        (suspended.code(), &suspended.body["error"]["metadata"]),
        ((409, "settler_suspended"), &json!({ "suspended_until": NOW_S + 1 }))
    );
    assert_eq!(bench.closing_until().await, Value::Null);
    bench.hold().await.unwrap();
    bench.meter.state.ledger.release(B256::repeat_byte(3), "cancelled").await.unwrap();

    set(good);
    assert_eq!(bench.ask().await.status, 200);
}

#[tokio::test]
async fn a_chain_that_does_not_answer_promises_nothing() {
    let mut bench = Bench::open().await;
    let deployment = bench.meter.state.serving.rooms().deployment.clone();
    bench.meter.state.chain = ChainProxy::new("http://127.0.0.1:1", &deployment).unwrap();
    assert_eq!(bench.ask().await.code(), (502, "chain_unavailable"));
    assert_eq!(bench.closing_until().await, Value::Null);
}
