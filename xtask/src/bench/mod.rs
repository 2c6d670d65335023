//! `cargo xtask bench NAME`: figures of one part, as lines `figure NAME VALUE UNIT`.

mod engine;

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde_json::Value;

use crate::command;
use crate::page::network::PageNetwork;
use crate::page::{browser, specs};
use crate::secret;
use crate::stop::Stop;
use crate::suite::postgres::Postgres;
use crate::tools::Tools;
use crate::up;
use crate::workspace::Workspace;

const BENCH_LIMIT: Duration = Duration::from_secs(1_800);

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Bench {
    /// The engine beside llama.cpp on the same weights: speed, fairness beside a compilation, perplexity.
    Engine,
    /// Durable holds and captures per second, on SQLite and, where it is installed, on PostgreSQL.
    Ledger,
    /// Gas of every function of the contracts.
    Gas,
    /// The page on a slowed processor: typing beside a long conversation and a fast answer, and a first visit.
    Page,
}

/// Builds what is needed, optimised, and measures.
pub fn run(workspace: &Workspace, bench: Bench, stop: &Stop) -> Result<()> {
    match bench {
        Bench::Engine => engine::run(workspace, stop),
        Bench::Ledger => ledger(workspace, stop),
        Bench::Gas => gas(workspace, stop),
        Bench::Page => page(workspace, stop),
    }
}

fn ledger(workspace: &Workspace, stop: &Stop) -> Result<()> {
    let folder = std::env::temp_dir().join(format!("parallelix-bench-{}", secret::random_hex(8)?));
    fs::create_dir(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let sqlite = ledger_on(workspace, "sqlite", &format!("sqlite://{}", folder.join("ledger.db").display()), stop);
    fs::remove_dir_all(&folder).ok();
    sqlite?;
    match Postgres::temporary(true, stop)? {
        Some(postgres) => ledger_on(workspace, "postgres", &postgres.url, stop),
        None => {
            eprintln!("PostgreSQL was not measured: no installed binaries to start a server of its own from");
            Ok(())
        }
    }
}

/// Runs the ledger's benchmark on an empty database and adds the store's name to its figures.
fn ledger_on(workspace: &Workspace, store: &str, url: &str, stop: &Stop) -> Result<()> {
    let mut cargo = workspace.cargo();
    cargo.args(["run", "--release", "--quiet", "--package", "meter", "--example", "bench_ledger", "--", url]);
    let said = command::capture(&mut cargo, BENCH_LIMIT, stop)?;
    for figure in said.lines().filter_map(|line| line.strip_prefix("figure ")) {
        println!("figure {store}_{figure}");
    }
    Ok(())
}

/// Figures of the page in an installed Chromium, against a network of optimised binaries.
fn page(workspace: &Workspace, stop: &Stop) -> Result<()> {
    let mut say = |line: &str| eprintln!("{line}");
    let browser = browser::find().context(browser::MISSING)?;
    let parts = up::parts(workspace, true, stop, &mut say)?;
    let mut running = PageNetwork::start(workspace, parts, &browser, stop, &mut say)?;
    let said = specs::figures(workspace, &running, stop).and_then(|mut figures| command::capture(&mut figures, BENCH_LIMIT, stop));
    running.network.stop_all();
    for figure in said?.lines().filter(|line| line.starts_with("figure ")) {
        println!("{figure}");
    }
    Ok(())
}

/// What others' systems take for the same work, in gas: measured or published.
///
/// Sources and method: 0G and Graph are their own contracts, measured; x402, Aligned and XMTP are their debit paths written
/// again from reading, a lower bound; the facilitator batch is a formula that its authors published, without a debit per user.
/// Onboarding of 0G and Graph is for the first operator alone, ours for all of them.
const ANCHORS: [(&str, &str, u64); 12] = [
    ("gas_marginal_per_user", "xmtp", 8_723),
    ("gas_marginal_per_user", "aligned", 17_803),
    ("gas_marginal_per_user", "x402", 18_848),
    ("gas_marginal_per_user", "0g", 58_185),
    ("gas_marginal_per_user", "graph", 135_675),
    ("gas_all_in_per_user", "xmtp", 9_014),
    ("gas_per_request", "facilitator_batch", 1_040),
    ("gas_per_request", "x402", 2_400),
    ("gas_per_request", "0g", 5_900),
    ("gas_claim_per_operator", "x402", 45_500),
    ("gas_onboarding", "graph", 146_000),
    ("gas_onboarding", "0g", 593_643),
];

/// The gas tests write their figures as snapshots; those that have an anchor are followed by it.
fn gas(workspace: &Workspace, stop: &Stop) -> Result<()> {
    let tools = Tools::ready(workspace, stop, &mut |line| eprintln!("{line}"))?;
    let mut forge = Command::new(&tools.forge);
    forge.current_dir(&workspace.root).args(["test", "--match-contract", "Gas"]).env("FORGE_SNAPSHOT_EMIT", "true");
    command::capture(&mut forge, BENCH_LIMIT, stop)?;
    let path = workspace.root.join("snapshots/Gas.json");
    let text = fs::read_to_string(&path).with_context(|| format!("the gas tests wrote no {}", path.display()))?;
    let snapshot: Value = serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))?;
    let figures = gas_figures(&snapshot);
    if figures.is_empty() {
        bail!("the gas tests wrote no figures into {}", path.display());
    }
    for (name, gas) in figures {
        println!("figure {name} {gas} gas");
    }
    Ok(())
}

/// Ours in the snapshot's order, each followed by its anchors as `NAME_ANCHOR`.
fn gas_figures(snapshot: &Value) -> Vec<(String, String)> {
    let mut figures = Vec::new();
    for (name, value) in snapshot.as_object().into_iter().flatten() {
        let words: Vec<&str> = name.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
        figures.push((words.join("_"), value.as_str().unwrap_or_default().to_owned()));
        for (_, anchor, gas) in ANCHORS.iter().filter(|(anchored, ..)| anchored == name) {
            figures.push((format!("{name}_{anchor}"), gas.to_string()));
        }
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gas_figure_stands_beside_its_anchors() {
        let snapshot = serde_json::json!({"claimMany 10 operators": "1900", "gas_claim_per_operator": "190"});
        let expected = [("claimMany_10_operators", "1900"), ("gas_claim_per_operator", "190"), ("gas_claim_per_operator_x402", "45500")];
        let found = gas_figures(&snapshot);
        assert_eq!(found.iter().map(|(name, gas)| (name.as_str(), gas.as_str())).collect::<Vec<_>>(), expected);
    }
}
