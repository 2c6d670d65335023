//! What the page reads beside the completions.

use daemon::clock::{Clock, SystemClock};
use reqwest::StatusCode;
use serde_json::json;

use super::network::{MODEL, Network, answered};
use super::node::{FakeNode, Plan};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_adds_up_to_what_was_charged() {
    let network = Network::start().await;
    let (payer, other) = (network.payer().await, network.payer().await);
    let _node = FakeNode::join(&network, Plan::saying("hello there")).await;
    for _ in 0..3 {
        assert_eq!(answered(network.chat(&payer, json!({}))).await.0, StatusCode::OK);
    }
    answered(network.chat(&other, json!({}))).await;

    // Around midnight the answers may be of two days.
    let day = |days: u64| {
        let output = std::process::Command::new("date").args(["-u", "-d", &format!("@{}", days * 86_400), "+%Y-%m-%d"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let today = SystemClock.now_s() / 86_400;
    let path = format!("/v1/usage?from={}&to={}", day(today - 1), day(today));
    let (status, usage) = answered(network.get(&path).bearer_auth(&payer.key)).await;
    assert_eq!(status, StatusCode::OK, "{usage}");
    let rows = usage["data"].as_array().unwrap();
    let sum = |field: &str| rows.iter().map(|row| row[field].as_u64().unwrap()).sum::<u64>();
    let receipts = network.receipts(&payer).await;
    assert_eq!(sum("requests"), 3);
    assert_eq!(sum("cost"), receipts.iter().map(|stored| stored.receipt.amount.get()).sum::<u64>());
    assert_eq!(sum("prompt_tokens"), receipts.iter().map(|stored| u64::from(stored.receipt.prompt_tokens)).sum::<u64>());
    assert_eq!(sum("completion_tokens"), receipts.iter().map(|stored| u64::from(stored.receipt.completion_tokens)).sum::<u64>());
    assert!(rows.iter().all(|row| row["model"] == MODEL && row["key_name"] == "test" && row["key_id"].is_string()), "{usage}");

    let (_, none) = answered(network.get("/v1/usage?from=2020-01-01&to=2020-12-31").bearer_auth(&payer.key)).await;
    assert_eq!(none["data"], json!([]));
    for query in ["", "?from=2026-01-01", "?from=2026-01-02&to=2026-01-01", "?from=2025-01-01&to=2026-01-02", "?from=x&to=2026-01-01"] {
        let (status, body) = answered(network.get(&format!("/v1/usage{query}")).bearer_auth(&payer.key)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{query}: {body}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_chain_is_read_and_never_written() {
    let network = Network::start().await;
    let ask = async |method: &str| answered(network.post("/v1/chain").json(&json!({ "jsonrpc": "2.0", "id": 1, "method": method }))).await;
    let (status, body) = ask("eth_sendRawTransaction").await;
    assert_eq!((status, &body["error"]["code"]), (StatusCode::FORBIDDEN, &json!("method_not_allowed_on_chain")));
    // The network of these tests has no chain.
    let (status, body) = ask("eth_chainId").await;
    assert_eq!((status, &body["error"]["code"]), (StatusCode::BAD_GATEWAY, &json!("chain_unavailable")));
    assert!(!body.to_string().contains("127.0.0.1"), "{body}");
    let batch = json!([{ "jsonrpc": "2.0", "id": 1, "method": "eth_chainId" }]);
    assert_eq!(answered(network.post("/v1/chain").json(&batch)).await.0, StatusCode::BAD_REQUEST);
    let long = json!({ "jsonrpc": "2.0", "id": 1, "method": "x".repeat(17_000) });
    assert_eq!(answered(network.post("/v1/chain").json(&long)).await.0, StatusCode::PAYLOAD_TOO_LARGE);
}
