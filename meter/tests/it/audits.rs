//! A sample of answers is computed again: who is caught, who is not, and what a payer can check alone.

use std::sync::Arc;

use meter::config::RATE_BPS_MAX;
use meter::ledger::{AuditState, ReceiptState, StoredReceipt};
use reqwest::StatusCode;
use serde_json::{Value, json};
use wire::B256;
use wire::node::{AuditJob, AuditOutcome, SamplingParams, WrongToken};
use wire::proof::{self, Window};
use wire::receipt::{ServiceReceipt, tokens_hash};

use super::network::{FALLBACK_OPERATOR, Network, Payer, answered, events, until};
use super::node::{FakeNode, Plan, Step, truth, turn};

/// Long enough for every auditor that answers.
const PATIENT_MS: u64 = 10_000;
const FUNDS: u64 = 100_000;

fn auditor(auditing: impl Fn(&AuditJob, usize) -> Option<AuditOutcome> + Send + Sync + 'static) -> Plan {
    Plan { operator: FALLBACK_OPERATOR, auditing: Arc::new(auditing), ..Plan::saying("from the fallback") }
}

fn honest_auditor() -> Plan {
    auditor(|job, _| Some(truth(job)))
}

/// Says "fine", and signs a receipt changed like this.
fn signing(change: fn(&mut ServiceReceipt)) -> Plan {
    Plan::new(move |_| vec![Step::Tokens(turn("fine")), Step::FinishAs(change, None)])
}

fn wrong_root(receipt: &mut ServiceReceipt) {
    receipt.proof_root = B256::repeat_byte(0x66);
}

fn lie(seed: u8) -> AuditOutcome {
    AuditOutcome::Computed {
        windows: vec![Window { index: 0, first_position: 0, count: 0, digest: B256::repeat_byte(seed) }],
        first_wrong: None,
    }
}

/// Windows of the right shape and other digests.
fn plausible_lie(job: &AuditJob, seed: u8) -> AuditOutcome {
    let AuditOutcome::Computed { mut windows, .. } = truth(job) else { panic!("the truth is computed") };
    windows.iter_mut().for_each(|window| window.digest = B256::repeat_byte(seed));
    AuditOutcome::Computed { windows, first_wrong: None }
}

async fn newest(network: &Network, payer: &Payer) -> StoredReceipt {
    network.receipts(payer).await.into_iter().next().unwrap()
}

/// The newest receipt, once its audit is over.
async fn audited(network: &Network, payer: &Payer) -> StoredReceipt {
    until("the end of the audit", || async {
        let stored = newest(network, payer).await;
        assert_ne!(stored.audit, None, "it was drawn");
        (stored.audit != Some(AuditState::Pending)).then_some(stored)
    })
    .await
}

async fn quarantine_in_pool(network: &Network, node: &FakeNode) -> Value {
    let (_, pool) = answered(network.get("/v1/pool")).await;
    let nodes = pool["nodes"].as_array().unwrap();
    nodes.iter().find(|shown| shown["node"] == json!(node.address)).unwrap()["quarantine"].clone()
}

