//! `cargo xtask prove`: slither over the contracts, and proofs of their rules with halmos.
//!
//! Both need Python, and are installed at fixed versions into an environment of their own.

use std::fs;
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
/// The provers, and a solver for halmos; `test/proof/solver.py` says why that one.
const PACKAGES: [&str; 3] = ["halmos==0.3.3", "bitwuzla==0.9.1", "slither-analyzer==0.11.6"];
/// Beside what pip installed: its packages, so that others are installed when this list changes.
const STAMP: &str = "parallelix-packages";

/// Slither over the contracts, then halmos over `test/proof`, or over its contracts that match. Findings of slither are
/// answered in `docs/trust.md`.
pub fn prove(workspace: &Workspace, contract: Option<&str>, stop: &Stop) -> Result<()> {
    let tools = Tools::ready(workspace, stop, &mut |line| eprintln!("{line}"))?;
    let bin = environment(workspace, stop)?;
    slither(workspace, &tools, &bin, stop)?;
    // halmos takes the vault's code from here, whatever the profile.
    command::capture(Command::new(&tools.forge).current_dir(&workspace.root).args(["build", "contracts"]), INSTALL_LIMIT, stop)?;
    let solver = format!("{} {}", bin.join("python").display(), workspace.root.join("test/proof/solver.py").display());
    let mut halmos = Command::new(bin.join("halmos"));
    halmos.current_dir(&workspace.root).env("FOUNDRY_PROFILE", "prove").env("PATH", path_with(&tools)?);
    halmos.args(["--forge-build-out", "out-prove", "--match-contract", contract.unwrap_or("Proof$"), "--loop", "8"]);
    halmos.args(["--solver-timeout-assertion", "0", "--solver-command", &solver]);
    command::show(&mut halmos, LIMIT, stop)
}

/// The `bin` folder of a Python environment with both provers.
fn environment(workspace: &Workspace, stop: &Stop) -> Result<PathBuf> {
    require("python3", "Python 3.11 or later, with `venv`")?;
    let folder = workspace.home().join("prove");
    let (stamp, packages) = (folder.join(STAMP), PACKAGES.join(" "));
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == packages) {
        return Ok(folder.join("bin"));
    }
    eprintln!("installing {packages} into {}", folder.display());
    command::capture(Command::new("python3").args(["-m", "venv"]).arg(&folder), INSTALL_LIMIT, stop)?;
    let mut pip = Command::new(folder.join("bin/pip"));
    command::capture(pip.args(["install", "--quiet"]).args(PACKAGES), INSTALL_LIMIT, stop).context("the provers could not be installed")?;
    fs::write(&stamp, packages).with_context(|| format!("cannot write {}", stamp.display()))?;
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
