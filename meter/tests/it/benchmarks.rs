//! How fast nodes compute is measured here, with jobs that nobody pays for, on nodes that have nothing else to do.

use std::collections::BTreeSet;
use std::sync::Arc;

use alloy::signers::local::PrivateKeySigner;
use meter::config::{BenchmarkSettings, RATE_BPS_MAX};
use meter::serving::benchmarks::Benchmarks;
use reqwest::StatusCode;
use serde_json::{Value, json};
use wire::node::{FailureCode, FinishReason, FromNode, Job, ReceiptOutcome};
use wire::receipt::ServiceReceipt;
use wire::{AccountId, B256, ModelRate};

use super::network::{CONTEXT_TOKENS, DEADLINE, FALLBACK_OPERATOR, MODEL, Network, OPERATIONS, RATE, answered, until};
use super::node::{FakeNode, Plan, Step, prompter, sign, true_receipt, turn, words};

const PROMPT_TOKENS: u32 = 64;

fn benchmarks_of(network: &Network, prompt_tokens: u32) -> Benchmarks {
    let settings = BenchmarkSettings { prompt_tokens, ..BenchmarkSettings::default() };
    Benchmarks::new(network.serving.clone(), settings, Arc::new(rand::random))
}

fn benchmarks(network: &Network) -> Benchmarks {
    benchmarks_of(network, PROMPT_TOKENS)
}

fn is_measuring(job: &Job) -> bool {
    job.params.max_tokens == 1
}

fn one_token() -> Vec<u32> {
    words("a")[..1].to_vec()
}

/// Answers a request as well as a measurement.
fn willing() -> Plan {
    Plan::new(|job| match is_measuring(job) {
        true => vec![Step::Tokens(one_token()), Step::Finish(FinishReason::Length)],
        false => vec![Step::Tokens(turn("fine")), Step::Finish(FinishReason::Stop)],
    })
}

/// Answers a measurement with these steps.
fn measured_as(steps: Vec<Step>) -> Plan {
    Plan::new(move |_| steps.clone())
}

async fn shown(network: &Network, node: &FakeNode) -> Value {
    let (_, pool) = answered(network.get("/v1/pool")).await;
    pool["nodes"].as_array().unwrap().iter().find(|shown| shown["node"] == json!(node.address)).unwrap().clone()
}

