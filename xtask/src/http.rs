//! A client for the loopback HTTP interfaces of the network: JSON in and out, and server-sent events.

use std::io::{BufRead, BufReader, Read};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use ureq::{Agent, Body, http};

/// Longest that one call may take, streaming included.
const CALL_LIMIT: Duration = Duration::from_secs(180);
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Largest answer that is read, bytes.
const REPLY_BYTES_MAX: u64 = 64 << 20;

/// An HTTP interface and the credential for it.
#[derive(Clone, Debug)]
pub struct Api {
    base: String,
    bearer: Option<String>,
    agent: Agent,
}

/// Status and JSON body of an answer; a body that is not JSON comes as a string.
#[derive(Clone, Debug)]
pub struct Reply {
    /// HTTP status code.
    pub status: u16,
    /// Decoded body, `Null` when empty.
    pub body: Value,
}

impl Reply {
    /// The body of a successful answer; otherwise an error with what the server said.
    pub fn ok(self, what: &str) -> Result<Value> {
        ensure!((200..300).contains(&self.status), "{what}: the server answered {} {}", self.status, self.message());
        Ok(self.body)
    }

    /// The error's own message where there is one.
    pub fn message(&self) -> String {
        self.body["error"]["message"].as_str().map_or_else(|| self.body.to_string(), str::to_owned)
    }

    /// The error's code, empty where there is none.
    pub fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }
}

impl Api {
    /// The interface at `base`, such as `http://127.0.0.1:8080`, without a credential.
    pub fn new(base: &str) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(CALL_LIMIT))
            .timeout_connect(Some(CONNECT_LIMIT))
            .proxy(None) // loopback only, whatever HTTP_PROXY says
            .build();
        Self { base: base.trim_end_matches('/').to_owned(), bearer: None, agent: config.into() }
    }

    /// The same interface, called with an API key or a session's secret.
    pub fn with_bearer(&self, bearer: &str) -> Self {
        Self { bearer: Some(bearer.to_owned()), ..self.clone() }
    }

    /// Without a path.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// GET `path`.
    pub fn get(&self, path: &str) -> Result<Reply> {
        self.call("GET", path, None)
    }

    /// POST `body` to `path`.
    pub fn post(&self, path: &str, body: &Value) -> Result<Reply> {
        self.call("POST", path, Some(body))
    }

    /// POST `text`, which need not be JSON.
    pub fn post_text(&self, path: &str, text: &str) -> Result<Reply> {
        reply(path, self.send("POST", path, Some(text.to_owned()))?)
    }

    /// DELETE `path`.
    pub fn delete(&self, path: &str) -> Result<Reply> {
        self.call("DELETE", path, None)
    }

    /// POST `body` and hand the `data` of each server-sent event to `on_data` until the stream ends or it returns `false`.
    ///
    /// A reply that is no event stream comes back whole, and `on_data` is not called.
    pub fn stream(&self, path: &str, body: &Value, mut on_data: impl FnMut(&str) -> Result<bool>) -> Result<Reply> {
        let response = self.send("POST", path, Some(body.to_string()))?;
        let is_events = header(&response, "content-type").starts_with("text/event-stream");
        if !is_events {
            return reply(path, response);
        }
        let status = response.status().as_u16();
        let lines = BufReader::new(response.into_body().into_reader().take(REPLY_BYTES_MAX)).lines();
        for line in lines {
            let line = line.with_context(|| format!("the event stream of {path} broke off"))?;
            if let Some(data) = line.strip_prefix("data:")
                && !on_data(data.trim_start())?
            {
                break;
            }
        }
        Ok(Reply { status, body: Value::Null })
    }

    fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Reply> {
        reply(path, self.send(method, path, body.map(Value::to_string))?)
    }

    fn send(&self, method: &str, path: &str, body: Option<String>) -> Result<http::Response<Body>> {
        let url = format!("{}{path}", self.base);
        let mut request = http::Request::builder().method(method).uri(&url);
        if let Some(bearer) = &self.bearer {
            request = request.header("authorization", format!("Bearer {bearer}"));
        }
        let sent = match body {
            Some(body) => {
                let request = request.header("content-type", "application/json").body(body);
                self.agent.run(request.with_context(|| format!("cannot make a request for {url}"))?)
            }
            None => self.agent.run(request.body(()).with_context(|| format!("cannot make a request for {url}"))?),
        };
        sent.with_context(|| format!("{method} {url} got no answer"))
    }
}

fn header<'a>(response: &'a http::Response<Body>, name: &str) -> &'a str {
    response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn reply(path: &str, mut response: http::Response<Body>) -> Result<Reply> {
    let status = response.status().as_u16();
    let text = response.body_mut().with_config().limit(REPLY_BYTES_MAX).read_to_string();
    let text = text.with_context(|| format!("the answer to {path} broke off"))?;
    let body = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap_or(Value::String(text)) };
    Ok(Reply { status, body })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use super::*;

    /// Answers one connection with `answer` and returns what it was asked.
    fn serve_once(answer: &'static str) -> (Api, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut asked = vec![0; 4096];
            let mut length = 0;
            while !String::from_utf8_lossy(&asked[..length]).contains("\r\n\r\n") {
                length += socket.read(&mut asked[length..]).unwrap();
            }
            socket.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&asked[..length]).into_owned()
        });
        (Api::new(&base), server)
    }

    #[test]
    fn an_error_answer_is_a_reply_with_its_message_and_code() {
        let (api, server) = serve_once(
            "HTTP/1.1 402 Payment Required\r\ncontent-length: 59\r\n\r\n{\"error\":{\"message\":\"too few\",\"code\":\"insufficient_credits\"}}",
        );
        let reply = api.with_bearer("prlx_1").get("/v1/credits").unwrap();
        assert_eq!(reply.status, 402);
        assert!(server.join().unwrap().contains("Bearer prlx_1"));
    }

    #[test]
    fn events_are_handed_over_until_the_caller_has_enough() {
        let (api, _server) = serve_once(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\ndata: one\n\n: ping\n\ndata: two\n\ndata: three\n\n",
        );
        let mut seen = Vec::new();
        api.stream("/v1/chat/completions", &serde_json::json!({}), |data| {
            seen.push(data.to_owned());
            Ok(data != "two")
        })
        .unwrap();
        assert_eq!(seen, ["one", "two"]);
    }
}
