//! `cargo xtask test`: every check of the project, in order, on SQLite and on PostgreSQL.

pub mod postgres;
mod steps;
pub mod summary;

use std::io::IsTerminal;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

pub use steps::Step;
use summary::Count;

use crate::command;
use crate::stop::Stop;
use crate::workspace::Workspace;

/// Longest that one step may take.
const STEP_LIMIT: Duration = Duration::from_secs(60 * 60);

/// Lines of a step's failure that the report repeats.
const FAILURE_LINES: usize = 10;

/// What a step came to.
#[derive(Debug)]
struct Outcome {
    step: Step,
    elapsed: Duration,
    count: Count,
    /// Why it did not pass.
    failure: Option<String>,
}

/// Runs every step, or only one, and prints the list of steps with their durations.
///
/// The last line is `N passed, N failed`: the tests of all runners, and one more failure for a step that failed without a
/// failed test (a lint, a build, a missing PostgreSQL). Of the step `page` only the specs named by `specs`. False when anything failed.
pub fn run(workspace: &Workspace, only: Option<Step>, specs: &[String], stop: &Stop) -> Result<bool> {
    let mut suite = Suite { workspace, stop, specs, tools: None, postgres: None, binaries: None, not_run: Vec::new() };
    let mut outcomes: Vec<Outcome> = Vec::new();
    let steps = only.map_or_else(|| Step::ALL.to_vec(), |step| vec![step]);
    for step in steps {
        stop.check()?;
        println!("\n== {} ==", step.name());
        let started = Instant::now();
        let missing = outcomes.iter().find(|outcome| outcome.failure.is_some() && step.needs(outcome.step));
        let blocked = missing.map(|outcome| format!("not run, because `{}` failed", outcome.step.name()));
        let mut count = Count::default();
        let failure = match blocked {
            Some(reason) => Some(reason),
            None => suite.step(step, &mut count).err().map(|error| format!("{error:#}")),
        };
        if let Some(failure) = &failure {
            println!("{}: {failure}", step.name());
            count.failed = count.failed.max(1);
        }
        outcomes.push(Outcome { step, elapsed: started.elapsed(), count, failure });
    }
    let not_run = std::mem::take(&mut suite.not_run);
    drop(suite);
    Ok(report(&outcomes, &not_run))
}

fn report(outcomes: &[Outcome], not_run: &[&str]) -> bool {
    println!("\n{:<22} {:>9} {:>8} {:>8}", "step", "seconds", "passed", "failed");
    let mut total = Count::default();
    for Outcome { step, elapsed, count, failure } in outcomes {
        let verdict = if failure.is_some() { "  FAILED" } else { "" };
        println!("{:<22} {:>9.1} {:>8} {:>8}{verdict}", step.name(), elapsed.as_secs_f64(), count.passed, count.failed);
        total.add_all(*count);
    }
    for Outcome { step, failure, .. } in outcomes {
        for line in failure.iter().flat_map(|failure| failure.lines().take(FAILURE_LINES)) {
            println!("{}: {line}", step.name());
        }
    }
    for reason in not_run {
        println!("{reason}");
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    total.failed == 0
}

/// What the steps share: each is made by the first step that needs it.
struct Suite<'a> {
    workspace: &'a Workspace,
    stop: &'a Stop,
    /// Parts of names of the page's specs; none is all.
    specs: &'a [String],
    tools: Option<crate::tools::Tools>,
    postgres: Option<Option<postgres::Postgres>>,
    binaries: Option<crate::build::Binaries>,
    /// What this machine can't run, each said again at the end.
    not_run: Vec<&'static str>,
}

impl Suite<'_> {
    /// Runs `command` with its output shown line by line, and counts the tests that it reports.
    fn show(&self, command: &mut Command, count: &mut Count) -> Result<()> {
        if std::io::stdout().is_terminal() {
            command.env("CARGO_TERM_COLOR", "always");
        }
        println!("$ {}", command::describe(command));
        let mut own = Count::default();
        let status = command::stream(command, STEP_LIMIT, self.stop, |line| {
            println!("{line}");
            own.read(line);
        })?;
        count.add_all(own);
        if !status.success() {
            bail!("`{}` failed ({status})", command::describe(command));
        }
        Ok(())
    }
}
