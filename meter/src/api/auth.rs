//! Headers → who pays, or which keeper calls.

use std::time::Duration;

use http::{HeaderMap, header};
use wire::settlement::{ACCESS_SCHEME, ACCESS_SECONDS_MAX};
use wire::typed::{self, KeeperAccess};
use wire::{AccountId, Address};

use super::ApiState;
use super::error::ApiError;
use crate::identity::AuthError;
use crate::ledger::KeyId;
use crate::serving::hold::Payer;

/// Between two looks whether the credential behind a stream still counts.
const LAPSE_CHECK: Duration = Duration::from_millis(900);

/// The payer that a key or a session stands for. Errors when nobody does, a user has linked no wallet, or the wallet has no
/// account yet.
pub async fn payer(state: &ApiState, headers: &HeaderMap) -> Result<Payer, ApiError> {
    let caller = state.identity.authenticate(headers).await?;
    caller.wallet.ok_or_else(ApiError::no_wallet)?;
    let account = caller.account.ok_or_else(ApiError::no_account)?;
    let (key, key_limit) = caller.key.map_or((None, None), |key| (Some(KeyId(key.id.to_string())), key.limit));
    Ok(Payer { account, key, key_limit })
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
