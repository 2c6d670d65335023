//! `/v1/jobs`: chat completions that belong to the meter. Any number of readers may come, go and come back; the answer is generated and
//! charged once, and stops only at its end or by `DELETE`.

use std::fmt::Write;
use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::timeout;
use wire::B256;

use super::chunks::Chunks;
use super::error::ApiError;
use super::session::private;
use super::{ApiState, REQUEST_ID, answer, auth, body, chat_completions, sse};
use crate::serving::jobs::{Claim, Job, JobState, JobWriter, Read, job_id};
use crate::serving::request::{Answer, AnswerEvent, ServeError};

/// Names a job among its account's.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// As browsers say where they were.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Longest key, bytes.
const KEY_BYTES_MAX: usize = 128;
/// Events of one write, so that a long replay goes out in pieces.
const EVENTS_AT_ONCE: usize = 256;

/// Routes of this file.
pub(super) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/v1/jobs", post(create))
        .route("/v1/jobs/{id}", get(show).delete(cancel))
        .route("/v1/jobs/{id}/events", get(events))
}

async fn create(State(state): State<ApiState>, request: Request) -> Result<Response, ApiError> {
    let customer = auth::customer(&state, request.headers()).await?;
    let (headers, mut fields) = body::object(request, &state.serving.rooms().limits).await?;
    let key = idempotency_key(&headers)?;
    // How a job is read is said when it is read.
    fields.remove("stream");
    fields.remove("stream_options");
    let content = Sha256::digest(Value::Object(fields.clone()).to_string()).into();

    let account = customer.payer.account;
    let id = job_id(account, key);
    let opening = match state.serving.rooms().jobs.claim(id, account, content).await {
        Claim::New(opening) => opening,
        Claim::Same(job) => return Ok(described(StatusCode::OK, &job)),
        Claim::Other => {
            let message = "this Idempotency-Key named a request with another body; send another key with it";
            return Err(ApiError::conflict("idempotency_conflict", message));
        }
    };
    let asked = chat_completions::asked(&state, customer, &fields).await?;
    let model = asked.model.id.clone();
    let (frame, answer) = answer::begin(&state, asked, id).await?;

    let (job, writer) = opening.open(model, answer.canceller());
    tokio::spawn(write(Chunks { frame, include_usage: true }, answer, writer));
    Ok(described(StatusCode::CREATED, &job))
}

fn idempotency_key(headers: &HeaderMap) -> Result<&[u8], ApiError> {
    let key = headers.get(IDEMPOTENCY_KEY).map(HeaderValue::as_bytes).unwrap_or_default();
    if (1..=KEY_BYTES_MAX).contains(&key.len()) && key.iter().all(|byte| (b' '..=b'~').contains(byte)) {
        return Ok(key);
    }
    let message = format!("send an Idempotency-Key header with 1 to {KEY_BYTES_MAX} printable characters, a new one for each answer");
    Err(ApiError::invalid("Idempotency-Key", "invalid_idempotency_key", message))
}

/// Writes an answer into its job's log. Owns the answer, so that it goes on without readers.
async fn write(chunks: Chunks, mut answer: Answer, writer: JobWriter) {
    loop {
        // Only a panicking task ends without a last event; recovery settles the hold.
        let event = answer.events.recv().await.unwrap_or(AnswerEvent::Failed(ServeError::Capture, None));
        if matches!(event, AnswerEvent::Started(_)) {
            writer.started();
        }
        let is_whole = matches!(event, AnswerEvent::Done(_));
        let shown = chunks.of(event);
        shown.chunks.iter().for_each(|chunk| writer.push(Bytes::from(chunk.to_string())));
        if shown.over {
            return writer.end(is_whole);
        }
    }
}

async fn show(State(state): State<ApiState>, headers: HeaderMap, Path(id): Path<String>) -> Result<Response, ApiError> {
    Ok(described(StatusCode::OK, &*owned(&state, &headers, &id).await?))
}

async fn cancel(State(state): State<ApiState>, headers: HeaderMap, Path(id): Path<String>) -> Result<Response, ApiError> {
    let job = owned(&state, &headers, &id).await?;
    job.cancel();
    Ok(described(StatusCode::ACCEPTED, &job))
}

