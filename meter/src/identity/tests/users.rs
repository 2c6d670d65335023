//! Users, their passkeys and their wallets at rest.

use super::super::passkeys::UserId;
use super::super::store::{NewPasskeyRow, Removal};
use super::*;
use crate::identity::SessionError;

const MAX: u32 = 2;

fn user(byte: u8) -> UserId {
    UserId([byte; 16])
}

async fn add(room: &Room, user: UserId, credential_id: &[u8], wallet: Option<Address>) -> bool {
    let row = NewPasskeyRow { user, wallet, credential_id, name: "laptop", credential: "{}", created_at: NOW_S };
    room.identity.inner.store.add_passkey(&row, MAX).await.unwrap()
}

#[tokio::test]
async fn passkeys_are_stored_once_bounded_and_listed_for_their_user() {
    for room in rooms().await {
        let store = &room.identity.inner.store;
        assert!(add(&room, user(1), b"a", None).await);
        assert!(!add(&room, user(1), b"a", None).await && !add(&room, user(2), b"a", None).await);
        assert!(add(&room, user(1), b"b", None).await && !add(&room, user(1), b"c", None).await, "bounded");
        let listed = room.identity.passkeys(user(1)).await.unwrap();
        assert_eq!(listed.iter().map(|passkey| passkey.id.as_slice()).collect::<Vec<_>>(), [b"a", b"b"]);
        assert_eq!(room.identity.passkeys(user(3)).await.unwrap(), []);
        assert!(store.use_passkey(b"a", "{}", "{1}", NOW_S + 5).await.unwrap());
        assert!(!store.use_passkey(b"a", "{}", "{2}", NOW_S + 6).await.unwrap(), "another use came in between");
        let row = store.passkey(b"a").await.unwrap().unwrap();
        assert_eq!((row.user, row.credential.as_str(), row.last_used_at), (user(1), "{1}", Some(NOW_S + 5)));
        assert_eq!(store.passkey(b"none").await.unwrap(), None);
    }
}

#[tokio::test]
async fn the_last_passkey_goes_only_when_a_wallet_is_left() {
    for room in rooms().await {
        let store = &room.identity.inner.store;
        add(&room, user(1), b"a", None).await;
        assert_eq!(store.remove_passkey(user(2), b"a").await.unwrap(), Removal::Unknown);
        assert_eq!(store.remove_passkey(user(1), b"a").await.unwrap(), Removal::LastWayIn);
        assert!(store.link_wallet(user(1), room.wallet.address()).await.unwrap());
        assert_eq!(store.remove_passkey(user(1), b"a").await.unwrap(), Removal::Removed);
        assert_eq!(store.remove_passkey(user(1), b"a").await.unwrap(), Removal::Unknown);
    }
}

#[tokio::test]
async fn a_wallet_has_one_user_and_sessions_know_both() {
    for room in rooms().await {
        let store = &room.identity.inner.store;
        let wallet = room.wallet.address();
        let by_wallet = room.session().await;
        let of_wallet = bearer(by_wallet.token.reveal());
        assert_eq!(room.identity.authenticate(&of_wallet).await.unwrap().user, None);
        add(&room, user(1), b"a", None).await;
        add(&room, user(2), b"b", None).await;
        let (token, _) = room.identity.open_session(Some(user(1)), None).await.unwrap();
        let of_user = bearer(token.reveal());
        let caller = room.identity.authenticate(&of_user).await.unwrap();
        assert_eq!((caller.user, caller.wallet, caller.account, caller.session), (Some(user(1)), None, None, true));

        assert!(store.link_wallet(user(1), wallet).await.unwrap());
        assert!(!store.link_wallet(user(2), wallet).await.unwrap());
        room.identity.inner.cache.forget_all();
        for presented in [&of_user, &of_wallet] {
            let caller = room.identity.authenticate(presented).await.unwrap();
            assert_eq!((caller.user, caller.wallet, caller.account), (Some(user(1)), Some(wallet), Some(AccountId(7))));
        }
        assert_eq!(room.session().await.user, Some(user(1)));
        assert_eq!(store.user_of_wallet(Address::repeat_byte(9)).await.unwrap(), None);

        assert_eq!(store.remove_passkey(user(1), b"a").await.unwrap(), Removal::Removed);
        assert!(store.link_wallet(user(2), wallet).await.unwrap(), "a user without passkeys gives its wallet up");
        assert_eq!(store.user_of_wallet(wallet).await.unwrap(), Some(user(2)));
    }
}

