//! `cargo xtask up`: the whole network for a newcomer, with a funded depositor and lines to paste.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::json;

use crate::build::{Binaries, PROCESSES};
use crate::model::{self, MODEL_ID};
use crate::network::demo;
use crate::network::depositor::{Depositor, Terms};
use crate::network::plan::Plan;
use crate::network::{Network, Parts, watch};
use crate::once::{self, Timings};
use crate::page;
use crate::secret;
use crate::stop::Stop;
use crate::tools::Tools;
use crate::workspace::Workspace;

const NAME: &str = "demo";

/// What the newcomer asked for.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// Forget chain, ledger and keys first.
    pub fresh: bool,
    /// Send this prompt, wait for the payout, stop.
    pub once: Option<String>,
    /// Optimised binaries.
    pub release: bool,
}

/// Brings the network up and keeps it until a stop is requested, a process dies, or the one prompt is paid.
pub fn run(workspace: &Workspace, wish: &Wish, stop: &Stop) -> Result<()> {
    let began = Instant::now();
    let mut say = |line: &str| println!("[{:>6.1} s] {line}", began.elapsed().as_secs_f64());
    let dir = workspace.network_dir(NAME);
    let parts = parts(workspace, wish.release, stop, &mut say)?;
    if wish.fresh && dir.exists() {
        crate::network::clear(&dir)?;
        say("forgot the chain, the ledger and the keys of earlier runs");
    }
    let mut network = Network::start(Plan::demo(dir), parts, stop, &mut say)?;
    let result = serve(workspace, &mut network, wish, stop, &mut say);
    println!("stopping keeper, nodes, meter, chain");
    for name in network.stop_all() {
        println!("{name} did not stop in time and was killed");
    }
    result
}

fn serve(workspace: &Workspace, network: &mut Network, wish: &Wish, stop: &Stop, say: &mut dyn FnMut(&str)) -> Result<()> {
    let mut timings = Timings::default();
    let (depositor, moved) = once::deposit(network, "demo", &Terms::DEMO, &mut timings)?;
    say(if moved { "demo depositor funded and signed in" } else { "demo depositor still has credits and its API key" });
    let file = write_network_file(workspace, network, &depositor)?;
    if let Some(prompt) = &wish.once {
        println!("network file: {}", file.display());
        return once::run(network, &depositor, prompt, timings, stop);
    }
    print_welcome(network, &depositor, &file)?;
    match demo::publish(network, &depositor) {
        Ok(true) => say("the page shows visitors a first paid answer with its receipt"),
        Ok(false) => {}
        Err(error) => say(&format!("the page has no answer to show to visitors: {error:#}")),
    }
    watch::watch(network, stop)
}

/// Everything that a network is made of; installs, compiles and imports what is missing.
pub fn parts(workspace: &Workspace, release: bool, stop: &Stop, say: &mut dyn FnMut(&str)) -> Result<Parts> {
    let tools = Tools::ready(workspace, stop, say)?;
    page::build::ready(workspace, stop, say)?;
    say("compiling meter, keeper and gpu-node");
    let binaries = Binaries::only(workspace, &PROCESSES, release, stop)?;
    let model = model::ready(workspace, &binaries.gpu_node, stop)?;
    say(&format!("model {} is ready", model::MODEL));
    Ok(Parts { root: workspace.root.clone(), tools, binaries, model })
}

/// The one file for scripts. Holds no secret, only the path of the file that does.
fn write_network_file(workspace: &Workspace, network: &Network, depositor: &Depositor) -> Result<PathBuf> {
    let base = network.facts().meter_url();
    let operators: Vec<_> = network
        .operators
        .iter()
        .map(|operator| json!({"name": operator.name, "operator": operator.id, "node": operator.node.address, "fallback": operator.fallback}))
        .collect();
    let deployment = &network.deployment;
    let file = json!({
        "pageUrl": page_url(network),
        "apiBaseUrl": format!("{base}/v1"),
        "rpcUrl": network.chain.rpc_url(),
        "chainId": deployment.chain_id,
        "contracts": {
            "prlx": deployment.prlx, "credits": deployment.credits, "settlement": deployment.settlement, "registry": deployment.registry,
        },
        "deploymentFile": network.plan.deployment_file(),
        "model": MODEL_ID,
        "depositor": depositor.key.address,
        "apiKeyFile": depositor.api_key_file,
        "operators": operators,
        "logs": network.plan.dir.join("logs"),
    });
    let path = workspace.home().join("network.json");
    let text = serde_json::to_string_pretty(&file).context("the network file is plain text")?;
    fs::write(&path, format!("{text}\n")).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// By name and not by number: a passkey belongs to a domain.
fn page_url(network: &Network) -> String {
    format!("http://localhost:{}/", network.ports.meter)
}

fn print_welcome(network: &Network, depositor: &Depositor, file: &std::path::Path) -> Result<()> {
    let key = secret::read(&depositor.api_key_file)?;
    let base = network.facts().meter_url();
    println!(
        r#"
The network is up. Everything below works as pasted.

  chat page      {page}#key={key}
  API base       {base}/v1
  demo API key   {key}
  chain          {rpc}
  for scripts    {file}
  logs           {logs}

curl -N {base}/v1/chat/completions -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \
  -d '{{"model":"{MODEL_ID}","stream":true,"max_tokens":200,"temperature":0.2,"messages":[{{"role":"user","content":"Why is the sky blue?"}}]}}'

python3 - <<'PY'
# pip install openai
from openai import OpenAI
client = OpenAI(base_url="{base}/v1", api_key="{key}")
answer = client.chat.completions.create(
    model="{MODEL_ID}", max_tokens=200, temperature=0.2, messages=[{{"role": "user", "content": "Why is the sky blue?"}}]
)
print(answer.choices[0].message.content, answer.usage)
PY

Ctrl-C stops everything; the next `cargo xtask up` goes on from here, `cargo xtask up --fresh` starts over.
"#,
        page = page_url(network),
        rpc = network.chain.rpc_url(),
        file = file.display(),
        logs = network.plan.dir.join("logs").display(),
    );
    Ok(())
}
