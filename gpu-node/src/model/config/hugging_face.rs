//! `config.json` as the families write it, read and written.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{ConfigError, DecoderConfig, RopeScaling};

/// Qwen 3's and Mistral's defaults in `transformers`, for files that leave the field out.
const QWEN3_HEAD_DIM: u64 = 128;
const MISTRAL_WINDOW: u64 = 4_096;
const DEFAULT_ROPE_THETA: f64 = 10_000.0;
const DEFAULT_NORM_EPS: f64 = 1e-6;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
}

#[derive(Deserialize)]
struct RawConfig {
    num_hidden_layers: u64,
    hidden_size: u64,
    intermediate_size: u64,
    num_attention_heads: u64,
    num_key_value_heads: Option<u64>,
    head_dim: Option<u64>,
    vocab_size: u64,
    max_position_embeddings: u64,
    rope_theta: Option<f64>,
    #[serde(default)]
    rope_scaling: Value,
    #[serde(default)]
    rope_parameters: Value,
    partial_rotary_factor: Option<f64>,
    rms_norm_eps: Option<f64>,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    hidden_act: Option<String>,
    /// Absent and `null` mean different windows to Mistral.
    #[serde(default, deserialize_with = "present")]
    sliding_window: Option<Option<u64>>,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<u64>,
    layer_types: Option<Vec<String>>,
    num_experts: Option<u64>,
    num_local_experts: Option<u64>,
    #[serde(default)]
    quantization_config: Value,
}

fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Option<u64>>, D::Error> {
    Deserialize::deserialize(deserializer).map(Some)
}

impl DecoderConfig {
    /// Reads and checks `config.json`; every dimension is bounded and every product fits.
    pub fn parse(json: &[u8]) -> Result<Self, ConfigError> {
        // The family is looked at first: another one lacks fields, and their absence would be the wrong complaint.
        let value: Value = serde_json::from_slice(json).map_err(|e| ConfigError::Json(e.to_string()))?;
        let family = family_of(value.get("model_type").and_then(Value::as_str).unwrap_or_default())?;
        let raw: RawConfig = serde_json::from_value(value).map_err(|e| ConfigError::Json(e.to_string()))?;
        raw.check_features(family)?;

        let n_heads = raw.num_attention_heads;
        let n_kv_heads = match (raw.num_key_value_heads, family) {
            (Some(count), _) => count,
            (None, Family::Llama) => n_heads,
            (None, _) => return Err(ConfigError::Missing { field: "num_key_value_heads" }),
        };
        let head_dim = match (raw.head_dim, family) {
            (Some(length), _) => length,
            (None, Family::Qwen3) => QWEN3_HEAD_DIM,
            (None, _) if n_heads == 0 || !raw.hidden_size.is_multiple_of(n_heads) => {
                return Err(ConfigError::Missing { field: "head_dim" });
            }
            (None, _) => raw.hidden_size / n_heads,
        };
        let (rope_theta, rope_scaling) = raw.rope(family)?;
        // Lengths beyond usize are beyond every bound too.
        let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        Self {
            n_layers: size(raw.num_hidden_layers),
            dim: size(raw.hidden_size),
            hidden_dim: size(raw.intermediate_size),
            n_heads: size(n_heads),
            n_kv_heads: size(n_kv_heads),
            head_dim: size(head_dim),
            vocab_size: size(raw.vocab_size),
            context_tokens: size(raw.max_position_embeddings),
            rope_theta,
            norm_eps: raw.rms_norm_eps.unwrap_or(DEFAULT_NORM_EPS) as f32,
            tied_embeddings: raw.tie_word_embeddings,
            rope_scaling,
            qkv_bias: family == Family::Qwen2,
            qk_norm: family == Family::Qwen3,
            sliding_window: raw.window(family)?.map(size),
        }
        .checked()
    }

    /// A `config.json` that [`parse`](Self::parse) reads as this configuration.
    pub fn to_json(&self) -> Value {
        let (model_type, class) = match (self.qkv_bias, self.qk_norm, self.sliding_window) {
            (true, ..) => ("qwen2", "Qwen2ForCausalLM"),
            (_, true, _) => ("qwen3", "Qwen3ForCausalLM"),
            (.., Some(_)) => ("mistral", "MistralForCausalLM"),
            _ => ("llama", "LlamaForCausalLM"),
        };
        // The shortest decimal form of an f32 is what the model's authors wrote.
        let norm_eps: f64 = self.norm_eps.to_string().parse().unwrap_or_else(|_| self.norm_eps.into());
        let mut json = json!({
            "architectures": [class],
            "model_type": model_type,
            "hidden_act": "silu",
            "hidden_size": self.dim,
            "intermediate_size": self.hidden_dim,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "num_key_value_heads": self.n_kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.context_tokens,
            "rope_theta": self.rope_theta,
            "rope_scaling": self.rope_scaling.to_json(),
            "rms_norm_eps": norm_eps,
            "tie_word_embeddings": self.tied_embeddings,
        });
        if let Some(window) = self.sliding_window {
            json["sliding_window"] = json!(window);
            if model_type != "mistral" {
                json["use_sliding_window"] = json!(true);
                json["max_window_layers"] = json!(0);
            }
        }
        json
    }
}

