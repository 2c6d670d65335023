//! Signing in, keys and refusals as a client sees them, through the whole router.

use std::collections::BTreeSet;
use std::sync::Arc;

use alloy::primitives::aliases::U40;
use alloy::signers::local::PrivateKeySigner;
use axum::body::Body;
use daemon::admin::Readiness;
use daemon::clock::ManualClock;
use http::Response;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tower::ServiceExt;
use wire::deployment::Deployment;
use wire::typed;

use super::*;
use crate::config::Limits;
use crate::identity::{Identity, IdentitySettings, Neighbours};
use crate::ledger::{InstanceId, Ledger, LedgerSettings};
use crate::serving::catalog::Catalog;
use crate::serving::{Parts, Serving};

pub(in super::super) const NOW_S: u64 = 1_900_000_000;
pub(in super::super) const OWN_PAGE: (&str, &str) = ("sec-fetch-site", "same-origin");

pub(in super::super) struct Meter {
    pub(in super::super) state: ApiState,
    pub(in super::super) wallet: PrivateKeySigner,
    clock: Arc<ManualClock>,
    _folder: tempfile::TempDir,
}

pub(in super::super) struct Reply {
    pub(in super::super) status: u16,
    pub(in super::super) headers: HeaderMap,
    pub(in super::super) body: Value,
}

impl Reply {
    pub(in super::super) fn code(&self) -> (u16, &str) {
        (self.status, self.body["error"]["code"].as_str().unwrap_or_default())
    }
}

