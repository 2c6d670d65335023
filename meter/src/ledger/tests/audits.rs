use alloy::primitives::B256;

use super::*;

behaviours!(
    a_receipt_whose_audit_is_pending_waits_for_its_end,
    a_failed_audit_quarantines_the_node_and_gives_its_open_receipts_back_once,
    what_is_batched_stays_batched_and_is_listed,
    a_batch_takes_no_receipt_of_a_quarantined_node,
    an_audit_that_nobody_ends_is_skipped_in_time,
    a_verdict_stands_and_only_a_skipped_audit_gets_another,
    a_cleared_node_works_again_and_may_fail_again,
    receipts_captured_under_quarantine_are_disputed_by_the_sweep,
);

const AUDITOR: Address = Address::repeat_byte(0xa0);
const OTHER_NODE: Address = Address::repeat_byte(0x0e);

fn record(seed: u64, state: AuditState) -> AuditRecord {
    AuditRecord { request_id: id(seed), state, auditor: Some(AUDITOR), finding: "the root differs".to_owned() }
}

/// A signed receipt over `amount`, drawn or not, served by `node`.
async fn served(ledger: &Ledger, seed: u64, amount: u32, audit: Option<AuditState>, node: Address) {
    let key = Some(KeyId("k1".to_owned()));
    ledger.hold(HoldRequest { key, ..hold(PAYER, seed, amount) }).await.unwrap();
    ledger.capture(Capture { audit, node, ..capture(receipt(PAYER, seed, amount), Some(signature())) }).await.unwrap();
}

async fn state_of(ledger: &Ledger, seed: u64) -> (ReceiptState, Option<AuditState>) {
    let stored = ledger.receipt(id(seed)).await.unwrap().unwrap();
    (stored.state, stored.audit)
}

async fn in_feed(ledger: &Ledger) -> Vec<B256> {
    ledger.feed().await.unwrap().receipts.iter().map(|signed| signed.receipt.request_id).collect()
}

/// Signs a batch of these receipts, each of `amount`.
async fn batch(ledger: &Ledger, seeds: &[u64], amount: u64) -> Result<wire::settlement::SignedBatch, CountersignError> {
    let mut receipts: Vec<B256> = seeds.iter().map(|seed| id(*seed)).collect();
    receipts.sort_unstable();
    let seed_of = |request_id: &B256| seeds.iter().copied().find(|seed| id(*seed) == *request_id).unwrap();
    let amount_of = |request_id: &B256| receipt(PAYER, seed_of(request_id), amount as u32);
    let leaves: Vec<B256> = receipts.iter().map(|id| wire::merkle::receipt_leaf(amount_of(id).digest(&domain()))).collect();
    let rows = vec![wire::rows::Group {
        operator: OPERATOR,
        rows: vec![wire::rows::Row { account: PAYER, cumulative: amount * seeds.len() as u64 }],
    }];
    let proposal = wire::settlement::BatchProposal {
        seq: 1,
        receipts,
        carries: Vec::new(),
        rows: wire::rows::encode(&rows).unwrap().into(),
        receipts_root: wire::merkle::root(&leaves).unwrap(),
        deadline: NOW + 600,
    };
    ledger.countersign(proposal, &settler(), &domain()).await
}

async fn a_receipt_whose_audit_is_pending_waits_for_its_end(ground: Ground) {
    let ledger = ground.open().await;
    fund(&ledger, &mut TestChain::new(), PAYER, 1_000).await;
    served(&ledger, 1, 30, Some(AuditState::Pending), NODE).await;
    served(&ledger, 2, 30, None, NODE).await;
    assert_eq!(in_feed(&ledger).await, [id(2)]);
    let refused = batch(&ledger, &[1], 30).await.unwrap_err();
    assert!(matches!(refused, CountersignError::Receipt { reason, .. } if reason.contains("audit")), "{refused}");

    assert!(ledger.conclude_audit(record(1, AuditState::Audited)).await.unwrap());
    assert_eq!(in_feed(&ledger).await, [id(1), id(2)]);
    let stored = ledger.receipt(id(1)).await.unwrap().unwrap();
    assert_eq!((stored.state, stored.audit, stored.auditor), (ReceiptState::Signed, Some(AuditState::Audited), Some(AUDITOR)));
    batch(&ledger, &[1, 2], 30).await.unwrap();
    assert_eq!(ledger.quarantine(NODE).await.unwrap(), None);
    assert_clean(&ledger).await;
}

