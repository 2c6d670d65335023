//! What each link is doing, for `status`, `/readyz` and the log.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// One link to one meter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum LinkState {
    /// Opening, or shaking hands.
    Connecting {
        /// Why the last attempt or link ended.
        after: Option<String>,
    },
    /// Welcomed: jobs may come.
    Linked {
        /// Seconds since the epoch.
        since: u64,
        /// The meter counts this node as project fallback hardware.
        fallback: bool,
    },
    /// The meter does not let the node in; tried again from time to time.
    Refused {
        /// As the protocol has it.
        code: String,
        /// What the meter said.
        message: String,
        /// What the operator can do.
        next_step: String,
    },
    /// Gone, or never reached; tried again soon.
    Lost {
        /// Why.
        reason: String,
        /// Until the next attempt, milliseconds.
        retry_ms: u64,
    },
    /// Closed by this node, for good.
    Closed,
}

/// All links by the meter's address; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Mutex<BTreeMap<String, LinkState>>>);

impl Board {
    /// Notes what the link to `meter` does now.
    pub fn set(&self, meter: &str, state: LinkState) {
        let linked = f64::from(matches!(state, LinkState::Linked { .. }));
        metrics::gauge!("node_link_up", "meter" => meter.to_owned()).set(linked);
        self.links().insert(meter.to_owned(), state);
    }

    /// All links.
    pub fn all(&self) -> BTreeMap<String, LinkState> {
        self.links().clone()
    }

    /// `Ok` when at least one meter can send jobs, else one line for each link.
    pub fn any_linked(&self) -> Result<(), String> {
        let links = self.links();
        if links.values().any(|state| matches!(state, LinkState::Linked { .. })) {
            return Ok(());
        }
        let reasons: Vec<String> = links.iter().map(|(meter, state)| format!("{meter}: {state}")).collect();
        Err(if reasons.is_empty() { "no link yet".into() } else { reasons.join("; ") })
    }

    fn links(&self) -> MutexGuard<'_, BTreeMap<String, LinkState>> {
        // Whole after every insert.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Display for LinkState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connecting { after: None } => write!(f, "connecting"),
            Self::Connecting { after: Some(reason) } => write!(f, "connecting again; before: {reason}"),
            Self::Linked { fallback: false, .. } => write!(f, "linked"),
            Self::Linked { fallback: true, .. } => write!(f, "linked as fallback hardware"),
            Self::Refused { code, message, next_step } => write!(f, "refused ({code}): {message}; {next_step}"),
            Self::Lost { reason, retry_ms } => write!(f, "not linked: {reason}; next attempt in {:.1} s", *retry_ms as f64 / 1e3),
            Self::Closed => write!(f, "closed"),
        }
    }
}

/// What an operator can do about a refusal, in plain words.
pub fn next_step(code: &str) -> String {
    let step = match code {
        "protocol" => "install the gpu-node version that this meter asks for",
        "signature" => "check that `chain.deployment` is the meter's own deployment, then run `gpu-node doctor`",
        "not_registered" => "run `gpu-node register` with the operator's owner key, and check `operator` in the config",
        "no_model" => "compare the model ids with the meter's /v1/models, and run `gpu-node model verify`",
        "full" => "nothing to do: the meter has all the nodes it takes, and is asked again from time to time",
        _ => "ask whoever runs the meter",
    };
    step.into()
}
