//! Identity as its callers see it, over SQLite always and over PostgreSQL when `DATABASE_URL` names one.

use std::sync::{Arc, Mutex};

use alloy::primitives::aliases::{U40, U48};
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::Eip712Domain;
use async_trait::async_trait;
use daemon::clock::ManualClock;
use http::{HeaderMap, HeaderValue};
use sqlx::{Connection, Row};
use wire::typed::{self, SignIn, SpendAuthorization};
use wire::{AccountId, Address, B256, Credits};

use super::*;

const NOW_S: u64 = 1_900_000_000;

/// One fresh database, dropped at the end of the test where it is a file.
struct Database {
    url: String,
    _folder: tempfile::TempDir,
}

/// Every database that this run can reach, each empty.
async fn databases() -> Vec<Database> {
    let folder = tempfile::tempdir().unwrap();
    let mut databases = vec![Database { url: format!("sqlite://{}", folder.path().join("meter.sqlite").display()), _folder: folder }];
    if let Ok(server) = std::env::var("DATABASE_URL") {
        let schema = format!("identity_{}", uuid::Uuid::now_v7().simple());
        let mut connection = sqlx::PgConnection::connect(&server).await.unwrap();
        sqlx::query(sqlx::AssertSqlSafe(format!("CREATE SCHEMA {schema}"))).execute(&mut connection).await.unwrap();
        let separator = if server.contains('?') { '&' } else { '?' };
        let url = format!("{server}{separator}options=-csearch_path%3D{schema}");
        databases.push(Database { url, _folder: tempfile::tempdir().unwrap() });
    }
    databases
}

/// An identity with a clock of its own, and a wallet with account 7.
struct Room {
    identity: Identity,
    clock: Arc<ManualClock>,
    wallet: PrivateKeySigner,
    domain: Eip712Domain,
    database: Database,
}

struct AccountSeven(Address);

#[async_trait]
impl Accounts for AccountSeven {
    async fn account_of_wallet(&self, wallet: Address) -> Result<Option<AccountId>, Box<dyn std::error::Error + Send + Sync>> {
        Ok((wallet == self.0).then_some(AccountId(7)))
    }
}

async fn rooms() -> Vec<Room> {
    rooms_with(IdentitySettings::default(), None).await
}

async fn rooms_with(settings: IdentitySettings, contract_wallets: Option<Arc<dyn ContractWallets>>) -> Vec<Room> {
    let mut rooms = Vec::new();
    for database in databases().await {
        let clock = ManualClock::at_s(NOW_S);
        let wallet = PrivateKeySigner::from_bytes(&B256::repeat_byte(0x11)).unwrap();
        let neighbours =
            Neighbours { accounts: Some(Arc::new(AccountSeven(wallet.address()))), contract_wallets: contract_wallets.clone() };
        let identity = Identity::open(&database.url, settings.clone(), clock.clone(), neighbours).await.unwrap();
        let domain = typed::credits_domain(31_337, Address::repeat_byte(0xcc));
        rooms.push(Room { identity, clock, wallet, domain, database });
    }
    rooms
}

impl Room {
    fn sign_in_type(&self, challenge: B256) -> SignIn {
        SignIn { owner: self.wallet.address(), challenge, signDeadline: U40::from(NOW_S + 600) }
    }

    fn authorization(&self, challenge: B256) -> SpendAuthorization {
        SpendAuthorization {
            owner: self.wallet.address(),
            cap: 5_000_000_000,
            exposure: U48::from(1_000_000_000u64),
            validUntil: U40::from(NOW_S + 86_400),
            challenge,
            nonce: 0,
            signDeadline: U40::from(NOW_S + 600),
        }
    }

    /// A request that signs in, for tests to bend.
    async fn request(&self) -> SignInRequest {
        let challenge = self.identity.challenge().await.unwrap();
        let signed = self.sign_in_type(challenge.challenge);
        let signature = typed::sign(&signed, &self.domain, &self.wallet).unwrap().to_vec();
        SignInRequest { secret: challenge.secret, kind: SignInKind::SignIn(signed), signature }
    }

    async fn sign_in(&self, request: &SignInRequest) -> Result<Session, SignInError> {
        self.identity.sign_in(request, &self.domain).await
    }

    async fn session(&self) -> Session {
        self.sign_in(&self.request().await).await.unwrap()
    }

    fn advance_s(&self, by_s: u64) {
        self.clock.advance_ms(by_s * 1_000);
    }
}

