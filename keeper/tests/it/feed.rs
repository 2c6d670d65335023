//! Lying and difficult feeds.

use keeper::journal::State;
use keeper::reconcile::{Moved, Step};
use wire::contracts::Settlement;
use wire::receipt::ServiceReceipt;
use wire::settlement::{Carry, SignedReceipt};
use wire::{AccountId, Credits, OperatorId, merkle};

use crate::network::{EXPOSURE, Network, WINDOW_S, rounds_until};

#[tokio::test]
async fn forged_receipts_are_left_out_and_the_others_are_paid_and_provable() {
    let network = Network::start().await;
    let (config, signer) = (network.config("a"), network.funded_key().await);
    let keeper = network.keeper(config, &signer).await;
    network.serve_six().await;
    let honest = network.receipt(1, 1, 500).await;
    let lie = |receipt: ServiceReceipt| network.sign(receipt, 1);
    network.meter.push_lie(lie(ServiceReceipt { amount: Credits::new(900).unwrap(), ..honest.receipt.clone() }));
    network.meter.push_lie(lie(ServiceReceipt { operator: OperatorId(2), request_id: wire::keccak256("2"), ..honest.receipt.clone() }));
    network.meter.push_lie(SignedReceipt { signature: vec![1; 65].into(), ..honest.clone() });
    network.meter.push_lie(SignedReceipt { node: signer.address(), ..honest });
    rounds_until(&network, &keeper, Moved::Final).await;
    network.assert_paid_exactly_once(1).await;

    let batch = network.meter.batch(1).unwrap().proposal;
    let domain = network.deployment.settlement_domain();
    let mut receipts = network.meter.receipts();
    receipts.sort_by_key(|signed| signed.receipt.request_id);
    let leaves: Vec<_> = receipts.iter().map(|signed| merkle::receipt_leaf(signed.receipt.digest(&domain))).collect();
    let settlement = Settlement::new(network.deployment.settlement, &network.provider);
    for (index, signed) in receipts.iter().enumerate() {
        let receipt = contract_receipt(&signed.receipt);
        let proof = merkle::proof(&leaves, index).unwrap();
        assert!(settlement.verifyReceipt(1, receipt, signed.signature.clone(), proof).call().await.unwrap(), "{index}");
    }
    assert_eq!(batch.receipts.len(), receipts.len());
}

fn contract_receipt(receipt: &ServiceReceipt) -> Settlement::ServiceReceipt {
    let typed = receipt.typed();
    Settlement::ServiceReceipt {
        requestId: typed.requestId,
        account: typed.account,
        operator: typed.operator,
        modelRoot: typed.modelRoot,
        engine: typed.engine,
        promptTokens: typed.promptTokens,
        completionTokens: typed.completionTokens,
        modelRate: typed.modelRate,
        amount: typed.amount,
        promptHash: typed.promptHash,
        completionHash: typed.completionHash,
        paramsHash: typed.paramsHash,
        proofRoot: typed.proofRoot,
        startedAt: typed.startedAt,
        servedAt: typed.servedAt,
    }
}

#[tokio::test]
async fn an_account_waits_for_its_velocity_window() {
    let network = Network::start().await;
    let (config, signer) = (network.config("a"), network.funded_key().await);
    let keeper = network.keeper(config, &signer).await;
    network.meter.push(network.receipt(1, 1, 1_000).await);
    rounds_until(&network, &keeper, Moved::Final).await;
    let settled_at = network.now().await;
    network.meter.push(network.receipt(1, 2, 2_000).await);

    let steps = keeper.round(settled_at + WINDOW_S - 1).await.unwrap();
    assert!(matches!(steps.as_slice(), [Step::Waits(_)]), "{steps:?}");
    assert_eq!(network.settled(1).await, 1_000);
    network.advance(WINDOW_S).await;
    rounds_until(&network, &keeper, Moved::Final).await;
    network.assert_paid_exactly_once(2).await;
}