/// No figure, nothing on the ledger, and no place taken.
async fn assert_not_measured(network: &Network, node: &FakeNode) {
    let shown = shown(network, node).await;
    assert_eq!(shown["tflops"], json!({ "value": null, "source": "measured" }), "{shown}");
    assert_eq!((&shown["active"]["value"], &shown["outstanding_tokens"]["value"]), (&json!(0), &json!(0)));
    network.assert_books_are_right().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_nodes_are_measured_with_random_prompts_and_nobody_pays() {
    let network = Network::start().await;
    let payer = network.payer().await;
    let before = network.money(&payer).await;
    let nodes = [FakeNode::join(&network, willing()).await, FakeNode::join(&network, willing()).await];
    nodes[0].say(FromNode::Status(wire::node::NodeStatus { capacity: 64, tflops: 900.0, ..Default::default() }));
    assert_not_measured(&network, &nodes[0]).await;

    let benchmarks = benchmarks(&network);
    benchmarks.look().await;
    // It is not time for another.
    benchmarks.look().await;

    let mut prompts = BTreeSet::new();
    for node in &nodes {
        let jobs = node.heard().jobs;
        assert_eq!(jobs.len(), 1);
        let job = jobs[0].clone();
        assert_eq!((job.model.as_str(), job.prompt.len() as u32, job.params.max_tokens), (MODEL, PROMPT_TOKENS, 1));
        assert_eq!((job.account, job.model_rate), (AccountId(1), ModelRate(RATE)));
        assert!(job.prompt.iter().all(|id| (*id as usize) < prompter().vocab_size()));
        let acks = node.until("acknowledgement", |heard| (!heard.acks.is_empty()).then(|| heard.acks.clone())).await;
        assert_eq!(acks, [(job.request_id, ReceiptOutcome::Released)]);
        assert_eq!(network.ledger.receipt(job.request_id).await.unwrap(), None);
        prompts.insert(job.prompt);
    }
    assert_eq!(prompts.len(), 2, "no cache of prefixes can have a prompt that was never there");

    let (_, pool) = answered(network.get("/v1/pool")).await;
    let mut total = 0.0;
    for node in &nodes {
        let shown = shown(&network, node).await;
        let tflops = shown["tflops"]["value"].as_f64().unwrap();
        // At most what arrives in no time at all, and at least what a second gives.
        assert!(tflops > OPERATIONS as f64 * f64::from(PROMPT_TOKENS) / DEADLINE.as_secs_f64() / 1e12, "{tflops}");
        assert_eq!((&shown["tflops"]["source"], &shown["tflops"]["audited"]), (&json!("measured"), &json!(false)));
        assert_eq!((&shown["tflops"]["model"], shown["tflops"]["measured_at"].is_u64()), (&json!(MODEL), true));
        assert_eq!((&shown["answers_served"]["value"], &shown["active"]["value"]), (&json!(0), &json!(0)));
        total += tflops;
    }
    assert!((pool["tflops_total"].as_f64().unwrap() - total).abs() < 1e-9 * total, "{pool}");
    let declared = until("the node's own word", || async {
        Some(shown(&network, &nodes[0]).await["tflops_declared"].clone()).filter(|declared| !declared["value"].is_null())
    });
    assert_eq!(declared.await, json!({ "value": 900.0, "source": "declared" }));
    assert_eq!((network.money(&payer).await, network.receipts(&payer).await.len()), (before, 0));
    network.assert_books_are_right().await;

    // With its link a node's figure is gone.
    let [gone, stays] = nodes;
    let key = gone.address;
    drop(gone);
    until("the end of the link", || async { network.serving.rooms().fleet.node(key).is_none().then_some(()) }).await;
    let (_, pool) = answered(network.get("/v1/pool")).await;
    assert_eq!(pool["tflops_total"], shown(&network, &stays).await["tflops"]["value"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_measurement_looks_like_the_last_request_and_fits_a_small_context() {
    let network = Network::start().await;
    network.payer().await;
    let payer = network.payer().await;
    let node = FakeNode::join(&network, willing()).await;
    assert_eq!(answered(network.chat(&payer, json!({}))).await.0, StatusCode::OK);
    benchmarks_of(&network, 5_000).look().await;
    let job = node.heard().jobs[1].clone();
    assert_eq!((job.account, job.prompt.len() as u32), (payer.account, CONTEXT_TOKENS - 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_work_is_left_alone() {
    let network = Network::start().await;
    let payer = network.payer().await;
    let node = FakeNode::join(
        &network,
        Plan::new(|job| match is_measuring(job) {
            true => vec![Step::Tokens(one_token()), Step::Finish(FinishReason::Length)],
            false => vec![Step::Tokens(words("so far"))],
        }),
    )
    .await;
    let benchmarks = benchmarks(&network);
    let running = network.chat(&payer, json!({ "stream": true })).send().await.unwrap();
    let request = node.until("job", |heard| heard.jobs.first().cloned()).await;
    benchmarks.look().await;
    assert_eq!(node.heard().jobs.len(), 1, "the request alone");
    drop(running);
    node.until("cancel", |heard| heard.cancels.contains(&request.request_id).then_some(())).await;
    until("an idle node", || async { (shown(&network, &node).await["active"]["value"] == 0).then_some(()) }).await;

    // What another meter gave it, it says itself.
    let busy = |active| FromNode::Status(wire::node::NodeStatus { capacity: 64, active, ..Default::default() });
    let reported = |active: u32| {
        let fleet = &network.serving.rooms().fleet;
        let key = node.address;
        until("report", move || async move { (fleet.node(key)?.load().status.active == active).then_some(()) })
    };
    node.say(busy(3));
    reported(3).await;
    benchmarks.look().await;
    assert_eq!(node.heard().jobs.len(), 1);
    node.say(busy(0));
    reported(0).await;
    benchmarks.look().await;
    assert_eq!(node.heard().jobs.len(), 2);
    assert!(shown(&network, &node).await["tflops"]["value"].is_f64());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_comes_meanwhile_goes_first() {
    let network = Network::start().await;
    let payer = network.payer().await;
    // One place; a measurement is not answered until it is cancelled.
    let plan = Plan::new(|job| match is_measuring(job) {
        true => Vec::new(),
        false => vec![Step::Tokens(turn("fine")), Step::Finish(FinishReason::Stop)],
    });
    let node = FakeNode::join(&network, Plan { capacity: 1, ..plan }).await;
    let benchmarks = benchmarks(&network);
    let looking = tokio::spawn(async move { benchmarks.look().await });
    let measuring = node.until("job", |heard| heard.jobs.first().cloned()).await;
    let (status, answer) = answered(network.chat(&payer, json!({}))).await;
    assert_eq!((status, &answer["choices"][0]["message"]["content"]), (StatusCode::OK, &json!("fine")), "{answer}");
    looking.await.unwrap();
    let heard = node.heard();
    assert_eq!((heard.cancels, heard.jobs.len()), (vec![measuring.request_id], 2));
    assert_eq!(network.receipts(&payer).await.len(), 1);
    assert_not_measured(&network, &node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_measured_beside_a_request_does_not_count() {
    let network = Network::start().await;
    let payer = network.payer().await;
    let plan = Plan::new(|job| match is_measuring(job) {
        true => Vec::new(),
        false => vec![Step::Tokens(turn("fine")), Step::Finish(FinishReason::Stop)],
    });
    let node = FakeNode::join(&network, plan.clone()).await;
    let benchmarks = benchmarks(&network);
    let looking = tokio::spawn(async move { benchmarks.look().await });
    let job = node.until("job", |heard| heard.jobs.first().cloned()).await;
    assert_eq!(answered(network.chat(&payer, json!({}))).await.0, StatusCode::OK);
    node.say(FromNode::Tokens { request_id: job.request_id, first: 0, tokens: one_token(), logprobs: None });
    let receipt = true_receipt(&job, &one_token());
    let signature = sign(&receipt, &plan.signer);
    node.say(FromNode::Finished { request_id: job.request_id, finish_reason: FinishReason::Length, receipt, signature });
    looking.await.unwrap();
    assert_not_measured(&network, &node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_honest_answer_there_is_no_figure() {
    let another_count: fn(&mut ServiceReceipt) = |receipt| receipt.completion_tokens = 0;
    let another_prompt: fn(&mut ServiceReceipt) = |receipt| receipt.prompt_hash = B256::ZERO;
    let unchanged: fn(&mut ServiceReceipt) = |_| {};
    let first = Step::Tokens(one_token());
    for (what, steps) in [
        ("an error", vec![Step::Fail(FailureCode::Engine)]),
        ("busy elsewhere", vec![Step::Fail(FailureCode::Busy)]),
        ("no token", vec![Step::Finish(FinishReason::Stop)]),
        ("a token and an error", vec![first.clone(), Step::Fail(FailureCode::Engine)]),
        ("a lost link", vec![first.clone(), Step::Vanish]),
        ("fewer tokens than arrived", vec![first.clone(), Step::FinishAs(another_count, None)]),
        ("another prompt", vec![first.clone(), Step::FinishAs(another_prompt, None)]),
        ("somebody else's signature", vec![first.clone(), Step::FinishAs(unchanged, Some(PrivateKeySigner::random()))]),
        ("no receipt", vec![first]),
    ] {
        let network = Network::start_with(|limits| limits.cancel_timeout_ms = 100).await;
        let node = FakeNode::join(&network, measured_as(steps)).await;
        let benchmarks = benchmarks(&network);
        benchmarks.look().await;
        benchmarks.look().await;
        assert_eq!(node.heard().jobs.len(), 1, "{what}: it is not asked again at once");
        if what == "a lost link" {
            assert_eq!(answered(network.get("/v1/pool")).await.1["tflops_total"], json!(0.0));
        } else {
            assert_not_measured(&network, &node).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_says_nothing_is_cancelled() {
    let network = Network::start_with(|limits| limits.first_token_timeout_ms = 50).await;
    let node = FakeNode::join(&network, measured_as(Vec::new())).await;
    benchmarks(&network).look().await;
    assert_eq!(node.heard().cancels, [node.heard().jobs[0].request_id]);
    assert_not_measured(&network, &node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn measuring_can_be_turned_off() {
    let network = Network::start().await;
    let node = FakeNode::join(&network, willing()).await;
    let off = || {
        let settings = BenchmarkSettings { every_s: 0, ..BenchmarkSettings::default() };
        Benchmarks::new(network.serving.clone(), settings, Arc::new(rand::random))
    };
    off().look().await;
    off().run(daemon::CancellationToken::new()).await;
    assert!(node.heard().jobs.is_empty());
    assert_not_measured(&network, &node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_goes_on_by_itself_until_it_is_stopped() {
    let network = Network::start().await;
    let stop = daemon::CancellationToken::new();
    let settings = BenchmarkSettings { look_ms: 5, prompt_tokens: PROMPT_TOKENS, ..BenchmarkSettings::default() };
    let measuring = tokio::spawn(Benchmarks::new(network.serving.clone(), settings, Arc::new(rand::random)).run(stop.clone()));
    let node = FakeNode::join(&network, willing()).await;
    until("figure", || async { shown(&network, &node).await["tflops"]["value"].as_f64() }).await;
    stop.cancel();
    measuring.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fallback_hardware_computes_a_measurement_again_and_what_it_refutes_is_dropped() {
    let network = Network::start_auditing(RATE_BPS_MAX, 10_000).await;
    let honest = FakeNode::join(&network, willing()).await;
    let wrong_root: fn(&mut ServiceReceipt) = |receipt| receipt.proof_root = B256::repeat_byte(0x66);
    let hasty = FakeNode::join(&network, measured_as(vec![Step::Tokens(one_token()), Step::FinishAs(wrong_root, None)])).await;
    let auditor = FakeNode::join(&network, Plan { operator: FALLBACK_OPERATOR, ..willing() }).await;
    benchmarks(&network).look().await;

    assert_eq!(shown(&network, &honest).await["tflops"]["audited"], json!(true));
    assert_not_measured(&network, &hasty).await;
    // Nobody else is there to look at fallback hardware, and a figure accuses nobody.
    assert_eq!(shown(&network, &auditor).await["tflops"]["audited"], json!(false));
    assert_eq!(network.ledger.quarantines().await.unwrap(), vec![]);
    let audits = auditor.heard().audits;
    assert_eq!(audits.len(), 3, "one look at the honest one, two at the other");
    for node in [&honest, &hasty] {
        let job = node.heard().jobs[0].clone();
        assert!(audits.iter().any(|audit| (&audit.prompt, &audit.completion) == (&job.prompt, &one_token())));
    }
}
