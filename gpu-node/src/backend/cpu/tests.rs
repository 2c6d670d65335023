//! Kernels against plain f64 sums, and all instruction sets, batch sizes and thread counts against each other, bit by bit.

use proptest::prelude::*;

use super::lanes::LANES;
use super::*;
use crate::backend::Row;
use crate::model::import::writer::{TensorSpec, WeightsWriter};
use crate::model::{RopeScaling, Weights, panels};

fn lcg(state: &mut u64) -> f32 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    ((*state >> 40) as f32 / (1u64 << 24) as f32) - 0.5
}

fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    (0..count).map(|_| lcg(&mut state)).collect()
}

/// A matrix in a file, and what it holds as f32.
fn matrix_of(rows: usize, columns: usize, values: &[u8], scales: &[u8]) -> (PanelMatrix, Vec<f32>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.safetensors");
    let mut out = WeightsWriter::create(&path, vec![TensorSpec::matrix("w", rows, columns)]).unwrap();
    out.matrix(values, scales).unwrap();
    out.finish().unwrap();
    let matrix = Weights::open(&path).unwrap().matrix("w", rows, columns).unwrap();
    let exact = matrix.panels().to_f32();
    (matrix, exact)
}

fn matrix(rows: usize, columns: usize, seed: u64) -> (PanelMatrix, Vec<f32>) {
    let (values, scales) = panels::quantize(&noise(rows * columns, seed), columns).unwrap();
    matrix_of(rows, columns, &values, &scales)
}

