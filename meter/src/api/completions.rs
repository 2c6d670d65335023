//! `POST /v1/completions`: a prompt without a chat template.

use axum::extract::{Request, State};
use axum::response::Response;

use super::answer::{self, Asked, Shape};
use super::error::ApiError;
use super::types::{CompletionRequest, PromptInput};
use super::{ApiState, auth, body};

pub(super) async fn create(State(state): State<ApiState>, request: Request) -> Result<Response, ApiError> {
    let customer = auth::customer(&state, request.headers()).await?;
    let (headers, fields) = body::object(request, &state.serving.rooms().limits).await?;
    let completion = CompletionRequest::read(&fields, rand::random())?;
    let model = customer.models.get(&state, &completion.model)?;

    let prompt = match completion.prompt {
        PromptInput::Text(text) => {
            let prompter = model.prompter.clone();
            answer::rendered(&state, text.len(), move || prompter.encode(&text)).await?
        }
        PromptInput::Tokens(tokens) => {
            let vocabulary = model.prompter.vocab_size();
            if let Some(token) = tokens.iter().find(|token| **token as usize >= vocabulary) {
                let message = format!("token id {token} is not in the model's vocabulary of {vocabulary}");
                return Err(ApiError::invalid("prompt", "invalid_token", message));
            }
            tokens
        }
    };

    let asked = Asked { payer: customer.payer, model, prompt, options: completion.options, shape: Shape::Text };
    answer::respond(&state, asked, headers).await
}
