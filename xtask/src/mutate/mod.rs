//! `cargo xtask mutate`: how many small faults in the contracts the unit, fuzz and regression tests find.
//!
//! Each mutant is compiled without optimizer and tested in a copy of the contracts; one that no test fails on survives.
//! Survivors are to be answered: by a test, or by a reason in `docs/trust.md`.

mod operators;

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
pub use operators::{Mutant, mutants};

use crate::command;
use crate::stop::Stop;
use crate::tools::Tools;
use crate::workspace::Workspace;

/// Longest that one mutant may take: a loop without end is a find.
const MUTANT_LIMIT: Duration = Duration::from_secs(180);
/// The three contracts and all that they are made of.
const SOURCES: [&str; 3] = ["contracts", "contracts/abstracts", "contracts/libraries"];
/// What a worker's copy holds beside them. The deploy script is left out: it would be compiled for every mutant.
const COPIED: [&str; 10] = [
    "contracts/interfaces",
    "script/solc",
    "script/PRLX.sol",
    "test/unit",
    "test/fuzz",
    "test/regression",
    "test/mocks",
    "test/utils",
    "test/vectors",
    "foundry.toml",
];
const BASES: [&str; 2] = ["test/Base.sol", "test/Vectors.t.sol"];

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// Only every n-th mutant; 1 for all.
    pub every: usize,
    /// How many to pass over at the start.
    pub skip: usize,
    /// Only files whose path contains this.
    pub file: Option<String>,
    /// How many run at once.
    pub jobs: usize,
}

/// What became of a mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// A test failed, or never ended.
    Killed,
    /// Every test passed.
    Survived,
    /// It does not compile, so nobody could have written it.
    Stillborn,
}

/// A mutant and where it belongs.
struct Task {
    file: PathBuf,
    mutant: Mutant,
}

/// Runs the mutants, prints each survivor and the score, and a figure `mutation_score`.
pub fn run(workspace: &Workspace, wish: &Wish, stop: &Stop) -> Result<()> {
    let tools = Tools::ready(workspace, stop, &mut |line| eprintln!("{line}"))?;
    let tasks = tasks(workspace, wish)?;
    ensure!(!tasks.is_empty(), "no mutants: no source matches `{}`", wish.file.as_deref().unwrap_or_default());
    let total = tasks.len();
    let queue = Mutex::new(VecDeque::from(tasks));
    let outcomes = Mutex::new(Vec::new());
    let started = Instant::now();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..wish.jobs.max(1))
            .map(|number| {
                scope.spawn({
                    let (queue, outcomes, tools) = (&queue, &outcomes, &tools);
                    move || worker(workspace, tools, number, queue, outcomes, total, stop)
                })
            })
            .collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|_| anyhow::bail!("a worker panicked")))
    })?;
    let outcomes = outcomes.into_inner().unwrap_or_default();
    report(&outcomes, started.elapsed());
    Ok(())
}

fn tasks(workspace: &Workspace, wish: &Wish) -> Result<Vec<Task>> {
    let mut tasks = Vec::new();
    for folder in SOURCES {
        let path = workspace.root.join(folder);
        let entries = fs::read_dir(&path).with_context(|| format!("cannot list {}", path.display()))?;
        let mut names: Vec<_> =
            entries.flatten().map(|entry| entry.file_name()).filter(|name| name.to_string_lossy().ends_with(".sol")).collect();
        names.sort();
        for name in names {
            let file = Path::new(folder).join(name);
            if wish.file.as_ref().is_some_and(|wanted| !file.to_string_lossy().contains(wanted)) {
                continue;
            }
            let source = fs::read_to_string(workspace.root.join(&file)).with_context(|| format!("cannot read {}", file.display()))?;
            tasks.extend(mutants(&source).into_iter().map(|mutant| Task { file: file.clone(), mutant }));
        }
    }
    Ok(tasks.into_iter().skip(wish.skip).step_by(wish.every.max(1)).collect())
}

/// Takes one mutant after the other until none is left.
fn worker(
    workspace: &Workspace,
    tools: &Tools,
    number: usize,
    queue: &Mutex<VecDeque<Task>>,
    outcomes: &Mutex<Vec<(Task, Fate)>>,
    total: usize,
    stop: &Stop,
) -> Result<()> {
    let folder = workspace.home().join("mutate").join(number.to_string());
    copy(workspace, &folder)?;
    let clean = forge_test(tools, &folder, stop)?;
    ensure!(clean == Fate::Survived, "the tests do not pass on the contracts as they are; nothing to measure");
    loop {
        let Some(task) = queue.lock().ok().and_then(|mut queue| queue.pop_front()) else { return Ok(()) };
        stop.check()?;
        let path = folder.join(&task.file);
        let source = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut text = source.clone();
        text.replace_range(task.mutant.span.clone(), &task.mutant.replacement);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        let fate = forge_test(tools, &folder, stop);
        fs::write(&path, source).with_context(|| format!("cannot write {}", path.display()))?;
        let fate = fate?;
        if let Ok(mut outcomes) = outcomes.lock() {
            let place = format!("{}:{}", task.file.display(), task.mutant.line);
            println!("[{}/{total}] {fate:?} {place}: {}", outcomes.len() + 1, task.mutant.change);
            outcomes.push((task, fate));
        }
    }
}

/// A worker's own contracts and tests; build results of earlier runs stay.
fn copy(workspace: &Workspace, folder: &Path) -> Result<()> {
    for path in SOURCES.iter().chain(&COPIED).chain(&BASES) {
        let (from, to) = (workspace.root.join(path), folder.join(path));
        copy_tree(&from, &to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    }
    let modules = folder.join("node_modules");
    if !modules.exists() {
        std::os::unix::fs::symlink(workspace.root.join("node_modules"), &modules)
            .with_context(|| format!("cannot link {}", modules.display()))?;
    }
    Ok(())
}

fn copy_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    if !from.is_dir() {
        fs::create_dir_all(to.parent().unwrap_or(to))?;
        return fs::copy(from, to).map(drop);
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        copy_tree(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}

fn forge_test(tools: &Tools, folder: &Path, stop: &Stop) -> Result<Fate> {
    let mut forge = Command::new(&tools.forge);
    forge.current_dir(folder).args(["test", "--fail-fast", "--silent"]);
    forge.env("FOUNDRY_PROFILE", "mutate").env("FOUNDRY_FUZZ_RUNS", "48").env("FOUNDRY_DISABLE_NIGHTLY_WARNING", "1");
    match command::capture(&mut forge, MUTANT_LIMIT, stop) {
        Ok(_) => Ok(Fate::Survived),
        Err(error) => {
            stop.check()?;
            let said = format!("{error:#}");
            Ok(if said.contains("Compiler run failed") || said.contains("Error (") { Fate::Stillborn } else { Fate::Killed })
        }
    }
}

fn report(outcomes: &[(Task, Fate)], elapsed: Duration) {
    let count = |fate: Fate| outcomes.iter().filter(|(_, found)| *found == fate).count();
    let (killed, survived) = (count(Fate::Killed), count(Fate::Survived));
    println!("\nsurvivors:");
    for (task, _) in outcomes.iter().filter(|(_, fate)| *fate == Fate::Survived) {
        println!("  {}:{}: {}", task.file.display(), task.mutant.line, task.mutant.change);
    }
    let viable = (killed + survived).max(1);
    println!("{killed} of {viable} mutants killed, {} did not compile, in {} s", count(Fate::Stillborn), elapsed.as_secs());
    println!("figure mutation_score {:.1} percent", 100.0 * killed as f64 / viable as f64);
}
