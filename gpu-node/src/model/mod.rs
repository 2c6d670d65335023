//! Models as they lie on disk: our folders, memory-mapped; GGUF files and Hugging Face folders, imported into such.

mod config;
mod digest;
mod folder;
pub mod gguf;
mod header;
pub mod import;
mod inventory;
mod manifest;
pub mod panels;
pub mod pull;
pub mod random; // models of noise
pub mod tensors;
mod weights;

pub use config::{ConfigError, DecoderConfig, MAX_HEAD_DIM, RopeScaling};
pub use digest::{CHUNK_BYTES, DigestError, file_root, model_root, sha256_file};
pub use folder::{ModelError, ModelFolder, read_config};
pub use inventory::{Listed, Removal, RemoveError, State, inventory};
pub use manifest::{MANIFEST_FILE, Manifest, ManifestError};
pub use weights::{PanelMatrix, Weights, WeightsError};
