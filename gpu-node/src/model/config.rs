//! `config.json` of the Llama family.

use serde::Deserialize;

/// Bounds that a hostile `config.json` can't leave; far above any known model of the family.
const MAX_LAYERS: u32 = 512;
const MAX_DIM: u32 = 65_536;
const MAX_HIDDEN_DIM: u32 = 262_144;
const MAX_VOCAB: u32 = 1_048_576;
const MAX_CONTEXT: u32 = 1_048_576;
/// Matrices are stored in blocks of 32 columns.
const BLOCK: u32 = 32;
/// Longest head, elements.
pub const MAX_HEAD_DIM: usize = 256;

/// Shape and constants of a Llama-family decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    pub n_layers: usize,
    pub dim: usize,
    pub hidden_dim: usize,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
    pub vocab_size: usize,
    /// Most tokens of prompt and answer together.
    pub context_tokens: usize,
    pub rope_theta: f64,
    pub norm_eps: f32,
    /// The output matrix is the embedding table.
    pub tied_embeddings: bool,
    /// How rotation angles are stretched beyond the context of training.
    pub rope_scaling: RopeScaling,
    /// Query, key and value products have a bias (Qwen 2.5).
    pub qkv_bias: bool,
    /// Queries and keys of each head are normed before rotation (Qwen 3).
    pub qk_norm: bool,
    /// A position attends to so many positions up to its own, in every layer (Mistral 7B v0.1).
    pub sliding_window: Option<usize>,
}

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

/// Why a `config.json` was refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConfigError {
    #[error("config.json does not parse: {0}")]
    Json(String),
    #[error("config.json has model_type {found:?}; this version serves \"llama\"")]
    Family { found: String },
    #[error("config.json asks for {feature}, which this version does not compute")]
    Unsupported { feature: String },
    #[error("config.json: {field} is {value}, it must be {range}")]
    OutOfRange { field: &'static str, value: f64, range: String },
}

#[derive(Deserialize)]
struct RawConfig {
    model_type: String,
    num_hidden_layers: u32,
    hidden_size: u32,
    intermediate_size: u32,
    num_attention_heads: u32,
    num_key_value_heads: Option<u32>,
    head_dim: Option<u32>,
    vocab_size: u32,
    max_position_embeddings: u32,
    #[serde(default = "default_rope_theta")]
    rope_theta: f64,
    rope_scaling: Option<serde_json::Value>,
    rms_norm_eps: f64,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    hidden_act: Option<String>,
}

fn default_rope_theta() -> f64 {
    10_000.0
}

impl DecoderConfig {
    /// Reads and checks `config.json`; every dimension is bounded and every product fits.
    pub fn parse(json: &[u8]) -> Result<Self, ConfigError> {
        let raw: RawConfig = serde_json::from_slice(json).map_err(|e| ConfigError::Json(e.to_string()))?;
        raw.check_features()?;

        in_range("num_hidden_layers", raw.num_hidden_layers, 1, MAX_LAYERS, 1)?;
        in_range("hidden_size", raw.hidden_size, BLOCK, MAX_DIM, BLOCK)?;
        in_range("intermediate_size", raw.intermediate_size, BLOCK, MAX_HIDDEN_DIM, BLOCK)?;
        in_range("num_attention_heads", raw.num_attention_heads, 1, 1024, 1)?;
        in_range("vocab_size", raw.vocab_size, 1, MAX_VOCAB, 1)?;
        in_range("max_position_embeddings", raw.max_position_embeddings, 1, MAX_CONTEXT, 1)?;
        let n_heads = raw.num_attention_heads;
        let n_kv_heads = raw.num_key_value_heads.unwrap_or(n_heads);
        in_range("num_key_value_heads", n_kv_heads, 1, n_heads, 1)?;
        if !n_heads.is_multiple_of(n_kv_heads) {
            return Err(out_of_range("num_key_value_heads", n_kv_heads.into(), format!("a divisor of {n_heads}")));
        }
        let head_dim = raw.head_dim.unwrap_or(raw.hidden_size / n_heads);
        in_range("head_dim", head_dim, BLOCK, MAX_HEAD_DIM as u32, BLOCK)?;
        if !(raw.rope_theta.is_finite() && raw.rope_theta >= 1.0) {
            return Err(out_of_range("rope_theta", raw.rope_theta, "a number of at least 1".to_owned()));
        }
        if !(raw.rms_norm_eps > 0.0 && raw.rms_norm_eps < 1.0) {
            return Err(out_of_range("rms_norm_eps", raw.rms_norm_eps, "between 0 and 1".to_owned()));
        }

        Ok(Self {
            n_layers: raw.num_hidden_layers as usize,
            dim: raw.hidden_size as usize,
            hidden_dim: raw.intermediate_size as usize,
            n_heads: n_heads as usize,
            n_kv_heads: n_kv_heads as usize,
            head_dim: head_dim as usize,
            vocab_size: raw.vocab_size as usize,
            context_tokens: raw.max_position_embeddings as usize,
            rope_theta: raw.rope_theta,
            norm_eps: raw.rms_norm_eps as f32,
            tied_embeddings: raw.tie_word_embeddings,
            rope_scaling: RopeScaling::None,
            qkv_bias: false,
            qk_norm: false,
            sliding_window: None,
        })
    }

