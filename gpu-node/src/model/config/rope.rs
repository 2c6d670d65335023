//! How rotation angles are stretched.

use std::f64::consts::TAU;

use serde_json::{Value, json};

use super::{ConfigError, out_of_range};

/// Greatest factor by which any context is stretched.
const MAX_FACTOR: f64 = 1_000_000.0;

/// Stretching of rotation angles; each is a function of a pair's frequency alone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    None,
    /// Frequencies divided by `factor`.
    Linear {
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, those between blended.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_context_tokens: f64,
    },
}

impl RopeScaling {
    /// The stretched frequency of a pair, radians per position. Source: `transformers`, `modeling_rope_utils.py`.
    pub fn stretch(&self, frequency: f64) -> f64 {
        match *self {
            Self::None => frequency,
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_context_tokens } => {
                // Turns that a pair makes within the context of training.
                let turns = original_context_tokens * frequency / TAU;
                if turns < low_freq_factor {
                    frequency / factor
                } else if turns > high_freq_factor {
                    frequency
                } else {
                    let smooth = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                }
            }
        }
    }

    /// Reads `rope_scaling`, or `rope_parameters` of newer files. `null` and the type `default` are no stretching.
    pub(super) fn parse(json: &Value) -> Result<Self, ConfigError> {
        if json.is_null() {
            return Ok(Self::None);
        }
        let kind = json.get("rope_type").or_else(|| json.get("type")).and_then(Value::as_str).unwrap_or("default");
        let number = |field: &'static str| json.get(field).and_then(Value::as_f64).ok_or(ConfigError::Missing { field });
        match kind {
            "default" => Ok(Self::None),
            "linear" => Ok(Self::Linear { factor: number("factor")? }),
            "llama3" => Ok(Self::Llama3 {
                factor: number("factor")?,
                low_freq_factor: number("low_freq_factor")?,
                high_freq_factor: number("high_freq_factor")?,
                original_context_tokens: number("original_max_position_embeddings")?,
            }),
            other => Err(ConfigError::Unsupported { feature: format!("rope_scaling of type {other:?}") }),
        }
    }

    /// As `rope_scaling` of a `config.json`.
    pub(super) fn to_json(self) -> Value {
        match self {
            Self::None => Value::Null,
            Self::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_context_tokens } => json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": original_context_tokens,
            }),
        }
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let factor_in_range = |factor: f64| match factor {
            1.0..=MAX_FACTOR => Ok(()),
            _ => Err(out_of_range("rope_scaling factor", factor, format!("1 to {MAX_FACTOR}"))),
        };
        match *self {
            Self::None => Ok(()),
            Self::Linear { factor } => factor_in_range(factor),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_context_tokens } => {
                factor_in_range(factor)?;
                if !(low_freq_factor > 0.0 && low_freq_factor.is_finite()) {
                    return Err(out_of_range("low_freq_factor", low_freq_factor, "above 0".to_owned()));
                }
                if !(high_freq_factor > low_freq_factor && high_freq_factor.is_finite()) {
                    return Err(out_of_range("high_freq_factor", high_freq_factor, format!("above low_freq_factor, {low_freq_factor}")));
                }
                if !(1.0..=1e9).contains(&original_context_tokens) {
                    return Err(out_of_range("original_max_position_embeddings", original_context_tokens, "1 to 1e9".to_owned()));
                }
                Ok(())
            }
        }
    }
}
