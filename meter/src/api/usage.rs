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
use super::error::ApiError;
use super::session::private;
use crate::ledger::USAGE_ROWS_MAX;

const DAY_S: u64 = 86_400;
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

/// Days since 1970-01-01 of a date of the years 1970 to 9999; `None` for anything else.
fn day_of(text: &str) -> Option<u64> {
    let digits = |range: std::ops::Range<usize>| text.get(range).filter(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
    if text.len() != 10 || text.get(4..5)? != "-" || text.get(7..8)? != "-" {
        return None;
    }
    let (year, month, day): (u64, u64, u64) = (digits(0..4)?.parse().ok()?, digits(5..7)?.parse().ok()?, digits(8..10)?.parse().ok()?);
    if year < 1970 || !(1..=12).contains(&month) || day == 0 {
        return None;
    }
    let number = civil_days(year, month) + day - 1;
    // A day past its month's end would be another date.
    (date_of(number) == text).then_some(number)
}

/// Days from 1970-01-01 to the first of a month.
fn civil_days(year: u64, month: u64) -> u64 {
    let leap_days = |year: u64| year / 4 - year / 100 + year / 400;
    let before_year = (year - 1970) * 365 + leap_days(year - 1) - leap_days(1969);
    let is_leap = leap_days(year) > leap_days(year - 1);
    let before_month = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334][(month - 1) as usize];
    before_year + before_month + u64::from(is_leap && month > 2)
}

fn date_of(day: u64) -> String {
    let mut year = 1970 + day / 366;
    while civil_days(year + 1, 1) <= day {
        year += 1;
    }
    let month = (1..=12).rev().find(|month| civil_days(year, *month) <= day).unwrap_or(1);
    format!("{year:04}-{month:02}-{:02}", day - civil_days(year, month) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_dates_are_each_others_inverse() {
        for (date, day) in [("1970-01-01", 0), ("1972-02-29", 789), ("2000-03-01", 11_017), ("2026-11-26", 20_783), ("2100-03-01", 47_541)]
        {
            assert_eq!((day_of(date), date_of(day)), (Some(day), date.to_owned()));
        }
        assert!((0..60_000).all(|day| day_of(&date_of(day)) == Some(day)));
        for wrong in [
            "2026-02-29",
            "2026-13-01",
            "2026-00-01",
            "2026-01-00",
            "2026-04-31",
            "1969-12-31",
            "26-01-01",
            "2026-1-1",
            "2026/01/01",
            "２026-01-01",
            "+026-01-01",
        ] {
            assert_eq!(day_of(wrong), None, "{wrong}");
        }
    }
}
