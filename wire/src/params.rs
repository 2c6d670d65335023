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
/// Most biased tokens in one request.
pub const LOGIT_BIASES_MAX: usize = 1_024;
/// Most alternatives beside each token's log-probability, as OpenAI has it.
pub const TOP_LOGPROBS_MAX: u32 = 20;
/// Longest JSON schema, bytes: compiling one takes half a second at most, and a job with it and a long prompt fits one frame.
pub const SCHEMA_BYTES_MAX: usize = 32 << 10;

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
    /// Added to the logits of these tokens, in [-100, 100]; ids ascending, each once.
    pub logit_bias: Vec<(u32, f32)>,
    /// Log-probabilities of each token and of so many likeliest ones beside it; `None` is off.
    pub logprobs: Option<u32>,
    /// What the answer's text must be.
    pub format: AnswerFormat,
}

/// What an answer's text must be, whole: the tokens that would break it can't be drawn.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum AnswerFormat {
    /// Anything.
    #[default]
    Text,
    /// One JSON object.
    JsonObject,
    /// JSON that satisfies a schema.
    JsonSchema {
        /// Text of the schema, itself JSON; the order of its properties is the order of the answer's.
        schema: String,
    },
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
            logit_bias: Vec::new(),
            logprobs: None,
            format: AnswerFormat::Text,
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
        self.check_bias()?;
        match (self.logprobs, &self.format) {
            (Some(top), _) if top > TOP_LOGPROBS_MAX => Err(ParamsError::TooManyLogprobs { given: top, most: TOP_LOGPROBS_MAX }),
            (_, AnswerFormat::JsonSchema { schema }) if schema.len() > SCHEMA_BYTES_MAX => {
                Err(ParamsError::SchemaLength { bytes: schema.len(), most: SCHEMA_BYTES_MAX })
            }
            _ => Ok(()),
        }
    }

    fn check_bias(&self) -> Result<(), ParamsError> {
        if self.logit_bias.len() > LOGIT_BIASES_MAX {
            return Err(ParamsError::TooManyBiases { given: self.logit_bias.len(), most: LOGIT_BIASES_MAX });
        }
        if let Some((token, bias)) = self.logit_bias.iter().find(|(_, bias)| !(-100.0..=100.0).contains(bias)) {
            return Err(ParamsError::BiasRange { token: *token, bias: *bias });
        }
        match self.logit_bias.windows(2).find(|pair| pair[0].0 >= pair[1].0) {
            Some(pair) => Err(ParamsError::BiasOrder { token: pair[1].0 }),
            None => Ok(()),
        }
    }

    /// Checks the biased tokens against the model's vocabulary; the error names the token.
    pub fn check_vocabulary(&self, vocabulary: usize) -> Result<(), ParamsError> {
        match self.logit_bias.iter().find(|(token, _)| *token as usize >= vocabulary) {
            Some((token, _)) => Err(ParamsError::UnknownToken { token: *token, vocabulary }),
            None => Ok(()),
        }
    }

    /// keccak-256 of the canonical bytes: two equal parameter sets have one hash on every machine.
    pub fn hash(&self) -> B256 {
        let mut bytes = b"parallelix-params-2".to_vec();
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
        bytes.extend((self.logit_bias.len() as u32).to_le_bytes());
        for (token, bias) in &self.logit_bias {
            bytes.extend(token.to_le_bytes());
            bytes.extend(bias.to_bits().to_le_bytes());
        }
        // None and "no alternatives" are two wishes.
        bytes.extend(self.logprobs.map_or(0, |top| top.saturating_add(1)).to_le_bytes());
        match &self.format {
            AnswerFormat::Text => bytes.push(0),
            AnswerFormat::JsonObject => bytes.push(1),
            AnswerFormat::JsonSchema { schema } => {
                bytes.push(2);
                bytes.extend((schema.len() as u32).to_le_bytes());
                bytes.extend(schema.as_bytes());
            }
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
    #[error("`stop` has {given} strings, at most {most} are possible; send fewer")]
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
    #[error("`stop_token_ids` has {given} ids, at most {most} are possible; send fewer")]
    TooManyStopTokens {
        /// What was given.
        given: usize,
        /// What is possible.
        most: usize,
    },
    /// More biased tokens than the limit.
    #[error("`logit_bias` names {given} tokens, at most {most} are possible; name fewer")]
    TooManyBiases {
        /// What was given.
        given: usize,
        /// What is possible.
        most: usize,
    },
    /// A bias outside its range, or not a number.
    #[error("`logit_bias` of token {token} is {bias}, it must be -100 to 100")]
    BiasRange {
        /// Which token.
        token: u32,
        /// What was given.
        bias: f32,
    },
    /// A token named twice, or before a lower one.
    #[error("`logit_bias` names token {token} twice or out of order; name each once, ids ascending")]
    BiasOrder {
        /// Which token.
        token: u32,
    },
    /// A token that the model doesn't have.
    #[error("`logit_bias` names token {token}, the model's vocabulary has {vocabulary} tokens; remove it")]
    UnknownToken {
        /// Which token.
        token: u32,
        /// How many there are.
        vocabulary: usize,
    },
    /// More alternatives than the limit.
    #[error("`top_logprobs` is {given}, at most {most} are possible")]
    TooManyLogprobs {
        /// What was given.
        given: u32,
        /// What is possible.
        most: u32,
    },
    /// An overlong schema.
    #[error("the schema of `response_format` has {bytes} bytes, at most {most} are possible; send a shorter one")]
    SchemaLength {
        /// What was given.
        bytes: usize,
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
            Self::TooManyBiases { .. } | Self::BiasRange { .. } | Self::BiasOrder { .. } | Self::UnknownToken { .. } => "logit_bias",
            Self::TooManyLogprobs { .. } => "top_logprobs",
            Self::SchemaLength { .. } => "response_format",
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
            SamplingParams { logit_bias: vec![(1, 0.0)], ..base.clone() },
            SamplingParams { logit_bias: vec![(1, 1.0)], ..base.clone() },
            SamplingParams { logprobs: Some(0), ..base.clone() },
            SamplingParams { logprobs: Some(1), ..base.clone() },
            SamplingParams { format: AnswerFormat::JsonObject, ..base.clone() },
            SamplingParams { format: AnswerFormat::JsonSchema { schema: "{}".into() }, ..base.clone() },
            SamplingParams { format: AnswerFormat::JsonSchema { schema: "{ }".into() }, ..base.clone() },
        ];
        let mut hashes = vec![base.hash()];
        for params in changed {
            assert!(params.check().is_ok());
            assert!(!hashes.contains(&params.hash()), "{params:?}");
            hashes.push(params.hash());
        }
    }

    #[test]
    fn each_limit_names_its_field_and_both_values() {
        let base = SamplingParams::greedy(16);
        let cases = [
            (SamplingParams { stop: vec!["x".into(); 10_000], ..base.clone() }, "stop", "10000", "16"),
            (SamplingParams { logit_bias: (0..2_000).map(|id| (id, 1.0)).collect(), ..base.clone() }, "logit_bias", "2000", "1024"),
            (SamplingParams { logit_bias: vec![(7, 100.5)], ..base.clone() }, "logit_bias", "100.5", "-100 to 100"),
            (SamplingParams { logit_bias: vec![(7, f32::NAN)], ..base.clone() }, "logit_bias", "NaN", "-100 to 100"),
            (SamplingParams { logit_bias: vec![(7, 1.0), (7, 1.0)], ..base.clone() }, "logit_bias", "7", "once"),
            (SamplingParams { logprobs: Some(21), ..base.clone() }, "top_logprobs", "21", "20"),
            (
                SamplingParams { format: AnswerFormat::JsonSchema { schema: " ".repeat(70_000) }, ..base.clone() },
                "response_format",
                "70000",
                "32768",
            ),
        ];
        for (params, field, given, possible) in cases {
            let error = params.check().unwrap_err();
            let message = error.to_string();
            assert!(error.field() == field && message.contains(given) && message.contains(possible), "{message}");
        }
        let biased = SamplingParams { logit_bias: vec![(9, 1.0)], ..base };
        assert!(biased.check_vocabulary(10).is_ok());
        assert_eq!(biased.check_vocabulary(9), Err(ParamsError::UnknownToken { token: 9, vocabulary: 9 }));
    }
}
