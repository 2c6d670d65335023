//! `gpu-node`: the command line. Each subcommand is a file under `operator/`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use gpu_node::operator::Problem;
use gpu_node::operator::bench::BenchArgs;
use gpu_node::operator::device::DeviceArgs;
use gpu_node::operator::doctor::DoctorArgs;
use gpu_node::operator::generate::GenerateArgs;
use gpu_node::operator::init::InitArgs;
use gpu_node::operator::key::KeyArgs;
use gpu_node::operator::model::ModelArgs;
use gpu_node::operator::perplexity::PerplexityArgs;
use gpu_node::operator::register::RegisterArgs;
use gpu_node::operator::run::RunArgs;
use gpu_node::operator::status::StatusArgs;
use gpu_node::operator::verify::VerifyArgs;

/// Serve open models to the ParalleliX network
#[derive(Debug, Parser)]
#[command(
    name = "gpu-node",
    version,
    before_help = "Examples:
  gpu-node init
  gpu-node key new --out node-key.json --password-file node-key.password
  gpu-node model pull HuggingFaceTB/SmolLM2-135M-Instruct
  gpu-node register --owner-keystore owner.json --owner-password-file owner.password
  gpu-node doctor
  gpu-node run
  gpu-node status --json
  gpu-node verify proof.json --answer answer.json --model models/smollm2-135m-instruct",
    after_help = "Exit codes: 0 done, 1 failed, 2 usage, 3 you have to act first, 4 chain, meter or node does not answer, 5 a receipt does not verify."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(InitArgs),
    Key(KeyArgs),
    Model(ModelArgs),
    Register(RegisterArgs),
    Doctor(DoctorArgs),
    Device(DeviceArgs),
    Run(RunArgs),
    Status(StatusArgs),
    /// Answer one prompt on this machine
    Generate(GenerateArgs),
    /// Measure how fast this machine serves a model
    Bench(BenchArgs),
    /// Measure how well a model predicts a text
    Perplexity(PerplexityArgs),
    Verify(VerifyArgs),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Init(args) => args.run(),
        Command::Key(args) => args.run(),
        Command::Model(args) => args.run(),
        Command::Register(args) => args.run(),
        Command::Device(args) => args.run(),
        Command::Doctor(args) => args.run(),
        Command::Run(args) => args.run(),
        Command::Status(args) => args.run(),
        Command::Generate(args) => args.run(),
        Command::Bench(args) => args.run(),
        Command::Perplexity(args) => args.run(),
        Command::Verify(args) => args.run(),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(error.downcast_ref::<Problem>().map_or(1, Problem::code))
    })
}
