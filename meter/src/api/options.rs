//! Everything of a request but its model and prompt. Unknown fields are ignored, as stock clients expect; known ones that would
//! change the answer and that we do not have are refused rather than ignored.

use serde_json::Value;
use wire::node::{SamplingParams, TOP_LOGPROBS_MAX};

use super::answer::Shape;
use super::error::ApiError;
use super::fields::{Fields, wrong_type};
use super::format;

/// What both requests have.
pub(super) struct Options {
    /// Checked; `max_tokens` stands for whatever the hold makes of [`Options::max_tokens`].
    pub(super) params: SamplingParams,
    /// As the client named it.
    pub(super) max_tokens: Option<u32>,
    /// Server-sent events.
    pub(super) stream: bool,
    /// A last chunk with usage and no choices.
    pub(super) include_usage: bool,
    /// Token ids and parameters in the answer, so that its receipt can be verified.
    pub(super) return_token_ids: bool,
}

impl Options {
    /// Reads and checks what `shape` has. `seed` is used when the client gave none.
    pub(super) fn read(fields: &Fields<'_>, seed: u64, shape: Shape) -> Result<Self, ApiError> {
        refuse_unsupported(fields, shape)?;
        let max_tokens = match fields.u32("max_completion_tokens")? {
            Some(max_tokens) => Some(("max_completion_tokens", max_tokens)),
            None => fields.u32("max_tokens")?.map(|max_tokens| ("max_tokens", max_tokens)),
        };
        if let Some((field, 0)) = max_tokens {
            return Err(ApiError::invalid(field, "out_of_range", format!("`{field}` is 0, it must be 1 or more")));
        }
        let max_tokens = max_tokens.map(|(_, max_tokens)| max_tokens);
        let off = SamplingParams::greedy(max_tokens.unwrap_or(1));
        let params = SamplingParams {
            temperature: fields.f32("temperature")?.unwrap_or(1.0),
            top_p: fields.f32("top_p")?.unwrap_or(off.top_p),
            top_k: fields.top_k()?,
            min_p: fields.f32("min_p")?.unwrap_or(off.min_p),
            presence_penalty: fields.f32("presence_penalty")?.unwrap_or(off.presence_penalty),
            frequency_penalty: fields.f32("frequency_penalty")?.unwrap_or(off.frequency_penalty),
            repetition_penalty: fields.f32("repetition_penalty")?.unwrap_or(off.repetition_penalty),
            seed: fields.seed()?.unwrap_or(seed),
            stop: fields.strings("stop")?,
            stop_token_ids: fields.tokens("stop_token_ids")?,
            logit_bias: read_logit_bias(fields)?,
            logprobs: read_logprobs(fields, shape)?,
            format: format::read(fields)?,
            ..off
        };
        params.check().map_err(|error| ApiError::invalid(error.field(), "out_of_range", error.to_string()))?;
        let include_usage = match fields.get("stream_options") {
            Some(Value::Object(options)) => Fields(options).bool("include_usage")?.unwrap_or(false),
            Some(other) => return Err(wrong_type("stream_options", "an object", other)),
            None => false,
        };
        let stream = fields.bool("stream")?.unwrap_or(false);
        let return_token_ids = fields.bool("return_token_ids")?.unwrap_or(false);
        Ok(Self { params, max_tokens, stream, include_usage, return_token_ids })
    }
}

/// Whether a value of an unsupported field changes nothing.
type IsHarmless = fn(&Value) -> bool;

const UNSUPPORTED: [(&str, &str, IsHarmless); 9] = [
    ("n", "only one answer is given", |value| value == 1),
    ("best_of", "only one answer is given", |value| value == 1),
    ("tools", "tool calls are not offered", is_empty),
    ("functions", "tool calls are not offered", is_empty),
    ("tool_choice", "tool calls are not offered", |value| value == "none" || value == "auto"),
    ("function_call", "tool calls are not offered", |value| value == "none" || value == "auto"),
    ("modalities", "only text is offered", |value| *value == serde_json::json!(["text"])),
    ("echo", "the prompt is not repeated", |value| value == false),
    ("suffix", "insertion is not offered", |value| value == ""),
];

/// What OpenAI has in the chat alone.
const CHAT_ONLY: [(&str, &str, IsHarmless); 2] = [
    ("response_format", "it is a field of chat completions", |value| value["type"] == "text"),
    ("top_logprobs", "it is a field of chat completions; `logprobs` is the number here", |value| value == 0),
];

fn is_empty(value: &Value) -> bool {
    matches!(value, Value::Array(items) if items.is_empty()) || matches!(value, Value::Object(map) if map.is_empty())
}

/// A field that is absent, null, or of a value that changes nothing, is no wish.
fn refuse_unsupported(fields: &Fields<'_>, shape: Shape) -> Result<(), ApiError> {
    let chat_only: &[_] = if shape == Shape::Chat { &[] } else { &CHAT_ONLY };
    for (field, reason, is_harmless) in UNSUPPORTED.iter().chain(chat_only) {
        if let Some(value) = fields.get(field)
            && !is_harmless(value)
        {
            return Err(ApiError::invalid(*field, "unsupported_parameter", format!("`{field}` is not supported: {reason}; leave it out")));
        }
    }
    Ok(())
}

/// Token ids as keys, as JSON has them; sorted, as the receipt commits to them.
fn read_logit_bias(fields: &Fields<'_>) -> Result<Vec<(u32, f32)>, ApiError> {
    let biases = match fields.get("logit_bias") {
        None => return Ok(Vec::new()),
        Some(Value::Object(biases)) => biases,
        Some(other) => return Err(wrong_type("logit_bias", "an object of token ids and numbers", other)),
    };
    let mut read = Vec::with_capacity(biases.len());
    for (token, bias) in biases {
        let Ok(id) = token.parse() else {
            let shown: String = token.chars().take(32).collect();
            let message = format!("`logit_bias` has the key `{shown}`; keys must be token ids, such as \"15496\"");
            return Err(ApiError::invalid("logit_bias", "invalid_type", message));
        };
        let Some(bias) = bias.as_f64() else { return Err(wrong_type(&format!("logit_bias.{id}"), "a number", bias)) };
        read.push((id, bias as f32));
    }
    read.sort_unstable_by_key(|(id, _)| *id);
    Ok(read)
}

/// How many alternatives beside each token: a flag and a number in the chat, one number in text completions.
fn read_logprobs(fields: &Fields<'_>, shape: Shape) -> Result<Option<u32>, ApiError> {
    if shape == Shape::Text {
        if fields.get("logprobs").is_some_and(|value| *value == false) {
            return Ok(None);
        }
        return match fields.u32("logprobs")? {
            Some(count) if count > TOP_LOGPROBS_MAX => {
                let message = format!("`logprobs` is {count}, at most {TOP_LOGPROBS_MAX} are possible");
                Err(ApiError::invalid("logprobs", "out_of_range", message))
            }
            count => Ok(count),
        };
    }
    let top = fields.u32("top_logprobs")?;
    match (fields.bool("logprobs")?, top) {
        (Some(true), top) => Ok(Some(top.unwrap_or(0))),
        (_, None | Some(0)) => Ok(None),
        (_, Some(top)) => {
            let message = format!("`top_logprobs` is {top} and `logprobs` is not true; set it, or leave both out");
            Err(ApiError::invalid("top_logprobs", "invalid_value", message))
        }
    }
}
