//! What every process of ours does the same way: read its config, open its key, log, stop, say how it is.
//!
//! - [`config`]: one TOML file, unknown fields refused, errors that name the line.
//! - [`keystore`]: encrypted keys and password files; no secret in a flag, the environment or a log line.
//! - [`logs`]: structured lines on standard error.
//! - [`shutdown`]: one token that SIGTERM and Ctrl-C cancel.
//! - [`admin`]: `/healthz`, `/readyz`, `/metrics` on a listener of their own.
//! - [`clock`]: time as an argument.
//!
//! Invariant of absence: nothing here knows what meter, keeper or node are for.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod admin;
pub mod clock;
pub mod config;
pub mod keystore;
pub mod logs;
pub mod shutdown;

pub use tokio_util::sync::CancellationToken;

/// Makes ring the process's one TLS provider; every `main` calls it first. Later calls change nothing.
pub fn install_tls() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}
