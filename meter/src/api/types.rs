//! OpenAI's requests, read field by field, so that every mistake is named. Unknown fields are ignored, as stock clients
//! expect; known ones that would change the answer and that we do not have are refused rather than ignored.

use prompt::Message;
use serde_json::{Map, Value};
use wire::node::SamplingParams;

use super::error::ApiError;

/// Deepest `messages[i].content` that is read: an array of parts.
const PARTS_MAX: usize = 1_024;

/// `POST /v1/chat/completions`.
pub(super) struct ChatRequest {
    /// Which model.
    pub(super) model: String,
    /// At least one.
    pub(super) messages: Vec<Message>,
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

impl ChatRequest {
    /// Reads and checks. `seed` is used when the client gave none.
    pub(super) fn read(fields: &Map<String, Value>, messages_max: usize, seed: u64) -> Result<Self, ApiError> {
        let fields = Fields(fields);
        refuse_unsupported(&fields)?;
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
        Ok(Self { model: fields.model()?, messages, options: Options::read(&fields, seed)? })
    }
}

impl CompletionRequest {
    /// As [`ChatRequest::read`].
    pub(super) fn read(fields: &Map<String, Value>, seed: u64) -> Result<Self, ApiError> {
        let fields = Fields(fields);
        refuse_unsupported(&fields)?;
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
        Ok(Self { model: fields.model()?, prompt, options: Options::read(&fields, seed)? })
    }
}

impl Options {
    fn read(fields: &Fields<'_>, seed: u64) -> Result<Self, ApiError> {
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

const UNSUPPORTED: [(&str, &str, IsHarmless); 13] = [
    ("n", "only one answer is given", |value| value == 1),
    ("best_of", "only one answer is given", |value| value == 1),
    ("tools", "tool calls are not offered", is_empty),
    ("functions", "tool calls are not offered", is_empty),
    ("tool_choice", "tool calls are not offered", |value| value == "none" || value == "auto"),
    ("function_call", "tool calls are not offered", |value| value == "none" || value == "auto"),
    ("response_format", "only {\"type\": \"text\"} is offered", |value| value["type"] == "text"),
    ("logprobs", "log probabilities are not offered", |value| value == false || value == 0),
    ("top_logprobs", "log probabilities are not offered", |value| value == 0),
    ("logit_bias", "logit biases are not offered", is_empty),
    ("modalities", "only text is offered", |value| *value == serde_json::json!(["text"])),
    ("echo", "the prompt is not repeated", |value| value == false),
    ("suffix", "insertion is not offered", |value| value == ""),
];

fn is_empty(value: &Value) -> bool {
    matches!(value, Value::Array(items) if items.is_empty()) || matches!(value, Value::Object(map) if map.is_empty())
}

/// A field that is absent, null, or of a value that changes nothing, is no wish.
fn refuse_unsupported(fields: &Fields<'_>) -> Result<(), ApiError> {
    for (field, reason, is_harmless) in UNSUPPORTED {
        if let Some(value) = fields.get(field)
            && !is_harmless(value)
        {
            return Err(ApiError::invalid(field, "unsupported_parameter", format!("`{field}` is not supported: {reason}; leave it out")));
        }
    }
    Ok(())
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

/// A JSON object of which null fields are absent ones.
struct Fields<'a>(&'a Map<String, Value>);

impl Fields<'_> {
    fn get(&self, field: &str) -> Option<&Value> {
        self.0.get(field).filter(|value| !value.is_null())
    }

    fn model(&self) -> Result<String, ApiError> {
        match self.get("model") {
            Some(Value::String(model)) => Ok(model.clone()),
            Some(other) => Err(wrong_type("model", "a string", other)),
            None => Err(ApiError::invalid("model", "missing_field", "`model` is missing; GET /v1/models lists them")),
        }
    }

    fn bool(&self, field: &'static str) -> Result<Option<bool>, ApiError> {
        self.get(field).map(|value| value.as_bool().ok_or_else(|| wrong_type(field, "true or false", value))).transpose()
    }

    fn f32(&self, field: &'static str) -> Result<Option<f32>, ApiError> {
        self.get(field)
            .map(|value| value.as_f64().map(|number| number as f32).ok_or_else(|| wrong_type(field, "a number", value)))
            .transpose()
    }

    fn u32(&self, field: &'static str) -> Result<Option<u32>, ApiError> {
        let whole = |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
        self.get(field).map(|value| whole(value).ok_or_else(|| wrong_type(field, "a whole number from 0 to 4294967295", value))).transpose()
    }

    /// -1 is what other servers call off.
    fn top_k(&self) -> Result<u32, ApiError> {
        if self.get("top_k").is_some_and(|value| *value == -1) { Ok(0) } else { Ok(self.u32("top_k")?.unwrap_or(0)) }
    }

    /// A negative seed is the same 64 bits.
    fn seed(&self) -> Result<Option<u64>, ApiError> {
        let bits = |value: &Value| value.as_u64().or_else(|| value.as_i64().map(|seed| seed as u64));
        self.get("seed").map(|value| bits(value).ok_or_else(|| wrong_type("seed", "a whole number of 64 bits", value))).transpose()
    }

    fn strings(&self, field: &'static str) -> Result<Vec<String>, ApiError> {
        let wanted = "a string or an array of strings";
        match self.get(field) {
            None => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(vec![text.clone()]),
            Some(Value::Array(items)) => {
                items.iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(|| wrong_type(field, wanted, item))).collect()
            }
            Some(other) => Err(wrong_type(field, wanted, other)),
        }
    }

    fn tokens(&self, field: &'static str) -> Result<Vec<u32>, ApiError> {
        let wanted = "an array of token ids";
        let id = |item: &Value| item.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| wrong_type(field, wanted, item));
        match self.get(field) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => items.iter().map(id).collect(),
            Some(other) => Err(wrong_type(field, wanted, other)),
        }
    }
}

/// Names the field, what it must be and what it is; never its content, which may be long or private.
fn wrong_type(field: &str, wanted: &str, value: &Value) -> ApiError {
    let given = match value {
        Value::Null => "null".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(_) => "a string".to_owned(),
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    };
    ApiError::invalid(field, "invalid_type", format!("`{field}` must be {wanted}, it is {given}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

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
            (json!({ "response_format": { "type": "json_object" } }), "response_format", "unsupported_parameter"),
            (json!({ "stop": [""] }), "stop", "out_of_range"),
            (json!({ "stop": [1] }), "stop", "invalid_type"),
            (json!({ "stream": "yes" }), "stream", "invalid_type"),
            (json!({ "stream_options": 1 }), "stream_options", "invalid_type"),
        ];
        for (extra, param, code) in cases {
            let error = read(chat(extra.clone())).err().unwrap_or_else(|| panic!("{extra} was read")).object();
            assert_eq!((&error["param"], &error["code"]), (&json!(param), &json!(code)), "{extra}: {error}");
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
            field in "model|messages|prompt|temperature|top_k|seed|stop|stop_token_ids|max_tokens|stream_options|n|tools|response_format",
            value in any_json(),
        ) {
            let body = chat(json!({ field: value }));
            let fields = body.as_object().unwrap();
            let _ = ChatRequest::read(fields, 4, 7);
            let _ = CompletionRequest::read(fields, 7);
        }
    }
}
