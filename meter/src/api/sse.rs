//! A streamed completion: server-sent events in OpenAI's order, with a comment now and then so that no proxy gives up.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use http::{HeaderValue, header};
use serde_json::Value;
use tokio::time::timeout;

use super::answer::Frame;
use super::chunks::Chunks;
use super::error::ApiError;
use crate::serving::request::{Answer, AnswerEvent, ServeError};

/// How long a refusal may still have a status of its own; after it the stream begins.
const STATUS_WAIT: Duration = Duration::from_secs(1);
/// Between two comments while nothing else is sent.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// The end of every stream.
pub(super) const DONE: &[u8] = b"data: [DONE]\n\n";

/// Answers with a stream, which ends at `lapse`; with a status when the request failed within the first second.
pub(super) async fn respond(
    frame: Frame,
    mut answer: Answer,
    include_usage: bool,
    lapse: impl Future<Output = ()> + Send + 'static,
) -> Result<Response, ApiError> {
    let mut lines = Lines { chunks: Chunks { frame, include_usage }, started: false, over: false, pending: VecDeque::new() };
    match timeout(STATUS_WAIT, answer.events.recv()).await {
        Ok(Some(AnswerEvent::Failed(error, outcome))) => return Err(lines.chunks.frame.failure(error, outcome.as_deref(), None)),
        Ok(Some(event)) => lines.push(event),
        Ok(None) => return Err(lines.chunks.frame.failure(ServeError::Capture, None, None)),
        Err(_) => lines.pending.push_back(comment("waiting")),
    }

    let lines = futures_util::stream::unfold((lines, answer), |(mut lines, mut answer)| async move {
        let line = lines.next(&mut answer).await?;
        Some((line, (lines, answer)))
    });
    Ok(stream(lines.take_until(Box::pin(lapse))))
}

struct Lines {
    chunks: Chunks,
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
        self.started |= matches!(event, AnswerEvent::Started(_));
        let shown = self.chunks.of(event);
        self.pending.extend(shown.chunks.iter().map(data));
        if shown.over {
            self.pending.push_back(Bytes::from_static(DONE));
            self.over = true;
        }
    }
}

/// A response with these lines, which no cache and no proxy keeps.
pub(super) fn stream(lines: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    let mut response = Response::new(Body::from_stream(lines.map(Ok::<_, Infallible>)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("keep-alive"));
    // nginx buffers otherwise.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

/// JSON has no raw line breaks, so one line holds it.
fn data(value: &Value) -> Bytes {
    Bytes::from(format!("data: {value}\n\n"))
}

/// A line that clients skip; it keeps proxies from giving up.
pub(super) fn comment(text: &str) -> Bytes {
    Bytes::from(format!(": {text}\n\n"))
}
