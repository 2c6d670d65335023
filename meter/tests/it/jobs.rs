//! Answers that belong to the meter: read by anyone any time, generated and charged once.

use alloy::signers::local::PrivateKeySigner;
use futures_util::StreamExt;
use reqwest::{RequestBuilder, StatusCode};
use serde_json::{Value, json};
use wire::node::FromNode;

use super::network::{DEADLINE, Funds, MODEL, Network, Payer, answered, streamed_text, until};
use super::node::{FakeNode, Plan, Step, turn};
use super::passkeys::{cookie_of, of_page, signed};

const TEXT: &str = "one two three four";

fn post(network: &Network, payer: &Payer, key: &str, extra: Value) -> RequestBuilder {
    let mut body = json!({ "model": MODEL, "messages": [{ "role": "user", "content": "hello" }], "max_tokens": 40, "temperature": 0 });
    for (field, value) in extra.as_object().unwrap() {
        body[field] = value.clone();
    }
    network.post("/v1/jobs").bearer_auth(&payer.key).header("idempotency-key", key).json(&body)
}

fn get(network: &Network, payer: &Payer, path: &str) -> RequestBuilder {
    network.get(path).bearer_auth(&payer.key)
}

/// Starts a job and gives its path.
async fn started(network: &Network, payer: &Payer, key: &str) -> String {
    let (status, job) = answered(post(network, payer, key, json!({}))).await;
    assert_eq!(status, StatusCode::CREATED, "{job}");
    assert_eq!(job["id"], job["receipt_id"]);
    format!("/v1/jobs/{}", job["id"].as_str().unwrap())
}

/// Numbered events of a whole stream, which must end as streams do.
fn numbered(text: &str) -> Vec<(u64, Value)> {
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    let of = |event: &str| {
        let (id, data) = event.strip_prefix("id: ")?.split_once("\ndata: ")?;
        Some((id.parse().unwrap(), serde_json::from_str(data).unwrap()))
    };
    text.split("\n\n").filter_map(of).collect()
}

async fn read(network: &Network, payer: &Payer, path: &str) -> Vec<(u64, Value)> {
    let response = get(network, payer, path).send().await.unwrap();
    assert_eq!(
        (response.status(), &response.headers()["content-type"]),
        (StatusCode::OK, &"text/event-stream; charset=utf-8".parse().unwrap())
    );
    numbered(&response.text().await.unwrap())
}

/// Says the first half of [`TEXT`] and waits.
fn half() -> Plan {
    Plan::new(|_| vec![Step::Tokens(turn(TEXT)[..HALF].to_vec())])
}

const HALF: usize = 8;

/// The node says the other half, which ends with its end of turn.
async fn go_on(node: &FakeNode) {
    let job = node.until("job", |heard| heard.jobs.first().cloned()).await;
    node.say(FromNode::Tokens { request_id: job.request_id, first: HALF as u32, tokens: turn(TEXT)[HALF..].to_vec(), logprobs: None });
}

