//! Which files of a repository are needed.

use serde_json::Value;

use super::hub::{HubFile, Listing};
use super::{Pull, PullError};
use crate::model::import::{is_plain_name, shard_names};

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const REQUIRED: [&str; 3] = ["config.json", "tokenizer.json", "tokenizer_config.json"];
const OPTIONAL: [&str; 3] = ["generation_config.json", "chat_template.jinja", "chat_template.json"];
/// Longest index in bytes.
const MAX_INDEX_BYTES: u64 = 16 << 20;
/// GGUF files that an error names.
const NAMED: usize = 12;

/// The files that an import reads, small ones first. The index of shards is asked of the hub.
pub(super) async fn files(pull: &Pull<'_>, listing: &Listing) -> Result<Vec<HubFile>, PullError> {
    let nothing = |found: &str, remedy: String| PullError::NothingToImport { repo: pull.repo.to_owned(), found: found.to_owned(), remedy };
    if let Some(name) = pull.file {
        if !is_plain_name(name) || !name.ends_with(".gguf") {
            return Err(nothing(&format!("no GGUF file {name:?}"), gguf_files(listing)));
        }
        let file = listing.file(name).ok_or_else(|| nothing(&format!("no file {name:?}"), gguf_files(listing)))?;
        return Ok(vec![file.clone()]);
    }

    let has_weights = listing.file(WEIGHTS).is_some() || listing.file(INDEX).is_some();
    if !has_weights {
        return Err(nothing("no model.safetensors, whole or in shards", gguf_files(listing)));
    }
    let mut files = Vec::new();
    for name in REQUIRED {
        let remedy = || "it can't be served without; name another repository of the model".to_owned();
        files.push(listing.file(name).ok_or_else(|| nothing(&format!("no {name}"), remedy()))?.clone());
    }
    files.extend(OPTIONAL.iter().filter_map(|name| listing.file(name)).cloned());
    if let Some(whole) = listing.file(WEIGHTS) {
        files.push(whole.clone());
        return Ok(files);
    }

    let bad_index = |reason: String| PullError::Hub { hub: pull.hub.to_string(), reason: format!("{INDEX} of {}: {reason}", pull.repo) };
    files.extend(listing.file(INDEX).cloned());
    let url = pull.hub.file_url(pull.repo, &listing.commit, INDEX);
    let bytes = pull.hub.small_file(&url, INDEX, MAX_INDEX_BYTES, &pull.limits).await?;
    let index: Value = serde_json::from_slice(&bytes).map_err(|e| bad_index(e.to_string()))?;
    for name in shard_names(&index).map_err(bad_index)? {
        let file = listing.file(&name).ok_or_else(|| bad_index(format!("it names {name}, which the repository does not have")))?;
        files.push(file.clone());
    }
    Ok(files)
}

/// What to do instead, with the names of the repository's GGUF files.
fn gguf_files(listing: &Listing) -> String {
    let mut names: Vec<&str> = listing.files.iter().map(|file| file.name.as_str()).filter(|name| name.ends_with(".gguf")).collect();
    names.sort_unstable();
    if names.is_empty() {
        return "name another repository of the model".to_owned();
    }
    let more = if names.len() > NAMED { format!(" and {} more", names.len() - NAMED) } else { String::new() };
    names.truncate(NAMED);
    format!("give one with --file: {}{more}", names.join(", "))
}
