//! GGUF tensors → `model.safetensors`, streamed, with the model root computed on the way.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use alloy::primitives::{B256, keccak256};
use half::f16;
use serde_json::{Map, Value, json};

use super::config::ModelShape;
use super::{ImportError, Progress};
use crate::model::digest::CHUNK_BYTES;
use crate::model::gguf::{Gguf, GgufError, TensorEntry};

/// How one tensor is written.
struct Plan<'a> {
    hf_name: String,
    entry: &'a TensorEntry,
    layout: Layout,
}

enum Layout {
    /// f32, as norms are stored.
    Vector,
    /// f16, rows as they are.
    Matrix,
    /// f16; llama.cpp interleaves the two halves of each query and key head for its RoPE. Undone here.
    Heads { count: usize },
}

impl Plan<'_> {
    /// Hugging Face order: slowest dimension first.
    fn shape(&self) -> Vec<u64> {
        self.entry.shape.iter().rev().copied().collect()
    }

    fn dtype(&self) -> (&'static str, u64) {
        match self.layout {
            Layout::Vector => ("F32", 4),
            _ => ("F16", 2),
        }
    }

    fn bytes(&self) -> u64 {
        self.entry.shape.iter().product::<u64>() * self.dtype().1
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
    let header = header_bytes(&plans);
    let total = header.len() as u64 + plans.iter().map(Plan::bytes).sum::<u64>();

    let file = File::create(path).map_err(ImportError::io(path))?;
    let mut out = Rooted { file: BufWriter::with_capacity(CHUNK_BYTES, file), chunk: Vec::with_capacity(CHUNK_BYTES), leaves: Vec::new() };
    progress.begin("write weights", total);
    out.write_all(&header).map_err(ImportError::io(path))?;
    for plan in &plans {
        let bytes = converted(gguf, plan);
        out.write_all(&bytes).map_err(ImportError::io(path))?;
        progress.advance(bytes.len() as u64);
    }
    out.flush().map_err(ImportError::io(path))?;
    progress.end();
    out.root().ok_or_else(|| ImportError::Inconsistent { what: "number of tensors", value: "0".to_owned() })
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

/// Length (u64, little-endian) and JSON header, padded so that tensor data begins at a multiple of 64 bytes.
fn header_bytes(plans: &[Plan]) -> Vec<u8> {
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut offset = 0;
    for plan in plans {
        let end = offset + plan.bytes();
        header.insert(plan.hf_name.clone(), json!({"dtype": plan.dtype().0, "shape": plan.shape(), "data_offsets": [offset, end]}));
        offset = end;
    }
    let mut json = Value::Object(header).to_string().into_bytes();
    json.resize((json.len() + 8).next_multiple_of(64) - 8, b' ');
    let mut out = (json.len() as u64).to_le_bytes().to_vec();
    out.extend(json);
    out
}

fn converted(gguf: &Gguf, plan: &Plan) -> Vec<u8> {
    let mut elements = Vec::with_capacity(plan.entry.shape.iter().product::<u64>() as usize);
    plan.entry.kind.dequantize(gguf.data(plan.entry), &mut elements);
    match plan.layout {
        Layout::Vector => elements.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Layout::Matrix => to_f16(&elements),
        Layout::Heads { count } => {
            let columns = plan.entry.shape[0] as usize;
            to_f16(&split_heads(&elements, columns, count))
        }
    }
}

fn to_f16(elements: &[f32]) -> Vec<u8> {
    elements.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect()
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

/// A file writer that hashes every 1 MiB chunk as it passes.
struct Rooted {
    file: BufWriter<File>,
    chunk: Vec<u8>,
    leaves: Vec<B256>,
}

impl Rooted {
    fn seal(&mut self) {
        self.leaves.push(keccak256(keccak256(&self.chunk)));
        self.chunk.clear();
    }

    fn root(mut self) -> Option<B256> {
        if !self.chunk.is_empty() {
            self.seal();
        }
        wire::merkle::root(&self.leaves)
    }
}

impl Write for Rooted {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let room = (CHUNK_BYTES - self.chunk.len()).min(bytes.len());
        let (now, _) = bytes.split_at(room);
        self.file.write_all(now)?;
        self.chunk.extend_from_slice(now);
        if self.chunk.len() == CHUNK_BYTES {
            self.seal();
        }
        Ok(room)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
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
