//! OpenAI's requests, read field by field, so that every mistake is named.

use prompt::Message;
use serde_json::{Map, Value};

use super::answer::Shape;
use super::error::ApiError;
use super::fields::{Fields, wrong_type};
use super::options::Options;

/// Deepest `messages[i].content` that is read: an array of parts.
const PARTS_MAX: usize = 1_024;

/// `POST /v1/chat/completions`.
pub(super) struct ChatRequest {
    /// Which model.
    pub(super) model: String,
    /// At least one.
    pub(super) messages: Vec<Message>,
    /// Whether the last message is an answer that goes on.
    pub(super) continues: bool,
    /// Everything else.
    pub(super) options: Options,
}

/// `POST /v1/completions`.
pub(super) struct CompletionRequest {
    /// Which model.
    pub(super) model: String,
    /// What to continue.
    pub(super) prompt: PromptInput,
    /// Everything else.
    pub(super) options: Options,
}

/// A prompt without a chat template.
pub(super) enum PromptInput {
    /// To be tokenised.
    Text(String),
    /// As it is.
    Tokens(Vec<u32>),
}

impl ChatRequest {
    /// Reads and checks. `seed` is used when the client gave none.
    pub(super) fn read(fields: &Map<String, Value>, messages_max: usize, seed: u64) -> Result<Self, ApiError> {
        let fields = Fields(fields);
        let messages = match fields.get("messages") {
            Some(Value::Array(messages)) => messages,
            Some(other) => return Err(wrong_type("messages", "an array of messages", other)),
            None => return Err(ApiError::invalid("messages", "missing_field", "`messages` is missing; send at least one message")),
        };
        if messages.is_empty() {
            return Err(ApiError::invalid("messages", "empty_messages", "`messages` is empty; send at least one message"));
        }
        if messages.len() > messages_max {
            let message = format!("`messages` has {} entries, at most {messages_max} are possible", messages.len());
            return Err(ApiError::invalid("messages", "too_many_messages", message));
        }
        let messages = messages.iter().enumerate().map(|(index, message)| read_message(index, message)).collect::<Result<_, _>>()?;
        Ok(Self { model: fields.model()?, messages, continues: continues(&fields)?, options: Options::read(&fields, seed, Shape::Chat)? })
    }
}

/// vLLM's pair of fields: a continued answer begins no new turn, so that only one of them can be true.
fn continues(fields: &Fields<'_>) -> Result<bool, ApiError> {
    let continues = fields.bool("continue_final_message")?.unwrap_or(false);
    match fields.bool("add_generation_prompt")? {
        Some(true) if continues => {
            let message = "`add_generation_prompt` and `continue_final_message` can't both be true; leave one of them out";
            Err(ApiError::invalid("add_generation_prompt", "invalid_value", message))
        }
        Some(false) if !continues => {
            let message = "`add_generation_prompt` can be false only beside `continue_final_message`: true; leave it out";
            Err(ApiError::invalid("add_generation_prompt", "unsupported_parameter", message))
        }
        _ => Ok(continues),
    }
}

impl CompletionRequest {
    /// As [`ChatRequest::read`].
    pub(super) fn read(fields: &Map<String, Value>, seed: u64) -> Result<Self, ApiError> {
        let fields = Fields(fields);
        let prompt = match fields.get("prompt") {
            Some(Value::String(text)) => PromptInput::Text(text.clone()),
            Some(Value::Array(items)) => read_prompt_array(items)?,
            Some(other) => return Err(wrong_type("prompt", "a string or an array of token ids", other)),
            None => return Err(ApiError::invalid("prompt", "missing_field", "`prompt` is missing; send a string")),
        };
        if matches!(&prompt, PromptInput::Text(text) if text.is_empty())
            || matches!(&prompt, PromptInput::Tokens(tokens) if tokens.is_empty())
        {
            return Err(ApiError::invalid("prompt", "empty_prompt", "`prompt` is empty; send at least one token"));
        }
        Ok(Self { model: fields.model()?, prompt, options: Options::read(&fields, seed, Shape::Text)? })
    }
}

