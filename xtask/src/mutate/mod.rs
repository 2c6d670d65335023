//! `cargo xtask mutate`: how many small faults in the contracts the unit, fuzz and regression tests find.
//!
//! Each mutant is compiled without optimizer and tested in a copy of the contracts; one that no test fails on survives.
//! Survivors are to be answered: by a test, or by a reason in `docs/trust.md`. A run that was stopped goes on where it was.

mod compiler;
mod journal;
mod operators;

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use compiler::Compiler;
use journal::Journal;
pub use operators::{Mutant, mutants};
use serde::{Deserialize, Serialize};

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
    /// Forget what earlier runs found.
    pub fresh: bool,
}

/// What became of a mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
enum Fate {
    /// A test failed, or never ended.
    Killed,
    /// Every test passed.
    Survived,
    /// It does not compile, so nobody could have written it.
    Stillborn,
}

/// A mutant and where it belongs.
#[derive(Debug)]
struct Task {
    file: PathBuf,
    mutant: Mutant,
}

/// What the workers share.
struct Run<'a> {
    workspace: &'a Workspace,
    tools: &'a Tools,
    stop: &'a Stop,
    total: usize,
    queue: Mutex<VecDeque<Task>>,
    found: Mutex<Found>,
}

/// Fates so far, and where they are kept.
struct Found {
    journal: Journal,
    outcomes: Vec<(Task, Fate)>,
}

/// Runs the mutants, prints each survivor and the score, and a figure `mutation_score`.
pub fn run(workspace: &Workspace, wish: &Wish, stop: &Stop) -> Result<()> {
    let tools = Tools::ready(workspace, stop, &mut |line| eprintln!("{line}"))?;
    let tasks = tasks(workspace, wish)?;
    ensure!(!tasks.is_empty(), "no mutants: no source matches `{}`", wish.file.as_deref().unwrap_or_default());
    let total = tasks.len();
    let journal = journal(workspace, wish.fresh)?;
    let (known, open): (Vec<_>, Vec<_>) = tasks.into_iter().partition(|task| journal.fate(task).is_some());
    let outcomes: Vec<_> = known.into_iter().filter_map(|task| journal.fate(&task).map(|fate| (task, fate))).collect();
    println!("{total} mutants, {} of them known from earlier runs", outcomes.len());
    let jobs = if open.is_empty() { 0 } else { wish.jobs.max(1) };
    let run = Run {
        workspace,
        tools: &tools,
        stop,
        total,
        queue: Mutex::new(VecDeque::from(open)),
        found: Mutex::new(Found { journal, outcomes }),
    };
    let started = Instant::now();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs)
            .map(|number| {
                let run = &run;
                scope.spawn(move || worker(run, number))
            })
            .collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|_| anyhow::bail!("a worker panicked")))
    })?;
    let found = run.found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    report(&found.outcomes, started.elapsed());
    Ok(())
}

/// The journal for the contracts and tests as they are now.
fn journal(workspace: &Workspace, fresh: bool) -> Result<Journal> {
    let (mut contracts, mut tests) = (Vec::new(), Vec::new());
    for path in SOURCES {
        read_tree(&workspace.root.join(path), &mut contracts)?;
    }
    for path in COPIED.iter().chain(&BASES) {
        read_tree(&workspace.root.join(path), &mut tests)?;
    }
    let digest = |files: &[Vec<u8>]| journal::digest(&files.iter().map(Vec::as_slice).collect::<Vec<_>>());
    Journal::open(&workspace.home().join("mutate/journal.jsonl"), digest(&contracts), digest(&tests), fresh)
}

/// Names and contents of all files below `path`, in the order of their names.
fn read_tree(path: &Path, into: &mut Vec<Vec<u8>>) -> Result<()> {
    let problem = || format!("cannot read {}", path.display());
    if path.is_dir() {
        let mut entries: Vec<_> = fs::read_dir(path).with_context(problem)?.flatten().map(|entry| entry.path()).collect();
        entries.sort();
        return entries.iter().try_for_each(|entry| read_tree(entry, into));
    }
    into.push(path.file_name().unwrap_or_default().to_string_lossy().into_owned().into_bytes());
    into.push(fs::read(path).with_context(problem)?);
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
fn worker(run: &Run<'_>, number: usize) -> Result<()> {
    let Run { workspace, tools, stop, total, queue, found } = run;
    let folder = workspace.home().join("mutate").join(number.to_string());
    copy(workspace, &folder)?;
    let _compiler = Compiler::start(&folder, stop)?;
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
        if let Ok(mut found) = found.lock() {
            found.journal.record(&task, fate)?;
            let place = format!("{}:{}", task.file.display(), task.mutant.line);
            println!("[{}/{total}] {fate:?} {place}: {}", found.outcomes.len() + 1, task.mutant.change);
            found.outcomes.push((task, fate));
        }
    }
}

/// A worker's own contracts and tests; build results of earlier runs stay, tests that are gone do not.
fn copy(workspace: &Workspace, folder: &Path) -> Result<()> {
    for stale in ["contracts", "test"] {
        let stale = folder.join(stale);
        if stale.exists() {
            fs::remove_dir_all(&stale).with_context(|| format!("cannot remove {}", stale.display()))?;
        }
    }
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
    // In the order of the sources, whoever of the workers came first.
    let mut outcomes: Vec<_> = outcomes.iter().collect();
    outcomes.sort_by_key(|(task, _)| (task.file.clone(), task.mutant.span.start));
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
