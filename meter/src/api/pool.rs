//! `GET /v1/pool`: who is linked, what they serve and how they do; each figure says whether it was measured here or declared.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::ApiState;
use crate::serving::fleet::Node;

pub(super) async fn show(State(state): State<ApiState>) -> Json<Value> {
    let rooms = state.serving.rooms();
    let now_s = rooms.clock.now_s();
    let mut nodes = rooms.fleet.nodes();
    nodes.sort_by_key(|node| (node.facts.fallback, node.facts.operator, node.facts.node));
    let described: Vec<Value> = nodes.iter().map(|node| describe(node, now_s)).collect();
    Json(json!({
        "nodes": described,
        "nodes_online": nodes.iter().filter(|node| !node.facts.fallback).count(),
        "fallback_nodes_online": nodes.iter().filter(|node| node.facts.fallback).count(),
        "answers_running": rooms.running_count(),
    }))
}

fn describe(node: &Node, now_s: u64) -> Value {
    let (facts, load) = (&node.facts, node.load());
    let models: Vec<Value> =
        facts.models.iter().map(|served| json!({ "id": served.model, "context_tokens": served.context_tokens })).collect();
    json!({
        "node": facts.node,
        "operator": facts.operator,
        "fallback": facts.fallback,
        "models": models,
        "version": declared(&facts.version),
        "device": declared(&facts.device),
        "capacity": declared(facts.capacity),
        "active": measured(load.active),
        "outstanding_tokens": measured(load.outstanding_tokens),
        "answers_served": measured(load.served),
        "answer_tokens_per_s": measured(load.measured_tokens_per_s),
        "uptime_s": measured(now_s.saturating_sub(facts.linked_at)),
        "queued": declared(load.status.queued),
        "decode_tokens_per_s": declared(load.status.decode_tokens_per_s),
        "prefill_tokens_per_s": declared(load.status.prefill_tokens_per_s),
        "memory_used_bytes": declared(load.status.memory_used_bytes),
        "draining": declared(load.status.draining),
        "quarantine": node.quarantine().map(|found| json!({ "since": found.since, "reason": found.reason, "receipt_id": found.request_id })),
    })
}

fn measured(value: impl serde::Serialize) -> Value {
    json!({ "value": value, "source": "measured" })
}

fn declared(value: impl serde::Serialize) -> Value {
    json!({ "value": value, "source": "declared" })
}
