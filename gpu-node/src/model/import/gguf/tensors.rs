//! GGUF's tensors by Hugging Face's names.

use super::Source;
use crate::model::config::DecoderConfig;
use crate::model::import::ImportError;
use crate::model::import::quantize::SourceTensor;
use crate::model::tensors::{TensorShape, decoder_tensors};

/// Parts of a layer: Hugging Face's name, GGUF's name.
const PARTS: [(&str, &str); 14] = [
    ("input_layernorm.weight", "attn_norm.weight"),
    ("self_attn.q_proj.weight", "attn_q.weight"),
    ("self_attn.k_proj.weight", "attn_k.weight"),
    ("self_attn.v_proj.weight", "attn_v.weight"),
    ("self_attn.q_proj.bias", "attn_q.bias"),
    ("self_attn.k_proj.bias", "attn_k.bias"),
    ("self_attn.v_proj.bias", "attn_v.bias"),
    ("self_attn.q_norm.weight", "attn_q_norm.weight"),
    ("self_attn.k_norm.weight", "attn_k_norm.weight"),
    ("self_attn.o_proj.weight", "attn_output.weight"),
    ("post_attention_layernorm.weight", "ffn_norm.weight"),
    ("mlp.gate_proj.weight", "ffn_gate.weight"),
    ("mlp.up_proj.weight", "ffn_up.weight"),
    ("mlp.down_proj.weight", "ffn_down.weight"),
];

/// Every tensor of the decoder, each with the shape that the metadata implies, and none besides.
pub(super) fn source_tensors<'a>(source: &'a Source, config: &DecoderConfig) -> Result<Vec<SourceTensor<'a>>, ImportError> {
    let mut tensors = Vec::new();
    // Factors of the rotation are no weights; the configuration holds what they say.
    let mut known = vec!["rope_freqs.weight".to_owned()];
    for spec in decoder_tensors(config) {
        let name = gguf_name(&spec.name);
        let entry = source.gguf.tensor(&name).map_err(|e| source.error(e))?;
        // GGUF names the fastest dimension first.
        let expected = match spec.shape {
            TensorShape::Matrix { rows, columns } => vec![columns as u64, rows as u64],
            TensorShape::Vector { length } => vec![length as u64],
        };
        if entry.shape != expected {
            return Err(ImportError::Shape { name, found: entry.shape.clone(), expected });
        }
        // llama.cpp's RoPE of this architecture turns neighbours, so its converter interleaves the halves of each head.
        let turned = name.ends_with("attn_q.weight") || name.ends_with("attn_k.weight");
        let interleaved = (turned && source.architecture == "llama").then_some(config.head_dim);
        tensors.push(SourceTensor { spec, kind: entry.kind, bytes: source.gguf.data(entry), interleaved });
        known.push(name);
    }
    known.sort_unstable();
    match source.gguf.tensor_names().find(|name| known.binary_search_by(|k| k.as_str().cmp(name)).is_err()) {
        Some(name) => Err(ImportError::ExtraTensor { name: name.to_owned() }),
        None => Ok(tensors),
    }
}

fn gguf_name(hf_name: &str) -> String {
    match hf_name {
        "model.embed_tokens.weight" => return "token_embd.weight".to_owned(),
        "model.norm.weight" => return "output_norm.weight".to_owned(),
        "lm_head.weight" => return "output.weight".to_owned(),
        _ => {}
    }
    let within = hf_name.strip_prefix("model.layers.").unwrap_or(hf_name);
    let (layer, part) = within.split_once('.').unwrap_or(("", within));
    let gguf_part = PARTS.iter().find(|(hf, _)| *hf == part).map_or(part, |(_, gguf)| *gguf);
    format!("blk.{layer}.{gguf_part}")
}
