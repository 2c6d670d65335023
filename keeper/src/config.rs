//! The keeper's config file: every limit with its unit, default and reason. `keeper.example.toml` is the same, commented.

use std::path::{Path, PathBuf};

use daemon::config::{ConfigError, beside, load};
use daemon::logs::LogConfig;
use serde::Deserialize;
use thiserror::Error;
use wire::OperatorId;
use wire::deployment::Deployment;
use wire::settlement::{DEADLINE_SECONDS_MAX, RECEIPTS_MAX};

/// Largest batch, rows. At about 6,000 gas a row, 1,000 rows stay below 6 M gas.
pub const ROWS_MAX: usize = 1_000;
/// Gas that one transaction may ask for (EIP-7825).
pub const TRANSACTION_GAS_MAX: u64 = 1 << 24;
const DEPLOYMENT_BYTES_MAX: u64 = 64 << 10;

/// Everything that the process needs to know.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Public URL of the meter, without a path.
    pub meter_url: reqwest::Url,
    /// How long one call to the meter may take.
    #[serde(default = "defaults::timeout_ms")]
    pub meter_timeout_ms: u64,
    /// Encrypted key that pays for gas and signs the passes to the feed.
    pub keystore: PathBuf,
    /// Password of the keystore; mode 0600.
    pub password_file: PathBuf,
    /// SQLite file of the journal; created when it is missing.
    pub journal: PathBuf,
    /// Health, readiness and metrics; keep it on loopback.
    #[serde(default = "defaults::admin_listen")]
    pub admin_listen: std::net::SocketAddr,
    /// Rest between two rounds.
    #[serde(default = "defaults::period_ms")]
    pub period_ms: u64,
    /// Operators for whom the keeper also calls `claimMany`. Empty: it claims for nobody.
    #[serde(default)]
    pub claim_operators: Vec<OperatorId>,
    /// Least sum of claimable credits worth a claim.
    #[serde(default = "defaults::claim_min_credits")]
    pub claim_min_credits: u64,
    /// Where the contracts are.
    pub chain: ChainConfig,
    /// When and how much to settle.
    #[serde(default)]
    pub batch: BatchConfig,
    /// What gas may cost.
    #[serde(default)]
    pub gas: GasConfig,
    /// Log lines.
    #[serde(default)]
    pub log: LogConfig,
}

/// The `[chain]` table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChainConfig {
    /// JSON-RPC endpoint, HTTP.
    pub rpc_url: reqwest::Url,
    /// Deployment file (`docs/protocol.md`, section 10).
    pub deployment: PathBuf,
    /// Blocks, counting its own, that bury a settlement before it is final. At least what the meter waits for.
    #[serde(default = "defaults::confirmations")]
    pub confirmations: u64,
    /// How long one JSON-RPC call may take.
    #[serde(default = "defaults::timeout_ms")]
    pub timeout_ms: u64,
}

/// The `[batch]` table.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BatchConfig {
    /// A batch of less than this waits for more, so that gas stays below a percent or two of what is paid.
    pub min_credits: u64,
    /// A receipt older than this is settled however small the batch is.
    pub max_age_s: u64,
    /// An account whose authorization can be debited for less than this time is settled however small the batch is.
    pub urgent_s: u64,
    /// Most rows.
    pub rows_max: usize,
    /// Most receipts.
    pub receipts_max: usize,
    /// How far ahead the deadline of a proposal lies.
    pub deadline_s: u64,
    /// How long another keeper may take to land what it had signed, before this one relays it.
    pub adopt_after_s: u64,
}

/// The `[gas]` table.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GasConfig {
    /// Never pay more per gas.
    pub price_max_gwei: u64,
    /// Tip when the node names none or a lower one.
    pub priority_fee_min_wei: u64,
    /// Most to spend in 24 hours; 1 ether is 10^9 gwei.
    pub spend_per_day_max_gwei: u64,
    /// Most gas of one transaction.
    pub limit_max: u64,
    /// A transaction that was not mined for this long is replaced by one that pays more.
    pub stuck_after_s: u64,
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self {
            min_credits: 1_000_000_000,
            max_age_s: 600,
            urgent_s: 1_800,
            rows_max: ROWS_MAX,
            receipts_max: RECEIPTS_MAX,
            deadline_s: 600,
            adopt_after_s: 30,
        }
    }
}

impl Default for GasConfig {
    fn default() -> Self {
        Self {
            price_max_gwei: 50,
            priority_fee_min_wei: 1_000_000,
            spend_per_day_max_gwei: 50_000_000,
            limit_max: 16_000_000,
            stuck_after_s: 45,
        }
    }
}