#[tokio::test]
async fn a_users_sessions_are_bounded_like_a_wallets() {
    let settings = IdentitySettings { sessions_per_wallet_max: 1, ..IdentitySettings::default() };
    for room in rooms_with(settings, None).await {
        add(&room, user(1), b"a", None).await;
        let by_wallet = room.session().await;
        let (first, _) = room.identity.open_session(Some(user(1)), None).await.unwrap();
        room.advance_s(1);
        let (second, _) = room.identity.open_session(Some(user(1)), None).await.unwrap();
        assert_eq!(auth_refusal(&room, &bearer(first.reveal())).await, "invalid_session");
        room.identity.authenticate(&bearer(second.reveal())).await.unwrap();
        room.identity.authenticate(&bearer(by_wallet.token.reveal())).await.unwrap();
    }
}

#[tokio::test]
async fn an_ip_address_is_no_domain_of_passkeys() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("meter.sqlite").display());
    for (domain, origin) in [("127.0.0.1", "http://127.0.0.1:8080"), ("chat.example.com", "https://example.com"), ("localhost", "nowhere")]
    {
        let settings = IdentitySettings { passkey_domain: domain.into(), passkey_origin: origin.into(), ..IdentitySettings::default() };
        let refused = Identity::open(&url, settings, ManualClock::at_s(NOW_S), Neighbours::default()).await.err().unwrap().to_string();
        assert!(refused.contains(origin) && refused.contains("passkey_domain"), "{refused}");
    }
}

#[tokio::test]
async fn the_sessions_of_a_user_and_its_wallet_are_listed_together_and_nobody_elses() {
    for room in rooms().await {
        let store = &room.identity.inner.store;
        add(&room, user(1), b"a", None).await;
        add(&room, user(2), b"b", None).await;
        let by_wallet = bearer(room.session().await.token.reveal());
        let (token, _) = room.identity.open_session(Some(user(1)), None).await.unwrap();
        let by_passkey = bearer(token.reveal());
        let (others, _) = room.identity.open_session(Some(user(2)), None).await.unwrap();
        let count = async |headers: &HeaderMap| room.identity.open_sessions(headers).await.unwrap().len();
        assert_eq!((count(&by_wallet).await, count(&by_passkey).await), (1, 1));

        assert!(store.link_wallet(user(1), room.wallet.address()).await.unwrap());
        room.advance_s(100);
        let seen = room.identity.open_sessions(&by_passkey).await.unwrap();
        let current: Vec<bool> = seen.iter().map(|session| session.is_current).collect();
        assert_eq!(current, [true, false], "the last used one first");
        assert_eq!(seen[0].last_used_at, seen[0].created_at + 100);
        let theirs = room.identity.open_sessions(&bearer(others.reveal())).await.unwrap();
        let refused = room.identity.end_session(&by_passkey, theirs[0].id).await;
        assert!(matches!(refused, Err(SessionError::NotFound)), "{refused:?}");

        assert_eq!(room.identity.end_other_sessions(&by_passkey).await.unwrap(), 1);
        assert_eq!(auth_refusal(&room, &by_wallet).await, "invalid_session");
        assert_eq!(count(&bearer(others.reveal())).await, 1);
        // What is over by rest is not open, though it is kept for a while.
        let again = bearer(room.session_at_now().await.token.reveal());
        assert_eq!(count(&again).await, 2);
        room.advance_s(room.identity.inner.settings.session_idle_s - 50);
        assert_eq!(count(&again).await, 2);
        room.advance_s(room.identity.inner.settings.session_idle_s - 50);
        assert_eq!(count(&again).await, 1);
    }
}
