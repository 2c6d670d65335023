//! Sessions, cookies and keys in use, and what is left of them at rest.

use daemon::clock::Clock;
use sqlx::Row;
use wire::Credits;

use super::*;

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
async fn a_key_calls_for_its_wallet_with_its_limits() {
    for room in rooms().await {
        let limits = KeyLimits { models: Some(["a".to_owned(), "b/c".to_owned()].into()), ..of_credits(Credits::new(1_000).unwrap()) };
        let made = room.identity.create_key(room.wallet.address(), " laptop ", limits.clone()).await.unwrap();
        let caller = room.identity.authenticate(&bearer(made.key.reveal())).await.unwrap();
        let facts = ApiKeyFacts { id: made.facts.id, limits };
        assert_eq!(
            caller,
            Caller {
                wallet: Some(room.wallet.address()),
                user: None,
                account: Some(AccountId(7)),
                key: Some(facts),
                session: false,
                authenticated_at: 0
            }
        );
        let listed = room.identity.list_keys(room.wallet.address()).await.unwrap();
        assert_eq!(listed, [ApiKey { name: "laptop".to_owned(), last_used_at: Some(NOW_S), ..made.facts }]);
        assert!(made.key.reveal().starts_with(&listed[0].prefix));
    }
}

#[tokio::test]
async fn a_key_revoked_mid_way_is_refused_by_the_next_call() {
    for room in rooms().await {
        let made = room.identity.create_key(room.wallet.address(), "a", KeyLimits::default()).await.unwrap();
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
async fn a_key_ends_at_its_second_and_makes_room_for_another() {
    let settings = IdentitySettings { keys_per_wallet_max: 1, cache_s: 3_600, ..IdentitySettings::default() };
    for room in rooms_with(settings, None).await {
        let limits = KeyLimits { expires_at: Some(NOW_S + 60), ..KeyLimits::default() };
        let made = room.identity.create_key(room.wallet.address(), "a", limits).await.unwrap();
        let presented = bearer(made.key.reveal());
        room.advance_s(59);
        room.identity.authenticate(&presented).await.unwrap();
        let crowded = room.identity.create_key(room.wallet.address(), "b", KeyLimits::default()).await;
        assert_eq!(crowded.unwrap_err().code(), "too_many_keys");

        room.advance_s(1);

        assert_eq!(auth_refusal(&room, &presented).await, "key_expired");
        room.identity.create_key(room.wallet.address(), "b", KeyLimits::default()).await.unwrap();
        let names: Vec<_> = room.identity.list_keys(room.wallet.address()).await.unwrap().into_iter().map(|key| key.name).collect();
        assert_eq!(names, ["b", "a"]);
        room.advance_s(30 * 86_400 + 1);
        room.identity.inner.store.sweep(room.clock.now_s(), 100).await.unwrap();
        assert_eq!(room.identity.list_keys(room.wallet.address()).await.unwrap().len(), 1, "only the ended key is forgotten");
    }
}

#[tokio::test]
async fn another_meters_revocation_arrives_within_the_caches_seconds() {
    for room in rooms().await {
        let other =
            Identity::open(&room.database.url, IdentitySettings::default(), room.clock.clone(), Neighbours::default()).await.unwrap();
        let made = room.identity.create_key(room.wallet.address(), "a", KeyLimits::default()).await.unwrap();
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
        let made = room.identity.create_key(room.wallet.address(), "a", KeyLimits::default()).await.unwrap();
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
        assert_eq!(code(room.identity.create_key(wallet, "  ", KeyLimits::default()).await), "invalid_name");
        assert_eq!(code(room.identity.create_key(wallet, &"x".repeat(65), KeyLimits::default()).await), "invalid_name");
        assert_eq!(code(room.identity.create_key(wallet, "a\u{1b}[31m", KeyLimits::default()).await), "invalid_name");
        assert_eq!(code(room.identity.create_key(wallet, "a", of_credits(Credits::ZERO)).await), "invalid_limit");
        for expires_at in [0, NOW_S, NOW_S + 11 * 366 * 86_400, u64::MAX] {
            let limits = KeyLimits { expires_at: Some(expires_at), ..KeyLimits::default() };
            assert_eq!(code(room.identity.create_key(wallet, "a", limits).await), "invalid_expiry");
        }
        for models in [vec![], vec![String::new(); 65]] {
            let limits = KeyLimits { models: Some(models.into()), ..KeyLimits::default() };
            assert_eq!(code(room.identity.create_key(wallet, "a", limits).await), "invalid_models");
        }
        let first = room.identity.create_key(wallet, "a", KeyLimits::default()).await.unwrap();
        room.identity.create_key(wallet, "b", of_credits(Credits::MAX)).await.unwrap();
        assert_eq!(code(room.identity.create_key(wallet, "c", KeyLimits::default()).await), "too_many_keys");
        room.identity.revoke_key(wallet, first.facts.id).await.unwrap();
        room.identity.create_key(wallet, "c", KeyLimits::default()).await.unwrap();
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
        let made = room.identity.create_key(room.wallet.address(), "a", KeyLimits::default()).await.unwrap();
        assert!(!format!("{made:?}").contains(&made.key.reveal()[12..20]));
    }
}

#[tokio::test]
async fn no_secret_can_be_read_from_the_database() {
    for room in rooms().await {
        let request = room.request().await;
        let session = room.sign_in(&request).await.unwrap();
        let made = room.identity.create_key(room.wallet.address(), "a", KeyLimits::default()).await.unwrap();
        room.identity.authenticate(&bearer(made.key.reveal())).await.unwrap();

        let dump = dump(&room.database.url).await;

        assert!(dump.contains(&made.facts.prefix), "the dump holds the rows");
        for secret in [session.token.reveal(), made.key.reveal()] {
            assert!(!dump.contains(&secret[12..]) && !dump.contains(&hex::encode(&secret[12..])));
        }
        assert!(!dump.contains(&hex::encode(request.secret)) && !dump.contains(&hex::encode(&request.signature)));
    }
}

fn of_credits(credits: Credits) -> KeyLimits {
    KeyLimits { credits: Some(credits), ..KeyLimits::default() }
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
