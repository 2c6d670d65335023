//! Headers → who pays, or which keeper calls.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, header};
use wire::settlement::{ACCESS_SCHEME, ACCESS_SECONDS_MAX};
use wire::typed::{self, KeeperAccess};
use wire::{AccountId, Address};

use super::ApiState;
use super::error::ApiError;
use crate::identity::{ApiKeyFacts, AuthError};
use crate::ledger::KeyId;
use crate::serving::catalog::Model;
use crate::serving::hold::Payer;

/// Between two looks whether the credential behind a stream still counts.
const LAPSE_CHECK: Duration = Duration::from_millis(900);

/// Who asks for an answer: the payer, and which models it may have.
pub struct Customer {
    /// Who pays.
    pub payer: Payer,
    /// What may be asked for.
    pub models: AllowedModels,
}

/// The models that a caller may use; `None` is all that are served.
#[derive(Clone, Default)]
pub struct AllowedModels(Option<Arc<[String]>>);

impl AllowedModels {
    /// Whether the model of this id is among them.
    pub fn contains(&self, id: &str) -> bool {
        self.0.as_ref().is_none_or(|allowed| allowed.iter().any(|one| one == id))
    }

    /// The model of this id. Errors when it is not served, or not to this caller.
    pub fn get(&self, state: &ApiState, id: &str) -> Result<Arc<Model>, ApiError> {
        let model = state.serving.rooms().catalog.get(id).ok_or_else(|| ApiError::model_not_found(id))?;
        match &self.0 {
            Some(allowed) if !self.contains(id) => Err(ApiError::model_not_allowed(id, allowed)),
            _ => Ok(Arc::clone(model)),
        }
    }
}

/// The customer that a key or a session stands for. Errors when nobody does, a user has linked no wallet, or the wallet has no
/// account yet.
pub async fn customer(state: &ApiState, headers: &HeaderMap) -> Result<Customer, ApiError> {
    let caller = state.identity.authenticate(headers).await?;
    caller.wallet.ok_or_else(ApiError::no_wallet)?;
    let account = caller.account.ok_or_else(ApiError::no_account)?;
    let Some(ApiKeyFacts { id, limits }) = caller.key else {
        return Ok(Customer { payer: Payer { account, key: None, key_limit: None }, models: AllowedModels::default() });
    };
    let payer = Payer { account, key: Some(KeyId(id.to_string())), key_limit: limits.credits };
    Ok(Customer { payer, models: AllowedModels(limits.models) })
}

/// The models that whoever calls may use: an API key's own, and all for anybody else. Errors on a bearer credential that does not count.
pub async fn allowed_models(state: &ApiState, headers: &HeaderMap) -> Result<AllowedModels, ApiError> {
    if !headers.contains_key(header::AUTHORIZATION) {
        return Ok(AllowedModels::default());
    }
    let key = state.identity.authenticate(headers).await?.key;
    Ok(AllowedModels(key.and_then(|key| key.limits.models)))
}

/// The account that a key or a session stands for; `None` before the wallet's first deposit or authorization.
pub async fn account(state: &ApiState, headers: &HeaderMap) -> Result<Option<AccountId>, ApiError> {
    Ok(state.identity.authenticate(headers).await?.account)
}

/// Ends when the credential in `headers` does: a stream that it opened is cut then. Another meter's revocation takes the cache's seconds.
pub(super) async fn lapse(state: ApiState, headers: HeaderMap) {
    loop {
        tokio::time::sleep(LAPSE_CHECK).await;
        match state.identity.authenticate(&headers).await {
            // A store that fails says nothing about the credential.
            Ok(_) | Err(AuthError::Unavailable(_)) => {}
            Err(_) => return,
        }
    }
}

/// The keeper that signed `Authorization: Keeper <address>.<validUntil>.<signature>`. Errors on another form, a signature of
/// somebody else, a pass that is over or too long, and a keeper that this meter does not know.
pub fn keeper(state: &ApiState, headers: &HeaderMap) -> Result<Address, ApiError> {
    let malformed =
        || ApiError::unauthorized("malformed_pass", format!("send `Authorization: {ACCESS_SCHEME} ADDRESS.VALID_UNTIL.SIGNATURE`"));
    let text = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).ok_or_else(malformed)?;
    let mut parts = text.strip_prefix(ACCESS_SCHEME).and_then(|rest| rest.strip_prefix(' ')).ok_or_else(malformed)?.split('.');
    let (Some(address), Some(valid_until), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(malformed());
    };
    let address: Address = address.parse().map_err(|_| malformed())?;
    let valid_until: u64 = valid_until.parse().map_err(|_| malformed())?;
    let signature = hex::decode(signature.trim_start_matches("0x")).map_err(|_| malformed())?;

    let rooms = state.serving.rooms();
    let now_s = rooms.clock.now_s();
    if valid_until <= now_s || valid_until > now_s + ACCESS_SECONDS_MAX {
        let message = format!("the pass is valid until {valid_until}; it must end after {now_s} and at most {ACCESS_SECONDS_MAX} s later");
        return Err(ApiError::unauthorized("pass_expired", message));
    }
    let access = KeeperAccess { keeper: address, validUntil: wire::receipt::seconds_u40(valid_until) };
    let signer =
        typed::recover(&access, &rooms.domain, &signature).map_err(|error| ApiError::unauthorized("wrong_signature", error.to_string()))?;
    if signer != address {
        return Err(ApiError::unauthorized("wrong_signature", format!("the pass is signed by {signer}, it names {address}")));
    }
    if !state.keepers.contains(&address) {
        return Err(ApiError::forbidden("unknown_keeper", format!("{address} is not among this meter's keepers")));
    }
    Ok(address)
}
