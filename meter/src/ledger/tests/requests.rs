use super::*;

behaviours!(
    a_hold_reserves_and_a_capture_charges_and_releases_the_rest,
    a_hold_is_refused_for_the_first_reason_that_holds,
    a_hold_again_is_the_same_hold_and_another_content_is_a_conflict,
    a_misstated_worst_case_is_refused,
    a_capture_again_is_the_same_capture_and_another_receipt_is_a_conflict,
    a_capture_that_does_not_fit_its_hold_charges_nobody,
    a_release_gives_everything_back_once,
    a_signature_comes_later_and_makes_the_receipt_ready,
    a_receipt_never_signed_is_refunded_after_a_day,
    usage_is_counted_by_day_model_and_key,
    a_key_spends_no_more_than_its_limit,
    receipts_come_in_pages_newest_first,
    an_expired_authorization_stops_new_holds_and_lets_open_ones_end,
    fifty_holds_at_once_take_exactly_what_the_balance_covers,
    the_audit_names_what_was_tampered_with_and_transfers_never_change,
);

async fn a_hold_reserves_and_a_capture_charges_and_releases_the_rest(ground: Ground) {
    let ledger = ground.open().await;
    fund(&ledger, &mut TestChain::new(), PAYER, 1_000).await;

    let held = ledger.hold(hold(PAYER, 1, 100)).await.unwrap();
    assert_eq!(held, Held { request_id: id(1), amount: credits(100), replayed: false });
    assert_eq!(money(&ledger, PAYER).await, (900, 100, 0));

    let captured = ledger.capture(capture(receipt(PAYER, 1, 30), Some(signature()))).await.unwrap();
    assert_eq!(captured, Captured { receipt_id: id(1), state: ReceiptState::Signed, amount: credits(30), replayed: false });
    assert_eq!(money(&ledger, PAYER).await, (970, 0, 30));
    let stored = ledger.receipt(id(1)).await.unwrap().unwrap();
    assert_eq!(stored.receipt, receipt(PAYER, 1, 30));
    assert_eq!((stored.signature, stored.node, stored.fallback), (Some(signature()), NODE, false));
    assert_eq!((stored.model.as_str(), stored.finish_reason.as_str()), ("smollm2-135m", "stop"));
    assert_eq!((stored.seq, stored.leaf, stored.proof, stored.transaction), (None, None, None, None));
    assert_clean(&ledger).await;
}

async fn a_hold_is_refused_for_the_first_reason_that_holds(ground: Ground) {
    let ledger = ground.open().await;
    let mut chain = TestChain::new();

    let unknown = ledger.hold(hold(PAYER, 1, 10)).await.unwrap_err();
    assert!(matches!(unknown, HoldRefusal::AuthorizationRequired { available: Credits::ZERO, .. }));
    chain.mine(&ledger, vec![opened(PAYER), deposited(PAYER, 100, 100)]).await;
    let unauthorized = ledger.hold(hold(PAYER, 1, 10)).await.unwrap_err();
    assert!(matches!(unauthorized, HoldRefusal::AuthorizationRequired { available, .. } if available == credits(100)));

    chain.mine(&ledger, vec![authorized(PAYER, 60, 80)]).await;
    let short = ledger.hold(hold(PAYER, 1, 101)).await.unwrap_err();
    assert!(matches!(short, HoldRefusal::InsufficientCredits { available, needed } if (available, needed) == (credits(100), credits(101))));
    let exposed = ledger.hold(hold(PAYER, 1, 81)).await.unwrap_err();
    assert!(matches!(exposed, HoldRefusal::ExposureExceeded { available, .. } if available == credits(80)));
    let capped = ledger.hold(hold(PAYER, 1, 61)).await.unwrap_err();
    assert!(matches!(capped, HoldRefusal::CapExceeded { available, .. } if available == credits(60)));
    assert_eq!(ledger.credits(PAYER).await.unwrap().spendable, credits(60));

    ledger.hold(hold(PAYER, 1, 50)).await.unwrap();
    let capped = ledger.hold(hold(PAYER, 2, 11)).await.unwrap_err();
    assert!(matches!(capped, HoldRefusal::CapExceeded { available, .. } if available == credits(10)));
    assert_eq!(money(&ledger, PAYER).await, (50, 50, 0));
    assert_clean(&ledger).await;
}

async fn a_hold_again_is_the_same_hold_and_another_content_is_a_conflict(ground: Ground) {
    let ledger = ground.open().await;
    fund(&ledger, &mut TestChain::new(), PAYER, 1_000).await;
    ledger.hold(hold(PAYER, 1, 100)).await.unwrap();

    assert_eq!(ledger.hold(hold(PAYER, 1, 100)).await.unwrap(), Held { request_id: id(1), amount: credits(100), replayed: true });
    assert!(matches!(ledger.hold(hold(PAYER, 1, 101)).await, Err(HoldRefusal::Conflict { request_id }) if request_id == id(1)));
    assert_eq!(money(&ledger, PAYER).await, (900, 100, 0));
    assert_clean(&ledger).await;
}

