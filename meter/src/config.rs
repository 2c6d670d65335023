//! The meter's config file: what it is, what each limit is for, and the checks that need no network.

mod audits;
mod benchmark;
mod error;
mod limits;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use daemon::config::beside;
use daemon::logs::LogConfig;
use serde::Deserialize;
use wire::{Address, B256, OperatorId};

use crate::identity::IdentitySettings;

pub use audits::{AuditSettings, RATE_BPS_MAX};
pub use benchmark::BenchmarkSettings;
pub use error::ConfigError;
pub use limits::{Limits, STALE_S};

/// Most models of one meter; bounds the labels of metrics.
const MODELS_MAX: usize = 256;
/// Largest secret that stands in a file of its own, bytes.
const SECRET_FILE_BYTES_MAX: u64 = 4_096;

/// The whole file; `meter.example.toml` explains each field.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Log lines.
    #[serde(default)]
    pub log: LogConfig,
    /// Listeners.
    pub http: HttpConfig,
    /// Where money is counted.
    pub ledger: LedgerConfig,
    /// Which chain, which contracts, how deep.
    pub chain: ChainConfig,
    /// The key that signs batches.
    pub settler: SettlerConfig,
    /// Who may settle, and which operators are the project's own.
    #[serde(default)]
    pub network: NetworkConfig,
    /// Lifetimes of sessions and keys.
    #[serde(default)]
    pub identity: IdentitySettings,
    /// What is served, at what price.
    pub models: Vec<ModelConfig>,
    /// The answer that anybody may read.
    #[serde(default)]
    pub demo: DemoConfig,
    /// Which answers are computed again.
    #[serde(default)]
    pub audits: AuditSettings,
    /// How often nodes are measured.
    #[serde(default)]
    pub benchmark: BenchmarkSettings,
    /// Everything that is bounded.
    #[serde(default)]
    pub limits: Limits,
}

/// The `[http]` table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpConfig {
    /// API, page and node links.
    pub listen: SocketAddr,
    /// Health and metrics.
    #[serde(default = "admin_listen")]
    pub admin_listen: SocketAddr,
    /// Reverse proxies, of which the connections are not counted by address.
    #[serde(default)]
    pub trusted_proxies: Vec<IpAddr>,
    /// How long browsers that came over https come by it alone, seconds; 0 is off. Said only with `identity.https`.
    #[serde(default = "hsts_max_age_s")]
    pub hsts_max_age_s: u64,
}

impl HttpConfig {
    /// The age to say, seconds; 0 where people do not come over https, since a plain answer must not say it (RFC 6797, 7.2).
    pub fn hsts_s(&self, https: bool) -> u64 {
        if https { self.hsts_max_age_s } else { 0 }
    }
}

/// The `[ledger]` table. Exactly one of the two URLs.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LedgerConfig {
    /// Name of this meter, the same after every restart, and its own among the meters that share a database.
    #[serde(default = "instance")]
    pub instance: String,
    /// `sqlite://…` or `postgres://…` without a password.
    #[serde(default)]
    pub database_url: Option<String>,
    /// File that holds the URL, readable for its owner only.
    #[serde(default)]
    pub database_url_file: Option<PathBuf>,
}

/// The `[chain]` table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChainConfig {
    /// JSON-RPC endpoint without a key in it.
    #[serde(default)]
    pub rpc_url: Option<String>,
    /// File that holds the endpoint, readable for its owner only.
    #[serde(default)]
    pub rpc_url_file: Option<PathBuf>,
    /// The deployment file.
    pub deployment: PathBuf,
    /// Blocks below the head at which a fact counts.
    #[serde(default)]
    pub confirmations: Option<u64>,
    /// Count facts at the chain's `finalized` tag in place of `confirmations`.
    #[serde(default)]
    pub finalized: bool,
    /// Time between two looks at the chain.
    #[serde(default = "poll_ms")]
    pub poll_ms: u64,
}

/// The `[settler]` table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SettlerConfig {
    /// Encrypted key.
    pub keystore: PathBuf,
    /// Its password, readable for its owner only.
    pub password_file: PathBuf,
}

/// The `[network]` table.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkConfig {
    /// Keepers that may read the feed and ask for signatures.
    pub keepers: Vec<Address>,
    /// Operators whose nodes are the project's fallback hardware.
    pub fallback_operators: Vec<OperatorId>,
}

/// The `[demo]` table.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DemoConfig {
    /// An answer that this meter served and that its operator publishes; it may come and go while the meter runs.
    pub file: Option<PathBuf>,
}

