//! `/v1/passkeys`: both ceremonies in two halves each, and a user's list of passkeys.

use axum::extract::{Path, Request, State};
use axum::response::Response;
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::json;
use webauthn_rs::prelude::{PublicKeyCredential, RegisterPublicKeyCredential};
use wire::B256;

use super::error::ApiError;
use super::session::{fresh_caller, opened, private, refuse_cross_site, session_caller};
use super::{ApiState, body};
use crate::identity::{Ceremony, PasskeyError, UserId};

/// Attestations with certificates are a few KiB.
const BODY_BYTES_MAX: usize = 64 << 10;

/// Routes of this file.
pub(super) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/v1/passkeys", get(list))
        .route("/v1/passkeys/{id}", delete(remove))
        .route("/v1/passkeys/registration/options", post(begin_registration))
        .route("/v1/passkeys/registration", post(finish_registration))
        .route("/v1/passkeys/sign-in/options", post(begin_sign_in))
        .route("/v1/passkeys/sign-in", post(finish_sign_in))
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct BeginRegistration {
    #[serde(default)]
    name: Option<String>,
}

async fn begin_registration(State(state): State<ApiState>, request: Request) -> Result<Response, ApiError> {
    refuse_cross_site(request.headers())?;
    let (headers, bytes) = body::read(request, BODY_BYTES_MAX, &state.serving.rooms().limits).await?;
    let asked: BeginRegistration = if bytes.is_empty() { BeginRegistration::default() } else { body::parse(&bytes)? };
    Ok(ceremony(&state.identity.begin_registration(&headers, asked.name.as_deref()).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FinishRegistration {
    ceremony: B256,
    credential: RegisterPublicKeyCredential,
    #[serde(default)]
    name: Option<String>,
}

async fn finish_registration(State(state): State<ApiState>, request: Request) -> Result<Response, ApiError> {
    refuse_cross_site(request.headers())?;
    let (headers, given) = body::json::<FinishRegistration>(request, BODY_BYTES_MAX, &state.serving.rooms().limits).await?;
    let name = given.name.as_deref();
    let session = state.identity.finish_registration(&headers, given.ceremony, &given.credential, name).await?;
    opened(&state, &headers, &session).await
}

async fn begin_sign_in(State(state): State<ApiState>, headers: HeaderMap) -> Result<Response, ApiError> {
    refuse_cross_site(&headers)?;
    Ok(ceremony(&state.identity.begin_passkey_sign_in()?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FinishSignIn {
    ceremony: B256,
    credential: PublicKeyCredential,
}

async fn finish_sign_in(State(state): State<ApiState>, request: Request) -> Result<Response, ApiError> {
    refuse_cross_site(request.headers())?;
    let (headers, given) = body::json::<FinishSignIn>(request, BODY_BYTES_MAX, &state.serving.rooms().limits).await?;
    let session = state.identity.finish_passkey_sign_in(given.ceremony, &given.credential).await?;
    opened(&state, &headers, &session).await
}

fn ceremony(begun: &Ceremony) -> Response {
    private(Json(json!({ "ceremony": begun.ceremony, "public_key": begun.public_key })))
}

async fn list(State(state): State<ApiState>, headers: HeaderMap) -> Result<Response, ApiError> {
    let passkeys = match session_caller(&state, &headers).await?.user {
        Some(user) => state.identity.passkeys(user).await?,
        None => Vec::new(),
    };
    let data: Vec<_> = passkeys
        .iter()
        .map(|passkey| {
            json!({
                "id": BASE64_URL_SAFE_NO_PAD.encode(&passkey.id), "object": "passkey", "name": passkey.name,
                "created_at": passkey.created_at, "last_used_at": passkey.last_used_at,
            })
        })
        .collect();
    Ok(private(Json(json!({ "object": "list", "data": data }))))
}

async fn remove(State(state): State<ApiState>, headers: HeaderMap, Path(id): Path<String>) -> Result<StatusCode, ApiError> {
    let user: UserId = fresh_caller(&state, &headers).await?.user.ok_or(PasskeyError::NotFound)?;
    let id = BASE64_URL_SAFE_NO_PAD.decode(id).map_err(|_| PasskeyError::NotFound)?;
    state.identity.remove_passkey(user, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}