fn family_of(model_type: &str) -> Result<Family, ConfigError> {
    match model_type {
        "llama" => Ok(Family::Llama),
        "mistral" => Ok(Family::Mistral),
        "qwen2" => Ok(Family::Qwen2),
        "qwen3" => Ok(Family::Qwen3),
        other => Err(ConfigError::Family { found: other.to_owned() }),
    }
}

impl RawConfig {
    fn check_features(&self, family: Family) -> Result<(), ConfigError> {
        let unsupported = |feature: String| Err(ConfigError::Unsupported { feature });
        // Qwen 2 has its biases always and without this field.
        if self.attention_bias && family != Family::Qwen2 {
            return unsupported("attention_bias".to_owned());
        }
        if self.mlp_bias {
            return unsupported("mlp_bias".to_owned());
        }
        if let Some(experts) = self.num_experts.or(self.num_local_experts).filter(|n| *n > 0) {
            return unsupported(format!("a mixture of {experts} experts"));
        }
        if !self.quantization_config.is_null() {
            let method = self.quantization_config.get("quant_method").and_then(Value::as_str).unwrap_or("unknown");
            return unsupported(format!("weights quantised by {method:?}; take the original bf16, f16 or f32 weights, or a GGUF file"));
        }
        if let Some(part) = self.partial_rotary_factor.filter(|part| *part != 1.0) {
            return unsupported(format!("partial_rotary_factor {part}"));
        }
        match self.hidden_act.as_deref() {
            None | Some("silu") => Ok(()),
            Some(other) => unsupported(format!("hidden_act {other:?}")),
        }
    }

    /// Older files have `rope_theta` and `rope_scaling` beside each other, newer ones both inside `rope_parameters`.
    fn rope(&self, family: Family) -> Result<(f64, RopeScaling), ConfigError> {
        let newer = &self.rope_parameters;
        let scaling = RopeScaling::parse(if newer.is_null() { &self.rope_scaling } else { newer })?;
        let part = newer.get("partial_rotary_factor").and_then(Value::as_f64).filter(|part| *part != 1.0);
        if let Some(part) = part {
            return Err(ConfigError::Unsupported { feature: format!("partial_rotary_factor {part}") });
        }
        let theta = match (newer.get("rope_theta").and_then(Value::as_f64).or(self.rope_theta), family) {
            (Some(theta), _) => theta,
            (None, Family::Llama | Family::Mistral) => DEFAULT_ROPE_THETA,
            // Their default differs between releases of `transformers`.
            (None, Family::Qwen2 | Family::Qwen3) => return Err(ConfigError::Missing { field: "rope_theta" }),
        };
        Ok((theta, scaling))
    }

    /// The one window of all layers, or none. Layers of both kinds are refused.
    fn window(&self, family: Family) -> Result<Option<u64>, ConfigError> {
        let window = self.sliding_window.flatten();
        let in_use = match family {
            Family::Llama => false,
            Family::Mistral => true,
            Family::Qwen2 | Family::Qwen3 => self.use_sliding_window.unwrap_or(false),
        };
        if !in_use {
            return Ok(None);
        }
        let window = match (family, self.sliding_window) {
            (Family::Mistral, None) => Some(MISTRAL_WINDOW),
            _ => window,
        };
        if window.is_none() {
            return Ok(None);
        }
        let sliding = match (&self.layer_types, family) {
            (Some(kinds), _) => kinds.iter().filter(|kind| *kind == "sliding_attention").count() as u64,
            (None, Family::Mistral) => self.num_hidden_layers,
            (None, _) => {
                let full = self.max_window_layers.ok_or(ConfigError::Missing { field: "max_window_layers" })?;
                self.num_hidden_layers.saturating_sub(full)
            }
        };
        match sliding {
            0 => Ok(None),
            all if all == self.num_hidden_layers => Ok(window),
            some => {
                let feature = format!("a sliding window in {some} of {} layers", self.num_hidden_layers);
                Err(ConfigError::Unsupported { feature })
            }
        }
    }
}
