//! What is refused before anything is dispatched, and how much of a balance runs at once.

use std::sync::Arc;

use reqwest::StatusCode;
use serde_json::{Value, json};
use wire::node::FinishReason;

use super::network::{CONTEXT_TOKENS, Funds, MODEL, Network, answered};
use super::node::{FakeNode, Plan, Step, turn};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_credits_do_not_cover_is_402_and_reaches_no_node() {
    let cases = [
        ("authorization_required", Funds { valid_until: 0, ..Funds::default() }),
        ("authorization_required", Funds { valid_until: 1_000, ..Funds::default() }),
        ("insufficient_credits", Funds { deposited: 30, ..Funds::default() }),
        ("exposure_exceeded", Funds { exposure: 30, ..Funds::default() }),
        ("cap_exceeded", Funds { cap: 30, ..Funds::default() }),
        ("key_limit", Funds { key_limit: Some(30), ..Funds::default() }),
    ];
    let network = Network::start().await;
    let node = FakeNode::join(&network, Plan::saying("never")).await;
    for (code, funds) in cases {
        let payer = network.payer_with(funds).await;
        let before = network.money(&payer).await;
        let (status, body) = answered(network.chat(&payer, json!({ "max_tokens": 40 }))).await;
        assert_eq!((status, &body["error"]["code"]), (StatusCode::PAYMENT_REQUIRED, &json!(code)), "{body}");
        let metadata = &body["error"]["metadata"];
        assert!(metadata["needed_credits"].as_u64().unwrap() > 40 && metadata["action"].is_string(), "{body}");
        if code != "authorization_required" {
            assert_eq!(metadata["available_credits"], 30, "{body}");
        }
        assert_eq!(network.money(&payer).await, before, "{code}");
        assert!(network.receipts(&payer).await.is_empty());
    }
    assert!(node.heard().jobs.is_empty());
    network.assert_books_are_right().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_that_is_being_closed_pays_for_nothing() {
    let network = Network::start().await;
    let payer = network.payer().await;
    let node = FakeNode::join(&network, Plan::saying("hello")).await;
    let until = network.ledger.give_clearance(payer.account).await.unwrap().deadline;
    for length in [json!({ "max_tokens": 40 }), json!({ "max_tokens": null })] {
        let (status, body) = answered(network.chat(&payer, length)).await;
        assert_eq!((status, &body["error"]["code"]), (StatusCode::PAYMENT_REQUIRED, &json!("account_closing")), "{body}");
        let metadata = &body["error"]["metadata"];
        assert_eq!((&metadata["closing_until"], &metadata["action"]), (&json!(until), &json!("wait")), "{body}");
    }
    assert!(node.heard().jobs.is_empty());
    assert_eq!(network.money(&payer).await, (100_000, 0, 0));

    network.mine_at(until + 1, vec![]).await;
    let (status, body) = answered(network.chat(&payer, json!({}))).await;
    assert_eq!((status, &body["choices"][0]["message"]["content"]), (StatusCode::OK, &json!("hello")));
    network.assert_books_are_right().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_fifty_concurrent_requests_exactly_the_covered_ten_run() {
    let network = Network::start().await;
    // No more than the template around "hello".
    let prompt_tokens =
        network.serving.rooms().catalog.get(MODEL).unwrap().prompter.count(&[prompt::Message::new("user", "hello")]).unwrap() as u64;
    let worst_case = prompt_tokens + 20;
    let payer = network.payer_with(Funds { deposited: 10 * worst_case + worst_case / 2, ..Funds::default() }).await;
    // An answer costs its worst case, so that none of the fifty can take what another left.
    let script = |_: &wire::node::Job| vec![Step::Tokens(super::node::words(&"a".repeat(20))), Step::Finish(FinishReason::Length)];
    let node = FakeNode::join(&network, Plan::new(script)).await;

    let network = Arc::new(network);
    let requests = (0..50).map(|_| {
        let request = network.chat(&payer, json!({ "max_tokens": 20 }));
        tokio::spawn(async move { answered(request).await })
    });
    let mut codes: Vec<Value> = Vec::new();
    for request in requests.collect::<Vec<_>>() {
        let (status, body) = request.await.unwrap();
        match status {
            StatusCode::OK => codes.push("served".into()),
            _ => codes.push(body["error"]["code"].clone()),
        }
    }
    assert_eq!(codes.iter().filter(|code| **code == "served").count(), 10, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| **code == "insufficient_credits").count(), 40, "{codes:?}");
    assert_eq!(node.heard().jobs.len(), 10);
    assert_eq!(network.money(&payer).await, (worst_case / 2, 0, 10 * worst_case));
    network.assert_books_are_right().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unnamed_length_is_what_context_and_credits_leave() {
    let network = Network::start().await;
    let node = FakeNode::join(&network, Plan::saying("yes")).await;
    let rich = network.payer().await;
    let (_, body) = answered(network.chat(&rich, json!({ "max_tokens": null }))).await;
    let prompt_tokens = node.heard().jobs[0].prompt.len() as u32;
    assert_eq!(body["parallelix"]["max_tokens"], CONTEXT_TOKENS - prompt_tokens);
    assert_eq!(body["parallelix"]["clamped"], false);

    for funds in [
        Funds { deposited: u64::from(prompt_tokens) + 9, ..Funds::default() },
        Funds { key_limit: Some(u64::from(prompt_tokens) + 9), ..Funds::default() },
    ] {
        let poor = network.payer_with(funds).await;
        let (status, body) = answered(network.chat(&poor, json!({ "max_tokens": null }))).await;
        assert_eq!(
            (status, &body["parallelix"]["max_tokens"], &body["parallelix"]["clamped"]),
            (StatusCode::OK, &json!(9), &json!(true)),
            "{body}"
        );
    }
    let poorest = network.payer_with(Funds { deposited: u64::from(prompt_tokens), ..Funds::default() }).await;
    let (status, body) = answered(network.chat(&poorest, json!({ "max_tokens": null }))).await;
    assert_eq!((status, &body["error"]["code"]), (StatusCode::PAYMENT_REQUIRED, &json!("insufficient_credits")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_is_named_and_reaches_no_node() {
    let network = Network::start().await;
    let payer = network.payer().await;
    let node = FakeNode::join(&network, Plan::saying("never")).await;
    let long = "word ".repeat(CONTEXT_TOKENS as usize);
    let cases = [
        (json!({ "messages": [] }), 400, "empty_messages", "messages"),
        (json!({ "messages": [{ "role": "user", "content": long }] }), 400, "context_length_exceeded", "messages"),
        (json!({ "max_tokens": CONTEXT_TOKENS + 1 }), 400, "context_length_exceeded", "max_tokens"),
        (json!({ "model": "none" }), 404, "model_not_found", "model"),
        (json!({ "temperature": -1 }), 400, "out_of_range", "temperature"),
        (json!({ "n": 3 }), 400, "unsupported_parameter", "n"),
        (json!({ "tools": [{ "type": "function" }] }), 400, "unsupported_parameter", "tools"),
    ];
    for (extra, expected, code, param) in cases {
        let (status, body) = answered(network.chat(&payer, extra)).await;
        assert_eq!((status.as_u16(), &body["error"]["code"], &body["error"]["param"]), (expected, &json!(code), &json!(param)), "{body}");
    }

    let raw = |body: &'static [u8]| network.post("/v1/chat/completions").bearer_auth(&payer.key).body(body);
    for body in [&b"{"[..], b"", b"[]", b"null", b"\xff\xfe", b"{\"model\": 1e999}"] {
        let (status, answer) = answered(raw(body)).await;
        assert_eq!((status, &answer["error"]["code"]), (StatusCode::BAD_REQUEST, &json!("invalid_json")), "{answer}");
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let (status, _) = answered(network.post("/v1/chat/completions").bearer_auth(&payer.key).body(deep)).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);

    assert!(node.heard().jobs.is_empty());
    assert_eq!(network.money(&payer).await, (100_000, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_online_is_503_and_holds_nothing() {
    let network = Network::start().await;
    let payer = network.payer().await;
    let (status, body) = answered(network.chat(&payer, json!({}))).await;
    assert_eq!((status, &body["error"]["code"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("no_node")));
    assert_eq!(network.money(&payer).await, (100_000, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_network_is_429_with_retry_after_and_holds_nothing() {
    let network = Network::start_with(|limits| {
        limits.queue_timeout_ms = 50;
        limits.queue_max = 1;
    })
    .await;
    let (first, second) = (network.payer().await, network.payer().await);
    let node = FakeNode::join(&network, Plan { capacity: 1, ..Plan::new(|_| Vec::new()) }).await;
    let occupying = tokio::spawn(network.chat(&first, json!({})).send());
    node.until("job", |heard| heard.jobs.first().cloned()).await;

    let response = network.chat(&second, json!({})).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(response.headers()["retry-after"].to_str().unwrap().parse::<u32>().unwrap() > 0);
    assert_eq!(response.json::<Value>().await.unwrap()["error"]["code"], "busy");
    assert_eq!(network.money(&second).await, (100_000, 0, 0));
    occupying.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_is_served_when_a_place_is_free() {
    let network = Network::start().await;
    let payer = network.payer().await;
    let _node = FakeNode::join(&network, Plan { capacity: 1, ..Plan::saying("next") }).await;
    let requests: Vec<_> = (0..8).map(|_| tokio::spawn(answered(network.chat(&payer, json!({}))))).collect();
    for request in requests {
        assert_eq!(request.await.unwrap().0, StatusCode::OK);
    }
    let cost = network.receipts(&payer).await.iter().map(|stored| stored.receipt.amount.get()).sum::<u64>();
    assert_eq!(network.money(&payer).await, (100_000 - cost, 0, cost));
    assert_eq!(network.receipts(&payer).await.len(), 8);
    assert!(cost >= 8 * turn("next").len() as u64);
}
