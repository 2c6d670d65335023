//! `POST /v1/chain`: JSON-RPC 2.0, a few reads of the chain for pages whose visitor has no wallet at hand.

use axum::Json;
use axum::extract::{Request, State};
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::ApiError;
use super::{ApiState, body};
use crate::chain::ChainAnswer;

const BODY_BYTES_MAX: usize = 16 << 10;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    jsonrpc: String,
    id: Value,
    method: String,
    #[serde(default)]
    params: Value,
}

pub(super) async fn ask(State(state): State<ApiState>, request: Request) -> Result<Json<Value>, ApiError> {
    let (_, question) = body::json::<Question>(request, BODY_BYTES_MAX, &state.serving.rooms().limits).await?;
    let id_is_plain = matches!(&question.id, Value::Number(_)) || question.id.as_str().is_some_and(|id| id.len() <= 64);
    if question.jsonrpc != "2.0" || !id_is_plain {
        return Err(ApiError::bad_request("invalid_request", "send one JSON-RPC 2.0 request with a number or a short text as its id"));
    }
    let params = if question.params.is_null() { json!([]) } else { question.params };
    Ok(Json(match state.chain.ask(&question.method, &params).await? {
        ChainAnswer::Result(result) => json!({ "jsonrpc": "2.0", "id": question.id, "result": result }),
        ChainAnswer::Error(error) => json!({ "jsonrpc": "2.0", "id": question.id, "error": error }),
    }))
}
