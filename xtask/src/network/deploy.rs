//! Contracts on the chain: deployed by the project's forge script at the first start, found again at later ones.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::json;

use super::Parts;
use super::anvil::{CHAIN_ID, DEV_ACCOUNT};
use super::plan::Plan;
use crate::chain::Chain;
use crate::command;
use crate::stop::Stop;

/// Compiling with a compiler in JavaScript takes a minute when nothing is cached.
const DEPLOY_LIMIT: Duration = Duration::from_secs(900);

/// The deployment file (`docs/protocol.md`, section 10), as far as calls need it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deployment {
    /// Chain of the contracts.
    pub chain_id: u64,
    /// The ERC-20.
    pub prlx: String,
    /// The vault.
    pub credits: String,
    /// Authenticates batches.
    pub settlement: String,
    /// Operators and node keys.
    pub registry: String,
    /// Project fee, basis points.
    pub fee_bps: u16,
    /// Who has test PRLX to give away; a development chain's account.
    #[serde(skip)]
    pub faucet: String,
}

impl Deployment {
    fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let read: Self = serde_json::from_str(&text).with_context(|| format!("{} is no deployment file", path.display()))?;
        Ok(Self { faucet: DEV_ACCOUNT.to_owned(), ..read })
    }
}

/// The deployment of this network's chain; made when the chain has none.
pub fn ready(plan: &Plan, parts: &Parts, chain: &Chain, settler: &str, stop: &Stop, say: &mut dyn FnMut(&str)) -> Result<Deployment> {
    let path = plan.deployment_file();
    if path.is_file() {
        let deployment = Deployment::read(&path)?;
        let code = chain.rpc("eth_getCode", json!([deployment.credits, "latest"]))?;
        ensure!(
            code.as_str().is_some_and(|code| code.len() > 2),
            "{} names a vault at {}, and the chain has no code there; `--fresh` starts over",
            path.display(),
            deployment.credits
        );
        return Ok(deployment);
    }
    say("deploying the contracts");
    let config = plan.dir.join("deploy.json");
    fs::write(&config, deploy_config(plan, settler, &path)?).with_context(|| format!("cannot write {}", config.display()))?;
    let mut forge = Command::new(&parts.tools.forge);
    forge.current_dir(&parts.root).args(["script", "script/Deploy.s.sol", "--broadcast", "--slow", "--non-interactive"]);
    forge.args(["--rpc-url", chain.rpc_url(), "--unlocked", "--sender", DEV_ACCOUNT]).env("DEPLOY_CONFIG", &config);
    forge.env("FOUNDRY_BROADCAST", plan.dir.join("broadcast")); // several networks deploy at once in tests
    command::capture(&mut forge, DEPLOY_LIMIT, stop).context("the contracts could not be deployed")?;
    let deployment = Deployment::read(&path)?;
    say(&format!("contracts deployed: vault {}, settlement {}", deployment.credits, deployment.settlement));
    Ok(deployment)
}

/// What the script reads: one dev account owns and guards everything and holds the test token.
fn deploy_config(plan: &Plan, settler: &str, output: &Path) -> Result<String> {
    let config = json!({
        "chainId": CHAIN_ID,
        "testToken": {"holders": [DEV_ACCOUNT], "amountPrlx": 100_000_000},
        "owner": DEV_ACCOUNT,
        "guardian": DEV_ACCOUNT,
        "disputer": DEV_ACCOUNT,
        "settler": settler,
        "exitDelay": plan.pace.exit_delay_s,
        "velocityWindow": plan.pace.velocity_window_s,
        "feeBps": plan.fee_bps,
        "incidentCap": "1000000000000",
        "output": output,
    });
    serde_json::to_string_pretty(&config).context("the config is plain text")
}
