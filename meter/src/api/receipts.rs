//! `GET /v1/receipts`: what was charged, who signed for it, and once batched the proof that it is under the root on chain.

use axum::Json;
use axum::extract::{Path, Query, State};
use http::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json};
use wire::{B256, merkle};

use super::error::ApiError;
use super::{ApiState, auth};
use crate::ledger::StoredReceipt;
use crate::serving::proof;

/// Receipts in one answer, unless the client asks for fewer.
const PAGE: u32 = 100;

/// `?limit=…&before=…`
#[derive(Debug, Deserialize)]
pub(super) struct Page {
    limit: Option<u32>,
    before: Option<u64>,
}

pub(super) async fn list(
    State(state): State<ApiState>,
    headers: HeaderMap,
    page: Result<Query<Page>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Value>, ApiError> {
    let account = auth::account(&state, &headers).await?;
    let Query(page) = page.map_err(|_| ApiError::bad_request("invalid_query", "write ?limit=NUMBER&before=NUMBER"))?;
    let limit = page.limit.unwrap_or(PAGE).clamp(1, PAGE);
    let receipts = match account {
        Some(account) => state.ledger.receipts(account, limit, page.before).await?,
        None => Vec::new(),
    };
    let next = (receipts.len() == limit as usize).then(|| receipts.last().map(|receipt| receipt.position));
    let data: Vec<Value> = receipts.iter().map(|receipt| describe(&state, receipt)).collect();
    Ok(Json(json!({ "object": "list", "data": data, "next_before": next.flatten() })))
}

pub(super) async fn one(State(state): State<ApiState>, headers: HeaderMap, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    let stored = visible(&state, &headers, &id).await?;
    Ok(Json(describe(&state, &stored)))
}

/// The receipt with the windows under its proof root: what `gpu-node verify` takes, beside the answer itself.
pub(super) async fn proof(State(state): State<ApiState>, headers: HeaderMap, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    let stored = owned(&state, &headers, &id).await?;
    let Some(signature) = &stored.signature else {
        return Err(ApiError::conflict("not_signed", "the node has not signed this receipt yet; ask again later"));
    };
    let windows = proof::windows(&state.serving, &stored).await?;
    let deployment = &state.serving.rooms().deployment;
    Ok(Json(json!({
        "object": "receipt.proof",
        "request_id": stored.receipt.request_id,
        "chain_id": deployment.chain_id,
        "settlement": deployment.settlement,
        "node": stored.node,
        "receipt": stored.receipt,
        "signature": signature,
        "windows": windows,
    })))
}

/// The receipt of that id, if it is the caller's, or the one that the operator published.
async fn visible(state: &ApiState, headers: &HeaderMap, id: &str) -> Result<StoredReceipt, ApiError> {
    let refused = match owned(state, headers, id).await {
        Ok(stored) => return Ok(stored),
        Err(error) => error,
    };
    let shown = state.demo.shown(&state.serving.rooms().catalog, &state.ledger).await?;
    let published = shown.filter(|(published, _)| id.parse() == Ok(published.receipt_id));
    published.map(|(_, stored)| stored).ok_or(refused)
}

/// The receipt of that id, if it is the caller's.
async fn owned(state: &ApiState, headers: &HeaderMap, id: &str) -> Result<StoredReceipt, ApiError> {
    let account = auth::account(state, headers).await?;
    // The same answer for somebody else's, so that ids can't be probed.
    let absent = || ApiError::not_found("receipt_not_found", "you have no receipt of that id; GET /v1/receipts lists them");
    let id: B256 = id.parse().map_err(|_| absent())?;
    state.ledger.receipt(id).await?.filter(|stored| Some(stored.receipt.account) == account).ok_or_else(absent)
}

pub(super) fn describe(state: &ApiState, stored: &StoredReceipt) -> Value {
    let digest = stored.receipt.digest(&state.serving.rooms().domain);
    let batch = stored.seq.map(
        |seq| json!({ "seq": seq, "root": stored.root, "leaf": stored.leaf, "proof": stored.proof, "transaction": stored.transaction }),
    );
    json!({
        "object": "receipt",
        "id": stored.receipt.request_id,
        "state": stored.state,
        "created": stored.created_at,
        "model": stored.model,
        "finish_reason": stored.finish_reason,
        "cost_credits": stored.receipt.amount,
        "cost": stored.receipt.amount.to_string(),
        "receipt": stored.receipt,
        "digest": digest,
        "leaf": merkle::receipt_leaf(digest),
        "signature": stored.signature,
        "node": stored.node,
        "fallback": stored.fallback,
        "audit": stored.audit,
        "auditor": stored.auditor,
        "batch": batch,
    })
}