fn bearer(secret: &str) -> HeaderMap {
    headers(&[("authorization", &format!("Bearer {secret}"))])
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())).collect()
}

async fn refusal(room: &Room, request: &SignInRequest) -> &'static str {
    room.sign_in(request).await.unwrap_err().code()
}

async fn auth_refusal(room: &Room, headers: &HeaderMap) -> &'static str {
    room.identity.authenticate(headers).await.unwrap_err().code()
}

#[tokio::test]
async fn a_signed_challenge_opens_a_session_that_says_wallet_and_account() {
    for room in rooms().await {
        let session = room.session().await;
        assert_eq!((session.wallet, session.expires_at), (room.wallet.address(), NOW_S + 7 * 86_400));
        let caller = room.identity.authenticate(&bearer(session.token.reveal())).await.unwrap();
        assert_eq!(caller, Caller { wallet: room.wallet.address(), account: Some(AccountId(7)), key: None, session: true });
    }
}

#[tokio::test]
async fn a_signed_authorization_opens_a_session_too() {
    for room in rooms().await {
        let challenge = room.identity.challenge().await.unwrap();
        let signed = room.authorization(challenge.challenge);
        let signature = typed::sign(&signed, &room.domain, &room.wallet).unwrap().to_vec();
        let request = SignInRequest { secret: challenge.secret, kind: SignInKind::Authorization(signed), signature };
        assert_eq!(room.sign_in(&request).await.unwrap().wallet, room.wallet.address());
    }
}

#[tokio::test]
async fn a_challenge_is_used_once() {
    for room in rooms().await {
        let request = room.request().await;
        room.sign_in(&request).await.unwrap();
        assert_eq!(refusal(&room, &request).await, "used_challenge");
    }
}

#[tokio::test]
async fn of_many_concurrent_sign_ins_with_one_challenge_one_wins() {
    for room in rooms().await {
        let request = room.request().await;
        let attempts = (0..16).map(|_| room.sign_in(&request));
        let outcomes = futures_util::future::join_all(attempts).await;
        let codes: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err().map(SignInError::code)).collect();
        assert_eq!(codes, ["used_challenge"; 15]);
    }
}

#[tokio::test]
async fn a_failed_attempt_consumes_the_challenge() {
    for room in rooms().await {
        let good = room.request().await;
        let bad = SignInRequest { signature: vec![0; 65], ..good.clone() };
        assert_eq!(refusal(&room, &bad).await, "malformed_signature");
        assert_eq!(refusal(&room, &good).await, "used_challenge");
    }
}

#[tokio::test]
async fn an_expired_challenge_is_refused_and_later_forgotten() {
    for room in rooms().await {
        let request = room.request().await;
        room.advance_s(600);
        assert_eq!(refusal(&room, &request).await, "expired_challenge");
        room.advance_s(3_601);
        room.identity.inner.store.sweep(NOW_S + 4_201, 10).await.unwrap();
        assert_eq!(refusal(&room, &request).await, "unknown_challenge");
    }
}

#[tokio::test]
async fn a_challenge_of_the_clients_making_is_refused() {
    for room in rooms().await {
        let secret = B256::repeat_byte(9);
        let signed = room.sign_in_type(wire::keccak256(secret));
        let signature = typed::sign(&signed, &room.domain, &room.wallet).unwrap().to_vec();
        let request = SignInRequest { secret, kind: SignInKind::SignIn(signed), signature };
        assert_eq!(refusal(&room, &request).await, "unknown_challenge");
    }
}

#[tokio::test]
async fn a_signature_over_another_challenge_is_refused() {
    for room in rooms().await {
        let (first, second) = (room.request().await, room.request().await);
        let mixed = SignInRequest { secret: first.secret, ..second };
        assert_eq!(refusal(&room, &mixed).await, "wrong_challenge");
    }
}

#[tokio::test]
async fn a_signature_past_its_deadline_is_refused() {
    for room in rooms().await {
        let challenge = room.identity.challenge().await.unwrap();
        let signed = SignIn { signDeadline: U40::from(NOW_S - 1), ..room.sign_in_type(challenge.challenge) };
        let signature = typed::sign(&signed, &room.domain, &room.wallet).unwrap().to_vec();
        let request = SignInRequest { secret: challenge.secret, kind: SignInKind::SignIn(signed), signature };
        assert_eq!(refusal(&room, &request).await, "expired_signature");
    }
}

