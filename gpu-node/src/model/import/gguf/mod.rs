//! A GGUF file: metadata, tensors and tokenizer in one.

mod config;
mod split;
mod tensors;
mod tokenizer;

use std::path::Path;

use alloy::primitives::B256;

use super::{Import, ImportError, Progress, map_source, write_json};
use crate::model::gguf::{Gguf, GgufError};

/// A GGUF file that is being imported; errors name it.
struct Source<'a> {
    path: &'a Path,
    gguf: Gguf<'a>,
    architecture: String,
}

impl Source<'_> {
    fn error(&self, source: GgufError) -> ImportError {
        ImportError::Gguf { path: self.path.to_owned(), source }
    }

    /// Name of a metadata key of the architecture.
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    /// A whole number that must be there.
    fn number(&self, name: &str) -> Result<u64, ImportError> {
        self.gguf.unsigned(&self.key(name)).map_err(|e| self.error(e))
    }

    /// A whole number that may be absent, but not something else.
    fn optional_number(&self, name: &str) -> Result<Option<u64>, ImportError> {
        self.gguf.value(&self.key(name)).map(|_| self.number(name)).transpose()
    }

    fn optional_float(&self, name: &str) -> Result<Option<f64>, ImportError> {
        let key = self.key(name);
        self.gguf.value(&key).map(|_| self.gguf.float(&key).map_err(|e| self.error(e))).transpose()
    }
}

pub(super) fn write_folder(import: &Import, dir: &Path, progress: &dyn Progress) -> Result<B256, ImportError> {
    let path = import.source;
    let map = map_source(path)?;
    let in_source = |source| ImportError::Gguf { path: path.to_owned(), source };
    let gguf = Gguf::parse(&map).map_err(in_source)?;
    let architecture = gguf.text("general.architecture").map_err(in_source)?.to_owned();
    if !["llama", "qwen2", "qwen3"].contains(&architecture.as_str()) {
        return Err(ImportError::Architecture { path: path.to_owned(), found: architecture });
    }
    let source = Source { path, gguf, architecture };

    let config = config::decoder_config(&source)?;
    let vocabulary = tokenizer::Vocabulary::of(&source)?;
    let tensors = tensors::source_tensors(&source, &config)?;

    let mut config_json = config.to_json();
    config_json["bos_token_id"] = vocabulary.bos.into();
    config_json["eos_token_id"] = vocabulary.eos.into();
    write_json(dir, "config.json", &config_json)?;
    write_json(dir, "generation_config.json", &vocabulary.generation_config_json())?;
    write_json(dir, "tokenizer.json", &vocabulary.tokenizer_json())?;
    write_json(dir, "tokenizer_config.json", &vocabulary.tokenizer_config_json(config.context_tokens))?;
    import.write_checked(&config, &tensors, dir, progress)
}
