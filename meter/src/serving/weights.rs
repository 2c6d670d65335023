//! How much a model computes for one token, counted in the header of its weights. Tensor data is not read.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use thiserror::Error;

/// Longest header, bytes; models of 126 layers take 150 KiB.
const HEADER_BYTES_MAX: u64 = 16 << 20;

/// A tensor of the header, as far as it is counted.
#[derive(Deserialize)]
struct Tensor {
    /// Empty for what is no tensor.
    #[serde(default)]
    shape: Vec<u64>,
}

/// Multiplications and additions of the layers' matrices for one token, of a safetensors file in Hugging Face's or in the engine's own layout.
/// Without attention and the output matrix, of which the number depends on the request, as nodes count too; the engine's layout counts its
/// padding up to 16 rows. Errors when the file can't be read, is no safetensors file, or has no layer.
pub(super) fn operations_per_token(path: &Path) -> Result<u64, WeightsError> {
    let mut file = File::open(path)?;
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let length_bytes = u64::from_le_bytes(length);
    if length_bytes > HEADER_BYTES_MAX {
        return Err(WeightsError::HeaderLength { length_bytes });
    }
    let mut header = vec![0; length_bytes as usize];
    file.read_exact(&mut header)?;
    let tensors: HashMap<String, Tensor> = serde_json::from_slice(&header)?;

    let is_matrix = |name: &str, tensor: &Tensor| name.starts_with("model.layers.") && name.ends_with(".weight") && tensor.shape.len() > 1;
    let matrices = tensors.iter().filter(|(name, tensor)| is_matrix(name, tensor));
    let weights = matrices.map(|(_, tensor)| tensor.shape.iter().fold(1u64, |product, extent| product.saturating_mul(*extent)));
    match weights.fold(0, u64::saturating_add).saturating_mul(2) {
        0 => Err(WeightsError::NoLayers),
        operations => Ok(operations),
    }
}

/// Why nothing can be counted.
#[derive(Debug, Error)]
pub(super) enum WeightsError {
    /// Missing, short or unreadable.
    #[error(transparent)]
    Read(#[from] std::io::Error),
    /// Not a header of ours or anybody's.
    #[error("its header claims {length_bytes} bytes, at most {HEADER_BYTES_MAX} are possible")]
    HeaderLength {
        /// As claimed.
        length_bytes: u64,
    },
    /// Not JSON of tensors.
    #[error("its header is no JSON of tensors: {0}")]
    Header(#[from] serde_json::Error),
    /// Other names than Hugging Face's.
    #[error("it has no matrix named model.layers.….weight")]
    NoLayers,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn counted(header: &Value) -> Result<u64, WeightsError> {
        let text = header.to_string();
        counted_in(&[&(text.len() as u64).to_le_bytes(), text.as_bytes(), &[0; 64]].concat())
    }

    fn counted_in(bytes: &[u8]) -> Result<u64, WeightsError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        std::fs::write(&path, bytes).unwrap();
        operations_per_token(&path)
    }

    fn tensor(shape: &[u64]) -> Value {
        json!({ "dtype": "F32", "shape": shape, "data_offsets": [0, 64] })
    }

    /// `gpu-node/tests/families.rs` has the same numbers for what its engine counts.
    #[test]
    fn the_count_is_the_engines_for_each_family() {
        for (family, operations) in [("smollm", 49_152), ("mistral", 98_304), ("qwen2", 98_304), ("qwen3", 131_072)] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../test/vectors/families").join(family).join("model.safetensors");
            assert_eq!(operations_per_token(&path).unwrap(), operations, "{family}");
        }
    }

    #[test]
    fn panels_count_as_the_matrix_that_they_hold_and_scales_norms_and_embeddings_do_not() {
        let header = json!({
            "__metadata__": { "format": "pt", "layout": "parallelix-panels-1" },
            "model.embed_tokens.weight": tensor(&[100, 2, 8, 16, 4]),
            "model.layers.0.self_attn.q_proj.weight": tensor(&[4, 2, 8, 16, 4]),
            "model.layers.0.self_attn.q_proj.weight_scale": tensor(&[4, 2, 16]),
            "model.layers.0.self_attn.q_proj.bias": tensor(&[64]),
            "model.layers.0.input_layernorm.weight": tensor(&[64]),
            "model.layers.11.mlp.up_proj.weight": tensor(&[8, 2, 8, 16, 4]),
            "lm_head.weight": tensor(&[100, 2, 8, 16, 4]),
        });
        assert_eq!(counted(&header).unwrap(), 2 * (64 * 64 + 128 * 64));
    }

    #[test]
    fn what_is_no_file_of_weights_is_said_so() {
        assert!(matches!(counted(&json!({ "lm_head.weight": tensor(&[8, 8]) })), Err(WeightsError::NoLayers)));
        assert!(matches!(counted(&json!([1])), Err(WeightsError::Header(_))));
        assert!(matches!(counted_in(&u64::MAX.to_le_bytes()), Err(WeightsError::HeaderLength { length_bytes: u64::MAX })));
        assert!(matches!(counted_in(&[1, 0, 0]), Err(WeightsError::Read(_))));
        let absurd = json!({ "model.layers.0.a.weight": tensor(&[u64::MAX, u64::MAX]) });
        assert_eq!(counted(&absurd).unwrap(), u64::MAX);
    }
}
