//! `cargo xtask bench NAME`: figures of one part, as lines `figure NAME VALUE UNIT`.

mod engine;

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde_json::Value;

use crate::command;
use crate::secret;
use crate::stop::Stop;
use crate::suite::postgres::Postgres;
use crate::tools::Tools;
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
}

/// Builds what is needed, optimised, and measures.
pub fn run(workspace: &Workspace, bench: Bench, stop: &Stop) -> Result<()> {
    match bench {
        Bench::Engine => engine::run(workspace, stop),
        Bench::Ledger => ledger(workspace, stop),
        Bench::Gas => gas(workspace, stop),
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

/// The gas tests write their figures as snapshots.
fn gas(workspace: &Workspace, stop: &Stop) -> Result<()> {
    let tools = Tools::ready(workspace, stop, &mut |line| eprintln!("{line}"))?;
    let mut forge = Command::new(&tools.forge);
    forge.current_dir(&workspace.root).args(["test", "--match-contract", "Gas"]).env("FORGE_SNAPSHOT_EMIT", "true");
    command::capture(&mut forge, BENCH_LIMIT, stop)?;
    let folder = workspace.root.join("snapshots");
    let entries = fs::read_dir(&folder).with_context(|| format!("the gas tests wrote no {}", folder.display()))?;
    let mut count = 0;
    for entry in entries {
        let path = entry.context("cannot list the snapshots")?.path();
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let snapshot: Value = serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))?;
        for (name, value) in snapshot.as_object().into_iter().flatten() {
            let words: Vec<&str> = name.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
            println!("figure {} {} gas", words.join("_"), value.as_str().unwrap_or_default());
            count += 1;
        }
    }
    if count == 0 {
        bail!("the gas tests wrote no figures into {}", folder.display());
    }
    Ok(())
}
