//! Sampling parameters and the bytes that a receipt commits to (`docs/protocol.md`, section 6.3).

use alloy::primitives::{B256, keccak256};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Most stop strings in one request.
pub const STOP_STRINGS_MAX: usize = 16;
/// Longest stop string, bytes.
pub const STOP_STRING_BYTES_MAX: usize = 256;
/// Most stop token ids in one request.
pub const STOP_TOKENS_MAX: usize = 64;

/// How the next token is drawn, and when to stop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamplingParams {
    /// Most tokens of the answer, at least 1.
    pub max_tokens: u32,
    /// 0 draws the likeliest token; at most 2.
    pub temperature: f32,
    /// Nucleus: in (0, 1]; 1 is off.
    pub top_p: f32,
    /// The likeliest `top_k`; 0 is off.
    pub top_k: u32,
    /// Least share of the likeliest token's probability: in [0, 1]; 0 is off.
    pub min_p: f32,
    /// In [-2, 2]; 0 is off.
    pub presence_penalty: f32,
    /// In [-2, 2]; 0 is off.
    pub frequency_penalty: f32,
    /// In (0, 2]; 1 is off. Divides positive logits, multiplies negative ones, of every token seen so far.
    pub repetition_penalty: f32,
    /// The draw at position `i` depends on this and `i` alone.
    pub seed: u64,
    /// The answer ends before the first of these.
    pub stop: Vec<String>,
    /// The answer ends with the first of these, beside the model's own end-of-turn tokens.
    pub stop_token_ids: Vec<u32>,
}

impl SamplingParams {
    /// Greedy, with nothing else set.
    pub fn greedy(max_tokens: u32) -> Self {
        Self {
            max_tokens,
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            seed: 0,
            stop: Vec::new(),
            stop_token_ids: Vec::new(),
        }
    }

    /// Checks every field against its range; the error names the field, the value and the range.
    pub fn check(&self) -> Result<(), ParamsError> {
        if self.max_tokens == 0 {
            return Err(ParamsError::OutOfRange { field: "max_tokens", value: 0.0, range: "1 or more" });
        }
        // A NaN is in no range.
        let ranges = [
            ("temperature", self.temperature, (0.0..=2.0).contains(&self.temperature), "0 to 2"),
            ("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0, at most 1"),
            ("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "0 to 1"),
            ("presence_penalty", self.presence_penalty, (-2.0..=2.0).contains(&self.presence_penalty), "-2 to 2"),
            ("frequency_penalty", self.frequency_penalty, (-2.0..=2.0).contains(&self.frequency_penalty), "-2 to 2"),
            (
                "repetition_penalty",
                self.repetition_penalty,
                self.repetition_penalty > 0.0 && self.repetition_penalty <= 2.0,
                "above 0, at most 2",
            ),
        ];
        if let Some((field, value, _, range)) = ranges.into_iter().find(|(_, _, inside, _)| !inside) {
            return Err(ParamsError::OutOfRange { field, value, range });
        }
        if self.stop.len() > STOP_STRINGS_MAX {
            return Err(ParamsError::TooManyStops { given: self.stop.len(), most: STOP_STRINGS_MAX });
        }
        if let Some(stop) = self.stop.iter().find(|stop| stop.is_empty() || stop.len() > STOP_STRING_BYTES_MAX) {
            return Err(ParamsError::StopLength { bytes: stop.len(), most: STOP_STRING_BYTES_MAX });
        }
        if self.stop_token_ids.len() > STOP_TOKENS_MAX {
            return Err(ParamsError::TooManyStopTokens { given: self.stop_token_ids.len(), most: STOP_TOKENS_MAX });
        }
        Ok(())
    }

    /// keccak-256 of the canonical bytes: two equal parameter sets have one hash on every machine.
    pub fn hash(&self) -> B256 {
        let mut bytes = b"parallelix-params-1".to_vec();
        bytes.extend(self.max_tokens.to_le_bytes());
        bytes.extend(self.temperature.to_bits().to_le_bytes());
        bytes.extend(self.top_p.to_bits().to_le_bytes());
        bytes.extend(self.top_k.to_le_bytes());
        for value in [self.min_p, self.presence_penalty, self.frequency_penalty, self.repetition_penalty] {
            bytes.extend(value.to_bits().to_le_bytes());
        }
        bytes.extend(self.seed.to_le_bytes());
        bytes.extend((self.stop.len() as u32).to_le_bytes());
        for stop in &self.stop {
            bytes.extend((stop.len() as u32).to_le_bytes());
            bytes.extend(stop.as_bytes());
        }
        bytes.extend((self.stop_token_ids.len() as u32).to_le_bytes());
        for token in &self.stop_token_ids {
            bytes.extend(token.to_le_bytes());
        }
        keccak256(bytes)
    }
}

/// Why parameters are refused.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum ParamsError {
    /// A number outside its range, or not a number.
    #[error("`{field}` is {value}, it must be {range}")]
    OutOfRange {
        /// Which field.
        field: &'static str,
        /// What was given.
        value: f32,
        /// What is possible.
        range: &'static str,
    },
    /// More stop strings than the limit.
    #[error("`stop` has {given} strings, at most {most} are possible")]
    TooManyStops {
        /// What was given.
        given: usize,
        /// What is possible.
        most: usize,
    },
    /// An empty or overlong stop string.
    #[error("a stop string has {bytes} bytes, it must have 1 to {most}")]
    StopLength {
        /// What was given.
        bytes: usize,
        /// What is possible.
        most: usize,
    },
    /// More stop tokens than the limit.
    #[error("`stop_token_ids` has {given} ids, at most {most} are possible")]
    TooManyStopTokens {
        /// What was given.
        given: usize,
        /// What is possible.
        most: usize,
    },
}

impl ParamsError {
    /// The request field that is at fault.
    pub fn field(&self) -> &'static str {
        match self {
            Self::OutOfRange { field, .. } => field,
            Self::TooManyStops { .. } | Self::StopLength { .. } => "stop",
            Self::TooManyStopTokens { .. } => "stop_token_ids",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_number_is_in_no_range() {
        let params = SamplingParams { temperature: f32::NAN, ..SamplingParams::greedy(1) };
        assert_eq!(params.check().unwrap_err().field(), "temperature");
        let params = SamplingParams { repetition_penalty: f32::INFINITY, ..SamplingParams::greedy(1) };
        assert_eq!(params.check().unwrap_err().field(), "repetition_penalty");
    }

    #[test]
    fn every_field_moves_the_hash() {
        let base = SamplingParams::greedy(16);
        let changed = [
            SamplingParams { max_tokens: 17, ..base.clone() },
            SamplingParams { temperature: 1.0, ..base.clone() },
            SamplingParams { top_p: 0.5, ..base.clone() },
            SamplingParams { top_k: 1, ..base.clone() },
            SamplingParams { min_p: 0.5, ..base.clone() },
            SamplingParams { presence_penalty: 0.5, ..base.clone() },
            SamplingParams { frequency_penalty: 0.5, ..base.clone() },
            SamplingParams { repetition_penalty: 0.5, ..base.clone() },
            SamplingParams { seed: 1, ..base.clone() },
            SamplingParams { stop: vec!["a".into()], ..base.clone() },
            SamplingParams { stop_token_ids: vec![1], ..base.clone() },
        ];
        for params in changed {
            assert!(params.check().is_ok());
            assert_ne!(params.hash(), base.hash(), "{params:?}");
        }
    }
}