#[tokio::test]
async fn any_changed_field_of_an_authorization_is_refused() {
    type Change = fn(&mut SpendAuthorization);
    let changes: [Change; 5] = [
        |signed| signed.owner = Address::repeat_byte(0x22),
        |signed| signed.cap += 1,
        |signed| signed.exposure += U48::from(1u64),
        |signed| signed.validUntil += U40::from(1u64),
        |signed| signed.nonce += 1,
    ];
    for room in rooms().await {
        for change in changes {
            let challenge = room.identity.challenge().await.unwrap();
            let mut signed = room.authorization(challenge.challenge);
            let signature = typed::sign(&signed, &room.domain, &room.wallet).unwrap().to_vec();
            change(&mut signed);
            let request = SignInRequest { secret: challenge.secret, kind: SignInKind::Authorization(signed), signature };
            assert_eq!(refusal(&room, &request).await, "wrong_signer");
        }
    }
}

#[tokio::test]
async fn a_signature_for_another_chain_vault_contract_or_type_is_refused() {
    let vault = Address::repeat_byte(0xcc);
    for room in rooms().await {
        let elsewhere =
            [typed::credits_domain(1, vault), typed::credits_domain(31_337, Address::ZERO), typed::settlement_domain(31_337, vault)];
        for domain in elsewhere {
            let challenge = room.identity.challenge().await.unwrap();
            let signed = room.sign_in_type(challenge.challenge);
            let signature = typed::sign(&signed, &domain, &room.wallet).unwrap().to_vec();
            let request = SignInRequest { secret: challenge.secret, kind: SignInKind::SignIn(signed), signature };
            let error = room.sign_in(&request).await.unwrap_err();
            assert_eq!(error.code(), "wrong_signer");
            assert!(error.to_string().contains("chain id 31337"), "{error}");
        }
        let challenge = room.identity.challenge().await.unwrap();
        let signature = typed::sign(&room.authorization(challenge.challenge), &room.domain, &room.wallet).unwrap().to_vec();
        let kind = SignInKind::SignIn(room.sign_in_type(challenge.challenge));
        assert_eq!(refusal(&room, &SignInRequest { secret: challenge.secret, kind, signature }).await, "wrong_signer");
    }
}

#[tokio::test]
async fn malleable_short_and_odd_signatures_are_refused() {
    for room in rooms().await {
        let request = room.request().await;
        let mut high_s = request.signature.clone();
        let order = wire::U256::from_be_slice(&hex::decode("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141").unwrap());
        let s = order - wire::U256::from_be_slice(&high_s[32..64]);
        high_s[32..64].copy_from_slice(&s.to_be_bytes::<32>());
        high_s[64] = 55 - high_s[64];
        assert_eq!(refusal(&room, &SignInRequest { signature: high_s, ..request }).await, "malformed_signature");

        for length in [0, 64, 66, 100_000] {
            let request = room.request().await;
            let signature = request.signature.iter().copied().cycle().take(length).collect();
            assert_eq!(refusal(&room, &SignInRequest { signature, ..request }).await, "malformed_signature");
        }
        let mut request = room.request().await;
        request.signature[64] -= 27;
        assert_eq!(refusal(&room, &request).await, "malformed_signature");
    }
}

#[tokio::test]
async fn challenges_are_bounded_and_the_newest_survive() {
    let settings = IdentitySettings { challenges_max: 3, ..IdentitySettings::default() };
    for room in rooms_with(settings, None).await {
        let old = room.request().await;
        room.advance_s(1);
        let mut new = room.request().await;
        for _ in 0..64 {
            new = room.request().await;
        }
        assert_eq!(refusal(&room, &old).await, "unknown_challenge");
        room.sign_in(&new).await.unwrap();
    }
}

struct Contract(Mutex<Option<Verdict>>);

#[async_trait]
impl ContractWallets for Contract {
    async fn accepts(&self, _: Address, _: B256, _: &[u8]) -> Result<Verdict, ContractWalletError> {
        let verdict = *self.0.lock().unwrap();
        verdict.ok_or(ContractWalletError::Timeout { limit: std::time::Duration::from_secs(3) })
    }
}

#[tokio::test]
async fn a_contract_wallet_decides_where_recovery_fails_and_only_there() {
    let cases = [
        (Some(Verdict::Accepted), None),
        (Some(Verdict::Refused), Some("contract_refused")),
        (Some(Verdict::NotAContract), Some("malformed_signature")),
        (None, Some("unavailable")),
    ];
    for (verdict, expected) in cases {
        for room in rooms_with(IdentitySettings::default(), Some(Arc::new(Contract(Mutex::new(verdict))))).await {
            let request = SignInRequest { signature: vec![1; 130], ..room.request().await };
            assert_eq!(room.sign_in(&request).await.err().map(|error| error.code()), expected);
            room.session().await; // a plain key never waits for the chain
        }
    }
}

