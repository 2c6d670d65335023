//! The network that the page's specs run against, and the file that tells them what is where.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::model::MODEL_ID;
use crate::network::demo;
use crate::network::depositor::Terms;
use crate::network::plan::{Pace, Plan, Twin};
use crate::network::{Network, Parts};
use crate::stop::Stop;
use crate::workspace::Workspace;

const NAME: &str = "page";
/// Name of the second model.
const TWIN_ID: &str = "smollm2-135m-twin";

/// A running network and its facts.
#[derive(Debug)]
pub struct PageNetwork {
    /// The processes.
    pub network: Network,
    /// `network.json` for the specs. Holds no secret.
    pub facts: PathBuf,
}

impl PageNetwork {
    /// Starts from nothing, so that every run sees the same.
    pub fn start(workspace: &Workspace, parts: Parts, browser: &Path, stop: &Stop, say: &mut dyn FnMut(&str)) -> Result<Self> {
        let dir = workspace.network_dir(NAME);
        if dir.exists() {
            crate::network::clear(&dir)?;
        }
        let network = Network::start(plan(dir), parts, stop, say)?;
        let (depositor, _) = network.depositor("demo", &Terms::DEMO)?;
        depositor.await_credits(&network.chain, &network.deployment, &network.meter(), stop)?;
        demo::publish(&network, &depositor)?;
        let folder = workspace.home().join("page");
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let facts = folder.join("network.json");
        let text = serde_json::to_string_pretty(&facts_of(&network, &folder, browser)).context("the facts are plain text")?;
        fs::write(&facts, format!("{text}\n")).with_context(|| format!("cannot write {}", facts.display()))?;
        Ok(Self { network, facts })
    }
}

/// Two registered nodes, so that one can die, and the fallback; a second model of one node, so that there is a choice; batches come quickly, and
/// measurements are short.
fn plan(dir: PathBuf) -> Plan {
    let test = Plan::test(dir);
    let pace = Pace { keeper_period_ms: 1_000, ..test.pace };
    // Dearer, so that the page does not choose it by itself.
    let twin = Twin { id: TWIN_ID, rate: 2 * test.model_rate };
    Plan { nodes: 2, audit_rate_bps: 0, benchmark_prompt_tokens: 64, pace, twin: Some(twin), ..test }
}

/// What the specs need to find, and to stop and start processes by themselves.
fn facts_of(network: &Network, folder: &Path, browser: &Path) -> Value {
    let dir = &network.plan.dir;
    let deployment = &network.deployment;
    let nodes: Vec<Value> = network
        .operators
        .iter()
        .zip(&network.ports.nodes)
        .map(|(operator, admin_port)| {
            json!({
                "name": operator.name, "operator": operator.id, "address": operator.node.address, "fallback": operator.fallback,
                "binary": network.parts.binaries.gpu_node, "config": operator.config, "folder": dir,
                "pidFile": dir.join("run").join(format!("{}.pid", operator.name)),
                "log": dir.join("logs").join(format!("{}.log", operator.name)), "adminPort": admin_port,
            })
        })
        .collect();
    json!({
        // A passkey belongs to a domain; `127.0.0.1` is none.
        "pageUrl": format!("http://localhost:{}/", network.ports.meter),
        "apiUrl": network.facts().meter_url(),
        "meterLog": dir.join("logs/meter.log"),
        "rpcUrl": network.chain.rpc_url(),
        "chainId": deployment.chain_id,
        "contracts": {
            "prlx": deployment.prlx, "credits": deployment.credits, "settlement": deployment.settlement, "registry": deployment.registry,
        },
        "faucet": deployment.faucet,
        "model": MODEL_ID,
        "modelRate": network.plan.model_rate,
        "twin": network.plan.twin.map(|twin| json!({ "id": twin.id, "rate": twin.rate })),
        "exitDelaySeconds": network.plan.pace.exit_delay_s,
        "nodes": nodes,
        "browser": browser,
        "pictures": folder.join("pictures"),
    })
}
