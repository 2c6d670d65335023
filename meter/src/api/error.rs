//! Every refusal in OpenAI's shape, and the only place with status codes (`docs/protocol.md`, section 7).
//!
//! What the caller may know is in the message; what only the operator may know goes to the log.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::response::{IntoResponse, Response};
use http::header::{HeaderName, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};
use wire::{AmountError, Credits};

use super::REQUEST_ID;
use super::dates::moment_of;
use crate::chain::{ClearanceError, ProxyError};
use crate::identity::{AuthError, IdentityError, KeyError, PasskeyError, SessionError, SignInError};
use crate::ledger::{ClearanceRefusal, CountersignError, HoldRefusal, LedgerError};
use crate::serving::dispatch::DispatchError;
use crate::serving::fleet::AskError;
use crate::serving::proof::NoProof;
use crate::serving::request::ServeError;

/// Tells stock clients not to send a billed request again.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
/// How soon a busy meter is worth another try, seconds.
const BUSY_RETRY_S: u64 = 2;

/// A refusal.
#[derive(Clone, Debug)]
pub struct ApiError(Box<Refusal>);

#[derive(Clone, Debug)]
struct Refusal {
    status: StatusCode,
    kind: &'static str,
    code: &'static str,
    message: String,
    param: Option<String>,
    metadata: Option<Value>,
    retry_after_s: Option<u64>,
    billed: bool,
    request_id: Option<String>,
}

impl ApiError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        let kind = match status.as_u16() {
            401 => "authentication_error",
            402 => "insufficient_quota",
            403 => "permission_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        let message = message.into();
        let refusal =
            Refusal { status, kind, code, message, param: None, metadata: None, retry_after_s: None, billed: false, request_id: None };
        Self(Box::new(refusal))
    }

    /// A field that can't be used; `param` names it as the client wrote it.
    pub fn invalid(param: impl Into<String>, code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message).with_param(param)
    }

    /// A request that can't be used as a whole.
    pub fn bad_request(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// A credential that does not count.
    pub fn unauthorized(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, code, message)
    }

    /// A caller who may not do this.
    pub fn forbidden(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, code, message)
    }

    /// Nothing there, or nothing that this caller may see.
    pub fn not_found(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, message)
    }

    /// Another state than the caller thinks.
    pub fn conflict(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, message)
    }

    /// There once, and not any more.
    pub fn gone(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, code, message)
    }

    /// A body above its limit.
    pub fn too_large(limit_bytes: usize) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", format!("the body is above {limit_bytes} bytes; send a shorter one"))
    }

    /// A body that did not come in time.
    pub fn body_timeout() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "timeout", "the body did not arrive in time; send it again")
    }

    /// No such route.
    pub fn no_route() -> Self {
        Self::not_found("not_found", "there is nothing at this path; the API begins with /v1/")
    }

    /// A route, but not for this method.
    pub fn method_not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this path has no such method")
    }

    /// No such model.
    pub fn model_not_found(model: &str) -> Self {
        let model: String = model.chars().take(128).collect();
        let message = format!("model `{model}` is not served here; GET /v1/models lists those that are");
        Self::not_found("model_not_found", message).with_param("model")
    }

    /// A model that is served, but not to this API key.
    pub fn model_not_allowed(model: &str, allowed: &[String]) -> Self {
        let message = format!("this API key is limited to other models than `{model}`: {}", allowed.join(", "));
        Self::forbidden("model_not_allowed", message).with_param("model")
    }

    /// Full now, but not for long.
    pub fn busy(message: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "busy", message).retry_soon()
    }

    /// Something of ours failed; the cause goes to the log.
    pub fn unavailable(cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(%cause, "request failed within");
        let message = "the meter can't do this right now; nothing was charged, try again in a moment";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message).retry_soon()
    }

    /// The same, with facts for programs.
    pub fn with_metadata(self, metadata: Value) -> Self {
        self.map(|refusal| refusal.metadata = Some(metadata))
    }

    /// The same, of a request that was charged: stock clients must not send it again.
    pub fn after_billing(self) -> Self {
        self.map(|refusal| (refusal.billed, refusal.retry_after_s) = (true, None))
    }

    /// The same, of a request that has an id.
    pub fn of_request(self, request_id: impl Into<String>) -> Self {
        self.map(|refusal| refusal.request_id = Some(request_id.into()))
    }

    /// The `error` object, as it also stands in a stream that broke off.
    pub fn object(&self) -> Value {
        let Refusal { message, kind, param, code, metadata, .. } = &*self.0;
        let mut error = json!({ "message": message, "type": kind, "param": param, "code": code });
        if let Some(metadata) = metadata {
            error["metadata"] = metadata.clone();
        }
        error
    }

    /// The same, of this field.
    pub fn with_param(self, param: impl Into<String>) -> Self {
        self.map(|refusal| refusal.param = Some(param.into()))
    }

    fn retry_soon(self) -> Self {
        self.map(|refusal| refusal.retry_after_s = Some(BUSY_RETRY_S))
    }

    /// The same, with the end of a closure among its facts.
    fn with_closing_until(self, until: u64) -> Self {
        self.map(|refusal| refusal.metadata.get_or_insert_with(|| json!({}))["closing_until"] = json!(until))
    }

    fn map(mut self, change: impl FnOnce(&mut Refusal)) -> Self {
        change(&mut self.0);
        self
    }

    /// Payment needed, with cause, amounts and the next step.
    fn payment(code: &'static str, message: String, available: Credits, needed: Credits, action: &str) -> Self {
        let metadata = json!({
            "available_credits": available, "available": available.to_string(),
            "needed_credits": needed, "needed": needed.to_string(),
            "action": action,
        });
        Self::new(StatusCode::PAYMENT_REQUIRED, code, message).with_metadata(metadata)
    }

    /// A user that has linked no wallet: nothing to spend.
    pub fn no_wallet() -> Self {
        Self::forbidden(
            "wallet_required",
            "this account has no wallet yet, and credits are a wallet's; link one with POST /v1/session/wallet",
        )
    }

    /// A wallet without an account: nothing deposited, nothing authorized.
    pub fn no_account() -> Self {
        let message = "this wallet has no credits and no spending authorization yet; deposit PRLX and sign one".to_owned();
        Self::payment("authorization_required", message, Credits::ZERO, Credits::ZERO, "authorize")
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.0.status, Json(json!({ "error": self.object() }))).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.0.retry_after_s {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.0.billed {
            headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        if let Some(id) = self.0.request_id.as_deref().and_then(|id| HeaderValue::from_str(id).ok()) {
            headers.insert(REQUEST_ID, id);
        }
        response
    }
}

