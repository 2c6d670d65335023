//! `GET /v1/usage`: what an account's requests came to, by day, model and API key.

use std::collections::HashMap;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::Response;
use http::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json};

use super::ApiState;
use super::dates::{DAY_S, date_of, day_of};
use super::error::ApiError;
use super::session::private;
use crate::ledger::USAGE_ROWS_MAX;

/// Days of one question.
const DAYS_MAX: u64 = 366;

/// `?from=YYYY-MM-DD&to=YYYY-MM-DD`, UTC, both days included.
#[derive(Deserialize)]
pub(super) struct Period {
    from: String,
    to: String,
}

pub(super) async fn show(
    State(state): State<ApiState>,
    headers: HeaderMap,
    period: Result<Query<Period>, QueryRejection>,
) -> Result<Response, ApiError> {
    let caller = state.identity.authenticate(&headers).await?;
    let Query(period) = period.map_err(|_| ApiError::bad_request("invalid_query", "write ?from=YYYY-MM-DD&to=YYYY-MM-DD"))?;
    let day = |field: &'static str, text: &str| {
        day_of(text).ok_or_else(|| ApiError::invalid(field, "invalid_date", format!("`{field}` must be a day like 2026-01-31")))
    };
    let (from, to) = (day("from", &period.from)?, day("to", &period.to)?);
    if to < from || to - from >= DAYS_MAX {
        return Err(ApiError::invalid("to", "invalid_period", format!("`to` must be `from` or one of the {} days after it", DAYS_MAX - 1)));
    }

    let rows = match caller.account {
        Some(account) => state.ledger.usage(account, from * DAY_S, (to + 1) * DAY_S).await?,
        None => Vec::new(),
    };
    if rows.len() > USAGE_ROWS_MAX {
        let message = format!("there are more than {USAGE_ROWS_MAX} rows; ask for fewer days");
        return Err(ApiError::invalid("to", "too_many_rows", message));
    }
    let names: HashMap<String, String> = match caller.wallet {
        Some(wallet) => state.identity.list_keys(wallet).await?.into_iter().map(|key| (key.id.to_string(), key.name)).collect(),
        None => HashMap::new(),
    };
    let data: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "day": date_of(row.day), "model": row.model, "key_id": row.key,
                "key_name": row.key.as_ref().and_then(|key| names.get(key)),
                "requests": row.requests, "prompt_tokens": row.prompt_tokens, "completion_tokens": row.completion_tokens,
                "cost": row.cost,
            })
        })
        .collect();
    Ok(private(Json(json!({ "object": "usage", "from": date_of(from), "to": date_of(to), "data": data }))))
}
