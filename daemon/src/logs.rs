//! Structured log lines on standard error. Fields, never sentences with values inside; never prompt text, never a secret.

use serde::Deserialize;
use thiserror::Error;
use tracing_subscriber::EnvFilter;

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

/// The `[log]` table of a config file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// `text` or `json`.
    pub format: LogFormat,
    /// Filter in `tracing`'s form, such as `info` or `info,meter::serving=debug`.
    pub filter: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".into() }
    }
}

/// Starts logging for the whole process. Errors on a filter that does not parse, or when called twice.
pub fn init(config: &LogConfig) -> Result<(), LogError> {
    let filter = EnvFilter::try_new(&config.filter).map_err(|error| LogError::Filter { filter: config.filter.clone(), error })?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    let started = match config.format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| LogError::Started { error: error.to_string() })
}

/// Why logging did not start.
#[derive(Debug, Error)]
pub enum LogError {
    /// Not a filter.
    #[error("log filter `{filter}`: {error}; write it as `info` or `info,meter::serving=debug`")]
    Filter {
        /// What was written.
        filter: String,
        /// What is wrong with it.
        error: tracing_subscriber::filter::ParseError,
    },
    /// Somebody was first.
    #[error("logging runs already: {error}")]
    Started {
        /// What the library said.
        error: String,
    },
}
