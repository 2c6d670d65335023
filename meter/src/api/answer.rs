//! A completion in OpenAI's shape: the order that leads to it, the whole answer, and the parts that a stream shares with it.

use std::sync::Arc;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue};
use prompt::Prompter;
use serde::Serialize;
use serde_json::{Value, json};
use wire::node::SamplingParams;
use wire::{AmountError, B256, ModelRate, message_cost_up};

use super::error::ApiError;
use super::logprobs::Logprobs;
use super::options::Options;
use super::{ApiState, REQUEST_ID, auth, format, sse};
use crate::serving::catalog::Model;
use crate::serving::hold::{AnswerLength, Payer};
use crate::serving::request::{Answer, AnswerEnd, AnswerEvent, Order, Outcome, ServeError, ServedBy};
use crate::serving::stream::{Piece, ScoredToken};

/// Prompts above so many bytes are tokenised off the request threads.
const RENDER_BYTES_INLINE: usize = 16 << 10;

/// Most log-probabilities of one answer, drawn tokens and alternatives together: 1 MiB of memory, 10 MiB of JSON.
const LOGPROBS_MAX: u32 = 1 << 17;

/// Which of OpenAI's two shapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// `chat.completion`.
    Chat,
    /// `text_completion`.
    Text,
}

/// What stands in every object of one answer.
#[derive(Clone)]
pub(super) struct Frame {
    /// Which shape.
    pub(super) shape: Shape,
    /// The receipt's id.
    pub(super) request_id: B256,
    /// Model id.
    pub(super) model: String,
    /// Seconds since the epoch.
    pub(super) created: u64,
    /// Ceiling that was reserved.
    pub(super) max_tokens: u32,
    /// Whether credits set it.
    pub(super) clamped: bool,
    /// Set when log-probabilities are shown.
    pub(super) scorer: Option<Prompter>,
    /// What a verifier needs beside the receipt, when the client asked for it.
    pub(super) echo: Option<Echo>,
}

/// The request as it was dispatched.
#[derive(Clone)]
pub(super) struct Echo {
    /// Token ids of the rendered prompt.
    pub(super) prompt_token_ids: Vec<u32>,
    /// With the seed and the ceiling in force.
    pub(super) params: SamplingParams,
}

/// A whole answer.
#[derive(Serialize)]
struct Whole<'a> {
    id: String,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: [Choice<'a>; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<&'a [u32]>,
    usage: Value,
    parallelix: Value,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    logprobs: Logprobs<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<&'a [u32]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<&'a [u32]>,
    finish_reason: &'static str,
}

/// Renders `text_bytes` of prompt by `render`, off the request threads when it is long; few at once.
pub(super) async fn rendered(
    state: &ApiState,
    text_bytes: usize,
    render: impl FnOnce() -> Result<Vec<u32>, prompt::PromptError> + Send + 'static,
) -> Result<Vec<u32>, ApiError> {
    let outcome = if text_bytes <= RENDER_BYTES_INLINE {
        render()
    } else {
        let permit = state.rendering.acquire().await.map_err(|error| ApiError::unavailable(&error))?;
        let outcome = tokio::task::spawn_blocking(render).await.map_err(|error| ApiError::unavailable(&error))?;
        drop(permit);
        outcome
    };
    outcome.map_err(|error| ApiError::bad_request("invalid_prompt", error.to_string()))
}

/// A request that is read and rendered.
pub(super) struct Asked {
    /// Who pays.
    pub(super) payer: Payer,
    /// What is served.
    pub(super) model: Arc<Model>,
    /// Token ids.
    pub(super) prompt: Vec<u32>,
    /// Beside model and prompt.
    pub(super) options: Options,
    /// Which of the two.
    pub(super) shape: Shape,
}

/// Serves a rendered prompt and answers in its shape, streamed or whole. A stream is cut when the credential in `headers` ends.
pub(super) async fn respond(state: &ApiState, asked: Asked, headers: HeaderMap) -> Result<Response, ApiError> {
    let (stream, include_usage) = (asked.options.stream, asked.options.include_usage);
    let request_id = B256::from(rand::random::<[u8; 32]>());
    let (frame, answer) = begin(state, asked, request_id).await?;
    let mut response = if stream {
        sse::respond(frame, answer, include_usage, auth::lapse(state.clone(), headers)).await?
    } else {
        whole(&frame, answer).await?
    };
    if let Ok(id) = HeaderValue::from_str(&request_id.to_string()) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    Ok(response)
}

