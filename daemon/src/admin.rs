//! `/healthz`, `/readyz` and `/metrics`, on a listener of their own that should stay on loopback.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What a process needs before it is ready, and what it has: one named check each.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<&'static str, Result<(), String>>>>);

impl Readiness {
    /// Ready as soon as every one of `checks` was passed.
    pub fn of(checks: &[&'static str]) -> Self {
        let waiting = checks.iter().map(|name| (*name, Err("not yet".to_owned()))).collect();
        Self(Arc::new(Mutex::new(waiting)))
    }

    /// The check passes now.
    pub fn pass(&self, check: &'static str) {
        self.checks().insert(check, Ok(()));
    }

    /// The check fails now, for a reason that an operator can act on.
    pub fn fail(&self, check: &'static str, reason: impl Into<String>) {
        self.checks().insert(check, Err(reason.into()));
    }

    /// `Ok`, or a line for each failing check.
    pub fn state(&self) -> Result<(), String> {
        let failing: Vec<String> =
            self.checks().iter().filter_map(|(name, state)| state.as_ref().err().map(|reason| format!("{name}: {reason}\n"))).collect();
        if failing.is_empty() { Ok(()) } else { Err(failing.concat()) }
    }

    fn checks(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, Result<(), String>>> {
        // The map is whole after every insert, also in a panicking task.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the process's metrics recorder. Errors when there is one already.
pub fn record_metrics() -> Result<PrometheusHandle, AdminError> {
    PrometheusBuilder::new().install_recorder().map_err(|error| AdminError::Recorder { error: error.to_string() })
}

/// The two health routes, for a process that shows them on its public listener too.
pub fn health_routes(readiness: Readiness) -> Router {
    Router::new().route("/healthz", get(|| async { "ok\n" })).route("/readyz", get(move || ready(readiness.clone())))
}

/// Serves health, readiness and metrics, and `more`, on `listen` until `shutdown`. Errors when the address can't be taken.
pub async fn serve(
    listen: SocketAddr,
    readiness: Readiness,
    metrics: PrometheusHandle,
    more: Router,
    shutdown: CancellationToken,
) -> Result<(), AdminError> {
    let listener = TcpListener::bind(listen).await.map_err(|error| AdminError::Listen { listen, error })?;
    let routes = health_routes(readiness)
        .route(
            "/metrics",
            get(move || {
                let text = metrics.render();
                async move { text }
            }),
        )
        .merge(more);
    axum::serve(listener, routes).with_graceful_shutdown(shutdown.cancelled_owned()).await.map_err(AdminError::Serve)
}

async fn ready(readiness: Readiness) -> Response {
    match readiness.state() {
        Ok(()) => "ready\n".into_response(),
        Err(reasons) => (StatusCode::SERVICE_UNAVAILABLE, reasons).into_response(),
    }
}

/// Why the admin listener does not run.
#[derive(Debug, Error)]
pub enum AdminError {
    /// The address is taken or not ours.
    #[error("admin listener on {listen}: {error}; choose another `admin_listen`")]
    Listen {
        /// Which address.
        listen: SocketAddr,
        /// What the system said.
        error: std::io::Error,
    },
    /// The listener broke.
    #[error("admin listener: {0}")]
    Serve(std::io::Error),
    /// A second recorder.
    #[error("metrics recorder: {error}")]
    Recorder {
        /// What the library said.
        error: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_only_when_every_check_has_passed() {
        let readiness = Readiness::of(&["ledger", "chain"]);
        readiness.pass("ledger");
        assert_eq!(readiness.state(), Err("chain: not yet\n".into()));
        readiness.pass("chain");
        assert_eq!(readiness.state(), Ok(()));
        readiness.fail("ledger", "disk full");
        assert_eq!(readiness.state(), Err("ledger: disk full\n".into()));
    }
}
