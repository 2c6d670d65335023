//! GGUF file → Hugging Face folder, written beside its destination and moved there whole.

mod config;
mod tensors;
mod tokenizer;
pub mod writer;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::digest::{DigestError, sha256_file};
use super::gguf::{Gguf, GgufError};
use super::manifest::{MANIFEST_FILE, Manifest, ManifestError};
use super::panels::QuantizeError;

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

/// Why a file was not imported. The destination is as it was before.
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
    #[error("{path} has SHA-256 {found}, {expected} was asked for; fetch the file again", path = path.display())]
    WrongSource { path: PathBuf, found: String, expected: String },
    #[error("{path} exists and holds something else; remove it or name another folder", path = path.display())]
    DestinationTaken { path: PathBuf },
    #[error("{path} is a model of architecture {found:?}; \"llama\" is imported", path = path.display())]
    Architecture { path: PathBuf, found: String },
    #[error("{key} is {found:?}; {known} is imported")]
    Tokenizer { key: &'static str, found: String, known: &'static str },
    #[error("tensor {tensor}: {source}")]
    Quantize { tensor: String, source: QuantizeError },
    #[error("{what} is {value}, which the file's own tensors or lists contradict")]
    Inconsistent { what: &'static str, value: String },
}

impl ImportError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}

/// Imports `source` into the folder `dest`. A second import of the same source changes nothing and is quick.
pub fn import(source: &Path, dest: &Path, expected_sha256: Option<&str>, progress: &dyn Progress) -> Result<Outcome, ImportError> {
    let length = fs::metadata(source).map_err(ImportError::io(source))?.len();
    progress.begin("check source", length);
    let sha256 = sha256_file(source, &|n| progress.advance(n))?;
    progress.end();
    if let Some(expected) = expected_sha256.filter(|e| !e.eq_ignore_ascii_case(&sha256)) {
        return Err(ImportError::WrongSource { path: source.to_owned(), found: sha256, expected: expected.to_owned() });
    }
    if dest.join(MANIFEST_FILE).exists() {
        let manifest = Manifest::read(dest)?;
        if manifest.source_sha256 == sha256 {
            return Ok(Outcome::AlreadyThere(manifest));
        }
    }
    let taken = match fs::read_dir(dest) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    };
    if taken {
        return Err(ImportError::DestinationTaken { path: dest.to_owned() });
    }

    let staging = Staging::beside(dest)?;
    let manifest = write_folder(source, &sha256, &staging.dir, progress)?;
    staging.move_to(dest)?;
    Ok(Outcome::Imported(manifest))
}

fn write_folder(source: &Path, sha256: &str, dir: &Path, progress: &dyn Progress) -> Result<Manifest, ImportError> {
    let file = File::open(source).map_err(ImportError::io(source))?;
    let map = map_source(&file).map_err(ImportError::io(source))?;
    let in_source = |error| ImportError::Gguf { path: source.to_owned(), source: error };
    let gguf = Gguf::parse(&map).map_err(in_source)?;
    let architecture = gguf.text("general.architecture").map_err(in_source)?;
    if architecture != "llama" {
        return Err(ImportError::Architecture { path: source.to_owned(), found: architecture.to_owned() });
    }

    let shape = config::ModelShape::of(&gguf, in_source)?;
    let vocabulary = tokenizer::Vocabulary::of(&gguf, in_source)?;
    if vocabulary.len() as u64 != shape.vocab_size {
        return Err(ImportError::Inconsistent { what: "number of tokens", value: vocabulary.len().to_string() });
    }
    write_json(dir, "config.json", &shape.config_json(&vocabulary))?;
    write_json(dir, "generation_config.json", &vocabulary.generation_config_json())?;
    write_json(dir, "tokenizer.json", &vocabulary.tokenizer_json())?;
    write_json(dir, "tokenizer_config.json", &vocabulary.tokenizer_config_json(shape.context_tokens))?;
    let model_root = tensors::write_safetensors(&gguf, &shape, &dir.join("model.safetensors"), progress, in_source)?;

    let name = source.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let manifest = Manifest::of_folder(dir, name, sha256.to_owned(), model_root)?;
    manifest.write(dir)?;
    Ok(manifest)
}

#[allow(unsafe_code)]
fn map_source(file: &File) -> io::Result<Mmap> {
    // SAFETY: read-only mapping of a file that its owner asked to import; one that truncates it meanwhile stops the import.
    unsafe { Mmap::map(file) }
}

fn write_json(dir: &Path, name: &str, value: &serde_json::Value) -> Result<(), ImportError> {
    let path = dir.join(name);
    let text = serde_json::to_string_pretty(value).map_err(|e| ImportError::Io { path: path.clone(), source: e.into() })?;
    fs::write(&path, text + "\n").map_err(ImportError::io(&path))
}

/// A folder beside the destination that disappears unless it is moved there.
struct Staging {
    dir: PathBuf,
    done: bool,
}

impl Staging {
    fn beside(dest: &Path) -> Result<Self, ImportError> {
        let name = dest.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let parent = match dest.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(parent).map_err(ImportError::io(parent))?;
        let dir = parent.join(format!(".{name}.importing-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir); // left by a killed import of the same process id
        fs::create_dir(&dir).map_err(ImportError::io(&dir))?;
        Ok(Self { dir, done: false })
    }

    /// Makes the files durable, then renames; the destination is absent or whole, at any moment.
    fn move_to(mut self, dest: &Path) -> Result<(), ImportError> {
        for entry in fs::read_dir(&self.dir).map_err(ImportError::io(&self.dir))? {
            let path = entry.map_err(ImportError::io(&self.dir))?.path();
            File::open(&path).and_then(|file| file.sync_all()).map_err(ImportError::io(&path))?;
        }
        if dest.exists() {
            fs::remove_dir(dest).map_err(ImportError::io(dest))?; // empty, or this fails
        }
        fs::rename(&self.dir, dest).map_err(ImportError::io(dest))?;
        self.done = true;
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.done {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}
