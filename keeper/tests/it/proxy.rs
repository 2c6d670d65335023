//! A JSON-RPC proxy between the keeper and anvil that fails on demand.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::{Value, json};

/// What goes wrong with one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The node does it, the answer is lost.
    LoseAnswer,
    /// The node never sees it.
    Refuse(u16),
    /// The node sees it twice.
    Duplicate,
    /// A JSON-RPC error with a misleading text.
    Lie(&'static str),
}

/// Which call goes wrong: the first whose method starts so, after so many others of them.
#[derive(Clone, Debug)]
struct Rule {
    method: String,
    after: usize,
    times: usize,
    fault: Fault,
}

#[derive(Clone)]
pub struct Proxy {
    pub url: String,
    upstream: String,
    client: reqwest::Client,
    state: Arc<Mutex<(Vec<Rule>, usize)>>,
}

impl Proxy {
    pub async fn start(upstream: String) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let proxy = Self { url, upstream, client: reqwest::Client::new(), state: Default::default() };
        let routes = Router::new().route("/", post(forward)).with_state(proxy.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        proxy
    }

    /// `times` calls of `method` (a prefix; empty for any) go wrong, after `after` that go well.
    pub fn fail(&self, method: &str, after: usize, times: usize, fault: Fault) {
        self.state.lock().unwrap().0.push(Rule { method: method.to_owned(), after, times, fault });
    }

    pub fn heal(&self) {
        self.state.lock().unwrap().0.clear();
    }

    /// How many calls came so far.
    pub fn calls(&self) -> usize {
        self.state.lock().unwrap().1
    }

    fn fault(&self, method: &str) -> Option<Fault> {
        let (rules, calls) = &mut *self.state.lock().unwrap();
        *calls += 1;
        let rule = rules.iter_mut().find(|rule| method.starts_with(&rule.method) && rule.times > 0)?;
        if rule.after > 0 {
            rule.after -= 1;
            return None;
        }
        rule.times -= 1;
        Some(rule.fault)
    }

    async fn ask(&self, body: Bytes) -> Bytes {
        let request = self.client.post(&self.upstream).header("content-type", "application/json").body(body);
        request.send().await.unwrap().bytes().await.unwrap()
    }
}

async fn forward(State(proxy): State<Proxy>, body: Bytes) -> Response {
    let call: Value = serde_json::from_slice(&body).unwrap();
    let json_header = [("content-type", "application/json")];
    match proxy.fault(call["method"].as_str().unwrap_or_default()) {
        None => (json_header, proxy.ask(body).await).into_response(),
        Some(Fault::Duplicate) => {
            proxy.ask(body.clone()).await;
            (json_header, proxy.ask(body).await).into_response()
        }
        Some(Fault::LoseAnswer) => {
            proxy.ask(body).await;
            StatusCode::BAD_GATEWAY.into_response()
        }
        Some(Fault::Refuse(status)) => StatusCode::from_u16(status).unwrap().into_response(),
        Some(Fault::Lie(message)) => {
            let error = json!({"jsonrpc": "2.0", "id": call["id"], "error": {"code": -32_000, "message": message}});
            (json_header, error.to_string()).into_response()
        }
    }
}
