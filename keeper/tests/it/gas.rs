//! Transactions that are dropped, stuck, too dear or too late.

use keeper::reconcile::{Moved, Step};
use serde_json::json;

use crate::network::{Network, rounds_until, steps_until};

#[tokio::test]
async fn a_dropped_transaction_is_broadcast_again_as_the_same_bytes() {
    let network = Network::start().await;
    let (config, signer) = (network.config("a"), network.funded_key().await);
    let (keeper, journal) = network.keeper_and_journal(config, &signer).await;
    network.serve_six().await;
    network.automine(false).await;
    steps_until(&network, &keeper, Moved::Broadcast).await;
    let batch = journal.active().await.unwrap().unwrap();
    let attempt = journal.attempts_of(&batch, 9).await.unwrap().remove(0);
    network.raw("anvil_dropTransaction", json!([attempt.hash])).await;

    let step = keeper.step(network.now().await).await.unwrap();
    assert_eq!(step, Step::Moved { what: Moved::Broadcast, seq: 1 });
    network.automine(true).await;
    network.mine(1).await;
    rounds_until(&network, &keeper, Moved::Final).await;
    network.assert_paid_exactly_once(1).await;
    assert_eq!(journal.attempts_of(&batch, 9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_stuck_transaction_is_outbid_at_the_same_nonce() {
    let network = Network::start().await;
    let (config, signer) = (network.config("a"), network.funded_key().await);
    let (keeper, journal) = network.keeper_and_journal(config, &signer).await;
    network.serve_six().await;
    network.automine(false).await;
    steps_until(&network, &keeper, Moved::Broadcast).await;
    let now = network.now().await;
    assert!(matches!(keeper.step(now + 1).await.unwrap(), Step::Waits(_)));
    for bump in 1..=3 {
        assert_eq!(keeper.step(now + 30 * bump).await.unwrap(), Step::Moved { what: Moved::Sent, seq: 1 });
        assert_eq!(keeper.step(now + 30 * bump).await.unwrap(), Step::Moved { what: Moved::Broadcast, seq: 1 });
    }
    network.mine(1).await;
    rounds_until(&network, &keeper, Moved::Final).await;
    network.assert_paid_exactly_once(1).await;

    let batch = journal.recent(1).await.unwrap().remove(0);
    let attempts = journal.attempts_of(&batch, 9).await.unwrap();
    assert_eq!(attempts.len(), 4);
    assert!(attempts.iter().all(|attempt| attempt.nonce == 0));
    for pair in attempts.windows(2) {
        assert!(pair[0].max_fee_wei * 8 > pair[1].max_fee_wei * 9);
        assert!(pair[0].max_priority_fee_wei * 8 > pair[1].max_priority_fee_wei * 9);
    }
    assert_eq!(batch.landing.unwrap().tx_hash, attempts[0].hash);
}

#[tokio::test]
async fn above_the_price_cap_nothing_is_signed_and_below_it_the_batch_goes() {
    let network = Network::start().await;
    let (mut config, signer) = (network.config("a"), network.funded_key().await);
    config.gas.price_max_gwei = 5;
    let (keeper, journal) = network.keeper_and_journal(config, &signer).await;
    network.serve_six().await;
    network.raw("anvil_setNextBlockBaseFeePerGas", json!(["0x174876e800"])).await; // 100 gwei
    network.mine(1).await;
    let steps = keeper.round(network.now().await).await.unwrap();
    assert!(matches!(steps.last(), Some(Step::Waits(reason)) if reason.contains("gas.price_max_gwei")), "{steps:?}");
    let batch = journal.active().await.unwrap().unwrap();
    assert!(journal.attempts_of(&batch, 9).await.unwrap().is_empty());

    network.mine(60).await;
    rounds_until(&network, &keeper, Moved::Final).await;
    network.assert_paid_exactly_once(1).await;
}

#[tokio::test]
async fn a_spent_budget_and_an_empty_key_hold_the_batch_back() {
    let network = Network::start().await;
    let (mut config, poor) = (network.config("a"), alloy::signers::local::PrivateKeySigner::random());
    config.gas.spend_per_day_max_gwei = 1;
    network.serve_six().await;
    let keeper = network.keeper(config.clone(), &poor).await;
    let steps = keeper.round(network.now().await).await.unwrap();
    assert!(matches!(steps.last(), Some(Step::Waits(reason)) if reason.contains("spend_per_day_max_gwei")), "{steps:?}");
    drop(keeper);

    config.gas.spend_per_day_max_gwei = 50_000_000;
    let keeper = network.keeper(config, &poor).await;
    let steps = keeper.round(network.now().await).await.unwrap();
    assert!(matches!(steps.last(), Some(Step::Waits(reason)) if reason.contains("send it gas money")), "{steps:?}");
    network.fund(poor.address()).await;
    rounds_until(&network, &keeper, Moved::Final).await;
    network.assert_paid_exactly_once(1).await;
}

#[tokio::test]
async fn a_batch_that_missed_its_deadline_is_signed_again_with_the_same_content() {
    let network = Network::start().await;
    let (config, signer) = (network.config("a"), network.funded_key().await);
    let (keeper, journal) = network.keeper_and_journal(config, &signer).await;
    network.serve_six().await;
    network.automine(false).await;
    steps_until(&network, &keeper, Moved::Broadcast).await;
    let first = journal.active().await.unwrap().unwrap();
    let attempt = journal.attempts_of(&first, 9).await.unwrap().remove(0);
    network.raw("anvil_dropTransaction", json!([attempt.hash])).await;
    network.automine(true).await;
    network.advance(first.proposal.deadline - network.now().await + 1).await;
    network.serve_six().await;

    let steps = rounds_until(&network, &keeper, Moved::Final).await;
    assert!(steps.contains(&Step::Moved { what: Moved::DeadlinePassed, seq: 1 }), "{steps:?}");
    let last = journal.recent(1).await.unwrap().remove(0);
    assert_eq!((last.id, &last.proposal.rows, &last.proposal.receipts), (first.id, &first.proposal.rows, &first.proposal.receipts));
    assert!(last.proposal.deadline > first.proposal.deadline);
    network.advance(61).await;
    rounds_until(&network, &keeper, Moved::Final).await;
    network.assert_paid_exactly_once(2).await;
}

#[tokio::test]
async fn operators_named_in_the_config_are_paid_out() {
    let network = Network::start().await;
    let (mut config, signer) = (network.config("a"), network.funded_key().await);
    config.claim_operators = vec![wire::OperatorId(1), wire::OperatorId(2), wire::OperatorId(77)];
    config.claim_min_credits = 1;
    let (keeper, journal) = network.keeper_and_journal(config, &signer).await;
    let sum = network.serve_six().await;
    rounds_until(&network, &keeper, Moved::ErrandDone).await;
    let (_, claimable, fees) = network.totals().await;
    let paid = network.balance_credits(network.payouts[0]).await + network.balance_credits(network.payouts[1]).await;
    assert_eq!((claimable, paid), (0, sum - fees));
    assert!(journal.open_errands().await.unwrap().is_empty());
    assert!(matches!(keeper.step(network.now().await).await.unwrap(), Step::Waits(_)));
}
