//! `response_format`: read as OpenAI has it, and compiled before a request is accepted.

use std::sync::Arc;

use prompt::GrammarError;
use serde_json::Value;
use wire::node::AnswerFormat;

use super::ApiState;
use super::error::ApiError;
use super::fields::{Fields, wrong_type};
use crate::serving::catalog::Model;

/// Longest name of a schema, as OpenAI has it.
const NAME_MAX: usize = 64;

/// Reads `response_format`; absent is text.
pub(super) fn read(fields: &Fields<'_>) -> Result<AnswerFormat, ApiError> {
    let format = match fields.get("response_format") {
        None => return Ok(AnswerFormat::Text),
        Some(Value::Object(format)) => Fields(format),
        Some(other) => return Err(wrong_type("response_format", "an object with a type", other)),
    };
    match format.get("type") {
        Some(Value::String(kind)) if kind == "text" => Ok(AnswerFormat::Text),
        Some(Value::String(kind)) if kind == "json_object" => Ok(AnswerFormat::JsonObject),
        Some(Value::String(kind)) if kind == "json_schema" => read_schema(&format),
        Some(Value::String(kind)) => {
            let kind: String = kind.chars().take(32).collect();
            let message = format!("`response_format.type` is `{kind}`, it must be text, json_object or json_schema");
            Err(ApiError::invalid("response_format.type", "invalid_value", message))
        }
        Some(other) => Err(wrong_type("response_format.type", "a string", other)),
        None => Err(missing("response_format.type", "send text, json_object or json_schema")),
    }
}

/// `strict` makes no difference: every answer is held to its schema, and what can't be held is refused.
fn read_schema(format: &Fields<'_>) -> Result<AnswerFormat, ApiError> {
    const NAME: &str = "response_format.json_schema.name";
    const SCHEMA: &str = "response_format.json_schema.schema";
    let wanted = match format.get("json_schema") {
        Some(Value::Object(wanted)) => Fields(wanted),
        Some(other) => return Err(wrong_type("response_format.json_schema", "an object with name and schema", other)),
        None => return Err(missing("response_format.json_schema", "send an object with name and schema")),
    };
    match wanted.get("name") {
        Some(Value::String(name)) if is_name(name) => {}
        Some(Value::String(_)) => {
            let message = format!("`{NAME}` must be 1 to {NAME_MAX} letters, digits, underscores or dashes");
            return Err(ApiError::invalid(NAME, "invalid_value", message));
        }
        Some(other) => return Err(wrong_type(NAME, "a string", other)),
        None => return Err(missing(NAME, "send a string")),
    }
    wanted.bool("strict")?;
    match wanted.get("schema") {
        Some(schema @ Value::Object(_)) => Ok(AnswerFormat::JsonSchema { schema: schema.to_string() }),
        Some(other) => Err(wrong_type(SCHEMA, "a JSON schema, an object", other)),
        None => Err(missing(SCHEMA, "send a JSON schema")),
    }
}

fn is_name(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

fn missing(field: &'static str, advice: &str) -> ApiError {
    ApiError::invalid(field, "missing_field", format!("`{field}` is missing; {advice}"))
}

/// Compiles the format as a node will, off the request threads and few at once; what a node would refuse is refused here.
pub(super) async fn check(state: &ApiState, model: &Arc<Model>, format: &AnswerFormat) -> Result<(), ApiError> {
    if *format == AnswerFormat::Text {
        return Ok(());
    }
    let permit = state.rendering.acquire().await.map_err(|error| ApiError::unavailable(&error))?;
    let (model, format) = (Arc::clone(model), format.clone());
    let compiled = tokio::task::spawn_blocking(move || model.prompter.grammar(&format).map(drop)).await;
    drop(permit);
    compiled.map_err(|error| ApiError::unavailable(&error))?.map_err(|error| {
        let code = if matches!(error, GrammarError::Tokenizer(_)) { "unsupported_parameter" } else { "invalid_schema" };
        ApiError::invalid("response_format", code, error.to_string())
    })
}