fn filled(backend: &CpuBackend, width: usize, data: &[f32]) -> Tensor {
    let mut tensor = backend.tensor(data.len() / width, width).unwrap();
    tensor.data.extend_from_slice(data);
    tensor
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

fn projected(isa: Isa, threads: usize, matrix: &PanelMatrix, x: &[f32]) -> Vec<f32> {
    let mut backend = CpuBackend::with_isa(threads, isa);
    let x = filled(&backend, matrix.columns(), x);
    let mut out = backend.tensor(1, matrix.rows()).unwrap();
    backend.project(&x, &mut [(matrix, &mut out)]);
    out.data
}

/// The contract's product, written as it stands in `docs/numerics.md`.
fn reference(weights: &PanelMatrix, exact: &[f32], x: &[f32]) -> Vec<f32> {
    let columns = weights.columns();
    let quantized: Vec<(f32, Vec<i32>)> = x
        .chunks(BLOCK)
        .map(|block| {
            let scale = block.iter().fold(0.0f32, |most, x| most.max(x.abs())) / 127.0;
            (scale, block.iter().map(|x| (x / scale).round_ties_even() as i32).collect())
        })
        .collect();
    let scales = |row: usize, block: usize| {
        let at = ((row / PANEL_ROWS * (columns / BLOCK) + block) * PANEL_ROWS + row % PANEL_ROWS) * 2;
        half::f16::from_le_bytes([weights.panels().scales[at], weights.panels().scales[at + 1]]).to_f32()
    };
    let element = |row: usize| {
        let (mut total, mut acc) = (0.0f32, 0.0f32);
        for (block, (scale, q)) in quantized.iter().enumerate() {
            let weight_scale = scales(row, block);
            let stored = &exact[row * columns + block * BLOCK..][..BLOCK];
            let sum: i32 = stored.iter().zip(q).map(|(w, q)| (w / weight_scale).round() as i32 * q).sum();
            acc = (weight_scale * scale).mul_add(sum as f32, acc);
            if block % 16 == 15 || block + 1 == quantized.len() {
                (total, acc) = (total + acc, 0.0);
            }
        }
        total
    };
    (0..weights.rows()).map(element).collect()
}

#[test]
fn products_are_the_documented_sums() {
    for columns in [32, 512, 544, 1536] {
        let (weight, exact) = matrix(37, columns, 3);
        let x = noise(columns, 4);
        let expected = reference(&weight, &exact, &x);
        for isa in Isa::available() {
            assert_eq!(bits(&projected(isa, 2, &weight, &x)), bits(&expected), "{isa:?}, {columns} columns");
        }
        let plain = (0..columns).map(|k| f64::from(exact[k]) * f64::from(x[k])).sum::<f64>();
        assert!((f64::from(expected[0]) - plain).abs() < 0.01 * (columns as f64).sqrt(), "{} {plain}", expected[0]);
    }
}

#[test]
fn tasks_cover_every_panel_and_token_once() {
    let sizes = [vec![36, 12, 12], vec![1], vec![3_072], vec![5, 0, 97]];
    for ((sizes, rows), threads) in
        sizes.iter().flat_map(|s| [0, 1, 8, 63, 64, 65, 300].map(|rows| (s, rows))).zip([1, 2, 7].iter().cycle())
    {
        let tasks = split(sizes, rows, *threads);
        for (job, size) in sizes.iter().enumerate() {
            let parts = tasks.iter().filter(|task| task.0 == job).map(|task| &task.1);
            let mut found: Vec<_> =
                parts.flat_map(|part| part.panels.clone().flat_map(|p| part.tokens.clone().map(move |t| (p, t)))).collect();
            found.sort_unstable();
            let all: Vec<_> = (0..*size).flat_map(|panel| (0..rows).map(move |token| (panel, token))).collect();
            assert_eq!(found, all, "{sizes:?}, {rows} rows, {threads} threads");
        }
    }
}

#[test]
fn many_rows_are_cut_among_the_threads_and_few_among_panels() {
    let tokens = |rows| {
        let mut tokens: Vec<_> = split(&[36], rows, 2).into_iter().map(|(_, part)| (part.tokens.start, part.tokens.end)).collect();
        tokens.dedup();
        tokens
    };
    assert_eq!(tokens(2 * ROWS_OF_BLOCK - 1), [(0, 2 * ROWS_OF_BLOCK - 1)]);
    assert_eq!(tokens(128), [(0, 64), (64, 128)]);
    assert_eq!(split(&[36], 128, 2).len(), 2 * TASKS_PER_THREAD, "as many tasks, each with half the rows");
}

/// Every edge of every tile: what is left over of panels, of their rows and of tokens.
#[test]
fn tiles_of_any_size_give_the_bits_of_single_products() {
    for (rows, columns) in [(1, 32), (16, 32), (17, 64), (31, 544), (48, 96), (49, 512), (80, 64), (97, 32)] {
        let (weight, exact) = matrix(rows, columns, 5);
        let x = noise(9 * columns, 6);
        let expected: Vec<f32> = x.chunks(columns).flat_map(|token| reference(&weight, &exact, token)).collect();
        for (isa, tokens) in Isa::available().into_iter().flat_map(|isa| (1..=9).map(move |tokens| (isa, tokens))) {
            let found = projected(isa, 1, &weight, &x[..tokens * columns]);
            assert_eq!(bits(&found), bits(&expected[..tokens * rows]), "{isa:?}, {rows} rows, {tokens} tokens");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn bits_do_not_depend_on_batch_threads_or_instruction_set(
        rows in 1usize..60, blocks in 1usize..20, tokens in prop_oneof![1usize..21, 60usize..140], seed in any::<u64>(), hostile in any::<bool>(),
    ) {
        let columns = blocks * BLOCK;
        let (weight, _) = if hostile {
            // Any byte may stand in a file, −128 too, and any scale that is a number.
            let (values, scales) = panels::panel_bytes(rows, columns);
            let mut state = seed;
            let bytes = |count: usize, state: &mut u64| -> Vec<u8> { (0..count).map(|_| (lcg(state) * 256.0) as i32 as u8).collect() };
            let values = bytes(values, &mut state);
            let scales: Vec<u8> = bytes(scales, &mut state).chunks(2).flat_map(|b| [b[0], b[1] & 0xbb]).collect();
            matrix_of(rows, columns, &values, &scales)
        } else {
            matrix(rows, columns, seed)
        };
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
    fn attention_bits_do_not_depend_on_chunking_threads_or_instruction_set(
        heads in 1usize..4, group in 1usize..7, blocks in 1usize..5, tokens in 1usize..200, cut in 1usize..90, window in 0usize..100,
        seed in any::<u64>(),
    ) {
        let window = (window > 0).then_some(window);
        let shape = AttentionShape { heads: heads * group, kv_heads: heads, head_dim: blocks * 2 * LANES, window };
        let reference = attended(Isa::Scalar, 1, shape, tokens, 1, seed);
        for isa in Isa::available() {
            prop_assert_eq!(bits(&attended(isa, 2, shape, tokens, cut, seed)), bits(&reference), "{:?}", isa);
        }
    }
}

/// Attention outputs of a sequence that is fed `cut` tokens at a time into pages in descending order.
fn attended(isa: Isa, threads: usize, shape: AttentionShape, tokens: usize, cut: usize, seed: u64) -> Vec<f32> {
    let mut backend = CpuBackend::with_isa(threads, isa);
    let (q_dim, kv_dim) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
    let (q, k, v) = (noise(tokens * q_dim, seed), noise(tokens * kv_dim, seed ^ 1), noise(tokens * kv_dim, seed ^ 2));
    let rope_shape = RopeShape { theta: 10_000.0, head_dim: shape.head_dim, scaling: RopeScaling::None };
    let rope = backend.rope(rope_shape, tokens).unwrap();
    let pages = tokens.div_ceil(PAGE_TOKENS);
    let mut pool = backend.pool(CacheShape { layers: 2, kv_heads: shape.kv_heads, head_dim: shape.head_dim }, pages).unwrap();
    let table: Vec<PageId> = (0..pages as u32).rev().map(PageId).collect();
    table.iter().for_each(|page| backend.prepare(&mut pool, *page).unwrap());
    let (bias, gain) = ([noise(q_dim, 5), noise(kv_dim, 6), noise(kv_dim, 7)], [noise(shape.head_dim, 8), noise(shape.head_dim, 9)]);
    let mut all = Vec::new();
    for first in (0..tokens).step_by(cut) {
        let end = (first + cut).min(tokens);
        let mut q = filled(&backend, q_dim, &q[first * q_dim..end * q_dim]);
        let mut k = filled(&backend, kv_dim, &k[first * kv_dim..end * kv_dim]);
        let mut v = filled(&backend, kv_dim, &v[first * kv_dim..end * kv_dim]);
        let rows: Vec<Row> = (first..end).map(|position| Row { sequence: 0, position }).collect();
        let mut out = backend.tensor(1, q_dim).unwrap();
        let extras = seed.is_multiple_of(2);
        let qkv = Projections {
            q: &mut q,
            k: &mut k,
            v: &mut v,
            bias: extras.then_some(bias.each_ref()),
            norm: extras.then_some(gain.each_ref()),
            eps: 1e-6,
        };
        backend.attend(shape, 1, &Placement { rows: &rows, tables: &[&table] }, &rope, qkv, &mut pool, &mut out);
        all.extend(out.data);
    }
    all
}

#[test]
fn attention_is_the_softmax_of_rotated_products() {
    for window in [None, Some(70)] {
        let shape = AttentionShape { heads: 2, kv_heads: 1, head_dim: 32, window };
        let (tokens, seed) = (150, 11);
        let out = attended(Isa::best(), 2, shape, tokens, 37, seed);
        let (q, k, v) = (noise(tokens * 64, seed), noise(tokens * 32, seed ^ 1), noise(tokens * 32, seed ^ 2));
        let rotated = |x: &[f32], position: usize| -> Vec<f64> {
            let angle = |pair: usize| position as f64 * 10_000f64.powf(-(pair as f64) / 16.0);
            let turned = |i: usize| {
                let (pair, other, sign) = if i < 16 { (i, i + 16, -1.0) } else { (i - 16, i - 16, 1.0) };
                f64::from(x[i]) * angle(pair).cos() + sign * f64::from(x[other]) * angle(pair).sin()
            };
            (0..32).map(turned).collect()
        };
        for (position, head) in (0..tokens).flat_map(|p| [(p, 0), (p, 1)]) {
            let query = rotated(&q[position * 64 + head * 32..][..32], position);
            let first = window.map_or(0, |w: usize| (position + 1).saturating_sub(w));
            let score = |p: usize| query.iter().zip(rotated(&k[p * 32..][..32], p)).map(|(q, k)| q * k).sum::<f64>() / 32f64.sqrt();
            let weights: Vec<f64> = (first..=position).map(|p| score(p).exp()).collect();
            let total: f64 = weights.iter().sum();
            for i in 0..32 {
                let expected: f64 = weights.iter().zip(first..).map(|(w, p)| w * f64::from(v[p * 32 + i])).sum::<f64>() / total;
                let found = f64::from(out[position * 64 + head * 32 + i]);
                assert!((found - expected).abs() < 1e-3, "position {position} head {head} element {i}: {found} {expected}");
            }
        }
    }
}

#[test]
fn gate_is_silu_times_product() {
    let (gate, gate_exact) = matrix(48, 64, 1);
    let (up, up_exact) = matrix(48, 64, 2);
    let input = noise(64 * 3, 3);
    let mut backend = CpuBackend::new(2);
    let x = filled(&backend, 64, &input);
    let mut out = backend.tensor(3, 48).unwrap();
    backend.project_gated(&gate, &up, &x, &mut out);
    let dot =
        |w: &[f32], row: usize, token: usize| (0..64).map(|k| f64::from(w[row * 64 + k]) * f64::from(input[token * 64 + k])).sum::<f64>();
    for (row, token) in (0..48).flat_map(|row| (0..3).map(move |token| (row, token))) {
        let g = dot(&gate_exact, row, token);
        let expected = g / (1.0 + (-g).exp()) * dot(&up_exact, row, token);
        assert!((f64::from(out.row(token)[row]) - expected).abs() < 0.02, "{row} {token}");
    }
}

#[test]
fn what_is_not_finite_reaches_every_product_and_has_no_digest() {
    let (weight, _) = matrix(16, 64, 1);
    let mut x = noise(64 * 2, 2);
    x[70] = f32::NAN;
    let mut backend = CpuBackend::new(1);
    let x = filled(&backend, 64, &x);
    let mut out = backend.tensor(2, 16).unwrap();
    backend.project(&x, &mut [(&weight, &mut out)]);
    assert!(out.row(0).iter().all(|x| x.is_finite()) && out.row(1).iter().all(|x| x.is_nan()));
    let mut digests = Vec::new();
    backend.digest(&out, &mut digests);
    assert!(digests[0].is_some() && digests[1].is_none());
}

/// `test/vectors/numerics.json`, computed from `docs/numerics.md` by another program.
mod documented {
    use serde_json::Value;

    use super::*;

    fn vectors() -> Value {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../test/vectors/numerics.json");
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    fn f32s(hex: &Value) -> Vec<f32> {
        let digits = hex.as_str().unwrap().as_bytes().as_chunks::<8>().0;
        digits.iter().map(|d| f32::from_bits(u32::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap())).collect()
    }

    fn bytes(hex: &Value) -> Vec<i8> {
        alloy::hex::decode(hex.as_str().unwrap()).unwrap().into_iter().map(u8::cast_signed).collect()
    }

    #[test]
    fn quantised_blocks() {
        let vectors = vectors();
        assert_eq!(vectors["contract"], NUMERIC_CONTRACT);
        let block: [f32; BLOCK] = f32s(&vectors["weights"]["in"]).try_into().unwrap();
        let (scale, q) = panels::quantize_block(&block);
        assert_eq!(
            (format!("{:04x}", scale.to_bits()), q.to_vec()),
            (vectors["weights"]["scale"].as_str().unwrap().into(), bytes(&vectors["weights"]["q"]))
        );

        let mut backend = CpuBackend::new(1);
        let x = filled(&backend, BLOCK, &f32s(&vectors["activations"]["in"]));
        backend.quantize(&x);
        assert_eq!(bits(&backend.quantized.scales), bits(&f32s(&vectors["activations"]["scale"])));
        assert_eq!(backend.quantized.values, bytes(&vectors["activations"]["q"]));
    }

    #[test]
    fn products_norms_and_functions() {
        let vectors = vectors();
        let product = &vectors["product"];
        let columns = product["columns"].as_u64().unwrap() as usize;
        let (values, scales) = panels::quantize(&f32s(&product["weights"]), columns).unwrap();
        let (matrix, _) = matrix_of(3, columns, &values, &scales);
        let norm = &vectors["norm"];
        let (x, gain, eps) = (f32s(&norm["x"]), f32s(&norm["gain"]), f32s(&norm["eps"])[0]);
        for isa in Isa::available() {
            assert_eq!(bits(&projected(isa, 1, &matrix, &f32s(&product["x"]))), bits(&f32s(&product["out"])), "{isa:?}");
            let mut backend = CpuBackend::with_isa(1, isa);
            let x = filled(&backend, x.len(), &x);
            let mut out = backend.tensor(1, gain.len()).unwrap();
            backend.norm(&x, &gain, eps, &mut out);
            assert_eq!(bits(&out.data), bits(&f32s(&norm["out"])), "{isa:?}");
        }
        let functions = &vectors["exp"];
        let x = f32s(&functions["x"]);
        assert_eq!(bits(&x.iter().map(|x| exp(*x)).collect::<Vec<_>>()), bits(&f32s(&functions["out"])));
        assert_eq!(bits(&x.iter().map(|x| math::silu(*x)).collect::<Vec<_>>()), bits(&f32s(&functions["silu"])));
    }

    #[test]
    fn attention() {
        for case in vectors()["attention"].as_array().unwrap() {
            let (q, k, v) = (f32s(&case["q"]), f32s(&case["k"]), f32s(&case["v"]));
            let (head_dim, tokens) = (q.len(), k.len() / q.len());
            let window = case["window"].as_u64().map(|w| w as usize);
            for isa in Isa::available() {
                let mut backend = CpuBackend::with_isa(2, isa);
                let shape = AttentionShape { heads: 1, kv_heads: 1, head_dim, window };
                let rope_shape = RopeShape { theta: case["theta"].as_f64().unwrap(), head_dim, scaling: RopeScaling::None };
                let rope = backend.rope(rope_shape, tokens).unwrap();
                let table: Vec<PageId> = (0..tokens.div_ceil(PAGE_TOKENS) as u32).map(PageId).collect();
                let mut pool = backend.pool(CacheShape { layers: 1, kv_heads: 1, head_dim }, table.len()).unwrap();
                table.iter().for_each(|page| backend.prepare(&mut pool, *page).unwrap());
                // The last row's query is the vector's; the others' do not matter.
                let mut queries = filled(&backend, head_dim, &q.repeat(tokens));
                let (mut keys, mut values) = (filled(&backend, head_dim, &k), filled(&backend, head_dim, &v));
                let rows: Vec<Row> = (0..tokens).map(|position| Row { sequence: 0, position }).collect();
                let mut out = backend.tensor(tokens, head_dim).unwrap();
                let qkv = Projections { q: &mut queries, k: &mut keys, v: &mut values, bias: None, norm: None, eps: 1e-5 };
                backend.attend(shape, 0, &Placement { rows: &rows, tables: &[&table] }, &rope, qkv, &mut pool, &mut out);
                assert_eq!(bits(out.row(tokens - 1)), bits(&f32s(&case["out"])), "{isa:?}, window {window:?}");
            }
        }
    }
}
