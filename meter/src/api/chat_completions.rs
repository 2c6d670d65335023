//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;

use super::answer::{self, Shape};
use super::error::ApiError;
use super::types::ChatRequest;
use super::{ApiState, auth, body};

pub(super) async fn create(State(state): State<ApiState>, request: Request) -> Result<Response, ApiError> {
    let limits = &state.serving.rooms().limits;
    // Before the body, so that nobody without a credential makes us read one.
    let payer = auth::payer(&state, request.headers()).await?;
    let (_, fields) = body::object(request, limits).await?;
    let chat = ChatRequest::read(&fields, limits.messages_max, rand::random())?;
    let model = state.serving.rooms().catalog.get(&chat.model).map(Arc::clone).ok_or_else(|| ApiError::model_not_found(&chat.model))?;

    let text_bytes = chat.messages.iter().map(|message| message.content.len()).sum();
    let (prompter, messages) = (model.prompter.clone(), chat.messages);
    let prompt = answer::rendered(&state, text_bytes, move || prompter.render(&messages)).await?;

    answer::respond(&state, payer, model, prompt, chat.options, Shape::Chat).await
}
