//! Asking the meter, as any client would.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use xtask::http::{Api, Reply};
use xtask::model::MODEL_ID;

/// What an answer says about itself.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The text.
    pub text: String,
    /// `usage` of the reply.
    pub usage: Value,
    /// `parallelix` of the reply.
    pub parallelix: Value,
    /// Why it ended; `None` when it broke off.
    pub finish_reason: Option<String>,
    /// The error event of a stream that broke off.
    pub error: Option<Value>,
}

impl Answer {
    /// Credits charged.
    pub fn cost(&self) -> Result<u64> {
        self.usage["cost_credits"].as_u64().context("the answer names no cost")
    }

    /// Prompt and completion tokens together.
    pub fn tokens(&self) -> Result<u64> {
        self.usage["total_tokens"].as_u64().context("the answer counts no tokens")
    }

    /// Where its receipt is.
    pub fn receipt_path(&self) -> Result<String> {
        Ok(format!("/v1/receipts/{}", self.parallelix["receipt_id"].as_str().context("the answer names no receipt")?))
    }
}

/// A chat request that is answered greedily with at most `max_tokens`.
pub fn question(text: &str, max_tokens: u32) -> Value {
    json!({"model": MODEL_ID, "messages": [{"role": "user", "content": text}], "max_tokens": max_tokens, "temperature": 0})
}

/// One whole answer. Errors when it is not a 200.
pub fn ask(api: &Api, text: &str, max_tokens: u32) -> Result<Answer> {
    let body = api.post("/v1/chat/completions", &question(text, max_tokens))?.ok("a chat completion")?;
    Ok(Answer {
        text: body["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned(),
        usage: body["usage"].clone(),
        parallelix: body["parallelix"].clone(),
        finish_reason: body["choices"][0]["finish_reason"].as_str().map(str::to_owned),
        error: None,
    })
}

/// One streamed answer; `on_text` is called with each piece of text and may disturb the network meanwhile.
///
/// A stream that ends with an error event is an answer too, with `error` set. Errors when the reply is no stream.
pub fn ask_streaming(api: &Api, body: &Value, mut on_text: impl FnMut(&str) -> Result<()>) -> Result<Answer> {
    let mut body = body.clone();
    body["stream"] = true.into();
    body["stream_options"] = json!({"include_usage": true});
    let mut answer = Answer { text: String::new(), usage: Value::Null, parallelix: Value::Null, finish_reason: None, error: None };
    let reply: Reply = api.stream("/v1/chat/completions", &body, |data| {
        if data == "[DONE]" {
            return Ok(false);
        }
        let chunk: Value = serde_json::from_str(data).with_context(|| format!("a chunk is not JSON: {data}"))?;
        answer.take(&chunk);
        match chunk["choices"][0]["delta"]["content"].as_str() {
            Some(text) if !text.is_empty() => on_text(text).map(|()| true),
            _ => Ok(true),
        }
    })?;
    ensure!(reply.status == 200, "the meter answered {} {}", reply.status, reply.message());
    if answer.usage.is_null() && answer.error.is_none() {
        bail!("the stream ended without usage and without an error");
    }
    Ok(answer)
}

impl Answer {
    fn take(&mut self, chunk: &Value) {
        let choice = &chunk["choices"][0];
        self.text.push_str(choice["delta"]["content"].as_str().unwrap_or_default());
        if let Some(reason) = choice["finish_reason"].as_str() {
            self.finish_reason = Some(reason.to_owned());
        }
        let error = &chunk["error"];
        for holder in [chunk, &error["metadata"]] {
            if holder["usage"].is_object() {
                self.usage = holder["usage"].clone();
            }
            if holder["parallelix"].is_object() {
                self.parallelix = holder["parallelix"].clone();
            }
        }
        if error.is_object() {
            self.error = Some(error.clone());
        }
    }
}