impl From<HoldRefusal> for ApiError {
    fn from(refusal: HoldRefusal) -> Self {
        use HoldRefusal::{
            Amount, AuthorizationRequired, CapExceeded, Closing, Conflict, ExposureExceeded, InsufficientCredits, KeyLimit, Ledger,
            Misstated,
        };
        let message = refusal.to_string();
        match refusal {
            AuthorizationRequired { available, needed } => Self::payment("authorization_required", message, available, needed, "authorize"),
            InsufficientCredits { available, needed } => Self::payment("insufficient_credits", message, available, needed, "deposit"),
            ExposureExceeded { available, needed } => Self::payment("exposure_exceeded", message, available, needed, "wait_or_authorize"),
            CapExceeded { available, needed } => Self::payment("cap_exceeded", message, available, needed, "authorize"),
            Closing { until, available, needed } => {
                let message = format!("this account is being closed until {}; nothing can be spent before", moment_of(until));
                Self::payment("account_closing", message, available, needed, "wait").with_closing_until(until)
            }
            KeyLimit { available, needed } => Self::payment("key_limit", message, available, needed, "raise_key_limit"),
            Ledger(LedgerError::UnknownAccount { .. }) => Self::no_account(),
            Ledger(error) => error.into(),
            Conflict { request_id } => {
                let message =
                    "this Idempotency-Key named a request before, and its answer is no longer here; its receipt says what was charged";
                Self::conflict("idempotency_key_used", message).with_metadata(json!({ "receipt_id": request_id }))
            }
            Amount(_) | Misstated { .. } => Self::unavailable(&message),
        }
    }
}

