//! Signing up and in by passkey, with an authenticator in software that can be made to lie.

use alloy::primitives::aliases::U40;
use alloy::signers::local::PrivateKeySigner;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use p256::ecdsa::signature::Signer;
use p256::ecdsa::{Signature, SigningKey};
use reqwest::{RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use wire::typed::{self, SignIn};
use wire::{Address, B256, Bytes};

use super::network::{Network, answered, deployment};

const ORIGIN: &str = "http://localhost:8080";
const PRESENT: u8 = 0x01;
const VERIFIED: u8 = 0x04;
const ATTESTED: u8 = 0x40;

/// One credential, and how it behaves.
#[derive(Clone)]
struct Authenticator {
    key: SigningKey,
    id: Vec<u8>,
    user: String,
    counter: u32,
    origin: &'static str,
    domain: &'static str,
    flags: u8,
}

impl Authenticator {
    fn new(seed: u8) -> Self {
        Self {
            key: SigningKey::from_slice(&[seed; 32]).unwrap(),
            id: vec![seed; 20],
            user: String::new(),
            counter: 1,
            origin: ORIGIN,
            domain: "localhost",
            flags: PRESENT | VERIFIED,
        }
    }

    fn client_data(&self, kind: &str, challenge: &Value) -> Vec<u8> {
        json!({ "type": kind, "challenge": challenge, "origin": self.origin, "crossOrigin": false }).to_string().into_bytes()
    }

    fn data(&self, extra_flags: u8) -> Vec<u8> {
        let mut data = Sha256::digest(self.domain).to_vec();
        data.push(self.flags | extra_flags);
        data.extend(self.counter.to_be_bytes());
        data
    }

    /// Answers `navigator.credentials.create`.
    fn create(&mut self, options: &Value) -> Value {
        self.user = options["user"]["id"].as_str().unwrap().to_owned();
        let mut data = self.data(ATTESTED);
        data.extend([0; 16]);
        data.extend((self.id.len() as u16).to_be_bytes());
        data.extend(&self.id);
        let point = self.key.verifying_key().to_sec1_point(false);
        // A COSE key as CBOR: {1: 2, 3: -7, -1: 1, -2: x, -3: y}.
        data.extend([0xa5, 0x01, 0x02, 0x03, 0x26, 0x20, 0x01, 0x21, 0x58, 0x20]);
        data.extend(point.x().unwrap());
        data.extend([0x22, 0x58, 0x20]);
        data.extend(point.y().unwrap());
        // {"fmt": "none", "attStmt": {}, "authData": bytes}
        let mut object = vec![0xa3, 0x63];
        object.extend(b"fmt\x64none\x67attStmt\xa0\x68authData\x58");
        object.push(u8::try_from(data.len()).unwrap());
        object.extend(data);
        let client_data = self.client_data("webauthn.create", &options["challenge"]);
        json!({
            "id": BASE64.encode(&self.id), "rawId": BASE64.encode(&self.id), "type": "public-key", "extensions": {},
            "response": { "attestationObject": BASE64.encode(object), "clientDataJSON": BASE64.encode(client_data) },
        })
    }

    /// Answers `navigator.credentials.get`.
    fn get(&mut self, options: &Value) -> Value {
        self.counter += 1;
        let (data, client_data) = (self.data(0), self.client_data("webauthn.get", &options["challenge"]));
        let signature: Signature = self.key.sign(&[data.clone(), Sha256::digest(&client_data).to_vec()].concat());
        json!({
            "id": BASE64.encode(&self.id), "rawId": BASE64.encode(&self.id), "type": "public-key", "extensions": {},
            "response": {
                "authenticatorData": BASE64.encode(data), "clientDataJSON": BASE64.encode(client_data),
                "signature": BASE64.encode(signature.to_der().as_bytes()), "userHandle": self.user,
            },
        })
    }
}

/// A browser's page of this site, with this cookie.
pub fn of_page(request: RequestBuilder, cookie: &str) -> RequestBuilder {
    request.header("cookie", cookie).header("sec-fetch-site", "same-origin")
}

/// The session cookie that a reply sets.
pub fn cookie_of(reply: &Response) -> String {
    reply.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned()
}

async fn post(network: &Network, path: &str, session: Option<&str>, body: Value) -> (StatusCode, Value) {
    let request = network.post(path).json(&body);
    answered(match session {
        Some(session) => request.bearer_auth(session),
        None => request,
    })
    .await
}

async fn register(network: &Network, session: Option<&str>, authenticator: &mut Authenticator) -> (StatusCode, Value) {
    let (status, begun) = post(network, "/v1/passkeys/registration/options", session, json!({ "name": "laptop" })).await;
    assert_eq!(status, StatusCode::OK, "{begun}");
    let selection = &begun["public_key"]["authenticatorSelection"];
    assert_eq!((&selection["userVerification"], &selection["residentKey"]), (&json!("required"), &json!("required")));
    let body = json!({ "ceremony": begun["ceremony"], "credential": authenticator.create(&begun["public_key"]) });
    post(network, "/v1/passkeys/registration", session, body).await
}

async fn sign_in(network: &Network, authenticator: &mut Authenticator) -> (StatusCode, Value) {
    let (status, begun) = post(network, "/v1/passkeys/sign-in/options", None, json!({})).await;
    assert_eq!((status, begun["public_key"]["allowCredentials"].as_array().map(Vec::len)), (StatusCode::OK, Some(0)), "{begun}");
    let body = json!({ "ceremony": begun["ceremony"], "credential": authenticator.get(&begun["public_key"]) });
    post(network, "/v1/passkeys/sign-in", None, body).await
}

fn token(session: &Value) -> &str {
    session["session_token"].as_str().unwrap()
}

/// A body that signs `wallet` in.
pub async fn signed(network: &Network, wallet: &PrivateKeySigner) -> Value {
    let (_, given) = post(network, "/v1/session/challenge", None, json!({})).await;
    let challenge: B256 = serde_json::from_value(given["challenge"].clone()).unwrap();
    let signed = SignIn { owner: wallet.address(), challenge, signDeadline: U40::from(4_000_000_000u64) };
    let signature = Bytes::from(typed::sign(&signed, &deployment(Address::ZERO).credits_domain(), wallet).unwrap());
    json!({
        "secret": given["secret"], "signature": signature,
        "sign_in": { "owner": signed.owner, "challenge": challenge, "signDeadline": 4_000_000_000u64 },
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_signs_up_and_in_without_a_wallet_and_can_not_spend() {
    let network = Network::start().await;
    let mut authenticator = Authenticator::new(1);
    let (status, opened) = register(&network, None, &mut authenticator).await;
    assert_eq!((status, &opened["wallet"], &opened["passkeys"]), (StatusCode::CREATED, &Value::Null, &json!(1)), "{opened}");
    assert_eq!(opened["user"].as_str().unwrap().len(), 32);
    let (_, shown) = answered(network.get("/v1/session").bearer_auth(token(&opened))).await;
    assert_eq!((&shown["user"], &shown["session_token"]), (&opened["user"], &Value::Null));

    let (status, again) = sign_in(&network, &mut authenticator).await;
    assert_eq!((status, &again["user"]), (StatusCode::CREATED, &opened["user"]), "{again}");
    let (_, listed) = answered(network.get("/v1/passkeys").bearer_auth(token(&again))).await;
    assert_eq!((&listed["data"][0]["name"], listed["data"][0]["last_used_at"].is_u64()), (&json!("laptop"), true), "{listed}");

    for (method, path) in [("POST", "/v1/chat/completions"), ("POST", "/v1/jobs"), ("POST", "/v1/keys")] {
        let request = network.client.request(method.parse().unwrap(), format!("http://{}{path}", network.address));
        let (status, body) = answered(request.bearer_auth(token(&again)).json(&json!({ "name": "x" }))).await;
        assert_eq!((status, &body["error"]["code"]), (StatusCode::FORBIDDEN, &json!("wallet_required")), "{path}");
    }
    let (status, credits) = answered(network.get("/v1/credits").bearer_auth(token(&again))).await;
    assert_eq!((status, &credits["spendable_credits"]), (StatusCode::OK, &json!(0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_passkey_ends_the_session_that_its_browser_had_and_no_other() {
    let network = Network::start().await;
    let mut authenticator = Authenticator::new(1);
    let (_, elsewhere) = register(&network, None, &mut authenticator).await;
    let status = async |cookie: &str| of_page(network.get("/v1/session"), cookie).send().await.unwrap().status().as_u16();
    // Both ceremonies open a session; the second half is what the cookie comes with.
    let ceremony = async |authenticator: &mut Authenticator, kind: &str, cookie: &str| {
        let options = of_page(network.post(&format!("/v1/passkeys/{kind}/options")), cookie).json(&json!({}));
        let (_, begun) = answered(options).await;
        let credential =
            if kind == "sign-in" { authenticator.get(&begun["public_key"]) } else { authenticator.create(&begun["public_key"]) };
        let body = json!({ "ceremony": begun["ceremony"], "credential": credential });
        of_page(network.post(&format!("/v1/passkeys/{kind}")), cookie).json(&body).send().await.unwrap()
    };
    let none = "prlx_session=prls_planted";
    let first = cookie_of(&ceremony(&mut authenticator, "sign-in", none).await);
    assert_eq!(status(&first).await, 200);
    let second = cookie_of(&ceremony(&mut authenticator, "sign-in", &first).await);
    assert_eq!((status(&first).await, status(&second).await), (401, 200));
    let third = cookie_of(&ceremony(&mut Authenticator::new(2), "registration", &second).await);
    assert_eq!((status(&second).await, status(&third).await), (401, 200));

    let refused = ceremony(&mut Authenticator { flags: PRESENT, ..authenticator.clone() }, "sign-in", &third).await;
    assert_eq!((refused.status(), status(&third).await), (StatusCode::UNAUTHORIZED, 200));
    assert_eq!(answered(network.get("/v1/session").bearer_auth(token(&elsewhere))).await.0, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_false_passkey_is_refused() {
    let network = Network::start().await;
    let mut honest = Authenticator::new(1);
    register(&network, None, &mut honest).await;
    let mut other = Authenticator::new(2);
    register(&network, None, &mut other).await;
    let refused = async |mut authenticator: Authenticator| {
        let (status, body) = sign_in(&network, &mut authenticator).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{body}");
        body["error"]["code"].as_str().unwrap().to_owned()
    };
    assert_eq!(refused(Authenticator { origin: "http://evil.example", ..honest.clone() }).await, "passkey_refused");
    assert_eq!(refused(Authenticator { origin: "http://localhost.evil.example", ..honest.clone() }).await, "passkey_refused");
    assert_eq!(refused(Authenticator { domain: "evil.example", ..honest.clone() }).await, "passkey_refused");
    assert_eq!(refused(Authenticator { flags: PRESENT, ..honest.clone() }).await, "passkey_refused");
    assert_eq!(refused(Authenticator { flags: VERIFIED, ..honest.clone() }).await, "passkey_refused");
    assert_eq!(refused(Authenticator { key: other.key.clone(), ..honest.clone() }).await, "passkey_refused");
    assert_eq!(refused(Authenticator { user: other.user.clone(), ..honest.clone() }).await, "unknown_passkey");
    assert_eq!(refused(Authenticator { id: vec![9; 20], ..honest.clone() }).await, "unknown_passkey");
    let (status, _) = sign_in(&network, &mut honest.clone()).await;
    assert_eq!(status, StatusCode::CREATED);
    // Its copy was used meanwhile, so this one's counter is behind.
    assert_eq!(refused(Authenticator { counter: 0, ..honest.clone() }).await, "passkey_refused");

    // A challenge counts once, also for an honest answer, and only for its own kind.
    let (_, begun) = post(&network, "/v1/passkeys/sign-in/options", None, json!({})).await;
    honest.counter += 1;
    let body = json!({ "ceremony": begun["ceremony"], "credential": honest.get(&begun["public_key"]) });
    assert_eq!(post(&network, "/v1/passkeys/sign-in", None, body.clone()).await.0, StatusCode::CREATED);
    let (status, replayed) = post(&network, "/v1/passkeys/sign-in", None, body).await;
    assert_eq!((status, &replayed["error"]["code"]), (StatusCode::UNAUTHORIZED, &json!("unknown_ceremony")));
    let (_, begun) = post(&network, "/v1/passkeys/sign-in/options", None, json!({})).await;
    let (_, later) = post(&network, "/v1/passkeys/sign-in/options", None, json!({})).await;
    let body = json!({ "ceremony": later["ceremony"], "credential": honest.get(&begun["public_key"]) });
    let (_, crossed) = post(&network, "/v1/passkeys/sign-in", None, body).await;
    assert_eq!(crossed["error"]["code"], "passkey_refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_false_registration_is_refused() {
    let network = Network::start().await;
    let lies = [
        Authenticator { origin: "http://evil.example", ..Authenticator::new(1) },
        Authenticator { domain: "evil.example", ..Authenticator::new(1) },
        Authenticator { flags: PRESENT, ..Authenticator::new(1) },
    ];
    for mut lie in lies {
        let (status, body) = register(&network, None, &mut lie).await;
        assert_eq!((status, &body["error"]["code"]), (StatusCode::UNAUTHORIZED, &json!("passkey_refused")), "{body}");
    }
    let (_, first) = register(&network, None, &mut Authenticator::new(1)).await;
    let (status, body) = register(&network, None, &mut Authenticator::new(1)).await;
    assert_eq!((status, &body["error"]["code"]), (StatusCode::CONFLICT, &json!("passkey_not_added")), "{body}");

    // Begun by one session and ended by another, or by none.
    let (_, second) = register(&network, None, &mut Authenticator::new(2)).await;
    for stranger in [Some(token(&second)), None] {
        let (_, begun) = post(&network, "/v1/passkeys/registration/options", Some(token(&first)), json!({})).await;
        let body = json!({ "ceremony": begun["ceremony"], "credential": Authenticator::new(3).create(&begun["public_key"]) });
        let (status, body) = post(&network, "/v1/passkeys/registration", stranger, body).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{body}");
    }
    for name in ["", " ", &"x".repeat(65), "a\u{7}"] {
        let (status, body) = post(&network, "/v1/passkeys/registration/options", None, json!({ "name": name })).await;
        assert_eq!((status, &body["error"]["code"]), (StatusCode::BAD_REQUEST, &json!("invalid_name")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_way_in_stays_and_anothers_passkey_is_no_passkey() {
    let network = Network::start().await;
    let mut first = Authenticator::new(1);
    let (_, session) = register(&network, None, &mut first).await;
    let (_, stranger) = register(&network, None, &mut Authenticator::new(9)).await;
    let remove = async |session: &Value, id: &[u8]| {
        let path = format!("http://{}/v1/passkeys/{}", network.address, BASE64.encode(id));
        let response = network.client.delete(path).bearer_auth(token(session)).send().await.unwrap();
        (response.status().as_u16(), serde_json::from_str::<Value>(&response.text().await.unwrap()).unwrap_or_default())
    };
    assert_eq!(remove(&session, &first.id).await.1["error"]["code"], "last_way_in");
    assert_eq!(remove(&stranger, &first.id).await.0, 404);
    assert_eq!(remove(&session, &[7; 20]).await.0, 404);
    let mut second = Authenticator::new(2);
    let (_, both) = register(&network, Some(token(&session)), &mut second).await;
    assert_eq!((&both["passkeys"], &both["user"]), (&json!(2), &session["user"]));
    assert_eq!(remove(&session, &first.id).await.0, 204);
    assert_eq!(sign_in(&network, &mut first).await.1["error"]["code"], "unknown_passkey");
    assert_eq!(sign_in(&network, &mut second).await.0, StatusCode::CREATED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wallet_is_linked_by_its_signature_and_to_one_user() {
    let network = Network::start().await;
    let wallet = PrivateKeySigner::from_slice(&[5; 32]).unwrap();
    let mut authenticator = Authenticator::new(1);
    let (_, session) = register(&network, None, &mut authenticator).await;
    let body = signed(&network, &wallet).await;
    let (status, linked) = post(&network, "/v1/session/wallet", Some(token(&session)), body.clone()).await;
    assert_eq!((status, &linked["wallet"], &linked["user"]), (StatusCode::OK, &json!(wallet.address()), &session["user"]), "{linked}");
    let (status, replayed) = post(&network, "/v1/session/wallet", Some(token(&session)), body).await;
    assert_eq!((status, &replayed["error"]["code"]), (StatusCode::UNAUTHORIZED, &json!("used_challenge")));
    // From both sides.
    let (_, by_wallet) = post(&network, "/v1/session", None, signed(&network, &wallet).await).await;
    assert_eq!((&by_wallet["user"], &by_wallet["passkeys"]), (&session["user"], &json!(1)));
    assert_eq!(sign_in(&network, &mut authenticator).await.1["wallet"], json!(wallet.address()));

    let (_, other) = register(&network, None, &mut Authenticator::new(2)).await;
    let (status, body) = post(&network, "/v1/session/wallet", Some(token(&other)), signed(&network, &wallet).await).await;
    assert_eq!((status, &body["error"]["code"]), (StatusCode::CONFLICT, &json!("wallet_linked_elsewhere")));
    let (status, _) = post(&network, "/v1/session/wallet", None, signed(&network, &wallet).await).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);

    // Without passkeys the wallet is its user's only way in, and may go to another one.
    let path = format!("http://{}/v1/passkeys/{}", network.address, BASE64.encode(&authenticator.id));
    assert_eq!(network.client.delete(path).bearer_auth(token(&session)).send().await.unwrap().status(), StatusCode::NO_CONTENT);
    let (status, moved) = post(&network, "/v1/session/wallet", Some(token(&other)), signed(&network, &wallet).await).await;
    assert_eq!((status, &moved["wallet"]), (StatusCode::OK, &json!(wallet.address())));
    let (_, left) = answered(network.get("/v1/session").bearer_auth(token(&session))).await;
    assert_eq!(left["wallet"], Value::Null);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wallets_session_becomes_a_users_with_its_first_passkey() {
    let network = Network::start().await;
    let wallet = PrivateKeySigner::from_slice(&[5; 32]).unwrap();
    let (_, session) = post(&network, "/v1/session", None, signed(&network, &wallet).await).await;
    assert_eq!((&session["user"], &session["passkeys"]), (&Value::Null, &json!(0)));
    let mut authenticator = Authenticator::new(1);
    let (status, opened) = register(&network, Some(token(&session)), &mut authenticator).await;
    assert_eq!((status, &opened["wallet"]), (StatusCode::CREATED, &json!(wallet.address())), "{opened}");
    let (_, shown) = answered(network.get("/v1/session").bearer_auth(token(&session))).await;
    assert_eq!((&shown["user"], &shown["wallet"]), (&opened["user"], &json!(wallet.address())));
    assert_eq!(sign_in(&network, &mut authenticator).await.1["wallet"], json!(wallet.address()));
    // A key stands in for the wallet, but makes no passkeys.
    let (_, made) = post(&network, "/v1/keys", Some(token(&opened)), json!({ "name": "k" })).await;
    let (status, _) = post(&network, "/v1/passkeys/registration/options", made["key"].as_str(), json!({})).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
}
