//! What can be wrong with the meter's config.

use std::path::PathBuf;

use daemon::config::ConfigError as FileError;
use thiserror::Error;

use super::{MODELS_MAX, RATE_BPS_MAX, SECRET_FILE_BYTES_MAX, STALE_S};

/// Why a config can't be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// Missing, unreadable or not ours.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file that the config names.
    #[error("{}: {error}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// Not a deployment file.
    #[error("{} is no deployment file: {error}; take the one that the deploy script wrote", path.display())]
    Deployment {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        error: serde_json::Error,
    },
    /// A credential that others can read, or that is no credential.
    #[error("{} has mode {mode:o} and {length_bytes} bytes; a credential file has mode 600 and at most {SECRET_FILE_BYTES_MAX} bytes", path.display())]
    SecretFile {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// Its size.
        length_bytes: u64,
    },
    /// Two settings of which one is meant.
    #[error("set exactly one of `{field}` and its alternative (`…_file`, or `finalized`)")]
    ExactlyOne {
        /// The first of the two.
        field: &'static str,
    },
    /// Not a name.
    #[error("`ledger.instance` is `{instance}`; use 1 to 64 letters, digits and -")]
    Instance {
        /// What was written.
        instance: String,
    },
    /// None, or too many.
    #[error("`models` has {count} entries, it must have 1 to {MODELS_MAX}")]
    ModelCount {
        /// How many.
        count: usize,
    },
    /// The same id again.
    #[error("model `{model}` stands twice; keep one")]
    ModelTwice {
        /// Which.
        model: String,
    },
    /// Not an id.
    #[error("`{model}` is no model id; use 1 to 128 of letters, digits and - _ . : /")]
    ModelId {
        /// What was written.
        model: String,
    },
    /// No room for an answer.
    #[error("model `{model}`: context_tokens is {context_tokens}, it must be 2 or more")]
    Context {
        /// Which model.
        model: String,
        /// What was written.
        context_tokens: u32,
    },
    /// No price.
    #[error("model `{model}` has no rate; add one to `rates`")]
    NoRate {
        /// Which model.
        model: String,
    },
    /// Two rates at once, or out of order.
    #[error("model `{model}`: rates must ascend by `starts_at`")]
    RateOrder {
        /// Which model.
        model: String,
    },
    /// A full context costs more than the ledger can hold.
    #[error("model `{model}`: a full context is too dear: {error}; lower the rate")]
    RateTooHigh {
        /// Which model.
        model: String,
        /// By how much.
        error: wire::AmountError,
    },
    /// More than all.
    #[error("`audits.rate_bps` is {rate_bps}, it must be 0 to {RATE_BPS_MAX}")]
    AuditRate {
        /// What was written.
        rate_bps: u32,
    },
    /// A prompt that measures something else, or that no frame holds.
    #[error("`benchmark.prompt_tokens` is {prompt_tokens}, it must be {least} to {most}; `benchmark.every_s = 0` turns measuring off")]
    BenchmarkPrompt {
        /// What was written.
        prompt_tokens: u32,
        /// Smallest.
        least: u32,
        /// Largest.
        most: u32,
    },
    /// Nodes would be stale between two reports.
    #[error("`limits.heartbeat_ms` is {heartbeat_ms}, it must be 1 to {most_ms}: a node that is silent for {STALE_S} s gets no requests")]
    Heartbeat {
        /// What was written.
        heartbeat_ms: u64,
        /// Largest.
        most_ms: u64,
    },
    /// A limit that lets nothing through.
    #[error("`{field}` is 0, it must be 1 or more")]
    ZeroLimit {
        /// Which one.
        field: &'static str,
    },
}
