//! GGUF tensors → `model.safetensors` in panels.

use std::path::Path;

use alloy::primitives::B256;

use super::config::ModelShape;
use super::writer::{TensorSpec, WeightsWriter};
use super::{ImportError, Progress};
use crate::model::gguf::{Gguf, GgufError, TensorEntry};
use crate::model::panels;

/// How one tensor is written.
struct Plan<'a> {
    hf_name: String,
    entry: &'a TensorEntry,
    layout: Layout,
}

enum Layout {
    /// f32, as norms are stored.
    Vector,
    /// Panels, rows as they are.
    Matrix,
    /// Panels; llama.cpp interleaves the two halves of each query and key head for its RoPE. Undone here.
    Heads { count: usize },
}

impl Plan<'_> {
    fn spec(&self) -> TensorSpec {
        let length = |dimension: usize| self.entry.shape.get(dimension).map_or(1, |x| *x as usize);
        match self.layout {
            Layout::Vector => TensorSpec::vector(&self.hf_name, length(0)),
            // GGUF names the fastest dimension first.
            _ => TensorSpec::matrix(&self.hf_name, length(1), length(0)),
        }
    }
}

/// Writes the file and returns its model root.
pub(super) fn write_safetensors(
    gguf: &Gguf,
    shape: &ModelShape,
    path: &Path,
    progress: &dyn Progress,
    in_source: impl Fn(GgufError) -> ImportError + Copy,
) -> Result<B256, ImportError> {
    let plans = plan(gguf, shape, in_source)?;
    let total = plans.iter().map(|plan| plan.entry.shape.iter().product::<u64>()).sum();
    let mut out = WeightsWriter::create(path, plans.iter().map(Plan::spec).collect()).map_err(ImportError::io(path))?;
    progress.begin("quantise weights", total);
    for plan in &plans {
        let mut elements = elements_of(gguf, plan.entry);
        if let Layout::Heads { count } = plan.layout {
            elements = split_heads(&elements, plan.entry.shape[0] as usize, count);
        }
        let quantized = |elements: &[f32], columns| {
            panels::quantize(elements, columns).map_err(|source| ImportError::Quantize { tensor: plan.hf_name.clone(), source })
        };
        match plan.layout {
            Layout::Vector => out.vector(&elements).map_err(ImportError::io(path))?,
            _ => {
                let (values, scales) = quantized(&elements, plan.entry.shape[0] as usize)?;
                out.matrix(&values, &scales).map_err(ImportError::io(path))?;
            }
        }
        progress.advance(elements.len() as u64);
    }
    let root = out.finish().map_err(ImportError::io(path))?;
    progress.end();
    Ok(root)
}

/// Every tensor of the architecture, each with the shape that the metadata implies, and none besides.
fn plan<'a>(gguf: &'a Gguf, shape: &ModelShape, in_source: impl Fn(GgufError) -> ImportError + Copy) -> Result<Vec<Plan<'a>>, ImportError> {
    let (dim, hidden) = (shape.dim, shape.hidden_dim);
    let (q_dim, kv_dim) = (shape.n_heads.saturating_mul(shape.head_dim), shape.n_kv_heads.saturating_mul(shape.head_dim));
    let heads = |count: u64| Layout::Heads { count: count as usize };
    let mut plans = Vec::new();
    let mut add = |name: String, hf_name: String, expected: &[u64], layout: Layout| {
        let entry = gguf.tensor(&name).map_err(in_source)?;
        if entry.shape != expected {
            return Err(ImportError::Inconsistent { what: "shape of a tensor", value: format!("{:?} of {name}", entry.shape) });
        }
        plans.push(Plan { hf_name, entry, layout });
        Ok(())
    };

    add("token_embd.weight".into(), "model.embed_tokens.weight".into(), &[dim, shape.vocab_size], Layout::Matrix)?;
    for layer in 0..shape.n_layers {
        let gguf_name = |part: &str| format!("blk.{layer}.{part}.weight");
        let hf_name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        add(gguf_name("attn_norm"), hf_name("input_layernorm"), &[dim], Layout::Vector)?;
        add(gguf_name("attn_q"), hf_name("self_attn.q_proj"), &[dim, q_dim], heads(shape.n_heads))?;
        add(gguf_name("attn_k"), hf_name("self_attn.k_proj"), &[dim, kv_dim], heads(shape.n_kv_heads))?;
        add(gguf_name("attn_v"), hf_name("self_attn.v_proj"), &[dim, kv_dim], Layout::Matrix)?;
        add(gguf_name("attn_output"), hf_name("self_attn.o_proj"), &[q_dim, dim], Layout::Matrix)?;
        add(gguf_name("ffn_norm"), hf_name("post_attention_layernorm"), &[dim], Layout::Vector)?;
        add(gguf_name("ffn_gate"), hf_name("mlp.gate_proj"), &[dim, hidden], Layout::Matrix)?;
        add(gguf_name("ffn_up"), hf_name("mlp.up_proj"), &[dim, hidden], Layout::Matrix)?;
        add(gguf_name("ffn_down"), hf_name("mlp.down_proj"), &[hidden, dim], Layout::Matrix)?;
    }
    add("output_norm.weight".into(), "model.norm.weight".into(), &[dim], Layout::Vector)?;
    if !shape.tied_embeddings {
        add("output.weight".into(), "lm_head.weight".into(), &[dim, shape.vocab_size], Layout::Matrix)?;
    }
    // A bias or scale that is left out would change every answer.
    let extra = gguf.tensor_names().count().checked_sub(plans.len());
    if extra != Some(0) {
        return Err(ImportError::Inconsistent { what: "number of tensors", value: gguf.tensor_names().count().to_string() });
    }
    Ok(plans)
}

fn elements_of(gguf: &Gguf, entry: &TensorEntry) -> Vec<f32> {
    let mut elements = Vec::with_capacity(entry.shape.iter().product::<u64>() as usize);
    entry.kind.dequantize(gguf.data(entry), &mut elements);
    elements
}

/// Row `2i + half` of a head becomes row `half · head_dim/2 + i`.
fn split_heads(elements: &[f32], columns: usize, heads: usize) -> Vec<f32> {
    let head_rows = elements.len() / columns / heads.max(1);
    let mut out = Vec::with_capacity(elements.len());
    for head in elements.chunks(head_rows * columns) {
        for half in 0..2 {
            for row in head.chunks(columns).skip(half).step_by(2) {
                out.extend_from_slice(row);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_rows_are_split_into_halves_again() {
        // Two heads of four rows, one column: llama.cpp's order is 0 2 1 3 within a head.
        let interleaved = [0.0, 2.0, 1.0, 3.0, 10.0, 12.0, 11.0, 13.0];
        assert_eq!(split_heads(&interleaved, 1, 2), [0.0, 1.0, 2.0, 3.0, 10.0, 11.0, 12.0, 13.0]);
    }
}