#[tokio::test]
async fn what_exceeds_one_exposure_goes_with_the_next_batch() {
    let network = Network::start().await;
    let (config, signer) = (network.config("a"), network.funded_key().await);
    let keeper = network.keeper(config, &signer).await;
    for _ in 0..3 {
        network.meter.push(network.receipt(1, 1, (EXPOSURE / 5 * 2) as u32).await);
    }
    rounds_until(&network, &keeper, Moved::Final).await;
    assert_eq!(network.settled(1).await, EXPOSURE / 5 * 4);
    network.advance(WINDOW_S).await;
    rounds_until(&network, &keeper, Moved::Final).await;
    network.assert_paid_exactly_once(2).await;
}

#[tokio::test]
async fn carries_ride_with_the_next_receipt() {
    let network = Network::start().await;
    let (config, signer) = (network.config("a"), network.funded_key().await);
    let keeper = network.keeper(config, &signer).await;
    network.meter.push_carry(Carry { account: AccountId(2), operator: OperatorId(1), amount: Credits::new(700).unwrap() });
    assert!(matches!(keeper.step(network.now().await).await.unwrap(), Step::Waits(_)));
    network.meter.push(network.receipt(1, 2, 1_000).await);
    rounds_until(&network, &keeper, Moved::Final).await;
    assert_eq!((network.settled(1).await, network.settled(2).await, network.last_seq().await), (1_000, 700, 1));
}

#[tokio::test]
async fn one_receipt_that_the_meter_refuses_is_found_and_the_others_are_paid() {
    let network = Network::start().await;
    let (config, signer) = (network.config("a"), network.funded_key().await);
    let (keeper, journal) = network.keeper_and_journal(config, &signer).await;
    network.serve_six().await;
    let refused = network.meter.receipts()[2].receipt.clone();
    network.meter.edit(|script| script.refused = Some(refused.request_id));
    for _ in 0..12 {
        network.quiet().await;
        keeper.round(network.now().await).await.unwrap();
        network.advance(WINDOW_S + 1).await;
    }
    let all: u64 = network.meter.receipts().iter().map(|signed| signed.receipt.amount.get()).sum();
    assert_eq!(network.totals().await.0, all - refused.amount.get());
    let aside = journal.refused_receipts(0).await.unwrap();
    assert_eq!(aside.len(), 1);
    assert_eq!(aside[0].0, refused.request_id);
    assert!(journal.recent(50).await.unwrap().iter().all(|batch| matches!(batch.state, State::Final | State::Quarantined)));
}

#[tokio::test]
async fn a_dry_run_moves_nothing_and_names_what_would_move() {
    let network = Network::start().await;
    let (config, signer) = (network.config("a"), network.funded_key().await);
    let batch_config = config.batch;
    let (keeper, journal) = network.keeper_and_journal(config, &signer).await;
    let sum = network.serve_six().await;
    let now = network.now().await;
    let (seq, draft) = keeper.dry_run(now).await.unwrap();
    let view = draft.view(seq, &batch_config, now).unwrap();
    assert_eq!((view.seq, view.due, view.total_credits, view.debited_credits), (1, true, sum, sum));
    assert_eq!(view.proposal.unwrap().receipts.len(), 6);

    assert_eq!(network.meter.edit(|script| script.posts), 0);
    assert!(journal.recent(9).await.unwrap().is_empty());
    assert_eq!((network.last_seq().await, network.totals().await), (0, (0, 0, 0)));
    assert_eq!(network.transaction_count(signer.address()).await, 0);
}

#[tokio::test]
async fn a_feed_in_another_order_makes_the_same_batch() {
    let network = Network::start().await;
    let signer = network.funded_key().await;
    let keeper = network.keeper(network.config("a"), &signer).await;
    network.serve_six().await;
    let now = network.now().await;
    let (_, first) = keeper.dry_run(now).await.unwrap();
    network.meter.edit(|script| script.reversed_feed = true);
    let (_, second) = keeper.dry_run(now).await.unwrap();
    assert!(first.batch.is_some());
    assert_eq!(first.batch, second.batch);
}