/// One `[[models]]` table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Name in `/v1/models`.
    pub id: String,
    /// Hugging Face folder; the weights are only needed when `model_root` is absent.
    pub folder: PathBuf,
    /// Most tokens of prompt and answer together.
    pub context_tokens: u32,
    /// Numeric contract that nodes must serve.
    #[serde(default = "numeric_contract")]
    pub numeric_contract: String,
    /// Digest of the weights; absent: computed from `model.safetensors` at the start.
    #[serde(default)]
    pub model_root: Option<B256>,
    /// Multiplications and additions of the layers' weights for one token; absent: counted in `model.safetensors` where it is here.
    #[serde(default)]
    pub operations_per_token: Option<u64>,
    /// Prices, each from its start on.
    pub rates: Vec<RateConfig>,
}

/// One price of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateConfig {
    /// Prompt and answer alike.
    pub credits_per_million_tokens: u64,
    /// Seconds since the epoch.
    #[serde(default)]
    pub starts_at: u64,
}

impl Config {
    /// Reads and checks the file; relative paths are taken from its folder. Errors name the setting and what to do.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let mut config: Self = daemon::config::load(path)?;
        let place = |inner: &mut PathBuf| *inner = beside(path, inner);
        place(&mut config.chain.deployment);
        place(&mut config.settler.keystore);
        place(&mut config.settler.password_file);
        config.ledger.database_url_file.iter_mut().for_each(place);
        config.chain.rpc_url_file.iter_mut().for_each(place);
        config.demo.file.iter_mut().for_each(place);
        config.models.iter_mut().map(|model| &mut model.folder).for_each(place);
        config.check()?;
        Ok(config)
    }

    /// Checks what needs neither disk nor network.
    pub fn check(&self) -> Result<(), ConfigError> {
        exactly_one("ledger.database_url", self.ledger.database_url.is_some(), self.ledger.database_url_file.is_some())?;
        exactly_one("chain.rpc_url", self.chain.rpc_url.is_some(), self.chain.rpc_url_file.is_some())?;
        exactly_one("chain.confirmations", self.chain.confirmations.is_some(), self.chain.finalized)?;
        if self.models.is_empty() || self.models.len() > MODELS_MAX {
            return Err(ConfigError::ModelCount { count: self.models.len() });
        }
        let instance = &self.ledger.instance;
        if instance.is_empty() || instance.len() > 64 || !instance.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return Err(ConfigError::Instance { instance: instance.clone() });
        }
        let mut ids = BTreeSet::new();
        for model in &self.models {
            model.check()?;
            if !ids.insert(&model.id) {
                return Err(ConfigError::ModelTwice { model: model.id.clone() });
            }
        }
        self.audits.check()?;
        self.benchmark.check()?;
        self.limits.check()
    }

    /// The ledger's URL, from the file when it names one. Errors when that can't be read, or others can read it.
    pub fn database_url(&self) -> Result<String, ConfigError> {
        text_or_file(&self.ledger.database_url, &self.ledger.database_url_file)
    }

    /// The chain's endpoint, as [`Config::database_url`].
    pub fn rpc_url(&self) -> Result<String, ConfigError> {
        text_or_file(&self.chain.rpc_url, &self.chain.rpc_url_file)
    }

    /// Where the contracts are. Errors when the file is missing or not a deployment.
    pub fn deployment(&self) -> Result<wire::deployment::Deployment, ConfigError> {
        let path = &self.chain.deployment;
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Read { path: path.clone(), error })?;
        serde_json::from_str(&text).map_err(|error| ConfigError::Deployment { path: path.clone(), error })
    }
}

impl ModelConfig {
    fn check(&self) -> Result<(), ConfigError> {
        let model = self.id.clone();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte);
        if self.id.is_empty() || self.id.len() > 128 || !self.id.bytes().all(plain) {
            return Err(ConfigError::ModelId { model });
        }
        if self.context_tokens < 2 {
            return Err(ConfigError::Context { model, context_tokens: self.context_tokens });
        }
        if self.operations_per_token == Some(0) {
            return Err(ConfigError::ZeroLimit { field: "models.operations_per_token" });
        }
        if self.rates.is_empty() {
            return Err(ConfigError::NoRate { model });
        }
        if self.rates.windows(2).any(|pair| pair[0].starts_at >= pair[1].starts_at) {
            return Err(ConfigError::RateOrder { model });
        }
        let dearest = self.rates.iter().map(|rate| rate.credits_per_million_tokens).max().unwrap_or(0);
        let worst = wire::message_cost_up(wire::ModelRate(dearest), u64::from(self.context_tokens));
        worst.map(drop).map_err(|error| ConfigError::RateTooHigh { model, error })
    }
}

