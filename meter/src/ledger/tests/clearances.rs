//! Closing at once: what the settler promises, and that nothing happens behind the promise.

use std::collections::BTreeMap;

use daemon::clock::ManualClock;

use super::batches::{fee, propose, serve, settled};
use super::*;

behaviours!(
    nothing_can_be_spent_until_the_chain_has_passed_the_deadline,
    asked_again_it_is_the_same_promise_and_after_its_deadline_a_later_one,
    what_is_outstanding_is_named_until_the_debit_is_deep_enough,
    what_was_given_back_is_not_outstanding,
    where_nothing_is_kept_back_nothing_is_promised,
    a_revoked_payer_who_owes_nothing_need_not_wait,
    a_closure_ends_the_authorization_and_a_new_one_opens_the_account_again,
    a_new_authorization_outdates_the_promise,
    a_reorg_that_takes_the_new_authorization_back_brings_the_closing_back,
    a_reorg_below_what_was_promised_gets_no_second_promise,
    a_reorg_of_the_closure_stops_spending_again,
    a_meter_whose_clock_is_behind_or_ahead_keeps_the_promise,
    a_later_promise_never_ends_before_the_outdated_one,
    one_meter_promises_and_the_other_refuses_to_spend,
    a_hold_and_a_promise_at_the_same_moment_never_both_succeed,
    a_promise_stands_after_a_kill,
);

/// How long a promise may be used, as the settings have it.
const VALID_S: u64 = 600;

fn promised(settled: u64, auth_nonce: u32, deadline: u64) -> Clearance {
    Clearance { account: PAYER, settled: credits(settled), auth_nonce, deadline }
}

fn closed() -> Fact {
    Fact::Closed { account: PAYER }
}

/// A hold is refused because the account is being closed, and nothing is held.
async fn assert_closing(ledger: &Ledger, seed: u64, until: u64) {
    let before = money(ledger, PAYER).await;
    let refused = ledger.hold(hold(PAYER, seed, 10)).await;
    assert!(matches!(refused, Err(HoldRefusal::Closing { until: given, .. }) if given == until), "{refused:?}");
    assert_eq!(money(ledger, PAYER).await, before);
    let view = ledger.credits(PAYER).await.unwrap();
    assert_eq!((view.closing_until, view.spendable), (Some(until), Credits::ZERO));
}

async fn assert_open(ledger: &Ledger, seed: u64) {
    assert_eq!(ledger.credits(PAYER).await.unwrap().closing_until, None);
    ledger.hold(hold(PAYER, seed, 10)).await.unwrap();
    ledger.release(id(seed), "cancelled").await.unwrap();
}

async fn nothing_can_be_spent_until_the_chain_has_passed_the_deadline(ground: Ground) {
    let ledger = ground.open().await;
    let mut chain = TestChain::new();
    fund(&ledger, &mut chain, PAYER, 1_000).await;
    fund(&ledger, &mut chain, AccountId(2), 1_000).await;
    let deadline = NOW + 2 + VALID_S;
    assert_eq!(ledger.give_clearance(PAYER).await.unwrap(), promised(0, 1, deadline));

    assert_closing(&ledger, 1, deadline).await;
    ledger.hold(hold(AccountId(2), 2, 10)).await.unwrap();
    // The meter's own clock says nothing about what the chain may still take.
    ground.clock.advance_ms(10 * VALID_S * 1_000);
    assert_closing(&ledger, 1, deadline).await;
    chain.mine_at(&ledger, deadline, vec![]).await;
    assert_closing(&ledger, 1, deadline).await;
    chain.mine_at(&ledger, deadline + 1, vec![]).await;
    assert_open(&ledger, 1).await;
    assert_eq!(money(&ledger, PAYER).await, (1_000, 0, 0));
    assert_clean(&ledger).await;
}

async fn asked_again_it_is_the_same_promise_and_after_its_deadline_a_later_one(ground: Ground) {
    let ledger = ground.open().await;
    let mut chain = TestChain::new();
    fund(&ledger, &mut chain, PAYER, 1_000).await;
    let first = ledger.give_clearance(PAYER).await.unwrap();
    ground.clock.advance_ms((VALID_S + 1) * 1_000);
    assert_eq!(ledger.give_clearance(PAYER).await.unwrap(), first);

    // Over by the clock, while the chain may still take it: the later one keeps the payer from spending all the longer.
    ground.clock.advance_ms(1_000);
    let second = ledger.give_clearance(PAYER).await.unwrap();
    assert_eq!(second, promised(0, 1, NOW + 2 * VALID_S + 2));
    chain.mine_at(&ledger, first.deadline + 1, vec![]).await;
    assert_closing(&ledger, 1, second.deadline).await;

    // Over by the chain, whatever the meter's clock says.
    chain.mine_at(&ledger, second.deadline + 1, vec![]).await;
    assert_open(&ledger, 2).await;
    let third = ledger.give_clearance(PAYER).await.unwrap();
    assert_eq!(third, promised(0, 1, second.deadline + 1 + VALID_S));
    assert_closing(&ledger, 3, third.deadline).await;
    assert_clean(&ledger).await;
}