/// Checks what needs the model, makes the hold, and has the answer on its way.
pub(super) async fn begin(state: &ApiState, asked: Asked, request_id: B256) -> Result<(Frame, Answer), ApiError> {
    let Asked { payer, model, prompt, options, shape } = asked;
    let length = answer_length(&model, prompt.len(), options.max_tokens, shape)?;
    let length = logprobs_length(length, options.params.logprobs)?;
    let unknown = options.params.check_vocabulary(model.prompter.vocab_size());
    unknown.map_err(|error| ApiError::invalid(error.field(), "invalid_token", error.to_string()))?;
    format::check(state, &model, &options.params.format).await?;
    let scorer = options.params.logprobs.map(|_| model.prompter.clone());
    let created = state.serving.rooms().clock.now_s();
    let mut echo = options.return_token_ids.then(|| Echo { prompt_token_ids: prompt.clone(), params: options.params.clone() });
    let order = Order { request_id, payer, model: Arc::clone(&model), prompt, params: options.params, length };
    let answer = state.serving.serve(order).await.map_err(|error| ApiError::from(error).of_request(request_id.to_string()))?;

    let reservation = answer.reservation;
    echo.iter_mut().for_each(|echo| echo.params.max_tokens = reservation.max_tokens);
    let (max_tokens, clamped) = (reservation.max_tokens, reservation.clamped);
    Ok((Frame { shape, request_id, model: model.id.clone(), created, max_tokens, clamped, scorer, echo }, answer))
}

/// What the client asked for against what the context leaves.
fn answer_length(model: &Model, prompt_tokens: usize, named: Option<u32>, shape: Shape) -> Result<AnswerLength, ApiError> {
    let context = model.context_tokens;
    let prompt_field = if shape == Shape::Chat { "messages" } else { "prompt" };
    let left = u32::try_from(prompt_tokens).ok().and_then(|prompt_tokens| context.checked_sub(prompt_tokens)).filter(|left| *left > 0);
    let Some(left) = left else {
        let message = format!(
            "the prompt has {prompt_tokens} tokens, the context of `{}` is {context} with at least 1 for the answer; shorten it",
            model.id
        );
        return Err(ApiError::invalid(prompt_field, "context_length_exceeded", message));
    };
    match named {
        Some(max_tokens) if max_tokens > context => {
            let message = format!("`max_tokens` is {max_tokens}, the context of `{}` is {context}; ask for at most {left}", model.id);
            Err(ApiError::invalid("max_tokens", "context_length_exceeded", message))
        }
        // Stock clients name a round number and expect what fits.
        Some(max_tokens) => Ok(AnswerLength::Named(max_tokens.min(left))),
        None => Ok(AnswerLength::UpTo(left)),
    }
}

/// The same, so that its log-probabilities stay within [`LOGPROBS_MAX`].
fn logprobs_length(length: AnswerLength, alternatives: Option<u32>) -> Result<AnswerLength, ApiError> {
    let Some(alternatives) = alternatives else { return Ok(length) };
    let most = LOGPROBS_MAX / (alternatives + 1);
    match length {
        AnswerLength::Named(max_tokens) if max_tokens > most => {
            let message = format!(
                "`max_tokens` is {max_tokens}, with {alternatives} alternatives for each token at most {most} are possible; lower either"
            );
            Err(ApiError::invalid("max_tokens", "out_of_range", message))
        }
        AnswerLength::Named(max_tokens) => Ok(AnswerLength::Named(max_tokens)),
        AnswerLength::UpTo(left) => Ok(AnswerLength::UpTo(left.min(most))),
    }
}

async fn whole(frame: &Frame, mut answer: Answer) -> Result<Response, ApiError> {
    let (mut text, mut scored) = (String::new(), Vec::new());
    while let Some(event) = answer.events.recv().await {
        match event {
            AnswerEvent::Started(_) => {}
            AnswerEvent::Text(piece) => {
                text.push_str(&piece.text);
                scored.extend(piece.scored);
            }
            AnswerEvent::Done(outcome) => return Ok(Json(frame.whole(&text, &scored, &outcome)).into_response()),
            AnswerEvent::Failed(error, outcome) => return Err(frame.failure(error, outcome.as_deref(), Some(&text))),
        }
    }
    // Only a panicking task ends so; recovery settles the hold.
    Err(frame.failure(ServeError::Capture, None, Some(&text)))
}

impl Frame {
    /// An object of the stream.
    pub(super) fn chunk(&self, choices: Value) -> Value {
        let object = if self.shape == Shape::Chat { "chat.completion.chunk" } else { "text_completion" };
        json!({ "id": self.id(), "object": object, "created": self.created, "model": self.model, "choices": choices })
    }

    /// The one choice of a chunk with new text.
    pub(super) fn text_choice(&self, piece: &Piece) -> Value {
        let mut choice = self.stream_choice(json!({ "content": piece.text }), &piece.text, Value::Null);
        if !piece.scored.is_empty() {
            // A map with text keys always becomes a value.
            choice[0]["logprobs"] = serde_json::to_value(self.logprobs(&piece.scored)).unwrap_or_default();
        }
        choice
    }

    fn logprobs<'a>(&'a self, tokens: &'a [ScoredToken]) -> Logprobs<'a> {
        Logprobs { shape: self.shape, prompter: self.scorer.as_ref(), tokens }
    }

