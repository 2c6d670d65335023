//! Matrix products and attention over [`Lanes`], written once and compiled for each instruction set.
//!
//! Order of a dot product: lane `j` sums elements `j, j + 16, j + 32, …` by fused multiply-add from zero, then the lanes are
//! added as [`sum_lanes`](super::math::sum_lanes) does. Tiles only choose which elements are computed side by side.
#![allow(unsafe_code)] // Raw rows inside bounds that the safe entry points assert.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use super::lanes::{Avx2, Avx512};
use super::lanes::{F32, Isa, Lanes, Scalar, Stored};
use super::math::{exp, silu, sum_lanes};

/// Interim: weights widened at load.
#[derive(Clone, Copy)]
pub(super) enum DType {
    F32,
}

impl DType {
    pub(super) fn bytes(self) -> usize {
        4
    }
}

/// Lanes of a vector; inner dimensions are multiples of it.
pub(super) const LANES: usize = 16;
/// From so many tokens on, weights are widened to f32 once per block of rows instead of once per tile.
const WIDEN_FROM_TOKENS: usize = 8;

/// What becomes of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Epilogue {
    Store,
    Add,
    /// `out = silu(out) · product`.
    Gate,
}

/// An output `[tokens × width]` that several tasks write, each its own columns.
pub(super) struct Output<'a> {
    start: *mut f32,
    len: usize,
    width: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: access goes through `matmul`, whose callers promise that no two tasks share a column.
unsafe impl Sync for Output<'_> {}

impl<'a> Output<'a> {
    pub(super) fn new(data: &'a mut [f32], width: usize) -> Self {
        Self { start: data.as_mut_ptr(), len: data.len(), width, borrow: PhantomData }
    }
}

/// Weights `[rows × columns]` and inputs `[tokens × columns]`.
#[derive(Clone, Copy)]
pub(super) struct Product<'a> {
    pub(super) weights: &'a [u8],
    pub(super) dtype: DType,
    pub(super) columns: usize,
    pub(super) x: &'a [f32],
}

