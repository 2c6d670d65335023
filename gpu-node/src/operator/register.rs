//! `gpu-node register`: puts the operator and this node's key into the registry, as far as they are not there yet.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::SolCall;
use anyhow::bail;
use clap::Args;
use daemon::keystore;
use serde_json::json;
use wire::contracts::Registry;
use wire::deployment::Deployment;
use wire::{Address, B256, Bytes, Credits, OperatorId, typed};

use super::chain::{Chain, ChainError, NodeKeyOwner};
use super::{ConfigFlag, Problem, block_on, print_line};
use crate::config::Config;

/// Register the operator and this node's key on chain
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  gpu-node register --owner-keystore owner.json --owner-password-file owner.password --dry-run
  gpu-node register --owner-keystore owner.json --owner-password-file owner.password --payout 0x5aAe...eAed
  gpu-node register --config node.toml --owner-keystore owner.json --owner-password-file owner.password --yes --json

Does only what is missing, so it can be run again. Prints the operator id.
Exit codes: 0 registered, 1 failed, 3 you have to act first (fund the owner, another key), 4 the chain does not answer.")]
pub struct RegisterArgs {
    #[command(flatten)]
    config: ConfigFlag,
    /// Keystore of the operator's owner, who pays the gas; not the node's key
    #[arg(long, value_name = "FILE")]
    owner_keystore: PathBuf,
    /// File with its password, mode 0600
    #[arg(long, value_name = "FILE")]
    owner_password_file: PathBuf,
    /// Where the operator is paid; the owner when absent
    #[arg(long, value_name = "ADDRESS")]
    payout: Option<Address>,
    /// Show what would be sent, and send nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask before sending
    #[arg(long)]
    yes: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Longest wait for each transaction, seconds
    #[arg(long, default_value_t = 180, value_name = "SECONDS")]
    wait_s: u64,
}

struct Registration {
    args: RegisterArgs,
    deployment: Deployment,
    chain: Chain,
    owner: Address,
    node: PrivateKeySigner,
    transactions: Vec<B256>,
}

impl RegisterArgs {
    /// Registers what is missing.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        block_on(async {
            let config = Config::read(&self.config.config)?;
            let deployment = config.deployment()?;
            let node = keystore::open(&config.keystore, &config.password_file)?;
            let owner_key = keystore::open(&self.owner_keystore, &self.owner_password_file)?;
            let owner = owner_key.address();
            let chain = Chain::open(&config.chain, &deployment, Some(owner_key)).await.map_err(chain_problem)?;
            let mut registration = Registration { args: self, deployment, chain, owner, node, transactions: Vec::new() };
            registration.complete().await
        })
    }
}

impl Registration {
    async fn complete(&mut self) -> anyhow::Result<ExitCode> {
        let node = self.node.address();
        let key_owner = self.chain.node_key_owner(node).await.map_err(chain_problem)?;
        let registered = self.chain.operator_of(self.owner).await.map_err(chain_problem)?;
        check_key(node, self.owner, key_owner, registered)?;
        let operator = match registered {
            Some(operator) => {
                self.check_payout(operator).await?;
                Some(operator)
            }
            None => self.register().await?,
        };
        if let (Some(operator), None) = (operator, key_owner) {
            self.add_node_key(operator).await?;
        } else if operator.is_none() {
            eprintln!("then: addNodeKey({node}, proof) with the operator id that register returns");
        }
        self.report(operator)
    }

    /// `None` in a dry run: the id is not known before.
    async fn register(&mut self) -> anyhow::Result<Option<OperatorId>> {
        let payout = self.args.payout.unwrap_or(self.owner);
        let call = Registry::registerCall { payout, metadataHash: B256::ZERO };
        let effect = format!("register(payout {payout}, metadataHash 0): {} becomes an operator, paid at {payout}", self.owner);
        if !self.send(&effect, call.abi_encode().into()).await? {
            return Ok(None);
        }
        match self.chain.operator_of(self.owner).await.map_err(chain_problem)? {
            Some(operator) => Ok(Some(operator)),
            None => {
                bail!("the registration was mined and {} is still no operator: was the block undone? run the command again", self.owner)
            }
        }
    }

    async fn add_node_key(&mut self, operator: OperatorId) -> anyhow::Result<()> {
        let key = self.node.address();
        let consent = typed::NodeKey { operator: operator.0, key };
        let proof = typed::sign(&consent, &self.deployment.registry_domain(), &self.node)?;
        let call = Registry::addNodeKeyCall { key, proof: proof.into() };
        let effect =
            format!("addNodeKey({key}): receipts that this key signs count for operator {operator}; a key has one operator for ever");
        self.send(&effect, call.abi_encode().into()).await?;
        Ok(())
    }

    async fn check_payout(&self, operator: OperatorId) -> anyhow::Result<()> {
        let current = self.chain.payout_of(operator).await.map_err(chain_problem)?;
        if let Some(wanted) = self.args.payout.filter(|wanted| *wanted != current) {
            let what = format!(
                "operator {operator} is paid at {current}, not at {wanted}; a change is `proposePayout` and, 24 hours later, `acceptPayout`"
            );
            return Err(Problem::NeedsAction(what).into());
        }
        Ok(())
    }

