//! `GET /v1/models`: OpenAI's list; beside it price, context and how many nodes are online.

use axum::Json;
use axum::extract::{Path, State};
use http::HeaderMap;
use serde_json::{Value, json};

use super::answer::rate_prlx;
use super::error::ApiError;
use super::{ApiState, auth};
use crate::serving::catalog::Model;

pub(super) async fn list(State(state): State<ApiState>, headers: HeaderMap) -> Result<Json<Value>, ApiError> {
    let allowed = auth::allowed_models(&state, &headers).await?;
    let models = state.serving.rooms().catalog.iter().filter(|model| allowed.contains(&model.id));
    let models: Vec<Value> = models.map(|model| describe(&state, model)).collect();
    Ok(Json(json!({ "object": "list", "data": models })))
}

pub(super) async fn one(State(state): State<ApiState>, headers: HeaderMap, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    let model = auth::allowed_models(&state, &headers).await?.get(&state, &id)?;
    Ok(Json(describe(&state, &model)))
}

fn describe(state: &ApiState, model: &Model) -> Value {
    let rooms = state.serving.rooms();
    let now_s = rooms.clock.now_s();
    let rate = model.rate_at(now_s);
    let online: Vec<_> = rooms.fleet.nodes().into_iter().filter(|node| node.serves(&model.id, 1)).collect();
    let stale_count = online.iter().filter(|node| node.is_stale(now_s)).count();
    let (fallback, network): (Vec<_>, Vec<_>) = online.into_iter().partition(|node| node.facts.fallback);
    let medians = rooms.speeds.medians(&model.id);
    json!({
        "id": model.id, "object": "model", "created": 0, "owned_by": "parallelix",
        "context_tokens": model.context_tokens,
        "model_root": model.model_root, "engine": model.engine,
        "credits_per_million_tokens": rate,
        "prlx_per_million_tokens": rate.and_then(|rate| rate_prlx(rate).ok()),
        "quantization": model.quantization(),
        "answer_tokens_per_s_median": medians.tokens_per_s, "first_token_ms_median": medians.first_token_ms,
        "queue": rooms.dispatcher.waiting_for(&model.id),
        "nodes_online": network.len(), "fallback_nodes_online": fallback.len(), "stale_nodes": stale_count,
    })
}
