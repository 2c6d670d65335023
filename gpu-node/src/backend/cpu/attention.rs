//! Attention over paged keys and values.
//!
//! Queries that read the same pages are computed side by side: those of a few rows of one sequence and of all heads that share a
//! key/value head. Each keeps its own reach and its own order.
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
/// Most queries computed side by side, so that each key and value is widened once for them.
const QUERIES: usize = 6;

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

/// What one query attends to: the positions `first..length` of its sequence.
#[derive(Clone, Copy)]
pub(super) struct Reach {
    pub(super) first: usize,
    pub(super) length: usize,
}

/// One head of one row: `out = softmax(q · K) · V`, scaled already.
pub(super) struct Query<'a> {
    pub(super) q: &'a [f32],
    pub(super) out: &'a mut [f32],
    pub(super) reach: Reach,
}

/// Rows whose queries, `heads` each, fill whole tiles.
pub(super) fn rows_of_tile(heads: usize) -> usize {
    (1..QUERIES).find(|rows| (rows * heads).is_multiple_of(QUERIES)).unwrap_or(QUERIES)
}

/// Computes queries of one sequence over the same key/value head.
///
/// # Safety
/// `isa` is available.
pub(super) unsafe fn attend(isa: Isa, head_dim: usize, stored: Stored<'_>, queries: &mut [Query<'_>]) {
    assert!(head_dim > 0 && head_dim.is_multiple_of(LANES), "heads are whole vectors");
    assert!(queries.iter().all(|query| query.q.len() == head_dim && query.out.len() == head_dim), "queries are whole heads");
    assert!(queries.iter().all(|query| query.reach.first < query.reach.length), "a position attends at least to itself");
    let tiles = queries.len().div_ceil(QUERIES).max(1);
    for tile in queries.chunks_mut(queries.len().div_ceil(tiles).max(1)) {
        // SAFETY: the caller promises the instruction set; the tile has so many queries, at most six.
        unsafe {
            match tile.len() {
                1 => attend_one(isa, head_dim, stored, tile),
                2 => attend_two(isa, head_dim, stored, tile),
                3 => attend_three(isa, head_dim, stored, tile),
                4 => attend_four(isa, head_dim, stored, tile),
                5 => attend_five(isa, head_dim, stored, tile),
                _ => attend_six(isa, head_dim, stored, tile),
            }
        }
    }
}

/// The number of queries as a constant.
macro_rules! queries {
    ($($dispatched:ident = $name:ident, $count:literal;)*) => {$(
        dispatch! { unsafe fn $dispatched = $name(head_dim: usize, stored: Stored<'_>, queries: &mut [Query<'_>]) }

        #[inline(always)]
        unsafe fn $name<L: Lanes>(head_dim: usize, stored: Stored<'_>, queries: &mut [Query<'_>]) {
            // SAFETY: passed on.
            unsafe { attend_tile::<L, $count>(head_dim, stored, queries) }
        }
    )*};
}
queries! {
    attend_one = one, 1;
    attend_two = two, 2;
    attend_three = three, 3;
    attend_four = four, 4;
    attend_five = five, 5;
    attend_six = six, 6;
}

/// Where one query stands on a page.
#[derive(Clone, Copy)]
struct OnPage {
    /// Positions of the page in its reach.
    first: usize,
    length: usize,
    /// Factors of what was merged before and of this page's values; `None`: nothing was.
    merge: Option<(f32, f32)>,
}