async fn assert_nobody_is_accused(network: &Network, payer: &Payer, node: &FakeNode) {
    assert_eq!(quarantine_in_pool(network, node).await, Value::Null);
    assert_eq!(network.ledger.quarantines().await.unwrap(), vec![]);
    let charged: u64 = network.receipts(payer).await.iter().map(|stored| stored.receipt.amount.get()).sum();
    assert_eq!(network.money(payer).await, (FUNDS - charged, 0, charged));
    network.assert_books_are_right().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_honest_answer_is_computed_again_by_who_does_not_know_what_it_should_find() {
    let network = Network::start_auditing(RATE_BPS_MAX, PATIENT_MS).await;
    let payer = network.payer().await;
    let node = FakeNode::join(&network, Plan::saying("fine")).await;
    let checking = FakeNode::join(&network, honest_auditor()).await;
    let (status, _) = answered(network.chat(&payer, json!({ "seed": 7 }))).await;
    assert_eq!(status, StatusCode::OK);

    let stored = audited(&network, &payer).await;
    assert_eq!((stored.state, stored.audit, stored.auditor), (ReceiptState::Signed, Some(AuditState::Audited), Some(checking.address)));
    let (job, audit) = (node.heard().jobs[0].clone(), checking.heard().audits[0].clone());
    assert_eq!((&audit.prompt, &audit.completion, &audit.params), (&job.prompt, &turn("fine"), &job.params));
    assert_ne!(audit.audit_id, job.request_id);
    assert!(checking.heard().jobs.is_empty() && checking.heard().audits.len() == 1);
    let feed = network.ledger.feed().await.unwrap();
    assert_eq!(feed.receipts.iter().map(|signed| signed.receipt.request_id).collect::<Vec<_>>(), [job.request_id]);
    let (_, shown) = answered(network.get(&format!("/v1/receipts/{}", job.request_id)).bearer_auth(&payer.key)).await;
    assert_eq!((&shown["audit"], &shown["auditor"]), (&json!("audited"), &json!(checking.address)));
    assert_nobody_is_accused(&network, &payer, &node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_signs_a_wrong_root_is_caught_quarantined_and_refunded_until_it_is_cleared() {
    let network = Network::start_auditing(RATE_BPS_MAX, PATIENT_MS).await;
    let payer = network.payer().await;
    let hostile = signing(wrong_root);
    let node = FakeNode::join(&network, hostile.clone()).await;
    let checking = FakeNode::join(&network, honest_auditor()).await;
    let (status, _) = answered(network.chat(&payer, json!({}))).await;
    assert_eq!(status, StatusCode::OK);

    let stored = audited(&network, &payer).await;
    assert_eq!((stored.state, stored.audit), (ReceiptState::Disputed, Some(AuditState::Failed)));
    assert_eq!(checking.heard().audits.len(), 2, "one look accuses nobody");
    assert_eq!(network.money(&payer).await, (FUNDS, 0, 0));
    assert!(network.ledger.feed().await.unwrap().receipts.is_empty());
    let shown = until("the pool", || async { Some(quarantine_in_pool(&network, &node).await).filter(|shown| !shown.is_null()) }).await;
    assert_eq!(shown["receipt_id"], json!(stored.receipt.request_id));
    assert!(shown["reason"].as_str().unwrap().contains("root"), "{shown}");
    network.assert_books_are_right().await;

    // No more jobs, also after a restart of the meter and a new link of the node.
    let served_by = |network: &Network| {
        let request = network.chat(&payer, json!({}));
        async move { answered(request).await.1["parallelix"]["node"].clone() }
    };
    assert_eq!(served_by(&network).await, json!(checking.address));
    drop((node, checking));
    let network = network.restarted().await;
    let fallback = FakeNode::join(&network, honest_auditor()).await;
    let node = FakeNode::link(&network, hostile.clone()).await;
    node.until("welcome", |heard| (!heard.welcomes.is_empty()).then_some(())).await;
    assert_ne!(quarantine_in_pool(&network, &node).await, Value::Null);
    assert_eq!(served_by(&network).await, json!(fallback.address));
    assert!(node.heard().jobs.is_empty());

    // An operator of the meter looked into it.
    assert!(network.ledger.clear_quarantine(hostile.signer.address()).await.unwrap());
    assert!(!network.ledger.clear_quarantine(hostile.signer.address()).await.unwrap());
    until("the end of the quarantine", || async { quarantine_in_pool(&network, &node).await.is_null().then_some(()) }).await;
    assert_eq!(served_by(&network).await, json!(node.address));
    // And it did it again.
    let stored = audited(&network, &payer).await;
    assert_eq!(stored.state, ReceiptState::Disputed);
    assert_eq!(network.ledger.quarantines().await.unwrap().len(), 1);
    network.assert_books_are_right().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_caught_node_did_before_is_not_paid_either() {
    let network = Network::start_auditing(RATE_BPS_MAX, PATIENT_MS).await;
    let (first, second) = (network.payer().await, network.payer().await);
    let script = |job: &wire::node::Job| {
        let change: fn(&mut ServiceReceipt) = if job.params.seed == 13 { wrong_root } else { |_| {} };
        vec![Step::Tokens(turn("fine")), Step::FinishAs(change, None)]
    };
    let node = FakeNode::join(&network, Plan::new(script)).await;
    let _checking = FakeNode::join(&network, honest_auditor()).await;
    for seed in 0..3 {
        answered(network.chat(&first, json!({ "seed": seed }))).await;
        assert_eq!(audited(&network, &first).await.state, ReceiptState::Signed);
    }
    assert!(network.money(&first).await.2 > 0);
    answered(network.chat(&second, json!({ "seed": 13 }))).await;
    assert_eq!(audited(&network, &second).await.state, ReceiptState::Disputed);
    until("all refunds", || async { (network.money(&first).await == (FUNDS, 0, 0)).then_some(()) }).await;
    assert!(network.receipts(&first).await.iter().all(|stored| stored.state == ReceiptState::Disputed));
    // Again and again changes nothing.
    network.ledger.sweep().await.unwrap();
    network.ledger.sweep().await.unwrap();
    assert_eq!(network.money(&first).await, (FUNDS, 0, 0));
    assert_eq!(network.money(&second).await, (FUNDS, 0, 0));
    network.assert_books_are_right().await;
    drop(node);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_not_drawn_is_caught_also_when_the_node_signs_late_and_without_a_proof() {
    let network = Network::start_auditing(RATE_BPS_MAX, PATIENT_MS).await;
    let payer = network.payer().await;
    // Its first signature is no good, so the meter asks for one, and the node signs what has no root to compare.
    let evasive = signing(|receipt| receipt.request_id = B256::ZERO);
    let node = FakeNode::join(&network, evasive).await;
    let wrong = |job: &AuditJob, _| {
        let AuditOutcome::Computed { windows, .. } = truth(job) else { panic!("the truth is computed") };
        let wrong = WrongToken { index: 2, found: job.completion[2], drawn: Some(job.completion[2] + 1) };
        Some(AuditOutcome::Computed { windows, first_wrong: Some(wrong) })
    };
    let _checking = FakeNode::join(&network, auditor(wrong)).await;
    answered(network.chat(&payer, json!({}))).await;
    node.until("request for a signature", |heard| (!heard.asked_to_sign.is_empty()).then_some(())).await;
    let stored = audited(&network, &payer).await;
    assert_eq!((stored.state, stored.audit), (ReceiptState::Disputed, Some(AuditState::Failed)));
    let reason = network.ledger.quarantine(node.address).await.unwrap().unwrap().reason;
    assert!(reason.contains("token 2"), "{reason}");
    assert_eq!(network.money(&payer).await, (FUNDS, 0, 0));
    network.assert_books_are_right().await;
}

type Auditing = fn(&AuditJob, usize) -> Option<AuditOutcome>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_auditor_that_fails_or_lies_once_accuses_nobody() {
    let cases: [(&str, Auditing, AuditState, usize); 8] = [
        ("refuses", |_, _| Some(AuditOutcome::Refused { message: "no".into() }), AuditState::Skipped, 3),
        ("talks nonsense", |_, _| Some(lie(1)), AuditState::Skipped, 3),
        (
            "names a token that is not there",
            |_, _| {
                let first_wrong = Some(WrongToken { index: 99, found: 1, drawn: None });
                Some(AuditOutcome::Computed { windows: Vec::new(), first_wrong })
            },
            AuditState::Skipped,
            3,
        ),
        ("lies once", |job, earlier| Some(if earlier == 0 { plausible_lie(job, 1) } else { truth(job) }), AuditState::Audited, 2),
        ("lies in two ways", |job, earlier| Some(plausible_lie(job, earlier as u8)), AuditState::Skipped, 2),
        (
            "lies, then talks nonsense, then the truth",
            |job, earlier| Some([plausible_lie(job, 1), lie(1), truth(job)][earlier].clone()),
            AuditState::Audited,
            3,
        ),
        ("is silent once", |job, earlier| (earlier > 0).then(|| truth(job)), AuditState::Audited, 2),
        ("is silent", |_, _| None, AuditState::Skipped, 3),
    ];
    for (what, auditing, state, looks) in cases {
        let patience_ms = if what.contains("silent") { 50 } else { PATIENT_MS };
        let network = Network::start_auditing(RATE_BPS_MAX, patience_ms).await;
        let payer = network.payer().await;
        let node = FakeNode::join(&network, Plan::saying("fine")).await;
        let checking = FakeNode::join(&network, auditor(auditing)).await;
        answered(network.chat(&payer, json!({}))).await;
        let stored = audited(&network, &payer).await;
        assert_eq!((stored.state, stored.audit), (ReceiptState::Signed, Some(state)), "{what}");
        assert_eq!(checking.heard().audits.len(), looks, "{what}");
        assert_nobody_is_accused(&network, &payer, &node).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_look_is_another_auditors_where_there_is_one() {
    let network = Network::start_auditing(RATE_BPS_MAX, PATIENT_MS).await;
    let payer = network.payer().await;
    let node = FakeNode::join(&network, Plan::saying("fine")).await;
    let liar = FakeNode::join(&network, auditor(|job, _| Some(plausible_lie(job, 1)))).await;
    let honest = FakeNode::join(&network, honest_auditor()).await;
    for _ in 0..8 {
        answered(network.chat(&payer, json!({}))).await;
        assert_eq!(audited(&network, &payer).await.audit, Some(AuditState::Audited));
    }
    assert_eq!(honest.heard().audits.len(), 8);
    assert!(liar.heard().audits.len() <= 8);
    assert_nobody_is_accused(&network, &payer, &node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_other_fallback_hardware_an_audit_is_skipped_and_the_receipt_is_paid() {
    let network = Network::start_auditing(RATE_BPS_MAX, PATIENT_MS).await;
    let payer = network.payer().await;
    // The only fallback node serves; it does not audit itself.
    let fallback = FakeNode::join(&network, honest_auditor()).await;
    answered(network.chat(&payer, json!({}))).await;
    let stored = newest(&network, &payer).await;
    assert_eq!((stored.state, stored.audit), (ReceiptState::Signed, Some(AuditState::Skipped)));
    assert!(fallback.heard().audits.is_empty());
    assert_eq!(network.ledger.feed().await.unwrap().receipts.len(), 1);

    // A second one audits it.
    let second = FakeNode::join(&network, honest_auditor()).await;
    answered(network.chat(&payer, json!({}))).await;
    assert_eq!(audited(&network, &payer).await.audit, Some(AuditState::Audited));
    assert_eq!(fallback.heard().audits.len() + second.heard().audits.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_a_rate_of_nothing_nothing_is_drawn() {
    let network = Network::start_auditing(0, PATIENT_MS).await;
    let payer = network.payer().await;
    let _node = FakeNode::join(&network, signing(wrong_root)).await;
    let checking = FakeNode::join(&network, honest_auditor()).await;
    answered(network.chat(&payer, json!({}))).await;
    assert_eq!(newest(&network, &payer).await.audit, None);
    assert!(checking.heard().audits.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payer_gets_everything_that_a_verifier_needs_and_nobody_else_does() {
    let network = Network::start().await;
    let (payer, other) = (network.payer().await, network.payer().await);
    let node = FakeNode::join(&network, Plan::saying("fine")).await;
    let (_, answer) = answered(network.chat(&payer, json!({ "return_token_ids": true, "temperature": 0.5, "max_tokens": null }))).await;
    let id = answer["parallelix"]["receipt_id"].as_str().unwrap().to_owned();
    let path = format!("/v1/receipts/{id}/proof");
    let (status, found) = answered(network.get(&path).bearer_auth(&payer.key)).await;
    assert_eq!((status, &found["request_id"], &found["node"]), (StatusCode::OK, &json!(id), &json!(node.address)), "{found}");
    assert_eq!((&found["chain_id"], &found["settlement"]), (&json!(31_337), &json!(super::network::deployment(node.address).settlement)));

    let receipt: ServiceReceipt = serde_json::from_value(found["receipt"].clone()).unwrap();
    let windows: Vec<Window> = serde_json::from_value(found["windows"].clone()).unwrap();
    assert_eq!(proof::check(&receipt, &windows), Ok(()));
    let ids = |value: &Value| -> Vec<u32> { serde_json::from_value(value.clone()).unwrap() };
    let params: SamplingParams = serde_json::from_value(answer["parallelix"]["params"].clone()).unwrap();
    assert_eq!(tokens_hash(&ids(&answer["prompt_token_ids"])), receipt.prompt_hash);
    assert_eq!(tokens_hash(&ids(&answer["choices"][0]["token_ids"])), receipt.completion_hash);
    assert_eq!(params.hash(), receipt.params_hash);
    let domain = network.serving.rooms().domain.clone();
    let signature: wire::Bytes = serde_json::from_value(found["signature"].clone()).unwrap();
    assert_eq!(receipt.signer(&domain, &signature).unwrap(), node.address);

    let (status, refused) = answered(network.get(&path).bearer_auth(&other.key)).await;
    assert_eq!((status, &refused["error"]["code"]), (StatusCode::NOT_FOUND, &json!("receipt_not_found")));
    assert_eq!(answered(network.get(&path)).await.0, StatusCode::UNAUTHORIZED);

    // A text completion and a stream have the ids where vLLM has them; an answer that was not asked for them has none.
    let body = json!({ "model": super::network::MODEL, "prompt": "hello", "max_tokens": 16, "return_token_ids": true });
    let (_, text) = answered(network.post("/v1/completions").bearer_auth(&payer.key).json(&body)).await;
    assert_eq!(ids(&text["choices"][0]["token_ids"]), turn("fine"));
    assert_eq!(ids(&text["choices"][0]["prompt_token_ids"]), node.heard().jobs[1].prompt);
    for include_usage in [true, false] {
        let body = json!({ "stream": true, "return_token_ids": true, "stream_options": { "include_usage": include_usage } });
        let streamed = network.chat(&payer, body).send().await.unwrap();
        let chunks = events(&streamed.text().await.unwrap());
        let joined: Vec<u32> = chunks
            .iter()
            .filter(|chunk| chunk["choices"][0]["token_ids"].is_array())
            .flat_map(|chunk| ids(&chunk["choices"][0]["token_ids"]))
            .collect();
        assert_eq!(joined, turn("fine"));
        assert!(chunks.last().unwrap()["parallelix"]["params"]["seed"].is_u64());
    }
    let (_, plain) = answered(network.chat(&payer, json!({}))).await;
    assert!(
        plain.get("prompt_token_ids").is_none()
            && plain["choices"][0].get("token_ids").is_none()
            && plain["parallelix"].get("params").is_none()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proof_that_can_not_be_had_is_said_so() {
    let network = Network::start().await;
    let payer = network.payer().await;
    let refusal = async |plan: Plan, leave: bool| {
        let node = FakeNode::join(&network, plan).await;
        let (_, answer) = answered(network.chat(&payer, json!({}))).await;
        let id = answer["parallelix"]["receipt_id"].as_str().unwrap().to_owned();
        let (key, heard) = (node.address, Arc::clone(&node.heard));
        let mut node = Some(node);
        if leave {
            drop(node.take());
            until("the end of the link", || async { heard.lock().unwrap().closed.then_some(()) }).await;
            until("the end of the link here", || async { network.serving.rooms().fleet.node(key).is_none().then_some(()) }).await;
        }
        let (status, body) = answered(network.get(&format!("/v1/receipts/{id}/proof")).bearer_auth(&payer.key)).await;
        drop(node);
        until("the end of the link here", || async { network.serving.rooms().fleet.node(key).is_none().then_some(()) }).await;
        (status.as_u16(), body["error"]["code"].as_str().unwrap().to_owned())
    };
    let forgetful = Plan { proofs: |_, _| None, ..Plan::saying("fine") };
    assert_eq!(refusal(forgetful, false).await, (404, "proof_not_kept".to_owned()));
    let lying = Plan { proofs: |_, _| Some(Vec::new()), ..Plan::saying("fine") };
    assert_eq!(refusal(lying, false).await, (502, "wrong_proof".to_owned()));
    assert_eq!(refusal(Plan::saying("fine"), true).await, (503, "node_away".to_owned()));
    assert_eq!(refusal(signing(|receipt| receipt.proof_root = B256::ZERO), false).await, (404, "no_proof".to_owned()));
    let unsigned = Plan { signs: false, ..signing(|receipt| receipt.request_id = B256::ZERO) };
    assert_eq!(refusal(unsigned, false).await, (409, "not_signed".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proof_that_an_audit_confirmed_is_there_when_its_node_is_not() {
    let network = Network::start_auditing(RATE_BPS_MAX, PATIENT_MS).await;
    let payer = network.payer().await;
    let node = FakeNode::join(&network, Plan::saying("fine")).await;
    let _checking = FakeNode::join(&network, honest_auditor()).await;
    answered(network.chat(&payer, json!({}))).await;
    let stored = audited(&network, &payer).await;
    let key = node.address;
    drop(node);
    until("the end of the link", || async { network.serving.rooms().fleet.node(key).is_none().then_some(()) }).await;
    let path = format!("/v1/receipts/{}/proof", stored.receipt.request_id);
    let (status, found) = answered(network.get(&path).bearer_auth(&payer.key)).await;
    assert_eq!(status, StatusCode::OK, "{found}");
    let windows: Vec<Window> = serde_json::from_value(found["windows"].clone()).unwrap();
    assert_eq!(proof::check(&stored.receipt, &windows), Ok(()));
}

/// A node that chose the seed could try seeds until the answer suits it. The client chooses it, or the meter draws it before anybody
/// is asked to serve, and the receipt commits to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_is_the_clients_or_drawn_by_the_meter_and_never_the_nodes() {
    let network = Network::start().await;
    let payer = network.payer().await;
    // Refuses, so that another node is asked: with the same seed.
    let reluctant = FakeNode::join(&network, Plan::new(|_| vec![Step::Fail(wire::node::FailureCode::Busy)])).await;
    let node = FakeNode::join(&network, Plan::saying("fine")).await;
    for seed in [Some(7u64), Some(u64::MAX), None, None, None] {
        answered(network.chat(&payer, json!({ "seed": seed, "temperature": 1 }))).await;
    }
    let jobs = node.heard().jobs;
    let seeds: Vec<u64> = jobs.iter().map(|job| job.params.seed).collect();
    assert_eq!(seeds[..2], [7, u64::MAX]);
    let drawn: std::collections::BTreeSet<u64> = seeds[2..].iter().copied().collect();
    assert_eq!(drawn.len(), 3, "{seeds:?}");
    for asked in reluctant.heard().jobs {
        let served = jobs.iter().find(|job| job.request_id == asked.request_id).unwrap();
        assert_eq!(asked.params, served.params);
    }
    drop((node, reluctant));
    until("an empty fleet", || async { network.serving.rooms().fleet.nodes().is_empty().then_some(()) }).await;

    // A receipt under parameters of the node's own is not taken.
    let own_seed = signing(|receipt| receipt.params_hash = SamplingParams { seed: 4, ..SamplingParams::greedy(20) }.hash());
    let _node = FakeNode::join(&network, Plan { signs: false, ..own_seed }).await;
    answered(network.chat(&payer, json!({ "seed": 3 }))).await;
    let stored = newest(&network, &payer).await;
    assert_eq!(stored.state, ReceiptState::AwaitingSignature);
    assert_eq!(stored.receipt.params_hash, SamplingParams { seed: 3, ..SamplingParams::greedy(20) }.hash());
}
