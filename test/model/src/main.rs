//! Writes streams for `test/Model.t.sol`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;

/// Writes random operations and what the contracts must make of them
#[derive(Debug, Parser)]
struct Cli {
    /// Seed of the first stream; each further one has the next number
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Operations of a stream
    #[arg(long, default_value_t = 500)]
    operations: usize,
    /// How many streams
    #[arg(long, default_value_t = 1)]
    streams: u64,
    /// Folder for `0.bin`, `1.bin`, …
    #[arg(long)]
    out: PathBuf,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    fs::create_dir_all(&cli.out).with_context(|| format!("cannot create {}", cli.out.display()))?;
    for number in 0..cli.streams {
        let path = cli.out.join(format!("{number}.bin"));
        fs::write(&path, model::stream::stream(cli.seed + number, cli.operations))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
