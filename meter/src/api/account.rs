//! `/v1/account`: the caller's wallet, its account, and its spending authorization as the chain has it; the way to its clearance.

use axum::extract::State;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use http::HeaderMap;
use serde::Serialize;
use serde_json::Value;
use wire::{AccountId, Address};

use super::error::ApiError;
use super::session::private;
use super::{ApiState, clearance, credits};

/// Routes of this file.
pub(super) fn routes() -> Router<ApiState> {
    Router::new().route("/v1/account", get(show)).route("/v1/account/clearance", post(clearance::give))
}

async fn show(State(state): State<ApiState>, headers: HeaderMap) -> Result<Response, ApiError> {
    #[derive(Serialize)]
    struct Reply {
        object: &'static str,
        wallet: Option<Address>,
        account: Option<AccountId>,
        /// Whether the block that opened the account is deep enough for its credits to count.
        confirmed: bool,
        authorization: Option<Value>,
    }
    let caller = state.identity.authenticate(&headers).await?;
    let view = match caller.wallet {
        Some(wallet) => state.ledger.account_of_wallet(wallet).await?,
        None => None,
    };
    Ok(private(Json(Reply {
        object: "account",
        wallet: caller.wallet,
        account: view.as_ref().map(|view| view.account),
        confirmed: view.as_ref().is_some_and(|view| view.confirmed),
        authorization: view.and_then(|view| view.authorization).as_ref().map(credits::authorization),
    })))
}
