//! `GET /v1/deployment`: chain id and contract addresses, as the deployment file has them.

use axum::Json;
use axum::extract::State;
use wire::deployment::Deployment;

use super::ApiState;

pub(super) async fn show(State(state): State<ApiState>) -> Json<Deployment> {
    Json(state.serving.rooms().deployment.clone())
}
