//! `GET /v1/deployment`: chain id and contract addresses, as the deployment file has them, and how deep a fact must lie to count.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use wire::deployment::Deployment;

use super::ApiState;
use crate::chain::Depth;

#[derive(Serialize)]
pub(super) struct Reply {
    #[serde(flatten)]
    deployment: Deployment,
    /// Blocks above a deposit's own before it counts; `null` where the chain's `finalized` tag decides.
    confirmations: Option<u64>,
}

pub(super) async fn show(State(state): State<ApiState>) -> Json<Reply> {
    let confirmations = match state.depth {
        Depth::Confirmations(blocks) => Some(blocks),
        Depth::Finalized => None,
    };
    Json(Reply { deployment: state.serving.rooms().deployment.clone(), confirmations })
}
