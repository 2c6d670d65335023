//! A model from a Hugging Face style hub: its files of one commit, downloaded, checked and imported.

mod choose;
mod download;
mod hub;

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use super::import::free_bytes;
use super::import::{Destination, Import, ImportError, Outcome, Progress, destination};
pub use hub::{Hub, HubUrl};

/// Waits and tries of a download.
#[derive(Debug, Clone, Copy)]
pub struct PullLimits {
    /// Until a connection stands and answers.
    pub answer: Duration,
    /// Between two pieces of a file; a connection that gives none for so long is cut.
    pub stall: Duration,
    /// Failures in a row without [`PROGRESS_BYTES`] between them, after which a file is given up.
    pub attempts: u32,
    /// Wait after the first failure; it doubles with each further one.
    pub backoff_first: Duration,
    pub backoff_most: Duration,
}

impl Default for PullLimits {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(30),
            stall: Duration::from_secs(30),
            attempts: 6,
            backoff_first: Duration::from_secs(1),
            backoff_most: Duration::from_secs(30),
        }
    }
}

/// What must have come for a connection to count as progress; less would let a hub hold us for ever, byte by byte.
pub const PROGRESS_BYTES: u64 = 1 << 20;

/// Why a model was not pulled. The destination is as it was before; what was downloaded is kept, and the next pull goes on there.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error("{text:?} is no repository; write OWNER/NAME, of letters, digits, `.`, `_` and `-`")]
    Repo { text: String },
    #[error("{text:?} is no revision; write a branch, a tag or a commit")]
    Revision { text: String },
    #[error("{url:?} can't be a hub: {reason}")]
    HubUrl { url: String, reason: &'static str },
    #[error("the hub {hub} does not answer as one: {reason}")]
    Hub { hub: String, reason: String },
    #[error("{what} is not to be had ({status}); check the name and the revision{remedy}")]
    NotFound { what: String, status: u16, remedy: &'static str },
    #[error("{repo} has {found}; {remedy}")]
    NothingToImport { repo: String, found: String, remedy: String },
    #[error("{file}: {reason}; {attempts} tries failed, start again to go on where it stopped")]
    GivenUp { file: String, reason: String, attempts: u32 },
    #[error("{file} has digest {found}, the hub names {expected}; it came damaged twice, the hub or a proxy serves something else")]
    Digest { file: String, found: String, expected: String },
    #[error("the hub names no SHA-256 for {file}; weights without one are not taken")]
    NoDigest { file: String },
    #[error("{path} has {free} bytes free, download and import need about {needed}; free space or name another folder", path = path.display())]
    Space { path: PathBuf, free: u64, needed: u64 },
    #[error("another pull works in {path}; wait for it to end", path = path.display())]
    Busy { path: PathBuf },
    #[error("{path} exists and holds something else; remove it or name another folder", path = path.display())]
    DestinationTaken { path: PathBuf },
    #[error("{path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Import(#[from] ImportError),
}

impl PullError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}

/// What is pulled, and where to.
pub struct Pull<'a> {
    pub hub: &'a Hub,
    /// `OWNER/NAME`.
    pub repo: &'a str,
    /// Branch, tag or commit.
    pub revision: &'a str,
    /// One GGUF file of the repository instead of its safetensors.
    pub file: Option<&'a str>,
    pub dest: &'a Path,
    pub threads: usize,
    /// Leave the downloaded files where they are.
    pub keep_download: bool,
    pub limits: PullLimits,
    /// Free bytes where a path is; [`free_bytes`], unless a test knows better.
    pub free_bytes: fn(&Path) -> io::Result<u64>,
}

impl Pull<'_> {
    /// Downloads what is missing, then imports. A second pull of the same commit changes nothing and downloads nothing.
    pub async fn run(&self, progress: &dyn Progress) -> Result<Outcome, PullError> {
        let listing = self.hub.listing(self.repo, self.revision, &self.limits).await?;
        let files = choose::files(self, &listing).await?;
        let name = self.source_name(&listing.commit);
        match destination(self.dest)? {
            Destination::Free => {}
            Destination::Holds(manifest) if manifest.source_name == name => return Ok(Outcome::AlreadyThere(manifest)),
            _ => return Err(PullError::DestinationTaken { path: self.dest.to_owned() }),
        }

        let folder = self.download_folder(&listing.commit);
        fs::create_dir_all(&folder).map_err(PullError::io(&folder))?;
        let _lock = lock(&folder)?;
        self.check_space(&files, &folder)?;
        for file in &files {
            let url = self.hub.file_url(self.repo, &listing.commit, &file.name);
            download::file(self.hub, &url, file, &folder, &self.limits, progress).await?;
        }

        let source = self.file.map_or_else(|| folder.clone(), |file| folder.join(file));
        let import = Import { source: &source, dest: self.dest, expected_sha256: None, source_name: Some(name), threads: self.threads };
        let outcome = import.run(progress)?;
        if !self.keep_download {
            fs::remove_dir_all(&folder).map_err(PullError::io(&folder))?;
        }
        Ok(outcome)
    }

    fn source_name(&self, commit: &str) -> String {
        let file = self.file.map(|file| format!("/{file}")).unwrap_or_default();
        format!("{}@{commit}{file}", self.repo)
    }

    /// Beside the destination, so that both are on one file system; hidden, so that no list shows it.
    fn download_folder(&self, commit: &str) -> PathBuf {
        let parent = self.dest.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        parent.join(".downloads").join(format!("{}@{commit}", self.repo.replace('/', "--")))
    }

    /// What is still to come, and the imported weights. Stored weights take 8.5 bits each: about half of 16-bit sources, and
    /// twice a 4-bit GGUF.
    fn check_space(&self, files: &[hub::HubFile], folder: &Path) -> Result<(), PullError> {
        let total: u64 = files.iter().map(|file| file.size).sum();
        let here: u64 = files.iter().map(|file| download::bytes_here(folder, file)).sum();
        let stored = if self.file.is_some() { total.saturating_mul(2) } else { total / 2 + total / 20 };
        let needed = (total - here.min(total)).saturating_add(stored);
        let free = (self.free_bytes)(folder).map_err(PullError::io(folder))?;
        if free < needed {
            return Err(PullError::Space { path: folder.to_owned(), free, needed });
        }
        Ok(())
    }
}

/// Held while a pull works in the folder; the system gives it back when the process ends, however it ends.
fn lock(folder: &Path) -> Result<File, PullError> {
    let path = folder.join(".lock");
    let file = File::create(&path).map_err(PullError::io(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(PullError::Busy { path: folder.to_owned() }),
        Err(TryLockError::Error(source)) => Err(PullError::Io { path, source }),
    }
}
