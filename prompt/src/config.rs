//! The small JSON files beside a tokenizer: `tokenizer_config.json`, `generation_config.json`, `config.json`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Longest configuration file in bytes; `tokenizer_config.json` with many added tokens stays below a few MiB.
const MAX_CONFIG_BYTES: u64 = 16 * 1024 * 1024;

/// Why a file of the model's folder was not read.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{path} can't be read: {source}", path = path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} is {bytes} bytes long, at most {MAX_CONFIG_BYTES} are allowed", path = path.display())]
    TooLong { path: PathBuf, bytes: u64 },
    #[error("{path} is not JSON: {source}", path = path.display())]
    Json { path: PathBuf, source: serde_json::Error },
    #[error("{path} has no chat template; add `chat_template` to it, or a chat_template.jinja beside it", path = path.display())]
    NoTemplate { path: PathBuf },
    #[error("neither generation_config.json, config.json nor tokenizer_config.json in {path} names an end-of-turn token", path = path.display())]
    NoEos { path: PathBuf },
}

/// What the tokenizer's folder says beside `tokenizer.json`.
#[derive(Debug, Clone)]
pub(crate) struct FolderConfig {
    pub(crate) chat_template: String,
    pub(crate) bos_token: String,
    pub(crate) eos_token: String,
    /// Ids that end an answer, from `generation_config.json` or `config.json`; may be empty.
    pub(crate) eos_token_ids: Vec<u32>,
}

impl FolderConfig {
    pub(crate) fn read(dir: &Path) -> Result<Self, ConfigError> {
        let path = dir.join("tokenizer_config.json");
        let config = read_json(&path)?;
        // As in `transformers`, the file of its own goes before the field.
        let chat_template = match read_template_file(dir)? {
            Some(text) => text,
            None => template_of(&config).ok_or(ConfigError::NoTemplate { path })?,
        };
        let mut eos_token_ids = Vec::new();
        for name in ["generation_config.json", "config.json"] {
            let path = dir.join(name);
            if path.exists() {
                collect_ids(&read_json(&path)?["eos_token_id"], &mut eos_token_ids);
            }
        }
        eos_token_ids.sort_unstable();
        eos_token_ids.dedup();
        Ok(Self { chat_template, bos_token: token_text(&config["bos_token"]), eos_token: token_text(&config["eos_token"]), eos_token_ids })
    }
}

/// Bytes of a file, refused when it is longer than `limit_bytes`.
pub(crate) fn read_bounded(path: &Path, limit_bytes: u64) -> Result<Vec<u8>, ConfigError> {
    let read = |source| ConfigError::Read { path: path.to_owned(), source };
    let bytes = fs::metadata(path).map_err(read)?.len();
    if bytes > limit_bytes {
        return Err(ConfigError::TooLong { path: path.to_owned(), bytes });
    }
    fs::read(path).map_err(read)
}

fn read_json(path: &Path) -> Result<Value, ConfigError> {
    let bytes = read_bounded(path, MAX_CONFIG_BYTES)?;
    serde_json::from_slice(&bytes).map_err(|source| ConfigError::Json { path: path.to_owned(), source })
}

fn read_template_file(dir: &Path) -> Result<Option<String>, ConfigError> {
    let path = dir.join("chat_template.jinja");
    if !path.exists() {
        return Ok(None);
    }
    let bytes = read_bounded(&path, MAX_CONFIG_BYTES)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// `chat_template` is a string, or a list of named ones of which `default` is meant.
fn template_of(config: &Value) -> Option<String> {
    match &config["chat_template"] {
        Value::String(text) => Some(text.clone()),
        Value::Array(named) => {
            let default = named.iter().find(|t| t["name"] == "default").or_else(|| named.first())?;
            default["template"].as_str().map(str::to_owned)
        }
        _ => None,
    }
}

/// A special token is a string, or an object with `content`.
fn token_text(value: &Value) -> String {
    value.as_str().or_else(|| value["content"].as_str()).unwrap_or_default().to_owned()
}

fn collect_ids(value: &Value, out: &mut Vec<u32>) {
    let one = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Array(list) => out.extend(list.iter().filter_map(one)),
        other => out.extend(one(other)),
    }
}