impl Meter {
    pub(in super::super) async fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("meter.sqlite").display());
        let clock = ManualClock::at_s(NOW_S);
        let ledger = Ledger::open(&url, LedgerSettings::of(InstanceId("test".into())), clock.clone()).await.unwrap();
        let neighbours = Neighbours { accounts: Some(Arc::new(ledger.clone())), contract_wallets: None };
        let identity = Identity::open(&url, IdentitySettings::default(), clock.clone(), neighbours).await.unwrap();
        let contract = Address::repeat_byte;
        let deployment = Deployment {
            chain_id: 31_337,
            deploy_block: 0,
            prlx: contract(0xaa),
            credits: contract(0xcc),
            settlement: contract(0xdd),
            registry: contract(0xee),
            exit_delay: 3_600,
            velocity_window: 60,
            fee_bps: 500,
            settler: contract(0xff),
        };
        let page_deployment = deployment.clone();
        let serving = Serving::new(Parts {
            catalog: Catalog::default(),
            ledger: ledger.clone(),
            deployment,
            fallback_operators: BTreeSet::new(),
            limits: Limits::default(),
            audits: crate::config::AuditSettings::default(),
            lot: Arc::new(|| 0),
            clock: clock.clone(),
        });
        let settler = PrivateKeySigner::from_bytes(&B256::repeat_byte(0x55)).unwrap();
        let wallet = PrivateKeySigner::from_bytes(&B256::repeat_byte(0x11)).unwrap();
        let state = ApiState {
            serving,
            identity,
            ledger,
            settler,
            keepers: Arc::default(),
            readiness: Readiness::of(&[]),
            rendering: Arc::new(Semaphore::new(1)),
            pool: super::super::pool::PoolFeed::new(1),
            chain: crate::chain::ChainProxy::new("http://127.0.0.1:1", &page_deployment).unwrap(),
            uptime: crate::uptime::Board::default(),
            depth: crate::chain::Depth::Finalized,
            demo: crate::serving::demo::Demo::default(),
            strict_transport: super::super::strict_transport(60),
        };
        Self { state, wallet, clock, _folder: folder }
    }

    pub(in super::super) async fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Reply {
        let mut request = http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response: Response<Body> = super::super::router(self.state.clone()).oneshot(request.body(body.into()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        Reply { status: parts.status.as_u16(), headers: parts.headers, body: serde_json::from_slice(&bytes).unwrap_or_default() }
    }

    /// A body for `POST /v1/session` that signs in, with numbers as a wallet writes them.
    async fn sign_in_body(&self) -> Value {
        self.sign_in_body_until(NOW_S + 600).await
    }

    async fn sign_in_body_until(&self, sign_deadline_s: u64) -> Value {
        let given = self.call("POST", "/v1/session/challenge", &[], Body::empty()).await;
        assert_eq!((given.status, &given.headers["cache-control"]), (200, &http::HeaderValue::from_static("no-store")));
        let challenge: B256 = serde_json::from_value(given.body["challenge"].clone()).unwrap();
        let signed = SignIn { owner: self.wallet.address(), challenge, signDeadline: U40::from(sign_deadline_s) };
        let domain = self.state.serving.rooms().deployment.credits_domain();
        let signature = Bytes::from(typed::sign(&signed, &domain, &self.wallet).unwrap());
        let fields = json!({ "owner": signed.owner, "challenge": challenge, "signDeadline": sign_deadline_s.to_string() });
        json!({ "secret": given.body["secret"], "sign_in": fields, "signature": signature })
    }

    pub(in super::super) async fn sign_in(&self) -> Reply {
        self.call("POST", "/v1/session", &[OWN_PAGE], self.sign_in_body().await.to_string()).await
    }
}

pub(in super::super) fn bearer(reply: &Reply) -> String {
    format!("Bearer {}", reply.body["session_token"].as_str().unwrap())
}

#[tokio::test]
async fn a_browser_signs_in_and_out_by_cookie() {
    let meter = Meter::open().await;
    let opened = meter.sign_in().await;
    assert_eq!((opened.status, opened.body["wallet"].clone()), (201, json!(meter.wallet.address())));
    let cookie = opened.headers["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();

    let account = meter.call("GET", "/v1/account", &[("cookie", &cookie), OWN_PAGE], Body::empty()).await;
    assert_eq!((account.status, &account.body["account"], &account.body["authorization"]), (200, &Value::Null, &Value::Null));
    assert_eq!(meter.call("GET", "/v1/account", &[("cookie", &cookie)], Body::empty()).await.code(), (403, "cross_site"));

    let closed = meter.call("DELETE", "/v1/session", &[("cookie", &cookie), OWN_PAGE], Body::empty()).await;
    assert_eq!((closed.status, closed.headers["set-cookie"].to_str().unwrap().contains("Max-Age=0")), (204, true));
    assert_eq!(meter.call("GET", "/v1/account", &[("cookie", &cookie), OWN_PAGE], Body::empty()).await.code(), (401, "invalid_session"));
}

const JSON: (&str, &str) = ("content-type", "application/json");

fn cookie_of(opened: &Reply) -> String {
    opened.headers["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned()
}

#[tokio::test]
async fn a_sign_in_ends_the_session_that_its_browser_had_and_no_other() {
    let meter = Meter::open().await;
    let status = async |name: &str, value: &str| meter.call("GET", "/v1/account", &[(name, value), OWN_PAGE], Body::empty()).await.status;
    let sign_in = async |headers: &[(&str, &str)]| meter.call("POST", "/v1/session", headers, meter.sign_in_body().await.to_string()).await;
    let (elsewhere, first) = (meter.sign_in().await, meter.sign_in().await);
    let first_cookie = cookie_of(&first);
    // Believed from memory by now, and ended all the same.
    assert_eq!(status("cookie", &first_cookie).await, 200);

    let second = sign_in(&[("cookie", &first_cookie), OWN_PAGE, JSON]).await;
    let second_cookie = cookie_of(&second);

    assert_eq!((second.status, status("cookie", &second_cookie).await), (201, 200));
    assert_eq!(
        meter.call("GET", "/v1/account", &[("cookie", &first_cookie), OWN_PAGE], Body::empty()).await.code(),
        (401, "invalid_session")
    );
    assert_eq!(status("authorization", &bearer(&first)).await, 401, "its secret counts in no form");
    assert_eq!(status("cookie", &cookie_of(&elsewhere)).await, 200, "another device stays signed in");

    // A program's sessions stand beside each other, and a call that no page of ours made does nothing with a cookie.
    let third = sign_in(&[("authorization", &bearer(&second)), JSON]).await;
    assert_eq!(sign_in(&[("cookie", &second_cookie), JSON]).await.code(), (403, "cross_site"));
    for open in [&elsewhere, &second, &third] {
        assert_eq!(status("authorization", &bearer(open)).await, 200);
    }
}

#[tokio::test]
async fn a_sign_in_that_fails_ends_nothing() {
    let meter = Meter::open().await;
    let cookie = cookie_of(&meter.sign_in().await);
    let mut wrong = meter.sign_in_body().await;
    wrong["sign_in"]["owner"] = json!(Address::ZERO);
    let used = meter.sign_in_body().await;
    assert_eq!(meter.call("POST", "/v1/session", &[OWN_PAGE], used.to_string()).await.status, 201);
    for (body, site, status) in [
        (wrong.to_string(), "same-origin", 401),
        (used.to_string(), "same-origin", 401),
        ("{}".to_owned(), "same-origin", 400),
        (meter.sign_in_body().await.to_string(), "cross-site", 403),
        (meter.sign_in_body().await.to_string(), "same-site", 403),
    ] {
        let refused = meter.call("POST", "/v1/session", &[("cookie", &cookie), ("sec-fetch-site", site), JSON], body).await;
        assert_eq!((refused.status, refused.headers.contains_key("set-cookie")), (status, false));
        assert_eq!(meter.call("GET", "/v1/account", &[("cookie", &cookie), OWN_PAGE], Body::empty()).await.status, 200);
    }
}

#[tokio::test]
async fn somebody_sees_where_they_are_signed_in_and_ends_it_from_there() {
    let meter = Meter::open().await;
    let (first, second, third) = (meter.sign_in().await, meter.sign_in().await, meter.sign_in().await);
    let list = async |of: &Reply| meter.call("GET", "/v1/sessions", &[("authorization", &bearer(of))], Body::empty()).await;
    let end = async |of: &Reply, path: &str| meter.call("DELETE", path, &[("authorization", &bearer(of))], Body::empty()).await;
    let seen = list(&first).await;
    let rows = seen.body["data"].as_array().unwrap();
    assert_eq!((seen.status, rows.len(), &seen.headers["cache-control"]), (200, 3, &"no-store".parse().unwrap()));
    let mine: Vec<_> = rows.iter().filter(|row| row["current"] == true).collect();
    let [mine] = mine[..] else { panic!("one of them is the one that asks: {rows:?}") };
    for row in rows {
        assert!(row["id"].as_str().unwrap().starts_with("sess_") && row["created_at"].as_u64() <= row["last_used_at"].as_u64());
        assert!(row["expires_at"].as_u64() > row["last_used_at"].as_u64());
    }
    let token = first.body["session_token"].as_str().unwrap();
    assert!(!seen.body.to_string().contains(&token[token.len() - 16..]), "no part of a secret");

    let others = list(&second).await;
    let id_of_second = others.body["data"].as_array().unwrap().iter().find(|row| row["current"] == true).unwrap()["id"].clone();
    assert_ne!(id_of_second, mine["id"]);
    let path = format!("/v1/sessions/{}", id_of_second.as_str().unwrap());
    assert_eq!(end(&first, &path).await.status, 204);
    assert_eq!(list(&second).await.code(), (401, "invalid_session"));
    assert_eq!(end(&first, &path).await.code(), (404, "session_not_found"));
    for wrong in ["sess_0000000000000000", "sess_1", "key_1", "sess_+000000000000001"] {
        assert_eq!(end(&first, &format!("/v1/sessions/{wrong}")).await.code(), (404, "session_not_found"), "{wrong}");
    }

    let fourth = meter.sign_in().await;
    let ended = end(&first, "/v1/sessions").await;
    assert_eq!((ended.status, &ended.body), (200, &json!({ "ended": 2 })));
    for gone in [&third, &fourth] {
        assert_eq!(list(gone).await.code(), (401, "invalid_session"));
    }
    assert_eq!(list(&first).await.body["data"].as_array().unwrap().len(), 1);
    assert_eq!(end(&first, "/v1/sessions").await.body, json!({ "ended": 0 }));
}

#[tokio::test]
async fn the_page_asks_whose_session_it_has() {
    let meter = Meter::open().await;
    assert_eq!(meter.call("GET", "/v1/session", &[], Body::empty()).await.code(), (401, "missing_credentials"));
    let opened = meter.sign_in().await;
    let shown = meter.call("GET", "/v1/session", &[("authorization", &bearer(&opened))], Body::empty()).await;
    let expected = json!({
        "user": null, "wallet": meter.wallet.address(), "account": null, "passkeys": 0, "expires_at": NOW_S + 7 * 86_400,
    });
    assert_eq!((shown.status, &shown.body), (200, &expected));
    let made = meter.call("POST", "/v1/keys", &[("authorization", &bearer(&opened))], r#"{"name":"a"}"#).await;
    let key = format!("Bearer {}", made.body["key"].as_str().unwrap());
    assert_eq!(meter.call("GET", "/v1/session", &[("authorization", &key)], Body::empty()).await.code(), (403, "session_required"));
}

#[tokio::test]
async fn a_cookie_changes_nothing_for_another_site() {
    let meter = Meter::open().await;
    let opened = meter.sign_in().await;
    let cookie = opened.headers["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let post = async |headers: &[(&str, &str)]| {
        let headers: Vec<_> = [("cookie", cookie.as_str())].into_iter().chain(headers.iter().copied()).collect();
        meter.call("POST", "/v1/keys", &headers, r#"{"name":"a"}"#).await
    };
    let json = ("content-type", "application/json; charset=utf-8");
    let host = ("host", "meter.example");
    for accepted in [&[json, OWN_PAGE][..], &[json, host, ("origin", "https://meter.example")]] {
        assert_eq!(post(accepted).await.status, 201);
    }
    for refused in [
        &[json][..],
        &[json, ("sec-fetch-site", "none")],
        &[json, ("sec-fetch-site", "same-site")],
        &[json, ("sec-fetch-site", "cross-site"), host, ("origin", "https://meter.example")],
        &[json, host, ("origin", "null")],
        &[json, host, ("origin", "https://meter.example.evil.example")],
        &[OWN_PAGE],
        &[OWN_PAGE, ("content-type", "text/plain")],
        &[OWN_PAGE, ("content-type", "application/x-www-form-urlencoded")],
    ] {
        assert_eq!(post(refused).await.code(), (403, "cross_site"), "{refused:?}");
    }
    let by_bearer = [("authorization", bearer(&opened)), ("sec-fetch-site", "cross-site".to_owned())];
    let by_bearer: Vec<(&str, &str)> = by_bearer.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(meter.call("POST", "/v1/keys", &by_bearer, r#"{"name":"a"}"#).await.status, 201);
}

#[tokio::test]
async fn a_key_is_made_listed_and_revoked_by_a_session_alone() {
    let meter = Meter::open().await;
    let session = bearer(&meter.sign_in().await);
    let by_session = [("authorization", session.as_str())];

    let made = meter.call("POST", "/v1/keys", &by_session, r#"{"name": "laptop", "limit_credits": 5000}"#).await;
    assert_eq!((made.status, &made.body["limit_credits"]), (201, &json!(5000)));
    let key = format!("Bearer {}", made.body["key"].as_str().unwrap());
    let by_key = [("authorization", key.as_str())];
    assert_eq!(meter.call("GET", "/v1/account", &by_key, Body::empty()).await.status, 200);
    for (method, path) in [("GET", "/v1/keys"), ("POST", "/v1/keys"), ("DELETE", "/v1/keys/key_1"), ("DELETE", "/v1/session")] {
        assert_eq!(meter.call(method, path, &by_key, r#"{"name":"x"}"#).await.code(), (403, "session_required"), "{method} {path}");
    }

    let listed = meter.call("GET", "/v1/keys", &by_session, Body::empty()).await;
    assert_eq!((&listed.body["data"][0]["id"], &listed.body["data"][0]["key"]), (&made.body["id"], &Value::Null));
    assert_eq!(listed.body["data"][0]["spent_credits"], json!(0));

    let path = format!("/v1/keys/{}", made.body["id"].as_str().unwrap());
    assert_eq!(meter.call("DELETE", &path, &by_session, Body::empty()).await.status, 200);
    assert_eq!(meter.call("GET", "/v1/account", &by_key, Body::empty()).await.code(), (401, "revoked_api_key"));
    assert_eq!(meter.call("DELETE", "/v1/keys/none", &by_session, Body::empty()).await.code(), (404, "key_not_found"));
}

#[tokio::test]
async fn what_outlives_a_session_is_done_by_a_fresh_one_alone() {
    let meter = Meter::open().await;
    let old = bearer(&meter.sign_in().await);
    let by_old = [("authorization", old.as_str())];
    let make = r#"{"name": "a"}"#;
    let made = meter.call("POST", "/v1/keys", &by_old, make).await;
    assert_eq!(made.status, 201);
    meter.clock.advance_ms(599_000);
    assert_eq!(meter.call("POST", "/v1/keys", &by_old, make).await.status, 201, "of the last ten minutes");

    meter.clock.advance_ms(1_000);

    let dangerous = [
        ("POST", "/v1/keys"),
        ("DELETE", "/v1/passkeys/AQ"),
        ("POST", "/v1/passkeys/registration/options"),
        ("POST", "/v1/session/wallet"),
    ];
    for (method, path) in dangerous {
        let refused = meter.call(method, path, &by_old, make).await;
        assert_eq!(refused.code(), (403, "reauthentication_required"), "{method} {path}");
    }
    for path in ["/v1/keys", "/v1/passkeys", "/v1/session", "/v1/credits"] {
        assert_eq!(meter.call("GET", path, &by_old, Body::empty()).await.status, 200, "{path}");
    }
    let path = format!("/v1/keys/{}", made.body["id"].as_str().unwrap());
    assert_eq!(meter.call("DELETE", &path, &by_old, Body::empty()).await.status, 200, "ending a key is never dangerous");

    let signed = meter.sign_in_body_until(NOW_S + 1_200).await;
    let fresh = bearer(&meter.call("POST", "/v1/session", &[OWN_PAGE], signed.to_string()).await);
    assert_eq!(meter.call("POST", "/v1/keys", &[("authorization", fresh.as_str())], make).await.status, 201);
}

#[tokio::test]
async fn every_answer_says_to_come_by_https_where_people_do() {
    let mut meter = Meter::open().await;
    for path in ["/v1/models", "/v1/none", "/v1/credits", "/healthz"] {
        let reply = meter.call("GET", path, &[], Body::empty()).await;
        assert_eq!(reply.headers["strict-transport-security"], "max-age=60", "{path}");
    }
    meter.state.strict_transport = super::super::strict_transport(0);
    assert!(!meter.call("GET", "/v1/models", &[], Body::empty()).await.headers.contains_key("strict-transport-security"));
}

#[tokio::test]
async fn a_key_says_until_when_it_counts_and_is_refused_from_then_on() {
    let meter = Meter::open().await;
    let session = bearer(&meter.sign_in().await);
    let by_session = [("authorization", session.as_str())];
    let body = json!({ "name": "for a minute", "expires_at": NOW_S + 60 }).to_string();
    let made = meter.call("POST", "/v1/keys", &by_session, body).await;
    assert_eq!((made.status, &made.body["expires_at"], &made.body["models"]), (201, &json!(NOW_S + 60), &Value::Null));
    let key = format!("Bearer {}", made.body["key"].as_str().unwrap());
    let by_key = [("authorization", key.as_str())];
    assert_eq!(meter.call("GET", "/v1/models", &by_key, Body::empty()).await.status, 200);

    meter.clock.advance_ms(60_000);

    for path in ["/v1/account", "/v1/models", "/v1/models/any"] {
        assert_eq!(meter.call("GET", path, &by_key, Body::empty()).await.code(), (401, "key_expired"), "{path}");
    }
    for (body, code, param) in [
        (json!({ "name": "a", "expires_at": NOW_S + 60 }), "invalid_expiry", "expires_at"),
        (json!({ "name": "a", "models": [] }), "invalid_models", "models"),
        (json!({ "name": "a", "models": ["never served"] }), "model_not_found", "models"),
    ] {
        let refused = meter.call("POST", "/v1/keys", &by_session, body.to_string()).await;
        assert_eq!((refused.code().1, &refused.body["error"]["param"]), (code, &json!(param)));
    }
}

#[tokio::test]
async fn every_bad_sign_in_is_refused_with_its_own_code_and_never_a_500() {
    let meter = Meter::open().await;
    let post = async |body: Value| meter.call("POST", "/v1/session", &[OWN_PAGE], body.to_string()).await;
    let bent = async |path: &[&str], value: Value| {
        let mut body = meter.sign_in_body().await;
        let field = path.iter().fold(&mut body, |at, key| &mut at[*key]);
        *field = value;
        body
    };

    let used = meter.sign_in_body().await;
    assert_eq!(post(used.clone()).await.status, 201);
    assert_eq!(post(used).await.code(), (401, "used_challenge"));
    assert_eq!(post(bent(&["secret"], json!(B256::ZERO)).await).await.code(), (401, "unknown_challenge"));
    assert_eq!(post(bent(&["sign_in", "challenge"], json!(B256::ZERO)).await).await.code(), (401, "wrong_challenge"));
    assert_eq!(post(bent(&["sign_in", "owner"], json!(Address::ZERO)).await).await.code(), (401, "wrong_signer"));
    assert_eq!(post(bent(&["sign_in", "signDeadline"], json!(1)).await).await.code(), (401, "expired_signature"));
    assert_eq!(post(bent(&["sign_in", "signDeadline"], json!("99999999999999")).await).await.code(), (400, "invalid_number"));
    assert_eq!(post(bent(&["signature"], json!("0x12")).await).await.code(), (401, "malformed_signature"));
    for body in [bent(&["sign_in"], Value::Null).await, json!({}), json!([]), bent(&["sign_in", "signDeadline"], json!(-1)).await] {
        assert_eq!(post(body).await.status, 400);
    }
    assert_eq!(meter.call("POST", "/v1/session", &[OWN_PAGE], vec![b'x'; 40_000]).await.status, 413);
    let elsewhere = meter.call("POST", "/v1/session", &[("sec-fetch-site", "cross-site")], meter.sign_in_body().await.to_string()).await;
    assert_eq!(elsewhere.code(), (403, "cross_site"));
}

#[tokio::test]
async fn bad_key_requests_name_the_field() {
    let meter = Meter::open().await;
    let session = bearer(&meter.sign_in().await);
    let cases = [
        (r#"{"name": ""}"#, "invalid_name", json!("name")),
        (r#"{"name": "a", "limit_credits": 0}"#, "invalid_limit", json!("limit_credits")),
        (r#"{"name": "a", "limit_credits": 18446744073709551615}"#, "invalid_limit", json!("limit_credits")),
        (r#"{"name": "a", "limit_credits": -1}"#, "invalid_json", Value::Null),
        (r#"{"name": "a", "cap": 1}"#, "invalid_json", Value::Null),
        ("{", "invalid_json", Value::Null),
    ];
    for (body, code, param) in cases {
        let refused = meter.call("POST", "/v1/keys", &[("authorization", &session)], body).await;
        assert_eq!((refused.code(), &refused.body["error"]["param"]), ((400, code), &param), "{body}");
    }
}