async fn a_misstated_worst_case_is_refused(ground: Ground) {
    let ledger = ground.open().await;
    fund(&ledger, &mut TestChain::new(), PAYER, 1_000).await;
    let misstated = HoldRequest { worst_case: credits(99), ..hold(PAYER, 1, 100) };
    assert!(matches!(ledger.hold(misstated).await, Err(HoldRefusal::Misstated { cost, .. }) if cost == credits(100)));
    assert_eq!(money(&ledger, PAYER).await, (1_000, 0, 0));
}

async fn a_capture_again_is_the_same_capture_and_another_receipt_is_a_conflict(ground: Ground) {
    let ledger = ground.open().await;
    fund(&ledger, &mut TestChain::new(), PAYER, 1_000).await;
    ledger.hold(hold(PAYER, 1, 100)).await.unwrap();
    ledger.capture(capture(receipt(PAYER, 1, 30), None)).await.unwrap();

    let again = ledger.capture(capture(receipt(PAYER, 1, 30), None)).await.unwrap();
    assert_eq!((again.replayed, again.state), (true, ReceiptState::AwaitingSignature));
    let signed = ledger.capture(capture(receipt(PAYER, 1, 30), Some(signature()))).await.unwrap();
    assert_eq!((signed.replayed, signed.state), (true, ReceiptState::Signed));
    let other = ledger.capture(capture(receipt(PAYER, 1, 31), Some(signature()))).await;
    assert!(matches!(other, Err(CaptureError::Conflict { amount, state: ReceiptState::Signed, .. }) if amount == credits(30)));
    assert_eq!(money(&ledger, PAYER).await, (970, 0, 30));
    assert_eq!(ledger.release(id(1), "late").await.unwrap(), Released::Captured { amount: credits(30) });
    assert_clean(&ledger).await;
}

async fn a_capture_that_does_not_fit_its_hold_charges_nobody(ground: Ground) {
    let ledger = ground.open().await;
    fund(&ledger, &mut TestChain::new(), PAYER, 1_000).await;
    ledger.hold(hold(PAYER, 1, 100)).await.unwrap();

    let capture_of = |receipt| ledger.capture(capture(receipt, None));
    assert!(matches!(capture_of(receipt(PAYER, 2, 10)).await, Err(CaptureError::Unknown { .. })));
    assert!(matches!(capture_of(receipt(PAYER, 1, 101)).await, Err(CaptureError::AboveHold { .. })));
    assert!(matches!(capture_of(receipt(AccountId(2), 1, 10)).await, Err(CaptureError::Mismatch { field: "account" })));
    let cheap = ServiceReceipt { model_rate: ModelRate(1), amount: credits(1), ..receipt(PAYER, 1, 10) };
    assert!(matches!(capture_of(cheap).await, Err(CaptureError::Mismatch { field: "model_rate" })));
    let misstated = ServiceReceipt { amount: credits(9), ..receipt(PAYER, 1, 10) };
    assert!(matches!(capture_of(misstated).await, Err(CaptureError::Mismatch { field: "amount" })));
    assert_eq!(money(&ledger, PAYER).await, (900, 100, 0));

    ledger.release(id(1), "cancelled").await.unwrap();
    assert!(matches!(capture_of(receipt(PAYER, 1, 10)).await, Err(CaptureError::Released { .. })));
    assert_eq!(money(&ledger, PAYER).await, (1_000, 0, 0));
    assert_clean(&ledger).await;
}

async fn a_release_gives_everything_back_once(ground: Ground) {
    let ledger = ground.open().await;
    fund(&ledger, &mut TestChain::new(), PAYER, 1_000).await;
    ledger.hold(hold(PAYER, 1, 100)).await.unwrap();

    assert_eq!(ledger.release(id(1), "no_node").await.unwrap(), Released::Now { amount: credits(100) });
    assert_eq!(ledger.release(id(1), "no_node").await.unwrap(), Released::Before);
    assert_eq!(ledger.release(id(2), "no_node").await.unwrap(), Released::Unknown);
    assert_eq!(money(&ledger, PAYER).await, (1_000, 0, 0));
    assert_clean(&ledger).await;
}

