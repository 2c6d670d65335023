//! The answer that the operator publishes: anybody reads it, and nobody anything else.

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::network::{MODEL, Network, Payer, answered};
use super::node::{FakeNode, Plan};

async fn demo(network: &Network) -> (StatusCode, Value) {
    answered(network.get("/v1/demo")).await
}

fn publish(network: &Network, file: &Value) {
    std::fs::write(network.demo_file(), file.to_string()).unwrap();
}

/// The file for a new answer of this payer.
async fn file_of(network: &Network, payer: &Payer) -> Value {
    let (status, answer) = answered(network.chat(payer, json!({ "return_token_ids": true }))).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    json!({
        "receipt_id": answer["parallelix"]["receipt_id"], "question": "hello",
        "token_ids": answer["choices"][0]["token_ids"], "params": answer["parallelix"]["params"],
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_published_answer_and_its_receipt_are_anybodys_and_no_other() {
    let network = Network::start().await;
    let _node = FakeNode::join(&network, Plan::saying("hello there")).await;
    let payer = network.payer().await;
    let (file, private) = (file_of(&network, &payer).await, file_of(&network, &payer).await);
    let receipt = |file: &Value| network.get(&format!("/v1/receipts/{}", file["receipt_id"].as_str().unwrap()));
    assert_eq!(demo(&network).await.1["error"]["code"], "no_demo");
    assert_eq!(answered(receipt(&file)).await.0, StatusCode::UNAUTHORIZED);

    publish(&network, &file);

    let (status, shown) = demo(&network).await;
    assert_eq!((status, &shown["question"], &shown["answer"]), (StatusCode::OK, &json!("hello"), &json!("hello there")), "{shown}");
    assert_eq!((&shown["model"], &shown["receipt_id"], &shown["params"]), (&json!(MODEL), &file["receipt_id"], &file["params"]));
    assert_eq!(shown["token_ids"], file["token_ids"]);
    assert!(!shown["prompt_token_ids"].as_array().unwrap().is_empty());
    let (status, seen) = answered(receipt(&file)).await;
    assert_eq!(
        (status, &seen["receipt"], &seen["signature"]),
        (StatusCode::OK, &shown["receipt"]["receipt"], &shown["receipt"]["signature"])
    );
    let stranger = network.payer().await;
    assert_eq!(answered(receipt(&file).bearer_auth(&stranger.key)).await.0, StatusCode::OK);
    assert_eq!(answered(receipt(&private)).await.0, StatusCode::UNAUTHORIZED);
    let proof = format!("/v1/receipts/{}/proof", file["receipt_id"].as_str().unwrap());
    assert_eq!(answered(network.get(&proof)).await.0, StatusCode::UNAUTHORIZED, "the node is asked for its payer alone");

    std::fs::remove_file(network.demo_file()).unwrap();
    assert_eq!(demo(&network).await.0, StatusCode::NOT_FOUND);
    assert_eq!(answered(receipt(&file)).await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_receipt_does_not_bear_out_is_not_shown() {
    let network = Network::start().await;
    let _node = FakeNode::join(&network, Plan::saying("hello there")).await;
    let payer = network.payer().await;
    let file = file_of(&network, &payer).await;
    let bent = |change: &dyn Fn(&mut Value)| {
        let mut bent = file.clone();
        change(&mut bent);
        bent
    };
    let cases = [
        bent(&|file| file["question"] = json!("hello!")),
        bent(&|file| file["token_ids"].as_array_mut().unwrap().truncate(1)),
        bent(&|file| file["params"]["seed"] = json!(file["params"]["seed"].as_u64().unwrap() ^ 1)),
        bent(&|file| file["receipt_id"] = json!(format!("0x{}", "11".repeat(32)))),
        bent(&|file| file["answer"] = json!("another text")),
        json!("no file of this kind"),
        json!("x".repeat(70_000)),
    ];
    for case in cases {
        publish(&network, &case);
        let (status, body) = demo(&network).await;
        assert_eq!((status, &body["error"]["code"]), (StatusCode::NOT_FOUND, &json!("no_demo")), "{case}");
    }
    publish(&network, &file);
    assert_eq!(demo(&network).await.0, StatusCode::OK);
}