fn read_message(index: usize, message: &Value) -> Result<Message, ApiError> {
    let at = |field: &str| format!("messages[{index}]{field}");
    let Value::Object(message) = message else {
        return Err(wrong_type(&at(""), "an object with role and content", message));
    };
    let role = match message.get("role") {
        Some(Value::String(role)) => role.as_str(),
        Some(other) => return Err(wrong_type(&at(".role"), "a string", other)),
        None => return Err(ApiError::invalid(at(".role"), "missing_field", format!("`{}` is missing", at(".role")))),
    };
    let role = match role {
        // OpenAI's newer name of the same.
        "system" | "developer" => "system",
        "user" | "assistant" | "tool" => role,
        _ => {
            let message = format!("`{}` must be system, developer, user, assistant or tool", at(".role"));
            return Err(ApiError::invalid(at(".role"), "invalid_role", message));
        }
    };
    let content = match message.get("content") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => read_parts(&at(".content"), parts)?,
        None | Some(Value::Null) if role == "assistant" => String::new(),
        None | Some(Value::Null) => {
            return Err(ApiError::invalid(at(".content"), "missing_field", format!("`{}` is missing; send a string", at(".content"))));
        }
        Some(other) => return Err(wrong_type(&at(".content"), "a string or an array of text parts", other)),
    };
    Ok(Message::new(role, content))
}

fn read_parts(at: &str, parts: &[Value]) -> Result<String, ApiError> {
    if parts.len() > PARTS_MAX {
        return Err(ApiError::invalid(at, "too_many_parts", format!("`{at}` has {} parts, at most {PARTS_MAX} are possible", parts.len())));
    }
    let mut text = String::new();
    for (index, part) in parts.iter().enumerate() {
        match (&part["type"], &part["text"]) {
            (Value::String(kind), Value::String(piece)) if kind == "text" => text.push_str(piece),
            (Value::String(kind), _) if kind != "text" => {
                let kind: String = kind.chars().take(32).collect();
                let message = format!("`{at}[{index}]` is of type `{kind}`; only text is served");
                return Err(ApiError::invalid(format!("{at}[{index}]"), "unsupported_content", message));
            }
            _ => return Err(wrong_type(&format!("{at}[{index}]"), "a part {\"type\": \"text\", \"text\": …}", part)),
        }
    }
    Ok(text)
}

