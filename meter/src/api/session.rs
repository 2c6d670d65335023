//! `/v1/session` and `/v1/sessions`: a challenge, a wallet's signature of it, a session; where else somebody is signed in; and who may stand in
//! for the wallet.

use alloy::primitives::aliases::{U40, U48};
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use http::{HeaderMap, StatusCode, header};
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::json;
use wire::typed::{SignIn, SpendAuthorization};
use wire::{AccountId, Address, B256, Bytes};

use super::error::ApiError;
use super::{ApiState, body};
use crate::identity::{AuthError, Caller, Session, SessionFacts, SessionId, SignInKind, SignInRequest, UserId};

/// A sign-in is small, unless a contract wallet's signature is long.
const BODY_BYTES_MAX: usize = 32 << 10;

/// Routes of this file.
pub(super) fn routes() -> Router<ApiState> {
    Router::new()
        .route("/v1/session/challenge", post(challenge))
        .route("/v1/session", get(show).post(open).delete(close))
        .route("/v1/session/wallet", post(link_wallet))
        .route("/v1/sessions", get(list).delete(close_others))
        .route("/v1/sessions/{id}", delete(close_one))
}

/// The caller, who must hold a session: for what stands in for the wallet. Errors when nobody calls, or an API key does.
pub(super) async fn session_caller(state: &ApiState, headers: &HeaderMap) -> Result<Caller, ApiError> {
    let caller = state.identity.authenticate(headers).await?;
    if caller.session { Ok(caller) } else { Err(AuthError::SessionRequired.into()) }
}

/// The caller, as [`session_caller`], when the person behind the session was just there: for what outlives the session.
pub(super) async fn fresh_caller(state: &ApiState, headers: &HeaderMap) -> Result<Caller, ApiError> {
    let caller = session_caller(state, headers).await?;
    state.identity.require_fresh(&caller)?;
    Ok(caller)
}

/// Replies that carry a secret or a person's affairs: no cache keeps them.
pub(super) fn private(reply: impl IntoResponse) -> Response {
    ([(header::CACHE_CONTROL, "no-store")], reply).into_response()
}

async fn challenge(State(state): State<ApiState>) -> Result<Response, ApiError> {
    #[derive(Serialize)]
    struct Reply {
        secret: B256,
        challenge: B256,
        expires_at: u64,
    }
    let given = state.identity.challenge().await?;
    Ok(private(Json(Reply { secret: given.secret, challenge: given.challenge, expires_at: given.expires_at })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OpenSession {
    secret: B256,
    #[serde(default)]
    authorization: Option<AuthorizationFields>,
    #[serde(default)]
    sign_in: Option<SignInFields>,
    signature: Bytes,
}

/// `SpendAuthorization` with the field names that the wallet showed; numbers may be decimal strings, as wallets write them.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AuthorizationFields {
    owner: Address,
    #[serde(deserialize_with = "number")]
    cap: u64,
    #[serde(deserialize_with = "number")]
    exposure: u64,
    #[serde(deserialize_with = "number")]
    valid_until: u64,
    challenge: B256,
    #[serde(deserialize_with = "number")]
    nonce: u64,
    #[serde(deserialize_with = "number")]
    sign_deadline: u64,
}

/// `SignIn`, likewise.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SignInFields {
    owner: Address,
    challenge: B256,
    #[serde(deserialize_with = "number")]
    sign_deadline: u64,
}

async fn open(State(state): State<ApiState>, request: Request) -> Result<Response, ApiError> {
    let rooms = state.serving.rooms();
    refuse_cross_site(request.headers())?;
    let (headers, fields) = body::json::<OpenSession>(request, BODY_BYTES_MAX, &rooms.limits).await?;
    let attempt = sign_in_request(fields)?;

    let session = state.identity.sign_in(&attempt, &rooms.deployment.credits_domain()).await?;
    opened(&state, &headers, &session).await
}

/// The reply that opens a session: its secret in the body for programs, and as a cookie for the page. The session of the cookie that the
/// sign-in came with is over then. Errors leave the new session to nobody: its secret is not told.
pub(super) async fn opened(state: &ApiState, headers: &HeaderMap, session: &Session) -> Result<Response, ApiError> {
    let reply = SessionReply::of(state, Some(session.token.reveal()), session.user, session.wallet, session.expires_at).await?;
    state.identity.end_replaced(headers).await?;
    let cookie = state.identity.cookie().set(&session.token);
    Ok(private((StatusCode::CREATED, [(header::SET_COOKIE, cookie)], Json(reply))))
}

/// Links the wallet that signed to the user of the session that calls.
async fn link_wallet(State(state): State<ApiState>, request: Request) -> Result<Response, ApiError> {
    let rooms = state.serving.rooms();
    fresh_caller(&state, request.headers()).await?;
    let (headers, fields) = body::json::<OpenSession>(request, BODY_BYTES_MAX, &rooms.limits).await?;
    let attempt = sign_in_request(fields)?;
    state.identity.link_wallet(&headers, &attempt, &rooms.deployment.credits_domain()).await?;
    show(State(state), headers).await
}

async fn show(State(state): State<ApiState>, headers: HeaderMap) -> Result<Response, ApiError> {
    let session = state.identity.current_session(&headers).await?;
    let caller = session.caller;
    Ok(private(Json(SessionReply::of(&state, None, caller.user, caller.wallet, session.expires_at).await?)))
}

/// A session as its owner sees it.
#[derive(Serialize)]
struct SessionReply<'a> {
    /// Only in the reply that opens it.
    #[serde(skip_serializing_if = "Option::is_none")]
    session_token: Option<&'a str>,
    user: Option<UserId>,
    wallet: Option<Address>,
    account: Option<AccountId>,
    passkeys: usize,
    expires_at: u64,
}

