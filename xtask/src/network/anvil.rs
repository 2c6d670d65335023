//! anvil as a chain that survives restarts: its state is dumped every few seconds and at the end, and loaded at the start.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::plan::{Plan, Ports};
use super::process::Program;
use crate::tools::Tools;

/// Chain id of every network here.
pub(super) const CHAIN_ID: u64 = 31337;
/// First of anvil's accounts, whose key is public: deploys, and hands out test PRLX.
pub(super) const DEV_ACCOUNT: &str = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266";

const DUMP_SECONDS: u64 = 5;
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// How anvil is started: a block for each transaction at once, and one each `block_time_s`, so that depth grows by itself.
/// Also puts the last whole dump in place of one that a kill cut short.
pub(super) fn program(plan: &Plan, ports: &Ports, tools: &Tools) -> Result<Program> {
    let folder = plan.dir.join("chain");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let state = folder.join("state.json");
    keep_whole_dump(&state, &folder.join("state.whole.json"))?;
    let arguments = format!(
        "--host 127.0.0.1 --port {} --chain-id {CHAIN_ID} --block-time {} --mixed-mining --state-interval {DUMP_SECONDS} --state",
        ports.chain, plan.pace.block_time_s
    );
    let mut arguments: Vec<String> = arguments.split(' ').map(str::to_owned).collect();
    arguments.push(state.display().to_string());
    Ok(Program { name: "chain".into(), binary: tools.anvil.clone(), arguments, folder, environment: Vec::new(), stop_limit: STOP_LIMIT })
}

fn keep_whole_dump(state: &Path, whole: &Path) -> Result<()> {
    let is_whole = |path: &Path| fs::read(path).is_ok_and(|bytes| serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).is_ok());
    if is_whole(state) {
        fs::copy(state, whole).with_context(|| format!("cannot write {}", whole.display()))?;
    } else if is_whole(whole) {
        fs::copy(whole, state).with_context(|| format!("cannot write {}", state.display()))?;
    } else {
        fs::remove_file(state).ok();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_that_was_cut_short_is_replaced_by_the_last_whole_one() {
        let folder = tempfile::tempdir().unwrap();
        let (state, whole) = (folder.path().join("state.json"), folder.path().join("state.whole.json"));
        fs::write(&state, r#"{"block": 1}"#).unwrap();
        keep_whole_dump(&state, &whole).unwrap();
        fs::write(&state, r#"{"block": 2, "acc"#).unwrap();
        keep_whole_dump(&state, &whole).unwrap();
        assert_eq!(fs::read_to_string(&state).unwrap(), r#"{"block": 1}"#);
    }
}
