//! `gpu-node model`: import, verify and list models.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::json;

use super::progress::TerminalProgress;
use crate::model::import::{Outcome, Progress, import};
use crate::model::{MANIFEST_FILE, Manifest};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  gpu-node model import SmolLM2-135M-Instruct.Q4_1.gguf models/smollm2-135m-instruct
  gpu-node model verify models/smollm2-135m-instruct
  gpu-node model list models --json")]
pub struct ModelArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Turn a GGUF file into a model folder; a second import of the same file changes nothing
    Import {
        /// GGUF file of a Llama-family model (F32, F16, Q4_0, Q4_1, Q8_0)
        gguf_file: PathBuf,
        /// Folder to make
        dest_dir: PathBuf,
        /// Refuse the file unless its SHA-256 is this
        #[arg(long, value_name = "HEX")]
        sha256: Option<String>,
        /// Print the manifest as JSON
        #[arg(long)]
        json: bool,
    },
    /// Hash every file of a model folder again and compare with its manifest
    Verify {
        /// Folder made by `import`
        dir: PathBuf,
        /// Print the manifest as JSON
        #[arg(long)]
        json: bool,
    },
    /// List the model folders inside a folder
    List {
        /// Folder that holds model folders
        dir: PathBuf,
        /// Print a JSON array
        #[arg(long)]
        json: bool,
    },
}

impl ModelArgs {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Import { gguf_file, dest_dir, sha256, json } => run_import(&gguf_file, &dest_dir, sha256.as_deref(), json),
            Command::Verify { dir, json } => run_verify(&dir, json),
            Command::List { dir, json } => run_list(&dir, json),
        }
    }
}

fn run_import(source: &Path, dest: &Path, sha256: Option<&str>, json: bool) -> anyhow::Result<ExitCode> {
    let outcome = import(source, dest, sha256, &TerminalProgress::new())?;
    let (manifest, word) = match &outcome {
        Outcome::Imported(manifest) => (manifest, "imported"),
        Outcome::AlreadyThere(manifest) => (manifest, "already there"),
    };
    print_manifest(manifest, dest, word, json)
}

fn run_verify(dir: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let manifest = Manifest::read(dir)?;
    let weights = dir.join("model.safetensors");
    let length = fs::metadata(&weights).with_context(|| format!("{} can't be read", weights.display()))?.len();
    let progress = TerminalProgress::new();
    progress.begin("verify weights", length);
    manifest.verify(dir, &|bytes| progress.advance(bytes))?;
    progress.end();
    print_manifest(&manifest, dir, "verified", json)
}

fn run_list(dir: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let mut rows = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("{} can't be read; name a folder of models", dir.display()))? {
        let path = entry?.path();
        if path.join(MANIFEST_FILE).is_file() {
            let manifest = Manifest::read(&path)?;
            let bytes = fs::metadata(path.join("model.safetensors")).map_or(0, |m| m.len());
            rows.push((path.file_name().unwrap_or_default().to_string_lossy().into_owned(), manifest, bytes));
        }
    }
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    if json {
        let list: Vec<_> = rows
            .iter()
            .map(|(name, m, bytes)| json!({"name": name, "model_root": m.model_root, "source": m.source_name, "weight_bytes": bytes}))
            .collect();
        println!("{}", serde_json::to_string_pretty(&list)?);
        return Ok(ExitCode::SUCCESS);
    }
    if rows.is_empty() {
        eprintln!("no models in {}; make one with `gpu-node model import`", dir.display());
    }
    for (name, manifest, bytes) in rows {
        println!("{name}  {:.1} MB  {}", bytes as f64 / 1e6, manifest.model_root);
    }
    Ok(ExitCode::SUCCESS)
}

fn print_manifest(manifest: &Manifest, dir: &Path, word: &str, json: bool) -> anyhow::Result<ExitCode> {
    if json {
        println!("{}", serde_json::to_string_pretty(manifest)?);
    } else {
        println!("{word}: {}", dir.display());
        println!("model root: {}", manifest.model_root);
    }
    Ok(ExitCode::SUCCESS)
}
