//! The checks of `doctor`, in the order in which a new operator meets them.

use std::path::Path;
use std::time::{Duration, SystemTime};

use daemon::clock::{Clock, SystemClock};
use daemon::keystore::{self, KeystoreError};
use tokio::net::TcpListener;
use wire::deployment::Deployment;
use wire::node::PROTOCOL;
use wire::{Address, OperatorId};

use super::Check;
use crate::backend::BackendKind;
use crate::backend::cpu::granted_nice;
use crate::backend::cuda::device::Device as _;
use crate::backend::cuda::driver::{CudaDevice, NoDevice};
use crate::config::{Config, ModelConfig};
use crate::link::outbox::{Outbox, OutboxError};
use crate::link::{LinkTimings, MeterUrl, greet};
use crate::model::{MANIFEST_FILE, Manifest};
use crate::operator::chain::Chain;
use crate::operator::machine::Memory;
use crate::operator::{run, status};

/// Weights up to this size are hashed without being asked to: about 5 seconds on two cores.
const HASHED_BYTES_MAX: u64 = 2 << 30;
/// Most that the node's clock may differ from a meter's, seconds: receipts are accepted up to 60 s ahead.
const SKEW_SECONDS_MAX: u64 = 30;
const METER_TIMEOUT: Duration = Duration::from_secs(5);

/// All checks; those that need a failed one's result are left out.
pub(super) async fn all(config_path: &Path, full: bool) -> Vec<Check> {
    let config = match Config::read(config_path) {
        Ok(config) => config,
        Err(error) => {
            return vec![Check::fail("config", "config file", error, "a valid file", "correct it, or make one with `gpu-node init`")];
        }
    };
    let mut checks = vec![Check::pass("config", "config file", config_path.display(), "a valid file")];
    let node = node_key(&config, &mut checks);
    checks.push(state_dir(&config));
    let deployment = match config.deployment() {
        Ok(deployment) => {
            checks.push(Check::pass("deployment", "deployment file", format!("chain {}", deployment.chain_id), "a valid file"));
            Some(deployment)
        }
        Err(error) => {
            let remedy = "get the deployment file from whoever runs the network, and name it in `chain.deployment`";
            checks.push(Check::fail("deployment", "deployment file", error, "a valid file", remedy));
            None
        }
    };
    if let Some(deployment) = &deployment {
        chain(&config, deployment, node, &mut checks).await;
    }
    for model in &config.models {
        checks.push(weights(model, full));
    }
    checks.push(device(&config));
    checks.push(memory(&config, Memory::now()));
    checks.push(priority(config.engine.nice, granted_nice(config.engine.nice)));
    for url in &config.meters {
        meter(url, deployment.as_ref(), &mut checks).await;
    }
    checks.push(admin_port(&config).await);
    checks
}

fn node_key(config: &Config, checks: &mut Vec<Check>) -> Option<Address> {
    let secret = keystore::read_password(&config.password_file);
    let remedy = match &secret {
        Err(KeystoreError::Readable { path, .. }) => format!("chmod 600 {}", path.display()),
        _ => "write the keystore's password into the file named by `password_file`".into(),
    };
    match secret {
        Ok(_) => checks.push(Check::pass("password_file", "password file", config.password_file.display(), "mode 0600")),
        Err(error) => {
            checks.push(Check::fail("password_file", "password file", error, "mode 0600, not empty", remedy));
            return None;
        }
    }
    match keystore::open(&config.keystore, &config.password_file) {
        Ok(signer) => {
            checks.push(Check::pass("keystore", "node key", signer.address(), "opens"));
            Some(signer.address())
        }
        Err(error) => {
            let remedy = "make one with `gpu-node key new`, or restore its backup; a lost node key costs no money, register a new one";
            checks.push(Check::fail("keystore", "node key", error, "opens", remedy));
            None
        }
    }
}

fn state_dir(config: &Config) -> Check {
    let title = "receipts kept on disk";
    match Outbox::open(&config.state_dir, config.receipts_max) {
        Ok(outbox) => Check::pass("state_dir", title, format!("{} wait", outbox.len()), "writable"),
        Err(OutboxError::Locked { .. }) => Check::pass("state_dir", title, "in use by a running node", "writable").into_info(),
        Err(error) => {
            Check::fail("state_dir", title, error, "writable", "mend the disk or the folder's rights, or name another `state_dir`")
        }
    }
}

