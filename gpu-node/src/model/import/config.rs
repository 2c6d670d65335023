//! Shape of a llama-architecture GGUF and the `config.json` that says the same.

use serde_json::{Value, json};

use super::ImportError;
use super::tokenizer::Vocabulary;
use crate::model::gguf::{Gguf, GgufError};

/// What the metadata says of the decoder, checked against the tensors.
pub(super) struct ModelShape {
    pub(super) n_layers: u64,
    pub(super) dim: u64,
    pub(super) hidden_dim: u64,
    pub(super) n_heads: u64,
    pub(super) n_kv_heads: u64,
    pub(super) head_dim: u64,
    pub(super) vocab_size: u64,
    pub(super) context_tokens: u64,
    pub(super) tied_embeddings: bool,
    rope_theta: f64,
    norm_eps: f64,
}

impl ModelShape {
    pub(super) fn of(gguf: &Gguf, in_source: impl Fn(GgufError) -> ImportError + Copy) -> Result<Self, ImportError> {
        let number = |key: &str| gguf.unsigned(key).map_err(in_source);
        let dim = number("llama.embedding_length")?;
        let n_heads = number("llama.attention.head_count")?;
        if n_heads == 0 || dim == 0 {
            return Err(ImportError::Inconsistent { what: "llama.attention.head_count or llama.embedding_length", value: "0".to_owned() });
        }
        let head_dim = gguf.unsigned("llama.attention.key_length").unwrap_or(dim / n_heads);
        let rotated = gguf.unsigned("llama.rope.dimension_count").unwrap_or(head_dim);
        if rotated != head_dim {
            return Err(ImportError::Inconsistent { what: "llama.rope.dimension_count", value: rotated.to_string() });
        }
        // A scaled RoPE would give wrong answers without any error later, so it is refused here.
        for key in ["llama.rope.scaling.type", "llama.rope.scale_linear"] {
            if let Some(value) = gguf.value(key).filter(|v| **v != crate::model::gguf::Value::Text("none".to_owned())) {
                return Err(ImportError::Inconsistent { what: "RoPE scaling", value: format!("{value:?}") });
            }
        }

        let embedding = gguf.tensor("token_embd.weight").map_err(in_source)?;
        let [embedding_dim, vocab_size] = embedding.shape[..] else {
            return Err(ImportError::Inconsistent { what: "shape of token_embd.weight", value: format!("{:?}", embedding.shape) });
        };
        if embedding_dim != dim {
            return Err(ImportError::Inconsistent { what: "llama.embedding_length", value: dim.to_string() });
        }
        let norm_eps = gguf.float("llama.attention.layer_norm_rms_epsilon").map_err(in_source)?;
        Ok(Self {
            n_layers: number("llama.block_count")?,
            dim,
            hidden_dim: number("llama.feed_forward_length")?,
            n_heads,
            n_kv_heads: gguf.unsigned("llama.attention.head_count_kv").unwrap_or(n_heads),
            head_dim,
            vocab_size,
            context_tokens: number("llama.context_length")?,
            tied_embeddings: gguf.tensor("output.weight").is_err(),
            rope_theta: gguf.float("llama.rope.freq_base").unwrap_or(10_000.0),
            // GGUF stores an f32; its shortest decimal form is what the model's authors wrote.
            norm_eps: (norm_eps as f32).to_string().parse().unwrap_or(norm_eps),
        })
    }

    pub(super) fn config_json(&self, vocabulary: &Vocabulary) -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
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
            "rope_scaling": null,
            "rms_norm_eps": self.norm_eps,
            "tie_word_embeddings": self.tied_embeddings,
            "attention_bias": false,
            "mlp_bias": false,
            "bos_token_id": vocabulary.bos,
            "eos_token_id": vocabulary.eos,
            "torch_dtype": "float16",
        })
    }
}
