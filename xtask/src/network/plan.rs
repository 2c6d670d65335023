//! What a network is made of, and the places that it keeps from start to start.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::ports::{free_port, free_port_near};

/// Where the meter's ledger is.
#[derive(Clone, Debug)]
pub enum Database {
    /// A file in the meter's folder.
    Sqlite,
    /// A database of its own on a PostgreSQL server; the URL goes into a file of mode 0600.
    Postgres {
        /// With user and password.
        url: String,
    },
}

/// How fast time runs in this network.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Seconds between two blocks.
    pub block_time_s: u64,
    /// Depth at which the meter and the keeper count a block, its own included.
    pub confirmations: u64,
    /// Pause between two looks of the meter at the chain.
    pub mirror_poll_ms: u64,
    /// The vault's velocity window.
    pub velocity_window_s: u64,
    /// The vault's exit delay.
    pub exit_delay_s: u64,
    /// The keeper's pause between two rounds.
    pub keeper_period_ms: u64,
}

/// The model once more, under another name and at another price, served by the first operator alone.
#[derive(Clone, Copy, Debug)]
pub struct Twin {
    /// Its name in the API.
    pub id: &'static str,
    /// Credits for a million tokens.
    pub rate: u64,
}

/// What to bring up.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Folder of everything that this network writes.
    pub dir: PathBuf,
    /// The meter's ledger.
    pub database: Database,
    /// Registered nodes, one operator each.
    pub nodes: usize,
    /// Whether there is a node of the project's own, for when no other is there.
    pub fallback: bool,
    /// Threads that each node computes with; 0 is all of the machine.
    pub node_threads: u32,
    /// Time.
    pub pace: Pace,
    /// Credits for a million tokens.
    pub model_rate: u64,
    /// For tests that need a choice between models.
    pub twin: Option<Twin>,
    /// Project fee, basis points.
    pub fee_bps: u16,
    /// Share of answers that the fallback node computes again, basis points.
    pub audit_rate_bps: u32,
    /// Random tokens with which the meter measures idle nodes; 0 is never.
    pub benchmark_prompt_tokens: u32,
    /// Take 8545, 8080 and the like when they are free.
    pub well_known_ports: bool,
    /// Keep Ctrl-C at the terminal from the processes, so that they are stopped in order.
    pub own_groups: bool,
}

impl Plan {
    /// The newcomer's network: one registered node and fallback hardware, at a pace that a person can watch.
    pub fn demo(dir: PathBuf) -> Self {
        Self {
            dir,
            database: Database::Sqlite,
            nodes: 1,
            fallback: true,
            node_threads: 0,
            pace: Pace {
                block_time_s: 1,
                confirmations: 2,
                mirror_poll_ms: 500,
                velocity_window_s: 5,
                exit_delay_s: 3_600,
                keeper_period_ms: 1_000,
            },
            model_rate: 4_000_000_000,
            twin: None,
            fee_bps: 500,
            audit_rate_bps: 200,
            benchmark_prompt_tokens: 512,
            well_known_ports: true,
            own_groups: true,
        }
    }

    /// The same, small and fast, for tests, of which most count what nodes do and how long it takes: nothing is measured beside that.
    pub fn test(dir: PathBuf) -> Self {
        let pace = Pace {
            block_time_s: 1,
            confirmations: 1,
            mirror_poll_ms: 200,
            velocity_window_s: 2,
            exit_delay_s: 3_600,
            keeper_period_ms: 500,
        };
        Self { pace, node_threads: 1, benchmark_prompt_tokens: 0, well_known_ports: false, own_groups: false, ..Self::demo(dir) }
    }

    /// Where the deploy script says what is where.
    pub fn deployment_file(&self) -> PathBuf {
        self.dir.join("deployment.json")
    }
}

/// Loopback ports of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// JSON-RPC.
    pub chain: u16,
    /// API, page and node links.
    pub meter: u16,
    /// The meter's health and metrics.
    pub meter_admin: u16,
    /// The keeper's health and metrics.
    pub keeper_admin: u16,
    /// The nodes' health and metrics; the fallback node's last.
    pub nodes: Vec<u16>,
}

impl Ports {
    /// Those of the first start, or new ones.
    pub fn ready(plan: &Plan) -> Result<Self> {
        let path = plan.dir.join("ports.json");
        if let Some(ports) = Self::read(&path).filter(|ports| ports.nodes.len() == plan.nodes + usize::from(plan.fallback)) {
            return Ok(ports);
        }
        let ports = Self::choose(plan)?;
        fs::create_dir_all(&plan.dir).with_context(|| format!("cannot create {}", plan.dir.display()))?;
        let text = serde_json::to_string_pretty(&ports).context("ports are plain numbers")?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(ports)
    }

    fn read(path: &Path) -> Option<Self> {
        serde_json::from_str(&fs::read_to_string(path).ok()?).ok()
    }

    fn choose(plan: &Plan) -> Result<Self> {
        let mut taken = Vec::new();
        let mut choose = |preferred: u16| -> Result<u16> {
            loop {
                let port = if plan.well_known_ports && !taken.contains(&preferred) { free_port_near(preferred)? } else { free_port()? };
                if !taken.contains(&port) {
                    taken.push(port);
                    return Ok(port);
                }
            }
        };
        let node_count = u16::try_from(plan.nodes + usize::from(plan.fallback)).context("too many nodes")?;
        Ok(Self {
            chain: choose(8545)?,
            meter: choose(8080)?,
            meter_admin: choose(9090)?,
            keeper_admin: choose(9302)?,
            nodes: (0..node_count).map(|index| choose(9400 + index)).collect::<Result<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_stay_the_same_from_start_to_start() {
        let dir = tempfile::tempdir().unwrap();
        let plan = Plan::test(dir.path().to_owned());
        let first = Ports::ready(&plan).unwrap();
        assert_eq!(Ports::ready(&plan).unwrap(), first);
        let mut all = vec![first.chain, first.meter, first.meter_admin, first.keeper_admin];
        all.extend(&first.nodes);
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 6);
    }
}