async fn a_failed_audit_quarantines_the_node_and_gives_its_open_receipts_back_once(ground: Ground) {
    let ledger = ground.open().await;
    fund(&ledger, &mut TestChain::new(), PAYER, 1_000).await;
    served(&ledger, 1, 30, Some(AuditState::Pending), NODE).await;
    served(&ledger, 2, 40, None, NODE).await;
    served(&ledger, 3, 50, None, OTHER_NODE).await;
    ledger.hold(hold(PAYER, 4, 60)).await.unwrap();
    ledger.capture(capture(receipt(PAYER, 4, 60), None)).await.unwrap();
    assert_eq!(money(&ledger, PAYER).await, (820, 0, 180));

    assert!(ledger.conclude_audit(record(1, AuditState::Failed)).await.unwrap());
    // The receipt at once, the others with the sweep; none of them in the feed meanwhile.
    assert_eq!(state_of(&ledger, 1).await, (ReceiptState::Disputed, Some(AuditState::Failed)));
    assert_eq!(money(&ledger, PAYER).await, (850, 0, 150));
    assert_eq!(in_feed(&ledger).await, [id(3)]);
    assert_clean(&ledger).await;
    for _ in 0..3 {
        ledger.sweep().await.unwrap();
        assert!(!ledger.conclude_audit(record(1, AuditState::Failed)).await.unwrap());
        assert_eq!(money(&ledger, PAYER).await, (950, 0, 50));
    }
    for (seed, state) in [(2, ReceiptState::Disputed), (3, ReceiptState::Signed), (4, ReceiptState::Disputed)] {
        assert_eq!(state_of(&ledger, seed).await.0, state);
    }
    assert_eq!(ledger.key_usage(&KeyId("k1".to_owned())).await.unwrap(), credits(50));
    let found = ledger.quarantine(NODE).await.unwrap().unwrap();
    assert_eq!((found.node, found.operator, found.request_id, found.since), (NODE, OPERATOR, id(1), NOW));
    assert_eq!(found.reason, "the root differs");
    assert_eq!(ledger.quarantine(OTHER_NODE).await.unwrap(), None);

    // A signature that comes late changes nothing, nor does the day after which unsigned receipts are refunded, nor a restart.
    assert_eq!(ledger.attach_signature(&receipt(PAYER, 4, 60), signature()).await.unwrap(), ReceiptState::Disputed);
    ground.clock.advance_ms(90_000_000);
    ledger.sweep().await.unwrap();
    ledger.close().await;
    let ledger = ground.open().await;
    ledger.sweep().await.unwrap();
    assert_eq!(money(&ledger, PAYER).await, (950, 0, 50));
    assert!(ledger.quarantine(NODE).await.unwrap().is_some());
    assert_clean(&ledger).await;
}

async fn what_is_batched_stays_batched_and_is_listed(ground: Ground) {
    let ledger = ground.open().await;
    fund(&ledger, &mut TestChain::new(), PAYER, 1_000).await;
    served(&ledger, 1, 30, None, NODE).await;
    served(&ledger, 2, 30, Some(AuditState::Skipped), NODE).await;
    batch(&ledger, &[1, 2], 30).await.unwrap();
    served(&ledger, 3, 30, None, NODE).await;

    // The verdict came after the batch: the node is quarantined all the same.
    assert!(ledger.conclude_audit(record(2, AuditState::Failed)).await.unwrap());
    ledger.sweep().await.unwrap();
    assert_eq!(state_of(&ledger, 2).await, (ReceiptState::Batched, Some(AuditState::Failed)));
    assert_eq!(state_of(&ledger, 3).await.0, ReceiptState::Disputed);
    assert_eq!(money(&ledger, PAYER).await, (940, 0, 60));
    let listed: Vec<_> =
        ledger.batched_receipts(NODE).await.unwrap().iter().map(|stored| (stored.receipt.request_id, stored.seq)).collect();
    assert_eq!(listed, [(id(2), Some(1)), (id(1), Some(1))]);
    assert_eq!(ledger.batched_receipts(OTHER_NODE).await.unwrap(), vec![]);
    assert_clean(&ledger).await;
}

async fn a_batch_takes_no_receipt_of_a_quarantined_node(ground: Ground) {
    let ledger = ground.open().await;
    fund(&ledger, &mut TestChain::new(), PAYER, 1_000).await;
    served(&ledger, 1, 30, None, NODE).await;
    served(&ledger, 2, 30, None, NODE).await;
    ledger.conclude_audit(record(1, AuditState::Failed)).await.unwrap();
    // Before the sweep it is signed still.
    assert_eq!(state_of(&ledger, 2).await.0, ReceiptState::Signed);
    let refused = batch(&ledger, &[2], 30).await.unwrap_err();
    assert!(matches!(refused, CountersignError::Receipt { reason, .. } if reason.contains("quarantined")), "{refused}");
    let refused = batch(&ledger, &[1], 30).await.unwrap_err();
    assert!(matches!(refused, CountersignError::Receipt { reason, .. } if reason.contains("disputed")), "{refused}");
    assert_clean(&ledger).await;
}

