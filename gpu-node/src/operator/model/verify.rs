//! `gpu-node model verify`.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use super::print_manifest;
use crate::model::Manifest;
use crate::model::import::Progress;
use crate::operator::progress::TerminalProgress;

/// Hash every file of a model folder again and compare with its manifest
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  gpu-node model verify models/smollm2-135m-instruct
  gpu-node model verify models/smollm2-135m-instruct --json

Exit codes: 0 every file is as it was imported, 1 one is not.")]
pub(super) struct VerifyArgs {
    /// Folder made by `import` or `pull`
    dir: PathBuf,
    /// Print the manifest as JSON
    #[arg(long)]
    json: bool,
}

impl VerifyArgs {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let manifest = Manifest::read(&self.dir)?;
        let weights = self.dir.join("model.safetensors");
        let length = fs::metadata(&weights).with_context(|| format!("{} can't be read", weights.display()))?.len();
        let progress = TerminalProgress::new();
        progress.begin("verify weights", length);
        manifest.verify(&self.dir, &|bytes| progress.advance(bytes))?;
        progress.end();
        print_manifest(&manifest, &self.dir, "verified", self.json)
    }
}
