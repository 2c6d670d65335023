//! What keepers call: the feed, the countersignature, and the batch that stands (`docs/protocol.md`, section 9).

use axum::Json;
use axum::extract::{Path, Request, State};
use http::HeaderMap;
use wire::settlement::{BatchProposal, Feed, SignedBatch};

use super::error::ApiError;
use super::{ApiState, auth, body};

/// Largest proposal, bytes: 10,000 receipts and as many carries and rows.
const PROPOSAL_BYTES_MAX: usize = 4 << 20;

pub(super) async fn feed(State(state): State<ApiState>, headers: HeaderMap) -> Result<Json<Feed>, ApiError> {
    auth::keeper(&state, &headers)?;
    Ok(Json(state.ledger.feed().await?))
}

pub(super) async fn countersign(State(state): State<ApiState>, request: Request) -> Result<Json<SignedBatch>, ApiError> {
    let rooms = state.serving.rooms();
    let keeper = auth::keeper(&state, request.headers())?;
    let (_, proposal) = body::json::<BatchProposal>(request, PROPOSAL_BYTES_MAX, &rooms.limits).await?;
    let (seq, receipts) = (proposal.seq, proposal.receipts.len());

    let signed = state.ledger.countersign(proposal, &state.settler, &rooms.domain).await?;

    metrics::counter!("meter_batches_signed_total").increment(1);
    tracing::info!(%keeper, seq, receipts, "batch signed");
    Ok(Json(signed))
}

pub(super) async fn standing(
    State(state): State<ApiState>,
    headers: HeaderMap,
    Path(seq): Path<String>,
) -> Result<Json<SignedBatch>, ApiError> {
    auth::keeper(&state, &headers)?;
    let absent = || ApiError::not_found("batch_not_found", "no batch of that number was signed here");
    let seq: u64 = seq.parse().map_err(|_| absent())?;
    Ok(Json(state.ledger.batch(seq).await?.ok_or_else(absent)?.batch))
}
