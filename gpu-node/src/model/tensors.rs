//! Every tensor of a decoder, by Hugging Face's names: what an import must find and what the engine loads.

use super::config::DecoderConfig;

/// A tensor of the stored file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Hugging Face's name.
    pub name: String,
    pub shape: TensorShape,
}

/// How a tensor is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorShape {
    /// Int8 panels with scales.
    Matrix { rows: usize, columns: usize },
    /// f32.
    Vector { length: usize },
}

impl TensorSpec {
    pub fn matrix(name: impl Into<String>, rows: usize, columns: usize) -> Self {
        Self { name: name.into(), shape: TensorShape::Matrix { rows, columns } }
    }

    pub fn vector(name: impl Into<String>, length: usize) -> Self {
        Self { name: name.into(), shape: TensorShape::Vector { length } }
    }
}

/// All tensors of the configuration, in the order in which they are stored.
pub fn decoder_tensors(config: &DecoderConfig) -> Vec<TensorSpec> {
    let (dim, hidden) = (config.dim, config.hidden_dim);
    let (q_dim, kv_dim) = (config.q_dim(), config.kv_dim());
    let mut out = vec![TensorSpec::matrix("model.embed_tokens.weight", config.vocab_size, dim)];
    for layer in 0..config.n_layers {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        out.push(TensorSpec::vector(name("input_layernorm.weight"), dim));
        for (projection, rows) in [("q_proj", q_dim), ("k_proj", kv_dim), ("v_proj", kv_dim)] {
            out.push(TensorSpec::matrix(name(&format!("self_attn.{projection}.weight")), rows, dim));
            if config.qkv_bias {
                out.push(TensorSpec::vector(name(&format!("self_attn.{projection}.bias")), rows));
            }
        }
        if config.qk_norm {
            out.push(TensorSpec::vector(name("self_attn.q_norm.weight"), config.head_dim));
            out.push(TensorSpec::vector(name("self_attn.k_norm.weight"), config.head_dim));
        }
        out.push(TensorSpec::matrix(name("self_attn.o_proj.weight"), dim, q_dim));
        out.push(TensorSpec::vector(name("post_attention_layernorm.weight"), dim));
        out.push(TensorSpec::matrix(name("mlp.gate_proj.weight"), hidden, dim));
        out.push(TensorSpec::matrix(name("mlp.up_proj.weight"), hidden, dim));
        out.push(TensorSpec::matrix(name("mlp.down_proj.weight"), dim, hidden));
    }
    out.push(TensorSpec::vector("model.norm.weight", dim));
    if !config.tied_embeddings {
        out.push(TensorSpec::matrix("lm_head.weight", config.vocab_size, dim));
    }
    out
}
