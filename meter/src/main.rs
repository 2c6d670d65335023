//! The `meter` command.

mod quarantine;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use alloy::providers::{DynProvider, Provider, ProviderBuilder};
use alloy::signers::local::PrivateKeySigner;
use anyhow::{Context, Result};
use axum::Router;
use clap::{Parser, Subcommand};
use daemon::admin::{self, Readiness};
use daemon::clock::{SharedClock, SystemClock};
use daemon::keystore::{self, KeyCommand};
use daemon::{CancellationToken, logs, shutdown};
use meter::api::pool::PoolFeed;
use meter::api::{self, ApiState, listener};
use meter::chain::{ChainProxy, Depth, Mirror, MirrorSettings, MirrorStatus};
use meter::config::{Config, RATE_BPS_MAX};
use meter::identity::{Identity, Neighbours, RpcContractWallets};
use meter::ledger::{InstanceId, Ledger, LedgerSettings};
use meter::serving::benchmarks::Benchmarks;
use meter::serving::catalog::Catalog;
use meter::serving::demo::Demo;
use meter::serving::{Parts, Serving};
use meter::uptime::{self, UptimeStore, Watcher};
use quarantine::QuarantineCommand;
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore, watch};
use wire::deployment::Deployment;

/// Most blocks in one question for events; public endpoints refuse more.
const RANGE_BLOCKS_MAX: u64 = 2_000;
/// Longest wait for one answer of the chain's endpoint, milliseconds.
const CHAIN_TIMEOUT_MS: u64 = 10_000;

const EXAMPLES: &str = "\
Examples:
  meter key new --out settler.json --password-file settler.password
  meter check --config meter.toml
  meter run --config meter.toml
  meter audit --config meter.toml --json
  meter quarantine list --config meter.toml
";

