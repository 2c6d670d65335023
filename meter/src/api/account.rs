//! `/v1/account` and `/v1/credits`: the caller's account as the chain has it, and what it may spend now.

use axum::extract::{FromRef, State};
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use wire::{Address, Credits};

use super::error::ApiError;
use super::session::private;
use crate::identity::{Caller, Identity};
use crate::ledger::{AuthorizationView, CreditsView, Ledger};

/// Routes of this file.
pub fn routes<S>() -> Router<S>
where
    S: Clone + Send + Sync + 'static,
    Identity: FromRef<S>,
    Ledger: FromRef<S>,
{
    Router::new().route("/v1/account", get(account)).route("/v1/credits", get(credits))
}

async fn account(State(ledger): State<Ledger>, caller: Caller) -> Result<Response, ApiError> {
    #[derive(Serialize)]
    struct Reply {
        object: &'static str,
        wallet: Address,
        account: Option<u32>,
        confirmed: bool,
        authorization: Option<AuthorizationReply>,
    }
    let view = ledger.account_of_wallet(caller.wallet).await?;
    Ok(private(Json(Reply {
        object: "account",
        wallet: caller.wallet,
        account: view.as_ref().map(|view| view.account.0),
        confirmed: view.as_ref().is_some_and(|view| view.confirmed),
        authorization: view.and_then(|view| view.authorization).map(AuthorizationReply::from),
    })))
}

async fn credits(State(ledger): State<Ledger>, caller: Caller) -> Result<Response, ApiError> {
    let view = match caller.account {
        Some(account) => Some(ledger.credits(account).await?),
        None => None, // no deposit yet: everything is zero
    };
    Ok(private(Json(CreditsReply::from(view))))
}

/// Money as integers in credits, and beside each the same as decimal PRLX.
#[derive(Serialize)]
struct CreditsReply {
    object: &'static str,
    available_credits: Credits,
    available: String,
    held_credits: Credits,
    held: String,
    unsettled_credits: Credits,
    unsettled: String,
    spendable_credits: Credits,
    spendable: String,
    pending_credits: Credits,
    pending: String,
    deposited_credits: Credits,
    deposited: String,
    settled_credits: Credits,
    settled: String,
    authorization: Option<AuthorizationReply>,
}

impl From<Option<CreditsView>> for CreditsReply {
    fn from(view: Option<CreditsView>) -> Self {
        let amount = |of: fn(&CreditsView) -> Credits| view.as_ref().map_or(Credits::ZERO, of);
        let (available, held, unsettled) = (amount(|view| view.available), amount(|view| view.held), amount(|view| view.unsettled));
        let (spendable, pending) = (amount(|view| view.spendable), amount(|view| view.pending_deposits));
        let (deposited, settled) = (amount(|view| view.deposited), amount(|view| view.settled));
        Self {
            object: "credits",
            available_credits: available,
            available: available.to_string(),
            held_credits: held,
            held: held.to_string(),
            unsettled_credits: unsettled,
            unsettled: unsettled.to_string(),
            spendable_credits: spendable,
            spendable: spendable.to_string(),
            pending_credits: pending,
            pending: pending.to_string(),
            deposited_credits: deposited,
            deposited: deposited.to_string(),
            settled_credits: settled,
            settled: settled.to_string(),
            authorization: view.and_then(|view| view.authorization).map(AuthorizationReply::from),
        }
    }
}

/// The spending authorization; times in Unix seconds.
#[derive(Serialize)]
struct AuthorizationReply {
    live: bool,
    room_credits: Credits,
    room: String,
    exposure_credits: Credits,
    exposure: String,
    authorized_cum_credits: Credits,
    valid_until: u64,
    settle_deadline: u64,
    next_nonce: u32,
}

impl From<AuthorizationView> for AuthorizationReply {
    fn from(view: AuthorizationView) -> Self {
        Self {
            live: view.live,
            room_credits: view.room,
            room: view.room.to_string(),
            exposure_credits: view.exposure,
            exposure: view.exposure.to_string(),
            authorized_cum_credits: view.authorized_cum,
            valid_until: view.valid_until,
            settle_deadline: view.settle_deadline,
            next_nonce: view.next_nonce,
        }
    }
}
