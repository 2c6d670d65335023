//! `gpu-node model pull`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::Args;

use super::{MODELS_DIR, all_threads, print_outcome};
use crate::model::pull::{Hub, HubUrl, Pull, PullError, PullLimits, free_bytes};
use crate::operator::progress::TerminalProgress;
use crate::operator::{Problem, block_on};

/// Longest token file in bytes; tokens have about 40 characters.
const MAX_TOKEN_BYTES: u64 = 4_096;

/// Download a model from a hub and import it
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  gpu-node model pull HuggingFaceTB/SmolLM2-135M-Instruct
  gpu-node model pull Qwen/Qwen2.5-0.5B-Instruct models/qwen2.5-0.5b-instruct --revision main
  gpu-node model pull OWNER/NAME-GGUF --file name.q8_0.gguf
  gpu-node model pull meta-llama/Llama-3.2-1B-Instruct --token-file hub.token
  gpu-node model pull OWNER/NAME --hub https://hub.example.org --json

A pull that broke off goes on where it stopped. Every file is compared with the digest that the hub lists. Files lie in
.downloads beside the destination until they are imported.
Exit codes: 0 done, 1 failed, 3 you have to act first (free space, accept the model's terms), 4 the hub does not answer.")]
pub(super) struct PullArgs {
    /// Repository, OWNER/NAME
    repo: String,
    /// Folder to make; models/NAME when absent
    dest_dir: Option<PathBuf>,
    /// Branch, tag or commit
    #[arg(long, default_value = "main")]
    revision: String,
    /// One GGUF file of the repository instead of its safetensors
    #[arg(long, value_name = "NAME")]
    file: Option<String>,
    /// The hub; anything that speaks Hugging Face's interface
    #[arg(long, value_name = "URL", default_value = "https://huggingface.co")]
    hub: HubUrl,
    /// File with an access token, mode 0600, for models that ask for one
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Keep the downloaded files
    #[arg(long)]
    keep_download: bool,
    /// Print the manifest as JSON
    #[arg(long)]
    json: bool,
}

impl PullArgs {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let name = self.repo.rsplit('/').next().unwrap_or_default();
        let dest = self.dest_dir.clone().unwrap_or_else(|| Path::new(MODELS_DIR).join(name));
        let token = self.token_file.as_deref().map(read_token).transpose()?;
        let progress = TerminalProgress::new();
        let outcome = block_on(async {
            let hub = Hub::new(self.hub.clone(), token.as_deref())?;
            let pull = Pull {
                hub: &hub,
                repo: &self.repo,
                revision: &self.revision,
                file: self.file.as_deref(),
                dest: &dest,
                threads: all_threads(),
                keep_download: self.keep_download,
                limits: PullLimits::default(),
                free_bytes,
            };
            pull.run(&progress).await.map_err(problem)
        })?;
        print_outcome(&outcome, &dest, self.json)
    }
}

fn problem(error: PullError) -> anyhow::Error {
    match error {
        PullError::GivenUp { .. } | PullError::Hub { .. } => Problem::Unavailable(error.to_string()).into(),
        PullError::Space { .. } | PullError::Busy { .. } | PullError::DestinationTaken { .. } => {
            Problem::NeedsAction(error.to_string()).into()
        }
        PullError::NotFound { status: 401 | 403, .. } => Problem::NeedsAction(error.to_string()).into(),
        other => other.into(),
    }
}

fn read_token(path: &Path) -> anyhow::Result<String> {
    use std::os::unix::fs::MetadataExt;
    let unreadable = || format!("{} can't be read", path.display());
    let metadata = fs::metadata(path).with_context(unreadable)?;
    let mode = metadata.mode() & 0o777;
    ensure!(mode & 0o077 == 0, "{} has mode {mode:03o}, others can read the token; `chmod 600` it", path.display());
    ensure!(metadata.len() <= MAX_TOKEN_BYTES, "{} is {} bytes long, a token is shorter", path.display(), metadata.len());
    let token = fs::read_to_string(path).with_context(unreadable)?.trim().to_owned();
    ensure!(!token.is_empty(), "{} is empty", path.display());
    Ok(token)
}