    /// Width of all query heads together.
    pub fn q_dim(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Width of all key (or value) heads together.
    pub fn kv_dim(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }
}

impl RawConfig {
    fn check_features(&self) -> Result<(), ConfigError> {
        if self.model_type != "llama" {
            return Err(ConfigError::Family { found: self.model_type.clone() });
        }
        let unsupported = |feature: String| Err(ConfigError::Unsupported { feature });
        if self.attention_bias || self.mlp_bias {
            return unsupported("attention_bias or mlp_bias".to_owned());
        }
        if let Some(scaling) = self.rope_scaling.as_ref().filter(|s| !s.is_null()) {
            return unsupported(format!("rope_scaling {scaling}"));
        }
        match self.hidden_act.as_deref() {
            None | Some("silu") => Ok(()),
            Some(other) => unsupported(format!("hidden_act {other:?}")),
        }
    }
}

fn in_range(field: &'static str, value: u32, least: u32, most: u32, multiple_of: u32) -> Result<(), ConfigError> {
    if value < least || value > most || !value.is_multiple_of(multiple_of) {
        return Err(out_of_range(field, value.into(), format!("{least} to {most}, a multiple of {multiple_of}")));
    }
    Ok(())
}

fn out_of_range(field: &'static str, value: f64, range: String) -> ConfigError {
    ConfigError::OutOfRange { field, value, range }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn smollm() -> serde_json::Value {
        json!({"model_type": "llama", "num_hidden_layers": 30, "hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9,
               "num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 8192, "rope_theta": 100000.0,
               "rope_scaling": null, "rms_norm_eps": 1e-5, "tie_word_embeddings": true, "hidden_act": "silu"})
    }

    #[test]
    fn smollm_config_is_read() {
        let config = DecoderConfig::parse(smollm().to_string().as_bytes()).unwrap();
        assert_eq!((config.q_dim(), config.kv_dim(), config.head_dim), (576, 192, 64));
        assert!(config.tied_embeddings);
    }

    #[test]
    fn absurd_fields_are_named() {
        let cases = [
            ("hidden_size", json!(577)),
            ("num_hidden_layers", json!(0)),
            ("num_hidden_layers", json!(4_000_000_000u32)),
            ("num_key_value_heads", json!(2)),
            ("rope_theta", json!(-1.0)),
            ("rms_norm_eps", json!(0.0)),
        ];
        for (field, value) in cases {
            let mut config = smollm();
            config[field] = value.clone();
            let error = DecoderConfig::parse(config.to_string().as_bytes()).unwrap_err();
            assert!(error.to_string().contains(field), "{field} = {value}: {error}");
        }
    }

    #[test]
    fn what_is_not_computed_is_refused() {
        for (field, value) in [("model_type", json!("gpt_neox")), ("rope_scaling", json!({"type": "yarn"})), ("hidden_act", json!("gelu"))]
        {
            let mut config = smollm();
            config[field] = value;
            assert!(DecoderConfig::parse(config.to_string().as_bytes()).is_err(), "{field}");
        }
    }
}
