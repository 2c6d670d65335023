//! The answer that a visitor of the page sees with its receipt: the network's own first paid one.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

use super::Network;
use super::depositor::Depositor;
use crate::model::MODEL_ID;

/// Ours, never a person's: what somebody asked is not ours to publish.
const QUESTION: &str = "What is a receipt? Answer in one sentence.";
const ANSWER_TOKENS: u32 = 64;
const TEMPERATURE: f32 = 0.2;

/// Where the meter of the network in `dir` looks for it.
pub fn file(dir: &Path) -> PathBuf {
    dir.join("meter/demo.json")
}

/// Asks and pays for one answer and publishes it, unless an earlier start did. True when it was published now.
pub fn publish(network: &Network, depositor: &Depositor) -> Result<bool> {
    let path = file(&network.plan.dir);
    if path.exists() {
        return Ok(false);
    }
    let body = json!({
        "model": MODEL_ID, "max_tokens": ANSWER_TOKENS, "temperature": TEMPERATURE, "return_token_ids": true,
        "messages": [{"role": "user", "content": QUESTION}],
    });
    let answer = depositor.api(&network.meter())?.post("/v1/chat/completions", &body)?.ok("asking for the demo answer")?;
    let published = json!({
        "receipt_id": answer["parallelix"]["receipt_id"], "question": QUESTION,
        "token_ids": answer["choices"][0]["token_ids"], "params": answer["parallelix"]["params"],
    });

    // Whole or not at all: the meter looks whenever somebody asks.
    let beside = path.with_extension("json.new");
    fs::write(&beside, format!("{published}\n")).with_context(|| format!("cannot write {}", beside.display()))?;
    fs::rename(&beside, &path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(true)
}
