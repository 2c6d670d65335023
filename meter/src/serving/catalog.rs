//! The models that are served: how their text becomes tokens, what they cost, which weights they are.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prompt::{PromptError, Prompter};
use thiserror::Error;
use wire::node::ServedModel;
use wire::{B256, ModelRate, keccak256, merkle};

use super::weights;
use crate::config::{ModelConfig, RateConfig};

/// A chunk of the weights under the model root, bytes (`docs/protocol.md`, section 5).
const CHUNK_BYTES: usize = 1 << 20;

/// One model.
pub struct Model {
    /// Name in `/v1/models`.
    pub id: String,
    /// Text ↔ tokens.
    pub prompter: Prompter,
    /// Most tokens of prompt and answer together.
    pub context_tokens: u32,
    /// Digest of the weights.
    pub model_root: B256,
    /// Digest of numeric contract, tokenizer and template.
    pub engine: B256,
    /// Multiplications and additions of the layers' weights for one token; `None` when neither the config nor a file here says.
    pub operations_per_token: Option<u64>,
    numeric_contract: String,
    rates: Vec<RateConfig>,
}

/// All models, by id.
#[derive(Clone, Default)]
pub struct Catalog(Arc<BTreeMap<String, Arc<Model>>>);

impl Catalog {
    /// Opens every folder; hashes the weights where the config names no root, which takes seconds. Blocking.
    pub fn open(configs: &[ModelConfig]) -> Result<Self, CatalogError> {
        let mut models = BTreeMap::new();
        for config in configs {
            models.insert(config.id.clone(), Arc::new(Model::open(config)?));
        }
        Ok(Self(Arc::new(models)))
    }

    /// The model of that id.
    pub fn get(&self, id: &str) -> Option<&Arc<Model>> {
        self.0.get(id)
    }

    /// All of them, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Model>> {
        self.0.values()
    }

    /// Those of a node's models that are ours to the digest.
    pub fn served(&self, offered: Vec<ServedModel>) -> Vec<ServedModel> {
        offered.into_iter().filter(|offer| self.get(&offer.model).is_some_and(|model| model.is_served_as(offer))).collect()
    }
}

impl Model {
    fn open(config: &ModelConfig) -> Result<Self, CatalogError> {
        let model = config.id.clone();
        let prompter = Prompter::open(&config.folder).map_err(|error| CatalogError::Prompt { model, error: Box::new(error) })?;
        let weights_file = config.folder.join("model.safetensors");
        let model_root = match config.model_root {
            Some(root) => root,
            None => weights_root(&weights_file)?,
        };
        let operations_per_token = config.operations_per_token.or_else(|| match weights::operations_per_token(&weights_file) {
            Ok(operations) => Some(operations),
            Err(error) => {
                tracing::info!(model = config.id, %error, "no TFLOPS are measured with this model: its weights are not here; `operations_per_token` says it too");
                None
            }
        });
        let parts = prompter.engine_parts();
        let engine = wire::receipt::engine_id(&config.numeric_contract, parts.tokenizer_json, parts.chat_template);
        let rates = config.rates.clone();
        let numeric_contract = config.numeric_contract.clone();
        Ok(Self {
            id: config.id.clone(),
            prompter,
            context_tokens: config.context_tokens,
            model_root,
            engine,
            operations_per_token,
            numeric_contract,
            rates,
        })
    }

    /// The price at `now_s`; `None` before the first one starts.
    pub fn rate_at(&self, now_s: u64) -> Option<ModelRate> {
        self.rates.iter().rev().find(|rate| rate.starts_at <= now_s).map(|rate| ModelRate(rate.credits_per_million_tokens))
    }

    /// How weights and activations are stored under the model's numeric contract; `None` for one that this version does not know.
    pub fn quantization(&self) -> Option<&'static str> {
        (self.numeric_contract == "parallelix-x8-1").then_some("int8 block 32")
    }

    fn is_served_as(&self, offer: &ServedModel) -> bool {
        offer.model_root == self.model_root && offer.engine == self.engine
    }
}

/// Merkle root over 1 MiB chunks of a file, leaves in order (`docs/protocol.md`, section 5).
fn weights_root(path: &Path) -> Result<B256, CatalogError> {
    let read = |error| CatalogError::Weights { path: path.to_owned(), error };
    let mut file = File::open(path).map_err(read)?;
    let (mut chunk, mut leaves) = (vec![0u8; CHUNK_BYTES], Vec::new());
    loop {
        let length = fill(&mut file, &mut chunk).map_err(read)?;
        if length == 0 {
            break;
        }
        leaves.push(keccak256(keccak256(&chunk[..length])));
    }
    merkle::root(&leaves).ok_or_else(|| read(std::io::Error::from(ErrorKind::UnexpectedEof)))
}

fn fill(file: &mut File, chunk: &mut [u8]) -> std::io::Result<usize> {
    let mut length = 0;
    while length < chunk.len() {
        match file.read(&mut chunk[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

/// Why a model can't be served.
#[derive(Debug, Error)]
pub enum CatalogError {
    /// Tokenizer or template.
    #[error("model `{model}`: {error}")]
    Prompt {
        /// Which model.
        model: String,
        /// What is wrong with its folder.
        error: Box<PromptError>,
    },
    /// No weights to hash.
    #[error("{}: {error}; put the weights there, or set the model's `model_root`", path.display())]
    Weights {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_over_whole_chunks_and_a_shorter_last_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let bytes: Vec<u8> = (0..CHUNK_BYTES * 2 + 5).map(|index| index as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let leaves: Vec<B256> = bytes.chunks(CHUNK_BYTES).map(|chunk| keccak256(keccak256(chunk))).collect();
        assert_eq!(leaves.len(), 3);
        assert_eq!(weights_root(&path).unwrap(), merkle::root(&leaves).unwrap());
        std::fs::write(&path, b"").unwrap();
        assert!(weights_root(&path).unwrap_err().to_string().contains("model_root"));
    }
}