fn read_prompt_array(items: &[Value]) -> Result<PromptInput, ApiError> {
    if let [Value::String(text)] = items {
        return Ok(PromptInput::Text(text.clone()));
    }
    let tokens: Option<Vec<u32>> = items.iter().map(|item| item.as_u64().and_then(|id| u32::try_from(id).ok())).collect();
    let several = "`prompt` must be one string or one array of token ids; send several prompts as several requests";
    tokens.map(PromptInput::Tokens).ok_or_else(|| ApiError::invalid("prompt", "unsupported_parameter", several))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use wire::node::{AnswerFormat, SamplingParams};

    use super::*;

    fn read(body: Value) -> Result<ChatRequest, ApiError> {
        let Value::Object(fields) = body else { panic!("an object is needed") };
        ChatRequest::read(&fields, 4, 7)
    }

    fn chat(extra: Value) -> Value {
        let mut body = json!({ "model": "m", "messages": [{ "role": "user", "content": "hi" }] });
        for (field, value) in extra.as_object().unwrap() {
            body[field] = value.clone();
        }
        body
    }

    #[test]
    fn what_stock_clients_send_is_read() {
        let request = read(json!({
            "model": "m", "n": 1, "stream": true, "stream_options": { "include_usage": true }, "user": "u", "store": null, "tools": [],
            "messages": [
                { "role": "developer", "content": [{ "type": "text", "text": "be " }, { "type": "text", "text": "brief" }] },
                { "role": "user", "content": "hi", "name": "x" }, { "role": "assistant", "content": null },
            ],
            "max_tokens": 5, "max_completion_tokens": 9, "temperature": 0, "top_k": -1, "seed": -1, "stop": "\n", "response_format": { "type": "text" },
        }))
        .unwrap();
        assert_eq!(request.messages, [Message::new("system", "be brief"), Message::new("user", "hi"), Message::new("assistant", "")]);
        assert!(request.options.stream && request.options.include_usage);
        assert_eq!(request.options.max_tokens, Some(9));
        let expected = SamplingParams { seed: u64::MAX, stop: vec!["\n".into()], ..SamplingParams::greedy(9) };
        assert_eq!(request.options.params, expected);
    }

    #[test]
    fn each_mistake_names_its_field() {
        let cases = [
            (json!({ "messages": [] }), "messages", "empty_messages"),
            (json!({ "messages": "hi" }), "messages", "invalid_type"),
            (json!({ "messages": [{ "role": "king", "content": "" }] }), "messages[0].role", "invalid_role"),
            (json!({ "messages": [{ "role": "user" }] }), "messages[0].content", "missing_field"),
            (
                json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url" }] }] }),
                "messages[0].content[0]",
                "unsupported_content",
            ),
            (json!({ "messages": [1] }), "messages[0]", "invalid_type"),
            (json!({ "messages": [1, 2, 3, 4, 5] }), "messages", "too_many_messages"),
            (json!({ "model": null }), "model", "missing_field"),
            (json!({ "temperature": -0.1 }), "temperature", "out_of_range"),
            (json!({ "temperature": 1e300 }), "temperature", "out_of_range"),
            (json!({ "temperature": "hot" }), "temperature", "invalid_type"),
            (json!({ "top_p": 0 }), "top_p", "out_of_range"),
            (json!({ "repetition_penalty": 0 }), "repetition_penalty", "out_of_range"),
            (json!({ "max_tokens": 0 }), "max_tokens", "out_of_range"),
            (json!({ "max_tokens": -1 }), "max_tokens", "invalid_type"),
            (json!({ "max_tokens": 1.5 }), "max_tokens", "invalid_type"),
            (json!({ "top_k": -2 }), "top_k", "invalid_type"),
            (json!({ "n": 2 }), "n", "unsupported_parameter"),
            (json!({ "tools": [{}] }), "tools", "unsupported_parameter"),
            (json!({ "response_format": "json" }), "response_format", "invalid_type"),
            (json!({ "response_format": {} }), "response_format.type", "missing_field"),
            (json!({ "response_format": { "type": "xml" } }), "response_format.type", "invalid_value"),
            (json!({ "response_format": { "type": "json_schema" } }), "response_format.json_schema", "missing_field"),
            (
                json!({ "response_format": { "type": "json_schema", "json_schema": { "schema": {} } } }),
                "response_format.json_schema.name",
                "missing_field",
            ),
            (
                json!({ "response_format": { "type": "json_schema", "json_schema": { "name": "a b", "schema": {} } } }),
                "response_format.json_schema.name",
                "invalid_value",
            ),
            (
                json!({ "response_format": { "type": "json_schema", "json_schema": { "name": "a" } } }),
                "response_format.json_schema.schema",
                "missing_field",
            ),
            (
                json!({ "response_format": { "type": "json_schema", "json_schema": { "name": "a", "schema": "{}" } } }),
                "response_format.json_schema.schema",
                "invalid_type",
            ),
            (
                json!({ "response_format": { "type": "json_schema", "json_schema": { "name": "a", "schema": { "title": "x".repeat(40_000) } } } }),
                "response_format",
                "out_of_range",
            ),
            (json!({ "logprobs": 3 }), "logprobs", "invalid_type"),
            (json!({ "top_logprobs": 3 }), "top_logprobs", "invalid_value"),
            (json!({ "logprobs": false, "top_logprobs": 3 }), "top_logprobs", "invalid_value"),
            (json!({ "logprobs": true, "top_logprobs": 21 }), "top_logprobs", "out_of_range"),
            (json!({ "logprobs": true, "top_logprobs": -1 }), "top_logprobs", "invalid_type"),
            (json!({ "logit_bias": [1] }), "logit_bias", "invalid_type"),
            (json!({ "logit_bias": { "the": 1 } }), "logit_bias", "invalid_type"),
            (json!({ "logit_bias": { "-1": 1 } }), "logit_bias", "invalid_type"),
            (json!({ "logit_bias": { "5": "1" } }), "logit_bias.5", "invalid_type"),
            (json!({ "logit_bias": { "5": 101 } }), "logit_bias", "out_of_range"),
            (json!({ "logit_bias": { "5": 1, "05": 2 } }), "logit_bias", "out_of_range"),
            (json!({ "logit_bias": (0..2_000).map(|id| (id.to_string(), json!(1))).collect::<Map<_, _>>() }), "logit_bias", "out_of_range"),
            (json!({ "stop": vec!["x"; 10_000] }), "stop", "out_of_range"),
            (json!({ "stop": [""] }), "stop", "out_of_range"),
            (json!({ "stop": [1] }), "stop", "invalid_type"),
            (json!({ "continue_final_message": 1 }), "continue_final_message", "invalid_type"),
            (json!({ "continue_final_message": true, "add_generation_prompt": true }), "add_generation_prompt", "invalid_value"),
            (json!({ "add_generation_prompt": false }), "add_generation_prompt", "unsupported_parameter"),
            (json!({ "stream": "yes" }), "stream", "invalid_type"),
            (json!({ "stream_options": 1 }), "stream_options", "invalid_type"),
        ];
        for (extra, param, code) in cases {
            let error = read(chat(extra.clone())).err().unwrap_or_else(|| panic!("{extra} was read")).object();
            assert_eq!((&error["param"], &error["code"]), (&json!(param), &json!(code)), "{extra}: {error}");
        }
    }

    #[test]
    fn what_shapes_the_answer_is_read_in_both_forms() {
        let schema = json!({ "type": "object", "properties": { "z": { "type": "string" }, "a": { "type": "string" } } });
        let request = read(chat(json!({
            "logprobs": true, "top_logprobs": 5, "logit_bias": { "11": -100, "5": 0.5 },
            "response_format": { "type": "json_schema", "json_schema": { "name": "answer", "strict": true, "schema": schema } },
        })))
        .unwrap();
        let params = request.options.params;
        assert_eq!((params.logprobs, params.logit_bias), (Some(5), vec![(5, 0.5), (11, -100.0)]));
        let AnswerFormat::JsonSchema { schema } = params.format else { panic!("{:?}", params.format) };
        assert!(schema.find("\"z\"").unwrap() < schema.find("\"a\"").unwrap(), "the order of the properties is the client's: {schema}");

        let off = read(chat(json!({ "logprobs": null, "top_logprobs": 0, "logit_bias": null, "response_format": null }))).unwrap();
        assert_eq!((off.options.params.logprobs, off.options.params.format), (None, AnswerFormat::Text));
        let object = read(chat(json!({ "logprobs": true, "response_format": { "type": "json_object" } }))).unwrap();
        assert_eq!((object.options.params.logprobs, object.options.params.format), (Some(0), AnswerFormat::JsonObject));

        let text = |extra: Value| {
            let mut body = json!({ "model": "m", "prompt": "hi" });
            extra.as_object().unwrap().iter().for_each(|(field, value)| body[field] = value.clone());
            CompletionRequest::read(body.as_object().unwrap(), 7).map(|request| request.options.params.logprobs)
        };
        assert_eq!(text(json!({ "logprobs": 3 })).ok(), Some(Some(3)));
        assert_eq!(text(json!({ "logprobs": 0 })).ok(), Some(Some(0)));
        for (extra, param) in [
            (json!({ "logprobs": 21 }), "logprobs"),
            (json!({ "logprobs": true }), "logprobs"),
            (json!({ "top_logprobs": 3 }), "top_logprobs"),
            (json!({ "response_format": { "type": "json_object" } }), "response_format"),
        ] {
            assert_eq!(text(extra).unwrap_err().object()["param"], param);
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("role|content|type|text|[a-z]{1,6}", inner, 0..4).prop_map(|map| json!(map)),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_json_at_all_makes_reading_panic(
            field in "model|messages|prompt|temperature|top_k|seed|stop|stop_token_ids|max_tokens|stream_options|n|tools|response_format|logprobs|top_logprobs|logit_bias|continue_final_message",
            value in any_json(),
        ) {
            let body = chat(json!({ field: value }));
            let fields = body.as_object().unwrap();
            let _ = ChatRequest::read(fields, 4, 7);
            let _ = CompletionRequest::read(fields, 7);
        }
    }
}