impl<'a> SessionReply<'a> {
    async fn of(
        state: &ApiState,
        session_token: Option<&'a str>,
        user: Option<UserId>,
        wallet: Option<Address>,
        expires_at: u64,
    ) -> Result<Self, ApiError> {
        let account = match wallet {
            Some(wallet) => state.identity.account_of(wallet).await?,
            None => None,
        };
        let passkeys = match user {
            Some(user) => state.identity.passkeys(user).await?.len(),
            None => 0,
        };
        Ok(Self { session_token, user, wallet, account, passkeys, expires_at })
    }
}

async fn close(State(state): State<ApiState>, headers: HeaderMap) -> Response {
    let cookie = [(header::SET_COOKIE, state.identity.cookie().clear())];
    match state.identity.sign_out(&headers).await {
        Ok(()) => (StatusCode::NO_CONTENT, cookie).into_response(),
        // The browser forgets a session that ended elsewhere; a call that is not its own page's leaves it alone.
        Err(error @ (AuthError::UnknownSession | AuthError::Missing)) => (cookie, ApiError::from(error)).into_response(),
        Err(error) => ApiError::from(error).into_response(),
    }
}

async fn list(State(state): State<ApiState>, headers: HeaderMap) -> Result<Response, ApiError> {
    let open = state.identity.open_sessions(&headers).await?;
    let row = |session: &SessionFacts| {
        json!({
            "id": session.id.to_string(), "object": "session", "created_at": session.created_at, "last_used_at": session.last_used_at,
            "expires_at": session.expires_at, "current": session.is_current,
        })
    };
    Ok(private(Json(json!({ "object": "list", "data": open.iter().map(row).collect::<Vec<_>>() }))))
}

async fn close_others(State(state): State<ApiState>, headers: HeaderMap) -> Result<Response, ApiError> {
    let ended = state.identity.end_other_sessions(&headers).await?;
    Ok(private(Json(json!({ "ended": ended }))))
}

async fn close_one(State(state): State<ApiState>, headers: HeaderMap, Path(id): Path<String>) -> Result<StatusCode, ApiError> {
    // Who calls comes first: a stranger learns nothing of the form of ids.
    session_caller(&state, &headers).await?;
    let id: SessionId = id.parse()?;
    state.identity.end_session(&headers, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn sign_in_request(body: OpenSession) -> Result<SignInRequest, ApiError> {
    let kind = match (body.authorization, body.sign_in) {
        (Some(fields), None) => SignInKind::Authorization(fields.signed_type()?),
        (None, Some(fields)) => SignInKind::SignIn(SignIn {
            owner: fields.owner,
            challenge: fields.challenge,
            signDeadline: narrow("sign_in.signDeadline", 40, fields.sign_deadline)?,
        }),
        _ => {
            let message = "send exactly one of `authorization` (a signed SpendAuthorization) and `sign_in` (a signed SignIn)";
            return Err(ApiError::bad_request("invalid_request", message));
        }
    };
    Ok(SignInRequest { secret: body.secret, kind, signature: body.signature.to_vec() })
}

impl AuthorizationFields {
    fn signed_type(self) -> Result<SpendAuthorization, ApiError> {
        Ok(SpendAuthorization {
            owner: self.owner,
            cap: self.cap,
            exposure: narrow::<U48>("authorization.exposure", 48, self.exposure)?,
            validUntil: narrow::<U40>("authorization.validUntil", 40, self.valid_until)?,
            challenge: self.challenge,
            nonce: narrow("authorization.nonce", 32, self.nonce)?,
            signDeadline: narrow::<U40>("authorization.signDeadline", 40, self.sign_deadline)?,
        })
    }
}

fn narrow<T: TryFrom<u64>>(param: &'static str, bits: u32, value: u64) -> Result<T, ApiError> {
    T::try_from(value)
        .map_err(|_| ApiError::invalid(param, "invalid_number", format!("{param} is {value}; the signed type has {bits} bits for it")))
}

/// Reads a whole number or its decimal string.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Number(u64),
        Text(String),
    }
    match Form::deserialize(deserializer) {
        Ok(Form::Number(number)) => Ok(number),
        Ok(Form::Text(text)) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => {
            text.parse().map_err(|_| de::Error::custom("a number here has at most 64 bits"))
        }
        _ => Err(de::Error::custom("a number here is a whole number or a string of decimal digits")),
    }
}

/// A page elsewhere must not sign this browser in, not even into its own account.
pub(super) fn refuse_cross_site(headers: &HeaderMap) -> Result<(), AuthError> {
    match headers.get("sec-fetch-site").map(|value| value.as_bytes()) {
        None | Some(b"same-origin" | b"none") => Ok(()),
        Some(_) => Err(AuthError::CrossSite),
    }
}

#[cfg(test)]
pub(super) mod tests;