mod defaults {
    pub(super) fn timeout_ms() -> u64 {
        10_000
    }
    pub(super) fn admin_listen() -> std::net::SocketAddr {
        ([127, 0, 0, 1], 9302).into()
    }
    pub(super) fn period_ms() -> u64 {
        5_000
    }
    pub(super) fn claim_min_credits() -> u64 {
        1_000_000_000
    }
    pub(super) fn confirmations() -> u64 {
        12
    }
}

impl Config {
    /// Reads and checks `path`; relative paths in it are taken from its folder. Errors name the setting.
    pub fn read(path: &Path) -> Result<Self, SettingError> {
        let mut config: Self = load(path)?;
        for file in [&mut config.keystore, &mut config.password_file, &mut config.journal, &mut config.chain.deployment] {
            *file = beside(path, file);
        }
        config.check()?;
        Ok(config)
    }

    /// Reads the deployment file. Errors when it is missing, too large or malformed.
    pub fn deployment(&self) -> Result<Deployment, SettingError> {
        let path = &self.chain.deployment;
        let broken = |what: String| SettingError::Deployment { path: path.clone(), what };
        let length_bytes = std::fs::metadata(path).map_err(|error| broken(error.to_string()))?.len();
        if length_bytes > DEPLOYMENT_BYTES_MAX {
            return Err(broken(format!("{length_bytes} bytes, at most {DEPLOYMENT_BYTES_MAX} are read")));
        }
        let text = std::fs::read(path).map_err(|error| broken(error.to_string()))?;
        serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))
    }

    fn check(&self) -> Result<(), SettingError> {
        let within = |setting: &'static str, given: u64, min: u64, max: u64| {
            if (min..=max).contains(&given) { Ok(()) } else { Err(SettingError::Range { setting, given, min, max }) }
        };
        within("period_ms", self.period_ms, 50, 3_600_000)?;
        within("meter_timeout_ms", self.meter_timeout_ms, 100, 120_000)?;
        within("claim_operators (length)", self.claim_operators.len() as u64, 0, 200)?;
        within("chain.timeout_ms", self.chain.timeout_ms, 100, 120_000)?;
        within("chain.confirmations", self.chain.confirmations, 1, 1_000)?;
        within("batch.rows_max", self.batch.rows_max as u64, 1, ROWS_MAX as u64)?;
        within("batch.receipts_max", self.batch.receipts_max as u64, 1, RECEIPTS_MAX as u64)?;
        within("batch.deadline_s", self.batch.deadline_s, 30, DEADLINE_SECONDS_MAX)?;
        within("batch.adopt_after_s", self.batch.adopt_after_s, 0, 3_600)?;
        within("gas.price_max_gwei", self.gas.price_max_gwei, 1, 1_000_000)?;
        within("gas.priority_fee_min_wei", self.gas.priority_fee_min_wei, 0, 1_000_000_000_000)?;
        within("gas.limit_max", self.gas.limit_max, 300_000, TRANSACTION_GAS_MAX)?;
        within("gas.stuck_after_s", self.gas.stuck_after_s, 1, 3_600)
    }
}

/// Why the config can't be used.
#[derive(Debug, Error)]
pub enum SettingError {
    /// Missing, unreadable, or not TOML of ours.
    #[error(transparent)]
    File(#[from] ConfigError),
    /// A number outside its range.
    #[error("{setting} is {given}; it must lie between {min} and {max}")]
    Range {
        /// Which setting.
        setting: &'static str,
        /// What was written.
        given: u64,
        /// Least.
        min: u64,
        /// Most.
        max: u64,
    },
    /// The deployment file can't be read.
    #[error("deployment file {}: {what}; the deploy script writes it, `chain.deployment` names it", path.display())]
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

    fn read(text: &str) -> Result<Config, SettingError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keeper.toml");
        std::fs::write(&path, text).unwrap();
        Config::read(&path)
    }

    #[test]
    fn the_example_reads_and_equals_the_defaults() {
        let config = read(include_str!("../keeper.example.toml")).unwrap();
        assert_eq!(format!("{:?}", config.batch), format!("{:?}", BatchConfig::default()));
        assert_eq!(format!("{:?}", config.gas), format!("{:?}", GasConfig::default()));
        assert_eq!((config.period_ms, config.chain.confirmations), (defaults::period_ms(), defaults::confirmations()));
        assert!(config.keystore.is_absolute());
    }

    #[test]
    fn a_number_out_of_range_is_named_with_both_bounds() {
        let text = include_str!("../keeper.example.toml").replace("rows_max = 1000", "rows_max = 1001");
        let error = read(&text).unwrap_err().to_string();
        assert_eq!(error, "batch.rows_max is 1001; it must lie between 1 and 1000");
    }
}
