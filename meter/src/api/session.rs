//! `/v1/session`: a challenge, a wallet's signature of it, a session; and who is calling, for every other handler.

use alloy::primitives::aliases::{U40, U48};
use alloy::sol_types::Eip712Domain;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRef, FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde::{Deserialize, Deserializer, Serialize, de};
use wire::typed::{SignIn, SpendAuthorization};
use wire::{Address, B256, Bytes};

use super::error::ApiError;
use crate::identity::{AuthError, Caller, Identity, SignInError, SignInKind, SignInRequest};

/// The vault's EIP-712 domain, under which payers sign.
#[derive(Clone, Debug)]
pub struct CreditsDomain(pub Eip712Domain);

/// Routes of this file.
pub fn routes<S>() -> Router<S>
where
    S: Clone + Send + Sync + 'static,
    Identity: FromRef<S>,
    CreditsDomain: FromRef<S>,
{
    Router::new().route("/v1/session/challenge", post(challenge)).route("/v1/session", post(open).delete(close))
}

async fn challenge(State(identity): State<Identity>) -> Result<Response, ApiError> {
    #[derive(Serialize)]
    struct Reply {
        secret: B256,
        challenge: B256,
        expires_at: u64,
    }
    let given = identity.challenge().await.map_err(AuthError::from)?;
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

async fn open(
    State(identity): State<Identity>,
    State(domain): State<CreditsDomain>,
    headers: HeaderMap,
    body: Result<Json<OpenSession>, JsonRejection>,
) -> Result<Response, ApiError> {
    refuse_cross_site(&headers)?;
    let request = sign_in_request(body?.0)?;

    let session = identity.sign_in(&request, &domain.0).await?;
    let account = identity.account_of(session.wallet).await.map_err(AuthError::from)?;

    #[derive(Serialize)]
    struct Reply<'a> {
        session_token: &'a str,
        wallet: Address,
        account: Option<u32>,
        expires_at: u64,
    }
    let cookie = identity.cookie().set(&session.token);
    let reply = Reply {
        session_token: session.token.reveal(),
        wallet: session.wallet,
        account: account.map(|account| account.0),
        expires_at: session.expires_at,
    };
    Ok(private((StatusCode::CREATED, [(header::SET_COOKIE, cookie)], Json(reply))))
}

async fn close(State(identity): State<Identity>, headers: HeaderMap) -> Response {
    let cookie = [(header::SET_COOKIE, identity.cookie().clear())];
    match identity.sign_out(&headers).await {
        Ok(()) => (StatusCode::NO_CONTENT, cookie).into_response(),
        // The browser forgets a session that ended elsewhere; a call that is not its own page's leaves it alone.
        Err(error @ AuthError::UnknownSession) => (cookie, ApiError::from(error)).into_response(),
        Err(error) => ApiError::from(error).into_response(),
    }
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
            return Err(ApiError::invalid(None, message));
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
    T::try_from(value).map_err(|_| ApiError::invalid(Some(param), &format!("{param} is {value}; the signed type has {bits} bits for it")))
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
fn refuse_cross_site(headers: &HeaderMap) -> Result<(), AuthError> {
    match headers.get("sec-fetch-site").map(|value| value.as_bytes()) {
        None | Some(b"same-origin" | b"none") => Ok(()),
        Some(_) => Err(AuthError::CrossSite),
    }
}

/// Replies that carry a secret or a person's affairs: no cache keeps them.
pub(super) fn private(reply: impl IntoResponse) -> Response {
    ([(header::CACHE_CONTROL, "no-store")], reply).into_response()
}

/// Who is calling; the reply is 401 when nobody is.
impl<S> FromRequestParts<S> for Caller
where
    S: Send + Sync,
    Identity: FromRef<S>,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        Ok(Identity::from_ref(state).authenticate(&parts.headers).await?)
    }
}

/// A session is calling, not a key: for what stands in for the wallet.
pub struct SessionCaller(pub Caller);

impl<S> FromRequestParts<S> for SessionCaller
where
    S: Send + Sync,
    Identity: FromRef<S>,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let caller = Caller::from_request_parts(parts, state).await?;
        if caller.session { Ok(Self(caller)) } else { Err(AuthError::SessionRequired.into()) }
    }
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        let status = match &error {
            AuthError::CrossSite | AuthError::SessionRequired => StatusCode::FORBIDDEN,
            AuthError::Unavailable(cause) => {
                tracing::error!(%cause, "credential not checked");
                StatusCode::SERVICE_UNAVAILABLE
            }
            _ => StatusCode::UNAUTHORIZED,
        };
        Self::new(status, error.code(), &error.to_string())
    }
}

impl From<SignInError> for ApiError {
    fn from(error: SignInError) -> Self {
        let status = match &error {
            SignInError::ContractUnavailable(cause) => {
                tracing::warn!(%cause, "contract wallet not asked");
                StatusCode::SERVICE_UNAVAILABLE
            }
            SignInError::Unavailable(cause) => {
                tracing::error!(%cause, "session not opened");
                StatusCode::SERVICE_UNAVAILABLE
            }
            _ => StatusCode::UNAUTHORIZED,
        };
        Self::new(status, error.code(), &error.to_string())
    }
}
