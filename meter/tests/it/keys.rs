//! What an API key may ask for.

use meter::identity::KeyLimits;
use reqwest::StatusCode;
use serde_json::json;

use super::network::{MODEL, Network, Payer, answered};
use super::node::{FakeNode, Plan};

fn only(model: &str) -> KeyLimits {
    KeyLimits { models: Some([model.to_owned()].into()), ..KeyLimits::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_for_other_models_is_refused_at_every_door_and_costs_nothing() {
    let network = Network::start().await;
    let node = FakeNode::join(&network, Plan::saying("never")).await;
    let payer = network.payer().await;
    let limited = Payer { key: network.key_of(payer.account, only("test/other")).await, ..payer.clone() };
    let before = network.money(&payer).await;

    let chat = json!({ "model": MODEL, "messages": [{ "role": "user", "content": "hello" }] });
    let calls = [
        network.chat(&limited, json!({})),
        network.post("/v1/completions").bearer_auth(&limited.key).json(&json!({ "model": MODEL, "prompt": "hello" })),
        network.post("/v1/jobs").bearer_auth(&limited.key).header("idempotency-key", "k").json(&chat),
        network.get(&format!("/v1/models/{MODEL}")).bearer_auth(&limited.key),
    ];
    for call in calls {
        let (status, body) = answered(call).await;
        assert_eq!((status, &body["error"]["code"]), (StatusCode::FORBIDDEN, &json!("model_not_allowed")), "{body}");
        assert_eq!((&body["error"]["type"], &body["error"]["param"]), (&json!("permission_error"), &json!("model")));
    }
    assert_eq!(answered(network.get("/v1/models").bearer_auth(&limited.key)).await.1["data"], json!([]));
    assert_eq!(network.money(&payer).await, before);
    assert!(node.heard().jobs.is_empty());
    network.assert_books_are_right().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_for_one_model_sees_it_and_is_answered_by_it() {
    let network = Network::start().await;
    let _node = FakeNode::join(&network, Plan::saying("hello there")).await;
    let payer = network.payer().await;
    let limited = Payer { key: network.key_of(payer.account, only(MODEL)).await, ..payer };

    let (_, models) = answered(network.get("/v1/models").bearer_auth(&limited.key)).await;
    assert_eq!((models["data"].as_array().unwrap().len(), &models["data"][0]["id"]), (1, &json!(MODEL)));
    assert_eq!(answered(network.get(&format!("/v1/models/{MODEL}")).bearer_auth(&limited.key)).await.0, StatusCode::OK);
    assert_eq!(answered(network.chat(&limited, json!({}))).await.0, StatusCode::OK);

    let (status, body) = answered(network.get("/v1/models").bearer_auth("prlx_1")).await;
    assert_eq!((status, &body["error"]["code"]), (StatusCode::UNAUTHORIZED, &json!("malformed_api_key")));
}