async fn a_signature_comes_later_and_makes_the_receipt_ready(ground: Ground) {
    let ledger = ground.open().await;
    fund(&ledger, &mut TestChain::new(), PAYER, 1_000).await;
    ledger.hold(hold(PAYER, 1, 100)).await.unwrap();
    ledger.capture(capture(receipt(PAYER, 1, 30), None)).await.unwrap();
    assert_eq!(ledger.awaiting_signature(NODE).await.unwrap(), vec![receipt(PAYER, 1, 30)]);
    assert_eq!(ledger.feed().await.unwrap().receipts, vec![]);

    let longer = receipt(PAYER, 1, 31);
    assert!(matches!(ledger.attach_signature(&longer, signature()).await, Err(AttachError::Mismatch { field: "completion_tokens" })));
    let future = ServiceReceipt { served_at: NOW + 61, ..receipt(PAYER, 1, 30) };
    assert!(matches!(ledger.attach_signature(&future, signature()).await, Err(AttachError::Mismatch { field: "served_at" })));
    let unknown = ledger.attach_signature(&receipt(PAYER, 2, 30), signature()).await;
    assert!(matches!(unknown, Err(AttachError::Unknown { .. })));

    let stated = ServiceReceipt { served_at: NOW + 60, proof_root: B256::repeat_byte(9), ..receipt(PAYER, 1, 30) };
    assert_eq!(ledger.attach_signature(&stated, signature()).await.unwrap(), ReceiptState::Signed);
    assert_eq!(ledger.attach_signature(&stated, signature()).await.unwrap(), ReceiptState::Signed);
    let feed = ledger.feed().await.unwrap();
    assert_eq!(feed.next_seq, 1);
    assert_eq!(feed.receipts.iter().map(|signed| &signed.receipt).collect::<Vec<_>>(), vec![&stated]);
    assert_eq!(ledger.awaiting_signature(NODE).await.unwrap(), vec![]);
    assert_clean(&ledger).await;
}

async fn a_receipt_never_signed_is_refunded_after_a_day(ground: Ground) {
    let ledger = ground.open().await;
    fund(&ledger, &mut TestChain::new(), PAYER, 1_000).await;
    let keyed = HoldRequest { key: Some(KeyId("k1".to_owned())), ..hold(PAYER, 1, 100) };
    ledger.hold(keyed).await.unwrap();
    ledger.capture(capture(receipt(PAYER, 1, 30), None)).await.unwrap();

    ground.clock.advance_ms(86_399_000);
    ledger.sweep().await.unwrap();
    assert_eq!(money(&ledger, PAYER).await, (970, 0, 30));
    assert_eq!(ledger.key_usage(&KeyId("k1".to_owned())).await.unwrap(), credits(30));
    ground.clock.advance_ms(1_000);
    ledger.sweep().await.unwrap();
    ledger.sweep().await.unwrap();
    assert_eq!(money(&ledger, PAYER).await, (1_000, 0, 0));
    assert_eq!(ledger.key_usage(&KeyId("k1".to_owned())).await.unwrap(), Credits::ZERO);
    assert_eq!(ledger.receipt(id(1)).await.unwrap().unwrap().state, ReceiptState::Refunded);
    let late = ledger.attach_signature(&receipt(PAYER, 1, 30), signature()).await;
    assert!(matches!(late, Err(AttachError::Refunded { .. })));
    assert_clean(&ledger).await;
}

async fn usage_is_counted_by_day_model_and_key(ground: Ground) {
    let ledger = ground.open().await;
    fund(&ledger, &mut TestChain::new(), PAYER, 1_000).await;
    let keyed = HoldRequest { key: Some(KeyId("k1".to_owned())), ..hold(PAYER, 2, 100) };
    for request in [hold(PAYER, 1, 100), keyed, hold(PAYER, 3, 100)] {
        ledger.hold(request).await.unwrap();
    }
    for (seed, signature) in [(1, Some(signature())), (2, Some(signature())), (3, None)] {
        ledger.capture(capture(receipt(PAYER, seed, 30), signature)).await.unwrap();
    }
    let row = |key: Option<&str>, requests: u64, cost: u64| UsageRow {
        day: NOW / 86_400,
        model: "smollm2-135m".to_owned(),
        key: key.map(str::to_owned),
        requests,
        prompt_tokens: requests,
        completion_tokens: 29 * requests,
        cost: credits(cost),
    };
    assert_eq!(ledger.usage(PAYER, NOW, NOW + 1).await.unwrap(), [row(None, 2, 60), row(Some("k1"), 1, 30)]);
    assert_eq!(ledger.usage(PAYER, 0, NOW).await.unwrap(), []);
    assert_eq!(ledger.usage(AccountId(2), 0, NOW + 1).await.unwrap(), []);

    // What was given back costs nothing.
    ground.clock.advance_ms(86_400_000);
    ledger.sweep().await.unwrap();
    assert_eq!(ledger.usage(PAYER, NOW, NOW + 1).await.unwrap()[0], row(None, 2, 30));
}

