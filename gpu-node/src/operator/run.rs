//! `gpu-node run`: serves until told to stop.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use clap::Args;
use daemon::CancellationToken;
use daemon::admin::{self, Readiness};
use daemon::clock::SystemClock;
use daemon::{keystore, logs, shutdown};
use wire::node::{Device, ServedModel};

use super::chain::operator_of_node;
use super::machine::Memory;
use super::status::Report;
use super::{ConfigFlag, block_on};
use crate::config::{Config, ModelConfig};
use crate::engine::{Engine, EngineConfig, EngineHandle};
use crate::link::outbox::Outbox;
use crate::link::serve::ServingModel;
use crate::link::{Declared, Identity, Node, Stores};
use crate::proof::auditor::{AuditedModel, Auditor};
use crate::proof::store::ProofStore;

/// How often readiness follows the links.
const READINESS_PERIOD: Duration = Duration::from_millis(500);

/// Serve the configured models to the configured meters
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  gpu-node run
  gpu-node run --config /etc/parallelix/gpu-node.toml

SIGTERM or Ctrl-C drains: no new job, running answers end (at most `drain_s`), receipts are acknowledged. A second one stops at once.
Exit codes: 0 drained, 1 failed, 3 you have to act first (register the key), 4 the chain does not answer, 130 stopped at once.")]
pub struct RunArgs {
    #[command(flatten)]
    config: ConfigFlag,
}

/// The node, once its models are loaded.
type Started = Arc<OnceLock<Arc<Node>>>;

impl RunArgs {
    /// Serves until a signal.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let config = Config::read(&self.config.config)?;
        logs::init(&config.log)?;
        block_on(serve(config))
    }
}

async fn serve(config: Config) -> anyhow::Result<ExitCode> {
    let stop = shutdown::on_signal()?;
    let readiness = Readiness::of(&["models", "link"]);
    let started = Started::default();
    let metrics = admin::record_metrics()?;
    let admin_stop = CancellationToken::new();
    let routes = status_route(Arc::clone(&started));
    let admin = admin::serve(config.admin_listen, readiness.clone(), metrics, routes, admin_stop.clone());
    // The admin listener outlives the drain, so that an operator can watch it.
    let serving = async {
        let served = serve_jobs(&config, &readiness, &started, &stop).await;
        admin_stop.cancel();
        served
    };
    let (admin, served) = tokio::join!(
        async {
            let ended = admin.await;
            stop.cancel();
            ended
        },
        serving
    );
    admin?;
    served?;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

async fn serve_jobs(config: &Config, readiness: &Readiness, started: &Started, stop: &CancellationToken) -> anyhow::Result<()> {
    let deployment = config.deployment()?;
    let signer = keystore::open(&config.keystore, &config.password_file)?;
    let outbox = Outbox::open(&config.state_dir, config.receipts_max)?;
    let clock = SystemClock::shared();
    let proofs = ProofStore::open(&config.state_dir.join("proofs"), config.proofs.limits(), clock.now_s())?;
    let operator = operator_of_node(config, &deployment, signer.address()).await?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"), %operator, node = %signer.address(), chain_id = deployment.chain_id,
        admin_listen = %config.admin_listen, unacknowledged_receipts = outbox.len(), proofs = proofs.len(), "loading models"
    );
    for meter in config.meters.iter().filter(|meter| meter.is_exposed()) {
        tracing::warn!(%meter, "prompts cross the network in the clear; use https:// for this meter");
    }
    let loading = tokio::task::spawn_blocking({
        let config = config.clone();
        move || load_engines(&config)
    });
    let engines = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        loaded = loading => loaded.context("loading the models")??,
    };
    readiness.pass("models");
    let device = device(&engines);
    let serving =
        config.models.iter().zip(&engines).map(|(of, engine)| serving_model(config, of, engine)).collect::<anyhow::Result<_>>()?;
    let identity = Identity { operator, signer, deployment };
    let jitter = Arc::new(rand::random::<f64>);
    let stores = Stores { outbox, proofs };
    let declared = Declared { device, region: config.region.clone() };
    let node = Node::new(identity, serving, declared, config.link_limits(), stores, clock, jitter);
    let _ = started.set(Arc::clone(&node));
    tokio::select! {
        () = node.run(&config.meters, stop) => {}
        () = follow_links(&node, readiness) => {}
    }
    engines.iter().for_each(|(_, engine)| engine.stop());
    Ok(())
}