#[tokio::test]
async fn sign_out_ends_the_session_at_once() {
    for room in rooms().await {
        let session = room.session().await;
        let presented = bearer(session.token.reveal());
        room.identity.authenticate(&presented).await.unwrap();
        room.identity.sign_out(&presented).await.unwrap();
        assert_eq!(auth_refusal(&room, &presented).await, "invalid_session");
        assert_eq!(room.identity.sign_out(&presented).await.unwrap_err().code(), "invalid_session");
    }
}

#[tokio::test]
async fn a_session_ends_by_rest_and_by_age() {
    for room in rooms().await {
        let presented = bearer(room.session().await.token.reveal());
        for _ in 0..7 {
            room.advance_s(86_399);
            room.identity.authenticate(&presented).await.unwrap();
        }
        room.advance_s(7);
        assert_eq!(auth_refusal(&room, &presented).await, "expired_session");

        let rested = bearer(room.session_at_now().await.token.reveal());
        room.advance_s(86_400);
        assert_eq!(auth_refusal(&room, &rested).await, "expired_session");
    }
}

impl Room {
    /// Signs in with a deadline that fits a clock that moved.
    async fn session_at_now(&self) -> Session {
        let challenge = self.identity.challenge().await.unwrap();
        let signed = SignIn { signDeadline: U40::MAX, ..self.sign_in_type(challenge.challenge) };
        let signature = typed::sign(&signed, &self.domain, &self.wallet).unwrap().to_vec();
        self.sign_in(&SignInRequest { secret: challenge.secret, kind: SignInKind::SignIn(signed), signature }).await.unwrap()
    }
}

#[tokio::test]
async fn the_oldest_session_above_the_limit_ends() {
    let settings = IdentitySettings { sessions_per_wallet_max: 2, ..IdentitySettings::default() };
    for room in rooms_with(settings, None).await {
        let mut presented = Vec::new();
        for _ in 0..3 {
            let headers = bearer(room.session().await.token.reveal());
            room.identity.authenticate(&headers).await.unwrap();
            presented.push(headers);
            room.advance_s(1);
        }
        assert_eq!(auth_refusal(&room, &presented[0]).await, "invalid_session");
        room.identity.authenticate(&presented[1]).await.unwrap();
        room.identity.authenticate(&presented[2]).await.unwrap();
    }
}

#[tokio::test]
async fn a_cookie_counts_in_our_own_pages_calls_only() {
    for room in rooms().await {
        let session = room.session().await;
        let cookie = room.identity.cookie().set(&session.token);
        let flags = cookie.to_str().unwrap();
        assert!(flags.contains("HttpOnly; SameSite=Strict") && flags.contains("Path=/") && cookie.is_sensitive());
        let pair = flags.split(';').next().unwrap();

        for accepted in [
            headers(&[("cookie", pair), ("sec-fetch-site", "same-origin")]),
            headers(&[("cookie", &format!("a=b; {pair}; c=d")), ("origin", "http://127.0.0.1:8080"), ("host", "127.0.0.1:8080")]),
        ] {
            assert!(room.identity.authenticate(&accepted).await.unwrap().session);
        }
        for refused in [
            headers(&[("cookie", pair)]),
            headers(&[("cookie", pair), ("sec-fetch-site", "cross-site")]),
            headers(&[("cookie", pair), ("sec-fetch-site", "same-site")]),
            headers(&[("cookie", pair), ("origin", "null"), ("host", "127.0.0.1:8080")]),
            headers(&[("cookie", pair), ("origin", "http://127.0.0.1:8080.evil.example"), ("host", "127.0.0.1:8080")]),
            headers(&[("cookie", pair), ("origin", "http://127.0.0.1:8080"), ("host", "127.0.0.1:8080"), ("sec-fetch-site", "cross-site")]),
        ] {
            assert_eq!(auth_refusal(&room, &refused).await, "cross_site");
        }
        assert!(room.identity.cookie().clear().to_str().unwrap().contains("Max-Age=0"));
    }
}