async fn chain(config: &Config, deployment: &Deployment, node: Option<Address>, checks: &mut Vec<Check>) {
    let expected = format!("answers as chain {}", deployment.chain_id);
    let chain = match Chain::open(&config.chain, deployment, None).await {
        Ok(chain) => chain,
        Err(error) => {
            let remedy = "correct `chain.rpc_url`; a node with `operator` in its config serves without it";
            checks.push(Check::fail("rpc", "chain endpoint", error, expected, remedy));
            return;
        }
    };
    let head = chain.head_timestamp().await.map_or("unknown".into(), |head| format!("{}", SystemClock.now_s().saturating_sub(head)));
    checks.push(Check::pass("rpc", "chain endpoint", format!("chain {}", deployment.chain_id), expected));
    checks.push(Check::pass("head_age", "age of the newest block", head, "as the chain's block time").in_unit("s").into_info());
    let Some(node) = node else { return };
    let register = "run `gpu-node register`";
    let required = config.operator.map_or("of an operator".to_owned(), |operator| format!("of operator {operator}"));
    let title = "node key registered";
    checks.push(match chain.node_key_owner(node).await {
        Err(error) => Check::fail("node_key", title, error, required, "see the chain endpoint"),
        Ok(None) => Check::fail("node_key", title, "of no operator", required, register),
        Ok(Some(owner)) => registered(owner.operator, owner.until, config.operator, required),
    });
}

fn registered(operator: OperatorId, until: Option<u64>, configured: Option<OperatorId>, required: String) -> Check {
    let (id, title) = ("node_key", "node key registered");
    let actual = format!("of operator {operator}");
    if until.is_some() {
        return Check::fail(id, title, format!("{actual}, removed"), required, "make another key with `gpu-node key new` and register it");
    }
    if configured.is_some_and(|configured| configured != operator) {
        return Check::fail(id, title, actual, required, format!("set `operator = {operator}` in the config, or use that operator's key"));
    }
    Check::pass(id, title, actual, required)
}

fn weights(model: &ModelConfig, full: bool) -> Check {
    let (id, title) = ("model", format!("model {}", model.id));
    let file = run::weights_file(model);
    let remedy = "import it again with `gpu-node model import`, and check `path`";
    let bytes = match std::fs::metadata(&file) {
        Ok(facts) => facts.len(),
        Err(error) => return Check::fail(id, title, format!("{}: {error}", file.display()), "a model folder", remedy),
    };
    if !model.path.join(MANIFEST_FILE).exists() {
        return Check::pass(id, title, "no manifest, nothing to compare with", "digests as in the manifest").into_info();
    }
    if bytes > HASHED_BYTES_MAX && !full {
        return Check::pass(id, title, format!("{} bytes, not hashed", bytes), "digests as in the manifest; --full hashes").into_info();
    }
    let verified = Manifest::read(&model.path).and_then(|manifest| manifest.verify(&model.path, &|_| ()).map(|()| manifest));
    match verified {
        Ok(manifest) => Check::pass(id, title, manifest.model_root, "digests as in the manifest"),
        Err(error) => Check::fail(id, title, error, "digests as in the manifest", remedy),
    }
}

fn device(config: &Config) -> Check {
    let (id, title) = ("device", "device that computes");
    let required = format!("`backend.device` is {}", config.backend.device);
    let card = match CudaDevice::open(config.backend.card) {
        Ok(device) => device.facts().name.clone(),
        Err(error) if config.backend.device == BackendKind::Cuda => {
            return Check::fail(id, title, error, required, "mend the card, or set `device = \"auto\"` in `[backend]`");
        }
        Err(NoDevice::NoDriver) => return Check::pass(id, title, "processor; no NVIDIA driver", required).into_info(),
        Err(error) => {
            let actual = format!("processor: {error}");
            let remedy = "mend the card, or set `device = \"cpu\"` in `[backend]` if the processor is meant";
            let check = Check::fail(id, title, actual, required, remedy).into_warning();
            return if config.backend.device == BackendKind::Cpu { check.into_info() } else { check };
        }
    };
    match config.backend.device {
        BackendKind::Cpu => Check::pass(id, title, format!("processor, though there is {card}"), required).into_info(),
        BackendKind::Auto | BackendKind::Cuda => Check::pass(id, title, card, required),
    }
}

