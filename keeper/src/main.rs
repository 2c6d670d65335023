//! `keeper`: the settlement daemon's command line.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use daemon::admin::{self, Readiness};
use daemon::clock::{SharedClock, SystemClock};
use daemon::keystore::{self, KeyCommand};
use keeper::config::Config;
use keeper::journal::Journal;
use keeper::reconcile::{Keeper, Step};
use keeper::report;

const EXAMPLES: &str = "Examples:
  keeper key new --out keeper-key.json --password-file keeper-password
  keeper settle --dry-run --config keeper.toml   what the next batch would be; moves nothing
  keeper run --config keeper.toml                the daemon
  keeper status --config keeper.toml --json
  keeper report --config keeper.toml --csv > settlements.csv

Exit codes: 0 done, 1 failed (the reason is on standard error), 2 wrong usage.";

/// Batches of receipts that one report shows unless --count says otherwise.
const REPORT_COUNT: u32 = 100;

/// Batches operators' receipts into on-chain payouts.
#[derive(Parser)]
#[command(version, about, before_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Settle for as long as the process runs.
    Run(ConfigFlag),
    /// Do one round and say what it did.
    Settle {
        #[command(flatten)]
        config: ConfigFlag,
        /// Print what the next batch would be, as JSON; sign and send nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Show the batch under way and the newest final one.
    Status {
        #[command(flatten)]
        config: ConfigFlag,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// List batches with operators, amounts, gas and transactions, newest first.
    Report {
        #[command(flatten)]
        config: ConfigFlag,
        /// As JSON.
        #[arg(long, conflicts_with = "csv")]
        json: bool,
        /// As CSV, one line for each operator of each batch.
        #[arg(long)]
        csv: bool,
        /// How many batches.
        #[arg(long, default_value_t = REPORT_COUNT)]
        count: u32,
    },
    /// Make, import or show the key that pays for gas.
    #[command(subcommand)]
    Key(KeyCommand),
}

#[derive(clap::Args)]
struct ConfigFlag {
    /// TOML file; `keeper.example.toml` explains every setting.
    #[arg(long, default_value = "keeper.toml")]
    config: PathBuf,
}

fn main() -> ExitCode {
    daemon::install_tls();
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("keeper: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run(flag) => daemonize(&flag.config).await,
        Command::Settle { config, dry_run: true } => dry_run(&config.config).await,
        Command::Settle { config, dry_run: false } => settle_once(&config.config).await,
        Command::Status { config, json } => status(&config.config, json).await,
        Command::Report { config, json, csv, count } => report(&config.config, json, csv, count).await,
        Command::Key(command) => {
            println!("{}", command.run()?);
            Ok(())
        }
    }
}

async fn daemonize(path: &Path) -> anyhow::Result<()> {
    let config = Config::read(path)?;
    daemon::logs::init(&config.log)?;
    let (period, listen) = (Duration::from_millis(config.period_ms), config.admin_listen);
    let shutdown = daemon::shutdown::on_signal().context("signal handlers")?;
    let readiness = Readiness::of(&["round"]);
    let metrics = admin::record_metrics()?;
    let keeper = open(config).await?;
    let admin = tokio::spawn(admin::serve(listen, readiness.clone(), metrics, Default::default(), shutdown.clone()));

    let clock: SharedClock = SystemClock::shared();
    tracing::info!(admin = %listen, period_ms = period.as_millis() as u64, "keeper started");
    let mut ended = std::pin::pin!(admin);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            // Only an error ends it before the token does.
            admin = &mut ended => return admin.context("admin listener")?.context("admin listener"),
            () = one_round(&keeper, &clock, &readiness) => {},
        }
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = tokio::time::sleep(period) => {},
        }
    }
    tracing::info!("keeper stopped");
    Ok(())
}

/// Ends between any two steps without harm, so a signal may drop it.
async fn one_round(keeper: &Keeper, clock: &SharedClock, readiness: &Readiness) {
    match keeper.round(clock.now_s()).await {
        Ok(_) => {
            metrics::counter!("keeper_rounds_total", "outcome" => "ok").increment(1);
            readiness.pass("round");
        }
        Err(error) => {
            metrics::counter!("keeper_rounds_total", "outcome" => "error").increment(1);
            readiness.fail("round", error.to_string());
            tracing::warn!(%error, "round ended early");
        }
    }
}

async fn settle_once(path: &Path) -> anyhow::Result<()> {
    let config = Config::read(path)?;
    daemon::logs::init(&config.log)?;
    let keeper = open(config).await?;
    for step in keeper.round(SystemClock::shared().now_s()).await? {
        match step {
            Step::Moved { what, seq } => println!("seq {seq}: {what:?}"),
            Step::Waits(reason) => println!("waits: {reason}"),
        }
    }
    Ok(())
}

async fn dry_run(path: &Path) -> anyhow::Result<()> {
    let config = Config::read(path)?;
    let (batch, now) = (config.batch, SystemClock::shared().now_s());
    let signer = keystore::open(&config.keystore, &config.password_file)?;
    // Reads beside a running daemon; without a journal there is nothing that it could have refused before.
    let journal = if config.journal.exists() { Journal::read(&config.journal).await? } else { Journal::in_memory().await? };
    let keeper = keeper::open(config, signer, journal).await?;
    let (seq, draft) = keeper.dry_run(now).await?;
    print_json(&draft.view(seq, &batch, now)?)
}

async fn status(path: &Path, json: bool) -> anyhow::Result<()> {
    let config = Config::read(path)?;
    let journal = Journal::read(&config.journal).await?;
    let status = report::status(&journal, keystore::address(&config.keystore).ok()).await?;
    if json {
        return print_json(&status);
    }
    match &status.keeper {
        Some(keeper) => println!("keeper      {keeper}"),
        None => println!("keeper      unknown; the keystore names no address"),
    }
    for (title, line) in [("under way", &status.active), ("last final", &status.last_final)] {
        match line {
            Some(line) => println!("{title:<11} {}", summary(line)),
            None => println!("{title:<11} none"),
        }
    }
    Ok(())
}

async fn report(path: &Path, json: bool, csv: bool, count: u32) -> anyhow::Result<()> {
    let config = Config::read(path)?;
    let lines = report::lines(&Journal::read(&config.journal).await?, count).await?;
    if json {
        return print_json(&lines);
    }
    if csv {
        print!("{}", report::csv(&lines));
        return Ok(());
    }
    for line in &lines {
        println!("{}", summary(line));
    }
    Ok(())
}

fn summary(line: &report::BatchLine) -> String {
    let operators: Vec<String> = line.operators.iter().map(|amount| format!("{}: {} PRLX", amount.operator, amount.credits)).collect();
    let transaction = line.transaction.map_or_else(|| "-".to_owned(), |hash| hash.to_string());
    let note = if line.note.is_empty() { String::new() } else { format!("  ({})", line.note) };
    format!(
        "seq {:<6} {:<11} {:>5} receipts  operators [{}]  gas {}  tx {transaction}{note}",
        line.seq,
        line.state,
        line.receipts,
        operators.join(", "),
        line.gas_used,
    )
}

async fn open(config: Config) -> anyhow::Result<Keeper> {
    let signer = keystore::open(&config.keystore, &config.password_file)?;
    let journal = Journal::open(&config.journal, &config.deployment()?).await?;
    keeper::open(config, signer, journal).await
}

fn print_json<T: serde::Serialize>(value: &T) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}
