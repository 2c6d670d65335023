//! What is served, what is charged for it, and who signs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use alloy::signers::local::PrivateKeySigner;
use futures_util::StreamExt;
use meter::ledger::ReceiptState;
use reqwest::StatusCode;
use serde_json::{Value, json};
use wire::node::{FailureCode, FinishReason, ReceiptOutcome};
use wire::receipt::{ServiceReceipt, tokens_hash};
use wire::{AccountId, B256, Credits, OperatorId};

use super::network::{FALLBACK_OPERATOR, Network, Payer, answered, events, streamed_text, until};
use super::node::{FakeNode, Plan, Step, true_receipt, turn, words};

fn credits(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

async fn the_receipt(network: &Network, payer: &Payer) -> meter::ledger::StoredReceipt {
    let receipts = network.receipts(payer).await;
    assert_eq!(receipts.len(), 1, "{receipts:?}");
    receipts.into_iter().next().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_broke_off_goes_on_from_its_own_text() {
    let network = Network::start().await;
    let payer = network.payer().await;
    let node = FakeNode::join(&network, Plan::saying("and more")).await;
    let messages = json!([{ "role": "user", "content": "hi" }, { "role": "assistant", "content": "hello there" }]);
    let body = json!({ "messages": messages, "continue_final_message": true });
    let (status, answer) = answered(network.chat(&payer, body)).await;
    assert_eq!((status, &answer["choices"][0]["message"]["content"]), (StatusCode::OK, &json!("and more")));

    let job = node.heard().jobs[0].clone();
    let prompter = &network.serving.rooms().catalog.get(super::network::MODEL).unwrap().prompter;
    let prompt = prompter.decode(&job.prompt).unwrap();
    assert!(prompt.ends_with("hello there"), "the node goes on right behind what arrived: {prompt:?}");
    let cost = job.prompt.len() as u64 + turn("and more").len() as u64;
    assert_eq!(network.money(&payer).await, (100_000 - cost, 0, cost));

    for messages in [
        json!([{ "role": "user", "content": "hi" }]),
        json!([{ "role": "user", "content": "hi" }, { "role": "assistant", "content": null }]),
    ] {
        let (status, refused) = answered(network.chat(&payer, json!({ "messages": messages, "continue_final_message": true }))).await;
        assert_eq!((status, &refused["error"]["code"]), (StatusCode::BAD_REQUEST, &json!("invalid_prompt")), "{refused}");
    }
    assert_eq!(network.money(&payer).await, (100_000 - cost, 0, cost), "a refusal costs nothing");
    assert_eq!(node.heard().jobs.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_answer_is_charged_to_the_credit() {
    let network = Network::start().await;
    let payer = network.payer().await;
    let node = FakeNode::join(&network, Plan::saying("hello there")).await;

    let response = network.chat(&payer, json!({})).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let request_id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    let body: Value = response.json().await.unwrap();

    let job = node.heard().jobs[0].clone();
    let (prompt, completion) = (job.prompt.len() as u64, turn("hello there").len() as u64);
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["choices"][0]["message"], json!({ "role": "assistant", "content": "hello there", "refusal": null }));
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    assert_eq!(
        body["usage"],
        json!({
            "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion,
            "cost_credits": prompt + completion, "cost": Credits::new(prompt + completion).unwrap().to_string(),
        })
    );
    assert_eq!(body["parallelix"]["receipt_id"], request_id.as_str());
    assert_eq!(body["parallelix"]["node"], json!(node.address));
    assert_eq!(body["parallelix"]["fallback"], false);
    assert_eq!(body["parallelix"]["receipt_state"], "signed");

    let cost = prompt + completion;
    assert_eq!(network.money(&payer).await, (100_000 - cost, 0, cost));
    let stored = the_receipt(&network, &payer).await;
    assert_eq!((stored.state, stored.receipt.amount.get(), stored.node), (ReceiptState::Signed, cost, node.address));
    assert_eq!(stored.receipt.proof_root, true_receipt(&job, &turn("hello there")).proof_root);
    assert_eq!(stored.receipt.completion_hash, tokens_hash(&turn("hello there")));
    node.until("acknowledgement", |heard| (heard.acks == [(job.request_id, ReceiptOutcome::Captured)]).then_some(())).await;

    let (status, shown) = answered(network.get(&format!("/v1/receipts/{request_id}")).bearer_auth(&payer.key)).await;
    assert_eq!((status, &shown["state"], &shown["cost_credits"]), (StatusCode::OK, &json!("signed"), &json!(cost)));
    network.assert_books_are_right().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ends_with_usage_and_cost() {
    let network = Network::start().await;
    let payer = network.payer().await;
    let script = Plan::new(|_| {
        let mut steps: Vec<Step> = turn("one two three").chunks(2).map(|frame| Step::Tokens(frame.to_vec())).collect();
        steps.push(Step::Finish(FinishReason::Stop));
        steps
    });
    let _node = FakeNode::join(&network, script).await;

    for include_usage in [true, false] {
        let response =
            network.chat(&payer, json!({ "stream": true, "stream_options": { "include_usage": include_usage } })).send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
        let events = events(&response.text().await.unwrap());
        assert_eq!(events[0]["choices"][0]["delta"], json!({ "role": "assistant", "content": "" }));
        assert_eq!(streamed_text(&events), "one two three");
        assert!(events.iter().all(|event| event["object"] == "chat.completion.chunk" && event["id"] == events[0]["id"]));
        let last = events.last().unwrap();
        let end = if include_usage { &events[events.len() - 2] } else { last };
        assert_eq!(end["choices"][0]["finish_reason"], "stop");
        assert_eq!(last["choices"].as_array().unwrap().is_empty(), include_usage);
        assert_eq!(credits(&last["usage"]["completion_tokens"]), turn("one two three").len() as u64);
        assert!(last["parallelix"]["receipt_id"].is_string());
    }
    let spent: u64 = network.receipts(&payer).await.iter().map(|stored| stored.receipt.amount.get()).sum();
    assert_eq!(network.money(&payer).await, (100_000 - spent, 0, spent));
    network.assert_books_are_right().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_completion_without_a_template_is_served_too() {
    let network = Network::start().await;
    let payer = network.payer().await;
    let node = FakeNode::join(&network, Plan::saying(" world")).await;
    let body = json!({ "model": super::network::MODEL, "prompt": "hello", "max_tokens": 16 });
    let (status, answer) = answered(network.post("/v1/completions").bearer_auth(&payer.key).json(&body)).await;
    assert_eq!((status, &answer["object"], &answer["choices"][0]["text"]), (StatusCode::OK, &json!("text_completion"), &json!(" world")));
    assert_eq!(node.heard().jobs[0].prompt, words("hello"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_string_ends_the_answer_whatever_the_node_sends_after_it() {
    let network = Network::start().await;
    let payer = network.payer().await;
    let node = FakeNode::join(
        &network,
        Plan::new(|_| words("one two END three four").into_iter().map(|token| Step::Tokens(vec![token])).collect()),
    )
    .await;

    let (status, body) = answered(network.chat(&payer, json!({ "stop": "END", "max_tokens": 100 }))).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(body["choices"][0]["message"]["content"], "one two ");
    let counted = words("one two END").len() as u32;
    assert_eq!(credits(&body["usage"]["completion_tokens"]), u64::from(counted));
    let request_id = node.heard().jobs[0].request_id;
    node.until("cancel", |heard| heard.cancels.contains(&request_id).then_some(())).await;
    let signed =
        until("signature", || async { Some(the_receipt(&network, &payer).await).filter(|stored| stored.state == ReceiptState::Signed) });
    assert_eq!(signed.await.receipt.completion_tokens, counted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_sends_too_much_is_paid_for_max_tokens() {
    let network = Network::start().await;
    let payer = network.payer().await;
    let node = FakeNode::join(
        &network,
        Plan::new(|_| vec![Step::Tokens(words(&"a".repeat(40))), Step::Tokens(words(&"b".repeat(40))), Step::Finish(FinishReason::Length)]),
    )
    .await;

    let (status, body) = answered(network.chat(&payer, json!({ "max_tokens": 10 }))).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(body["choices"][0]["message"]["content"], "a".repeat(10));
    assert_eq!(body["choices"][0]["finish_reason"], "length");
    assert_eq!(body["parallelix"]["receipt_state"], "awaiting_signature");
    let asked = node.until("sign_receipt", |heard| heard.asked_to_sign.first().cloned()).await;
    assert_eq!((asked.completion_tokens, asked.proof_root), (10, B256::ZERO));
    until("signature", || async { (the_receipt(&network, &payer).await.state == ReceiptState::Signed).then_some(()) }).await;
    let cost = u64::from(asked.prompt_tokens) + 10;
    assert_eq!(network.money(&payer).await, (100_000 - cost, 0, cost));
    network.assert_books_are_right().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_fails_before_its_first_token_costs_nothing_and_another_one_serves() {
    let failures = [
        vec![Step::Fail(FailureCode::Busy)],
        vec![Step::Fail(FailureCode::Engine)],
        vec![Step::Finish(FinishReason::Stop)],
        vec![Step::Vanish],
    ];
    for failure in failures {
        let network = Network::start().await;
        let payer = network.payer().await;
        let asked = Arc::new(AtomicU32::new(0));
        let plan = |asked: Arc<AtomicU32>| {
            let failure = failure.clone();
            Plan::new(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
                0 => failure.clone(),
                _ => vec![Step::Tokens(turn("hello")), Step::Finish(FinishReason::Stop)],
            })
        };
        let _first = FakeNode::join(&network, plan(Arc::clone(&asked))).await;
        let _second = FakeNode::join(&network, plan(Arc::clone(&asked))).await;

        let (status, body) = answered(network.chat(&payer, json!({}))).await;
        assert_eq!((status, &body["choices"][0]["message"]["content"]), (StatusCode::OK, &json!("hello")));
        assert_eq!(asked.load(Ordering::SeqCst), 2);
        let cost = the_receipt(&network, &payer).await.receipt.amount.get();
        assert_eq!(network.money(&payer).await, (100_000 - cost, 0, cost));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_no_node_starts_nothing_is_charged() {
    let network = Network::start().await;
    let payer = network.payer().await;
    let mut nodes = Vec::new();
    for _ in 0..4 {
        nodes.push(FakeNode::join(&network, Plan::new(|_| vec![Step::Fail(FailureCode::Engine)])).await);
    }
    let (status, body) = answered(network.chat(&payer, json!({}))).await;
    assert_eq!((status, &body["error"]["code"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("no_node")), "{body}");
    // One try and two more; the fourth is another network node, and those are over.
    assert_eq!(nodes.iter().map(|node| node.heard().jobs.len()).sum::<usize>(), 3);
    assert_eq!(network.money(&payer).await, (100_000, 0, 0));
    assert!(network.receipts(&payer).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_dies_in_the_middle_is_paid_for_what_arrived_once_it_signs() {
    let network = Network::start().await;
    let payer = network.payer().await;
    let signer = PrivateKeySigner::random();
    let plan = Plan { signer: signer.clone(), ..Plan::new(|_| vec![Step::Tokens(words("so far so")), Step::Vanish]) };
    let node = FakeNode::join(&network, plan.clone()).await;

    let response = network.chat(&payer, json!({ "stream": true })).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let events = events(&response.text().await.unwrap());
    assert_eq!(streamed_text(&events), "so far so");
    let last = events.last().unwrap();
    let (prompt, completion) = (node.heard().jobs[0].prompt.len() as u64, words("so far so").len() as u64);
    assert_eq!((&last["error"]["code"], &last["choices"][0]["finish_reason"]), (&json!("answer_broke_off"), &json!("error")));
    assert_eq!(credits(&last["usage"]["completion_tokens"]), completion);
    assert_eq!(credits(&last["usage"]["cost_credits"]), prompt + completion);
    assert_eq!(network.money(&payer).await, (100_000 - prompt - completion, 0, prompt + completion));
    assert_eq!(the_receipt(&network, &payer).await.state, ReceiptState::AwaitingSignature);

    let returned = FakeNode::link(&network, plan).await;
    until("signature", || async { (the_receipt(&network, &payer).await.state == ReceiptState::Signed).then_some(()) }).await;
    let request_id = node.heard().jobs[0].request_id;
    returned.until("acknowledgement", |heard| (heard.acks == [(request_id, ReceiptOutcome::Captured)]).then_some(())).await;
    network.assert_books_are_right().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_off_answer_is_handed_over_and_not_to_be_retried() {
    let network = Network::start().await;
    let payer = network.payer().await;
    let _node = FakeNode::join(&network, Plan::new(|_| vec![Step::Tokens(words("half")), Step::Fail(FailureCode::Engine)])).await;

    let response = network.chat(&payer, json!({})).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(response.headers()["x-should-retry"], "false");
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["error"]["metadata"]["partial_text"], "half");
    let cost = credits(&body["error"]["metadata"]["usage"]["cost_credits"]);
    assert_eq!(network.money(&payer).await, (100_000 - cost, 0, cost));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lying_receipt_changes_no_charge() {
    type Change = fn(&mut ServiceReceipt);
    let lies: [(&str, Change, bool); 8] = [
        ("a higher count", |receipt| receipt.completion_tokens += 1_000, false),
        ("a higher amount", |receipt| receipt.amount = receipt.amount.checked_add(receipt.amount).unwrap(), false),
        ("another request", |receipt| receipt.request_id = B256::repeat_byte(9), false),
        ("another payer", |receipt| receipt.account = AccountId(2), false),
        ("another operator", |receipt| receipt.operator = OperatorId(8), false),
        ("another text", |receipt| receipt.completion_hash = B256::repeat_byte(9), false),
        ("a day in the future", |receipt| receipt.served_at += 86_400, false),
        ("another key", |_| {}, true),
    ];
    for (lie, change, foreign_key) in lies {
        let network = Network::start().await;
        let payer = network.payer().await;
        let signer = foreign_key.then(PrivateKeySigner::random);
        let plan = Plan::new(move |_| vec![Step::Tokens(turn("truth")), Step::FinishAs(change, signer.clone())]);
        let node = FakeNode::join(&network, Plan { signs: false, ..plan }).await;

        let (status, body) = answered(network.chat(&payer, json!({}))).await;
        assert_eq!((status, &body["parallelix"]["receipt_state"]), (StatusCode::OK, &json!("awaiting_signature")), "{lie}");
        let cost = (node.heard().jobs[0].prompt.len() + turn("truth").len()) as u64;
        assert_eq!(network.money(&payer).await, (100_000 - cost, 0, cost), "{lie}");
        let asked = node.until("sign_receipt", |heard| heard.asked_to_sign.first().cloned()).await;
        assert_eq!(asked, the_receipt(&network, &payer).await.receipt, "{lie}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lower_claim_stands() {
    let network = Network::start().await;
    let payer = network.payer().await;
    let modest: fn(&mut ServiceReceipt) = |receipt| {
        let fewer = receipt.for_fewer(2, tokens_hash(&turn("hello there")[..2])).unwrap();
        *receipt = fewer;
    };
    let node = FakeNode::join(&network, Plan::new(move |_| vec![Step::Tokens(turn("hello there")), Step::FinishAs(modest, None)])).await;

    let (status, body) = answered(network.chat(&payer, json!({}))).await;
    assert_eq!(status, StatusCode::OK);
    let cost = node.heard().jobs[0].prompt.len() as u64 + 2;
    assert_eq!((credits(&body["usage"]["completion_tokens"]), credits(&body["usage"]["cost_credits"])), (2, cost));
    assert_eq!(network.money(&payer).await, (100_000 - cost, 0, cost));
    assert_eq!(the_receipt(&network, &payer).await.state, ReceiptState::Signed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_pays_for_what_arrived() {
    for obedient in [true, false] {
        let network = Network::start_with(|limits| limits.cancel_timeout_ms = 300).await;
        let payer = network.payer().await;
        let node = FakeNode::join(&network, Plan { obedient, ..Plan::new(|_| vec![Step::Tokens(words("never ending"))]) }).await;

        let response = network.chat(&payer, json!({ "stream": true, "max_tokens": 100 })).send().await.unwrap();
        let mut body = response.bytes_stream();
        let mut seen = String::new();
        while !seen.contains("never ending") {
            seen.push_str(std::str::from_utf8(&body.next().await.unwrap().unwrap()).unwrap());
        }
        drop(body);

        let request_id = node.heard().jobs[0].request_id;
        node.until("cancel", |heard| heard.cancels.contains(&request_id).then_some(())).await;
        let stored = until("receipt", || async { network.receipts(&payer).await.into_iter().next() }).await;
        let cost = (node.heard().jobs[0].prompt.len() + words("never ending").len()) as u64;
        assert_eq!((stored.finish_reason.as_str(), stored.receipt.amount.get()), ("cancelled", cost));
        until("signature", || async { (the_receipt(&network, &payer).await.state == ReceiptState::Signed).then_some(()) }).await;
        assert_eq!(network.money(&payer).await, (100_000 - cost, 0, cost));
        network.assert_books_are_right().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_away_before_the_first_token_pays_nothing() {
    let network = Network::start().await;
    let payer = network.payer().await;
    let node = FakeNode::join(&network, Plan::new(|_| Vec::new())).await;

    let request = network.chat(&payer, json!({}));
    let waiting = tokio::spawn(async move { request.send().await.map(drop) });
    let request_id = node.until("job", |heard| heard.jobs.first().map(|job| job.request_id)).await;
    assert!(network.money(&payer).await.1 > 0);
    waiting.abort();

    node.until("cancel", |heard| heard.cancels.contains(&request_id).then_some(())).await;
    until("release", || async { (network.money(&payer).await == (100_000, 0, 0)).then_some(()) }).await;
    assert!(network.receipts(&payer).await.is_empty());
    network.assert_books_are_right().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_node_is_cut_off_and_paid_for_what_arrived() {
    let network = Network::start_with(|limits| limits.idle_timeout_ms = 200).await;
    let payer = network.payer().await;
    let node = FakeNode::join(&network, Plan::new(|_| vec![Step::Tokens(words("and then"))])).await;
    let (status, body) = answered(network.chat(&payer, json!({}))).await;
    assert_eq!((status, &body["error"]["code"]), (StatusCode::BAD_GATEWAY, &json!("answer_broke_off")));
    assert_eq!(node.heard().cancels.len(), 1);
    let cost = (node.heard().jobs[0].prompt.len() + words("and then").len()) as u64;
    assert_eq!(network.money(&payer).await, (100_000 - cost, 0, cost));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fallback_hardware_serves_when_no_network_node_is_online_and_says_so() {
    let network = Network::start().await;
    let payer = network.payer().await;
    let fallback = FakeNode::join(&network, Plan { operator: FALLBACK_OPERATOR, ..Plan::saying("from the project") }).await;
    assert_eq!(fallback.heard().welcomes, [true]);

    let (_, body) = answered(network.chat(&payer, json!({}))).await;
    assert_eq!((&body["parallelix"]["fallback"], &body["parallelix"]["operator"]), (&json!(true), &json!(FALLBACK_OPERATOR)));
    assert!(the_receipt(&network, &payer).await.fallback);

    let _node = FakeNode::join(&network, Plan::saying("from the network")).await;
    let (_, body) = answered(network.chat(&payer, json!({}))).await;
    assert_eq!((&body["parallelix"]["fallback"], &body["choices"][0]["message"]["content"]), (&json!(false), &json!("from the network")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fallback_hardware_takes_over_when_network_nodes_fail() {
    let network = Network::start().await;
    let payer = network.payer().await;
    let _failing = FakeNode::join(&network, Plan::new(|_| vec![Step::Fail(FailureCode::Engine)])).await;
    let _fallback = FakeNode::join(&network, Plan { operator: FALLBACK_OPERATOR, ..Plan::saying("rescued") }).await;
    let (status, body) = answered(network.chat(&payer, json!({}))).await;
    assert_eq!((status, &body["parallelix"]["fallback"]), (StatusCode::OK, &json!(true)));
}
