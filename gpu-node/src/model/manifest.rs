//! `parallelix.json`: what an imported folder was made from, and the digests of what it holds.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use alloy::primitives::B256;
use serde::{Deserialize, Serialize};

use super::digest::{DigestError, file_root, sha256_file};

/// Name of the manifest inside a model's folder.
pub const MANIFEST_FILE: &str = "parallelix.json";
const WEIGHTS_FILE: &str = "model.safetensors";
const FORMAT: u32 = 1;

/// Digests of an imported model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    /// File that was imported and its SHA-256.
    pub source_name: String,
    pub source_sha256: String,
    /// `modelRoot` of the receipts (protocol.md section 5).
    pub model_root: B256,
    /// SHA-256 of every other file, by name.
    pub files: BTreeMap<String, String>,
}

/// Why a manifest does not hold.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("{path} can't be read: {source}; import the model again", path = path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} is not a manifest: {reason}; import the model again", path = path.display())]
    Format { path: PathBuf, reason: String },
    #[error(transparent)]
    Digest(#[from] DigestError),
    #[error("{file} has digest {found}, the manifest says {expected}; the file was changed or damaged: import the model again")]
    Mismatch { file: String, found: String, expected: String },
}

impl Manifest {
    /// Hashes a finished folder. The weights' root is given, because the writer has it already.
    pub fn of_folder(dir: &Path, source_name: String, source_sha256: String, model_root: B256) -> Result<Self, ManifestError> {
        let mut files = BTreeMap::new();
        for name in small_files(dir)? {
            files.insert(name.clone(), sha256_file(&dir.join(&name), &|_| ())?);
        }
        Ok(Self { format: FORMAT, source_name, source_sha256, model_root, files })
    }

    pub fn read(dir: &Path) -> Result<Self, ManifestError> {
        let path = dir.join(MANIFEST_FILE);
        let bytes = fs::read(&path).map_err(|source| ManifestError::Read { path: path.clone(), source })?;
        let manifest: Self =
            serde_json::from_slice(&bytes).map_err(|e| ManifestError::Format { path: path.clone(), reason: e.to_string() })?;
        if manifest.format != FORMAT {
            return Err(ManifestError::Format { path, reason: format!("format {} is not {FORMAT}", manifest.format) });
        }
        Ok(manifest)
    }

    pub fn write(&self, dir: &Path) -> Result<(), ManifestError> {
        let path = dir.join(MANIFEST_FILE);
        let text = serde_json::to_string_pretty(self).map_err(|e| ManifestError::Format { path: path.clone(), reason: e.to_string() })?;
        fs::write(&path, text + "\n").map_err(|source| ManifestError::Read { path, source })
    }

    /// Hashes every file of the folder again and compares. `progress` is told of hashed weight bytes.
    pub fn verify(&self, dir: &Path, progress: &(dyn Fn(u64) + Sync)) -> Result<(), ManifestError> {
        let mismatch = |file: &str, found: String, expected: String| ManifestError::Mismatch { file: file.to_owned(), found, expected };
        for name in small_files(dir)? {
            let found = sha256_file(&dir.join(&name), &|_| ())?;
            let expected = self.files.get(&name).cloned().unwrap_or_else(|| "no such file".to_owned());
            if found != expected {
                return Err(mismatch(&name, found, expected));
            }
        }
        if let Some(name) = self.files.keys().find(|name| !dir.join(name).is_file()) {
            return Err(mismatch(name, "no such file".to_owned(), self.files[name].clone()));
        }
        let found = file_root(&dir.join(WEIGHTS_FILE), progress)?;
        if found != self.model_root {
            return Err(mismatch(WEIGHTS_FILE, found.to_string(), self.model_root.to_string()));
        }
        Ok(())
    }
}

/// Files of the folder except weights and manifest.
fn small_files(dir: &Path) -> Result<Vec<String>, ManifestError> {
    let read = |source| ManifestError::Read { path: dir.to_owned(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(read)? {
        let entry = entry.map_err(read)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != WEIGHTS_FILE && name != MANIFEST_FILE && entry.file_type().map_err(read)?.is_file() {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}
