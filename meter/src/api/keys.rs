//! `/v1/keys`: a wallet's API keys. Only a session comes here: a key can't make, see or end keys.

use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRef, Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{delete, get};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use wire::Credits;

use super::error::ApiError;
use super::session::{SessionCaller, private};
use crate::identity::{ApiKey, Identity, KeyError, KeyId};
use crate::ledger::Ledger;

/// Routes of this file.
pub fn routes<S>() -> Router<S>
where
    S: Clone + Send + Sync + 'static,
    Identity: FromRef<S>,
    Ledger: FromRef<S>,
{
    Router::new().route("/v1/keys", get(list).post(create)).route("/v1/keys/{id}", delete(revoke))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateKey {
    name: String,
    #[serde(default)]
    limit_credits: Option<u64>,
}

/// A key as its owner sees it.
#[derive(Serialize)]
struct KeyReply {
    id: KeyId,
    object: &'static str,
    name: String,
    prefix: String,
    limit_credits: Option<Credits>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spent_credits: Option<Credits>,
    created_at: u64,
    last_used_at: Option<u64>,
    revoked_at: Option<u64>,
    /// The key itself, in the reply that makes it and never again.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

impl From<ApiKey> for KeyReply {
    fn from(key: ApiKey) -> Self {
        Self {
            id: key.id,
            object: "api_key",
            name: key.name,
            prefix: key.prefix,
            limit_credits: key.limit,
            spent_credits: None,
            created_at: key.created_at,
            last_used_at: key.last_used_at,
            revoked_at: key.revoked_at,
            key: None,
        }
    }
}

async fn create(
    State(identity): State<Identity>,
    SessionCaller(caller): SessionCaller,
    body: Result<Json<CreateKey>, JsonRejection>,
) -> Result<Response, ApiError> {
    let body = body?.0;
    let limit = body.limit_credits.map(Credits::new).transpose();
    let limit = limit.map_err(|error| ApiError::invalid(Some("limit_credits"), &format!("limit_credits: {error}")))?;

    let made = identity.create_key(caller.wallet, &body.name, limit).await?;

    let reply = KeyReply { key: Some(made.key.reveal().to_owned()), ..KeyReply::from(made.facts) };
    Ok(private((StatusCode::CREATED, Json(reply))))
}

async fn list(
    State(identity): State<Identity>,
    State(ledger): State<Ledger>,
    SessionCaller(caller): SessionCaller,
) -> Result<Response, ApiError> {
    #[derive(Serialize)]
    struct Reply {
        object: &'static str,
        data: Vec<KeyReply>,
    }
    let mut data = Vec::new();
    for key in identity.list_keys(caller.wallet).await? {
        let spent = ledger.key_usage(&key.id.into()).await?;
        data.push(KeyReply { spent_credits: Some(spent), ..KeyReply::from(key) });
    }
    Ok(private(Json(Reply { object: "list", data })))
}

async fn revoke(
    State(identity): State<Identity>,
    SessionCaller(caller): SessionCaller,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    #[derive(Serialize)]
    struct Reply {
        id: KeyId,
        object: &'static str,
        revoked: bool,
    }
    let id: KeyId = id.parse()?;
    identity.revoke_key(caller.wallet, id).await?;
    Ok(private(Json(Reply { id, object: "api_key", revoked: true })))
}

impl From<KeyError> for ApiError {
    fn from(error: KeyError) -> Self {
        let (status, param) = match &error {
            KeyError::Name { .. } => (StatusCode::BAD_REQUEST, Some("name")),
            KeyError::ZeroLimit => (StatusCode::BAD_REQUEST, Some("limit_credits")),
            KeyError::TooMany { .. } => (StatusCode::CONFLICT, None),
            KeyError::NotFound => (StatusCode::NOT_FOUND, None),
            KeyError::Unavailable(cause) => {
                tracing::error!(%cause, "keys not read or written");
                (StatusCode::SERVICE_UNAVAILABLE, None)
            }
        };
        Self::new(status, error.code(), &error.to_string()).with_param(param)
    }
}