    /// Shows the call, asks, sends, waits. Returns whether it was sent.
    async fn send(&mut self, effect: &str, data: Bytes) -> anyhow::Result<bool> {
        let estimate = self.chain.estimate(self.owner, &data).await.map_err(chain_problem)?;
        eprintln!("call     {effect}");
        eprintln!("to       registry {} on chain {}", self.deployment.registry, self.deployment.chain_id);
        eprintln!("from     {} with {} ETH", self.owner, ether(estimate.balance_wei));
        eprintln!("gas      {} at {} wei, about {} ETH", estimate.gas, estimate.gas_price_wei, ether(estimate.cost_wei()));
        eprintln!("calldata {data}");
        if self.args.dry_run {
            eprintln!("nothing sent (--dry-run)");
            return Ok(false);
        }
        if estimate.balance_wei < estimate.cost_wei() {
            let what = format!(
                "{} has {} ETH, the call costs about {}; fund it",
                self.owner,
                ether(estimate.balance_wei),
                ether(estimate.cost_wei())
            );
            return Err(Problem::NeedsAction(what).into());
        }
        if !self.args.yes && !confirmed()? {
            return Err(Problem::NeedsAction("not sent".into()).into());
        }
        let hash = self.chain.send(&data, Duration::from_secs(self.args.wait_s)).await.map_err(chain_problem)?;
        eprintln!("mined    {hash}");
        self.transactions.push(hash);
        Ok(true)
    }

    fn report(&self, operator: Option<OperatorId>) -> anyhow::Result<ExitCode> {
        let id = operator.map(|operator| operator.0);
        if self.args.json {
            let report = json!({
                "v": 1, "operator": id, "node": self.node.address(), "owner": self.owner, "dry_run": self.args.dry_run,
                "transactions": self.transactions,
            });
            print_line(report)?;
        } else if let Some(id) = id {
            eprintln!(
                "node key {} of operator {id}; now: gpu-node run --config {}",
                self.node.address(),
                self.args.config.config.display()
            );
            print_line(id)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Checks that the node key is free, or already this owner's and active.
fn check_key(node: Address, owner: Address, key_owner: Option<NodeKeyOwner>, registered: Option<OperatorId>) -> Result<(), Problem> {
    if node == owner {
        return Err(Problem::NeedsAction("node and owner have the same key; make the node one of its own with `gpu-node key new`".into()));
    }
    match key_owner {
        Some(NodeKeyOwner { operator, .. }) if Some(operator) != registered => Err(Problem::NeedsAction(format!(
            "node key {node} belongs to operator {operator} for ever; make another with `gpu-node key new`"
        ))),
        Some(NodeKeyOwner { until: Some(_), .. }) => {
            Err(Problem::NeedsAction(format!("node key {node} was removed and can't come back; make another with `gpu-node key new`")))
        }
        _ => Ok(()),
    }
}

fn confirmed() -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Err(Problem::NeedsAction("there is no terminal to ask at; look with --dry-run, then give --yes".into()).into());
    }
    eprint!("send it? [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Wei as decimal ether; credits have the same nine digits after the point that are enough to read gas by.
fn ether(wei: alloy::primitives::U256) -> String {
    let gwei = wei / alloy::primitives::U256::from(wire::WEI_PER_CREDIT);
    u64::try_from(gwei).ok().and_then(|gwei| Credits::new(gwei).ok()).map_or_else(|| "more than 9 billion".into(), |gwei| gwei.to_string())
}

fn chain_problem(error: ChainError) -> anyhow::Error {
    match error {
        ChainError::Unreachable { .. } | ChainError::NotMined { .. } => Problem::Unavailable(error.to_string()).into(),
        ChainError::OtherChain { .. } | ChainError::NoRegistry { .. } => Problem::NeedsAction(error.to_string()).into(),
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::U256;

    use super::*;

    #[test]
    fn a_key_is_added_only_when_free_or_already_ours() {
        let (node, owner) = (Address::repeat_byte(1), Address::repeat_byte(2));
        let of = |operator, until| Some(NodeKeyOwner { operator: OperatorId(operator), until });
        assert!(check_key(node, owner, None, None).is_ok());
        assert!(check_key(node, owner, None, Some(OperatorId(1))).is_ok());
        assert!(check_key(node, owner, of(1, None), Some(OperatorId(1))).is_ok());
        for (key_owner, registered) in [(of(1, None), None), (of(1, None), Some(OperatorId(2))), (of(1, Some(9)), Some(OperatorId(1)))] {
            assert!(matches!(check_key(node, owner, key_owner, registered), Err(Problem::NeedsAction(_))), "{key_owner:?}");
        }
        assert!(check_key(owner, owner, None, None).is_err());
    }

    #[test]
    fn ether_is_written_in_decimal() {
        assert_eq!(ether(U256::from(1_500_000_000_000_000_000u64)), "1.5");
        assert_eq!(ether(U256::ZERO), "0");
        assert_eq!(ether(U256::MAX), "more than 9 billion");
    }
}
