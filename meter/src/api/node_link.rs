//! `GET /v1/node/link`: the upgrade to a node's WebSocket.

use axum::extract::State;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::response::Response;
use wire::B256;
use wire::node::{FRAME_BYTES_MAX, SUBPROTOCOL};

use super::ApiState;
use super::error::ApiError;
use crate::serving::link;

pub(super) async fn open(
    State(state): State<ApiState>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let upgrade = upgrade.map_err(|error| ApiError::bad_request("no_upgrade", format!("this is the node link, a WebSocket: {error}")))?;
    if !state.serving.admits() {
        return Err(crate::serving::request::ServeError::Draining.into());
    }
    let upgrade = upgrade.protocols([SUBPROTOCOL]).max_frame_size(FRAME_BYTES_MAX).max_message_size(FRAME_BYTES_MAX);
    if upgrade.selected_protocol().is_none() {
        return Err(ApiError::bad_request("no_subprotocol", format!("ask for the sub-protocol `{SUBPROTOCOL}`")));
    }
    let place =
        state.serving.link_place().ok_or_else(|| ApiError::busy("too many nodes are linking at once; try again in a few seconds"))?;
    let challenge = B256::from(rand::random::<[u8; 32]>());
    Ok(upgrade.on_upgrade(move |socket| link::serve(state.serving, socket, challenge, place)))
}