#[tokio::test]
async fn behind_https_the_cookie_is_secure_and_bound_to_the_host() {
    let settings = IdentitySettings { https: true, ..IdentitySettings::default() };
    for room in rooms_with(settings, None).await {
        let session = room.session().await;
        let cookie = room.identity.cookie().set(&session.token);
        assert!(cookie.to_str().unwrap().starts_with("__Host-prlx_session=prls_") && cookie.to_str().unwrap().ends_with("; Secure"));
        let plain = headers(&[("cookie", &format!("prlx_session={}", session.token.reveal())), ("sec-fetch-site", "same-origin")]);
        assert_eq!(auth_refusal(&room, &plain).await, "missing_credentials");
    }
}

#[tokio::test]
async fn a_key_calls_for_its_wallet_with_its_limit() {
    for room in rooms().await {
        let limit = Some(Credits::new(1_000).unwrap());
        let made = room.identity.create_key(room.wallet.address(), " laptop ", limit).await.unwrap();
        let caller = room.identity.authenticate(&bearer(made.key.reveal())).await.unwrap();
        let facts = ApiKeyFacts { id: made.facts.id, limit };
        assert_eq!(caller, Caller { wallet: room.wallet.address(), account: Some(AccountId(7)), key: Some(facts), session: false });
        let listed = room.identity.list_keys(room.wallet.address()).await.unwrap();
        assert_eq!(listed, [ApiKey { name: "laptop".to_owned(), last_used_at: Some(NOW_S), ..made.facts }]);
        assert!(made.key.reveal().starts_with(&listed[0].prefix));
    }
}

#[tokio::test]
async fn a_key_revoked_mid_way_is_refused_by_the_next_call() {
    for room in rooms().await {
        let made = room.identity.create_key(room.wallet.address(), "a", None).await.unwrap();
        let presented = bearer(made.key.reveal());
        room.identity.authenticate(&presented).await.unwrap();
        room.identity.revoke_key(room.wallet.address(), made.facts.id).await.unwrap();
        assert_eq!(auth_refusal(&room, &presented).await, "revoked_api_key");
        room.advance_s(10);
        room.identity.revoke_key(room.wallet.address(), made.facts.id).await.unwrap();
        assert_eq!(room.identity.list_keys(room.wallet.address()).await.unwrap()[0].revoked_at, Some(NOW_S));
    }
}

#[tokio::test]
async fn another_meters_revocation_arrives_within_the_caches_seconds() {
    for room in rooms().await {
        let other =
            Identity::open(&room.database.url, IdentitySettings::default(), room.clock.clone(), Neighbours::default()).await.unwrap();
        let made = room.identity.create_key(room.wallet.address(), "a", None).await.unwrap();
        let presented = bearer(made.key.reveal());
        room.identity.authenticate(&presented).await.unwrap();
        other.revoke_key(room.wallet.address(), made.facts.id).await.unwrap();
        room.advance_s(5);
        assert_eq!(auth_refusal(&room, &presented).await, "revoked_api_key");
    }
}

#[tokio::test]
async fn another_wallets_key_can_be_neither_seen_nor_revoked() {
    for room in rooms().await {
        let made = room.identity.create_key(room.wallet.address(), "a", None).await.unwrap();
        let stranger = Address::repeat_byte(0x22);
        assert_eq!(room.identity.list_keys(stranger).await.unwrap(), []);
        assert_eq!(room.identity.revoke_key(stranger, made.facts.id).await.unwrap_err().code(), "key_not_found");
        room.identity.authenticate(&bearer(made.key.reveal())).await.unwrap();
    }
}

#[tokio::test]
async fn names_limits_and_counts_of_keys_are_checked() {
    let settings = IdentitySettings { keys_per_wallet_max: 2, ..IdentitySettings::default() };
    for room in rooms_with(settings, None).await {
        let wallet = room.wallet.address();
        let code = |outcome: Result<NewKey, KeyError>| outcome.unwrap_err().code();
        assert_eq!(code(room.identity.create_key(wallet, "  ", None).await), "invalid_name");
        assert_eq!(code(room.identity.create_key(wallet, &"x".repeat(65), None).await), "invalid_name");
        assert_eq!(code(room.identity.create_key(wallet, "a\u{1b}[31m", None).await), "invalid_name");
        assert_eq!(code(room.identity.create_key(wallet, "a", Some(Credits::ZERO)).await), "invalid_limit");
        let first = room.identity.create_key(wallet, "a", None).await.unwrap();
        room.identity.create_key(wallet, "b", Some(Credits::MAX)).await.unwrap();
        assert_eq!(code(room.identity.create_key(wallet, "c", None).await), "too_many_keys");
        room.identity.revoke_key(wallet, first.facts.id).await.unwrap();
        room.identity.create_key(wallet, "c", None).await.unwrap();
    }
}

