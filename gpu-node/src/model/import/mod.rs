//! GGUF file or Hugging Face folder → our folder, written beside its destination and moved there whole.

mod folder;
mod gguf;
mod quantize;
mod space;
mod staging;
pub mod writer;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use prompt::PromptError;
use serde_json::Value;

use super::config::{ConfigError, DecoderConfig};
use super::digest::{DigestError, sha256_file};
use super::folder::{ModelError, check_prompter};
use super::gguf::GgufError;
use super::manifest::{MANIFEST_FILE, Manifest, ManifestError};
use super::panels::QuantizeError;
pub(super) use folder::{is_plain_name, shard_names};
use quantize::{SourceTensor, stored_bytes, write_weights};
pub use space::free_bytes;
use staging::{Staging, parent_of};

/// Told of what the import does; `advance` may be called from several threads.
pub trait Progress: Sync {
    fn begin(&self, label: &str, total_bytes: u64);
    fn advance(&self, bytes: u64);
    fn end(&self);
}

/// What an import found or made.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Imported(Manifest),
    /// The destination already holds this source, whole.
    AlreadyThere(Manifest),
}

/// Why a source was not imported. The destination is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("{path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Digest(#[from] DigestError),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error("{path} can't be imported: {source}", path = path.display())]
    Gguf { path: PathBuf, source: GgufError },
    #[error("{path} can't be imported: {source}", path = path.display())]
    Config { path: PathBuf, source: ConfigError },
    #[error("{path} is not a safetensors file: {reason}", path = path.display())]
    Safetensors { path: PathBuf, reason: String },
    #[error("{path} is not a shard index: {reason}", path = path.display())]
    Index { path: PathBuf, reason: String },
    #[error("{path} has no {name}; {remedy}", path = path.display())]
    MissingFile { path: PathBuf, name: &'static str, remedy: &'static str },
    #[error("{path} is {bytes} bytes long, at most {most} are possible", path = path.display())]
    TooLong { path: PathBuf, bytes: u64, most: u64 },
    #[error("{path} has SHA-256 {found}, {expected} was asked for; fetch the source again", path = path.display())]
    WrongSource { path: PathBuf, found: String, expected: String },
    #[error("{path} exists and holds something else; remove it or name another folder", path = path.display())]
    DestinationTaken { path: PathBuf },
    #[error("{path} was imported already; it can be served as it is, or copied", path = path.display())]
    SourceIsImported { path: PathBuf },
    #[error("{path} is a model of architecture {found:?}; llama, qwen2 and qwen3 are imported", path = path.display())]
    Architecture { path: PathBuf, found: String },
    #[error("{key} is {found:?}; imported: {known}")]
    Tokenizer { key: &'static str, found: String, known: &'static str },
    #[error("tensor {name} is missing; the source is incomplete")]
    MissingTensor { name: String },
    #[error("tensor {name} has shape {found:?}, the configuration implies {expected:?}")]
    Shape { name: String, found: Vec<u64>, expected: Vec<u64> },
    #[error("tensor {name} is stored as {found}; {expected} are imported")]
    Storage { name: String, found: String, expected: &'static str },
    #[error("tensor {name} belongs to no part of this model that is computed; leaving it out would change every answer")]
    ExtraTensor { name: String },
    #[error("lm_head.weight differs from the embeddings, but config.json says that they are one (tie_word_embeddings)")]
    NotTied,
    #[error("tensor {tensor}: {source}")]
    Quantize { tensor: String, source: QuantizeError },
    #[error("{what} is {value}, which the file's own tensors or lists contradict")]
    Inconsistent { what: &'static str, value: String },
    #[error("rope_freqs.weight holds factors that are not Llama 3's scaling: pair {pair} has {found}, {expected} was expected")]
    RopeFactors { pair: usize, found: f32, expected: f32 },
    #[error("{path} has {free} bytes free, the import needs {needed}; free space or name another folder", path = path.display())]
    Space { path: PathBuf, free: u64, needed: u64 },
    #[error("the source's tokenizer or chat template can't be used: {0}")]
    Prompt(Box<ModelError>),
    #[error("a thread of the import ended early; try again, and report it if it does so again")]
    Thread,
}

impl ImportError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}

impl From<PromptError> for ImportError {
    fn from(error: PromptError) -> Self {
        Self::Prompt(Box::new(error.into()))
    }
}

/// What is imported, and how.
pub struct Import<'a> {
    /// GGUF file or Hugging Face folder.
    pub source: &'a Path,
    pub dest: &'a Path,
    /// Digest of the source, as [`source_sha256`] gives it; another one is refused.
    pub expected_sha256: Option<&'a str>,
    /// What the manifest calls the source; the file's or folder's name when `None`.
    pub source_name: Option<String>,
    pub threads: usize,
}

