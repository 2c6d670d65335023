//! `GET /v1/pool` and `/v1/pool/events`: who is linked, what they serve and how they do; each figure says whether it was measured
//! here or declared by the node.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::error::ApiError;
use super::{ApiState, sse};
use crate::serving::fleet::{Node, NodeLoad, Run};
use crate::uptime::Share;

/// Between two looks at the pool, for all readers together.
const LOOK: Duration = Duration::from_secs(1);
/// Looks without a change until a comment says that the stream lives.
const QUIET_LOOKS_MAX: u32 = 10;
/// Fields that tick by themselves and are no news.
const TICKING: [&str; 2] = ["uptime_s", "last_status_at"];

/// Routes of this file.
pub(super) fn routes() -> Router<ApiState> {
    Router::new().route("/v1/pool", get(show)).route("/v1/pool/events", get(events))
}

/// The pool as its readers see it: looked at once a second, however many they are.
#[derive(Clone)]
pub struct PoolFeed {
    readers: Arc<Semaphore>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    looked: Option<Instant>,
    /// Without what ticks.
    news: Value,
    revision: u64,
    event: Bytes,
}

impl PoolFeed {
    /// For at most so many readers.
    pub fn new(readers_max: usize) -> Self {
        Self { readers: Arc::new(Semaphore::new(readers_max.min(Semaphore::MAX_PERMITS))), seen: Arc::default() }
    }

    /// The last event and its number, after a new look when the last one is old.
    fn look(&self, state: &ApiState) -> (u64, Bytes) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        // A little less than the readers' period, or two that tick together would look every other time.
        if seen.looked.is_none_or(|looked| now - looked >= LOOK * 9 / 10) {
            seen.looked = Some(now);
            let body = body(state);
            let news = without_ticking(&body);
            if seen.revision == 0 || news != seen.news {
                seen.news = news;
                seen.revision += 1;
                seen.event = Bytes::from(format!("event: pool\ndata: {body}\n\n"));
            }
        }
        (seen.revision, seen.event.clone())
    }
}

async fn show(State(state): State<ApiState>) -> Json<Value> {
    Json(body(&state))
}

async fn events(State(state): State<ApiState>) -> Result<Response, ApiError> {
    let place = Arc::clone(&state.pool.readers).try_acquire_owned();
    let place = place.map_err(|_| ApiError::busy("too many pages watch the pool; try again in a few seconds"))?;
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let reader = Reader { state, looks, revision: 0, quiet_looks: 0, _place: place };
    Ok(sse::stream(futures_util::stream::unfold(reader, |mut reader| async move { Some((reader.next().await, reader)) })))
}

struct Reader {
    state: ApiState,
    looks: Interval,
    revision: u64,
    quiet_looks: u32,
    _place: OwnedSemaphorePermit,
}

impl Reader {
    async fn next(&mut self) -> Bytes {
        loop {
            self.looks.tick().await;
            let (revision, event) = self.state.pool.look(&self.state);
            if revision != self.revision {
                (self.revision, self.quiet_looks) = (revision, 0);
                return event;
            }
            self.quiet_looks += 1;
            if self.quiet_looks >= QUIET_LOOKS_MAX {
                self.quiet_looks = 0;
                return sse::comment("unchanged");
            }
        }
    }
}

fn body(state: &ApiState) -> Value {
    let rooms = state.serving.rooms();
    let now_s = rooms.clock.now_s();
    let mut nodes = rooms.fleet.nodes();
    nodes.sort_by_key(|node| (node.facts.fallback, node.facts.operator, node.facts.node));
    let loads: Vec<NodeLoad> = nodes.iter().map(|node| node.load()).collect();
    let tflops = nodes.iter().filter_map(|node| node.measurements.best(now_s)).map(|run| run.tflops);
    let described: Vec<Value> = nodes.iter().zip(&loads).map(|(node, load)| describe(state, node, load, now_s)).collect();
    json!({
        "nodes": described,
        "nodes_online": nodes.iter().filter(|node| !node.facts.fallback).count(),
        "fallback_nodes_online": nodes.iter().filter(|node| node.facts.fallback).count(),
        "answers_running": rooms.running_count(),
        "tflops_total": tflops.fold(0.0, |total, one| total + one),
        "streams_total": loads.iter().map(|load| load.streaming).sum::<u32>(),
    })
}