async fn what_is_outstanding_is_named_until_the_debit_is_deep_enough(ground: Ground) {
    let ledger = ground.open().await;
    let mut chain = TestChain::new();
    fund(&ledger, &mut chain, PAYER, 1_000).await;
    let outstanding = |held, unsettled| {
        let ledger = ledger.clone();
        async move {
            let refused = ledger.give_clearance(PAYER).await;
            let expected = (credits(held), credits(unsettled));
            assert!(
                matches!(refused, Err(ClearanceRefusal::Outstanding { held, unsettled }) if (held, unsettled) == expected),
                "{refused:?}"
            );
            assert_eq!(ledger.credits(PAYER).await.unwrap().closing_until, None);
        }
    };
    ledger.hold(hold(PAYER, 1, 100)).await.unwrap();
    outstanding(100, 0).await;
    ledger.capture(capture(receipt(PAYER, 1, 60), None)).await.unwrap();
    outstanding(0, 60).await;
    ledger.attach_signature(&receipt(PAYER, 1, 60), signature()).await.unwrap();
    outstanding(0, 60).await;
    let batch = propose(&ledger.feed().await.unwrap(), &BTreeMap::new());
    ledger.countersign(batch.clone(), &settler(), &domain()).await.unwrap();
    outstanding(0, 60).await;
    // The batch debits less than it asked for; the rest is owed until the next one.
    let short = Short { account: PAYER, operator: OPERATOR, applied: 40 };
    chain.mine(&ledger, vec![settled(&batch, 40, fee(&[40]), vec![short])]).await;
    outstanding(0, 20).await;
    serve(&ledger, PAYER, 2, OPERATOR, 10).await;
    let batch = propose(&ledger.feed().await.unwrap(), &BTreeMap::from([(PAYER, 40)]));
    ledger.countersign(batch.clone(), &settler(), &domain()).await.unwrap();
    outstanding(0, 30).await;
    chain.mine(&ledger, vec![settled(&batch, 30, fee(&[30]), vec![])]).await;

    assert_eq!(ledger.give_clearance(PAYER).await.unwrap(), promised(70, 1, NOW + 3 + VALID_S));
    assert_closing(&ledger, 3, NOW + 3 + VALID_S).await;
    assert_clean(&ledger).await;
}

async fn what_was_given_back_is_not_outstanding(ground: Ground) {
    let ledger = ground.open().await;
    fund(&ledger, &mut TestChain::new(), PAYER, 1_000).await;
    ledger.hold(hold(PAYER, 1, 100)).await.unwrap();
    ledger.release(id(1), "no_node").await.unwrap();
    ledger.hold(hold(PAYER, 2, 100)).await.unwrap();
    ledger.capture(Capture { audit: Some(AuditState::Pending), ..capture(receipt(PAYER, 2, 60), Some(signature())) }).await.unwrap();
    assert!(matches!(ledger.give_clearance(PAYER).await, Err(ClearanceRefusal::Outstanding { .. })));
    let failed = AuditRecord { request_id: id(2), state: AuditState::Failed, auditor: Some(NODE), finding: "the root differs".to_owned() };
    ledger.conclude_audit(failed).await.unwrap();
    assert_eq!(money(&ledger, PAYER).await, (1_000, 0, 0));
    assert_eq!(ledger.give_clearance(PAYER).await.unwrap(), promised(0, 1, NOW + 1 + VALID_S));
    // A late word about a receipt that was given back moves nothing.
    let again = ledger.capture(capture(receipt(PAYER, 2, 60), Some(signature()))).await.unwrap();
    assert_eq!((again.replayed, again.state), (true, ReceiptState::Disputed));
    assert_eq!(money(&ledger, PAYER).await, (1_000, 0, 0));
    assert_clean(&ledger).await;
}