fn texts(events: &[(u64, Value)]) -> String {
    streamed_text(&events.iter().map(|(_, event)| event.clone()).collect::<Vec<_>>())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_read_by_many_from_anywhere_and_charged_once() {
    let network = Network::start().await;
    let payer = network.payer().await;
    let node = FakeNode::join(&network, half()).await;
    let path = started(&network, &payer, "k1").await;

    // One reader is there from the start, one comes and goes, one comes at the end.
    let early = {
        let (request, path) = (get(&network, &payer, &format!("{path}/events")), path.clone());
        tokio::spawn(async move { (path, numbered(&request.send().await.unwrap().text().await.unwrap())) })
    };
    let mut leaver = get(&network, &payer, &format!("{path}/events")).send().await.unwrap().bytes_stream();
    let mut seen = String::new();
    while !seen.contains("id: 2\n") {
        seen.push_str(std::str::from_utf8(&leaver.next().await.unwrap().unwrap()).unwrap());
    }
    drop(leaver);
    let (_, job) = answered(get(&network, &payer, &path)).await;
    assert_eq!((&job["state"], &job["model"]), (&json!("running"), &json!(MODEL)));
    go_on(&node).await;
    let (_, whole) = early.await.unwrap();

    assert_eq!(texts(&whole), TEXT);
    assert_eq!(whole.iter().map(|(id, _)| *id).collect::<Vec<_>>(), (1..=whole.len() as u64).collect::<Vec<_>>());
    let last = &whole.last().unwrap().1;
    assert!(last["usage"]["cost_credits"].is_u64() && last["choices"] == json!([]), "{last}");
    assert_eq!(format!("/v1/jobs/{}", last["parallelix"]["receipt_id"].as_str().unwrap()), path);
    assert_eq!(read(&network, &payer, &format!("{path}/events")).await, whole);
    assert_eq!(read(&network, &payer, &format!("{path}/events?after=2")).await, whole[2..]);
    let resumed = get(&network, &payer, &format!("{path}/events?after=1")).header("last-event-id", "3").send().await.unwrap();
    assert_eq!(numbered(&resumed.text().await.unwrap()), whole[3..]);
    assert_eq!(read(&network, &payer, &format!("{path}/events?after={}", whole.len())).await, []);

    let (_, job) = answered(get(&network, &payer, &path)).await;
    assert_eq!((&job["state"], &job["events"]), (&json!("done"), &json!(whole.len())));
    let receipts = network.receipts(&payer).await;
    assert_eq!((receipts.len(), node.heard().jobs.len()), (1, 1));
    assert_eq!(network.money(&payer).await.2, receipts[0].receipt.amount.get());
    network.assert_books_are_right().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_nobody_reads_is_made_to_its_end() {
    let network = Network::start().await;
    let payer = network.payer().await;
    let _node = FakeNode::join(&network, Plan::saying(TEXT)).await;
    let path = started(&network, &payer, "k1").await;
    until("end", || async { (answered(get(&network, &payer, &path)).await.1["state"] == "done").then_some(()) }).await;
    assert_eq!(texts(&read(&network, &payer, &format!("{path}/events")).await), TEXT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_stands_for_one_answer() {
    let network = Network::start().await;
    let (payer, other) = (network.payer().await, network.payer().await);
    let node = FakeNode::join(&network, half()).await;
    let requests = (0..8).map(|_| answered(post(&network, &payer, "k1", json!({}))));
    let answers = futures_util::future::join_all(requests).await;
    let made = answers.iter().filter(|(status, _)| *status == StatusCode::CREATED).count();
    assert!(made == 1 && answers.iter().all(|(_, job)| job["id"] == answers[0].1["id"]), "{answers:?}");
    // How it is read is not part of it.
    let (status, same) = answered(post(&network, &payer, "k1", json!({ "stream": true, "stream_options": {} }))).await;
    assert_eq!((status, &same["id"]), (StatusCode::OK, &answers[0].1["id"]));

    let (status, body) = answered(post(&network, &payer, "k1", json!({ "max_tokens": 41 }))).await;
    assert_eq!((status, &body["error"]["code"]), (StatusCode::CONFLICT, &json!("idempotency_conflict")));
    let (status, theirs) = answered(post(&network, &other, "k1", json!({}))).await;
    assert!(status == StatusCode::CREATED && theirs["id"] != same["id"]);
    node.until("jobs", |heard| (heard.jobs.len() == 2).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_whose_answer_is_forgotten_is_not_served_again() {
    let network = Network::start_with(|limits| limits.jobs_kept_s = 0).await;
    let payer = network.payer().await;
    let node = FakeNode::join(&network, Plan::saying(TEXT)).await;
    let path = started(&network, &payer, "k1").await;
    until("end", || async { (network.receipts(&payer).await.len() == 1).then_some(()) }).await;
    until("oblivion", || async { (answered(get(&network, &payer, &path)).await.0 == StatusCode::NOT_FOUND).then_some(()) }).await;
    let (status, body) = answered(post(&network, &payer, "k1", json!({}))).await;
    assert_eq!((status, &body["error"]["code"]), (StatusCode::CONFLICT, &json!("idempotency_key_used")), "{body}");
    assert_eq!(body["error"]["metadata"]["receipt_id"], json!(network.receipts(&payer).await[0].receipt.request_id));
    assert_eq!((node.heard().jobs.len(), network.money(&payer).await.1), (1, 0));
    network.assert_books_are_right().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_stops_the_node_and_charges_what_arrived() {
    let network = Network::start().await;
    let payer = network.payer().await;
    let node = FakeNode::join(&network, half()).await;
    let path = started(&network, &payer, "k1").await;
    until("tokens", || async { (answered(get(&network, &payer, &path)).await.1["state"] == "running").then_some(()) }).await;
    let delete = network.client.delete(format!("http://{}{path}", network.address)).bearer_auth(&payer.key);
    assert_eq!(answered(delete).await.0, StatusCode::ACCEPTED);
    let events = read(&network, &payer, &format!("{path}/events")).await;
    let prompt = node.heard().jobs[0].prompt.len() as u64;
    assert_eq!(events.last().unwrap().1["usage"]["cost_credits"], json!(prompt + HALF as u64));
    assert_eq!(network.money(&payer).await.2, prompt + HALF as u64);
    assert_eq!(node.heard().cancels.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_accounts_job_is_no_job() {
    let network = Network::start().await;
    let (payer, other) = (network.payer().await, network.payer().await);
    let _node = FakeNode::join(&network, half()).await;
    let path = started(&network, &payer, "k1").await;
    let unknown = format!("/v1/jobs/0x{}", "00".repeat(32));
    for (path, caller) in [(&path, &other), (&unknown, &payer), (&"/v1/jobs/x".to_owned(), &payer)] {
        for (method, path) in [("GET", path.clone()), ("GET", format!("{path}/events")), ("DELETE", path.clone())] {
            let request = network.client.request(method.parse().unwrap(), format!("http://{}{path}", network.address));
            let (status, body) = answered(request.bearer_auth(&caller.key)).await;
            assert_eq!((status, &body["error"]["code"]), (StatusCode::NOT_FOUND, &json!("job_not_found")), "{method} {path}");
        }
    }
    assert_eq!(answered(get(&network, &payer, &path)).await.1["state"], "running");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_are_those_of_completions_and_leave_the_key_free() {
    let network = Network::start().await;
    let payer = network.payer().await;
    let poor = network.payer_with(Funds { deposited: 3, ..Funds::default() }).await;
    let (status, body) = answered(post(&network, &payer, "k1", json!({}))).await;
    assert_eq!((status, &body["error"]["code"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("no_node")));
    let _node = FakeNode::join(&network, Plan::saying(TEXT)).await;
    let (status, body) = answered(post(&network, &poor, "k1", json!({}))).await;
    assert_eq!((status, &body["error"]["code"]), (StatusCode::PAYMENT_REQUIRED, &json!("insufficient_credits")));
    assert_eq!(answered(post(&network, &payer, "k1", json!({ "max_tokens": 0 }))).await.0, StatusCode::BAD_REQUEST);
    started(&network, &payer, "k1").await;
    for key in ["", &"k".repeat(129), "\u{e9}"] {
        let (status, body) = answered(post(&network, &payer, key, json!({}))).await;
        assert_eq!((status, &body["error"]["code"]), (StatusCode::BAD_REQUEST, &json!("invalid_idempotency_key")), "{key}");
    }
    assert_eq!(answered(network.post("/v1/jobs").json(&json!({}))).await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_is_the_jobs_last_event() {
    let network = Network::start_with(|limits| limits.idle_timeout_ms = 100).await;
    let payer = network.payer().await;
    let _node = FakeNode::join(&network, half()).await;
    let path = started(&network, &payer, "k1").await;
    let events = read(&network, &payer, &format!("{path}/events")).await;
    let last = &events.last().unwrap().1;
    assert_eq!((&last["error"]["code"], &last["choices"][0]["finish_reason"]), (&json!("answer_broke_off"), &json!("error")));
    assert!(last["usage"]["cost_credits"].is_u64());
    assert_eq!(answered(get(&network, &payer, &path)).await.1["state"], "failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_end_with_the_credential_that_opened_them() {
    let network = Network::start().await;
    let payer = network.payer().await;
    let node = FakeNode::join(&network, Plan::new(|_| vec![Step::Tokens(turn(TEXT)[..HALF].to_vec())])).await;
    let path = started(&network, &payer, "k1").await;
    let stream = |request: RequestBuilder| tokio::spawn(async move { request.send().await.unwrap().text().await });
    let job = stream(get(&network, &payer, &format!("{path}/events")));
    let completion = stream(network.chat(&payer, json!({ "stream": true })));
    node.until("jobs", |heard| (heard.jobs.len() == 2).then_some(())).await;

    let wallet = network.ledger.account(payer.account).await.unwrap().unwrap().wallet;
    let key = network.identity.list_keys(wallet).await.unwrap()[0].id;
    network.identity.revoke_key(wallet, key).await.unwrap();
    for cut in [job, completion] {
        let text = tokio::time::timeout(DEADLINE, cut).await.expect("the stream is cut").unwrap().unwrap();
        assert!(!text.contains("[DONE]"), "{text}");
    }
    // The completion went with its client, the job goes on.
    node.until("one cancel", |heard| (heard.cancels.len() == 1).then_some(())).await;
    until("one left", || async { (network.serving.rooms().running_count() == 1).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_goes_on_when_its_reader_signs_in_again() {
    let network = Network::start().await;
    let wallet = PrivateKeySigner::random();
    let funded = network.payer_of(wallet.address()).await;
    let node = FakeNode::join(&network, half()).await;
    let sign_in = async |cookie: &str| {
        let body = signed(&network, &wallet).await;
        cookie_of(&of_page(network.post("/v1/session"), cookie).json(&body).send().await.unwrap())
    };
    let before = sign_in("").await;
    let job = json!({ "model": MODEL, "messages": [{ "role": "user", "content": "hello" }], "max_tokens": 40, "temperature": 0 });
    let made = of_page(network.post("/v1/jobs"), &before).header("idempotency-key", "k1").json(&job);
    let (status, job) = answered(made).await;
    assert_eq!(status, StatusCode::CREATED, "{job}");
    let path = format!("/v1/jobs/{}", job["id"].as_str().unwrap());
    let reading = of_page(network.get(&format!("{path}/events")), &before).send().await.unwrap();
    let reading = tokio::spawn(async move { reading.text().await });

    let after = sign_in(&before).await;

    let cut = tokio::time::timeout(DEADLINE, reading).await.expect("the stream of the older session is cut").unwrap().unwrap();
    let seen = cut.split("\n\n").filter(|event| event.starts_with("id: ")).count();
    assert!(!cut.contains("[DONE]"), "{cut}");
    assert_eq!(answered(of_page(network.get(&path), &before)).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(answered(of_page(network.get(&path), &after)).await.1["state"], "running");
    assert!(node.heard().cancels.is_empty());
    go_on(&node).await;
    let rest = of_page(network.get(&format!("{path}/events?after={seen}")), &after).send().await.unwrap().text().await.unwrap();
    assert!(numbered(&rest).last().unwrap().1["usage"]["cost_credits"].is_u64(), "{rest}");
    assert_eq!((node.heard().jobs.len(), network.receipts(&funded).await.len()), (1, 1));
    network.assert_books_are_right().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_hears_that_it_waits() {
    let network = Network::start().await;
    let payer = network.payer().await;
    let _node = FakeNode::join(&network, Plan::new(|_| Vec::new())).await;
    let path = started(&network, &payer, "k1").await;
    let mut lines = get(&network, &payer, &format!("{path}/events")).send().await.unwrap().bytes_stream();
    let first = lines.next().await.unwrap().unwrap();
    assert_eq!(first, "event: state\ndata: {\"state\":\"queued\",\"ahead\":0}\n\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pool_is_told_when_it_changes() {
    let network = Network::start().await;
    let payer = network.payer().await;
    let mut pool = network.get("/v1/pool/events").send().await.unwrap().bytes_stream();
    let mut next = async || {
        let event = pool.next().await.unwrap().unwrap();
        let data = std::str::from_utf8(&event).unwrap().strip_prefix("event: pool\ndata: ").unwrap().trim_end();
        serde_json::from_str::<Value>(data).unwrap()
    };
    assert_eq!(next().await["nodes"], json!([]));
    let node = FakeNode::join(&network, half()).await;
    node.say(FromNode::Status(wire::node::NodeStatus { capacity: 64, utilization_percent: 140.0, tflops: 1.5, ..Default::default() }));
    let seen = loop {
        let body = next().await;
        if body["nodes"][0]["utilization_percent"]["value"] == json!(100.0) {
            break body;
        }
    };
    assert_eq!(seen["nodes"][0]["tflops_declared"], json!({ "value": 1.5, "source": "declared" }));
    assert_eq!((&seen["tflops_total"], &seen["nodes_online"], &seen["nodes"][0]["stale"]), (&json!(0.0), &json!(1), &json!(false)));
    assert!(seen["nodes"][0]["last_status_at"].is_u64());

    started(&network, &payer, "k1").await;
    while next().await["streams_total"] != json!(1) {}
    let (_, shown) = answered(network.get("/v1/pool")).await;
    assert_eq!(shown["nodes"][0]["streaming"], json!({ "value": 1, "source": "measured" }));
    go_on(&node).await;
    while next().await["streams_total"] != json!(0) {}
    let (_, models) = answered(network.get("/v1/models")).await;
    let model = &models["data"][0];
    assert!(model["first_token_ms_median"].is_f64() && model["answer_tokens_per_s_median"].is_f64(), "{model}");
    assert_eq!((&model["quantization"], &model["queue"]), (&json!("int8 block 32"), &json!(0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_of_the_pool_are_bounded() {
    let network = Network::start_with(|limits| limits.readers_max = 1).await;
    let first = network.get("/v1/pool/events").send().await.unwrap();
    assert_eq!(answered(network.get("/v1/pool/events")).await.0, StatusCode::TOO_MANY_REQUESTS);
    drop(first);
    until("room", || async { network.get("/v1/pool/events").send().await.unwrap().status().is_success().then_some(()) }).await;
}