impl From<ServeError> for ApiError {
    fn from(error: ServeError) -> Self {
        let message = error.to_string();
        match error {
            ServeError::Hold(refusal) => refusal.into(),
            ServeError::NoRate { .. } => Self::not_found("model_not_found", message).with_param("model"),
            ServeError::Dispatch(DispatchError::NoNode) | ServeError::NoneStarted { .. } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "no_node", message).retry_soon()
            }
            ServeError::Dispatch(DispatchError::QueueFull | DispatchError::QueueTimeout { .. }) | ServeError::TooManyStreams => {
                Self::busy(message)
            }
            ServeError::Draining => Self::new(StatusCode::SERVICE_UNAVAILABLE, "draining", message).retry_soon(),
            ServeError::BrokenOff { .. } => Self::new(StatusCode::BAD_GATEWAY, "answer_broke_off", message).after_billing(),
            ServeError::Capture => Self::new(StatusCode::BAD_GATEWAY, "charge_pending", message).after_billing(),
            ServeError::Cancelled => Self::bad_request("cancelled", message),
        }
    }
}

impl From<NoProof> for ApiError {
    fn from(error: NoProof) -> Self {
        let message = error.to_string();
        match error {
            NoProof::NoRoot => Self::not_found("no_proof", message),
            NoProof::NotKept => Self::not_found("proof_not_kept", message),
            NoProof::Unanswered(AskError::Busy) => Self::busy(message),
            NoProof::Away { .. } | NoProof::Unanswered(_) => Self::new(StatusCode::SERVICE_UNAVAILABLE, "node_away", message).retry_soon(),
            NoProof::Wrong { .. } => Self::new(StatusCode::BAD_GATEWAY, "wrong_proof", message),
        }
    }
}

impl From<LedgerError> for ApiError {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::UnknownAccount { .. } => Self::no_account(),
            other => Self::unavailable(&other),
        }
    }
}

impl From<AmountError> for ApiError {
    fn from(error: AmountError) -> Self {
        Self::bad_request("invalid_amount", error.to_string())
    }
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        match &error {
            AuthError::Unavailable(cause) => Self::unavailable(cause),
            AuthError::CrossSite | AuthError::SessionRequired | AuthError::NotFresh { .. } => {
                Self::forbidden(error.code(), error.to_string())
            }
            _ => Self::unauthorized(error.code(), error.to_string()),
        }
    }
}

impl From<SignInError> for ApiError {
    fn from(error: SignInError) -> Self {
        if let SignInError::Caller(error) = error {
            return error.into();
        }
        match &error {
            SignInError::Unavailable(cause) => Self::unavailable(cause),
            SignInError::NoUser | SignInError::LinkedElsewhere { .. } => Self::conflict(error.code(), error.to_string()),
            SignInError::ContractUnavailable(cause) => {
                tracing::warn!(%cause, "contract wallet could not be asked");
                Self::new(StatusCode::SERVICE_UNAVAILABLE, error.code(), error.to_string())
            }
            _ => Self::unauthorized(error.code(), error.to_string()),
        }
    }
}

impl From<ProxyError> for ApiError {
    fn from(error: ProxyError) -> Self {
        let message = error.to_string();
        match error {
            ProxyError::NotAllowed { .. } => Self::forbidden("method_not_allowed_on_chain", message),
            ProxyError::Busy => Self::busy(message),
            ProxyError::Unavailable(cause) => {
                tracing::warn!(%cause, "the page's question to the chain failed");
                Self::new(StatusCode::BAD_GATEWAY, "chain_unavailable", message).retry_soon()
            }
        }
    }
}