async fn where_nothing_is_kept_back_nothing_is_promised(ground: Ground) {
    let ledger = ground.open().await;
    let mut chain = TestChain::new();
    let unknown = ledger.give_clearance(PAYER).await;
    assert!(matches!(unknown, Err(ClearanceRefusal::Ledger(LedgerError::UnknownAccount { account: PAYER }))));
    chain.mine(&ledger, vec![opened(PAYER), deposited(PAYER, 1_000, 1_000)]).await;
    assert!(matches!(ledger.give_clearance(PAYER).await, Err(ClearanceRefusal::NothingKept)));
    chain.mine(&ledger, vec![authorized(PAYER, 1_000, 1_000)]).await;
    // Over for the meter, not yet for the vault, and then for both.
    ground.clock.advance_ms(103_600 * 1_000);
    ledger.give_clearance(PAYER).await.unwrap();
    ground.clock.advance_ms(1_000);
    assert!(matches!(ledger.give_clearance(PAYER).await, Err(ClearanceRefusal::NothingKept)));
    assert_eq!(ledger.credits(PAYER).await.unwrap().closing_until, None);
    assert_clean(&ledger).await;
}

async fn a_revoked_payer_who_owes_nothing_need_not_wait(ground: Ground) {
    let ledger = ground.open().await;
    let mut chain = TestChain::new();
    fund(&ledger, &mut chain, PAYER, 1_000).await;
    let revoked = Fact::Revoked { account: PAYER, authorized_cum: 1_000, settle_deadline: NOW + 3_600, nonce: 1 };
    chain.mine(&ledger, vec![revoked]).await;
    assert_eq!(ledger.give_clearance(PAYER).await.unwrap(), promised(0, 2, NOW + 2 + VALID_S));
    assert!(matches!(ledger.hold(hold(PAYER, 1, 10)).await, Err(HoldRefusal::AuthorizationRequired { .. })));
}

async fn a_closure_ends_the_authorization_and_a_new_one_opens_the_account_again(ground: Ground) {
    let ledger = ground.open().await;
    let mut chain = TestChain::new();
    fund(&ledger, &mut chain, PAYER, 1_000).await;
    ledger.give_clearance(PAYER).await.unwrap();
    chain.mine(&ledger, vec![closed(), Fact::Withdrawn { account: PAYER, amount: 900, net_deposited: 100 }]).await;

    let refused = ledger.hold(hold(PAYER, 1, 10)).await;
    assert!(matches!(refused, Err(HoldRefusal::AuthorizationRequired { available, .. }) if available == credits(100)));
    let view = ledger.credits(PAYER).await.unwrap();
    assert_eq!((view.closing_until, view.available), (None, credits(100)));
    let authorization = view.authorization.unwrap();
    // As the vault has it: over one second before its block, the nonce as it was.
    assert_eq!((authorization.live, authorization.valid_until, authorization.settle_deadline), (false, 0, NOW + 1));
    assert_eq!(authorization.next_nonce, 1);
    ground.clock.advance_ms(2_000);
    assert!(matches!(ledger.give_clearance(PAYER).await, Err(ClearanceRefusal::NothingKept)));

    chain.mine(&ledger, vec![authorized_again(PAYER, 100, 100, 1)]).await;
    assert_open(&ledger, 1).await;
    let deadline = NOW + 3 + VALID_S;
    assert_eq!(ledger.give_clearance(PAYER).await.unwrap(), promised(0, 2, deadline));
    assert_closing(&ledger, 2, deadline).await;
    assert_clean(&ledger).await;
}

async fn a_new_authorization_outdates_the_promise(ground: Ground) {
    let ledger = ground.open().await;
    let mut chain = TestChain::new();
    fund(&ledger, &mut chain, PAYER, 1_000).await;
    let first = ledger.give_clearance(PAYER).await.unwrap();
    assert_closing(&ledger, 1, first.deadline).await;
    chain.mine(&ledger, vec![authorized_again(PAYER, 1_000, 1_000, 1)]).await;
    assert_open(&ledger, 1).await;
    // Never an earlier deadline than one that was given, even by a clock that went back.
    let behind = Ground { clock: ManualClock::at_s(NOW - 100_000), ..ground.clone() };
    let ledger = behind.open_as("meter-behind").await;
    let second = ledger.give_clearance(PAYER).await.unwrap();
    assert_eq!(second, promised(0, 2, NOW + 2 + VALID_S));
    assert!(second.deadline >= first.deadline);
    assert_clean(&ledger).await;
}

