//! `cargo xtask prove` and `cargo xtask deep`: what is too long for every test run.
//!
//! Proofs need Python; halmos and slither are installed at fixed versions into an environment of their own. A deep run
//! needs forge alone.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::command;
use crate::stop::Stop;
use crate::tools::{Tools, require};
use crate::workspace::Workspace;

const INSTALL_LIMIT: Duration = Duration::from_secs(900);
/// A proof may take long on a small machine; each query of a solver has its own, shorter limit.
const LIMIT: Duration = Duration::from_secs(6 * 3_600);
const HALMOS: &str = "halmos==0.3.3";
const SLITHER: &str = "slither-analyzer==0.11.6";
/// Streams of the deep differential run, and operations of each: 100,000 in all.
const STREAMS: &str = "200";
const OPERATIONS: &str = "500";

/// Slither over the contracts, then halmos over `test/proof`. Findings of slither are answered in `docs/trust.md`.
pub fn prove(workspace: &Workspace, stop: &Stop) -> Result<()> {
    let tools = Tools::ready(workspace, stop, &mut |line| eprintln!("{line}"))?;
    let bin = environment(workspace, stop)?;
    slither(workspace, &tools, &bin, stop)?;
    let mut halmos = Command::new(bin.join("halmos"));
    halmos.current_dir(&workspace.root).env("FOUNDRY_PROFILE", "prove").env("PATH", path_with(&tools)?);
    halmos.args(["--forge-build-out", "out-prove", "--match-contract", "Proof$", "--loop", "8", "--solver-timeout-assertion", "0"]);
    command::show(&mut halmos, LIMIT, stop)
}

/// The invariants at 1,000 runs of 200 calls, and 100,000 operations of the model.
pub fn deep(workspace: &Workspace, stop: &Stop) -> Result<()> {
    let tools = Tools::ready(workspace, stop, &mut |line| eprintln!("{line}"))?;
    let streams = workspace.home().join("model");
    let mut model = workspace.cargo();
    model.args(["run", "--quiet", "--package", "model", "--", "--operations", OPERATIONS, "--streams", STREAMS, "--out"]);
    command::show(model.arg(&streams), INSTALL_LIMIT, stop)?;
    let mut forge = Command::new(&tools.forge);
    forge.current_dir(&workspace.root).args(["test", "--no-match-contract", "Gas"]).env("FOUNDRY_PROFILE", "deep");
    forge.env("MODEL_STREAMS", ".parallelix/model").env("MODEL_COUNT", STREAMS);
    command::show(&mut forge, LIMIT, stop)
}

/// The `bin` folder of a Python environment with both provers.
fn environment(workspace: &Workspace, stop: &Stop) -> Result<PathBuf> {
    require("python3", "Python 3.11 or later, with `venv`")?;
    let folder = workspace.home().join("prove");
    if !folder.join("bin/halmos").is_file() {
        eprintln!("installing {HALMOS} and {SLITHER} into {}", folder.display());
        command::capture(Command::new("python3").args(["-m", "venv"]).arg(&folder), INSTALL_LIMIT, stop)?;
        let mut pip = Command::new(folder.join("bin/pip"));
        command::capture(pip.args(["install", "--quiet", HALMOS, SLITHER]), INSTALL_LIMIT, stop)
            .context("the provers could not be installed")?;
    }
    Ok(folder.join("bin"))
}

/// Slither reads one compilation of everything, so it gets the profile that has one.
fn slither(workspace: &Workspace, tools: &Tools, bin: &Path, stop: &Stop) -> Result<()> {
    let mut forge = Command::new(&tools.forge);
    forge.current_dir(&workspace.root).args(["build", "--force", "--build-info", "--skip", "test/**", "script/**"]);
    command::capture(forge.env("FOUNDRY_PROFILE", "mutate"), INSTALL_LIMIT, stop)?;
    let mut slither = Command::new(bin.join("slither"));
    slither.current_dir(&workspace.root).args([".", "--ignore-compile", "--foundry-out-directory", "out-mutate", "--fail-none"]);
    slither.args(["--filter-paths", "node_modules|test|script"]).env("FOUNDRY_PROFILE", "mutate").env("PATH", path_with(tools)?);
    command::show(&mut slither, LIMIT, stop)
}

/// Both provers look for `forge` in PATH.
fn path_with(tools: &Tools) -> Result<std::ffi::OsString> {
    let folder = tools.forge.parent().context("forge has a folder")?.to_path_buf();
    let others = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths(std::iter::once(folder).chain(std::env::split_paths(&others))).context("PATH cannot be joined")
}