impl From<ClearanceError> for ApiError {
    fn from(error: ClearanceError) -> Self {
        let message = error.to_string();
        match error {
            ClearanceError::OtherSettler { .. } => Self::conflict("not_the_settler", message),
            ClearanceError::Suspended { until } => {
                let message =
                    format!("the settler is suspended until {}; revoke instead, and withdraw after the exit delay", moment_of(until));
                Self::conflict("settler_suspended", message).with_metadata(json!({ "suspended_until": until }))
            }
            ClearanceError::Signer { reason } => Self::unavailable(&reason),
            ClearanceError::Chain(error) => error.into(),
            ClearanceError::Refused(refusal) => match refusal {
                ClearanceRefusal::NothingKept => Self::conflict("nothing_to_close", message),
                ClearanceRefusal::Outstanding { held, unsettled } => Self::conflict("outstanding", message).with_metadata(json!({
                    "held_credits": held, "held": held.to_string(), "unsettled_credits": unsettled, "unsettled": unsettled.to_string(),
                })),
                ClearanceRefusal::Standing { until } => {
                    let message = format!(
                        "the chain went back behind the last clearance, which may be used until {}; ask again after that",
                        moment_of(until)
                    );
                    Self::conflict("clearance_stands", message).with_closing_until(until)
                }
                ClearanceRefusal::Ledger(error) => error.into(),
            },
        }
    }
}

impl From<PasskeyError> for ApiError {
    fn from(error: PasskeyError) -> Self {
        let (code, message) = (error.code(), error.to_string());
        match error {
            PasskeyError::Unavailable(cause) => Self::unavailable(&cause),
            PasskeyError::Caller(error) => error.into(),
            PasskeyError::Name { .. } => Self::invalid("name", code, message),
            PasskeyError::NotFound => Self::not_found(code, message),
            PasskeyError::NotAdded { .. } | PasskeyError::LastWayIn => Self::conflict(code, message),
            PasskeyError::UnknownCeremony | PasskeyError::OtherSession | PasskeyError::Refused(_) | PasskeyError::UnknownPasskey => {
                Self::unauthorized(code, message)
            }
        }
    }
}

impl From<SessionError> for ApiError {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Auth(error) => error.into(),
            SessionError::NotFound => Self::not_found("session_not_found", error.to_string()),
        }
    }
}

impl From<KeyError> for ApiError {
    fn from(error: KeyError) -> Self {
        match &error {
            KeyError::Unavailable(cause) => Self::unavailable(cause),
            KeyError::NotFound => Self::not_found(error.code(), error.to_string()),
            KeyError::TooMany { .. } => Self::conflict(error.code(), error.to_string()),
            KeyError::Name { .. } => Self::invalid("name", error.code(), error.to_string()),
            KeyError::ZeroLimit => Self::invalid("limit_credits", error.code(), error.to_string()),
            KeyError::Expiry { .. } => Self::invalid("expires_at", error.code(), error.to_string()),
            KeyError::Models { .. } => Self::invalid("models", error.code(), error.to_string()),
        }
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(rejection.status(), "invalid_json", rejection.body_text())
    }
}

impl From<IdentityError> for ApiError {
    fn from(error: IdentityError) -> Self {
        Self::unavailable(&error)
    }
}

impl From<CountersignError> for ApiError {
    fn from(error: CountersignError) -> Self {
        let message = error.to_string();
        match error {
            CountersignError::SeqTaken { standing } => Self::conflict("seq_taken", message).with_metadata(json!({ "standing": standing })),
            CountersignError::Seq { next_seq, .. } => Self::conflict("wrong_seq", message).with_metadata(json!({ "next_seq": next_seq })),
            CountersignError::Deadline { .. } => Self::invalid("deadline", "invalid_deadline", message),
            CountersignError::Receipts { .. } | CountersignError::Receipt { .. } => Self::invalid("receipts", "invalid_receipts", message),
            CountersignError::Carry { .. } => Self::invalid("carries", "invalid_carries", message),
            CountersignError::AboveLimit { .. } => Self::invalid("receipts", "above_limit", message),
            CountersignError::Rows => Self::invalid("rows", "rows_differ", message),
            CountersignError::Root { .. } => Self::invalid("receipts_root", "root_differs", message),
            CountersignError::Signer { reason } => Self::unavailable(&reason),
            CountersignError::Ledger(error) => error.into(),
        }
    }
}