#[inline(always)]
unsafe fn attend_tile<L: Lanes, const Q: usize>(head_dim: usize, stored: Stored<'_>, queries: &mut [Query<'_>]) {
    assert!(queries.len() == Q, "a tile of as many queries as it is compiled for");
    let (mut start, mut end) = (usize::MAX, 0);
    for query in &*queries {
        start = start.min(query.reach.first / PAGE_TOKENS);
        end = end.max(query.reach.length.div_ceil(PAGE_TOKENS));
    }
    let mut merged = [(f32::NEG_INFINITY, 0.0f32); Q];
    let mut weights = [[0.0f32; PAGE_TOKENS]; Q];
    // Pages lie apart, so the processor does not foresee them. Those of a prompt are read again for every few rows, and are near already.
    let far = queries[0].reach.length == queries[Q - 1].reach.length;
    // SAFETY (here and below): the caller promises the instruction set.
    unsafe {
        if far {
            fetch::<L>(stored.page(start).keys);
        }
    }
    for chunk in start..end {
        let page = stored.page(chunk);
        assert!(page.keys.len() == PAGE_TOKENS * head_dim && page.values.len() == page.keys.len(), "a page holds whole heads");
        unsafe {
            if far {
                fetch::<L>(page.values);
            }
            if far && chunk + 1 < end {
                fetch::<L>(stored.page(chunk + 1).keys);
            }
        }
        let mut places = [OnPage { first: 0, length: 0, merge: None }; Q];
        // SAFETY: `Q` queries of whole heads, whole pages of keys and values, as asserted here and in `attend`.
        unsafe {
            all_scores::<L, Q>(queries, head_dim, page.keys, &mut weights);
            for i in 0..Q {
                let Reach { first, length } = queries[i].reach;
                let before_page = chunk * PAGE_TOKENS;
                let first_here = first.saturating_sub(before_page).min(PAGE_TOKENS);
                let length_here = length.saturating_sub(before_page).clamp(first_here, PAGE_TOKENS);
                places[i] = OnPage { first: first_here, length: length_here, merge: None };
                if first_here == length_here {
                    continue;
                }
                let (most, sum) = softmax_weights(&mut weights[i], first_here, length_here);
                if first / PAGE_TOKENS == chunk {
                    merged[i] = (most, sum);
                    continue;
                }
                let (most_before, sum_before) = merged[i];
                let greater = most_before.max(most);
                let (old, new) = (exp(most_before - greater), exp(most - greater));
                places[i].merge = Some((old, new));
                merged[i] = (greater, sum.mul_add(new, sum_before * old));
            }
            all_values::<L, Q>(&weights, page.values, head_dim, &places, queries);
        }
    }
    for i in 0..Q {
        let inverse = 1.0 / merged[i].1;
        for x in queries[i].out.iter_mut() {
            *x *= inverse;
        }
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

/// How many vectors are summed side by side for `Q` queries each, so that the sums stay in registers.
const fn vectors<L: Lanes>(queries: usize) -> usize {
    let held = L::SUMS / queries;
    if held >= SCORE_VECTORS {
        SCORE_VECTORS
    } else if held >= 2 {
        2
    } else {
        1
    }
}

/// Scores of a page's positions: dimensions in ascending order by fused multiply-add from zero.
#[inline(always)]
unsafe fn all_scores<L: Lanes, const Q: usize>(queries: &[Query<'_>], head_dim: usize, keys: &[u16], out: &mut [[f32; PAGE_TOKENS]; Q]) {
    let side_by_side = const { vectors::<L>(Q) };
    let mut vector = 0;
    while vector < SCORE_VECTORS {
        // SAFETY: passed on; `side_by_side` divides the vectors of a page.
        unsafe {
            match side_by_side {
                4 => scores::<L, Q, 4>(queries, head_dim, keys, vector, out),
                2 => scores::<L, Q, 2>(queries, head_dim, keys, vector, out),
                _ => scores::<L, Q, 1>(queries, head_dim, keys, vector, out),
            }
        }
        vector += side_by_side;
    }
}

/// Of `N` vectors of positions, from `vector` on.
#[inline(always)]
unsafe fn scores<L: Lanes, const Q: usize, const N: usize>(
    queries: &[Query<'_>],
    head_dim: usize,
    keys: &[u16],
    vector: usize,
    out: &mut [[f32; PAGE_TOKENS]; Q],
) {
    // SAFETY: `keys` holds `head_dim` rows of 64, of which `N` vectors from `vector` on are inside; there are `Q` queries of `head_dim`.
    unsafe {
        let mut places = [std::ptr::null::<f32>(); Q];
        for i in 0..Q {
            places[i] = queries.get_unchecked(i).q.as_ptr();
        }
        let mut sums = [[L::zero(); N]; Q];
        for dimension in 0..head_dim {
            let mut key = [L::zero(); N];
            for n in 0..N {
                key[n] = L::load_f16(keys.as_ptr().add(dimension * PAGE_TOKENS + (vector + n) * LANES));
            }
            for i in 0..Q {
                let query = L::splat(*places[i].add(dimension));
                for n in 0..N {
                    sums[i][n] = L::fma(query, key[n], sums[i][n]);
                }
            }
        }
        for i in 0..Q {
            for n in 0..N {
                L::store(out[i].as_mut_ptr().add((vector + n) * LANES), sums[i][n]);
            }
        }
    }
}

/// `out = old · out + new · Σ weight · value` of each query.
#[inline(always)]
unsafe fn all_values<L: Lanes, const Q: usize>(
    weights: &[[f32; PAGE_TOKENS]; Q],
    values: &[u16],
    head_dim: usize,
    places: &[OnPage; Q],
    queries: &mut [Query<'_>],
) {
    let side_by_side = const { vectors::<L>(Q) };
    let mut vector = 0;
    while vector * LANES < head_dim {
        let fits = head_dim - vector * LANES >= side_by_side * LANES;
        // SAFETY: passed on; so many vectors from `vector` on are inside a head.
        unsafe {
            match side_by_side {
                4 if fits => sum_values::<L, Q, 4>(weights, values, head_dim, vector, places, queries),
                2 if fits => sum_values::<L, Q, 2>(weights, values, head_dim, vector, places, queries),
                _ => sum_values::<L, Q, 1>(weights, values, head_dim, vector, places, queries),
            }
        }
        vector += if fits { side_by_side } else { 1 };
    }
}

/// For `N` vectors of each query, positions in ascending order. Those that all queries reach are summed together. The others of
/// each by themselves: a value out of reach is not even multiplied by zero, for it might not be finite.
#[inline(always)]
unsafe fn sum_values<L: Lanes, const Q: usize, const N: usize>(
    weights: &[[f32; PAGE_TOKENS]; Q],
    values: &[u16],
    head_dim: usize,
    vector: usize,
    places: &[OnPage; Q],
    queries: &mut [Query<'_>],
) {
    let (mut first, mut length) = (0, PAGE_TOKENS);
    for i in 0..Q {
        first = first.max(places[i].first);
        length = length.min(places[i].length);
    }
    if first >= length {
        (first, length) = (PAGE_TOKENS, PAGE_TOKENS);
    }
    // SAFETY: `values` holds 64 rows of `head_dim`, of which `N` vectors from `vector` on are inside; so does each query's output.
    unsafe {
        let at = values.as_ptr().add(vector * LANES);
        let mut sums = [[L::zero(); N]; Q];
        for i in 0..Q {
            for position in places[i].first..first.min(places[i].length) {
                add_value::<L, N>(&mut sums[i], weights[i][position], at.add(position * head_dim));
            }
        }
        for position in first..length {
            let mut value = [L::zero(); N];
            for n in 0..N {
                value[n] = L::load_f16(at.add(position * head_dim + n * LANES));
            }
            for i in 0..Q {
                let weight = L::splat(*weights[i].get_unchecked(position));
                for n in 0..N {
                    sums[i][n] = L::fma(weight, value[n], sums[i][n]);
                }
            }
        }
        for i in 0..Q {
            for position in length..places[i].length {
                add_value::<L, N>(&mut sums[i], weights[i][position], at.add(position * head_dim));
            }
        }
        for i in 0..Q {
            if places[i].first == places[i].length {
                continue;
            }
            let out = queries.get_unchecked_mut(i).out.as_mut_ptr().add(vector * LANES);
            for n in 0..N {
                let place = out.add(n * LANES);
                match places[i].merge {
                    None => L::store(place, sums[i][n]),
                    Some((old, new)) => L::store(place, L::fma(sums[i][n], L::splat(new), L::mul(L::load(place), L::splat(old)))),
                }
            }
        }
    }
}

/// Adds one position to `N` vectors of one query.
#[inline(always)]
unsafe fn add_value<L: Lanes, const N: usize>(sums: &mut [L::V; N], weight: f32, value: *const u16) {
    // SAFETY: the caller promises `N` vectors from `value` on.
    unsafe {
        let weight = L::splat(weight);
        for n in 0..N {
            sums[n] = L::fma(weight, L::load_f16(value.add(n * LANES)), sums[n]);
        }
    }
}