/// The coordinator of ParalleliX AI: holds and captures credits, sends requests to nodes, answers clients.
#[derive(Parser)]
#[command(name = "meter", version, before_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until SIGTERM or Ctrl-C, then let running answers finish.
    Run {
        /// The config file; meter.example.toml explains it.
        #[arg(long)]
        config: PathBuf,
    },
    /// Read the config, open the key and every model, and say what would be served.
    Check {
        /// The config file.
        #[arg(long)]
        config: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Check that the ledger's books are right; exits with 2 when they are not.
    Audit {
        /// The config file.
        #[arg(long)]
        config: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Nodes that failed an audit: list them, show what was settled, clear one.
    Quarantine {
        #[command(subcommand)]
        command: QuarantineCommand,
    },
    /// Make, import or name an encrypted key.
    Key {
        #[command(subcommand)]
        command: KeyCommand,
    },
}

fn main() -> ExitCode {
    daemon::install_tls();
    let outcome = match Arguments::parse().command {
        Command::Run { config } => block_on(run(&config)),
        Command::Check { config, json } => check(&config, json),
        Command::Audit { config, json } => block_on(audit(&config, json)),
        Command::Quarantine { command } => block_on(quarantine(&command)),
        Command::Key { command } => command.run().map_err(Into::into).map(|address| {
            println!("{address}");
            ExitCode::SUCCESS
        }),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn block_on(work: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("the runtime did not start")?.block_on(work)
}

/// config → ledger → mirror → fleet → serve → drain.
async fn run(path: &Path) -> Result<ExitCode> {
    let config = Config::load(path)?;
    logs::init(&config.log)?;
    let stop = shutdown::on_signal()?;
    let recorder = admin::record_metrics()?;
    let clock = SystemClock::shared();
    let readiness = Readiness::of(&["ledger", "chain", "listener"]);
    // It outlives `stop`, so that health and metrics can be read while the meter drains.
    let end = CancellationToken::new();
    let admin = tokio::spawn(admin::serve(config.http.admin_listen, readiness.clone(), recorder, Router::new(), end.clone()));

    let deployment = config.deployment()?;
    let (settler, catalog) = open_files(&config, &deployment).await?;
    let ledger = open_ledger(&config, InstanceId(config.ledger.instance.clone()), clock.clone()).await?;
    readiness.pass("ledger");

    let mirror = open_mirror(&config, &deployment, ledger.clone(), clock.clone())?;
    tokio::spawn(report_chain(mirror.status(), readiness.clone()));
    let following = tokio::spawn(mirror.run(Arc::new(Notify::new()), end.clone()));

    let state = assemble(&config, deployment, ledger.clone(), catalog, settler, readiness.clone(), clock).await?;
    let listener =
        TcpListener::bind(config.http.listen).await.with_context(|| format!("`http.listen` = {} is not free", config.http.listen))?;
    tracing::info!(listen = %listener.local_addr()?, admin = %config.http.admin_listen, "meter serves");
    readiness.pass("listener");

    let serving = state.serving.clone();
    let days = UptimeStore::open(&config.database_url()?).await?;
    let watcher = Watcher::new(days, serving.rooms().fleet.clone(), serving.rooms().clock.clone(), state.uptime.clone());
    let watching = tokio::spawn(watcher.run(end.clone()));
    let benchmarks = Benchmarks::new(serving.clone(), config.benchmark, Arc::new(rand::random));
    let measuring = tokio::spawn(benchmarks.run(end.clone()));
    let drained = async {
        readiness.fail("listener", "draining");
        serving.drain().await;
    };
    tokio::select! {
        () = listener::serve(listener, api::router(state), &config.limits, &config.http.trusted_proxies, stop, drained) => {}
        ended = admin => ended.context("the admin listener broke")??,
    }

    end.cancel();
    following.await.context("the mirror broke")?;
    watching.await.context("the watch over the nodes broke")?;
    measuring.await.context("the measuring of nodes broke")?;
    ledger.close().await;
    tracing::info!("meter stopped");
    Ok(ExitCode::SUCCESS)
}

async fn assemble(
    config: &Config,
    deployment: Deployment,
    ledger: Ledger,
    catalog: Catalog,
    settler: PrivateKeySigner,
    readiness: Readiness,
    clock: SharedClock,
) -> Result<ApiState> {
    let page_chain = ChainProxy::new(&config.rpc_url()?, &deployment)?;
    let chain: DynProvider = ProviderBuilder::new().connect_http(config.rpc_url()?.parse().context("`chain.rpc_url` is no URL")?).erased();
    let neighbours =
        Neighbours { accounts: Some(Arc::new(ledger.clone())), contract_wallets: Some(Arc::new(RpcContractWallets::new(chain))) };
    let identity = Identity::open(&config.database_url()?, config.identity.clone(), clock.clone(), neighbours).await?;
    let serving = Serving::new(Parts {
        catalog,
        ledger: ledger.clone(),
        deployment,
        fallback_operators: config.network.fallback_operators.iter().copied().collect(),
        limits: config.limits.clone(),
        audits: config.audits,
        lot: Arc::new(|| rand::random_range(0..RATE_BPS_MAX)),
        clock,
    });
    let keepers: BTreeSet<_> = config.network.keepers.iter().copied().collect();
    let rendering = Arc::new(Semaphore::new(std::thread::available_parallelism().map_or(2, usize::from)));
    let pool = PoolFeed::new(config.limits.readers_max);
    Ok(ApiState {
        serving,
        identity,
        ledger,
        settler,
        keepers: Arc::new(keepers),
        readiness,
        rendering,
        pool,
        chain: page_chain,
        uptime: uptime::Board::default(),
        depth: depth(config),
        demo: Demo::of(config.demo.file.clone()),
        strict_transport: api::strict_transport(config.http.hsts_s(config.identity.https)),
    })
}

/// Key and models: both take seconds of one processor, so off the runtime's threads.
async fn open_files(config: &Config, deployment: &Deployment) -> Result<(PrivateKeySigner, Catalog)> {
    let (keys, models) = (config.settler.clone(), config.models.clone());
    let opened = tokio::task::spawn_blocking(move || -> Result<_> {
        Ok((keystore::open(&keys.keystore, &keys.password_file)?, Catalog::open(&models)?))
    });
    let (settler, catalog) = opened.await.context("opening files broke")??;
    if settler.address() != deployment.settler {
        tracing::warn!(key = %settler.address(), deployed = %deployment.settler, "the settler's key is not the deployment's; batches pass only if it was changed on chain");
    }
    Ok((settler, catalog))
}

async fn open_ledger(config: &Config, instance: InstanceId, clock: SharedClock) -> Result<Ledger> {
    Ok(Ledger::open(&config.database_url()?, LedgerSettings::of(instance), clock).await?)
}

fn open_mirror(config: &Config, deployment: &Deployment, ledger: Ledger, clock: SharedClock) -> Result<Mirror> {
    let settings = MirrorSettings {
        rpc_url: config.rpc_url()?,
        deployment: deployment.clone(),
        depth: depth(config),
        period_ms: config.chain.poll_ms,
        range_blocks_max: RANGE_BLOCKS_MAX,
        request_timeout_ms: CHAIN_TIMEOUT_MS,
    };
    Ok(Mirror::new(ledger, settings, clock)?)
}

fn depth(config: &Config) -> Depth {
    config.chain.confirmations.map_or(Depth::Finalized, Depth::Confirmations)
}

async fn report_chain(mut status: watch::Receiver<MirrorStatus>, readiness: Readiness) {
    loop {
        let now = status.borrow_and_update().clone();
        match now.error {
            Some(error) => readiness.fail("chain", error),
            None if now.in_step => readiness.pass("chain"),
            None => readiness.fail("chain", format!("applied block {} of {}", now.applied, now.head)),
        }
        metrics::gauge!("meter_chain_head_block").set(now.head as f64);
        metrics::gauge!("meter_chain_applied_block").set(now.applied as f64);
        if status.changed().await.is_err() {
            return;
        }
    }
}

fn check(path: &Path, json: bool) -> Result<ExitCode> {
    let config = Config::load(path)?;
    let deployment = config.deployment()?;
    config.database_url()?;
    config.rpc_url()?;
    let settler = keystore::open(&config.settler.keystore, &config.settler.password_file)?.address();
    let catalog = Catalog::open(&config.models)?;

    if json {
        let models: Vec<_> = catalog
            .iter()
            .map(|model| serde_json::json!({ "id": model.id, "model_root": model.model_root, "engine": model.engine, "context_tokens": model.context_tokens }))
            .collect();
        println!("{}", serde_json::json!({ "settler": settler, "chain_id": deployment.chain_id, "models": models }));
        return Ok(ExitCode::SUCCESS);
    }
    println!("settler   {settler}{}", if settler == deployment.settler { "" } else { " (not the deployment's)" });
    println!("chain     {}", deployment.chain_id);
    for model in catalog.iter() {
        println!(
            "model     {}\n  root    {}\n  engine  {}\n  context {} tokens",
            model.id, model.model_root, model.engine, model.context_tokens
        );
    }
    println!("config    ok");
    Ok(ExitCode::SUCCESS)
}

async fn quarantine(command: &QuarantineCommand) -> Result<ExitCode> {
    let ledger = open_beside(command.config()).await?;
    let done = command.run(&ledger).await;
    ledger.close().await;
    done
}

/// The ledger under a name of its own, so that the meter that runs beside it keeps its holds.
async fn open_beside(path: &Path) -> Result<Ledger> {
    let config = Config::load(path)?;
    open_ledger(&config, InstanceId(format!("beside-{}", std::process::id())), SystemClock::shared()).await
}

async fn audit(path: &Path, json: bool) -> Result<ExitCode> {
    let ledger = open_beside(path).await?;
    let report = ledger.audit().await?;
    ledger.close().await;

    if json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        for finding in &report.findings {
            println!("{}: {}: expected {}, found {}", finding.rule, finding.subject, finding.expected, finding.actual);
        }
        println!("{} rules checked, {} findings", report.rules, report.findings.len());
    }
    Ok(if report.clean() { ExitCode::SUCCESS } else { ExitCode::from(2) })
}
