//! `GET /v1/credits`: what an account has, holds, owes, and may spend now.

use axum::Json;
use axum::extract::State;
use http::HeaderMap;
use serde_json::{Value, json};
use wire::Credits;

use super::error::ApiError;
use super::{ApiState, auth};
use crate::ledger::AuthorizationView;

pub(super) async fn show(State(state): State<ApiState>, headers: HeaderMap) -> Result<Json<Value>, ApiError> {
    let Some(account) = auth::account(&state, &headers).await? else {
        return Ok(Json(amounts(
            &[("available", Credits::ZERO), ("spendable", Credits::ZERO)],
            json!({ "account": null, "authorization": null, "closing_until": null }),
        )));
    };
    let view = state.ledger.credits(account).await?;
    let authorization = view.authorization.as_ref().map(authorization);
    let beside = json!({ "account": account, "authorization": authorization, "closing_until": view.closing_until });
    let body = amounts(
        &[
            ("available", view.available),
            ("held", view.held),
            ("unsettled", view.unsettled),
            ("spendable", view.spendable),
            ("pending", view.pending_deposits),
            ("deposited", view.deposited),
            ("settled", view.settled),
        ],
        beside,
    );
    Ok(Json(body))
}

/// A spending authorization, amounts in both forms.
pub(super) fn authorization(view: &AuthorizationView) -> Value {
    let beside = json!({
        "valid_until": view.valid_until, "settle_deadline": view.settle_deadline, "next_nonce": view.next_nonce, "live": view.live,
    });
    amounts(&[("authorized_cum", view.authorized_cum), ("exposure", view.exposure), ("room", view.room)], beside)
}

/// Each amount twice: `name_credits` for programs, `name` in PRLX for people.
fn amounts(amounts: &[(&str, Credits)], mut beside: Value) -> Value {
    for (name, amount) in amounts {
        beside[format!("{name}_credits")] = json!(amount);
        beside[*name] = amount.to_string().into();
    }
    beside
}
