//! Who may link, and what receipts become that come late, again, or from the wrong side.

use alloy::signers::local::PrivateKeySigner;
use meter::ledger::{Fact, ReceiptState};
use reqwest::StatusCode;
use serde_json::json;
use wire::node::{FinishReason, FromNode, ReceiptOutcome};
use wire::{Address, B256, Bytes};

use super::network::{Network, OPERATOR, answered, until};
use super::node::{FakeNode, Plan, Step, sign, true_receipt, turn, words};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_registered_nodes_of_our_models_and_protocol_are_let_in() {
    let network = Network::start().await;
    let refused = |plan: Plan| async {
        let node = FakeNode::link(&network, plan).await;
        let code = node.until("refusal", |heard| heard.refusals.first().cloned()).await;
        node.until("close", |heard| heard.closed.then_some(())).await;
        assert!(node.heard().welcomes.is_empty());
        code
    };
    let unregistered = Plan::saying("x");
    assert_eq!(refused(unregistered).await, "not_registered");

    let registered = Plan::saying("x");
    network.register(OPERATOR, registered.signer.address()).await;
    let change = |hello: fn(&mut wire::node::Hello)| Plan { hello, ..registered.clone() };
    assert_eq!(refused(change(|hello| hello.protocol += 1)).await, "protocol");
    assert_eq!(refused(change(|hello| hello.capacity = 0)).await, "protocol");
    assert_eq!(refused(change(|hello| hello.node = Address::repeat_byte(9))).await, "signature");
    assert_eq!(refused(change(|hello| hello.operator.0 += 1)).await, "not_registered");
    assert_eq!(refused(change(|hello| hello.models[0].model_root = B256::ZERO)).await, "no_model");
    assert_eq!(refused(change(|hello| hello.models[0].engine = B256::ZERO)).await, "no_model");
    assert_eq!(refused(change(|hello| hello.models.clear())).await, "no_model");
    assert!(network.serving.rooms().fleet.nodes().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_link_of_the_same_key_replaces_the_older_one() {
    let network = Network::start().await;
    let plan = Plan::saying("x");
    let older = FakeNode::join(&network, plan.clone()).await;
    let newer = FakeNode::link(&network, plan).await;
    newer.until("welcome", |heard| (!heard.welcomes.is_empty()).then_some(())).await;
    older.until("close", |heard| heard.closed.then_some(())).await;
    assert_eq!(network.serving.rooms().fleet.nodes().len(), 1);
    assert!(!newer.heard().closed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_the_registry_drops_loses_its_link() {
    let network = Network::start().await;
    let node = FakeNode::join(&network, Plan::saying("x")).await;
    network.mine(vec![Fact::NodeKeyRemoved { operator: OPERATOR, node: node.address }]).await;
    node.until("close", |heard| heard.closed.then_some(())).await;
    assert!(network.serving.rooms().fleet.nodes().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replayed_receipt_is_acknowledged_and_changes_nothing() {
    let network = Network::start().await;
    let payer = network.payer().await;
    let plan = Plan::saying("hello");
    let node = FakeNode::join(&network, plan.clone()).await;
    answered(network.chat(&payer, json!({}))).await;
    let before = network.receipts(&payer).await;
    let money = network.money(&payer).await;
    let job = node.heard().jobs[0].clone();

    let receipt = true_receipt(&job, &turn("hello"));
    for _ in 0..3 {
        node.say(FromNode::Receipt { receipt: receipt.clone(), signature: sign(&receipt, &plan.signer) });
    }
    node.until("acknowledgements", |heard| (heard.acks.len() == 4).then_some(())).await;
    assert!(node.heard().acks.iter().all(|(id, outcome)| *id == job.request_id && *outcome == ReceiptOutcome::Captured));

    // Another node can't take it over, nor invent one.
    let thief_plan = Plan::saying("x");
    let thief = FakeNode::join(&network, thief_plan.clone()).await;
    thief.say(FromNode::Receipt { receipt: receipt.clone(), signature: sign(&receipt, &thief_plan.signer) });
    let invented = wire::receipt::ServiceReceipt { request_id: B256::repeat_byte(5), ..receipt };
    thief.say(FromNode::Receipt { receipt: invented.clone(), signature: sign(&invented, &thief_plan.signer) });
    thief.until("acknowledgements", |heard| (heard.acks.len() == 2).then_some(())).await;
    assert!(thief.heard().acks.iter().all(|(_, outcome)| *outcome == ReceiptOutcome::Unknown));

    assert_eq!(network.receipts(&payer).await, before);
    assert_eq!(network.money(&payer).await, money);
    network.assert_books_are_right().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_receipt_above_the_charge_is_answered_with_the_right_one() {
    let network = Network::start().await;
    let payer = network.payer().await;
    let plan = Plan { signs: false, ..Plan::new(|_| vec![Step::Tokens(words("so far")), Step::Vanish]) };
    let node = FakeNode::join(&network, plan.clone()).await;
    let (status, _) = answered(network.chat(&payer, json!({}))).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    let job = node.heard().jobs[0].clone();
    let stored = network.receipts(&payer).await.remove(0);
    assert_eq!(stored.state, ReceiptState::AwaitingSignature);

    let back = FakeNode::link(&network, Plan { signs: false, ..plan.clone() }).await;
    back.until("sign_receipt", |heard| heard.asked_to_sign.first().cloned()).await;
    let more = true_receipt(&job, &words("so far and further"));
    back.say(FromNode::Receipt { receipt: more.clone(), signature: sign(&more, &plan.signer) });
    let forged = stored.receipt.clone();
    back.say(FromNode::Receipt { receipt: forged.clone(), signature: sign(&forged, &PrivateKeySigner::random()) });
    back.say(FromNode::Receipt { receipt: forged.clone(), signature: Bytes::from_static(b"not a signature") });
    back.until("sign_receipt again", |heard| (heard.asked_to_sign.len() >= 4).then_some(())).await;
    assert!(back.heard().asked_to_sign.iter().all(|asked| *asked == stored.receipt));
    assert_eq!(network.receipts(&payer).await, std::slice::from_ref(&stored));

    back.say(FromNode::Receipt { receipt: stored.receipt.clone(), signature: sign(&stored.receipt, &plan.signer) });
    until("signature", || async { (network.receipts(&payer).await[0].state == ReceiptState::Signed).then_some(()) }).await;
    network.assert_books_are_right().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_frame_ends_the_link_and_a_gap_ends_only_its_job() {
    let network = Network::start().await;
    let payer = network.payer().await;
    let node = FakeNode::join(&network, Plan::new(|_| vec![Step::Tokens(words("one"))])).await;
    let request = tokio::spawn(answered(network.chat(&payer, json!({}))));
    let job = node.until("job", |heard| heard.jobs.first().cloned()).await;
    node.say(FromNode::Tokens { request_id: job.request_id, first: 99, tokens: vec![1], logprobs: None });
    let (status, body) = request.await.unwrap();
    assert_eq!((status, &body["error"]["code"]), (StatusCode::BAD_GATEWAY, &json!("answer_broke_off")));
    assert!(!node.heard().closed);

    node.say(FromNode::Finished {
        request_id: B256::ZERO,
        finish_reason: FinishReason::Stop,
        receipt: true_receipt(&job, &[]),
        signature: Bytes::new(),
    });
    node.until("acknowledgement", |heard| (!heard.acks.is_empty() || !heard.asked_to_sign.is_empty()).then_some(())).await;
    // A second hello is out of place.
    let hello = wire::node::Hello {
        protocol: 1,
        operator: OPERATOR,
        node: node.address,
        models: Vec::new(),
        capacity: 1,
        device: wire::node::Device { kind: String::new(), name: String::new(), memory_bytes: 0, parallelism: 0 },
        version: String::new(),
        region: None,
        signature: Bytes::new(),
    };
    node.say(FromNode::Hello(hello));
    node.until("close", |heard| heard.closed.then_some(())).await;
}
