//! The whole network as separate processes that talk over the wire only: chain, meter, nodes, keeper; and its depositors.
//!
//! Everything that a network writes is in one folder, so that a second start goes on where the first one stopped: chain
//! state, ledger, keys, ports. The order of starting is the order below; stopping goes backwards.

mod anvil; // a chain that survives restarts
pub mod config; // config files
pub mod demo; // the answer that visitors see
pub mod deploy; // contracts
pub mod depositor; // a wallet with credits and an API key
pub mod keys; // encrypted keystores
pub mod operators; // registered operators and their nodes
pub mod plan; // what to bring up
pub mod ports; // where it listens
pub mod process; // one process
pub mod typed; // what a depositor signs
pub mod watch; // status lines

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::build::Binaries;
use crate::chain::{Chain, Key};
use crate::http::Api;
use crate::stop::{Stop, wait_until};
use crate::tools::Tools;
use config::Facts;
use deploy::Deployment;
use depositor::{Depositor, Terms};
use operators::Operator;
use plan::{Plan, Ports};
use process::{Process, Program};
use watch::Status;

/// Opening keys and digesting weights take a while on a busy machine.
const READY_LIMIT: Duration = Duration::from_secs(120);
/// Answers may go on after SIGTERM; this is longer than any drain of the configs here.
const STOP_LIMIT: Duration = Duration::from_secs(40);

/// What networks are made of.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Root of the checkout.
    pub root: PathBuf,
    /// Pinned tool chain.
    pub tools: Tools,
    /// Our binaries.
    pub binaries: Binaries,
    /// The model's Hugging Face folder.
    pub model: PathBuf,
}

/// A running network. Dropping it kills every process.
#[derive(Debug)]
pub struct Network {
    /// Shape and pace.
    pub plan: Plan,
    /// Loopback ports.
    pub ports: Ports,
    /// What it is made of.
    pub parts: Parts,
    /// The chain, for calls.
    pub chain: Chain,
    /// Where the contracts are.
    pub deployment: Deployment,
    /// Registered operators in the order of their nodes; the fallback's last.
    pub operators: Vec<Operator>,
    processes: Vec<Process>,
    stop: Stop,
    _lock: File,
}

impl Network {
    /// Brings up everything that `plan` says; each step that takes a while is told to `say`.
    ///
    /// Errors name the step; a process that died is quoted with its last log lines.
    pub fn start(plan: Plan, parts: Parts, stop: &Stop, say: &mut dyn FnMut(&str)) -> Result<Self> {
        let lock = lock(&plan.dir)?;
        for name in process::end_leftovers(&plan.dir) {
            say(&format!("ended {name}, left over from a run that was killed"));
        }
        let ports = Ports::ready(&plan)?;
        let rpc_url = format!("http://127.0.0.1:{}", ports.chain);
        let chain = Chain::new(&parts.tools.cast, &rpc_url, stop);
        let deployment = Deployment::default();
        let mut network =
            Self { plan, ports, parts, chain, deployment, operators: Vec::new(), processes: Vec::new(), stop: stop.clone(), _lock: lock };

        network.start_chain().context("the chain did not start")?;
        say(&format!("chain at {rpc_url}"));
        let settler = network.key("meter", "settler", &network.parts.binaries.meter)?;
        let keeper = network.key("keeper", "key", &network.parts.binaries.keeper)?;
        network.deployment = deploy::ready(&network.plan, &network.parts, &network.chain, &settler.address, stop, say)?;
        network.operators = operators::ready(&network.facts(), &network.parts, &network.chain, &network.deployment, stop, say)?;
        network.chain.set_balance(&keeper.address, 10)?;
        network.start_meter(&settler, &keeper).context("the meter did not start")?;
        say(&format!("meter at {}", network.facts().meter_url()));
        for index in 0..network.operators.len() {
            network.start_node(index).context("a node did not start")?;
        }
        network.await_nodes()?;
        say(&format!(
            "{} linked to the meter",
            network.operators.iter().map(|operator| operator.name.as_str()).collect::<Vec<_>>().join(", ")
        ));
        network.start_keeper(&keeper).context("the keeper did not start")?;
        Ok(network)
    }

