//! `gpu-node status`: what the running node says of itself, and why it gets no jobs when it gets none.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use serde::{Deserialize, Serialize};
use wire::node::{NodeStatus, ServedModel};
use wire::{Address, OperatorId};

use super::{ConfigFlag, Problem, block_on, print_line};
use crate::config::Config;
use crate::link::{LinkState, Node};

const TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Ask the running node how it is
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  gpu-node status
  gpu-node status --config node.toml --json

Exit codes: 0 linked to a meter, 1 failed, 3 linked to none, 4 the node does not run or is still loading.")]
pub struct StatusArgs {
    #[command(flatten)]
    config: ConfigFlag,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What `/status` of the admin listener answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of this object.
    pub v: u32,
    /// Version of the running program.
    pub version: String,
    /// Whose node it is.
    pub operator: OperatorId,
    /// Address of the node key.
    pub node: Address,
    /// What it serves.
    pub models: Vec<ServedModel>,
    /// By link address.
    pub links: BTreeMap<String, LinkState>,
    /// Load and speed.
    pub load: NodeStatus,
    /// Signed receipts that wait for a meter.
    pub receipts_unacknowledged: usize,
}

impl Report {
    /// Of a running node.
    pub fn of(node: &Node) -> Self {
        let links = node.board().all();
        let draining = !links.is_empty() && links.values().all(|state| *state == LinkState::Closed);
        Self {
            v: 1,
            version: env!("CARGO_PKG_VERSION").into(),
            operator: node.identity().operator,
            node: node.identity().signer.address(),
            models: node.models(),
            load: node.status(draining),
            links,
            receipts_unacknowledged: node.outbox().len(),
        }
    }

    fn is_linked(&self) -> bool {
        self.links.values().any(|state| matches!(state, LinkState::Linked { .. }))
    }
}

impl StatusArgs {
    /// Prints the running node's report.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let config = Config::read(&self.config.config)?;
        let report = block_on(fetch(&config))?;
        if self.json {
            print_line(serde_json::to_string_pretty(&report)?)?;
        } else {
            print_line(text(&report))?;
        }
        Ok(if report.is_linked() { ExitCode::SUCCESS } else { ExitCode::from(3) })
    }
}

/// Asks the admin listener. Errors when nothing of ours listens there.
pub(super) async fn fetch(config: &Config) -> anyhow::Result<Report> {
    let url = format!("http://{}/status", config.admin_listen);
    let absent = |what: &str| Problem::Unavailable(format!("{url}: {what}; is `gpu-node run` running with this config?"));
    let client = reqwest::Client::builder().timeout(TIMEOUT).no_proxy().build()?;
    let mut answer = client.get(&url).send().await.map_err(|_| absent("no answer"))?;
    if answer.status() == reqwest::StatusCode::SERVICE_UNAVAILABLE {
        return Err(Problem::Unavailable(format!("{url}: the node is still loading its models")).into());
    }
    if !answer.status().is_success() {
        return Err(absent(&format!("HTTP status {}", answer.status())).into());
    }
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        body.extend_from_slice(&chunk);
        anyhow::ensure!(body.len() <= ANSWER_BYTES_MAX, "{url} answers more than {ANSWER_BYTES_MAX} bytes");
    }
    serde_json::from_slice(&body).with_context(|| format!("{url} is no gpu-node, or one of another version"))
}

fn text(report: &Report) -> String {
    let load = &report.load;
    let mut lines = vec![format!("node      {} of operator {}, version {}", report.node, report.operator, report.version)];
    lines.extend(report.models.iter().map(|model| format!("model     {}, context {} tokens", model.model, model.context_tokens)));
    lines.extend(report.links.iter().map(|(meter, state)| format!("link      {meter}: {state}")));
    lines.push(format!("load      {} of {} slots, {} waiting", load.active, load.capacity, load.queued));
    lines.push(format!("speed     {:.1} tokens/s decode, {:.1} prefill (measured)", load.decode_tokens_per_s, load.prefill_tokens_per_s));
    lines.push(format!("work      {:.0} % of the last seconds, at best {:.3} TFLOPS (measured)", load.utilization_percent, load.tflops));
    lines.push(format!("memory    {:.0} MB", load.memory_used_bytes as f64 / 1e6));
    lines.push(format!("receipts  {} wait for acknowledgement", report.receipts_unacknowledged));
    if !report.is_linked() {
        lines.push("no jobs   the node is linked to no meter; the link lines say why, `gpu-node doctor` what to do".into());
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(state: LinkState) -> Report {
        Report {
            v: 1,
            version: "0.0.0".into(),
            operator: OperatorId(7),
            node: Address::repeat_byte(1),
            models: vec![],
            links: BTreeMap::from([("ws://meter/v1/node/link".to_owned(), state)]),
            load: NodeStatus { capacity: 4, ..NodeStatus::default() },
            receipts_unacknowledged: 2,
        }
    }

    #[test]
    fn a_refused_node_reads_why_and_what_to_do() {
        let next_step = crate::link::next_step("not_registered");
        let refused = LinkState::Refused { code: "not_registered".into(), message: "unknown key".into(), next_step };
        let text = text(&report(refused.clone()));
        assert!(text.contains("refused (not_registered): unknown key") && text.contains("gpu-node register"), "{text}");
        assert!(text.contains("2 wait") && text.contains("no jobs"), "{text}");
        let json = serde_json::to_string(&report(refused.clone())).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report(refused));
    }

    #[test]
    fn a_linked_node_gives_no_reason() {
        assert!(!text(&report(LinkState::Linked { since: 1, fallback: false })).contains("no jobs"));
    }
}
