//! Running the specs of `web/e2e` in the browser.

use std::process::Command;

use anyhow::{Context, Result};

use super::build;
use super::network::PageNetwork;
use crate::stop::Stop;
use crate::workspace::Workspace;

/// The variable that names the facts file.
const FACTS: &str = "PARALLELIX_PAGE_FACTS";

/// The command that runs the specs whose file names contain one of `only`, or all of them.
pub fn command(workspace: &Workspace, running: &PageNetwork, only: &[String], stop: &Stop) -> Result<Command> {
    build::packages_ready(workspace, stop, &mut |line| println!("{line}")).context("the specs need the page's packages")?;
    let mut command = build::npm(workspace, &["run", "--silent", "e2e", "--"]);
    command.args(only).env(FACTS, &running.facts);
    Ok(command)
}
