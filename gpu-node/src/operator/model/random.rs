//! `gpu-node model random`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::model::random::{self, RandomShape};
use crate::operator::print_line;

/// Write a model of seeded noise, to measure or compare devices without a download
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  gpu-node model random --shape 8b models/random-8b
  gpu-node bench --model models/random-8b --batch 1,8,32,128
  gpu-node device --check --model models/random-8b")]
pub(super) struct RandomArgs {
    /// Folder to make
    dest_dir: PathBuf,
    /// Whose shapes
    #[arg(long, value_enum, default_value_t = RandomShape::Tiny)]
    shape: RandomShape,
    /// The same seed gives the same model
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl RandomArgs {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let root = random::write(&self.dest_dir, self.shape, self.seed)?;
        print_line(format_args!("written: {}", self.dest_dir.display()))?;
        print_line(format_args!("model root: {root}"))?;
        Ok(ExitCode::SUCCESS)
    }
}
