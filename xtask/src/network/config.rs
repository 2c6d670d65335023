//! The config files of a network's processes, written anew at every start.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::demo;
use super::operators::Operator;
use super::plan::{Database, Plan, Ports};
use crate::chain::Key;
use crate::model::MODEL_ID;
use crate::secret;

/// Prompt and answer together, as the model was trained.
const CONTEXT_TOKENS: u32 = 8192;

/// What all configs of one network are written from.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Shape and pace.
    pub plan: &'a Plan,
    /// Loopback ports.
    pub ports: &'a Ports,
    /// The model's Hugging Face folder.
    pub model: &'a Path,
}

impl Facts<'_> {
    /// Chain endpoint.
    pub fn rpc_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.chain)
    }

    /// API, page and node links.
    pub fn meter_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.meter)
    }

    /// Writes `meter.toml`.
    pub fn write_meter(&self, settler: &Key, keepers: &[&str], fallback: &[&Operator]) -> Result<PathBuf> {
        let folder = self.plan.dir.join("meter");
        let ledger = match &self.plan.database {
            Database::Sqlite => format!("database_url = {}", quoted(&format!("sqlite://{}", folder.join("meter.db").display()))),
            Database::Postgres { url } => {
                secret::write(&folder.join("database.url"), url)?;
                "database_url_file = \"database.url\"".to_owned()
            }
        };
        let keepers: Vec<String> = keepers.iter().map(|address| quoted(address)).collect();
        let fallback: Vec<String> = fallback.iter().map(|operator| operator.id.to_string()).collect();
        let pace = &self.plan.pace;
        let text = format!(
            r#"[http]
listen = "127.0.0.1:{listen}"
admin_listen = "127.0.0.1:{admin}"

[ledger]
{ledger}

[chain]
rpc_url = {rpc_url}
deployment = {deployment}
confirmations = {confirmations}
poll_ms = {poll_ms}

[settler]
keystore = {keystore}
password_file = {password_file}

[network]
keepers = [{keepers}]
fallback_operators = [{fallback}]

{models}
[demo]
file = {demo}

[audits]
rate_bps = {audit_rate_bps}

{benchmark}
"#,
            listen = self.ports.meter,
            admin = self.ports.meter_admin,
            rpc_url = quoted(&self.rpc_url()),
            deployment = path(&self.plan.deployment_file()),
            confirmations = pace.confirmations,
            poll_ms = pace.mirror_poll_ms,
            keystore = path(&settler.keystore),
            password_file = path(&settler.password_file),
            keepers = keepers.join(", "),
            fallback = fallback.join(", "),
            models = self.models(),
            demo = path(&demo::file(&self.plan.dir)),
            audit_rate_bps = self.plan.audit_rate_bps,
            benchmark = self.benchmark(),
        );
        write(&folder.join("meter.toml"), &text)
    }

    /// The meter's `[benchmark]` table.
    fn benchmark(&self) -> String {
        match self.plan.benchmark_prompt_tokens {
            0 => "[benchmark]\nevery_s = 0".to_owned(),
            prompt_tokens => format!("[benchmark]\nprompt_tokens = {prompt_tokens}"),
        }
    }

    /// The meter's `[[models]]` tables.
    fn models(&self) -> String {
        let twin = self.plan.twin.map(|twin| (twin.id, twin.rate));
        let tables = std::iter::once((MODEL_ID, self.plan.model_rate)).chain(twin).map(|(id, rate)| {
            format!(
                r#"[[models]]
id = "{id}"
folder = {folder}
context_tokens = {CONTEXT_TOKENS}
rates = [{{ credits_per_million_tokens = {rate} }}]
"#,
                folder = path(self.model),
            )
        });
        tables.collect::<Vec<_>>().join("\n")
    }

    /// Writes `keeper.toml`.
    pub fn write_keeper(&self, key: &Key) -> Result<PathBuf> {
        let folder = self.plan.dir.join("keeper");
        let pace = &self.plan.pace;
        let text = format!(
            r#"meter_url = {meter_url}
keystore = {keystore}
password_file = {password_file}
journal = {journal}
admin_listen = "127.0.0.1:{admin}"
period_ms = {period_ms}

[chain]
rpc_url = {rpc_url}
deployment = {deployment}
confirmations = {confirmations}

[batch]
min_credits = 1 # gas is free here, and somebody is watching

[gas]
spend_per_day_max_gwei = 1_000_000_000
"#,
            meter_url = quoted(&self.meter_url()),
            keystore = path(&key.keystore),
            password_file = path(&key.password_file),
            journal = path(&folder.join("keeper.sqlite")),
            admin = self.ports.keeper_admin,
            period_ms = pace.keeper_period_ms,
            rpc_url = quoted(&self.rpc_url()),
            deployment = path(&self.plan.deployment_file()),
            confirmations = pace.confirmations,
        );
        write(&folder.join("keeper.toml"), &text)
    }
}

/// Writes a config file and returns its path.
pub(super) fn write(path: &Path, text: &str) -> Result<PathBuf> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let text = format!("# Written by `cargo xtask up` at every start.\n\n{text}");
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path.to_owned())
}

/// A path as a TOML string.
pub(super) fn path(path: &Path) -> String {
    quoted(&path.display().to_string())
}

/// Text as a TOML string; a JSON string is one.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
