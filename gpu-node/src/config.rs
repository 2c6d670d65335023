//! The node's config file: every limit with its unit, default and reason. `gpu-node.example.toml` is the same, commented.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use daemon::config::{ConfigError, beside, load};
use daemon::logs::LogConfig;
use serde::Deserialize;
use thiserror::Error;
use wire::OperatorId;
use wire::deployment::Deployment;

use crate::backend::BackendConfig;
use crate::link::{LinkLimits, LinkTimings, MeterUrl};
use crate::proof::store::ProofLimits;

/// Where the config is looked for when no flag says otherwise.
pub const DEFAULT_PATH: &str = "gpu-node.toml";
/// The commented example, from which `init` writes.
pub const EXAMPLE: &str = include_str!("../gpu-node.example.toml");
const DEPLOYMENT_BYTES_MAX: u64 = 64 << 10;
const METERS_MAX: usize = 64;
const CAPACITY_MAX: u32 = 4_096;
const MODEL_ID_BYTES_MAX: usize = 128;
/// Longest region: a city and a country.
const REGION_CHARS_MAX: usize = 64;

/// Everything that the process needs to know.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Each gets a link of its own.
    pub meters: Vec<MeterUrl>,
    /// The node's signing key, encrypted.
    pub keystore: PathBuf,
    /// Password of the keystore; mode 0600.
    pub password_file: PathBuf,
    /// Where unacknowledged receipts are kept.
    #[serde(default = "defaults::state_dir")]
    pub state_dir: PathBuf,
    /// Health, readiness, metrics and status; keep it on loopback.
    #[serde(default = "defaults::admin_listen")]
    pub admin_listen: SocketAddr,
    /// Operator id of this node; asked of the registry when absent.
    pub operator: Option<OperatorId>,
    /// Where the node stands, in its operator's words; shown beside it in the pool, as declared.
    pub region: Option<String>,
    /// Requests served at once, over all meters.
    #[serde(default = "defaults::capacity")]
    pub capacity: u32,
    /// How long a draining node lets answers run.
    #[serde(default = "defaults::drain_s")]
    pub drain_s: u64,
    /// An engine that gives no token for so long has failed.
    #[serde(default = "defaults::answer_silence_s")]
    pub answer_silence_s: u64,
    /// Most unacknowledged receipts.
    #[serde(default = "defaults::receipts_max")]
    pub receipts_max: usize,
    /// What is served.
    pub models: Vec<ModelConfig>,
    /// How it is computed.
    #[serde(default)]
    pub engine: ComputeConfig,
    /// Which device computes.
    #[serde(default)]
    pub backend: BackendConfig,
    /// What is kept of proofs, and audits of other nodes.
    #[serde(default)]
    pub proofs: ProofConfig,
    /// Where the contracts are.
    pub chain: ChainConfig,
    /// Log lines.
    #[serde(default)]
    pub log: LogConfig,
}

/// One `[[models]]` table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// As the meters price it.
    pub id: String,
    /// Hugging Face folder.
    pub path: PathBuf,
}

/// The `[engine]` table.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ComputeConfig {
    /// Threads that compute; 0 is all.
    pub threads: usize,
    /// Nice value that they ask for.
    pub nice: i32,
    /// Keys and values of all running answers, for each model.
    pub kv_memory_mib: usize,
    /// Prompt tokens in one step; several times as many while no answer runs.
    pub prefill_chunk_tokens: usize,
    /// Prompt and answer together; the model's own limit when absent.
    pub context_tokens: Option<usize>,
}

impl Default for ComputeConfig {
    fn default() -> Self {
        Self { threads: 0, nice: -5, kv_memory_mib: 2_048, prefill_chunk_tokens: 64, context_tokens: None }
    }
}

/// The `[proofs]` table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProofConfig {
    /// All kept windows together.
    pub kept_mib: u64,
    /// How long windows are served after the signature.
    pub kept_days: u64,
    /// Audits that wait, for each model; more are refused. Asked only of a meter's fallback hardware.
    pub audits_waiting_max: usize,
}

impl Default for ProofConfig {
    fn default() -> Self {
        Self { kept_mib: 256, kept_days: 30, audits_waiting_max: 16 }
    }
}