/// Opens, checks and starts every configured model. Blocks while weights are hashed and loaded.
fn load_engines(config: &Config) -> anyhow::Result<Vec<(ServedModel, EngineHandle)>> {
    config.models.iter().map(|model| load_engine(config, model)).collect()
}

fn load_engine(config: &Config, model: &ModelConfig) -> anyhow::Result<(ServedModel, EngineHandle)> {
    let began = std::time::Instant::now();
    let engine = Engine::start(&model.path, engine_config(config))
        .with_context(|| format!("model `{}` in {}; see `gpu-node doctor`", model.id, model.path.display()))?;
    let identity = engine.identity();
    let served = ServedModel {
        model: model.id.clone(),
        model_root: identity.model_root,
        engine: identity.engine,
        context_tokens: u32::try_from(identity.context_tokens).unwrap_or(u32::MAX),
    };
    tracing::info!(
        model = model.id, model_root = %served.model_root, engine = %served.engine, context_tokens = served.context_tokens,
        numeric_contract = identity.numeric_contract, took_ms = began.elapsed().as_millis() as u64, "model loaded"
    );
    Ok((served, engine))
}

fn serving_model(config: &Config, of: &ModelConfig, (model, engine): &(ServedModel, EngineHandle)) -> anyhow::Result<ServingModel> {
    let audited = AuditedModel { folder: of.path.clone(), model_root: model.model_root, engine: model.engine };
    let auditor = Auditor::start(audited, config.proofs.audits_waiting_max).context("starting the auditor's thread")?;
    Ok(ServingModel { model: model.clone(), engine: Arc::new(engine.clone()), auditor: Arc::new(auditor) })
}

fn engine_config(config: &Config) -> EngineConfig {
    let defaults = EngineConfig::default();
    EngineConfig {
        threads: if config.engine.threads == 0 { defaults.threads } else { config.engine.threads },
        nice: config.engine.nice,
        max_active: config.capacity as usize,
        // The link takes no more jobs than `capacity`, so none waits.
        max_queued: config.capacity as usize,
        prefill_chunk_tokens: config.engine.prefill_chunk_tokens,
        prefill_alone_chunks: defaults.prefill_alone_chunks,
        kv_budget_bytes: config.engine.kv_memory_mib.saturating_mul(1 << 20),
        context_tokens: config.engine.context_tokens,
        backend: config.backend,
    }
}

fn device(engines: &[(ServedModel, EngineHandle)]) -> Device {
    let identity = engines.first().map(|(_, engine)| engine.identity());
    Device {
        kind: identity.map_or("cpu", |identity| identity.device_kind).into(),
        name: identity.map_or_else(String::new, |identity| identity.device_name.clone()),
        memory_bytes: identity.and_then(|identity| identity.device_memory_bytes).unwrap_or_else(|| Memory::now().total_bytes),
        parallelism: identity.map_or(0, |identity| identity.parallelism as u32),
    }
}

/// Keeps readiness true to the links; never ends.
async fn follow_links(node: &Node, readiness: &Readiness) {
    let mut period = tokio::time::interval(READINESS_PERIOD);
    loop {
        period.tick().await;
        match node.board().any_linked() {
            Ok(()) => readiness.pass("link"),
            Err(reasons) => readiness.fail("link", reasons),
        }
        let load = node.status(false);
        if let Some(reason) = &load.device_error {
            readiness.fail("models", format!("the device failed: {reason}"));
        }
        metrics::gauge!("node_jobs_active").set(f64::from(load.active));
        metrics::gauge!("node_jobs_queued").set(f64::from(load.queued));
        metrics::gauge!("node_decode_tokens_per_second").set(f64::from(load.decode_tokens_per_s));
        metrics::gauge!("node_prefill_tokens_per_second").set(f64::from(load.prefill_tokens_per_s));
        metrics::gauge!("node_memory_used_bytes").set(load.memory_used_bytes as f64);
        metrics::gauge!("node_receipts_unacknowledged").set(node.outbox().len() as f64);
    }
}

fn status_route(started: Started) -> Router {
    let status = move || {
        let node = started.get().cloned();
        async move { status(node.as_deref()) }
    };
    Router::new().route("/status", get(status))
}

fn status(node: Option<&Node>) -> Response {
    match node {
        Some(node) => axum::Json(Report::of(node)).into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "loading models\n").into_response(),
    }
}

/// Folder of a model, for checks that load nothing.
pub(super) fn weights_file(model: &ModelConfig) -> PathBuf {
    model.path.join("model.safetensors")
}
