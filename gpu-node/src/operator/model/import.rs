//! `gpu-node model import`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{all_threads, print_outcome};
use crate::model::import::Import;
use crate::operator::progress::TerminalProgress;

/// Turn a GGUF file or a Hugging Face folder into a model folder
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  gpu-node model import SmolLM2-135M-Instruct.Q4_1.gguf models/smollm2-135m-instruct
  gpu-node model import Qwen2.5-0.5B-Instruct/ models/qwen2.5-0.5b-instruct
  gpu-node model import model.gguf models/mine --sha256 b179c952…db53 --json

GGUF: F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K; architectures llama, qwen2, qwen3; byte-level BPE.
Folder: config.json, model.safetensors (or shards and their index) in bf16, f16 or f32, tokenizer.json, tokenizer_config.json.
A second import of the same source changes nothing; a folder made by an older version is replaced. Exit codes: 0 done, 1 failed.")]
pub(super) struct ImportArgs {
    /// GGUF file, or folder as Hugging Face publishes it
    source: PathBuf,
    /// Folder to make
    dest_dir: PathBuf,
    /// Refuse the source unless its SHA-256 is this; of a folder: of the lines that `sha256sum` prints for its files
    #[arg(long, value_name = "HEX")]
    sha256: Option<String>,
    /// Threads that quantise; all when absent
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Print the manifest as JSON
    #[arg(long)]
    json: bool,
}

impl ImportArgs {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let import = Import {
            source: &self.source,
            dest: &self.dest_dir,
            expected_sha256: self.sha256.as_deref(),
            source_name: None,
            threads: self.threads.unwrap_or_else(all_threads),
        };
        print_outcome(&import.run(&TerminalProgress::new())?, &self.dest_dir, self.json)
    }
}