fn describe(state: &ApiState, node: &Node, load: &NodeLoad, now_s: u64) -> Value {
    let facts = &node.facts;
    let models: Vec<Value> =
        facts.models.iter().map(|served| json!({ "id": served.model, "context_tokens": served.context_tokens })).collect();
    json!({
        "node": facts.node,
        "operator": facts.operator,
        "fallback": facts.fallback,
        "models": models,
        "stale": node.is_stale(now_s),
        "last_status_at": load.status_at,
        "version": declared(&facts.version),
        "region": declared(&facts.region),
        "device": declared(&facts.device),
        "gpu_memory_total_bytes": declared((facts.device.kind == "cuda").then_some(facts.device.memory_bytes)),
        "capacity": declared(facts.capacity),
        "active": measured(load.active),
        "streaming": measured(load.streaming),
        "outstanding_tokens": measured(load.outstanding_tokens),
        "answers_served": measured(load.served),
        "answer_tokens_per_s": measured(load.measured_tokens_per_s),
        "uptime_s": measured(now_s.saturating_sub(facts.linked_at)),
        "uptime_30d_percent": uptime(state.uptime.share(facts.node)),
        "queued": declared(load.status.queued),
        "utilization_percent": declared(load.status_at.map(|_| load.status.utilization_percent.clamp(0.0, 100.0))),
        "tflops": tflops(node.measurements.best(now_s).as_ref()),
        "tflops_declared": declared(tflops_declared(load)),
        "decode_tokens_per_s": declared(load.status.decode_tokens_per_s),
        "prefill_tokens_per_s": declared(load.status.prefill_tokens_per_s),
        "memory_used_bytes": declared(load.status.memory_used_bytes),
        "draining": declared(load.status.draining),
        "device_error": declared(load.status.device_error.as_deref().map(bounded)),
        "quarantine": node.quarantine().map(|found| json!({ "since": found.since, "reason": found.reason, "receipt_id": found.request_id })),
    })
}

/// Of the last 30 days; with `since`, where the node is known for less.
fn uptime(share: Option<Share>) -> Value {
    let mut figure = measured(share.and_then(|share| share.percent_down()));
    figure["since"] = json!(share.and_then(|share| share.since_s));
    figure
}

/// The start of what a node writes: it may write as much as a frame holds.
fn bounded(text: &str) -> &str {
    const CHARACTERS_MAX: usize = 200;
    text.char_indices().nth(CHARACTERS_MAX).map_or(text, |(end, _)| &text[..end])
}

/// The best of the last measurements, with which model and when it was made, and whether fallback hardware found the same.
fn tflops(run: Option<&Run>) -> Value {
    let mut figure = measured(run.map(|run| run.tflops));
    if let Some(run) = run {
        figure["audited"] = json!(run.audited);
        figure["model"] = json!(run.model);
        figure["measured_at"] = json!(run.at_s);
    }
    figure
}

/// The most of any step so far, as the node says; `None` before its first work.
fn tflops_declared(load: &NodeLoad) -> Option<f64> {
    let tflops = f64::from(load.status.tflops);
    (tflops.is_finite() && tflops > 0.0).then_some(tflops)
}

fn without_ticking(body: &Value) -> Value {
    let mut news = body.clone();
    for node in news["nodes"].as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        TICKING.iter().for_each(|field| drop(node.remove(*field)));
    }
    news
}

fn measured(value: impl serde::Serialize) -> Value {
    json!({ "value": value, "source": "measured" })
}

fn declared(value: impl serde::Serialize) -> Value {
    json!({ "value": value, "source": "declared" })
}
