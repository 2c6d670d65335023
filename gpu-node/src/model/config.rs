//! Shape and constants of a decoder of the Llama family, whatever file they came from.

mod hugging_face;
mod rope;

pub use rope::RopeScaling;

/// Bounds that a hostile file can't leave; far above any known model of the family.
const MAX_LAYERS: usize = 512;
const MAX_DIM: usize = 65_536;
const MAX_HIDDEN_DIM: usize = 262_144;
const MAX_HEADS: usize = 1_024;
const MAX_VOCAB: usize = 1_048_576;
const MAX_CONTEXT: usize = 2_097_152;
/// Matrices are stored in blocks of 32 columns.
const BLOCK: usize = 32;
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

impl DecoderConfig {
    /// Multiplications and additions of the layers' weights for one token; without attention and the output matrix, of which the
    /// number depends on the request.
    pub fn operations_per_token(&self) -> u64 {
        let (dim, head_dim) = (self.dim as u64, self.head_dim as u64);
        let attention = dim * head_dim * 2 * (self.n_heads as u64 + self.n_kv_heads as u64);
        let feed_forward = 3 * dim * self.hidden_dim as u64;
        2 * self.n_layers as u64 * (attention + feed_forward)
    }
}

/// Why a model's configuration was refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConfigError {
    #[error("config.json does not parse: {0}")]
    Json(String),
    #[error("config.json has model_type {found:?}; this version serves llama, mistral, qwen2 and qwen3")]
    Family { found: String },
    #[error("the model asks for {feature}, which this version does not compute")]
    Unsupported { feature: String },
    #[error("the model's configuration does not say {field}")]
    Missing { field: &'static str },
    #[error("the model's {field} is {value}, it must be {range}")]
    OutOfRange { field: &'static str, value: f64, range: String },
}

impl DecoderConfig {
    /// Width of all query heads together.
    pub fn q_dim(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Width of all key (or value) heads together.
    pub fn kv_dim(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// Itself, when every dimension is bounded and every product fits. Fields carry Hugging Face's names in errors.
    pub(crate) fn checked(self) -> Result<Self, ConfigError> {
        in_range("num_hidden_layers", self.n_layers, 1, MAX_LAYERS, 1)?;
        in_range("hidden_size", self.dim, BLOCK, MAX_DIM, BLOCK)?;
        in_range("intermediate_size", self.hidden_dim, BLOCK, MAX_HIDDEN_DIM, BLOCK)?;
        in_range("num_attention_heads", self.n_heads, 1, MAX_HEADS, 1)?;
        in_range("num_key_value_heads", self.n_kv_heads, 1, self.n_heads, 1)?;
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            return Err(out_of_range("num_key_value_heads", self.n_kv_heads as f64, format!("a divisor of {}", self.n_heads)));
        }
        in_range("head_dim", self.head_dim, BLOCK, MAX_HEAD_DIM, BLOCK)?;
        in_range("vocab_size", self.vocab_size, 1, MAX_VOCAB, 1)?;
        in_range("max_position_embeddings", self.context_tokens, 1, MAX_CONTEXT, 1)?;
        if !(self.rope_theta.is_finite() && self.rope_theta >= 1.0) {
            return Err(out_of_range("rope_theta", self.rope_theta, "a number of at least 1".to_owned()));
        }
        if !(self.norm_eps > 0.0 && self.norm_eps < 1.0) {
            return Err(out_of_range("rms_norm_eps", self.norm_eps.into(), "between 0 and 1".to_owned()));
        }
        if self.sliding_window == Some(0) {
            return Err(out_of_range("sliding_window", 0.0, "at least 1, or absent".to_owned()));
        }
        self.rope_scaling.check()?;
        Ok(self)
    }
}

fn in_range(field: &'static str, value: usize, least: usize, most: usize, multiple_of: usize) -> Result<(), ConfigError> {
    if value < least || value > most || !value.is_multiple_of(multiple_of) {
        let multiple = if multiple_of > 1 { format!(", a multiple of {multiple_of}") } else { String::new() };
        return Err(out_of_range(field, value as f64, format!("{least} to {most}{multiple}")));
    }
    Ok(())
}

fn out_of_range(field: &'static str, value: f64, range: String) -> ConfigError {
    ConfigError::OutOfRange { field, value, range }
}

#[cfg(test)]
mod tests;
