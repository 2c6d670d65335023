//! `POST /v1/account/clearance`: the settler's word that the caller's account owes nothing, for the vault to close it at once.

#[cfg(test)]
mod tests;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use wire::{AccountId, Bytes, Credits};

use super::error::ApiError;
use super::session::{private, session_caller};
use super::{ApiState, body};
use crate::chain::ClearanceError;
use crate::ledger::ClearanceRefusal;

const BODY_BYTES_MAX: usize = 1 << 10;

/// Nothing is asked but whose account it is, and the session says that.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {}

/// Fields named as the wallet shows them (`docs/protocol.md`, section 2).
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ClearanceReply {
    account: AccountId,
    settled: Credits,
    auth_nonce: u32,
    deadline: u64,
}

#[derive(Serialize)]
struct Reply {
    clearance: ClearanceReply,
    signature: Bytes,
}

pub(super) async fn give(State(state): State<ApiState>, request: Request) -> Result<Response, ApiError> {
    let rooms = state.serving.rooms();
    let caller = session_caller(&state, request.headers()).await?;
    caller.wallet.ok_or_else(ApiError::no_wallet)?;
    let (_, bytes) = body::read(request, BODY_BYTES_MAX, &rooms.limits).await?;
    let Asked {} = if bytes.is_empty() { Asked {} } else { body::parse(&bytes)? };
    let account = caller.account.ok_or(ClearanceError::Refused(ClearanceRefusal::NothingKept))?;

    let signed = state.ledger.sign_clearance(account, &state.settler, &state.chain, &rooms.deployment, rooms.clock.now_s()).await?;

    let clearance = signed.clearance;
    metrics::counter!("meter_clearances_signed_total").increment(1);
    tracing::info!(%account, settled = %clearance.settled, deadline = clearance.deadline, "clearance signed");
    let (settled, auth_nonce, deadline) = (clearance.settled, clearance.auth_nonce, clearance.deadline);
    Ok(private(Json(Reply { clearance: ClearanceReply { account, settled, auth_nonce, deadline }, signature: signed.signature })))
}