/// The job of that id, if it is the caller's.
async fn owned(state: &ApiState, headers: &HeaderMap, id: &str) -> Result<Arc<Job>, ApiError> {
    let account = auth::account(state, headers).await?;
    let job = id.parse::<B256>().ok().zip(account).and_then(|(id, account)| state.serving.rooms().jobs.of(account, id));
    // The same answer for somebody else's, so that ids can't be probed.
    job.ok_or_else(|| {
        ApiError::not_found("job_not_found", "you have no job of that id, or it ended a while ago; GET /v1/receipts/{id} shows its receipt")
    })
}

fn described(status: StatusCode, job: &Job) -> Response {
    let (progress, events) = job.progress();
    let mut response = private((
        status,
        Json(json!({
            "object": "job", "id": job.id, "receipt_id": job.id, "model": job.model,
            "state": progress.name(), "events": events, "created_at": job.created_at,
        })),
    ));
    if let Ok(id) = HeaderValue::from_str(&job.id.to_string()) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// `?after=…`
#[derive(Deserialize)]
struct From {
    after: Option<u64>,
}

async fn events(
    State(state): State<ApiState>,
    headers: HeaderMap,
    Path(id): Path<String>,
    from: Result<Query<From>, QueryRejection>,
) -> Result<Response, ApiError> {
    let job = owned(&state, &headers, &id).await?;
    let Query(from) = from.map_err(|_| ApiError::bad_request("invalid_query", "write ?after=NUMBER, the last event that you have"))?;
    // A browser that comes back asks with the address of its first visit, and says in the header where it was.
    let last = headers.get(LAST_EVENT_ID).and_then(|value| value.to_str().ok()?.parse().ok());
    let after = from.after.max(last).unwrap_or(0);
    let place =
        state.serving.rooms().jobs.reader().ok_or_else(|| ApiError::busy("too many answers are being read; try again in a few seconds"))?;
    if let Read::Dropped { oldest } = job.read(after) {
        let message = format!("the events up to {} were dropped to save memory; ask for those after it", oldest - 1);
        return Err(ApiError::gone("events_dropped", message));
    }

    let reader = Reader { follow: job.follow(), job, after, over: false, greeted: false, state: state.clone(), _place: place };
    let lines = futures_util::stream::unfold(reader, |mut reader| async move { Some((reader.next().await?, reader)) });
    Ok(sse::stream(lines.take_until(Box::pin(auth::lapse(state, headers)))))
}

/// One reader of a job.
struct Reader {
    job: Arc<Job>,
    follow: watch::Receiver<()>,
    after: u64,
    over: bool,
    greeted: bool,
    state: ApiState,
    _place: OwnedSemaphorePermit,
}

impl Reader {
    /// The next lines; `None` after the last.
    async fn next(&mut self) -> Option<Bytes> {
        while !self.over {
            self.follow.mark_unchanged();
            match self.job.read(self.after) {
                Read::Events { events, over, .. } if !events.is_empty() || over => return Some(self.lines(&events, over)),
                Read::Events { .. } => {}
                Read::Dropped { .. } => {
                    self.over = true;
                    let error = ApiError::gone(
                        "events_dropped",
                        "this reader was too slow: events were dropped; ask again from the job's last ones",
                    );
                    return Some(Bytes::from(format!("data: {}\n\ndata: [DONE]\n\n", json!({ "error": error.object() }))));
                }
            }
            if !std::mem::replace(&mut self.greeted, true) {
                return Some(self.waiting());
            }
            // An error means that the writer is gone, and then the log is over.
            if timeout(sse::KEEP_ALIVE, self.follow.changed()).await.is_err() {
                return Some(self.waiting());
            }
        }
        None
    }

    fn lines(&mut self, events: &[Bytes], over: bool) -> Bytes {
        self.greeted = true;
        let mut lines = String::new();
        for event in events.iter().take(EVENTS_AT_ONCE) {
            self.after += 1;
            // Writing to a string never fails; JSON is UTF-8 and has no raw line breaks.
            let _ = write!(lines, "id: {}\ndata: {}\n\n", self.after, String::from_utf8_lossy(event));
        }
        if over && events.len() <= EVENTS_AT_ONCE {
            self.over = true;
            lines.push_str("data: [DONE]\n\n");
        }
        Bytes::from(lines)
    }

    /// What is said while nothing happens.
    fn waiting(&self) -> Bytes {
        if self.job.progress().0 != JobState::Queued {
            return sse::comment("working");
        }
        let others = self.state.serving.rooms().dispatcher.waiting_for(&self.job.model).saturating_sub(1);
        Bytes::from(format!("event: state\ndata: {}\n\n", json!({ "state": JobState::Queued.name(), "ahead": others })))
    }
}
