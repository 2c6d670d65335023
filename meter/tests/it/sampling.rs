//! What shapes an answer: log-probabilities, biases, JSON formats; from the request to the job and back.

use reqwest::StatusCode;
use serde_json::{Value, json};
use wire::node::{AnswerFormat, FinishReason};

use super::network::{Network, answered, events};
use super::node::{FakeNode, Plan, Step, prompter, turn, words};

/// Sends `text` in frames of two tokens, scored, and ends its turn.
fn scoring(text: &'static str) -> Plan {
    Plan::new(move |_| {
        let mut steps: Vec<Step> = turn(text).chunks(2).map(|frame| Step::Scored(frame.to_vec())).collect();
        steps.push(Step::Finish(FinishReason::Stop));
        steps
    })
}

fn contents(choice: &Value) -> Vec<Value> {
    choice["logprobs"]["content"].as_array().cloned().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chat_shows_log_probabilities_of_each_token_of_its_text_whole_and_streamed() {
    let network = Network::start().await;
    let payer = network.payer().await;
    let node = FakeNode::join(&network, scoring("é 🙂!")).await;

    let (status, body) = answered(network.chat(&payer, json!({ "logprobs": true, "top_logprobs": 2 }))).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(node.heard().jobs[0].params.logprobs, Some(2));
    let choice = &body["choices"][0];
    let whole = contents(choice);
    assert_eq!(whole.len(), words("é 🙂!").len(), "the end-of-turn token is no text");
    let bytes: Vec<u8> =
        whole.iter().flat_map(|token| token["bytes"].as_array().unwrap()).map(|byte| byte.as_u64().unwrap() as u8).collect();
    assert_eq!(String::from_utf8(bytes).unwrap(), "é 🙂!");
    assert_eq!((&whole[0]["token"], &whole[0]["logprob"]), (&json!("\\xc3"), &json!(-0.5)));
    assert_eq!(
        whole[0]["top_logprobs"],
        json!([{ "token": "a", "logprob": -0.5, "bytes": [97] }, { "token": "b", "logprob": -1.5, "bytes": [98] }])
    );

    let response = network.chat(&payer, json!({ "logprobs": true, "top_logprobs": 2, "stream": true })).send().await.unwrap();
    let chunks = events(&response.text().await.unwrap());
    let streamed: Vec<Value> = chunks.iter().flat_map(|chunk| contents(&chunk["choices"][0])).collect();
    assert_eq!(streamed, whole);
    assert!(chunks.iter().all(|chunk| chunk["choices"][0]["finish_reason"].is_null() || chunk["choices"][0]["logprobs"].is_null()));

    network.assert_books_are_right().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_completion_shows_log_probabilities_in_its_own_form() {
    let network = Network::start().await;
    let payer = network.payer().await;
    let _node = FakeNode::join(&network, scoring("hé!")).await;
    let ask = |extra: Value| {
        let mut body = json!({ "model": super::network::MODEL, "prompt": "say", "logprobs": 1 });
        extra.as_object().unwrap().iter().for_each(|(field, value)| body[field] = value.clone());
        network.post("/v1/completions").bearer_auth(&payer.key).json(&body)
    };

    let (status, body) = answered(ask(json!({}))).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let whole = &body["choices"][0]["logprobs"];
    let prompter = prompter();
    let count = prompter.encode("hé!").unwrap().len();
    for list in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(whole[list].as_array().unwrap().len(), count, "{list}");
    }
    assert_eq!((&whole["tokens"][0], &whole["text_offset"][0]), (&json!("h"), &json!(0)));
    assert_eq!(whole["top_logprobs"][0], json!({ "a": -0.5, "h": -0.5 }), "the drawn token is always among them");
    assert_eq!(whole["text_offset"][count - 1], json!(2), "characters of the text");

    let chunks = events(&ask(json!({ "stream": true })).send().await.unwrap().text().await.unwrap());
    let tokens: Vec<Value> =
        chunks.iter().flat_map(|chunk| chunk["choices"][0]["logprobs"]["tokens"].as_array().cloned().unwrap_or_default()).collect();
    assert_eq!(json!(tokens), whole["tokens"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_leaves_out_what_was_asked_for_is_not_charged_and_another_serves() {
    let network = Network::start().await;
    let payer = network.payer().await;
    let silent = FakeNode::join(&network, Plan::saying("without")).await;
    let (status, body) = answered(network.chat(&payer, json!({ "logprobs": true }))).await;
    assert_eq!((status, &body["error"]["code"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("no_node")));
    assert_eq!(silent.heard().jobs.len(), 1);
    assert_eq!(network.money(&payer).await, (100_000, 0, 0));

    let _able = FakeNode::join(&network, scoring("with")).await;
    let (status, body) = answered(network.chat(&payer, json!({ "logprobs": true }))).await;
    assert_eq!((status, &body["choices"][0]["message"]["content"]), (StatusCode::OK, &json!("with")));
    assert_eq!(contents(&body["choices"][0]).len(), words("with").len());
    network.assert_books_are_right().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn biases_and_formats_reach_the_node_as_they_were_sent() {
    let network = Network::start().await;
    let payer = network.payer().await;
    let node = FakeNode::join(&network, Plan::saying("{}")).await;
    let schema = json!({ "type": "object", "properties": { "z": { "type": "integer" }, "a": { "type": "string" } } });
    let asked = [
        json!({ "logit_bias": { "98": -100, "97": 2.5 } }),
        json!({ "response_format": { "type": "json_object" } }),
        json!({ "response_format": { "type": "json_schema", "json_schema": { "name": "x", "strict": true, "schema": schema } } }),
    ];
    for extra in asked {
        let (status, body) = answered(network.chat(&payer, extra)).await;
        assert_eq!(status, StatusCode::OK, "{body}");
    }
    let jobs = node.heard().jobs;
    assert_eq!(jobs[0].params.logit_bias, [(97, 2.5), (98, -100.0)]);
    assert_eq!(jobs[1].params.format, AnswerFormat::JsonObject);
    assert_eq!(jobs[2].params.format, AnswerFormat::JsonSchema { schema: schema.to_string() });
    for (job, receipt) in jobs.iter().zip(network.receipts(&payer).await.into_iter().rev()) {
        assert_eq!(receipt.receipt.params_hash, job.params.hash());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_served_is_refused_by_name_before_anything_is_held() {
    let network = Network::start().await;
    let payer = network.payer().await;
    let node = FakeNode::join(&network, Plan::saying("never")).await;
    let format = |schema: Value| json!({ "response_format": { "type": "json_schema", "json_schema": { "name": "x", "schema": schema } } });
    let cases = [
        (json!({ "logit_bias": { "99999": 1 } }), "logit_bias", "invalid_token", "99999"),
        (json!({ "logit_bias": { "1": 1000 } }), "logit_bias", "out_of_range", "1000"),
        (json!({ "logprobs": true, "top_logprobs": 50 }), "top_logprobs", "out_of_range", "50"),
        (json!({ "stop": vec!["x"; 10_000] }), "stop", "out_of_range", "10000"),
        (format(json!({ "type": "banana" })), "response_format", "invalid_schema", "banana"),
        (format(json!({ "type": "string", "pattern": "(" })), "response_format", "invalid_schema", "unclosed group"),
        (format(json!({ "type": "integer", "multipleOf": 1_000_003 })), "response_format", "invalid_schema", "1000003"),
        (format(json!({ "$ref": "#" })), "response_format", "invalid_schema", "no answer"),
    ];
    for (extra, param, code, word) in cases {
        let (status, body) = answered(network.chat(&payer, extra)).await;
        let error = &body["error"];
        assert_eq!((status, &error["param"], &error["code"]), (StatusCode::BAD_REQUEST, &json!(param), &json!(code)), "{body}");
        assert_eq!(error["type"], "invalid_request_error");
        assert!(error["message"].as_str().unwrap().contains(word), "{body}");
    }
    assert!(node.heard().jobs.is_empty());
    assert_eq!(network.money(&payer).await, (100_000, 0, 0));
}
