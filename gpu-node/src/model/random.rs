//! Models of seeded noise, to measure and to compare devices with shapes that nobody has to download.

use std::fs;
use std::io;
use std::path::Path;

use alloy::primitives::B256;
use half::f16;
use serde_json::{Map, Value, json};

use super::config::DecoderConfig;
use super::import::writer::WeightsWriter;
use super::panels::{PANEL_ROWS, panel_bytes};
use super::tensors::{TensorShape, decoder_tensors};

/// Tokens that the tokenizer of a random model has beside the bytes.
const SPECIAL: [&str; 2] = ["<|im_start|>", "<|im_end|>"];
/// Root mean square of a byte that is equally likely anything from −127 to 127.
const BYTE_RMS: f32 = 73.3;

/// Whose shapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum RandomShape {
    /// Two layers of 64; takes a megabyte.
    Tiny,
    /// Llama 3.2 1B; takes 1.6 GB.
    #[value(name = "1b")]
    OneB,
    /// Llama 3.1 8B; takes 8.5 GB.
    #[value(name = "8b")]
    EightB,
}

/// Why no random model was written.
#[derive(Debug, thiserror::Error)]
pub enum RandomError {
    #[error("{path}: {source}", path = path.display())]
    Write { path: std::path::PathBuf, source: io::Error },
    #[error(transparent)]
    Config(#[from] super::ConfigError),
}

impl RandomShape {
    fn config(self) -> Value {
        let (layers, dim, hidden, heads, kv_heads, head_dim, vocab, context) = match self {
            Self::Tiny => (2, 64, 96, 4, 2, 32, 264, 2_048),
            Self::OneB => (16, 2_048, 8_192, 32, 8, 64, 128_256, 8_192),
            Self::EightB => (32, 4_096, 14_336, 32, 8, 128, 128_256, 8_192),
        };
        json!({"model_type": "llama", "num_hidden_layers": layers, "hidden_size": dim, "intermediate_size": hidden,
            "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_dim, "vocab_size": vocab,
            "max_position_embeddings": context, "rope_theta": 500_000.0, "rms_norm_eps": 1e-5, "tie_word_embeddings": false})
    }
}

/// Writes a folder that the engine opens; the same seed gives the same bytes. Returns the model root.
pub fn write(dir: &Path, shape: RandomShape, seed: u64) -> Result<B256, RandomError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| RandomError::Write { path, source }
    };
    fs::create_dir_all(dir).map_err(failed(dir))?;
    let config = shape.config();
    let decoder = DecoderConfig::parse(config.to_string().as_bytes())?;
    for (name, json) in [("config.json", config), ("tokenizer.json", tokenizer()), ("tokenizer_config.json", tokenizer_config())] {
        let path = dir.join(name);
        fs::write(&path, json.to_string()).map_err(failed(&path))?;
    }
    let path = dir.join(super::manifest::WEIGHTS_FILE);
    weights(&path, &decoder, seed).map_err(failed(&path))
}

fn weights(path: &Path, config: &DecoderConfig, seed: u64) -> io::Result<B256> {
    let specs = decoder_tensors(config);
    let mut out = WeightsWriter::create(path, specs.clone())?;
    let mut state = seed;
    for spec in &specs {
        match spec.shape {
            TensorShape::Vector { length } => out.vector(&vec![1.0; length])?,
            TensorShape::Matrix { rows, columns } => {
                // Products of normed inputs then have about the size of these.
                let scale = f16::from_f32(1.0 / (columns as f32).sqrt() / BYTE_RMS).to_le_bytes();
                for first in (0..rows).step_by(PANEL_ROWS) {
                    let (value_bytes, scale_bytes) = panel_bytes(1, columns);
                    let mut values = Vec::with_capacity(value_bytes);
                    while values.len() < value_bytes {
                        // q is stored with 128 added; 0 would be −128, which no quantiser gives.
                        values.extend(next(&mut state).to_le_bytes().map(|byte| byte.max(1)));
                    }
                    let mut scales = scale.repeat(scale_bytes / 2);
                    // Rows beyond the last are zeros.
                    for lane in (rows - first).min(PANEL_ROWS)..PANEL_ROWS {
                        clear_lane(&mut values, &mut scales, lane);
                    }
                    out.panels(&values, &scales)?;
                }
            }
        }
    }
    out.finish()
}

fn clear_lane(values: &mut [u8], scales: &mut [u8], lane: usize) {
    values.chunks_mut(PANEL_ROWS * 4).for_each(|step| step[lane * 4..lane * 4 + 4].fill(super::panels::OFFSET));
    scales.chunks_mut(PANEL_ROWS * 2).for_each(|block| block[lane * 2..lane * 2 + 2].fill(0));
}

/// SplitMix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A token for each byte, in GPT-2's alphabet, and two special ones.
fn tokenizer() -> Value {
    let printable = |byte: u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut others = 0x100..;
    let alphabet = (0u32..256).map(|byte| if printable(byte) { byte } else { others.next().unwrap_or(byte) });
    let vocab: Map<String, Value> =
        alphabet.zip(0..).map(|(point, id)| (char::from_u32(point).unwrap_or(' ').to_string(), json!(id))).collect();
    let special: Vec<Value> = SPECIAL
        .iter()
        .zip(256..)
        .map(|(content, id)| {
            json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false})
        })
        .collect();
    json!({
        "version": "1.0",
        "added_tokens": special,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    })
}

fn tokenizer_config() -> Value {
    json!({"chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}", "eos_token": SPECIAL[1]})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ModelFolder;

    #[test]
    fn a_seed_gives_a_model_that_opens_and_always_the_same_one() {
        let written = |seed| {
            let dir = tempfile::tempdir().unwrap();
            let root = write(dir.path(), RandomShape::Tiny, seed).unwrap();
            assert_eq!(ModelFolder::open(dir.path(), 1, &|_| ()).unwrap().model_root, root);
            root
        };
        assert_eq!(written(1), written(1));
        assert_ne!(written(1), written(2));
    }
}