    /// The first choice of a chat, which names the role. `None` in the other shape.
    pub(super) fn role_choice(&self) -> Option<Value> {
        (self.shape == Shape::Chat).then(|| self.stream_choice(json!({ "role": "assistant", "content": "" }), "", Value::Null))
    }

    /// The last choice, which says why it ended.
    pub(super) fn end_choice(&self, finish_reason: &str) -> Value {
        self.stream_choice(json!({}), "", finish_reason.into())
    }

    fn stream_choice(&self, delta: Value, text: &str, finish_reason: Value) -> Value {
        match self.shape {
            Shape::Chat => json!([{ "index": 0, "delta": delta, "logprobs": null, "finish_reason": finish_reason }]),
            Shape::Text => json!([{ "index": 0, "text": text, "logprobs": null, "finish_reason": finish_reason }]),
        }
    }

    fn whole<'a>(&'a self, text: &'a str, scored: &'a [ScoredToken], outcome: &'a Outcome) -> Whole<'a> {
        let is_chat = self.shape == Shape::Chat;
        let prompt_token_ids = self.echo.as_ref().map(|echo| echo.prompt_token_ids.as_slice());
        let choice = Choice {
            index: 0,
            message: is_chat.then(|| json!({ "role": "assistant", "content": text, "refusal": null })),
            text: (!is_chat).then_some(text),
            logprobs: self.logprobs(scored),
            token_ids: self.echo.as_ref().map(|_| outcome.token_ids.as_slice()),
            prompt_token_ids: prompt_token_ids.filter(|_| !is_chat),
            finish_reason: finish_reason(outcome.end),
        };
        Whole {
            id: self.id(),
            object: if is_chat { "chat.completion" } else { "text_completion" },
            created: self.created,
            model: &self.model,
            choices: [choice],
            prompt_token_ids: prompt_token_ids.filter(|_| is_chat),
            usage: usage(outcome),
            parallelix: self.parallelix(outcome),
        }
    }

    fn id(&self) -> String {
        let prefix = if self.shape == Shape::Chat { "chatcmpl" } else { "cmpl" };
        format!("{prefix}-{:x}", self.request_id)
    }

    /// Token ids for a stream, where vLLM has them, when the client asked for them: on the one choice, and the prompt's beside the choices
    /// (of a chat) or on the choice (of a text completion).
    pub(super) fn add_token_ids(&self, body: &mut Value, outcome: &Outcome) {
        let Some(echo) = &self.echo else { return };
        body["choices"][0]["token_ids"] = json!(outcome.token_ids);
        let holder = if self.shape == Shape::Chat { body } else { &mut body["choices"][0] };
        holder["prompt_token_ids"] = json!(echo.prompt_token_ids);
    }

    /// Which receipt, which node, under which ceiling; with the parameters when the client asked for token ids.
    pub(super) fn parallelix(&self, outcome: &Outcome) -> Value {
        let ServedBy { node, operator, fallback } = outcome.by;
        let mut about = json!({
            "receipt_id": self.request_id, "receipt_state": outcome.state,
            "node": node, "operator": operator, "fallback": fallback,
            "max_tokens": self.max_tokens, "clamped": self.clamped,
        });
        if let Some(echo) = &self.echo {
            about["params"] = json!(echo.params);
        }
        about
    }

    /// A refusal, or a failure with what was charged for what arrived.
    pub(super) fn failure(&self, error: ServeError, outcome: Option<&Outcome>, partial_text: Option<&str>) -> ApiError {
        let mut refusal = ApiError::from(error).of_request(self.request_id.to_string());
        if let Some(outcome) = outcome {
            let mut metadata = json!({ "usage": usage(outcome), "parallelix": self.parallelix(outcome) });
            if let Some(text) = partial_text {
                metadata["partial_text"] = text.into();
            }
            if let Some(echo) = &self.echo {
                metadata["token_ids"] = json!(outcome.token_ids);
                metadata["prompt_token_ids"] = json!(echo.prompt_token_ids);
            }
            refusal = refusal.with_metadata(metadata).after_billing();
        }
        refusal
    }
}

/// Counts and charge.
pub(super) fn usage(outcome: &Outcome) -> Value {
    json!({
        "prompt_tokens": outcome.prompt_tokens,
        "completion_tokens": outcome.completion_tokens,
        "total_tokens": u64::from(outcome.prompt_tokens) + u64::from(outcome.completion_tokens),
        "cost_credits": outcome.cost,
        "cost": outcome.cost.to_string(),
    })
}

/// As OpenAI's clients know it.
pub(super) fn finish_reason(end: AnswerEnd) -> &'static str {
    if end == AnswerEnd::Length { "length" } else { "stop" }
}

/// The price of one million tokens as decimal PRLX, rounded up to one credit, which such a price never needs.
pub(super) fn rate_prlx(rate: ModelRate) -> Result<String, AmountError> {
    Ok(message_cost_up(rate, 1_000_000)?.to_string())
}
