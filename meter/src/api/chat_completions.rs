//! `POST /v1/chat/completions`.

use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::{Map, Value};

use super::answer::{self, Asked, Shape};
use super::auth::{self, Customer};
use super::error::ApiError;
use super::types::ChatRequest;
use super::{ApiState, body};

pub(super) async fn create(State(state): State<ApiState>, request: Request) -> Result<Response, ApiError> {
    // Before the body, so that nobody without a credential makes us read one.
    let customer = auth::customer(&state, request.headers()).await?;
    let (headers, fields) = body::object(request, &state.serving.rooms().limits).await?;
    let asked = asked(&state, customer, &fields).await?;
    answer::respond(&state, asked, headers).await
}

/// Reads and renders a chat.
pub(super) async fn asked(state: &ApiState, customer: Customer, fields: &Map<String, Value>) -> Result<Asked, ApiError> {
    let chat = ChatRequest::read(fields, state.serving.rooms().limits.messages_max, rand::random())?;
    let model = customer.models.get(state, &chat.model)?;

    let text_bytes = chat.messages.iter().map(|message| message.content.len()).sum();
    let (prompter, messages) = (model.prompter.clone(), chat.messages);
    let render = move || if chat.continues { prompter.render_continued(&messages) } else { prompter.render(&messages) };
    let prompt = answer::rendered(state, text_bytes, render).await?;

    Ok(Asked { payer: customer.payer, model, prompt, options: chat.options, shape: Shape::Chat })
}