/// Imports `source` into the folder `dest` on all threads. A second import of the same source changes nothing and is quick.
pub fn import(source: &Path, dest: &Path, expected_sha256: Option<&str>, progress: &dyn Progress) -> Result<Outcome, ImportError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    Import { source, dest, expected_sha256, source_name: None, threads }.run(progress)
}

impl Import<'_> {
    pub fn run(self, progress: &dyn Progress) -> Result<Outcome, ImportError> {
        let sha256 = source_sha256(self.source, progress)?;
        if let Some(expected) = self.expected_sha256.filter(|e| !e.eq_ignore_ascii_case(&sha256)) {
            return Err(ImportError::WrongSource { path: self.source.to_owned(), found: sha256, expected: expected.to_owned() });
        }
        match destination(self.dest)? {
            Destination::Free => {}
            Destination::Holds(manifest) if manifest.source_sha256 == sha256 => return Ok(Outcome::AlreadyThere(manifest)),
            _ => return Err(ImportError::DestinationTaken { path: self.dest.to_owned() }),
        }

        let name = match &self.source_name {
            Some(name) => name.clone(),
            None => self.source.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        };
        let staging = Staging::beside(self.dest)?;
        let model_root = if self.source.is_dir() {
            folder::write_folder(&self, &staging.dir, progress)?
        } else {
            gguf::write_folder(&self, &staging.dir, progress)?
        };
        let manifest = Manifest::of_folder(&staging.dir, name, sha256, model_root)?;
        manifest.write(&staging.dir)?;
        staging.move_to(self.dest)?;
        Ok(Outcome::Imported(manifest))
    }

    /// What both kinds of source do last: files that the node would refuse are refused here, before the long part.
    fn write_checked(
        &self,
        config: &DecoderConfig,
        tensors: &[SourceTensor],
        dir: &Path,
        progress: &dyn Progress,
    ) -> Result<alloy::primitives::B256, ImportError> {
        check_prompter(config, &prompt::Prompter::open(dir)?).map_err(|error| ImportError::Prompt(Box::new(error)))?;
        let (parent, needed) = (parent_of(self.dest), stored_bytes(tensors));
        let free = free_bytes(parent).map_err(ImportError::io(parent))?;
        if free < needed {
            return Err(ImportError::Space { path: parent.to_owned(), free, needed });
        }
        write_weights(tensors, &dir.join("model.safetensors"), self.threads, progress)
    }
}

/// SHA-256 of a source: of a file its own, of a folder that of the lines `sha256sum` prints for the imported files by name.
pub fn source_sha256(source: &Path, progress: &dyn Progress) -> Result<String, ImportError> {
    let files = if source.is_dir() { folder::source_files(source)? } else { vec![source.to_owned()] };
    let mut total = 0;
    for file in &files {
        total += fs::metadata(file).map_err(ImportError::io(file))?.len();
    }
    progress.begin("check source", total);
    let mut lines = BTreeMap::new();
    for file in &files {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        lines.insert(name, sha256_file(file, &|n| progress.advance(n))?);
    }
    progress.end();
    if !source.is_dir() {
        return Ok(lines.into_values().next().unwrap_or_default());
    }
    let text: String = lines.iter().map(|(name, digest)| format!("{digest}  {name}\n")).collect();
    Ok(super::digest::sha256_bytes(text.as_bytes()))
}

/// What stands where the folder shall be.
pub(super) enum Destination {
    /// Nothing, or what may be replaced: a folder of ours in an older layout.
    Free,
    Holds(Manifest),
    Taken,
}

pub(super) fn destination(dest: &Path) -> Result<Destination, ImportError> {
    let mut entries = match fs::read_dir(dest) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Destination::Free),
        Err(_) => return Ok(Destination::Taken),
    };
    if dest.join(MANIFEST_FILE).exists() {
        return Ok(match Manifest::read(dest) {
            Ok(manifest) => Destination::Holds(manifest),
            Err(ManifestError::OlderFormat { .. }) if Manifest::is_all_of(dest)? => Destination::Free,
            Err(ManifestError::OlderFormat { .. }) => Destination::Taken,
            Err(error) => return Err(error.into()),
        });
    }
    Ok(if entries.next().is_some() { Destination::Taken } else { Destination::Free })
}

#[allow(unsafe_code)]
fn map_source(path: &Path) -> Result<Mmap, ImportError> {
    let file = File::open(path).map_err(ImportError::io(path))?;
    // SAFETY: read-only mapping of a file that its owner asked to import; one that truncates it meanwhile stops the import.
    unsafe { Mmap::map(&file) }.map_err(ImportError::io(path))
}

fn write_json(dir: &Path, name: &str, value: &Value) -> Result<(), ImportError> {
    let path = dir.join(name);
    // The engine's identity covers these bytes: their order must not hang on which crates are compiled beside this one.
    let mut value = value.clone();
    value.sort_all_objects();
    let text = serde_json::to_string_pretty(&value).map_err(|e| ImportError::Io { path: path.clone(), source: e.into() })?;
    fs::write(&path, text + "\n").map_err(ImportError::io(&path))
}
