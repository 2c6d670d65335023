//! An imported folder, opened: configuration, weights, prompt side and identity.

use std::fs;
use std::path::{Path, PathBuf};

use alloy::primitives::B256;
use prompt::{Message, PromptError, Prompter};

use super::config::{ConfigError, DecoderConfig};
use super::digest;
use super::manifest::{MANIFEST_FILE, Manifest, ManifestError};
use super::weights::{Weights, WeightsError};

/// Longest `config.json` in bytes; the families' take 2 KiB.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// Why a model's folder was not opened.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error("{path} can't be read: {source}", path = path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} is {bytes} bytes long, at most {MAX_CONFIG_BYTES} are possible", path = path.display())]
    TooLong { path: PathBuf, bytes: u64 },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Weights(#[from] WeightsError),
    #[error(transparent)]
    Prompt(#[from] PromptError),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error("the tokenizer's ids reach {tokens}, the weights only {rows}; tokenizer.json and model.safetensors do not belong together")]
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
        // A manifest of another format says more than the tensors that then have the wrong type.
        let manifest = if dir.join(MANIFEST_FILE).exists() { Some(Manifest::read(dir)?) } else { None };
        let config = read_config(dir)?;
        let prompter = Prompter::open(dir)?;
        check_prompter(&config, &prompter)?;

        let weights = Weights::open(&dir.join("model.safetensors"))?;
        let model_root = digest::model_root(weights.file_bytes(), threads, progress)
            .ok_or_else(|| ModelError::NoWeights { path: weights.path().to_owned() })?;
        if let Some(expected) = manifest.map(|m| m.model_root).filter(|expected| *expected != model_root) {
            let file = "model.safetensors".to_owned();
            return Err(ManifestError::Mismatch { file, found: model_root.to_string(), expected: expected.to_string() }.into());
        }
        Ok(Self { dir: dir.to_owned(), config, weights, prompter, model_root })
    }
}

/// Configuration of a folder, refused when the file is too long to be one.
pub fn read_config(dir: &Path) -> Result<DecoderConfig, ModelError> {
    let path = dir.join("config.json");
    let read = |source| ModelError::Read { path: path.clone(), source };
    let bytes = fs::metadata(&path).map_err(read)?.len();
    if bytes > MAX_CONFIG_BYTES {
        return Err(ModelError::TooLong { path, bytes });
    }
    Ok(DecoderConfig::parse(&fs::read(&path).map_err(read)?)?)
}

/// Whether tokenizer and chat template fit the model: every id inside the vocabulary, and a plain question can be asked.
pub(super) fn check_prompter(config: &DecoderConfig, prompter: &Prompter) -> Result<(), ModelError> {
    let rows = config.vocab_size;
    if prompter.vocab_size() > rows {
        return Err(ModelError::Vocabulary { tokens: prompter.vocab_size(), rows });
    }
    if let Some(&id) = prompter.eos_token_ids().iter().find(|&&id| id as usize >= rows) {
        return Err(ModelError::EosBeyondVocabulary { id, rows });
    }
    prompter.render(&[Message::new("user", "Hello")])?;
    Ok(())
}
