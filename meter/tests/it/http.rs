//! The accept loop, and the resources beside the completions.

use alloy::signers::local::PrivateKeySigner;
use daemon::clock::{Clock, SystemClock};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wire::merkle;
use wire::rows::{self, Group, Row};
use wire::settlement::{BatchProposal, Feed, SignedBatch};

use super::network::{DEADLINE, MODEL, Network, OPERATOR, answered, keeper_pass as pass, until};
use super::node::{FakeNode, Plan, Step, domain, turn, words};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_that_never_ends_and_a_body_that_never_comes_are_cut_off() {
    let network = Network::start_with(|limits| {
        limits.header_timeout_ms = 200;
        limits.body_timeout_ms = 200;
    })
    .await;
    let payer = network.payer().await;
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n";
    let slow_body = format!("{head}authorization: Bearer {}\r\ncontent-length: 100\r\n\r\n{{", payer.key);
    for (sent, answer) in [(head.to_owned(), ""), (slow_body, "HTTP/1.1 408")] {
        let mut socket = TcpStream::connect(network.address).await.unwrap();
        socket.write_all(sent.as_bytes()).await.unwrap();
        let mut received = String::new();
        tokio::time::timeout(DEADLINE, socket.read_to_string(&mut received)).await.expect("the connection is closed").unwrap();
        assert!(received.starts_with(answer), "{received}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_and_heads_have_limits() {
    let network = Network::start().await;
    let payer = network.payer().await;
    let large = "x".repeat((1 << 20) + 1);
    let (status, body) = answered(network.post("/v1/chat/completions").bearer_auth(&payer.key).body(large)).await;
    assert_eq!((status, &body["error"]["code"]), (StatusCode::PAYLOAD_TOO_LARGE, &json!("too_large")));
    // The connection is cut while the rest of the head is on its way, so the answer may be lost.
    let response = network.get("/v1/models").header("x-long", "y".repeat(32 << 10)).send().await;
    assert!(response.map_or(true, |response| response.status() == StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_from_one_address_have_a_limit() {
    let network = Network::start_with(|limits| limits.connections_per_ip_max = 2).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(TcpStream::connect(network.address).await.unwrap());
    }
    let mut third = TcpStream::connect(network.address).await.unwrap();
    let mut byte = [0];
    let ended = tokio::time::timeout(DEADLINE, third.read(&mut byte)).await.expect("the third is closed");
    assert!(matches!(ended, Ok(0) | Err(_)));
    drop(held);
    until("room", || async { network.get("/healthz").send().await.ok().filter(|response| response.status().is_success()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_refusal_has_openais_shape_and_an_id() {
    let network = Network::start().await;
    let cases = [
        (network.get("/v1/nothing"), 404, "not_found"),
        (network.get("/v1/chat/completions"), 405, "method_not_allowed"),
        (network.post("/v1/chat/completions").json(&json!({})), 401, "missing_credentials"),
        (network.post("/v1/chat/completions").bearer_auth("prlx_nonsense").json(&json!({})), 401, "malformed_api_key"),
        (network.get("/v1/credits"), 401, "missing_credentials"),
        (network.get("/v1/receipts"), 401, "missing_credentials"),
        (network.get("/v1/settlement/feed"), 401, "malformed_pass"),
        (network.get("/v1/models/absent"), 404, "model_not_found"),
        (network.get("/v1/node/link"), 400, "no_upgrade"),
    ];
    for (request, expected, code) in cases {
        let response = request.send().await.unwrap();
        assert_eq!(response.status().as_u16(), expected, "{code}");
        assert!(response.headers().contains_key("x-request-id"));
        let body: Value = response.json().await.unwrap();
        assert_eq!(body["error"]["code"], code, "{body}");
        assert!(body["error"]["message"].is_string() && body["error"]["type"].is_string());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_and_pool_show_who_is_online() {
    let network = Network::start().await;
    let payer = network.payer().await;
    let node = FakeNode::join(&network, Plan::saying("hello there")).await;
    answered(network.chat(&payer, json!({}))).await;

    let (_, models) = answered(network.get("/v1/models")).await;
    assert_eq!(
        (&models["object"], &models["data"][0]["id"], &models["data"][0]["nodes_online"]),
        (&json!("list"), &json!(MODEL), &json!(1))
    );
    assert_eq!((&models["data"][0]["prlx_per_million_tokens"], &models["data"][0]["stale_nodes"]), (&json!("0.001"), &json!(0)));
    let (status, model) = answered(network.get(&format!("/v1/models/{MODEL}"))).await;
    assert_eq!((status, &model["id"]), (StatusCode::OK, &json!(MODEL)));

    let (_, pool) = answered(network.get("/v1/pool")).await;
    let shown = &pool["nodes"][0];
    assert_eq!((&shown["node"], &shown["fallback"], &pool["nodes_online"]), (&json!(node.address), &json!(false), &json!(1)));
    assert_eq!(shown["answers_served"], json!({ "value": 1, "source": "measured" }));
    assert_eq!(shown["device"]["source"], "declared");

    let (_, deployment) = answered(network.get("/v1/deployment")).await;
    assert_eq!((&deployment["chainId"], &deployment["confirmations"]), (&json!(31_337), &json!(3)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receipt_is_its_payers_alone() {
    let network = Network::start().await;
    let (payer, other) = (network.payer().await, network.payer().await);
    let _node = FakeNode::join(&network, Plan::saying("private")).await;
    let (_, body) = answered(network.chat(&payer, json!({}))).await;
    let path = format!("/v1/receipts/{}", body["parallelix"]["receipt_id"].as_str().unwrap());

    let (status, receipt) = answered(network.get(&path).bearer_auth(&payer.key)).await;
    assert_eq!(status, StatusCode::OK);
    let stored = network.receipts(&payer).await.remove(0);
    let digest = stored.receipt.digest(&domain());
    assert_eq!((&receipt["digest"], &receipt["leaf"]), (&json!(digest), &json!(merkle::receipt_leaf(digest))));
    assert_eq!(receipt["batch"], Value::Null);

    for path in [path.as_str(), "/v1/receipts/0x00", "/v1/receipts/nonsense"] {
        let (status, body) = answered(network.get(path).bearer_auth(&other.key)).await;
        assert_eq!((status, &body["error"]["code"]), (StatusCode::NOT_FOUND, &json!("receipt_not_found")));
    }
    let (_, list) = answered(network.get("/v1/receipts").bearer_auth(&other.key)).await;
    assert_eq!(list["data"], json!([]));
    let (_, list) = answered(network.get("/v1/receipts?limit=1").bearer_auth(&payer.key)).await;
    assert_eq!(list["data"].as_array().unwrap().len(), 1);
    let (_, credits) = answered(network.get("/v1/credits").bearer_auth(&payer.key)).await;
    assert_eq!(credits["unsettled_credits"], json!(stored.receipt.amount));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_known_keeper_with_a_fresh_pass_reads_the_feed() {
    let network = Network::start().await;
    let payer = network.payer().await;
    let node = FakeNode::join(&network, Plan::saying("settle me")).await;
    answered(network.chat(&payer, json!({}))).await;
    let now_s = SystemClock.now_s();
    let keeper = network.keeper.address();
    let stranger = PrivateKeySigner::random();
    let cases = [
        (pass(&stranger, stranger.address(), now_s + 60), 403, "unknown_keeper"),
        (pass(&stranger, keeper, now_s + 60), 401, "wrong_signature"),
        (pass(&network.keeper, keeper, now_s - 1), 401, "pass_expired"),
        (pass(&network.keeper, keeper, now_s + 3_600), 401, "pass_expired"),
        ("Keeper x.y.z".to_owned(), 401, "malformed_pass"),
    ];
    for (pass, expected, code) in cases {
        let (status, body) = answered(network.get("/v1/settlement/feed").header("authorization", pass)).await;
        assert_eq!((status.as_u16(), &body["error"]["code"]), (expected, &json!(code)));
    }

    let good = pass(&network.keeper, keeper, now_s + 60);
    let (status, feed) = answered(network.get("/v1/settlement/feed").header("authorization", &good)).await;
    assert_eq!(status, StatusCode::OK);
    let feed: Feed = serde_json::from_value(feed).unwrap();
    assert_eq!((feed.next_seq, feed.receipts.len(), feed.receipts[0].node), (1, 1, node.address));
    let (status, _) = answered(network.get("/v1/settlement/batches/1").header("authorization", &good)).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (status, body) = answered(network.post("/v1/settlement/batches").header("authorization", &good).json(&json!({ "seq": 1 }))).await;
    assert_eq!((status, &body["error"]["code"]), (StatusCode::BAD_REQUEST, &json!("invalid_json")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_meter_finishes_what_runs_and_takes_nothing_new() {
    let network = Network::start().await;
    let payer = network.payer().await;
    let node = FakeNode::join(&network, Plan::new(|_| Vec::new())).await;
    let running = tokio::spawn(answered(network.chat(&payer, json!({}))));
    let job = node.until("job", |heard| heard.jobs.first().cloned()).await;

    network.stop.cancel();
    until("drain", || std::future::ready((!network.serving.admits()).then_some(()))).await;
    let tokens = turn("done");
    node.say(wire::node::FromNode::Tokens { request_id: job.request_id, first: 0, tokens: tokens.clone(), logprobs: None });
    let (status, body) = running.await.unwrap();
    assert_eq!((status, &body["choices"][0]["message"]["content"]), (StatusCode::OK, &json!("done")));
    tokio::time::timeout(DEADLINE, network.served).await.expect("the meter stops").unwrap();
    node.until("close", |heard| heard.closed.then_some(())).await;
    let report = network.ledger.audit().await.unwrap();
    assert!(report.clean(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_meter_cuts_what_runs_on_and_charges_what_arrived() {
    let network = Network::start_with(|limits| limits.drain_timeout_ms = 100).await;
    let payer = network.payer().await;
    let node = FakeNode::join(&network, Plan::new(|_| vec![Step::Tokens(words("and on"))])).await;
    let running = tokio::spawn(answered(network.chat(&payer, json!({}))));
    let job = node.until("job", |heard| heard.jobs.first().cloned()).await;
    network.stop.cancel();
    let (status, body) = running.await.unwrap();
    assert_eq!((status, &body["error"]["code"]), (StatusCode::BAD_GATEWAY, &json!("answer_broke_off")), "{body}");
    let cost = (job.prompt.len() + words("and on").len()) as u64;
    assert_eq!(network.money(&payer).await, (100_000 - cost, 0, cost));
    tokio::time::timeout(DEADLINE, network.served).await.expect("the meter stops").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batched_receipt_shows_its_proof() {
    let network = Network::start().await;
    let payer = network.payer().await;
    let _node = FakeNode::join(&network, Plan::saying("settle me")).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let (_, body) = answered(network.chat(&payer, json!({}))).await;
        ids.push(body["parallelix"]["receipt_id"].as_str().unwrap().to_owned());
    }
    let mut receipts: Vec<_> = network.receipts(&payer).await.into_iter().map(|stored| stored.receipt).collect();
    receipts.sort_by_key(|receipt| receipt.request_id);
    let leaves: Vec<_> = receipts.iter().map(|receipt| merkle::receipt_leaf(receipt.digest(&domain()))).collect();
    let cumulative = receipts.iter().map(|receipt| receipt.amount.get()).sum();
    let rows = vec![Row { account: payer.account, cumulative }];
    let proposal = BatchProposal {
        seq: 1,
        receipts: receipts.iter().map(|receipt| receipt.request_id).collect(),
        carries: Vec::new(),
        rows: rows::encode(&[Group { operator: OPERATOR, rows }]).unwrap().into(),
        receipts_root: merkle::root(&leaves).unwrap(),
        deadline: SystemClock.now_s() + 60,
    };
    let pass = pass(&network.keeper, network.keeper.address(), SystemClock.now_s() + 60);
    let post = |proposal: &BatchProposal| network.post("/v1/settlement/batches").header("authorization", &pass).json(proposal);
    let (status, body) = answered(post(&BatchProposal { receipts_root: wire::B256::ZERO, ..proposal.clone() })).await;
    assert_eq!((status, &body["error"]["code"]), (StatusCode::BAD_REQUEST, &json!("root_differs")), "{body}");
    let (status, signed) = answered(post(&proposal)).await;
    assert_eq!(status, StatusCode::OK, "{signed}");
    let signed: SignedBatch = serde_json::from_value(signed).unwrap();
    assert_eq!(signed.proposal, proposal);

    for id in &ids {
        let (_, receipt) = answered(network.get(&format!("/v1/receipts/{id}")).bearer_auth(&payer.key)).await;
        assert_eq!((&receipt["state"], &receipt["batch"]["seq"]), (&json!("batched"), &json!(1)));
        let proof: Vec<wire::B256> = serde_json::from_value(receipt["batch"]["proof"].clone()).unwrap();
        let leaf: wire::B256 = serde_json::from_value(receipt["leaf"].clone()).unwrap();
        assert!(merkle::verify(proposal.receipts_root, leaf, &proof));
    }
    let other = BatchProposal { receipts: proposal.receipts[..1].to_vec(), ..proposal.clone() };
    let (status, body) = answered(post(&other)).await;
    assert_eq!((status, &body["error"]["code"]), (StatusCode::CONFLICT, &json!("seq_taken")), "{body}");
    let (status, standing) = answered(network.get("/v1/settlement/batches/1").header("authorization", &pass)).await;
    assert_eq!((status, serde_json::from_value::<SignedBatch>(standing).unwrap().proposal), (StatusCode::OK, proposal));
}
