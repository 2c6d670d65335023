//! Attention over paged keys and values.
//!
//! A page holds 64 positions of all layers and key/value heads, keys transposed `[head_dim][64]` and values `[64][head_dim]`, f16. Pages are
//! also the chunks of the contract's softmax: each gives its greatest score, the sum of its weights and its weighted values,
//! and chunks are merged in ascending order. So the order of every sum is that of the positions, whatever stands in a batch.
#![allow(unsafe_code)] // Raw rows inside bounds that the safe entry point asserts.
#![allow(clippy::needless_range_loop)] // Indices name the same register in several arrays.

use super::isa::dispatch;
use super::lanes::{Isa, LANES, Lanes};
use super::math::{exp, softmax_weights};
use super::pool::Pool;
use crate::backend::{CacheShape, PAGE_TOKENS, PageId};

/// Bytes.
const CACHE_LINE: usize = 64;
/// Vectors of scores of a page.
const SCORE_VECTORS: usize = PAGE_TOKENS / LANES;
/// Heads computed side by side, so that each key and value is widened once for them.
const HEADS: usize = 4;
/// Vectors of values summed side by side.
const VALUE_VECTORS: usize = 4;

/// Keys and values of one layer and head of one sequence.
#[derive(Clone, Copy)]
pub(super) struct Stored<'a> {
    pub(super) pool: &'a Pool,
    pub(super) table: &'a [PageId],
    pub(super) layer: usize,
    pub(super) kv_head: usize,
}

/// Those of 64 positions.
struct HeadPage<'a> {
    keys: &'a [u16],
    values: &'a [u16],
}

impl<'a> Stored<'a> {
    fn page(self, chunk: usize) -> HeadPage<'a> {
        let shape = self.pool.shape;
        let elements = &self.pool.page(self.table[chunk])[head_offset(shape, self.layer, self.kv_head)..];
        let (keys, rest) = elements.split_at(PAGE_TOKENS * shape.head_dim);
        HeadPage { keys, values: &rest[..PAGE_TOKENS * shape.head_dim] }
    }
}

/// Elements of a page before those of `(layer, kv_head)`.
pub(super) fn head_offset(shape: CacheShape, layer: usize, kv_head: usize) -> usize {
    (layer * shape.kv_heads + kv_head) * 2 * PAGE_TOKENS * shape.head_dim
}

/// What one head attends to: the positions `first..length` of its sequence.
#[derive(Clone, Copy)]
pub(super) struct Reach {
    pub(super) first: usize,
    pub(super) length: usize,
}

/// `out[h] = softmax(q[h] · K) · V` for the query heads of one key/value head. `q` and `out` are `[heads × head_dim]`, queries
/// scaled already.
///
/// # Safety
/// `isa` is available.
pub(super) unsafe fn attend(isa: Isa, q: &[f32], head_dim: usize, reach: Reach, stored: Stored<'_>, out: &mut [f32]) {
    assert!(head_dim > 0 && head_dim.is_multiple_of(LANES) && q.len() == out.len(), "heads are whole vectors");
    assert!(reach.first < reach.length, "a position attends at least to itself");
    let mut heads = q.chunks(HEADS * head_dim).zip(out.chunks_mut(HEADS * head_dim));
    heads.by_ref().for_each(|(q, out)| {
        // SAFETY: the caller promises the instruction set; `q` and `out` are whole heads, one to four.
        unsafe {
            match q.len() / head_dim {
                1 => attend_one(isa, q, head_dim, reach, stored, out),
                2 => attend_two(isa, q, head_dim, reach, stored, out),
                3 => attend_three(isa, q, head_dim, reach, stored, out),
                _ => attend_four(isa, q, head_dim, reach, stored, out),
            }
        }
    });
}

