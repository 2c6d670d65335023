//! How often nodes are measured, and with how much.

use serde::Deserialize;

use super::ConfigError;

/// Prompts of a measurement, tokens: shorter ones measure the way to the node, longer ones fit no frame.
const PROMPT_TOKENS: std::ops::RangeInclusive<u32> = 16..=65_536;

/// The `[benchmark]` table; every field has a default.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BenchmarkSettings {
    /// Between two measurements of a node and a model, seconds; 0 is never.
    pub every_s: u64,
    /// Between two looks who is due and idle.
    pub look_ms: u64,
    /// Random tokens of one measurement's prompt; less where a context is smaller.
    pub prompt_tokens: u32,
}

impl Default for BenchmarkSettings {
    fn default() -> Self {
        Self { every_s: 3_600, look_ms: 5_000, prompt_tokens: 512 }
    }
}

impl BenchmarkSettings {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.look_ms == 0 {
            return Err(ConfigError::ZeroLimit { field: "benchmark.look_ms" });
        }
        if !PROMPT_TOKENS.contains(&self.prompt_tokens) {
            let (least, most) = (*PROMPT_TOKENS.start(), *PROMPT_TOKENS.end());
            return Err(ConfigError::BenchmarkPrompt { prompt_tokens: self.prompt_tokens, least, most });
        }
        Ok(())
    }
}
