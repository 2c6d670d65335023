//! The HTTP interface (`docs/protocol.md`, section 7): one file for each resource, each thin.
//!
//! Invariants of absence: status codes stand in [`error`] alone; no handler moves money or talks to a node by itself.

mod account;
mod answer; // a whole completion in OpenAI's shape, and what the stream shares with it
pub mod auth; // headers → payer or keeper
mod body; // bounded in bytes and time
mod chain; // reads for the page
mod chat_completions;
mod chunks; // the objects of a stream
mod clearance;
mod completions;
mod credits;
mod dates;
mod demo; // the answer that the operator publishes
mod deployment;
pub mod error; // every refusal, with its status
mod fields; // JSON fields, one by one
mod format; // `response_format`
mod jobs; // answers that belong to the meter
mod keys;
pub mod listener; // accept loop
mod logprobs;
mod models;
mod node_link;
mod openapi; // the document of these routes
mod options; // of a request, beside model and prompt
mod passkeys; // sign-up and sign-in without a wallet
pub mod pool;
mod receipts;
mod same_origin; // what a cookie may change
mod session; // challenge, sign-in, sign-out
mod settlement;
mod sse; // a streamed completion
mod types; // OpenAI's requests, read field by field
mod usage;
mod web; // the page

use std::collections::BTreeSet;
use std::sync::Arc;

use alloy::signers::local::PrivateKeySigner;
use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use daemon::admin::{Readiness, health_routes};
use http::{HeaderName, HeaderValue};
use tokio::sync::Semaphore;
use wire::Address;

use crate::chain::{ChainProxy, Depth};
use crate::identity::Identity;
use crate::ledger::Ledger;
use crate::serving::Serving;
use crate::serving::demo::Demo;
use crate::uptime;
use error::ApiError;
use pool::PoolFeed;

/// Names a request in answers and logs; of a completion it is the receipt's id.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What the handlers share. Clones share everything.
#[derive(Clone)]
pub struct ApiState {
    /// The rooms.
    pub serving: Serving,
    /// Who calls.
    pub identity: Identity,
    /// Where money is counted.
    pub ledger: Ledger,
    /// Signs batches.
    pub settler: PrivateKeySigner,
    /// Who may ask for that.
    pub keepers: Arc<BTreeSet<Address>>,
    /// How the process is.
    pub readiness: Readiness,
    /// Large prompts that are tokenised at once; it is the one thing here that takes a processor for long.
    pub rendering: Arc<Semaphore>,
    /// Who watches the pool.
    pub pool: PoolFeed,
    /// The chain, for the page's reads.
    pub chain: ChainProxy,
    /// How long nodes were online.
    pub uptime: uptime::Board,
    /// How deep a fact must lie to count.
    pub depth: Depth,
    /// The answer that anybody may read.
    pub demo: Demo,
    /// `Strict-Transport-Security`, where people come over https.
    pub strict_transport: Option<HeaderValue>,
}

/// All routes.
pub fn router(state: ApiState) -> Router {
    let health = health_routes(state.readiness.clone());
    let strict_transport = state.strict_transport.clone();
    Router::new()
        .route("/v1/chat/completions", post(chat_completions::create))
        .route("/v1/completions", post(completions::create))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::one))
        .route("/v1/credits", get(credits::show))
        .route("/v1/receipts", get(receipts::list))
        .route("/v1/receipts/{id}", get(receipts::one))
        .route("/v1/receipts/{id}/proof", get(receipts::proof))
        .route("/v1/settlement/feed", get(settlement::feed))
        .route("/v1/settlement/batches", post(settlement::countersign))
        .route("/v1/settlement/batches/{seq}", get(settlement::standing))
        .route("/openapi.json", get(openapi::show))
        .route("/v1/demo", get(demo::show))
        .route("/v1/deployment", get(deployment::show))
        .route("/v1/usage", get(usage::show))
        .route("/v1/chain", post(chain::ask))
        .route(wire::node::LINK_PATH, get(node_link::open))
        .merge(account::routes())
        .merge(jobs::routes())
        .merge(passkeys::routes())
        .merge(pool::routes())
        .merge(keys::routes())
        .merge(session::routes())
        .merge(web::routes())
        .method_not_allowed_fallback(|| async { ApiError::method_not_allowed() })
        .fallback(|| async { ApiError::no_route() })
        .layer(middleware::from_fn_with_state(state.clone(), same_origin::check))
        .with_state(state)
        .merge(health)
        .layer(middleware::from_fn_with_state(strict_transport, observe))
}

/// `Strict-Transport-Security` of that age, for this host alone: others below the domain are not ours. `None` for 0, which is off.
pub fn strict_transport(max_age_s: u64) -> Option<HeaderValue> {
    HeaderValue::from_str(&format!("max-age={max_age_s}")).ok().filter(|_| max_age_s > 0)
}

/// Gives every answer an id and the headers of safety, and counts it under its route, never under its path.
async fn observe(State(strict_transport): State<Option<HeaderValue>>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or_else(|| "other".to_owned(), |path| path.as_str().to_owned());
    let mut response = next.run(request).await;
    if !response.headers().contains_key(&REQUEST_ID) {
        let id = format!("0x{}", hex::encode(rand::random::<[u8; 16]>()));
        if let Ok(value) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(REQUEST_ID, value);
        }
    }
    response.headers_mut().insert(http::header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(value) = strict_transport {
        response.headers_mut().insert(http::header::STRICT_TRANSPORT_SECURITY, value);
    }
    metrics::counter!("meter_http_responses_total", "route" => route, "status" => response.status().as_u16().to_string()).increment(1);
    response
}
