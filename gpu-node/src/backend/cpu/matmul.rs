//! Products of stored matrices and quantised activations.
//!
//! Order of an output element: within a block of 32 columns an exact int32 sum; blocks in ascending order by
//! `acc = fma(weight scale · activation scale, block sum, acc)` from zero; after every 16 blocks (and at the end) `acc` is added to
//! the total and starts anew. Tiles only choose which elements are computed side by side.
#![allow(unsafe_code)] // Raw rows inside bounds that the safe entry point asserts.

use std::marker::PhantomData;
use std::ops::Range;

use super::activations::Activations;
use super::isa::dispatch;
use super::lanes::{Isa, LANES, Lanes};
use super::math::silu;
use crate::model::panels::{BLOCK, BLOCK_BYTES, PANEL_ROWS, Panels};

/// Blocks of a segment: their partial sum is formed by itself, so that another device may split long rows there.
const SEGMENT_BLOCKS: usize = 16;
/// How far ahead weights are asked for.
const FETCH_BYTES: usize = 8 * BLOCK_BYTES;
/// Columns of one byte dot product.
const STEP: usize = 4;

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

/// `out[t][r] = Σ_k weights[r][k] · x[t][k]` for all tokens and the rows of the given panels.
///
/// # Safety
/// No other task reads or writes these columns of `out` meanwhile. `isa` is available.
pub(super) unsafe fn matmul(isa: Isa, weights: Panels<'_>, x: &Activations, panels: Range<usize>, out: &Output<'_>, epilogue: Epilogue) {
    let (blocks, tokens) = (weights.columns / BLOCK, x.rows());
    assert!(weights.columns > 0 && weights.columns.is_multiple_of(BLOCK), "columns are whole blocks");
    assert!(x.columns == weights.columns && x.scales.len() == tokens * blocks, "inputs have the weights' columns");
    assert!(panels.end * blocks * BLOCK_BYTES <= weights.values.len(), "panels lie inside the values");
    assert!(panels.end * blocks * PANEL_ROWS * 2 <= weights.scales.len(), "panels lie inside the scales");
    assert!(weights.rows <= out.width && tokens * out.width <= out.len, "the product lies inside the output");
    // SAFETY: the assertions are the bounds of every access below; the caller promises the rest.
    unsafe { matmul_panels(isa, weights, x, panels, out, epilogue) }
}

dispatch! {
    unsafe fn matmul_panels =
        panels_by_tiles(weights: Panels<'_>, x: &Activations, panels: Range<usize>, out: &Output<'_>, epilogue: Epilogue)
}

#[inline(always)]
unsafe fn panels_by_tiles<L: Lanes>(weights: Panels<'_>, x: &Activations, panels: Range<usize>, out: &Output<'_>, epilogue: Epilogue) {
    let (tokens, blocks) = (x.rows(), weights.columns / BLOCK);
    for panel in panels {
        let first_block = panel * blocks;
        // SAFETY: `matmul` asserted that the panel is inside values and scales.
        let (values, scales) = unsafe {
            (weights.values.as_ptr().add(first_block * BLOCK_BYTES), weights.scales.as_ptr().cast::<u16>().add(first_block * PANEL_ROWS))
        };
        let rows = panel * PANEL_ROWS..weights.rows.min((panel + 1) * PANEL_ROWS);
        let mut token = 0;
        macro_rules! tiles {
            ($($size:literal)*) => {$(
                while tokens - token >= $size {
                    // SAFETY: `$size` tokens from `token` on are inside the activations and the output.
                    unsafe {
                        let products = if token == 0 {
                            tile::<L, $size, true>(values, scales, x, token, blocks)
                        } else {
                            tile::<L, $size, false>(values, scales, x, token, blocks)
                        };
                        write::<L, $size>(products, out, token, rows.clone(), epilogue);
                    }
                    token += $size;
                }
            )*};
        }
        tiles!(8 4 2 1);
    }
}

/// The products of one panel and `T` tokens. `FETCH` asks for weights ahead: on the first pass over a panel they come from memory,
/// and the processor looks ahead less far the more tokens it computes for each.
#[inline(always)]
unsafe fn tile<L: Lanes, const T: usize, const FETCH: bool>(
    values: *const u8,
    scales: *const u16,
    x: &Activations,
    token: usize,
    blocks: usize,
) -> [L::V; T] {
    // SAFETY (all blocks): `matmul` checked the bounds; every index below is inside them.
    unsafe {
        let columns = blocks * BLOCK;
        let quantized: [*const i8; T] = std::array::from_fn(|t| x.values.as_ptr().add((token + t) * columns));
        let factors: [*const f32; T] = std::array::from_fn(|t| x.scales.as_ptr().add((token + t) * blocks));
        let corrections: [*const i32; T] = std::array::from_fn(|t| x.corrections.as_ptr().add((token + t) * blocks));

        let mut total = [L::zero(); T];
        let mut first = 0;
        while first < blocks {
            let end = blocks.min(first + SEGMENT_BLOCKS);
            let mut acc = [L::zero(); T];
            for block in first..end {
                let mut sums: [L::Sum; T] = std::array::from_fn(|t| L::start(*corrections[t].add(block)));
                for step in 0..BLOCK / STEP {
                    let place = values.add(block * BLOCK_BYTES + step * STEP * PANEL_ROWS);
                    if FETCH {
                        L::prefetch(place.wrapping_add(FETCH_BYTES));
                    }
                    let four = L::weights(place);
                    for (sum, q) in sums.iter_mut().zip(quantized) {
                        *sum = L::dot4(*sum, four, q.add(block * BLOCK + step * STEP));
                    }
                }
                let scale = L::load_f16(scales.add(block * PANEL_ROWS));
                for t in 0..T {
                    acc[t] = L::fma(L::mul(scale, L::splat(*factors[t].add(block))), L::to_f32(sums[t]), acc[t]);
                }
            }
            for t in 0..T {
                total[t] = L::add(total[t], acc[t]);
            }
            first = end;
        }
        total
    }
}

/// Stores the rows of one panel for `T` tokens.
#[inline(always)]
unsafe fn write<L: Lanes, const T: usize>(products: [L::V; T], out: &Output<'_>, token: usize, rows: Range<usize>, epilogue: Epilogue) {
    for (t, product) in products.into_iter().enumerate() {
        let mut lanes = [0.0f32; LANES];
        // SAFETY: the array has 16 elements. Token and rows are inside the output, by `matmul`'s assertions; nobody else has these
        // columns, by its callers' promise.
        let places = unsafe {
            L::store(lanes.as_mut_ptr(), product);
            std::slice::from_raw_parts_mut(out.start.add((token + t) * out.width + rows.start), rows.len())
        };
        let place_one = |(place, product): (&mut f32, f32)| {
            *place = match epilogue {
                Epilogue::Store => product,
                Epilogue::Add => *place + product,
                Epilogue::Gate => silu(*place) * product,
            };
        };
        // Whole panels have a length that the compiler knows.
        match <&mut [f32; LANES]>::try_from(&mut *places) {
            Ok(places) => places.iter_mut().zip(lanes).for_each(place_one),
            Err(_) => places.iter_mut().zip(lanes).for_each(place_one),
        }
    }
}
