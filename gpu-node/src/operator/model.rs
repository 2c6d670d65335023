//! `gpu-node model`: import, pull, verify, list and remove models. One file a subcommand.

mod import;
mod list;
mod pull;
mod random;
mod rm;
mod verify;

use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::print_line;
use crate::model::Manifest;
use crate::model::import::Outcome;

/// Where models are looked for and put when no path says otherwise.
const MODELS_DIR: &str = "models";

/// Import, pull, verify, list and remove models
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  gpu-node model pull HuggingFaceTB/SmolLM2-135M-Instruct
  gpu-node model import SmolLM2-135M-Instruct.Q4_1.gguf models/smollm2-135m-instruct
  gpu-node model import Qwen2.5-0.5B-Instruct/ models/qwen2.5-0.5b-instruct
  gpu-node model list
  gpu-node model verify models/smollm2-135m-instruct
  gpu-node model rm models/smollm2-135m-instruct --dry-run

Families: Llama 3, Qwen 2.5, Qwen 3, Mistral, SmolLM2. Weights are stored as int8, 8.5 bits each, whatever the source has.")]
pub struct ModelArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Pull(pull::PullArgs),
    Import(import::ImportArgs),
    List(list::ListArgs),
    Verify(verify::VerifyArgs),
    Random(random::RandomArgs),
    Rm(rm::RmArgs),
}

impl ModelArgs {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Pull(args) => args.run(),
            Command::Import(args) => args.run(),
            Command::List(args) => args.run(),
            Command::Verify(args) => args.run(),
            Command::Random(args) => args.run(),
            Command::Rm(args) => args.run(),
        }
    }
}

fn print_outcome(outcome: &Outcome, dir: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let (manifest, word) = match outcome {
        Outcome::Imported(manifest) => (manifest, "imported"),
        Outcome::AlreadyThere(manifest) => (manifest, "already there"),
    };
    print_manifest(manifest, dir, word, json)
}

fn print_manifest(manifest: &Manifest, dir: &Path, word: &str, json: bool) -> anyhow::Result<ExitCode> {
    if json {
        print_line(serde_json::to_string_pretty(manifest)?)?;
    } else {
        print_line(format_args!("{word}: {}", dir.display()))?;
        print_line(format_args!("model root: {}", manifest.model_root))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn all_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
