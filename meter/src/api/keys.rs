//! `/v1/keys`: a wallet's API keys. Only a session comes here, and only a fresh one makes a key: a key can't make, see or end keys.

use axum::extract::{Path, Request, State};
use axum::response::Response;
use axum::routing::{delete, get};
use axum::{Json, Router};
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use wire::{Address, Credits};

use super::error::ApiError;
use super::session::{fresh_caller, private, session_caller};
use super::{ApiState, body};
use crate::identity::{ApiKey, KeyId, KeyLimits};

const BODY_BYTES_MAX: usize = 4 << 10;

/// Routes of this file.
pub(super) fn routes() -> Router<ApiState> {
    Router::new().route("/v1/keys", get(list).post(create)).route("/v1/keys/{id}", delete(revoke))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateKey {
    name: String,
    #[serde(default)]
    limit_credits: Option<u64>,
    /// Unix seconds.
    #[serde(default)]
    expires_at: Option<u64>,
    #[serde(default)]
    models: Option<Vec<String>>,
}

impl CreateKey {
    /// Errors on an amount beyond the ledger's, and on a model that is not served: a key for it could make no call.
    fn limits(&mut self, state: &ApiState) -> Result<KeyLimits, ApiError> {
        let credits = self.limit_credits.map(Credits::new).transpose();
        let credits = credits.map_err(|error| ApiError::invalid("limit_credits", "invalid_limit", error.to_string()))?;
        let mut models = self.models.take();
        if let Some(models) = &mut models {
            models.sort();
            models.dedup();
            if let Some(unserved) = models.iter().find(|id| state.serving.rooms().catalog.get(id).is_none()) {
                return Err(ApiError::model_not_found(unserved).with_param("models"));
            }
        }
        Ok(KeyLimits { credits, expires_at: self.expires_at, models: models.map(Into::into) })
    }
}

/// A key as its owner sees it.
#[derive(Serialize)]
struct KeyReply {
    id: KeyId,
    object: &'static str,
    name: String,
    prefix: String,
    limit_credits: Option<Credits>,
    expires_at: Option<u64>,
    models: Option<Vec<String>>,
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
            limit_credits: key.limits.credits,
            expires_at: key.limits.expires_at,
            models: key.limits.models.map(|models| models.to_vec()),
            spent_credits: None,
            created_at: key.created_at,
            last_used_at: key.last_used_at,
            revoked_at: key.revoked_at,
            key: None,
        }
    }
}

/// Keys are a wallet's.
async fn session_wallet(state: &ApiState, headers: &HeaderMap) -> Result<Address, ApiError> {
    session_caller(state, headers).await?.wallet.ok_or_else(ApiError::no_wallet)
}

async fn create(State(state): State<ApiState>, request: Request) -> Result<Response, ApiError> {
    let wallet = fresh_caller(&state, request.headers()).await?.wallet.ok_or_else(ApiError::no_wallet)?;
    let (_, mut fields) = body::json::<CreateKey>(request, BODY_BYTES_MAX, &state.serving.rooms().limits).await?;
    let limits = fields.limits(&state)?;

    let made = state.identity.create_key(wallet, &fields.name, limits).await?;

    let reply = KeyReply { key: Some(made.key.reveal().to_owned()), ..KeyReply::from(made.facts) };
    Ok(private((StatusCode::CREATED, Json(reply))))
}

async fn list(State(state): State<ApiState>, headers: HeaderMap) -> Result<Response, ApiError> {
    #[derive(Serialize)]
    struct Reply {
        object: &'static str,
        data: Vec<KeyReply>,
    }
    // A user without a wallet has no keys yet.
    let keys = match session_caller(&state, &headers).await?.wallet {
        Some(wallet) => state.identity.list_keys(wallet).await?,
        None => Vec::new(),
    };
    let mut data = Vec::new();
    for key in keys {
        let spent = state.ledger.key_usage(&key.id.into()).await?;
        data.push(KeyReply { spent_credits: Some(spent), ..KeyReply::from(key) });
    }
    Ok(private(Json(Reply { object: "list", data })))
}

async fn revoke(State(state): State<ApiState>, headers: HeaderMap, Path(id): Path<String>) -> Result<Response, ApiError> {
    #[derive(Serialize)]
    struct Reply {
        id: KeyId,
        object: &'static str,
        revoked: bool,
    }
    let wallet = session_wallet(&state, &headers).await?;
    let id: KeyId = id.parse()?;
    state.identity.revoke_key(wallet, id).await?;
    Ok(private(Json(Reply { id, object: "api_key", revoked: true })))
}