async fn an_audit_that_nobody_ends_is_skipped_in_time(ground: Ground) {
    let ledger = ground.open().await;
    fund(&ledger, &mut TestChain::new(), PAYER, 1_000).await;
    served(&ledger, 1, 30, Some(AuditState::Pending), NODE).await;
    ground.clock.advance_ms(1_799_000);
    ledger.sweep().await.unwrap();
    assert_eq!(state_of(&ledger, 1).await.1, Some(AuditState::Pending));
    ground.clock.advance_ms(1_000);
    ledger.sweep().await.unwrap();
    assert_eq!(state_of(&ledger, 1).await, (ReceiptState::Signed, Some(AuditState::Skipped)));
    assert_eq!(in_feed(&ledger).await, [id(1)]);
    assert_clean(&ledger).await;
}

async fn a_verdict_stands_and_only_a_skipped_audit_gets_another(ground: Ground) {
    let ledger = ground.open().await;
    fund(&ledger, &mut TestChain::new(), PAYER, 1_000).await;
    assert!(!ledger.conclude_audit(record(9, AuditState::Failed)).await.unwrap(), "no such receipt");
    served(&ledger, 1, 30, Some(AuditState::Pending), NODE).await;
    assert!(!ledger.conclude_audit(record(1, AuditState::Pending)).await.unwrap());
    assert!(ledger.conclude_audit(record(1, AuditState::Skipped)).await.unwrap());
    assert!(ledger.conclude_audit(record(1, AuditState::Audited)).await.unwrap());
    assert!(!ledger.conclude_audit(record(1, AuditState::Failed)).await.unwrap());
    assert_eq!(state_of(&ledger, 1).await, (ReceiptState::Signed, Some(AuditState::Audited)));
    assert_eq!(ledger.quarantine(NODE).await.unwrap(), None);
    assert_eq!(money(&ledger, PAYER).await, (970, 0, 30));
}

async fn a_cleared_node_works_again_and_may_fail_again(ground: Ground) {
    let ledger = ground.open().await;
    fund(&ledger, &mut TestChain::new(), PAYER, 1_000).await;
    served(&ledger, 1, 30, Some(AuditState::Pending), NODE).await;
    ledger.conclude_audit(record(1, AuditState::Failed)).await.unwrap();
    assert!(ledger.clear_quarantine(NODE).await.unwrap());
    assert!(!ledger.clear_quarantine(NODE).await.unwrap() && !ledger.clear_quarantine(OTHER_NODE).await.unwrap());
    assert_eq!(ledger.quarantine(NODE).await.unwrap(), None);
    assert_eq!(ledger.quarantines().await.unwrap()[0].cleared_at, Some(NOW));

    served(&ledger, 2, 40, Some(AuditState::Pending), NODE).await;
    ledger.sweep().await.unwrap();
    assert_eq!((state_of(&ledger, 1).await.0, state_of(&ledger, 2).await.0), (ReceiptState::Disputed, ReceiptState::Signed));
    ledger.conclude_audit(record(2, AuditState::Failed)).await.unwrap();
    let quarantines = ledger.quarantines().await.unwrap();
    assert_eq!((quarantines.len(), quarantines[0].request_id, quarantines[0].cleared_at), (1, id(2), None));
    assert_eq!(money(&ledger, PAYER).await, (1_000, 0, 0));
    assert_clean(&ledger).await;
}

async fn receipts_captured_under_quarantine_are_disputed_by_the_sweep(ground: Ground) {
    let ledger = ground.open().await;
    fund(&ledger, &mut TestChain::new(), PAYER, 1_000).await;
    served(&ledger, 1, 30, Some(AuditState::Pending), NODE).await;
    ledger.hold(hold(PAYER, 2, 50)).await.unwrap();
    ledger.conclude_audit(record(1, AuditState::Failed)).await.unwrap();
    // An answer that was on its way.
    ledger.capture(capture(receipt(PAYER, 2, 50), Some(signature()))).await.unwrap();
    assert_eq!(in_feed(&ledger).await, Vec::<B256>::new());
    ledger.sweep().await.unwrap();
    assert_eq!(state_of(&ledger, 2).await.0, ReceiptState::Disputed);
    assert_eq!(money(&ledger, PAYER).await, (1_000, 0, 0));
    assert_clean(&ledger).await;
}