async fn a_key_spends_no_more_than_its_limit(ground: Ground) {
    let ledger = ground.open().await;
    fund(&ledger, &mut TestChain::new(), PAYER, 1_000).await;
    let keyed =
        |seed, amount| HoldRequest { key: Some(KeyId("k1".to_owned())), key_limit: Some(credits(100)), ..hold(PAYER, seed, amount) };
    ledger.hold(keyed(1, 60)).await.unwrap();
    let over = ledger.hold(keyed(2, 41)).await.unwrap_err();
    assert!(matches!(over, HoldRefusal::KeyLimit { available, needed } if (available, needed) == (credits(40), credits(41))));
    ledger.capture(capture(receipt(PAYER, 1, 20), None)).await.unwrap();
    ledger.hold(keyed(2, 80)).await.unwrap();
    assert_eq!(ledger.key_usage(&KeyId("k1".to_owned())).await.unwrap(), credits(100));
    ledger.hold(hold(PAYER, 3, 500)).await.unwrap();
    assert_clean(&ledger).await;
}

async fn receipts_come_in_pages_newest_first(ground: Ground) {
    let ledger = ground.open().await;
    fund(&ledger, &mut TestChain::new(), PAYER, 1_000).await;
    for seed in 1..=5 {
        ledger.hold(hold(PAYER, seed, 10)).await.unwrap();
        ledger.capture(capture(receipt(PAYER, seed, 10), Some(signature()))).await.unwrap();
    }
    let ids = |page: &[StoredReceipt]| page.iter().map(|stored| stored.receipt.request_id).collect::<Vec<_>>();
    let first = ledger.receipts(PAYER, 2, None).await.unwrap();
    assert_eq!(ids(&first), vec![id(5), id(4)]);
    let rest = ledger.receipts(PAYER, 10, Some(first[1].position)).await.unwrap();
    assert_eq!(ids(&rest), vec![id(3), id(2), id(1)]);
    assert_eq!(ledger.receipts(AccountId(2), 10, None).await.unwrap(), vec![]);
}

async fn an_expired_authorization_stops_new_holds_and_lets_open_ones_end(ground: Ground) {
    let ledger = ground.open().await;
    fund(&ledger, &mut TestChain::new(), PAYER, 1_000).await;
    ledger.hold(HoldRequest { expires_at_s: NOW + 200_000, ..hold(PAYER, 1, 100) }).await.unwrap();
    ground.clock.advance_ms(100_000_000);
    assert!(matches!(ledger.hold(hold(PAYER, 2, 10)).await, Err(HoldRefusal::AuthorizationRequired { .. })));
    let view = ledger.credits(PAYER).await.unwrap();
    assert_eq!((view.spendable, view.authorization.unwrap().live), (Credits::ZERO, false));
    ledger.capture(capture(receipt(PAYER, 1, 30), None)).await.unwrap();
    assert_eq!(money(&ledger, PAYER).await, (970, 0, 30));
    assert_clean(&ledger).await;
}

async fn fifty_holds_at_once_take_exactly_what_the_balance_covers(ground: Ground) {
    let ledger = ground.open().await;
    fund(&ledger, &mut TestChain::new(), PAYER, 1_000).await;
    let holds = (1..=50).map(|seed| {
        let ledger = ledger.clone();
        tokio::spawn(async move { ledger.hold(hold(PAYER, seed, 100)).await })
    });
    let mut accepted = 0;
    for held in futures_util::future::join_all(holds).await {
        match held.unwrap() {
            Ok(_) => accepted += 1,
            Err(refusal) => assert!(matches!(refusal, HoldRefusal::InsufficientCredits { available: Credits::ZERO, .. }), "{refusal}"),
        }
    }
    assert_eq!(accepted, 10);
    assert_eq!(money(&ledger, PAYER).await, (0, 1_000, 0));
    assert_clean(&ledger).await;
}

async fn the_audit_names_what_was_tampered_with_and_transfers_never_change(ground: Ground) {
    let ledger = ground.open().await;
    fund(&ledger, &mut TestChain::new(), PAYER, 1_000).await;
    let mut connection = Store::at(&ground.url).unwrap().connect().await.unwrap();
    let changed = connection.execute("UPDATE transfers SET amount = amount + 1", &[]).await.unwrap_err();
    assert!(changed.to_string().contains("append-only"), "{changed}");
    assert!(connection.execute("DELETE FROM transfers", &[]).await.is_err());
    assert!(connection.execute("UPDATE payers SET available = -1", &[]).await.is_err());
    assert_clean(&ledger).await;

    connection.execute("UPDATE payers SET available = available + 1", &[]).await.unwrap();
    let findings = ledger.audit().await.unwrap().findings;
    let first = Finding {
        rule: "every balance is the sum of its entries".to_owned(),
        subject: "payer:1".to_owned(),
        expected: 1_000,
        actual: 1_001,
    };
    assert_eq!(findings.first(), Some(&first));
    assert_eq!(findings.len(), 3);
}