#[tokio::test]
async fn every_bad_credential_is_refused_with_a_code_of_its_own() {
    for room in rooms().await {
        let unknown_key = secret::mint(secret::Kind::ApiKey).unwrap();
        let unknown_session = secret::mint(secret::Kind::Session).unwrap();
        let mut two = bearer(unknown_key.reveal());
        two.append("authorization", HeaderValue::from_static("Bearer prlx_2"));
        let cases = [
            (HeaderMap::new(), "missing_credentials"),
            (headers(&[("authorization", "Basic YTpi")]), "malformed_authorization"),
            (headers(&[("authorization", "Bearer")]), "malformed_authorization"),
            (two, "malformed_authorization"),
            (bearer("sk-123"), "malformed_api_key"),
            (bearer("prlx_123"), "malformed_api_key"),
            (bearer(&format!("{}x", unknown_key.reveal())), "malformed_api_key"),
            (bearer(unknown_key.reveal()), "invalid_api_key"),
            (bearer(unknown_session.reveal()), "invalid_session"),
        ];
        for (headers, expected) in cases {
            let error = room.identity.authenticate(&headers).await.unwrap_err();
            assert_eq!(error.code(), expected);
            assert!(!error.to_string().contains(&unknown_key.reveal()[5..15]), "{error}");
        }
    }
}

#[tokio::test]
async fn no_secret_stands_in_debug_text() {
    for room in rooms().await {
        let challenge = room.identity.challenge().await.unwrap();
        assert!(!format!("{challenge:?}").contains(&hex::encode(challenge.secret)));
        let request = room.request().await;
        let text = format!("{request:?}");
        assert!(!text.contains(&hex::encode(request.secret)) && !text.contains(&hex::encode(&request.signature[..16])));
        let session = room.sign_in(&request).await.unwrap();
        assert!(!format!("{session:?}").contains(&session.token.reveal()[5..20]));
        let made = room.identity.create_key(room.wallet.address(), "a", None).await.unwrap();
        assert!(!format!("{made:?}").contains(&made.key.reveal()[12..20]));
    }
}

#[tokio::test]
async fn no_secret_can_be_read_from_the_database() {
    for room in rooms().await {
        let request = room.request().await;
        let session = room.sign_in(&request).await.unwrap();
        let made = room.identity.create_key(room.wallet.address(), "a", None).await.unwrap();
        room.identity.authenticate(&bearer(made.key.reveal())).await.unwrap();

        let dump = dump(&room.database.url).await;

        assert!(dump.contains(&made.facts.prefix), "the dump holds the rows");
        for secret in [session.token.reveal(), made.key.reveal()] {
            assert!(!dump.contains(&secret[12..]) && !dump.contains(&hex::encode(&secret[12..])));
        }
        assert!(!dump.contains(&hex::encode(request.secret)) && !dump.contains(&hex::encode(&request.signature)));
    }
}

/// Every row of identity's tables as text, bytes in hex.
async fn dump(url: &str) -> String {
    let mut dump = String::new();
    if url.starts_with("sqlite") {
        let mut connection = sqlx::SqliteConnection::connect(url).await.unwrap();
        for table in ["challenges", "sessions", "api_keys"] {
            let columns = sqlx::query("SELECT name FROM pragma_table_info(?1)").bind(table).fetch_all(&mut connection).await.unwrap();
            for column in columns.iter().map(|row| row.get::<String, _>(0)) {
                let sql = format!(
                    "SELECT CASE typeof({column}) WHEN 'blob' THEN lower(hex({column})) ELSE CAST({column} AS TEXT) END FROM {table}"
                );
                let values: Vec<Option<String>> = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_all(&mut connection).await.unwrap();
                dump.extend(values.into_iter().flatten().map(|value| value + "\n"));
            }
        }
    } else {
        let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
        for table in ["challenges", "sessions", "api_keys"] {
            let sql = format!("SELECT row_to_json(t)::text FROM {table} t");
            let rows: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_all(&mut connection).await.unwrap();
            dump.extend(rows.into_iter().map(|row| row + "\n"));
        }
    }
    dump
}

#[tokio::test]
async fn another_database_scheme_is_refused_by_name() {
    let opened = Identity::open("mysql://x", IdentitySettings::default(), ManualClock::at_s(0), Neighbours::default()).await;
    assert_eq!(opened.err().unwrap().to_string(), "the database URL starts with `mysql`; use sqlite: or postgres:");
}
