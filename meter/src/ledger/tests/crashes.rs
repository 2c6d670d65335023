use super::*;

behaviours!(
    a_killed_meter_settles_its_holds_once_when_it_starts_again,
    holds_of_a_meter_whose_lease_ran_out_are_settled_by_another,
    an_expired_hold_is_settled_by_what_was_delivered,
    a_second_process_of_the_same_name_fences_the_first,
    a_closed_ledger_says_so,
    what_was_acknowledged_is_there_after_a_kill,
);

/// Runs `work` in a runtime of its own and drops that in the middle of whatever runs, as `kill -9` would.
pub(super) async fn killed<F: Future<Output = Ledger> + Send + 'static>(work: impl FnOnce(Ground) -> F + Send + 'static, ground: &Ground) {
    let ground = ground.clone();
    let life = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let ledger = runtime.block_on(work(ground));
        // No close, no flush.
        std::mem::forget(ledger);
        runtime.shutdown_background();
    });
    tokio::task::spawn_blocking(move || life.join().unwrap()).await.unwrap();
}

async fn a_killed_meter_settles_its_holds_once_when_it_starts_again(ground: Ground) {
    let first_life = |ground: Ground| async move {
        let ledger = ground.open().await;
        fund(&ledger, &mut TestChain::new(), PAYER, 1_000).await;
        for seed in 1..=3 {
            ledger.hold(hold(PAYER, seed, 100)).await.unwrap();
        }
        ledger.dispatched(template(PAYER, 1));
        ledger.dispatched(template(PAYER, 2));
        ledger.checkpoint(id(1), 5, B256::repeat_byte(8));
        ledger.checkpoint(id(1), 19, B256::repeat_byte(9));
        ledger.sweep().await.unwrap();
        ledger
    };
    killed(first_life, &ground).await;

    for _ in 0..2 {
        let ledger = ground.open().await;
        assert_eq!(money(&ledger, PAYER).await, (980, 0, 20));
        let stored = ledger.receipt(id(1)).await.unwrap().unwrap();
        assert_eq!(stored.state, ReceiptState::AwaitingSignature);
        assert_eq!((stored.receipt.completion_tokens, stored.receipt.completion_hash), (19, B256::repeat_byte(9)));
        assert_eq!((stored.receipt.amount, stored.receipt.proof_root), (credits(20), B256::ZERO));
        assert_eq!(ledger.awaiting_signature(NODE).await.unwrap(), vec![stored.receipt]);
        assert_eq!(ledger.receipt(id(2)).await.unwrap(), None);
        assert_clean(&ledger).await;
        ledger.close().await;
    }
    let ledger = ground.open().await;
    let late = ledger.capture(capture(receipt(PAYER, 1, 90), Some(signature()))).await;
    assert!(matches!(late, Err(CaptureError::Conflict { amount, .. }) if amount == credits(20)));
    assert!(matches!(ledger.capture(capture(receipt(PAYER, 2, 90), None)).await, Err(CaptureError::Released { .. })));
    assert_eq!(money(&ledger, PAYER).await, (980, 0, 20));
    assert_clean(&ledger).await;
}

async fn holds_of_a_meter_whose_lease_ran_out_are_settled_by_another(ground: Ground) {
    let dead = ground.open_as("meter-dead").await;
    fund(&dead, &mut TestChain::new(), PAYER, 1_000).await;
    dead.hold(hold(PAYER, 1, 100)).await.unwrap();
    let living = ground.open_as("meter-living").await;
    living.sweep().await.unwrap();
    assert_eq!(money(&living, PAYER).await, (900, 100, 0));

    ground.clock.advance_ms(16_000);
    living.hold(hold(PAYER, 2, 50)).await.unwrap();
    living.sweep().await.unwrap();
    assert_eq!(money(&living, PAYER).await, (950, 50, 0));
    // Not dead after all: what it does now does no harm.
    assert!(matches!(dead.capture(capture(receipt(PAYER, 1, 90), None)).await, Err(CaptureError::Released { .. })));
    assert_eq!(dead.release(id(1), "late").await.unwrap(), Released::Before);
    assert_clean(&living).await;
}

async fn an_expired_hold_is_settled_by_what_was_delivered(ground: Ground) {
    let ledger = ground.open().await;
    fund(&ledger, &mut TestChain::new(), PAYER, 1_000).await;
    ledger.hold(hold(PAYER, 1, 100)).await.unwrap();
    ledger.hold(hold(PAYER, 2, 100)).await.unwrap();
    ledger.dispatched(template(PAYER, 1));
    ledger.checkpoint(id(1), 4, B256::repeat_byte(9));
    ground.clock.advance_ms(599_000);
    ledger.sweep().await.unwrap();
    assert_eq!(money(&ledger, PAYER).await, (800, 200, 0));
    ground.clock.advance_ms(1_000);
    ledger.sweep().await.unwrap();
    assert_eq!(money(&ledger, PAYER).await, (995, 0, 5));
    assert_clean(&ledger).await;
}

async fn a_second_process_of_the_same_name_fences_the_first(ground: Ground) {
    let first = ground.open().await;
    fund(&first, &mut TestChain::new(), PAYER, 1_000).await;
    let second = ground.open().await;
    ground.clock.advance_ms(6_000);
    assert!(matches!(first.hold(hold(PAYER, 1, 100)).await, Err(HoldRefusal::Ledger(LedgerError::Fenced { .. }))));
    second.hold(hold(PAYER, 1, 100)).await.unwrap();
    assert_eq!(money(&second, PAYER).await, (900, 100, 0));
    assert_clean(&second).await;
}

async fn a_closed_ledger_says_so(ground: Ground) {
    let ledger = ground.open().await;
    ledger.close().await;
    assert!(matches!(ledger.hold(hold(PAYER, 1, 100)).await, Err(HoldRefusal::Ledger(LedgerError::Closed))));
    assert!(matches!(ledger.release(id(1), "x").await, Err(LedgerError::Closed)));
}

async fn what_was_acknowledged_is_there_after_a_kill(ground: Ground) {
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    let seen = acknowledged.clone();
    let first_life = |ground: Ground| async move {
        let ledger = ground.open().await;
        fund(&ledger, &mut TestChain::new(), PAYER, 100_000).await;
        for seed in 1..=200 {
            let (ledger, seen) = (ledger.clone(), seen.clone());
            tokio::spawn(async move {
                ledger.hold(hold(PAYER, seed, 100)).await.unwrap();
                if ledger.capture(capture(receipt(PAYER, seed, 10), Some(signature()))).await.is_ok() {
                    seen.lock().unwrap().push(seed);
                }
            });
        }
        while seen.lock().unwrap().len() < 20 {
            tokio::task::yield_now().await;
        }
        ledger
    };
    killed(first_life, &ground).await;

    let ledger = ground.open().await;
    let acknowledged = acknowledged.lock().unwrap().clone();
    assert!(acknowledged.len() >= 20);
    for seed in acknowledged {
        assert_eq!(ledger.receipt(id(seed)).await.unwrap().unwrap().receipt, receipt(PAYER, seed, 10));
    }
    let (available, held, unsettled) = money(&ledger, PAYER).await;
    assert_eq!((held, available + unsettled), (0, 100_000));
    assert_clean(&ledger).await;
}
