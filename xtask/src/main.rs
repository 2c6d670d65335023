//! The command line of `xtask`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use xtask::bench::{self, Bench};
use xtask::deep;
use xtask::kernels;
use xtask::mutate;
use xtask::page;
use xtask::prove;
use xtask::stop::Stop;
use xtask::suite::{self, Step};
use xtask::up::{self, Wish};
use xtask::workspace::Workspace;

/// Runs, tests and measures ParalleliX AI from a checkout
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    after_help = "Examples:
  cargo xtask up                              # the whole network; Ctrl-C stops it
  cargo xtask up --once \"Why is the sky blue?\" # one prompt, all eight steps to the payout, then stop
  cargo xtask test                            # every check, on SQLite and on PostgreSQL
  cargo xtask test --only contracts           # one step of it
  cargo xtask test --only page -- deposit     # the page's specs with that in their names, in a real browser
  cargo xtask bench engine                    # tokens per second on this machine"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring the whole network up: chain, contracts, meter, nodes, keeper, a funded depositor
    Up {
        /// Forget the chain, the ledger and the keys of earlier runs
        #[arg(long)]
        fresh: bool,
        /// Send this prompt, wait until the operator is credited on chain, stop
        #[arg(long, value_name = "PROMPT")]
        once: Option<String>,
        /// Run optimised binaries
        #[arg(long)]
        release: bool,
    },
    /// Build the page into web/dist, which the meter embeds when it is compiled
    Web,
    /// Run every check; the last line is `N passed, N failed`
    Test {
        /// Only this step
        #[arg(long, value_enum, value_name = "STEP")]
        only: Option<Step>,
        /// Of the step `page`, only the specs whose file names contain one of these
        #[arg(last = true, value_name = "SPEC", requires = "only")]
        specs: Vec<String>,
    },
    /// Compile the CUDA kernels for every architecture, without a GPU, into `.parallelix/kernels`; a release build embeds them
    Kernels,
    /// Run slither and prove the contracts' rules with halmos; needs Python, and PyPI at the first run
    Prove {
        /// Only the proofs of contracts that match this
        #[arg(long, value_name = "REGEX")]
        contract: Option<String>,
    },
    /// Run invariants, fuzz tests and the model's streams at full depth; takes an hour or more
    Deep {
        /// Only this part
        #[arg(long, value_enum, value_name = "PART")]
        only: Option<deep::Part>,
        /// Which of the invariants' campaigns to start with
        #[arg(long, default_value_t = 1, value_name = "CAMPAIGN")]
        from: u32,
    },
    /// Break the contracts in many small ways and count how many the tests find; lists the survivors
    Mutate {
        /// Only every n-th mutant
        #[arg(long, default_value_t = 1, value_name = "N")]
        every: usize,
        /// Pass over the first ones
        #[arg(long, default_value_t = 0, value_name = "COUNT")]
        skip: usize,
        /// Only files whose path contains this
        #[arg(long, value_name = "PART")]
        file: Option<String>,
        /// How many to test at once
        #[arg(long, default_value_t = 2)]
        jobs: usize,
        /// Forget what earlier runs found, which otherwise counts as long as the contracts are the same
        #[arg(long)]
        fresh: bool,
    },
    /// Measure one part; prints lines `figure NAME VALUE UNIT`
    Bench {
        /// What to measure
        #[arg(value_enum)]
        name: Bench,
    },
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    let workspace = Workspace::here();
    let result = Stop::on_signals().and_then(|stop| match command {
        Command::Up { fresh, once, release } => up::run(&workspace, &Wish { fresh, once, release }, &stop).map(|()| true),
        Command::Web => page::build::ready(&workspace, &stop, &mut |line| println!("{line}")).map(|()| true),
        Command::Test { only, specs } => suite::run(&workspace, only, &specs, &stop),
        Command::Kernels => kernels::run(&workspace, &stop, &mut |line| println!("{line}")).map(|(compiled, faults)| {
            faults.iter().for_each(|fault| eprintln!("{fault}"));
            println!("{compiled} pieces of machine code in {}", kernels::folder(&workspace).display());
            faults.is_empty()
        }),
        Command::Prove { contract } => prove::prove(&workspace, contract.as_deref(), &stop).map(|()| true),
        Command::Deep { only, from } => deep::run(&workspace, only, from, &stop).map(|()| true),
        Command::Mutate { every, skip, file, jobs, fresh } => {
            mutate::run(&workspace, &mutate::Wish { every, skip, file, jobs, fresh }, &stop).map(|()| true)
        }
        Command::Bench { name } => bench::run(&workspace, name, &stop).map(|()| true),
    });
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
