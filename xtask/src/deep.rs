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

/// Runs `only`, or all parts; runs and depth are in `foundry.toml`, profile `deep`.
pub fn run(workspace: &Workspace, only: Option<Part>, stop: &Stop) -> Result<()> {
    let tools = Tools::ready(workspace, stop, &mut |line| eprintln!("{line}"))?;
    for part in Part::value_variants().iter().filter(|part| only.is_none_or(|only| only == **part)) {
        stop.check()?;
        let mut forge = Command::new(&tools.forge);
        forge.current_dir(&workspace.root).arg("test").env("FOUNDRY_PROFILE", "deep");
        match part {
            Part::Invariants => forge.args(["--match-contract", "InvariantsTest$"]),
            Part::Fuzz => forge.args(["--match-test", "^testFuzz_"]),
            Part::Model => {
                write_streams(workspace, stop)?;
                forge.env("MODEL_STREAMS", ".parallelix/model").env("MODEL_COUNT", STREAMS);
                forge.args(["--match-contract", "ModelTest$"])
            }
        };
        command::show(&mut forge, LIMIT, stop)?;
    }
    Ok(())
}

/// The model's operations and what it says of each, for the contracts to follow.
fn write_streams(workspace: &Workspace, stop: &Stop) -> Result<()> {
    let mut model = workspace.cargo();
    model.args(["run", "--quiet", "--package", "model", "--", "--operations", OPERATIONS, "--streams", STREAMS, "--out"]);
    command::show(model.arg(workspace.home().join("model")), BUILD_LIMIT, stop)
}
