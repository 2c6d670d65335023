//! The process ends between any two steps, or an answer is lost after the effect: one settlement for each number, all the same.

use keeper::reconcile::{Moved, Step};

use crate::network::{Network, WINDOW_S, rounds_until, steps_until};
use crate::proxy::Fault;

#[tokio::test]
async fn a_process_that_dies_after_every_single_step_settles_exactly_once() {
    let network = Network::start().await;
    let (config, signer) = (network.config("a"), network.funded_key().await);
    let sum = network.serve_six().await;
    let mut done = Vec::new();
    while !done.contains(&Moved::Final) {
        network.quiet().await;
        let keeper = network.keeper(config.clone(), &signer).await;
        match keeper.step(network.now().await).await.unwrap() {
            Step::Moved { what, seq } => {
                assert_eq!(seq, 1);
                done.push(what);
            }
            Step::Waits(reason) => panic!("waits: {reason}, after {done:?}"),
        }
    }
    assert_eq!(done, [Moved::Planned, Moved::Signed, Moved::Sent, Moved::Broadcast, Moved::Mined, Moved::Final]);
    network.assert_paid_exactly_once(1).await;
    assert_eq!(network.totals().await, (sum, sum - sum_of_fees(&network), sum_of_fees(&network)));
    assert_eq!(network.transaction_count(signer.address()).await, 1);
}

fn sum_of_fees(network: &Network) -> u64 {
    let of = |operator: u32| -> u64 {
        let receipts = network.meter.receipts();
        receipts.iter().filter(|signed| signed.receipt.operator.0 == operator).map(|signed| signed.receipt.amount.get()).sum()
    };
    (of(1) * u64::from(crate::network::FEE_BPS) / 10_000) + (of(2) * u64::from(crate::network::FEE_BPS) / 10_000)
}

#[tokio::test]
async fn a_crash_at_each_boundary_continues_where_it_was() {
    let network = Network::start().await;
    let (config, signer) = (network.config("a"), network.funded_key().await);
    for boundary in 1..=6u64 {
        network.advance(WINDOW_S + 1).await;
        network.serve_six().await;
        let keeper = network.keeper(config.clone(), &signer).await;
        for _ in 0..boundary {
            keeper.step(network.now().await).await.unwrap();
        }
        drop(keeper);
        let keeper = network.keeper(config.clone(), &signer).await;
        for _ in 0..10 {
            network.quiet().await;
            keeper.round(network.now().await).await.unwrap();
        }
        network.assert_paid_exactly_once(boundary).await;
    }
    assert_eq!(network.transaction_count(signer.address()).await, 6);
}

#[tokio::test]
async fn a_countersignature_whose_answer_was_lost_is_asked_for_again() {
    let network = Network::start().await;
    let (config, signer) = (network.config("a"), network.funded_key().await);
    network.serve_six().await;
    network.meter.edit(|script| script.lose_answers = 1);
    let keeper = network.keeper(config.clone(), &signer).await;
    assert!(keeper.round(network.now().await).await.is_err());
    assert!(network.meter.batch(1).is_some());
    drop(keeper);
    // What arrives meanwhile must not change the content that was signed.
    network.serve_six().await;
    let keeper = network.keeper(config, &signer).await;
    rounds_until(&network, &keeper, Moved::Final).await;
    assert_eq!(network.last_seq().await, 1);
    network.advance(WINDOW_S + 1).await;
    rounds_until(&network, &keeper, Moved::Final).await;
    network.assert_paid_exactly_once(2).await;
}

#[tokio::test]
async fn a_journal_that_was_lost_after_the_countersignature_is_made_up_from_the_meter() {
    let network = Network::start().await;
    let signer = network.funded_key().await;
    network.serve_six().await;
    let keeper = network.keeper(network.config("lost"), &signer).await;
    steps_until(&network, &keeper, Moved::Signed).await;
    drop(keeper);
    let keeper = network.keeper(network.config("fresh"), &signer).await;
    let steps = rounds_until(&network, &keeper, Moved::Final).await;
    assert!(steps.contains(&Step::Moved { what: Moved::Adopted, seq: 1 }), "{steps:?}");
    network.assert_paid_exactly_once(1).await;
}

#[tokio::test]
async fn a_broadcast_whose_answer_was_lost_or_that_was_sent_twice_lands_once() {
    let network = Network::start().await;
    let (config, signer) = (network.config("a"), network.funded_key().await);
    let keeper = network.keeper(config, &signer).await;
    let faults = [
        Fault::LoseAnswer,
        Fault::Duplicate,
        Fault::Refuse(503),
        Fault::Refuse(429),
        Fault::Lie("nonce too low"),
        Fault::Lie("already known"),
    ];
    for (index, fault) in faults.into_iter().enumerate() {
        network.advance(WINDOW_S + 1).await;
        network.serve_six().await;
        network.proxy.fail("eth_sendRawTransaction", 0, 1, fault);
        for _ in 0..6 {
            network.quiet().await;
            keeper.round(network.now().await).await.unwrap();
        }
        network.assert_paid_exactly_once(index as u64 + 1).await;
        assert_eq!(network.transaction_count(signer.address()).await, index as u64 + 1, "{fault:?}");
    }
}