fn memory(config: &Config, memory: Memory) -> Check {
    let (id, title) = ("memory", "memory available");
    let weights: u64 =
        config.models.iter().filter_map(|model| std::fs::metadata(run::weights_file(model)).ok()).map(|facts| facts.len()).sum();
    let kv_mib = config.engine.kv_memory_mib as u64 * config.models.len() as u64;
    let needed_mib = weights.div_ceil(1 << 20) + kv_mib;
    let available_mib = memory.available_bytes >> 20;
    if memory == Memory::default() {
        return Check::pass(id, title, "unknown on this system", needed_mib).in_unit("MiB").into_info();
    }
    if available_mib >= needed_mib {
        return Check::pass(id, title, available_mib, needed_mib).in_unit("MiB");
    }
    let remedy = format!("lower `engine.kv_memory_mib` ({}), serve fewer models, or stop other programs", config.engine.kv_memory_mib);
    Check::fail(id, title, available_mib, needed_mib, remedy).in_unit("MiB").into_warning()
}

/// Only good to know: a machine that does nothing else needs no priority.
fn priority(asked: i32, granted: i32) -> Check {
    let (id, title) = ("priority", "nice value of computing");
    if granted == asked {
        return Check::pass(id, title, granted, asked);
    }
    let remedy =
        "allow it (systemd: `AmbientCapabilities=CAP_SYS_NICE`, or `LimitNICE=` with that value), or set `engine.nice` to what is granted";
    Check::fail(id, title, format!("{granted}; {asked} is refused"), asked, remedy).into_info()
}

async fn meter(url: &MeterUrl, deployment: Option<&Deployment>, checks: &mut Vec<Check>) {
    let timings = LinkTimings { connect: METER_TIMEOUT, handshake: METER_TIMEOUT, ..LinkTimings::default() };
    let title = format!("meter {url}");
    let required = format!("greets with protocol {PROTOCOL} and our contracts");
    checks.push(match greet(url, &timings).await {
        Err(error) => Check::fail("meter", title, error, required, "check `meters`, the network, and that the meter runs"),
        Ok(greeting) if greeting.protocol != PROTOCOL => {
            Check::fail("meter", title, format!("protocol {}", greeting.protocol), required, crate::link::next_step("protocol"))
        }
        Ok(greeting) if deployment.is_some_and(|own| (own.chain_id, own.settlement) != (greeting.chain_id, greeting.settlement)) => {
            let actual = format!("chain {}, settlement {}", greeting.chain_id, greeting.settlement);
            Check::fail("meter", title, actual, required, "name the meter's deployment file in `chain.deployment`")
        }
        Ok(_) => Check::pass("meter", title, "greets", required),
    });
    if url.is_exposed() {
        let actual = "prompts cross the network in the clear";
        checks.push(Check::fail("meter_tls", format!("TLS to {url}"), actual, "https", "use the meter's https:// address").into_warning());
    }
    if let Some(skew) = clock_skew(url).await {
        let title = format!("clock against {url}");
        let required = format!("at most {SKEW_SECONDS_MAX}");
        let check = match skew <= SKEW_SECONDS_MAX {
            true => Check::pass("clock", title, skew, required),
            false => Check::fail("clock", title, skew, required, "set the clock by NTP, for example `timedatectl set-ntp true`"),
        };
        checks.push(check.in_unit("s"));
    }
}

/// Seconds between this machine's clock and the meter's `Date`; `None` when it sends none.
async fn clock_skew(url: &MeterUrl) -> Option<u64> {
    let client = reqwest::Client::builder().timeout(METER_TIMEOUT).build().ok()?;
    let answer = client.get(url.http("/healthz")).send().await.ok()?;
    let theirs = httpdate::parse_http_date(answer.headers().get(reqwest::header::DATE)?.to_str().ok()?).ok()?;
    let ours = SystemTime::now();
    Some(ours.duration_since(theirs).unwrap_or_else(|error| error.duration()).as_secs())
}

async fn admin_port(config: &Config) -> Check {
    let (id, title, required) = ("admin_listen", format!("admin listener {}", config.admin_listen), "free, or ours");
    match TcpListener::bind(config.admin_listen).await {
        Ok(_) => Check::pass(id, title, "free", required),
        Err(_) if status::fetch(config).await.is_ok() => Check::pass(id, title, "the running node", required).into_info(),
        Err(error) => Check::fail(id, title, error, required, "choose another `admin_listen`, or stop what listens there"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::doctor::Outcome;

    #[test]
    fn a_priority_that_is_refused_is_said_and_fails_nothing() {
        let refused = priority(-5, 0);
        assert_eq!((refused.outcome, refused.actual.as_str(), refused.required.as_str()), (Outcome::Info, "0; -5 is refused", "-5"));
        assert!(refused.remediation.contains("CAP_SYS_NICE"), "{}", refused.remediation);
        let granted = priority(-5, -5);
        assert_eq!((granted.outcome, granted.actual.as_str(), granted.remediation.as_str()), (Outcome::Pass, "-5", ""));
    }
}
