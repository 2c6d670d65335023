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
    let mut command = script(workspace, running, "e2e", stop)?;
    command.arg("--").args(only);
    Ok(command)
}

/// The command that measures; prints lines `figure NAME VALUE UNIT` among others.
pub fn figures(workspace: &Workspace, running: &PageNetwork, stop: &Stop) -> Result<Command> {
    script(workspace, running, "figures", stop)
}

fn script(workspace: &Workspace, running: &PageNetwork, name: &str, stop: &Stop) -> Result<Command> {
    build::packages_ready(workspace, stop, &mut |line| println!("{line}")).context("the specs need the page's packages")?;
    let mut command = build::npm(workspace, &["run", "--silent", name]);
    command.env(FACTS, &running.facts);
    Ok(command)
}