impl ProofConfig {
    /// In bytes and seconds.
    pub fn limits(&self) -> ProofLimits {
        ProofLimits { bytes_max: self.kept_mib.saturating_mul(1 << 20), keep_s: self.kept_days.saturating_mul(86_400) }
    }
}

/// The `[chain]` table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChainConfig {
    /// JSON-RPC over HTTP(S).
    pub rpc_url: reqwest::Url,
    /// Deployment file (`docs/protocol.md`, section 10).
    pub deployment: PathBuf,
    /// One JSON-RPC call.
    #[serde(default = "defaults::timeout_ms")]
    pub timeout_ms: u64,
}

mod defaults {
    use std::net::{Ipv4Addr, SocketAddr};

    pub(super) fn state_dir() -> std::path::PathBuf {
        "state".into()
    }

    pub(super) fn admin_listen() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 9_400).into()
    }

    pub(super) fn capacity() -> u32 {
        4
    }

    pub(super) fn drain_s() -> u64 {
        60
    }

    pub(super) fn answer_silence_s() -> u64 {
        600
    }

    pub(super) fn receipts_max() -> usize {
        10_000
    }

    pub(super) fn timeout_ms() -> u64 {
        10_000
    }
}

impl Config {
    /// Reads and checks the file; relative paths become paths below its folder. Errors name the setting and what to do.
    pub fn read(path: &Path) -> Result<Self, NodeConfigError> {
        let mut config: Self = load(path)?;
        let paths = [&mut config.keystore, &mut config.password_file, &mut config.state_dir, &mut config.chain.deployment];
        for below in paths.into_iter().chain(config.models.iter_mut().map(|model| &mut model.path)) {
            *below = beside(path, below);
        }
        config.check()?;
        Ok(config)
    }

    /// Reads the deployment file. Errors when it is missing or not one.
    pub fn deployment(&self) -> Result<Deployment, NodeConfigError> {
        let path = &self.chain.deployment;
        let unusable = |what: String| NodeConfigError::Deployment { path: path.clone(), what };
        let length_bytes = std::fs::metadata(path).map_err(|error| unusable(error.to_string()))?.len();
        if length_bytes > DEPLOYMENT_BYTES_MAX {
            return Err(unusable(format!("{length_bytes} bytes are too many")));
        }
        let text = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
        serde_json::from_slice(&text).map_err(|error| unusable(error.to_string()))
    }

    /// What the links may use.
    pub fn link_limits(&self) -> LinkLimits {
        LinkLimits {
            capacity: self.capacity,
            answer_silence: Duration::from_secs(self.answer_silence_s),
            drain: Duration::from_secs(self.drain_s),
            timings: LinkTimings::default(),
        }
    }

    fn check(&self) -> Result<(), NodeConfigError> {
        let wrong = |setting, what: String| Err(NodeConfigError::Setting { setting, what });
        if self.meters.is_empty() || self.meters.len() > METERS_MAX {
            return wrong("meters", format!("{} are named; name 1 to {METERS_MAX}", self.meters.len()));
        }
        if let Some(twice) = first_repeated(&self.meters) {
            return wrong("meters", format!("{twice} is named twice; a newer link of the same node replaces the older one"));
        }
        if self.models.is_empty() {
            return wrong("models", "none is named; add a [[models]] table with `id` and `path`".into());
        }
        let ids: Vec<&str> = self.models.iter().map(|model| model.id.as_str()).collect();
        if let Some(twice) = first_repeated(&ids) {
            return wrong("models", format!("`{twice}` is named twice"));
        }
        if let Some(id) = ids.iter().find(|id| id.is_empty() || id.len() > MODEL_ID_BYTES_MAX) {
            return wrong("models", format!("an id has {} bytes; it must have 1 to {MODEL_ID_BYTES_MAX}", id.len()));
        }
        if self.capacity == 0 || self.capacity > CAPACITY_MAX {
            return wrong("capacity", format!("{} is not in 1 to {CAPACITY_MAX}", self.capacity));
        }
        if let Some(region) = &self.region
            && (!(1..=REGION_CHARS_MAX).contains(&region.chars().count()) || region.chars().any(char::is_control))
        {
            let chars = region.chars().count();
            return wrong("region", format!("it has {chars} characters; write 1 to {REGION_CHARS_MAX} printable ones, or leave it out"));
        }
        if self.receipts_max < self.capacity as usize {
            return wrong("receipts_max", format!("{} is below `capacity`, {}", self.receipts_max, self.capacity));
        }
        if !(-20..=19).contains(&self.engine.nice) {
            return wrong("engine.nice", format!("{} is not in -20 to 19", self.engine.nice));
        }
        if !(1..=100).contains(&self.backend.kv_memory_percent) {
            return wrong("backend.kv_memory_percent", format!("{} is not in 1 to 100", self.backend.kv_memory_percent));
        }
        let positive = [
            ("answer_silence_s", self.answer_silence_s),
            ("chain.timeout_ms", self.chain.timeout_ms),
            ("engine.kv_memory_mib", self.engine.kv_memory_mib as u64),
            ("engine.prefill_chunk_tokens", self.engine.prefill_chunk_tokens as u64),
            ("backend.prefill_chunk_tokens", self.backend.prefill_chunk_tokens as u64),
        ];
        match positive.into_iter().find(|(_, value)| *value == 0) {
            Some((setting, _)) => wrong(setting, "0 is not possible; it must be 1 or more".into()),
            None => Ok(()),
        }
    }
}

