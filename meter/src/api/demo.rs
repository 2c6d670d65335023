//! `GET /v1/demo`: the answer that the operator published, with what checks it.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::error::ApiError;
use super::{ApiState, receipts};

pub(super) async fn show(State(state): State<ApiState>) -> Result<Json<Value>, ApiError> {
    let shown = state.demo.shown(&state.serving.rooms().catalog, &state.ledger).await?;
    let (published, stored) = shown.ok_or_else(|| ApiError::not_found("no_demo", "the operator of this meter has published no answer"))?;
    Ok(Json(json!({
        "object": "demo",
        "question": published.question,
        "answer": published.answer,
        "model": stored.model,
        "receipt_id": published.receipt_id,
        "prompt_token_ids": published.prompt_token_ids,
        "token_ids": published.token_ids,
        "params": published.params,
        "receipt": receipts::describe(&state, &stored),
    })))
}