/// `out[t][r] = Σ_k weights[r][k] · x[t][k]` for all tokens and the given rows.
///
/// # Safety
/// No other task reads or writes these columns of `out` meanwhile. `isa` is available.
pub(super) unsafe fn matmul(isa: Isa, product: Product<'_>, rows: Range<usize>, out: &Output<'_>, epilogue: Epilogue) {
    let Product { weights, dtype, columns, x } = product;
    assert!(columns > 0 && columns.is_multiple_of(LANES) && x.len().is_multiple_of(columns), "inputs are whole rows of whole vectors");
    assert!(rows.end * columns * dtype.bytes() <= weights.len(), "rows lie inside the weights");
    assert!(rows.end <= out.width && x.len() / columns * out.width <= out.len, "columns lie inside the output");
    // SAFETY: the assertions are the bounds of every access below; the caller promises the rest.
    unsafe {
        match isa {
            Isa::Scalar => by_dtype::<Scalar>(product, rows, out, epilogue),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => matmul_avx2(product, rows, out, epilogue),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => matmul_avx512(product, rows, out, epilogue),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn matmul_avx2(product: Product<'_>, rows: Range<usize>, out: &Output<'_>, epilogue: Epilogue) {
    // SAFETY: passed on from `matmul`.
    unsafe { by_dtype::<Avx2>(product, rows, out, epilogue) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma,f16c")]
unsafe fn matmul_avx512(product: Product<'_>, rows: Range<usize>, out: &Output<'_>, epilogue: Epilogue) {
    // SAFETY: passed on from `matmul`.
    unsafe { by_dtype::<Avx512>(product, rows, out, epilogue) }
}

#[inline(always)]
unsafe fn by_dtype<L: Lanes>(product: Product<'_>, rows: Range<usize>, out: &Output<'_>, epilogue: Epilogue) {
    // SAFETY: passed on from `matmul`.
    unsafe {
        match product.dtype {
            DType::F32 => matmul_rows::<L, F32>(product, rows, out, epilogue),
        }
    }
}

thread_local! {
    /// Widened rows of one block.
    static WIDENED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

#[inline(always)]
unsafe fn matmul_rows<L: Lanes, S: Stored>(product: Product<'_>, rows: Range<usize>, out: &Output<'_>, epilogue: Epilogue) {
    let Product { weights, columns, x, .. } = product;
    let tokens = x.len() / columns;
    let sink = Sink { out, epilogue };
    let weight = |row: usize| weights[row * columns * S::BYTES..].as_ptr();
    // SAFETY (all blocks): `matmul` checked that rows, tokens and columns are inside their slices.
    unsafe {
        if tokens < WIDEN_FROM_TOKENS {
            match (L::WIDE, tokens) {
                (true, 1) => blocks::<L, S, 8>(weight, columns, x, rows, &sink),
                (false, 1) => blocks::<L, S, 4>(weight, columns, x, rows, &sink),
                (true, _) => blocks::<L, S, 4>(weight, columns, x, rows, &sink),
                (false, _) => blocks::<L, S, 2>(weight, columns, x, rows, &sink),
            }
            return;
        }
        // Taken out and put back: a closure would be compiled without the instruction set.
        let mut widened = WIDENED.take();
        let step = if L::WIDE { 4 } else { 2 };
        widened.resize(step * columns, 0.0);
        for first in rows.clone().step_by(step) {
            let count = step.min(rows.end - first);
            for k in (0..count * columns).step_by(LANES) {
                L::store(widened[k..].as_mut_ptr(), S::load::<L>(weight(first).add(k * S::BYTES)));
            }
            let wide_row = |row: usize| widened[(row - first) * columns..].as_ptr().cast::<u8>();
            if L::WIDE {
                blocks::<L, F32, 4>(wide_row, columns, x, first..first + count, &sink);
            } else {
                blocks::<L, F32, 2>(wide_row, columns, x, first..first + count, &sink);
            }
        }
        WIDENED.set(widened);
    }
}

/// All tokens for blocks of `R` rows, a shorter last block row by row.
#[inline(always)]
unsafe fn blocks<L: Lanes, S: Stored, const R: usize>(
    weight: impl Fn(usize) -> *const u8,
    columns: usize,
    x: &[f32],
    rows: Range<usize>,
    sink: &Sink<'_>,
) {
    let mut row = rows.start;
    // SAFETY: passed on from `matmul`.
    unsafe {
        while row + R <= rows.end {
            let w: [*const u8; R] = std::array::from_fn(|i| weight(row + i));
            all_tokens::<L, S, R>(w, columns, x, row, sink);
            row += R;
        }
        while row < rows.end {
            all_tokens::<L, S, 1>([weight(row)], columns, x, row, sink);
            row += 1;
        }
    }
}

#[inline(always)]
unsafe fn all_tokens<L: Lanes, S: Stored, const R: usize>(w: [*const u8; R], columns: usize, x: &[f32], row: usize, sink: &Sink<'_>) {
    let tokens = x.len() / columns;
    let mut token = 0;
    // SAFETY: passed on from `matmul`.
    unsafe {
        if L::WIDE {
            while token + 4 <= tokens {
                tile::<L, S, R, 4>(w, columns, x, row, token, sink);
                token += 4;
            }
        }
        while token + 2 <= tokens {
            tile::<L, S, R, 2>(w, columns, x, row, token, sink);
            token += 2;
        }
        if token < tokens {
            tile::<L, S, R, 1>(w, columns, x, row, token, sink);
        }
    }
}

#[inline(always)]
unsafe fn tile<L: Lanes, S: Stored, const R: usize, const C: usize>(
    w: [*const u8; R],
    columns: usize,
    x: &[f32],
    row: usize,
    token: usize,
    sink: &Sink<'_>,
) {
    let inputs: [*const f32; C] = std::array::from_fn(|c| x[(token + c) * columns..].as_ptr());
    // SAFETY: `columns` elements stand behind each of the pointers, by `matmul`'s assertions.
    unsafe {
        let mut sums = [[L::zero(); C]; R];
        for k in (0..columns).step_by(LANES) {
            // Plain loops: a closure here would be compiled without the instruction set.
            let mut input = [L::zero(); C];
            for c in 0..C {
                input[c] = L::load(inputs[c].add(k));
            }
            for r in 0..R {
                let weight = S::load::<L>(w[r].add(k * S::BYTES));
                for c in 0..C {
                    sums[r][c] = L::fma(weight, input[c], sums[r][c]);
                }
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            for (c, sum) in sums.into_iter().enumerate() {
                sink.put(token + c, row + r, L::sum(sum));
            }
        }
    }
}

struct Sink<'a> {
    out: &'a Output<'a>,
    epilogue: Epilogue,
}

impl Sink<'_> {
    #[inline(always)]
    unsafe fn put(&self, token: usize, row: usize, value: f32) {
        // SAFETY: inside the output, by `matmul`'s assertions; no other task has this column.
        unsafe {
            let place = self.out.start.add(token * self.out.width + row);
            *place = match self.epilogue {
                Epilogue::Store => value,
                Epilogue::Add => *place + value,
                Epilogue::Gate => silu(*place) * value,
            };
        }
    }
}

/// Keys and values of one head: f16, `[positions × head_dim]`.
#[derive(Clone, Copy)]
pub(super) struct Head<'a> {
    pub(super) keys: &'a [u8],
    pub(super) values: &'a [u8],
}

/// `out = softmax(q · K / √head_dim) · V` over the first `length` positions, positions in ascending order.
///
/// # Safety
/// `isa` is available.
pub(super) unsafe fn attend(isa: Isa, q: &[f32], head: Head<'_>, length: usize, scores: &mut Vec<f32>, out: &mut [f32]) {
    let head_dim = q.len();
    assert!(head_dim > 0 && head_dim.is_multiple_of(LANES) && out.len() == head_dim && length > 0, "heads are whole vectors");
    let bytes = length * head_dim * 2;
    assert!(bytes <= head.keys.len() && bytes <= head.values.len(), "positions lie inside the cache");
    scores.clear();
    scores.resize(length.next_multiple_of(LANES), 0.0);
    // SAFETY: the assertions bound every access; the caller promises the instruction set.
    unsafe {
        match isa {
            Isa::Scalar => attend_lanes::<Scalar>(q, head, length, scores, out),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => attend_avx2(q, head, length, scores, out),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => attend_avx512(q, head, length, scores, out),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn attend_avx2(q: &[f32], head: Head<'_>, length: usize, scores: &mut [f32], out: &mut [f32]) {
    // SAFETY: passed on from `attend`.
    unsafe { attend_lanes::<Avx2>(q, head, length, scores, out) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma,f16c")]
unsafe fn attend_avx512(q: &[f32], head: Head<'_>, length: usize, scores: &mut [f32], out: &mut [f32]) {
    // SAFETY: passed on from `attend`.
    unsafe { attend_lanes::<Avx512>(q, head, length, scores, out) }
}

#[inline(always)]
unsafe fn attend_lanes<L: Lanes>(q: &[f32], head: Head<'_>, length: usize, scores: &mut [f32], out: &mut [f32]) {
    let head_dim = q.len();
    let row_bytes = head_dim * 2;
    let scale = 1.0 / (head_dim as f32).sqrt();
    // SAFETY: `attend` asserted that `length` rows of `head_dim` elements are in the cache.
    unsafe {
        let mut position = 0;
        while position + 4 <= length {
            dot_keys::<L, 4>(q, head.keys.as_ptr().add(position * row_bytes), scale, &mut scores[position..position + 4]);
            position += 4;
        }
        while position < length {
            dot_keys::<L, 1>(q, head.keys.as_ptr().add(position * row_bytes), scale, &mut scores[position..position + 1]);
            position += 1;
        }
    }

    let total = softmax_weights(scores, length);
    let inverse = 1.0 / total;
    // SAFETY: as above, for values; `out` has `head_dim` elements.
    unsafe {
        let mut first = 0;
        while first < head_dim {
            if head_dim - first >= 4 * LANES {
                sum_values::<L, 4>(scores, head.values.as_ptr().add(first * 2), row_bytes, length, inverse, out[first..].as_mut_ptr());
                first += 4 * LANES;
            } else {
                sum_values::<L, 1>(scores, head.values.as_ptr().add(first * 2), row_bytes, length, inverse, out[first..].as_mut_ptr());
                first += LANES;
            }
        }
    }
}

#[inline(always)]
unsafe fn dot_keys<L: Lanes, const N: usize>(q: &[f32], keys: *const u8, scale: f32, scores: &mut [f32]) {
    // SAFETY: `N` rows of `q.len()` f16 stand behind `keys`, by the caller.
    unsafe {
        let mut sums = [L::zero(); N];
        for k in (0..q.len()).step_by(LANES) {
            let query = L::load(q[k..].as_ptr());
            for (n, sum) in sums.iter_mut().enumerate() {
                *sum = L::fma(L::load_f16(keys.add((n * q.len() + k) * 2)), query, *sum);
            }
        }
        for (score, sum) in scores.iter_mut().zip(sums) {
            *score = L::sum(sum) * scale;
        }
    }
}

/// Replaces scores by e^(score − max), what is beyond `length` by 0, and returns their sum.
#[inline(always)]
fn softmax_weights(scores: &mut [f32], length: usize) -> f32 {
    let max = scores[..length].iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for score in scores.iter_mut() {
        *score = exp(*score - max);
    }
    scores[length..].fill(0.0);
    let mut lanes = [0.0f32; LANES];
    for chunk in scores.as_chunks::<LANES>().0 {
        for (lane, weight) in lanes.iter_mut().zip(chunk) {
            *lane += weight;
        }
    }
    sum_lanes(lanes)
}

#[inline(always)]
unsafe fn sum_values<L: Lanes, const N: usize>(
    weights: &[f32],
    values: *const u8,
    row_bytes: usize,
    length: usize,
    inverse: f32,
    out: *mut f32,
) {
    // SAFETY: `length` rows of `row_bytes`, with `N` vectors from `values` on, and `N` vectors of `out`, by the caller.
    unsafe {
        let mut sums = [L::zero(); N];
        for (position, weight) in weights[..length].iter().enumerate() {
            let weight = L::splat(*weight);
            for (n, sum) in sums.iter_mut().enumerate() {
                *sum = L::fma(weight, L::load_f16(values.add(position * row_bytes + n * LANES * 2)), *sum);
            }
        }
        for (n, sum) in sums.into_iter().enumerate() {
            L::store(out.add(n * LANES), L::mul(sum, L::splat(inverse)));
        }
    }
}

/// f32 → f16, to nearest, ties to even.
///
/// # Safety
/// `isa` is available.
pub(super) unsafe fn narrow(isa: Isa, from: &[f32], to: &mut [u8]) {
    assert!(from.len().is_multiple_of(LANES) && to.len() == from.len() * 2, "whole vectors, two bytes each");
    // SAFETY: the assertion bounds every access; the caller promises the instruction set.
    unsafe {
        match isa {
            Isa::Scalar => narrow_lanes::<Scalar>(from, to),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => narrow_avx2(from, to),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => narrow_avx512(from, to),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn narrow_avx2(from: &[f32], to: &mut [u8]) {
    // SAFETY: passed on from `narrow`.
    unsafe { narrow_lanes::<Avx2>(from, to) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma,f16c")]
unsafe fn narrow_avx512(from: &[f32], to: &mut [u8]) {
    // SAFETY: passed on from `narrow`.
    unsafe { narrow_lanes::<Avx512>(from, to) }
}

#[inline(always)]
unsafe fn narrow_lanes<L: Lanes>(from: &[f32], to: &mut [u8]) {
    for (from, to) in from.as_chunks::<LANES>().0.iter().zip(to.as_chunks_mut::<{ 2 * LANES }>().0) {
        // SAFETY: both arrays have 16 elements.
        unsafe { L::store_f16(to.as_mut_ptr(), L::load(from.as_ptr())) }
    }
}