    /// The meter's interface, without a credential.
    pub fn meter(&self) -> Api {
        Api::new(&self.facts().meter_url())
    }

    /// The depositor called `name`, with credits and an API key. True when money moved for it.
    pub fn depositor(&self, name: &str, terms: &Terms) -> Result<(Depositor, bool)> {
        let folder = self.plan.dir.join("depositors").join(name);
        let depositor = Depositor::ready(&self.parts.binaries.gpu_node, &folder, &self.stop)?;
        let moved = depositor.fund(&self.chain, &self.deployment, &self.meter(), terms)?;
        Ok((depositor, moved))
    }

    /// The wish to stop that this network heeds.
    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    /// Ports and folders, as the configs state them.
    pub fn facts(&self) -> Facts<'_> {
        Facts { plan: &self.plan, ports: &self.ports, model: &self.parts.model }
    }

    /// A process by name: `chain`, `meter`, `keeper`, `node-1`…, `fallback`.
    pub fn process(&mut self, name: &str) -> Result<&mut Process> {
        self.processes.iter_mut().find(|process| process.name() == name).with_context(|| format!("there is no process `{name}`"))
    }

    /// SIGKILL.
    pub fn kill(&mut self, name: &str) -> Result<()> {
        self.process(name)?.kill();
        Ok(())
    }

    /// Starts a process that has ended, as it was started before, and waits until it is ready.
    pub fn restart(&mut self, name: &str) -> Result<()> {
        let process = self.process(name)?;
        if process.ended().is_none() {
            process.stop();
        }
        let program = process.program().clone();
        self.processes.retain(|process| process.name() != name);
        if name == "chain" {
            return self.start_chain();
        }
        self.launch(&program)?;
        self.await_ready(name)
    }

    /// Which process died, its status and last log lines; `None` while all are running.
    pub fn obituary(&mut self) -> Option<String> {
        self.processes.iter_mut().find_map(Process::obituary)
    }

    /// State and figures of each process.
    pub fn statuses(&self) -> Vec<Status> {
        let pool = self.meter().get("/v1/pool").map(|reply| reply.body).unwrap_or_default();
        self.processes.iter().map(|process| self.status(process, &pool)).collect()
    }

    /// Stops everything in order: keeper, nodes, meter, chain. Names of what had to be killed.
    pub fn stop_all(&mut self) -> Vec<String> {
        let mut killed = Vec::new();
        while let Some(mut process) = self.processes.pop() {
            if !process.stop() {
                killed.push(process.name().to_owned());
            }
        }
        killed
    }

    fn start_chain(&mut self) -> Result<()> {
        let program = anvil::program(&self.plan, &self.ports, &self.parts.tools)?;
        self.launch(&program)?;
        let chain = self.chain.clone();
        self.await_or_obituary("the chain", "chain", || Ok(chain.block_number().ok())).map(drop)
    }

    fn start_meter(&mut self, settler: &Key, keeper: &Key) -> Result<()> {
        let fallback: Vec<&Operator> = self.operators.iter().filter(|operator| operator.fallback).collect();
        let config = self.facts().write_meter(settler, &[&keeper.address], &fallback)?;
        self.launch(&self.program("meter", &self.parts.binaries.meter, &config))?;
        self.await_ready("meter")
    }

    fn start_keeper(&mut self, key: &Key) -> Result<()> {
        let config = self.facts().write_keeper(key)?;
        self.launch(&self.program("keeper", &self.parts.binaries.keeper, &config))?;
        self.await_ready("keeper")
    }

    fn start_node(&mut self, index: usize) -> Result<()> {
        let operator = self.operators.get(index).context("no such operator")?;
        let program = self.program(&operator.name, &self.parts.binaries.gpu_node, &operator.config);
        self.launch(&program)
    }

    /// Until the meter's pool shows every node.
    fn await_nodes(&mut self) -> Result<()> {
        for name in self.operators.iter().map(|operator| operator.name.clone()).collect::<Vec<_>>() {
            self.await_ready(&name)?;
        }
        Ok(())
    }

    /// Until the process's `/readyz` says so. Errors at once when it dies.
    fn await_ready(&mut self, name: &str) -> Result<()> {
        let port = self.admin_port(name).with_context(|| format!("`{name}` has no health to ask for"))?;
        let admin = Api::new(&format!("http://127.0.0.1:{port}"));
        let mut said = String::new();
        let ready = self.await_or_obituary(&format!("{name} to be ready"), name, || {
            let reply = admin.get("/readyz");
            said = reply.as_ref().map(|reply| text(&reply.body)).unwrap_or_default();
            Ok(reply.ok().filter(|reply| reply.status == 200).map(drop))
        });
        ready.with_context(|| format!("{name}: {}", said.trim()))
    }

    fn await_or_obituary<T>(&mut self, what: &str, name: &str, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
        let stop = self.stop.clone();
        let process = self.process(name)?;
        wait_until(what, READY_LIMIT, &stop, || match process.obituary() {
            Some(obituary) => Err(anyhow!(obituary)),
            None => probe(),
        })
    }

    fn launch(&mut self, program: &Program) -> Result<()> {
        self.processes.push(Process::start(&self.plan.dir, program, self.plan.own_groups)?);
        Ok(())
    }

    fn program(&self, name: &str, binary: &Path, config: &Path) -> Program {
        Program {
            name: name.to_owned(),
            binary: binary.to_owned(),
            arguments: vec!["run".to_owned(), "--config".to_owned(), config.display().to_string()],
            folder: self.plan.dir.clone(),
            environment: Vec::new(),
            stop_limit: STOP_LIMIT,
        }
    }

    fn key(&self, folder: &str, name: &str, binary: &Path) -> Result<Key> {
        keys::ready(binary, &self.plan.dir.join(folder), name, &self.stop)
    }

    fn admin_port(&self, name: &str) -> Option<u16> {
        match name {
            "meter" => Some(self.ports.meter_admin),
            "keeper" => Some(self.ports.keeper_admin),
            _ => self.operators.iter().position(|operator| operator.name == name).and_then(|index| self.ports.nodes.get(index).copied()),
        }
    }

    fn status(&self, process: &Process, pool: &serde_json::Value) -> Status {
        let name = process.name().to_owned();
        let Some(port) = self.admin_port(&name) else {
            let block = self.chain.block_number();
            let state = if block.is_ok() { "ready" } else { "not answering" };
            return Status { name, state: state.to_owned(), figures: block.map(|block| format!("block {block}")).unwrap_or_default() };
        };
        let state = match Api::new(&format!("http://127.0.0.1:{port}")).get("/readyz") {
            Ok(reply) if reply.status == 200 => "ready".to_owned(),
            Ok(reply) => format!("not ready: {}", text(&reply.body).lines().next().unwrap_or_default()),
            Err(_) => "not answering".to_owned(),
        };
        let figures = self.figures(&name, pool);
        Status { name, state, figures }
    }

    fn figures(&self, name: &str, pool: &serde_json::Value) -> String {
        match name {
            "meter" => format!("{}  {} nodes", self.facts().meter_url(), pool["nodes"].as_array().map_or(0, Vec::len)),
            "keeper" => {
                let last = self.chain.call_number(&self.deployment.settlement, "lastSeq()(uint64)", &[]);
                last.map(|seq| format!("{seq} batches settled")).unwrap_or_default()
            }
            _ => self.operators.iter().find(|operator| operator.name == name).map(|operator| operator.figures(pool)).unwrap_or_default(),
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Backwards, so that nothing complains about what it depends on.
        while let Some(mut process) = self.processes.pop() {
            process.kill();
        }
    }
}

/// Forgets everything that a stopped network wrote. Errors when it is running.
pub fn clear(dir: &Path) -> Result<()> {
    let held = lock(dir)?;
    process::end_leftovers(dir);
    fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    drop(held);
    Ok(())
}

/// Keeps a second `up` from starting the same network.
fn lock(dir: &Path) -> Result<File> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let path = dir.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!("the network in {} is running already: stop it first", dir.display()),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

fn text(body: &serde_json::Value) -> String {
    body.as_str().map_or_else(|| body.to_string(), str::to_owned)
}
