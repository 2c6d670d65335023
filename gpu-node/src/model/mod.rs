//! Models as they lie on disk: Hugging Face folders, memory-mapped; GGUF files, imported into such folders.

mod config;
mod digest;
mod folder;
pub mod gguf;
pub mod import;
mod manifest;
pub mod panels;
mod weights;

pub use config::{DecoderConfig, MAX_HEAD_DIM, RopeScaling};
pub use digest::{CHUNK_BYTES, DigestError, file_root, model_root, sha256_file};
pub use folder::{ModelError, ModelFolder};
pub use manifest::{MANIFEST_FILE, Manifest, ManifestError};
pub use weights::{PanelMatrix, Weights, WeightsError};
