//! Challenges, signatures, and who may sign in.

use std::sync::Mutex;

use super::*;

#[tokio::test]
async fn a_signed_challenge_opens_a_session_that_says_wallet_and_account() {
    for room in rooms().await {
        let session = room.session().await;
        assert_eq!((session.wallet, session.expires_at), (Some(room.wallet.address()), NOW_S + 7 * 86_400));
        let caller = room.identity.authenticate(&bearer(session.token.reveal())).await.unwrap();
        assert_eq!(
            caller,
            Caller {
                wallet: Some(room.wallet.address()),
                user: None,
                account: Some(AccountId(7)),
                key: None,
                session: true,
                authenticated_at: NOW_S
            }
        );
    }
}

#[tokio::test]
async fn a_signed_authorization_opens_a_session_too() {
    for room in rooms().await {
        let challenge = room.identity.challenge().await.unwrap();
        let signed = room.authorization(challenge.challenge);
        let signature = typed::sign(&signed, &room.domain, &room.wallet).unwrap().to_vec();
        let request = SignInRequest { secret: challenge.secret, kind: SignInKind::Authorization(signed), signature };
        assert_eq!(room.sign_in(&request).await.unwrap().wallet, Some(room.wallet.address()));
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
