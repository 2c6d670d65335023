//! Two keepers, and blocks that leave the chain.

use keeper::journal::State;
use keeper::reconcile::{Moved, Step};
use serde_json::json;

use crate::network::{Network, WINDOW_S, rounds_until, steps_until};

#[tokio::test]
async fn two_keepers_in_lockstep_settle_each_number_once() {
    let network = Network::start().await;
    let (a_key, b_key) = (network.funded_key().await, network.funded_key().await);
    let (a, a_journal) = network.keeper_and_journal(network.config("a"), &a_key).await;
    let (b, b_journal) = network.keeper_and_journal(network.config("b"), &b_key).await;
    for batch in 1..=4 {
        network.advance(WINDOW_S + 1).await;
        network.serve_six().await;
        for turn in 0..24 {
            let keeper = if (turn + batch) % 2 == 0 { &a } else { &b };
            network.quiet().await;
            keeper.step(network.now().await).await.unwrap();
        }
        network.assert_paid_exactly_once(batch).await;
    }
    for journal in [a_journal, b_journal] {
        let states: Vec<State> = journal.recent(50).await.unwrap().iter().map(|batch| batch.state).collect();
        assert!(states.iter().all(|state| matches!(state, State::Final | State::Replaced)), "{states:?}");
    }
}

#[tokio::test]
async fn a_keeper_whose_number_was_taken_gives_its_plan_up_and_relays_the_other() {
    let network = Network::start().await;
    let (a_key, b_key) = (network.funded_key().await, network.funded_key().await);
    let a = network.keeper(network.config("a"), &a_key).await;
    let (b, b_journal) = network.keeper_and_journal(network.config("b"), &b_key).await;
    network.serve_six().await;
    steps_until(&network, &b, Moved::Planned).await;
    network.serve_six().await;
    steps_until(&network, &a, Moved::Signed).await;
    drop(a);

    let steps = rounds_until(&network, &b, Moved::Final).await;
    let moved: Vec<Moved> = steps.iter().filter_map(|step| if let Step::Moved { what, .. } = step { Some(*what) } else { None }).collect();
    assert_eq!(moved, [Moved::Replaced, Moved::Adopted, Moved::Sent, Moved::Broadcast, Moved::Mined, Moved::Final]);
    let states: Vec<(bool, State)> = b_journal.recent(9).await.unwrap().iter().map(|batch| (batch.adopted, batch.state)).collect();
    assert_eq!(states, [(true, State::Final), (false, State::Replaced)]);
    network.assert_paid_exactly_once(1).await;
}

#[tokio::test]
async fn anothers_batch_is_left_alone_for_a_while() {
    let network = Network::start().await;
    let (a_key, b_key) = (network.funded_key().await, network.funded_key().await);
    let a = network.keeper(network.config("a"), &a_key).await;
    let mut config = network.config("b");
    config.batch.adopt_after_s = 30;
    let b = network.keeper(config, &b_key).await;
    network.serve_six().await;
    steps_until(&network, &a, Moved::Signed).await;
    let steps = b.round(network.now().await).await.unwrap();
    assert!(matches!(steps.last(), Some(Step::Waits(reason)) if reason.contains("another keeper's")), "{steps:?}");
    rounds_until(&network, &a, Moved::Final).await;
    rounds_until(&network, &b, Moved::Final).await;
    assert_eq!(network.transaction_count(b_key.address()).await, 0);
    network.assert_paid_exactly_once(1).await;
}

#[tokio::test]
async fn a_transaction_that_another_keeper_made_needless_is_cancelled() {
    let network = Network::start().await;
    let (a_key, b_key) = (network.funded_key().await, network.funded_key().await);
    let (a, a_journal) = network.keeper_and_journal(network.config("a"), &a_key).await;
    let b = network.keeper(network.config("b"), &b_key).await;
    network.serve_six().await;
    network.automine(false).await;
    steps_until(&network, &a, Moved::Broadcast).await;
    // The base fee rises above what A bid; B bids later, and more.
    network.raw("anvil_setNextBlockBaseFeePerGas", json!(["0x4a817c800"])).await; // 20 gwei
    network.mine(1).await;
    steps_until(&network, &b, Moved::Broadcast).await;
    network.mine(1).await;
    assert_eq!(network.last_seq().await, 1);
    rounds_until(&network, &b, Moved::Final).await;

    rounds_until(&network, &a, Moved::Final).await;

    // Anvil dropped it; a node that kept it would still mine it, for nothing.
    network.mine(30).await;
    let batch = a_journal.recent(1).await.unwrap().remove(0);
    let attempt = a_journal.attempts_of(&batch, 9).await.unwrap().remove(0);
    network.raw("eth_sendRawTransaction", json!([attempt.raw])).await;
    rounds_until(&network, &a, Moved::CancelSent).await;
    network.mine(1).await;
    rounds_until(&network, &a, Moved::ErrandDone).await;
    assert_eq!(network.transaction_count(a_key.address()).await, 1);
    assert!(a_journal.live_attempts(1).await.unwrap().is_empty());
    network.automine(true).await;
    network.assert_paid_exactly_once(1).await;
}

#[tokio::test]
async fn a_settlement_whose_block_left_the_chain_settles_again() {
    let network = Network::start().await;
    let (mut config, signer) = (network.config("a"), network.funded_key().await);
    config.chain.confirmations = 4;
    let (keeper, journal) = network.keeper_and_journal(config, &signer).await;
    network.serve_six().await;
    rounds_until(&network, &keeper, Moved::Mined).await;
    network.mine(1).await;
    network.raw("anvil_reorg", json!([2, []])).await;
    assert_eq!(network.last_seq().await, 0);

    let steps = rounds_until(&network, &keeper, Moved::Mined).await;
    assert!(steps.contains(&Step::Moved { what: Moved::LeftTheChain, seq: 1 }), "{steps:?}");
    network.mine(3).await;
    rounds_until(&network, &keeper, Moved::Final).await;
    network.assert_paid_exactly_once(1).await;
    let batch = journal.recent(1).await.unwrap().remove(0);
    assert_eq!(journal.attempts_of(&batch, 9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn two_final_settlements_that_left_the_chain_settle_again_in_order() {
    let network = Network::start().await;
    let (config, signer) = (network.config("a"), network.funded_key().await);
    let (keeper, journal) = network.keeper_and_journal(config, &signer).await;
    network.serve_six().await;
    rounds_until(&network, &keeper, Moved::Final).await;
    network.advance(WINDOW_S + 1).await;
    network.serve_six().await;
    rounds_until(&network, &keeper, Moved::Final).await;
    network.assert_paid_exactly_once(2).await;

    network.raw("anvil_reorg", json!([3, []])).await;
    assert_eq!(network.last_seq().await, 0);
    let steps = rounds_until(&network, &keeper, Moved::Final).await;
    assert!(steps.contains(&Step::Moved { what: Moved::LeftTheChain, seq: 1 }), "{steps:?}");
    // The first one began windows anew, for which the second one waits.
    assert!(matches!(steps.last(), Some(Step::Waits(reason)) if reason.contains("velocity window")), "{steps:?}");
    network.advance(WINDOW_S + 1).await;
    rounds_until(&network, &keeper, Moved::Final).await;
    network.assert_paid_exactly_once(2).await;
    let states: Vec<(u64, State)> = journal.recent(9).await.unwrap().iter().map(|batch| (batch.proposal.seq, batch.state)).collect();
    assert_eq!(states, [(2, State::Final), (1, State::Final)]);
}
