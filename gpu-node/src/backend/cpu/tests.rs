//! Kernels against plain f64 sums, and all instruction sets, batch sizes and thread counts against each other, bit by bit.

use std::fs;

use proptest::prelude::*;

use super::*;
use crate::model::Weights;

fn lcg(state: &mut u64) -> f32 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    ((*state >> 40) as f32 / (1u64 << 24) as f32) - 0.5
}

fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    (0..count).map(|_| lcg(&mut state)).collect()
}

/// A matrix stored as `dtype` in a safetensors file, and what it holds as f32.
fn matrix(rows: usize, columns: usize, dtype: safetensors::Dtype, seed: u64) -> (WeightTensor, Vec<f32>) {
    let values = noise(rows * columns, seed);
    let bytes: Vec<u8> = match dtype {
        safetensors::Dtype::F16 => values.iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect(),
        safetensors::Dtype::BF16 => values.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
    };
    let view = safetensors::tensor::TensorView::new(dtype, vec![rows, columns], &bytes).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.safetensors");
    fs::write(&path, safetensors::serialize([("w", view)], None).unwrap()).unwrap();
    let tensor = Weights::open(&path).unwrap().tensor("w", &[rows, columns]).unwrap();
    let exact = tensor.to_f32();
    (tensor, exact)
}

fn filled(backend: &CpuBackend, width: usize, data: &[f32]) -> Tensor {
    let mut tensor = backend.tensor(data.len() / width, width).unwrap();
    tensor.data.extend_from_slice(data);
    tensor
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

fn projected(isa: Isa, threads: usize, weight: &WeightTensor, x: &[f32]) -> Vec<f32> {
    let mut backend = CpuBackend::with_isa(threads, isa);
    let matrix = backend.matrix(weight).unwrap();
    let x = filled(&backend, matrix.columns, x);
    let mut out = backend.tensor(1, matrix.rows).unwrap();
    backend.project(&x, &mut [(&matrix, &mut out)]);
    out.data
}

#[test]
fn products_are_right_for_every_storage_type() {
    for dtype in [safetensors::Dtype::F16, safetensors::Dtype::BF16, safetensors::Dtype::F32] {
        let (weight, exact) = matrix(37, 80, dtype, 3);
        let x = noise(5 * 80, 4);
        let out = projected(Isa::best(), 2, &weight, &x);
        for (token, row) in (0..5).flat_map(|t| (0..37).map(move |r| (t, r))) {
            let terms = (0..80).map(|k| f64::from(exact[row * 80 + k]) * f64::from(x[token * 80 + k]));
            let expected: f64 = terms.sum();
            assert!((f64::from(out[token * 37 + row]) - expected).abs() < 1e-5, "{dtype:?} {token} {row}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn bits_do_not_depend_on_batch_threads_or_instruction_set(
        rows in 1usize..60, vectors in 1usize..9, tokens in 1usize..21, kind in 0usize..3, seed in any::<u64>(),
    ) {
        let columns = vectors * LANES;
        let dtype = [safetensors::Dtype::F16, safetensors::Dtype::BF16, safetensors::Dtype::F32][kind];
        let (weight, _) = matrix(rows, columns, dtype, seed);
        let x = noise(tokens * columns, seed ^ 1);
        let one_by_one: Vec<f32> = x.chunks(columns).flat_map(|token| projected(Isa::Scalar, 1, &weight, token)).collect();
        for isa in Isa::available() {
            for threads in [1, 3] {
                let together = projected(isa, threads, &weight, &x);
                prop_assert_eq!(bits(&together), bits(&one_by_one), "{:?} on {} threads", isa, threads);
            }
        }
    }

    #[test]
    fn attention_bits_do_not_depend_on_chunking_or_instruction_set(
        heads in 1usize..4, group in 1usize..4, vectors in 1usize..6, tokens in 1usize..40, cut in 1usize..40, seed in any::<u64>(),
    ) {
        let shape = AttentionShape { heads: heads * group, kv_heads: heads, head_dim: vectors * 2 * LANES };
        let reference = attended(Isa::Scalar, shape, tokens, 1, seed);
        for isa in Isa::available() {
            prop_assert_eq!(bits(&attended(isa, shape, tokens, cut, seed)), bits(&reference), "{:?}", isa);
        }
    }
}

/// Attention outputs of a sequence that is fed `cut` tokens at a time.
fn attended(isa: Isa, shape: AttentionShape, tokens: usize, cut: usize, seed: u64) -> Vec<f32> {
    let mut backend = CpuBackend::with_isa(2, isa);
    let (q_dim, kv_dim) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
    let (q, k, v) = (noise(tokens * q_dim, seed), noise(tokens * kv_dim, seed ^ 1), noise(tokens * kv_dim, seed ^ 2));
    let rope = backend.rope(10_000.0, shape.head_dim, tokens).unwrap();
    let cache_shape = CacheShape { layers: 2, kv_heads: shape.kv_heads, head_dim: shape.head_dim };
    let mut cache = backend.cache(cache_shape, tokens).unwrap();
    let mut all = Vec::new();
    for first in (0..tokens).step_by(cut) {
        let end = (first + cut).min(tokens);
        let mut q = filled(&backend, q_dim, &q[first * q_dim..end * q_dim]);
        let mut k = filled(&backend, kv_dim, &k[first * kv_dim..end * kv_dim]);
        let v = filled(&backend, kv_dim, &v[first * kv_dim..end * kv_dim]);
        let rows: Vec<Row> = (first..end).map(|position| Row { cache: 0, position }).collect();
        let mut out = backend.tensor(1, q_dim).unwrap();
        backend.attend(shape, 1, &rows, &rope, Projections { q: &mut q, k: &mut k, v: &v }, &mut [&mut cache], &mut out);
        all.extend(out.data);
    }
    all
}

#[test]
fn attention_over_one_position_is_its_value() {
    let shape = AttentionShape { heads: 1, kv_heads: 1, head_dim: 32 };
    let out = attended(Isa::best(), shape, 1, 1, 9);
    let v = noise(32, 9 ^ 2);
    for (out, v) in out.iter().zip(v) {
        assert_eq!(*out, half::f16::from_f32(v).to_f32());
    }
}

#[test]
fn gate_is_silu_times_product() {
    let (gate, gate_exact) = matrix(16, 32, safetensors::Dtype::F32, 1);
    let (up, up_exact) = matrix(16, 32, safetensors::Dtype::F32, 2);
    let input = noise(32, 3);
    let mut backend = CpuBackend::new(2);
    let (gate, up) = (backend.matrix(&gate).unwrap(), backend.matrix(&up).unwrap());
    let x = filled(&backend, 32, &input);
    let mut out = backend.tensor(1, 16).unwrap();
    backend.project_gated(&gate, &up, &x, &mut out);
    let dot = |w: &[f32], row: usize| (0..32).map(|k| f64::from(w[row * 32 + k]) * f64::from(input[k])).sum::<f64>();
    for row in 0..16 {
        let g = dot(&gate_exact, row);
        let expected = g / (1.0 + (-g).exp()) * dot(&up_exact, row);
        assert!((f64::from(out.data[row]) - expected).abs() < 1e-5);
    }
}
