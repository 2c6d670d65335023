//! `parallelix.json`: what an imported folder was made from, and the digests of what it holds.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use alloy::primitives::B256;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::digest::{DigestError, file_root, sha256_file};

/// Name of the manifest inside a model's folder.
pub const MANIFEST_FILE: &str = "parallelix.json";
pub(super) const WEIGHTS_FILE: &str = "model.safetensors";
/// 1 held f16 matrices, 2 holds int8 panels.
const FORMAT: u32 = 2;
/// Longest manifest in bytes; a handful of files take less than 2 KiB.
const MAX_MANIFEST_BYTES: u64 = 1 << 20;

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
    #[error("{path} is of format {found}, made by an older version; import the model again: its folder is replaced", path = path.display())]
    OlderFormat { path: PathBuf, found: u64 },
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
        let format = |reason: String| ManifestError::Format { path: path.clone(), reason };
        let json = read_json(dir)?;
        match json.get("format").and_then(Value::as_u64) {
            Some(found) if found < u64::from(FORMAT) => return Err(ManifestError::OlderFormat { path, found }),
            Some(found) if found > u64::from(FORMAT) => return Err(format(format!("format {found} is newer than {FORMAT}"))),
            _ => {}
        }
        serde_json::from_value(json).map_err(|e| format(e.to_string()))
    }

    /// Whether the folder holds nothing but what an import wrote, in whatever format.
    pub fn is_all_of(dir: &Path) -> Result<bool, ManifestError> {
        let json = read_json(dir)?;
        let Some(files) = json.get("files").and_then(Value::as_object) else { return Ok(false) };
        Ok(fs::read_dir(dir).map_err(|source| ManifestError::Read { path: dir.to_owned(), source })?.all(|entry| {
            let name = entry.map(|entry| entry.file_name().to_string_lossy().into_owned()).unwrap_or_default();
            name == WEIGHTS_FILE || name == MANIFEST_FILE || files.contains_key(&name)
        }))
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

fn read_json(dir: &Path) -> Result<Value, ManifestError> {
    let path = dir.join(MANIFEST_FILE);
    let read = |source| ManifestError::Read { path: path.clone(), source };
    let length = fs::metadata(&path).map_err(read)?.len();
    if length > MAX_MANIFEST_BYTES {
        let reason = format!("it is {length} bytes long, at most {MAX_MANIFEST_BYTES} are possible");
        return Err(ManifestError::Format { path, reason });
    }
    let bytes = fs::read(&path).map_err(read)?;
    serde_json::from_slice(&bytes).map_err(|e| ManifestError::Format { path, reason: e.to_string() })
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