async fn a_reorg_that_takes_the_new_authorization_back_brings_the_closing_back(ground: Ground) {
    let ledger = ground.open().await;
    let mut chain = TestChain::new();
    fund(&ledger, &mut chain, PAYER, 1_000).await;
    let given = ledger.give_clearance(PAYER).await.unwrap();
    let before = chain.clone();
    chain.mine(&ledger, vec![authorized_again(PAYER, 1_000, 1_000, 1)]).await;
    assert_open(&ledger, 1).await;
    ledger.rewind(ORIGIN, chain.tip.unwrap(), before.tip.unwrap()).await.unwrap();
    assert_closing(&ledger, 2, given.deadline).await;
    // So does one that takes back the block that was past the deadline.
    let mut fork = TestChain { salt: 1, ..before.clone() };
    fork.mine_at(&ledger, given.deadline + 1, vec![]).await;
    assert_open(&ledger, 2).await;
    ledger.rewind(ORIGIN, fork.tip.unwrap(), before.tip.unwrap()).await.unwrap();
    assert_closing(&ledger, 3, given.deadline).await;
    assert_clean(&ledger).await;
}

async fn a_reorg_below_what_was_promised_gets_no_second_promise(ground: Ground) {
    let ledger = ground.open().await;
    let mut chain = TestChain::new();
    fund(&ledger, &mut chain, PAYER, 1_000).await;
    let before = chain.clone();
    chain.mine(&ledger, vec![authorized_again(PAYER, 1_000, 1_000, 1)]).await;
    let given = ledger.give_clearance(PAYER).await.unwrap();
    assert_eq!(given, promised(0, 2, NOW + 2 + VALID_S));
    ledger.rewind(ORIGIN, chain.tip.unwrap(), before.tip.unwrap()).await.unwrap();

    // The authorization may come back, and the promise with it: no other takes its place until it is over.
    let refused = ledger.give_clearance(PAYER).await;
    assert!(matches!(refused, Err(ClearanceRefusal::Standing { until }) if until == given.deadline), "{refused:?}");
    assert_closing(&ledger, 1, given.deadline).await;
    let mut fork = TestChain { salt: 1, ..before };
    fork.mine(&ledger, vec![authorized_again(PAYER, 1_000, 1_000, 1)]).await;
    assert_closing(&ledger, 1, given.deadline).await;
    assert_eq!(ledger.give_clearance(PAYER).await.unwrap(), given);
    assert_clean(&ledger).await;
}

async fn a_reorg_of_the_closure_stops_spending_again(ground: Ground) {
    let ledger = ground.open().await;
    let mut chain = TestChain::new();
    fund(&ledger, &mut chain, PAYER, 1_000).await;
    let given = ledger.give_clearance(PAYER).await.unwrap();
    let before = chain.clone();
    chain.mine(&ledger, vec![closed()]).await;
    assert!(matches!(ledger.hold(hold(PAYER, 1, 10)).await, Err(HoldRefusal::AuthorizationRequired { .. })));
    ledger.rewind(ORIGIN, chain.tip.unwrap(), before.tip.unwrap()).await.unwrap();
    assert_closing(&ledger, 1, given.deadline).await;
    let mut fork = TestChain { salt: 1, ..before };
    fork.mine_at(&ledger, given.deadline, vec![closed()]).await;
    fork.mine_at(&ledger, given.deadline + 1, vec![]).await;
    assert!(matches!(ledger.hold(hold(PAYER, 1, 10)).await, Err(HoldRefusal::AuthorizationRequired { .. })));
    assert_eq!(money(&ledger, PAYER).await, (1_000, 0, 0));
    assert_clean(&ledger).await;
}

async fn a_meter_whose_clock_is_behind_or_ahead_keeps_the_promise(ground: Ground) {
    let ledger = ground.open().await;
    let mut chain = TestChain::new();
    fund(&ledger, &mut chain, PAYER, 1_000).await;
    let given = ledger.give_clearance(PAYER).await.unwrap();
    ledger.close().await;
    for now in [NOW - 50_000, NOW + 50_000] {
        let restarted = Ground { clock: ManualClock::at_s(now), ..ground.clone() }.open().await;
        assert_closing(&restarted, 1, given.deadline).await;
        restarted.close().await;
    }
    let behind = Ground { clock: ManualClock::at_s(NOW - 50_000), ..ground.clone() }.open().await;
    assert_eq!(behind.give_clearance(PAYER).await.unwrap(), given);
    chain.mine_at(&behind, given.deadline + 1, vec![]).await;
    assert_open(&behind, 1).await;
    assert_clean(&behind).await;
}

