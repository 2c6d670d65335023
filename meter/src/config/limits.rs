//! Everything that is bounded, with its default; `meter.example.toml` has the reasons.

use serde::Deserialize;

use super::ConfigError;

/// A node whose last status is older is stale, seconds: seven heartbeats of the default.
pub const STALE_S: u64 = 15;

/// The `[limits]` table; every field has a default.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections at once, all together.
    pub connections_max: usize,
    /// Connections at once from one IP address.
    pub connections_per_ip_max: usize,
    /// From the first byte to the end of a request's headers, and between two requests of one connection.
    pub header_timeout_ms: u64,
    /// From the headers to the end of the body.
    pub body_timeout_ms: u64,
    /// A client that takes no byte for so long is cut off.
    pub write_stall_timeout_ms: u64,
    /// Largest request body.
    pub body_bytes_max: usize,
    /// Messages of one conversation.
    pub messages_max: usize,
    /// Answers at once, all together.
    pub streams_max: usize,
    /// Answers at once for one account.
    pub streams_per_account_max: usize,
    /// Requests that wait for a node at once.
    pub queue_max: usize,
    /// How long one of them waits.
    pub queue_timeout_ms: u64,
    /// From the job to its first token, queueing at the node and prefill included.
    pub first_token_timeout_ms: u64,
    /// Between two tokens.
    pub idle_timeout_ms: u64,
    /// Whole answer.
    pub total_timeout_ms: u64,
    /// How long a cancelled node may take to say what it served.
    pub cancel_timeout_ms: u64,
    /// Nodes tried before the first token, after the first one.
    pub retries_max: u32,
    /// Linked nodes.
    pub nodes_max: usize,
    /// Jobs at once on one node, whatever it declares.
    pub jobs_per_node_max: u32,
    /// Period of a node's status frames.
    pub heartbeat_ms: u64,
    /// Between two checks that the registry still knows a linked node.
    pub registry_check_ms: u64,
    /// How long running answers may go on after SIGTERM.
    pub drain_timeout_ms: u64,
    /// How long an ended job can be read again, seconds.
    pub jobs_kept_s: u64,
    /// Ended jobs of one account that are kept.
    pub jobs_per_account_max: usize,
    /// Bytes of their events.
    pub jobs_bytes_per_account_max: usize,
    /// Bytes of the events of all ended jobs.
    pub jobs_bytes_max: usize,
    /// Bytes of the events of one job; above it the oldest events go.
    pub job_bytes_max: usize,
    /// Readers of jobs' events and of the pool's at once, each kind.
    pub readers_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 4_096,
            connections_per_ip_max: 1_024,
            header_timeout_ms: 10_000,
            body_timeout_ms: 15_000,
            write_stall_timeout_ms: 30_000,
            body_bytes_max: 1 << 20,
            messages_max: 2_048,
            streams_max: 1_024,
            streams_per_account_max: 64,
            queue_max: 256,
            queue_timeout_ms: 10_000,
            first_token_timeout_ms: 60_000,
            idle_timeout_ms: 30_000,
            total_timeout_ms: 600_000,
            cancel_timeout_ms: 5_000,
            retries_max: 2,
            nodes_max: 1_024,
            jobs_per_node_max: 512,
            heartbeat_ms: 2_000,
            registry_check_ms: 15_000,
            drain_timeout_ms: 30_000,
            jobs_kept_s: 900,
            jobs_per_account_max: 64,
            jobs_bytes_per_account_max: 16 << 20,
            jobs_bytes_max: 256 << 20,
            job_bytes_max: 4 << 20,
            readers_max: 1_024,
        }
    }
}

impl Limits {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let positive = [
            ("limits.connections_max", self.connections_max as u64),
            ("limits.connections_per_ip_max", self.connections_per_ip_max as u64),
            ("limits.header_timeout_ms", self.header_timeout_ms),
            ("limits.body_timeout_ms", self.body_timeout_ms),
            ("limits.write_stall_timeout_ms", self.write_stall_timeout_ms),
            ("limits.body_bytes_max", self.body_bytes_max as u64),
            ("limits.messages_max", self.messages_max as u64),
            ("limits.streams_max", self.streams_max as u64),
            ("limits.streams_per_account_max", self.streams_per_account_max as u64),
            ("limits.first_token_timeout_ms", self.first_token_timeout_ms),
            ("limits.idle_timeout_ms", self.idle_timeout_ms),
            ("limits.total_timeout_ms", self.total_timeout_ms),
            ("limits.cancel_timeout_ms", self.cancel_timeout_ms),
            ("limits.nodes_max", self.nodes_max as u64),
            ("limits.jobs_per_node_max", u64::from(self.jobs_per_node_max)),
            ("limits.heartbeat_ms", self.heartbeat_ms),
            ("limits.registry_check_ms", self.registry_check_ms),
            ("limits.job_bytes_max", self.job_bytes_max as u64),
            ("limits.readers_max", self.readers_max as u64),
        ];
        // Two reports may be late or lost before a node counts as stale.
        let most_ms = STALE_S * 1_000 / 3;
        if self.heartbeat_ms > most_ms {
            return Err(ConfigError::Heartbeat { heartbeat_ms: self.heartbeat_ms, most_ms });
        }
        match positive.into_iter().find(|(_, value)| *value == 0) {
            Some((field, _)) => Err(ConfigError::ZeroLimit { field }),
            None => Ok(()),
        }
    }
}
