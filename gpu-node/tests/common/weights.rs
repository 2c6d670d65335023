//! `model.safetensors` in panels, from plain numbers.

use std::path::Path;

use gpu_node::model::import::writer::{TensorSpec, WeightsWriter};
use gpu_node::model::panels::quantize;

/// Writes tensors of name, shape and values; two dimensions are a matrix, one is a vector.
pub fn write_panels(path: &Path, tensors: &[(String, Vec<usize>, Vec<f32>)]) {
    let specs = tensors.iter().map(|(name, shape, _)| match shape[..] {
        [rows, columns] => TensorSpec::matrix(name, rows, columns),
        _ => TensorSpec::vector(name, shape[0]),
    });
    let mut out = WeightsWriter::create(path, specs.collect()).unwrap();
    for (_, shape, values) in tensors {
        match shape[..] {
            [_, columns] => {
                let (values, scales) = quantize(values, columns).unwrap();
                out.matrix(&values, &scales).unwrap();
            }
            _ => out.vector(values).unwrap(),
        }
    }
    out.finish().unwrap();
}