fn first_repeated<T: PartialEq>(items: &[T]) -> Option<&T> {
    items.iter().enumerate().find(|(index, item)| items[..*index].contains(item)).map(|(_, item)| item)
}

/// Why the node can't be configured so.
#[derive(Debug, Error)]
pub enum NodeConfigError {
    /// The file.
    #[error(transparent)]
    File(#[from] ConfigError),
    /// A value out of range.
    #[error("config: `{setting}`: {what}")]
    Setting {
        /// Which one.
        setting: &'static str,
        /// What is wrong with it.
        what: String,
    },
    /// The deployment file.
    #[error("deployment file {}: {what}; name the file that the deploy script wrote in `chain.deployment`", path.display())]
    Deployment {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, NodeConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gpu-node.toml");
        std::fs::write(&path, text).unwrap();
        Config::read(&path)
    }

    const LEAST: &str = r#"
meters = ["https://meter.example"]
keystore = "key.json"
password_file = "/secret/password"
[[models]]
id = "m"
path = "models/m"
[chain]
rpc_url = "http://127.0.0.1:8545"
deployment = "deployment.json"
"#;

    #[test]
    fn the_example_holds_the_defaults() {
        let (example, least) = (read(EXAMPLE).unwrap(), read(LEAST).unwrap());
        let values = |config: &Config| {
            let limits = (config.capacity, config.drain_s, config.answer_silence_s, config.receipts_max, config.chain.timeout_ms);
            (limits, format!("{:?} {:?}", config.engine, config.backend), format!("{:?}", config.log), config.admin_listen, config.operator)
        };
        assert_eq!(values(&example), values(&least));
        assert!(example.state_dir.ends_with("state") && least.state_dir.ends_with("state"));
    }

    #[test]
    fn relative_paths_lie_beside_the_config() {
        let config = read(LEAST).unwrap();
        assert!(config.keystore.is_absolute() && config.models[0].path.is_absolute());
        assert_eq!(config.password_file, Path::new("/secret/password"));
    }

    #[test]
    fn wrong_settings_are_named() {
        let changed = [
            ("\"https://meter.example\"", "", "`meters`"),
            ("\"https://meter.example\"", "\"https://a\", \"https://a/\"", "named twice"),
            ("https://meter.example", "meter.example", "is not a meter's address"),
            ("keystore =", "capacity = 0\nkeystore =", "`capacity`"),
            ("keystore =", "region = \"\"\nkeystore =", "`region`"),
            ("keystore =", "region = \"a\\u001b[31m\"\nkeystore =", "`region`"),
            ("keystore =", "answer_silence_s = 0\nkeystore =", "answer_silence_s"),
            ("keystore =", "private_key = 1\nkeystore =", "private_key"),
            ("id = \"m\"", "id = \"\"", "an id has 0 bytes"),
            ("[chain]", "[backend]\nkv_memory_percent = 0\n[chain]", "kv_memory_percent"),
            ("[chain]", "[engine]\nnice = -21\n[chain]", "`engine.nice`"),
            ("[chain]", "[backend]\ndevice = \"gpu\"\n[chain]", "gpu"),
        ];
        for (from, to, word) in changed {
            let text = LEAST.replace(from, to);
            assert_ne!(text, LEAST);
            let error = read(&text).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
