//! Single operations, on both back ends, at odd shapes.

use gpu_node::backend::{AttentionShape, Backend, CacheShape, CpuBackend, PAGE_TOKENS, PageId, Placement, Projections, RopeShape, Row};
use gpu_node::model::{PanelMatrix, RopeScaling, Weights};

use super::common::Noise;
use super::common::weights::write_panels;
use super::emulated;

/// Random matrices by name.
fn matrices(shapes: &[(&str, usize, usize)], seed: u64) -> impl Fn(&str) -> PanelMatrix + use<> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let mut noise = Noise(seed);
    let tensors: Vec<(String, Vec<usize>, Vec<f32>)> =
        shapes.iter().map(|(name, rows, columns)| ((*name).to_owned(), vec![*rows, *columns], noise.take(rows * columns, 2.0))).collect();
    write_panels(&path, &tensors);
    let weights = Weights::open(&path).unwrap();
    let shapes: Vec<(String, usize, usize)> = shapes.iter().map(|(name, rows, columns)| ((*name).to_owned(), *rows, *columns)).collect();
    move |name| {
        let (name, rows, columns) = shapes.iter().find(|(own, ..)| own == name).unwrap();
        weights.matrix(name, *rows, *columns).unwrap()
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// A shape that nobody attends with.
const PLAIN: AttentionShape = AttentionShape { heads: 1, kv_heads: 1, head_dim: 32, window: None };

fn read<B: Backend>(backend: &B, x: &B::Tensor) -> Vec<u32> {
    let mut out = Vec::new();
    backend.read(x, &mut out);
    bits(&out)
}

/// Everything that is made of products: three at once, one added, one gated, gathered rows, norms and digests between.
fn products<B: Backend>(mut backend: B, rows: usize, columns: usize, outputs: usize) -> Vec<Vec<u32>> {
    let hidden = 64;
    let shapes = [
        ("table", 300, columns),
        ("a", outputs, columns),
        ("b", 16, columns),
        ("c", outputs + 40, columns),
        ("gate", hidden, columns),
        ("up", hidden, columns),
        ("down", columns, hidden),
    ];
    let matrix = matrices(&shapes, columns as u64 + 7);
    let on = |backend: &B, name: &str| backend.matrix(matrix(name)).unwrap();
    let tokens: Vec<u32> = (0..rows as u32).map(|row| row * 7 % 300).collect();
    let places: Vec<Row> = (0..rows).map(|position| Row { sequence: 0, position }).collect();
    let table: Vec<PageId> = (0..rows.div_ceil(PAGE_TOKENS) as u32).map(PageId).collect();
    let chosen: Vec<usize> = (0..rows).filter(|row| row % 3 == 1 || *row + 1 == rows).collect();
    backend.begin_step(PLAIN, &Placement { rows: &places, tables: &[&table] }, &tokens, &chosen);

    let tensor = |backend: &B, width: usize| backend.tensor(rows, width).unwrap();
    let mut x = tensor(&backend, columns);
    backend.embed(&on(&backend, "table"), &tokens, &mut x);
    let gain = backend.vector(Noise(9).take(columns, 3.0)).unwrap();
    let mut normed = tensor(&backend, columns);
    backend.norm(&x, &gain, 1e-5, &mut normed);
    let mut found = vec![read(&backend, &x), read(&backend, &normed)];

    let (mut a, mut b, mut c) = (tensor(&backend, outputs), tensor(&backend, 16), tensor(&backend, outputs + 40));
    let [wa, wb, wc] = ["a", "b", "c"].map(|name| on(&backend, name));
    backend.project(&normed, &mut [(&wa, &mut a), (&wb, &mut b), (&wc, &mut c)]);
    found.extend([&a, &b, &c].map(|out| read(&backend, out)));

    let mut gated = tensor(&backend, hidden);
    let (gate, up, down) = (on(&backend, "gate"), on(&backend, "up"), on(&backend, "down"));
    backend.project_gated(&gate, &up, &normed, &mut gated);
    backend.project_add(&down, &gated, &mut x);
    found.push(read(&backend, &x));

    let mut picked = backend.tensor(rows, columns).unwrap();
    backend.gather(&x, &chosen, &mut picked);
    let mut last = backend.tensor(0, outputs).unwrap();
    backend.project(&picked, &mut [(&wa, &mut last)]);
    found.extend([read(&backend, &picked), read(&backend, &last)]);

    let mut digests = Vec::new();
    backend.digest(&x, &mut digests);
    let words =
        digests.iter().flat_map(|digest| digest.unwrap().0.as_chunks::<4>().0.iter().map(|w| u32::from_le_bytes(*w)).collect::<Vec<_>>());
    found.push(words.collect());
    backend.end_step();
    assert_eq!(backend.fault(), None);
    found
}

#[test]
fn products_norms_and_digests_are_the_processors_bits() {
    // One segment, a segment and a bit, more than eight; tiles of 8, 16, 32, two of 32, and the kernel for many rows.
    let cases = [
        (1, 32, 5),
        (3, 544, 37),
        (8, 96, 16),
        (9, 1_120, 48),
        (17, 64, 33),
        (33, 544, 20),
        (64, 32, 16),
        (65, 544, 150),
        (150, 96, 9),
        (2, 4_640, 17),
    ];
    for (rows, columns, outputs) in cases {
        let Some(backend) = emulated() else { return };
        let expected = products(CpuBackend::new(2), rows, columns, outputs);
        let found = products(backend, rows, columns, outputs);
        for (step, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert!(found == expected, "{rows} rows of {columns} to {outputs}: result {step} differs");
        }
    }
}

/// Attention of three sequences: their prompts in chunks, then steps in which each has a row.
fn attended<B: Backend>(mut backend: B, shape: AttentionShape, extras: bool, lengths: [usize; 3], chunk: usize) -> Vec<Vec<u32>> {
    let (q_dim, kv_dim, columns) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim, 64);
    let matrix = matrices(
        &[("table", 300, columns), ("q", q_dim, columns), ("k", kv_dim, columns), ("v", kv_dim, columns), ("o", columns, q_dim)],
        5,
    );
    let on = |backend: &B, name: &str| backend.matrix(matrix(name)).unwrap();
    let [table, wq, wk, wv, wo] = ["table", "q", "k", "v", "o"].map(|name| on(&backend, name));
    let rope = backend.rope(RopeShape { theta: 10_000.0, head_dim: shape.head_dim, scaling: RopeScaling::None }, 1_024).unwrap();
    let pages_each = 8u32;
    let cache = CacheShape { layers: 2, kv_heads: shape.kv_heads, head_dim: shape.head_dim };
    let mut pool = backend.pool(cache, 3 * pages_each as usize).unwrap();
    let tables: Vec<Vec<PageId>> = (0..3).map(|sequence| (0..pages_each).rev().map(|page| PageId(page * 3 + sequence)).collect()).collect();
    tables.iter().flatten().for_each(|page| backend.prepare(&mut pool, *page).unwrap());
    let tables: Vec<&[PageId]> = tables.iter().map(Vec::as_slice).collect();
    let vector = |backend: &B, length: usize, seed: u64| backend.vector(Noise(seed).take(length, 2.0)).unwrap();
    let bias = [vector(&backend, q_dim, 1), vector(&backend, kv_dim, 2), vector(&backend, kv_dim, 3)];
    let gain = [vector(&backend, shape.head_dim, 4), vector(&backend, shape.head_dim, 5)];

    let mut steps: Vec<Vec<Row>> = Vec::new();
    for (sequence, length) in lengths.into_iter().enumerate() {
        steps.extend(
            (0..length).step_by(chunk).map(|first| (first..length.min(first + chunk)).map(|position| Row { sequence, position }).collect()),
        );
    }
    for more in 0..3 {
        steps.push((0..3).map(|sequence| Row { sequence, position: lengths[sequence] + more }).collect());
    }
    // A prompt beside two rows that stand alone.
    let mixed = (0..3)
        .flat_map(|sequence| (0..if sequence == 1 { 5 } else { 1 }).map(move |i| Row { sequence, position: lengths[sequence] + 3 + i }));
    steps.push(mixed.collect());

    let mut found = Vec::new();
    for rows in steps {
        let tokens: Vec<u32> = rows.iter().map(|row| (row.position * 13 + row.sequence * 5) as u32 % 300).collect();
        let placement = Placement { rows: &rows, tables: &tables };
        backend.begin_step(shape, &placement, &tokens, &[]);
        let tensor = |backend: &B, width: usize| backend.tensor(rows.len(), width).unwrap();
        let (mut x, mut q, mut k, mut v, mut out) = (
            tensor(&backend, columns),
            tensor(&backend, q_dim),
            tensor(&backend, kv_dim),
            tensor(&backend, kv_dim),
            tensor(&backend, q_dim),
        );
        backend.embed(&table, &tokens, &mut x);
        backend.project(&x, &mut [(&wq, &mut q), (&wk, &mut k), (&wv, &mut v)]);
        let qkv = Projections {
            q: &mut q,
            k: &mut k,
            v: &mut v,
            bias: extras.then_some(bias.each_ref()),
            norm: extras.then_some(gain.each_ref()),
            eps: 1e-6,
        };
        backend.attend(shape, 1, &placement, &rope, qkv, &mut pool, &mut out);
        backend.project_add(&wo, &out, &mut x);
        backend.end_step();
        found.extend([read(&backend, &out), read(&backend, &x)]);
    }
    assert_eq!(backend.fault(), None);
    found
}

#[test]
fn attention_is_the_processors_bits() {
    let cases = [
        (AttentionShape { heads: 4, kv_heads: 2, head_dim: 32, window: None }, false, [70, 5, 200], 33),
        (AttentionShape { heads: 6, kv_heads: 2, head_dim: 64, window: Some(70) }, true, [100, 1, 64], 64),
        (AttentionShape { heads: 4, kv_heads: 1, head_dim: 128, window: None }, true, [65, 3, 90], 90),
        (AttentionShape { heads: 7, kv_heads: 1, head_dim: 96, window: Some(20) }, false, [40, 80, 7], 16),
        (AttentionShape { heads: 20, kv_heads: 1, head_dim: 160, window: None }, true, [9, 70, 2], 70),
        (AttentionShape { heads: 2, kv_heads: 2, head_dim: 256, window: None }, true, [66, 10, 3], 66),
    ];
    for (shape, extras, lengths, chunk) in cases {
        let Some(backend) = emulated() else { return };
        let expected = attended(CpuBackend::new(2), shape, extras, lengths, chunk);
        let found = attended(backend, shape, extras, lengths, chunk);
        for (step, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert!(found == expected, "{shape:?}: result {step} differs");
        }
    }
}
