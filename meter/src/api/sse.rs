//! A streamed completion: server-sent events in OpenAI's order, with a comment now and then so that no proxy gives up.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use http::{HeaderValue, header};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::answer::{Frame, finish_reason, usage};
use super::error::ApiError;
use crate::serving::request::{Answer, AnswerEvent, Outcome, ServeError};

/// How long a refusal may still have a status of its own; after it the stream begins.
const STATUS_WAIT: Duration = Duration::from_secs(1);
/// Between two comments while nothing else is sent.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Answers with a stream; with a status when the request failed within the first second.
pub(super) async fn respond(frame: Frame, mut answer: Answer, include_usage: bool) -> Result<Response, ApiError> {
    let mut lines = Lines { frame, include_usage, started: false, over: false, pending: VecDeque::new() };
    match timeout(STATUS_WAIT, answer.events.recv()).await {
        Ok(Some(AnswerEvent::Failed(error, outcome))) => return Err(lines.frame.failure(error, outcome.as_deref(), None)),
        Ok(Some(event)) => lines.push(event),
        Ok(None) => return Err(lines.frame.failure(ServeError::Capture, None, None)),
        Err(_) => lines.pending.push_back(comment("waiting")),
    }

    let stream = futures_util::stream::unfold((lines, answer), |(mut lines, mut answer)| async move {
        let line = lines.next(&mut answer).await?;
        Some((Ok::<_, Infallible>(line), (lines, answer)))
    });
    let mut response = Response::new(Body::from_stream(stream));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("keep-alive"));
    // nginx buffers otherwise.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(response)
}

struct Lines {
    frame: Frame,
    include_usage: bool,
    started: bool,
    over: bool,
    pending: VecDeque<Bytes>,
}

impl Lines {
    /// The next lines to send; everything that is ready goes out in one write.
    async fn next(&mut self, answer: &mut Answer) -> Option<Bytes> {
        if self.pending.is_empty() && !self.over {
            match timeout(KEEP_ALIVE, answer.events.recv()).await {
                Ok(Some(event)) => self.push(event),
                // Only a panicking task ends so; recovery settles the hold.
                Ok(None) => self.push(AnswerEvent::Failed(ServeError::Capture, None)),
                Err(_) => self.pending.push_back(comment(if self.started { "working" } else { "waiting" })),
            }
        }
        while !self.over
            && let Ok(event) = answer.events.try_recv()
        {
            self.push(event);
        }
        if self.pending.len() < 2 {
            return self.pending.pop_front();
        }
        Some(self.pending.drain(..).collect::<Vec<Bytes>>().concat().into())
    }

    fn push(&mut self, event: AnswerEvent) {
        match event {
            AnswerEvent::Started(_) => {
                self.started = true;
                if let Some(choice) = self.frame.role_choice() {
                    self.push_chunk(choice);
                }
            }
            AnswerEvent::Text(piece) => {
                let choice = self.frame.text_choice(&piece);
                self.push_chunk(choice);
            }
            AnswerEvent::Done(outcome) => self.push_end(&outcome),
            AnswerEvent::Failed(error, outcome) => self.push_failure(error, outcome.as_deref()),
        }
    }

    fn push_chunk(&mut self, choices: Value) {
        let mut chunk = self.frame.chunk(choices);
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        self.pending.push_back(data(&chunk));
    }

    fn push_end(&mut self, outcome: &Outcome) {
        let mut last = self.frame.chunk(self.frame.end_choice(finish_reason(outcome.end)));
        // All of them on the last choice: a client that joins the ids of all chunks has the same.
        self.frame.add_token_ids(&mut last, outcome);
        if self.include_usage {
            last["usage"] = Value::Null;
            self.pending.push_back(data(&last));
            last = self.frame.chunk(json!([]));
        }
        last["usage"] = usage(outcome);
        last["parallelix"] = self.frame.parallelix(outcome);
        self.pending.push_back(data(&last));
        self.push_done();
    }

    fn push_failure(&mut self, error: ServeError, outcome: Option<&Outcome>) {
        let mut last = self.frame.chunk(self.frame.end_choice("error"));
        last["error"] = self.frame.failure(error, outcome, None).object();
        if let Some(outcome) = outcome {
            last["usage"] = usage(outcome);
            last["parallelix"] = self.frame.parallelix(outcome);
        }
        self.pending.push_back(data(&last));
        self.push_done();
    }

    fn push_done(&mut self) {
        self.pending.push_back(Bytes::from_static(b"data: [DONE]\n\n"));
        self.over = true;
    }
}

/// JSON has no raw line breaks, so one line holds it.
fn data(value: &Value) -> Bytes {
    Bytes::from(format!("data: {value}\n\n"))
}

fn comment(text: &str) -> Bytes {
    Bytes::from(format!(": {text}\n\n"))
}
