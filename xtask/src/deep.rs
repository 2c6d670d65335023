//! `cargo xtask deep`: what every test run does briefly, at full depth. Needs forge, and cargo for the model.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;

use crate::command;
use crate::stop::Stop;
use crate::tools::Tools;
use crate::workspace::Workspace;

const BUILD_LIMIT: Duration = Duration::from_secs(900);
/// The longest of them takes an hour on a small machine that has nothing else to do.
const LIMIT: Duration = Duration::from_secs(6 * 3_600);
/// 1,000 runs of the invariants, in campaigns with a seed each: a run that is stopped has whole ones behind it.
const CAMPAIGNS: u32 = 20;
const RUNS: &str = "50";
/// That of `foundry.toml`; a campaign adds its number.
const SEED: u32 = 0x5052_4c58;
/// Streams of the differential run, and operations of each: 100,000 in all.
const STREAMS: &str = "200";
const OPERATIONS: &str = "500";

/// One part of a deep run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// I1 to I12, 1,000 runs of 200 calls for each token.
    Invariants,
    /// Each fuzz test with 50,000 inputs.
    Fuzz,
    /// 100,000 operations of the Rust model, replayed by the contracts.
    Model,
}

/// Runs `only`, or all parts; depth and number of inputs are in `foundry.toml`, profile `deep`. Of the invariants'
/// campaigns those before `from` are passed over.
pub fn run(workspace: &Workspace, only: Option<Part>, from: u32, stop: &Stop) -> Result<()> {
    let tools = Tools::ready(workspace, stop, &mut |line| eprintln!("{line}"))?;
    for part in Part::value_variants().iter().filter(|part| only.is_none_or(|only| only == **part)) {
        match part {
            Part::Invariants => invariants(workspace, &tools, from, stop)?,
            Part::Fuzz => command::show(forge_test(workspace, &tools).args(["--match-test", "^testFuzz_"]), LIMIT, stop)?,
            Part::Model => {
                write_streams(workspace, stop)?;
                let mut forge = forge_test(workspace, &tools);
                forge.env("MODEL_STREAMS", ".parallelix/model").env("MODEL_COUNT", STREAMS);
                command::show(forge.args(["--match-contract", "ModelTest$"]), LIMIT, stop)?;
            }
        }
    }
    Ok(())
}

fn invariants(workspace: &Workspace, tools: &Tools, from: u32, stop: &Stop) -> Result<()> {
    for campaign in from..=CAMPAIGNS {
        println!("campaign {campaign} of {CAMPAIGNS}, {RUNS} runs for each token; `--only invariants --from {campaign}` goes on here");
        let mut forge = forge_test(workspace, tools);
        forge.env("FOUNDRY_INVARIANT_RUNS", RUNS).env("FOUNDRY_FUZZ_SEED", format!("{:#x}", SEED + campaign));
        command::show(forge.args(["--match-contract", "InvariantsTest$"]), LIMIT, stop)?;
    }
    Ok(())
}

fn forge_test(workspace: &Workspace, tools: &Tools) -> Command {
    let mut forge = Command::new(&tools.forge);
    forge.current_dir(&workspace.root).arg("test").env("FOUNDRY_PROFILE", "deep");
    forge
}

/// The model's operations and what it says of each, for the contracts to follow.
fn write_streams(workspace: &Workspace, stop: &Stop) -> Result<()> {
    let mut model = workspace.cargo();
    model.args(["run", "--quiet", "--package", "model", "--", "--operations", OPERATIONS, "--streams", STREAMS, "--out"]);
    command::show(model.arg(workspace.home().join("model")), BUILD_LIMIT, stop)
}
