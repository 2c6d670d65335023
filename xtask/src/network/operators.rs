//! Registered operators: an owner wallet, a node key, a config, and the registry's word that they belong together.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Parts;
use super::config::{Facts, path, quoted, write};
use super::deploy::Deployment;
use super::keys;
use crate::chain::{Chain, Key};
use crate::command;
use crate::model::MODEL_ID;
use crate::stop::Stop;

const REGISTER_LIMIT: Duration = Duration::from_secs(120);

/// An operator and its node.
#[derive(Clone, Debug)]
pub struct Operator {
    /// `node-1`, `node-2`…, `fallback`.
    pub name: String,
    /// Assigned by the registry.
    pub id: u32,
    /// Owns the operator; is paid.
    pub owner: Key,
    /// Signs receipts.
    pub node: Key,
    /// The node's config file.
    pub config: PathBuf,
    /// The project's own hardware.
    pub fallback: bool,
}

impl Operator {
    /// What the meter's pool says about the node, in short.
    pub fn figures(&self, pool: &Value) -> String {
        let nodes = pool["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
        let is_ours = |node: &&Value| node["node"].as_str().is_some_and(|address| address.eq_ignore_ascii_case(&self.node.address));
        let Some(node) = nodes.iter().find(is_ours) else { return format!("operator {}, not linked", self.id) };
        format!("operator {}  {} active, {} served", self.id, node["active"]["value"], node["answers_served"]["value"])
    }
}

/// All operators of the plan, registered, with their nodes' configs written.
pub fn ready(
    facts: &Facts<'_>,
    parts: &Parts,
    chain: &Chain,
    deployment: &Deployment,
    stop: &Stop,
    say: &mut dyn FnMut(&str),
) -> Result<Vec<Operator>> {
    let names = (1..=facts.plan.nodes).map(|number| (format!("node-{number}"), false));
    let names = names.chain(facts.plan.fallback.then(|| ("fallback".to_owned(), true)));
    let mut operators = Vec::new();
    for (index, ((name, fallback), admin)) in names.zip(&facts.ports.nodes).enumerate() {
        let folder = facts.plan.dir.join(&name);
        let owner = keys::ready(&parts.binaries.gpu_node, &folder, "owner", stop)?;
        let node = keys::ready(&parts.binaries.gpu_node, &folder, "node", stop)?;
        let mut operator = Operator { config: folder.join("gpu-node.toml"), name, id: 0, owner, node, fallback };
        let twin = facts.plan.twin.filter(|_| index == 0);
        let models: Vec<&str> = std::iter::once(MODEL_ID).chain(twin.map(|twin| twin.id)).collect();
        write_config(facts, &operator, *admin, &models)?;
        operator.id = operator_of(chain, deployment, &operator)?;
        if operator.id == 0 {
            chain.set_balance(&operator.owner.address, 10)?;
            let mut register = Command::new(&parts.binaries.gpu_node);
            register.args(["register", "--yes", "--config"]).arg(&operator.config);
            register.arg("--owner-keystore").arg(&operator.owner.keystore);
            register.arg("--owner-password-file").arg(&operator.owner.password_file);
            command::capture(&mut register, REGISTER_LIMIT, stop).with_context(|| format!("{} could not be registered", operator.name))?;
            operator.id = operator_of(chain, deployment, &operator)?;
            ensure!(operator.id != 0, "`gpu-node register` ended well, and the registry does not know the key of {}", operator.name);
            say(&format!("{} registered as operator {}", operator.name, operator.id));
        }
        operators.push(operator);
    }
    Ok(operators)
}

/// The operator that the node key belongs to; 0 when it belongs to none.
fn operator_of(chain: &Chain, deployment: &Deployment, operator: &Operator) -> Result<u32> {
    let known = chain.call(&deployment.registry, "operatorOfNode(address)(uint32,uint40,uint40)", &[&operator.node.address])?;
    known.first().and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok()).context("operatorOfNode returned no operator id")
}

fn write_config(facts: &Facts<'_>, operator: &Operator, admin: u16, models: &[&str]) -> Result<()> {
    let tables = models.iter().map(|id| format!("[[models]]\nid = \"{id}\"\npath = {}\n", path(facts.model)));
    let text = format!(
        r#"meters = [{meter}]
keystore = {node}
password_file = {node_password}
state_dir = {state}
admin_listen = "127.0.0.1:{admin}"
region = "This machine"
drain_s = 20

{models}
[engine]
threads = {threads}

[chain]
rpc_url = {rpc_url}
deployment = {deployment}
"#,
        meter = quoted(&facts.meter_url()),
        node = path(&operator.node.keystore),
        node_password = path(&operator.node.password_file),
        state = path(&facts.plan.dir.join(&operator.name).join("state")),
        models = tables.collect::<Vec<_>>().join("\n"),
        threads = facts.plan.node_threads,
        rpc_url = quoted(&facts.rpc_url()),
        deployment = path(&facts.plan.deployment_file()),
    );
    write(&operator.config, &text).map(drop)
}