fn exactly_one(field: &'static str, first: bool, second: bool) -> Result<(), ConfigError> {
    if first == second { Err(ConfigError::ExactlyOne { field }) } else { Ok(()) }
}

fn text_or_file(text: &Option<String>, file: &Option<PathBuf>) -> Result<String, ConfigError> {
    use std::os::unix::fs::PermissionsExt;
    let (Some(path), None) = (file, text) else {
        return Ok(text.clone().unwrap_or_default());
    };
    let read = |error| ConfigError::Read { path: path.clone(), error };
    let facts = std::fs::metadata(path).map_err(read)?;
    let mode = facts.permissions().mode() & 0o777;
    if mode & 0o077 != 0 || facts.len() > SECRET_FILE_BYTES_MAX {
        return Err(ConfigError::SecretFile { path: path.clone(), mode, length_bytes: facts.len() });
    }
    Ok(std::fs::read_to_string(path).map_err(read)?.trim().to_owned())
}

fn admin_listen() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 9_090))
}

/// Half a year.
fn hsts_max_age_s() -> u64 {
    180 * 24 * 3600
}

fn instance() -> String {
    "meter-1".to_owned()
}

fn poll_ms() -> u64 {
    2_000
}

fn numeric_contract() -> String {
    "parallelix-x8-1".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> String {
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/meter.example.toml")).unwrap()
    }

    fn parse(text: &str) -> Config {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("meter.toml");
        std::fs::write(&path, text).unwrap();
        daemon::config::load(&path).unwrap()
    }

    #[test]
    fn the_example_is_a_config_and_states_the_defaults() {
        let config = parse(&example());
        config.check().unwrap();
        assert_eq!(format!("{:?}", config.limits), format!("{:?}", Limits::default()));
        assert_eq!(format!("{:?}", config.audits), format!("{:?}", AuditSettings::default()));
        assert_eq!(format!("{:?}", config.benchmark), format!("{:?}", BenchmarkSettings::default()));
        assert_eq!(config.http.admin_listen, admin_listen());
        assert_eq!(config.chain.poll_ms, poll_ms());
        assert_eq!(config.ledger.instance, instance());
        assert_eq!(config.http.hsts_max_age_s, hsts_max_age_s());
        assert_eq!((config.http.hsts_s(true), config.http.hsts_s(false)), (hsts_max_age_s(), 0));
        assert_eq!(config.demo.file, None);
        assert_eq!(format!("{:?}", config.identity), format!("{:?}", IdentitySettings::default()));
        assert_eq!(config.models[0].numeric_contract, numeric_contract());
    }

    #[test]
    fn each_mistake_is_named() {
        let cases = [
            ("finalized = true", "finalized = true\nconfirmations = 3", "chain.confirmations"),
            ("context_tokens = 8192", "context_tokens = 1", "context_tokens is 1"),
            ("idle_timeout_ms = 30_000", "idle_timeout_ms = 0", "idle_timeout_ms"),
            ("rate_bps = 200", "rate_bps = 10_001", "audits.rate_bps"),
            ("timeout_ms = 120_000", "timeout_ms = 0", "audits.timeout_ms"),
            ("prompt_tokens = 512", "prompt_tokens = 1", "benchmark.prompt_tokens"),
            ("look_ms = 5_000", "look_ms = 0", "benchmark.look_ms"),
            ("heartbeat_ms = 2_000", "heartbeat_ms = 5_001", "1 to 5000"),
            ("context_tokens = 8192", "context_tokens = 8192\noperations_per_token = 0", "operations_per_token"),
            ("instance = \"meter-1\"", "instance = \"a b\"", "ledger.instance"),
            ("id = \"smollm2-135m-instruct\"", "id = \"two words\"", "no model id"),
        ];
        for (from, to, named) in cases {
            assert!(example().contains(from), "{from}");
            let error = parse(&example().replacen(from, to, 1)).check().unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn a_context_that_costs_more_than_the_ledger_holds_is_refused() {
        let mut model = parse(&example()).models.remove(0);
        model.context_tokens = 2_000_000;
        model.rates[0].credits_per_million_tokens = u64::MAX / 2;
        assert!(matches!(model.check(), Err(ConfigError::RateTooHigh { .. })));
    }

    #[test]
    fn a_credential_file_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("url");
        std::fs::write(&path, "postgres://meter:secret@db/meter\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(text_or_file(&None, &Some(path.clone())), Err(ConfigError::SecretFile { mode: 0o644, .. })));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(text_or_file(&None, &Some(path)).unwrap(), "postgres://meter:secret@db/meter");
    }
}