dispatch! { unsafe fn attend_one = one(q: &[f32], head_dim: usize, reach: Reach, stored: Stored<'_>, out: &mut [f32]) }
dispatch! { unsafe fn attend_two = two(q: &[f32], head_dim: usize, reach: Reach, stored: Stored<'_>, out: &mut [f32]) }
dispatch! { unsafe fn attend_three = three(q: &[f32], head_dim: usize, reach: Reach, stored: Stored<'_>, out: &mut [f32]) }
dispatch! { unsafe fn attend_four = four(q: &[f32], head_dim: usize, reach: Reach, stored: Stored<'_>, out: &mut [f32]) }

/// The number of heads as a constant.
macro_rules! heads {
    ($name:ident, $count:literal) => {
        #[inline(always)]
        unsafe fn $name<L: Lanes>(q: &[f32], head_dim: usize, reach: Reach, stored: Stored<'_>, out: &mut [f32]) {
            // SAFETY: passed on.
            unsafe { attend_heads::<L, $count>(q, head_dim, reach, stored, out) }
        }
    };
}
heads!(one, 1);
heads!(two, 2);
heads!(three, 3);
heads!(four, 4);

/// Merged chunks of one head; the values stand in the output.
#[derive(Clone, Copy)]
struct Merged {
    most: f32,
    sum: f32,
}

#[inline(always)]
unsafe fn attend_heads<L: Lanes, const H: usize>(q: &[f32], head_dim: usize, reach: Reach, stored: Stored<'_>, out: &mut [f32]) {
    let mut merged: [Option<Merged>; H] = [None; H];
    let chunks = reach.first / PAGE_TOKENS..reach.length.div_ceil(PAGE_TOKENS);
    // SAFETY (here and below): the caller promises the instruction set.
    unsafe { fetch::<L>(stored.page(chunks.start).keys) };
    for chunk in chunks.clone() {
        let start = chunk * PAGE_TOKENS;
        let (first, length) = (reach.first.saturating_sub(start), (reach.length - start).min(PAGE_TOKENS));
        let page = stored.page(chunk);
        assert!(page.keys.len() == PAGE_TOKENS * head_dim && page.values.len() == page.keys.len(), "a page holds whole heads");

        // Pages lie apart, so the processor does not foresee them.
        unsafe {
            fetch::<L>(&page.values[first * head_dim..length * head_dim]);
            if chunk + 1 < chunks.end {
                fetch::<L>(stored.page(chunk + 1).keys);
            }
        }
        // SAFETY: `H` heads of queries, whole pages of keys and values, as asserted here and in `attend`.
        unsafe {
            let mut weights = scores::<L, H>(q, head_dim, page.keys);
            let mut factors = [(0.0f32, 1.0f32); H];
            for h in 0..H {
                let (most, sum) = softmax_weights(&mut weights[h], first, length);
                let Some(before) = merged[h] else {
                    merged[h] = Some(Merged { most, sum });
                    continue;
                };
                let greater = before.most.max(most);
                let (old, new) = (exp(before.most - greater), exp(most - greater));
                factors[h] = (old, new);
                merged[h] = Some(Merged { most: greater, sum: sum.mul_add(new, before.sum * old) });
            }
            let begins = chunk == chunks.start;
            let mut vector = 0;
            while vector * LANES < head_dim {
                if head_dim - vector * LANES >= VALUE_VECTORS * LANES {
                    values::<L, H, VALUE_VECTORS>(&weights, page.values, head_dim, vector, first..length, begins, &factors, out);
                    vector += VALUE_VECTORS;
                } else {
                    values::<L, H, 1>(&weights, page.values, head_dim, vector, first..length, begins, &factors, out);
                    vector += 1;
                }
            }
        }
    }
    for (out, merged) in out.chunks_exact_mut(head_dim).zip(merged) {
        let inverse = 1.0 / merged.map_or(1.0, |m| m.sum);
        out.iter_mut().for_each(|x| *x *= inverse);
    }
}

/// Asks for all cache lines of a slice.
#[inline(always)]
unsafe fn fetch<L: Lanes>(elements: &[u16]) {
    for line in elements.chunks(CACHE_LINE / size_of::<u16>()) {
        // SAFETY: the caller promises the instruction set.
        unsafe { L::prefetch(line.as_ptr().cast()) }
    }
}

/// Scores of a page's positions: dimensions in ascending order by fused multiply-add from zero.
#[inline(always)]
unsafe fn scores<L: Lanes, const H: usize>(q: &[f32], head_dim: usize, keys: &[u16]) -> [[f32; PAGE_TOKENS]; H] {
    let mut out = [[0.0f32; PAGE_TOKENS]; H];
    // SAFETY: `keys` holds `head_dim` rows of 64, `q` `H` rows of `head_dim`.
    unsafe {
        let mut sums = [[L::zero(); SCORE_VECTORS]; H];
        for dimension in 0..head_dim {
            let query: [L::V; H] = std::array::from_fn(|h| L::splat(*q.get_unchecked(h * head_dim + dimension)));
            for vector in 0..SCORE_VECTORS {
                let key = L::load_f16(keys.as_ptr().add(dimension * PAGE_TOKENS + vector * LANES));
                for h in 0..H {
                    sums[h][vector] = L::fma(query[h], key, sums[h][vector]);
                }
            }
        }
        for h in 0..H {
            for vector in 0..SCORE_VECTORS {
                L::store(out[h].as_mut_ptr().add(vector * LANES), sums[h][vector]);
            }
        }
    }
    out
}

/// `out = old · out + new · Σ weight · value` for `N` vectors of each head, positions in ascending order.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn values<L: Lanes, const H: usize, const N: usize>(
    weights: &[[f32; PAGE_TOKENS]; H],
    values: &[u16],
    head_dim: usize,
    vector: usize,
    positions: std::ops::Range<usize>,
    begins: bool,
    factors: &[(f32, f32); H],
    out: &mut [f32],
) {
    // SAFETY: `values` holds 64 rows of `head_dim`, of which `N` vectors from `vector` on are inside; so does each head of `out`.
    unsafe {
        let mut sums = [[L::zero(); N]; H];
        for position in positions {
            let row = values.as_ptr().add(position * head_dim + vector * LANES);
            let weight: [L::V; H] = std::array::from_fn(|h| L::splat(*weights[h].get_unchecked(position)));
            for n in 0..N {
                let value = L::load_f16(row.add(n * LANES));
                for h in 0..H {
                    sums[h][n] = L::fma(weight[h], value, sums[h][n]);
                }
            }
        }
        for h in 0..H {
            for n in 0..N {
                let place = out.as_mut_ptr().add(h * head_dim + (vector + n) * LANES);
                if begins {
                    L::store(place, sums[h][n]);
                } else {
                    let (old, new) = factors[h];
                    L::store(place, L::fma(sums[h][n], L::splat(new), L::mul(L::load(place), L::splat(old))));
                }
            }
        }
    }
}
