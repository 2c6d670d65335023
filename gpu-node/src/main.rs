//! `gpu-node`: the command line. Each subcommand is a file under `operator/`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use gpu_node::operator::{bench::BenchArgs, generate::GenerateArgs, model::ModelArgs};

/// Serve open models to the ParalleliX network
#[derive(Debug, Parser)]
#[command(
    name = "gpu-node",
    version,
    after_help = "Examples:
  gpu-node model import SmolLM2-135M-Instruct.Q4_1.gguf models/smollm2-135m-instruct
  gpu-node generate --model models/smollm2-135m-instruct \"What is the sea?\"
  gpu-node bench --model models/smollm2-135m-instruct"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Import, verify and list models
    Model(ModelArgs),
    /// Answer one prompt on this machine
    Generate(GenerateArgs),
    /// Measure how fast this machine serves a model
    Bench(BenchArgs),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Model(args) => args.run(),
        Command::Generate(args) => args.run(),
        Command::Bench(args) => args.run(),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
