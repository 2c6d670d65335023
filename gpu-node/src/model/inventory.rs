//! The model folders inside a folder, and the removal of one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::folder::read_config;
use super::manifest::{MANIFEST_FILE, Manifest, ManifestError, WEIGHTS_FILE};

/// A folder that an import made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    pub name: String,
    pub path: PathBuf,
    #[serde(flatten)]
    pub state: State,
    /// What the manifest says; absent when it can't be read.
    #[serde(flatten)]
    pub manifest: Option<Manifest>,
    pub weight_bytes: u64,
    /// From the configuration; absent when it can't be read.
    pub context_tokens: Option<usize>,
}

/// Whether a folder can be served, as far as its small files tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state", content = "reason")]
pub enum State {
    Ready,
    /// Made by an older version; importing again replaces it.
    OlderLayout,
    Damaged(String),
}

/// Every model folder in `dir`, by name. Weights are not read.
pub fn inventory(dir: &Path) -> io::Result<Vec<Listed>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // Hidden ones are unfinished imports and downloads.
        if !name.starts_with('.') && path.join(MANIFEST_FILE).is_file() {
            found.push(listed(name, path));
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn listed(name: String, path: PathBuf) -> Listed {
    let weight_bytes = fs::metadata(path.join(WEIGHTS_FILE)).map_or(0, |m| m.len());
    let config = read_config(&path);
    let manifest = Manifest::read(&path);
    let state = match (&manifest, &config) {
        (Err(ManifestError::OlderFormat { .. }), _) => State::OlderLayout,
        (Err(error), _) => State::Damaged(error.to_string()),
        (_, Err(error)) => State::Damaged(error.to_string()),
        _ if weight_bytes == 0 => State::Damaged(format!("{WEIGHTS_FILE} is missing or empty")),
        _ => State::Ready,
    };
    let context_tokens = config.ok().map(|config| config.context_tokens);
    Listed { name, path, state, manifest: manifest.ok(), weight_bytes, context_tokens }
}

/// Why a folder was not removed. It is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    #[error("{path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} is no folder that an import made: it has no {MANIFEST_FILE}; remove it yourself if you mean it", path = path.display())]
    NotOurs { path: PathBuf },
    #[error("{path} holds files that no import wrote; move them away, or remove it yourself", path = path.display())]
    ForeignFiles { path: PathBuf },
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

/// A model folder that may be removed: every file in it was written by an import.
#[derive(Debug)]
pub struct Removal {
    path: PathBuf,
    pub bytes: u64,
    pub files: usize,
}

impl Removal {
    /// Looks at the folder; nothing is removed yet.
    pub fn of(dir: &Path) -> Result<Self, RemoveError> {
        let io = |source| RemoveError::Io { path: dir.to_owned(), source };
        let path = std::path::absolute(dir).map_err(io)?;
        // A link is somebody else's arrangement, and following it would remove what it points at.
        let is_folder = fs::symlink_metadata(&path).map_err(io)?.is_dir();
        if !is_folder || !path.join(MANIFEST_FILE).is_file() {
            return Err(RemoveError::NotOurs { path });
        }
        if !Manifest::is_all_of(&path)? {
            return Err(RemoveError::ForeignFiles { path });
        }
        let (mut bytes, mut files) = (0, 0);
        for entry in fs::read_dir(&path).map_err(io)? {
            bytes += entry.and_then(|entry| entry.metadata()).map_err(io)?.len();
            files += 1;
        }
        Ok(Self { path, bytes, files })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the folder. It loses its name first, so that no half of it is ever found.
    pub fn run(self) -> Result<(), RemoveError> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let parting = self.path.with_file_name(format!(".{name}.removed-{}", std::process::id()));
        fs::rename(&self.path, &parting).map_err(|source| RemoveError::Io { path: self.path.clone(), source })?;
        fs::remove_dir_all(&parting).map_err(|source| RemoveError::Io { path: parting, source })
    }
}
