//! A Hugging Face folder, opened: configuration, weights, prompt side and identity.

use std::fs;
use std::path::{Path, PathBuf};

use alloy::primitives::B256;
use prompt::{PromptError, Prompter};

use super::config::{ConfigError, DecoderConfig};
use super::digest;
use super::manifest::{MANIFEST_FILE, Manifest, ManifestError};
use super::weights::{Weights, WeightsError};

/// Why a model's folder was not opened.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error("{path} can't be read: {source}", path = path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Weights(#[from] WeightsError),
    #[error(transparent)]
    Prompt(#[from] PromptError),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error("the tokenizer knows {tokens} tokens, the weights only {rows}; tokenizer.json and model.safetensors do not belong together")]
    Vocabulary { tokens: usize, rows: usize },
    #[error("end-of-turn token {id} is beyond the vocabulary of {rows}")]
    EosBeyondVocabulary { id: u32, rows: usize },
    #[error("{path} holds no weights", path = path.display())]
    NoWeights { path: PathBuf },
}

/// A model ready to be given to a back end.
pub struct ModelFolder {
    pub dir: PathBuf,
    pub config: DecoderConfig,
    pub weights: Weights,
    pub prompter: Prompter,
    /// Digest of the weights, computed from the mapped bytes and not taken from the manifest.
    pub model_root: B256,
}

impl ModelFolder {
    /// Opens the folder and hashes its weights; a manifest beside them must agree. `progress` is told of hashed bytes.
    pub fn open(dir: &Path, threads: usize, progress: &(dyn Fn(u64) + Sync)) -> Result<Self, ModelError> {
        let path = dir.join("config.json");
        let json = fs::read(&path).map_err(|source| ModelError::Read { path, source })?;
        let config = DecoderConfig::parse(&json)?;
        let prompter = Prompter::open(dir)?;
        let rows = config.vocab_size;
        if prompter.vocab_size() > rows {
            return Err(ModelError::Vocabulary { tokens: prompter.vocab_size(), rows });
        }
        if let Some(&id) = prompter.eos_token_ids().iter().find(|&&id| id as usize >= rows) {
            return Err(ModelError::EosBeyondVocabulary { id, rows });
        }

        let weights = Weights::open(&dir.join("model.safetensors"))?;
        let model_root = digest::model_root(weights.file_bytes(), threads, progress)
            .ok_or_else(|| ModelError::NoWeights { path: weights.path().to_owned() })?;
        if dir.join(MANIFEST_FILE).exists() {
            let expected = Manifest::read(dir)?.model_root;
            if expected != model_root {
                let file = "model.safetensors".to_owned();
                return Err(ManifestError::Mismatch { file, found: model_root.to_string(), expected: expected.to_string() }.into());
            }
        }
        Ok(Self { dir: dir.to_owned(), config, weights, prompter, model_root })
    }
}
