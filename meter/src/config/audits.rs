//! How many answers are audited.

use serde::Deserialize;

use super::ConfigError;

/// All answers, in basis points.
pub const RATE_BPS_MAX: u32 = 10_000;

/// The `[audits]` table; every field has a default.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuditSettings {
    /// Share of answers that are computed again, in 1/10,000; 0 is none.
    pub rate_bps: u32,
    /// How long an auditor may take for one answer, its queue included.
    pub timeout_ms: u64,
    /// Audits that wait or run; answers beyond are not audited. Each holds the token ids of its answer.
    pub pending_max: usize,
}

impl Default for AuditSettings {
    fn default() -> Self {
        Self { rate_bps: 200, timeout_ms: 120_000, pending_max: 256 }
    }
}

impl AuditSettings {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.rate_bps > RATE_BPS_MAX {
            return Err(ConfigError::AuditRate { rate_bps: self.rate_bps });
        }
        let positive = [("audits.timeout_ms", self.timeout_ms), ("audits.pending_max", self.pending_max as u64)];
        match positive.into_iter().find(|(_, value)| *value == 0) {
            Some((field, _)) => Err(ConfigError::ZeroLimit { field }),
            None => Ok(()),
        }
    }
}