async fn a_later_promise_never_ends_before_the_outdated_one(ground: Ground) {
    let ahead = Ground { clock: ManualClock::at_s(NOW + 50_000), ..ground.clone() }.open().await;
    let mut chain = TestChain::new();
    fund(&ahead, &mut chain, PAYER, 1_000).await;
    let first = ahead.give_clearance(PAYER).await.unwrap();
    assert_eq!(first, promised(0, 1, NOW + 50_000 + VALID_S));
    ahead.close().await;

    let ledger = ground.open().await;
    let before = chain.clone();
    chain.mine(&ledger, vec![authorized_again(PAYER, 1_000, 1_000, 1)]).await;
    let second = ledger.give_clearance(PAYER).await.unwrap();
    assert_eq!(second, promised(0, 2, first.deadline));

    // Without the new authorization the chain may take the first promise again, for as long as it says.
    ledger.rewind(ORIGIN, chain.tip.unwrap(), before.tip.unwrap()).await.unwrap();
    let mut fork = TestChain { salt: 1, ..before };
    fork.mine_at(&ledger, NOW + 49_999, vec![]).await;
    assert_closing(&ledger, 1, first.deadline).await;
    fork.mine_at(&ledger, first.deadline + 1, vec![]).await;
    assert_open(&ledger, 2).await;
    assert_clean(&ledger).await;
}

async fn one_meter_promises_and_the_other_refuses_to_spend(ground: Ground) {
    let (one, other) = (ground.open_as("meter-1").await, ground.open_as("meter-2").await);
    let mut chain = TestChain::new();
    fund(&one, &mut chain, PAYER, 1_000).await;
    other.hold(hold(PAYER, 1, 100)).await.unwrap();
    let refused = one.give_clearance(PAYER).await;
    assert!(matches!(refused, Err(ClearanceRefusal::Outstanding { held, .. }) if held == credits(100)));
    other.release(id(1), "cancelled").await.unwrap();

    let given = one.give_clearance(PAYER).await.unwrap();
    assert_closing(&other, 2, given.deadline).await;
    assert_eq!(other.give_clearance(PAYER).await.unwrap(), given);
    chain.mine_at(&other, given.deadline + 1, vec![]).await;
    assert_open(&one, 3).await;
    assert_clean(&one).await;
}

async fn a_hold_and_a_promise_at_the_same_moment_never_both_succeed(ground: Ground) {
    let meters = [ground.open_as("meter-1").await, ground.open_as("meter-2").await];
    let mut chain = TestChain::new();
    for payer in 1..=20 {
        fund(&meters[0], &mut chain, AccountId(payer), 1_000).await;
    }
    let races = (1..=20u32).map(|payer| {
        let [hold_at, promise_at] = [meters[payer as usize % 2].clone(), meters[payer as usize / 2 % 2].clone()];
        tokio::spawn(async move {
            let account = AccountId(payer);
            let held = hold_at.hold(hold(account, u64::from(payer), 100));
            let promised = promise_at.give_clearance(account);
            // Which of them the writer sees first is as it comes.
            let (held, promised) = if payer % 3 == 0 {
                let (promised, held) = tokio::join!(promised, held);
                (held, promised)
            } else {
                tokio::join!(held, promised)
            };
            assert_ne!(held.is_ok(), promised.is_ok(), "{held:?} {promised:?}");
            if let Err(refusal) = held {
                assert!(matches!(refusal, HoldRefusal::Closing { .. }), "{refusal:?}");
            }
            if let Err(refusal) = promised {
                assert!(matches!(refusal, ClearanceRefusal::Outstanding { held, .. } if held == credits(100)), "{refusal:?}");
            }
        })
    });
    for race in futures_util::future::join_all(races).await {
        race.unwrap();
    }
    assert_clean(&meters[0]).await;
}

async fn a_promise_stands_after_a_kill(ground: Ground) {
    let given = Arc::new(Mutex::new(None));
    let seen = given.clone();
    let first_life = |ground: Ground| async move {
        let ledger = ground.open().await;
        fund(&ledger, &mut TestChain::new(), PAYER, 1_000).await;
        *seen.lock().unwrap() = Some(ledger.give_clearance(PAYER).await.unwrap());
        ledger
    };
    super::crashes::killed(first_life, &ground).await;

    let given = given.lock().unwrap().take().unwrap();
    let ledger = ground.open().await;
    assert_closing(&ledger, 1, given.deadline).await;
    assert_eq!(ledger.give_clearance(PAYER).await.unwrap(), given);
    assert_clean(&ledger).await;
}
