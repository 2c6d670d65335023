//! Products of stored matrices and quantised activations.
//!
//! Order of an output element: within a block of 32 columns an exact int32 sum; blocks in ascending order by
//! `acc = fma(weight scale · activation scale, block sum, acc)` from zero; after every 16 blocks (and at the end) `acc` is added to
//! the total and starts anew. Tiles only choose which elements are computed side by side.
#![allow(unsafe_code)] // Raw rows inside bounds that the safe entry point asserts.
#![allow(clippy::needless_range_loop)] // Indices name the same register in several arrays.

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

/// So few tokens are waited for by memory, not by arithmetic: a tile of one panel takes them all, and reads the weights in one stream.
const STREAMED_TOKENS: usize = 8;

/// From so many tokens on, the next panels' weights are asked for meanwhile.
const AHEAD_TOKENS: usize = 32;
/// Tokens of the tiles that many tokens are computed in.
const TILE_TOKENS: usize = 4;
/// Bytes.
const CACHE_LINE: usize = 64;

/// Most panels that a tile spans on any instruction set.
pub(super) const TILE_PANELS_MAX: usize = 3;

/// What becomes of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Epilogue {
    Store,
    Add,
    /// `out = silu(out) · product`.
    Gate,
}

/// An output `[tokens × width]` that several tasks write, each its own elements.
pub(super) struct Output<'a> {
    start: *mut f32,
    len: usize,
    width: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: access goes through `matmul` and `part`, whose callers promise that no two tasks share an element.
unsafe impl Sync for Output<'_> {}

impl<'a> Output<'a> {
    pub(super) fn new(data: &'a mut [f32], width: usize) -> Self {
        Self { start: data.as_mut_ptr(), len: data.len(), width, borrow: PhantomData }
    }

    /// These columns of one row.
    ///
    /// # Safety
    /// Nobody else has any of them meanwhile.
    #[allow(clippy::mut_from_ref)] // What several tasks are given are different elements.
    pub(super) unsafe fn part(&self, row: usize, columns: Range<usize>) -> &mut [f32] {
        assert!(columns.start <= columns.end && columns.end <= self.width && (row + 1) * self.width <= self.len, "inside the output");
        // SAFETY: asserted to be inside; the caller promises that it is alone with them.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(row * self.width + columns.start), columns.len()) }
    }
}

/// A part of a product: these panels of the weights with these tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) panels: Range<usize>,
    pub(super) tokens: Range<usize>,
}

/// `out[t][r] = Σ_k weights[r][k] · x[t][k]` for the given tokens and the rows of the given panels.
///
/// # Safety
/// No other task reads or writes these columns of these rows of `out` meanwhile. `isa` is available.
pub(super) unsafe fn matmul(isa: Isa, weights: Panels<'_>, x: &Activations, part: Part, out: &Output<'_>, epilogue: Epilogue) {
    let (blocks, tokens) = (weights.columns / BLOCK, x.rows());
    let Part { panels, tokens: these } = &part;
    assert!(weights.columns > 0 && weights.columns.is_multiple_of(BLOCK), "columns are whole blocks");
    assert!(x.columns == weights.columns && x.scales.len() == tokens * blocks, "inputs have the weights' columns");
    assert!(panels.end * blocks * BLOCK_BYTES <= weights.values.len(), "panels lie inside the values");
    assert!(panels.end * blocks * PANEL_ROWS * 2 <= weights.scales.len(), "panels lie inside the scales");
    assert!(these.start <= these.end && these.end <= tokens, "tokens lie inside the inputs");
    assert!(weights.rows <= out.width && tokens * out.width <= out.len, "the product lies inside the output");
    // SAFETY: the assertions are the bounds of every access below; the caller promises the rest.
    unsafe { matmul_part(isa, weights, x, part, out, epilogue) }
}

dispatch! {
    unsafe fn matmul_part = part_by_tiles(weights: Panels<'_>, x: &Activations, part: Part, out: &Output<'_>, epilogue: Epilogue)
}

#[inline(always)]
unsafe fn part_by_tiles<L: Lanes>(weights: Panels<'_>, x: &Activations, part: Part, out: &Output<'_>, epilogue: Epilogue) {
    let Part { panels, tokens } = part;
    let mut panel = panels.start;
    // SAFETY (all calls): `matmul` asserted that all panels are inside values and scales; it passes the rest on.
    unsafe {
        if L::TILE_PANELS == TILE_PANELS_MAX && tokens.len() > STREAMED_TOKENS {
            while panels.end - panel >= TILE_PANELS_MAX {
                panel_group::<L, TILE_PANELS_MAX>(weights, x, panel, tokens.clone(), out, epilogue);
                panel += TILE_PANELS_MAX;
            }
        }
        if L::TILE_PANELS >= 2 && tokens.len() > STREAMED_TOKENS {
            while panels.end - panel >= 2 {
                panel_group::<L, 2>(weights, x, panel, tokens.clone(), out, epilogue);
                panel += 2;
            }
        }
        while panel < panels.end {
            panel_group::<L, 1>(weights, x, panel, tokens.clone(), out, epilogue);
            panel += 1;
        }
    }
}

/// The tokens' products with `P` panels from `panel` on.
#[inline(always)]
unsafe fn panel_group<L: Lanes, const P: usize>(
    weights: Panels<'_>,
    x: &Activations,
    panel: usize,
    tokens: Range<usize>,
    out: &Output<'_>,
    epilogue: Epilogue,
) {
    let blocks = weights.columns / BLOCK;
    // SAFETY: the caller promises that the panels are inside values and scales.
    let (values, scales) = unsafe {
        let first_block = panel * blocks;
        (weights.values.as_ptr().add(first_block * BLOCK_BYTES), weights.scales.as_ptr().cast::<u16>().add(first_block * PANEL_ROWS))
    };
    let mut next = Next::after::<P>(values, blocks, tokens.len());
    let mut token = tokens.start;
    macro_rules! tiles {
        ($($size:literal)*) => {$(
            while tokens.end - token >= $size {
                // SAFETY: `$size` tokens from `token` on are inside the activations and the output.
                unsafe {
                    let products = if token == tokens.start {
                        tile::<L, P, $size, true>(values, scales, x, token, blocks, &mut next)
                    } else {
                        tile::<L, P, $size, false>(values, scales, x, token, blocks, &mut next)
                    };
                    for p in 0..P {
                        let first = (panel + p) * PANEL_ROWS;
                        write::<L, $size>(&products[p], out, token, first..weights.rows.min(first + PANEL_ROWS), epilogue);
                    }
                }
                token += $size;
            }
        )*};
    }
    if P * 8 <= L::TILE_PRODUCTS {
        tiles!(8);
    }
    if P * 6 <= L::TILE_PRODUCTS {
        tiles!(6);
    }
    if P * 4 <= L::TILE_PRODUCTS {
        tiles!(4);
    }
    if P * 3 <= L::TILE_PRODUCTS {
        tiles!(3);
    }
    tiles!(2 1);
}

/// Weights of the panels that come next, asked for a few cache lines at a time while many tokens are computed with those at hand: so
/// memory works all the while, and not only on the first pass over each panel.
struct Next {
    place: *const u8,
    /// Cache lines for each block of a tile.
    lines: usize,
}

impl Next {
    fn after<const P: usize>(values: *const u8, blocks: usize, tokens: usize) -> Self {
        let lines = if tokens >= AHEAD_TOKENS { (P * BLOCK_BYTES / CACHE_LINE).div_ceil(tokens / TILE_TOKENS) } else { 0 };
        Self { place: values.wrapping_add(P * blocks * BLOCK_BYTES), lines }
    }

    #[inline(always)]
    unsafe fn ask<L: Lanes>(&mut self) {
        for _ in 0..self.lines {
            // SAFETY: the caller promises the instruction set; the address is only a hint.
            unsafe { L::prefetch_far(self.place) };
            self.place = self.place.wrapping_add(CACHE_LINE);
        }
    }
}

/// The products of `P` panels and `T` tokens: each vector of weights serves `T` tokens, each activation `P` panels. `FETCH` asks for weights
/// ahead: on the first pass over a panel they come from memory, and the processor looks ahead less far the more it computes for each.
#[inline(always)]
unsafe fn tile<L: Lanes, const P: usize, const T: usize, const FETCH: bool>(
    values: *const u8,
    scales: *const u16,
    x: &Activations,
    token: usize,
    blocks: usize,
    next: &mut Next,
) -> [[L::V; T]; P] {
    // SAFETY (all blocks): `matmul` checked the bounds; every index below is inside them.
    unsafe {
        let columns = blocks * BLOCK;
        let quantized = x.values.as_ptr().add(token * columns);
        let factors = x.scales.as_ptr().add(token * blocks);
        let corrections = x.corrections.as_ptr().add(token * blocks);

        let mut total = [[L::zero(); T]; P];
        let mut first = 0;
        while first < blocks {
            let end = blocks.min(first + SEGMENT_BLOCKS);
            let mut acc = [[L::zero(); T]; P];
            for block in first..end {
                next.ask::<L>();
                let mut sums = [[L::start(0); T]; P];
                for t in 0..T {
                    let start = L::start(*corrections.add(t * blocks + block));
                    for p in 0..P {
                        sums[p][t] = start;
                    }
                }
                for step in 0..BLOCK / STEP {
                    let mut four = [L::weights(values); P];
                    for p in 0..P {
                        let place = values.add((p * blocks + block) * BLOCK_BYTES + step * STEP * PANEL_ROWS);
                        if FETCH {
                            L::prefetch(place.wrapping_add(FETCH_BYTES));
                        }
                        four[p] = L::weights(place);
                    }
                    for t in 0..T {
                        let activations = L::activations(quantized.add(t * columns + block * BLOCK + step * STEP));
                        for p in 0..P {
                            sums[p][t] = L::dot4(sums[p][t], four[p], activations);
                        }
                    }
                }
                for p in 0..P {
                    let scale = L::load_f16(scales.add((p * blocks + block) * PANEL_ROWS));
                    for t in 0..T {
                        let factor = L::mul(scale, L::splat(*factors.add(t * blocks + block)));
                        acc[p][t] = L::fma(factor, L::to_f32(sums[p][t]), acc[p][t]);
                    }
                }
            }
            for p in 0..P {
                for t in 0..T {
                    total[p][t] = L::add(total[p][t], acc[p][t]);
                }
            }
            first = end;
        }
        total
    }
}

/// Stores the rows of one panel for `T` tokens.
#[inline(always)]
unsafe fn write<L: Lanes, const T: usize>(products: &[L::V; T], out: &Output<'_>, token: usize, rows: Range<usize>, epilogue: Epilogue) {
    for t in 0..T {
        let mut lanes = [0.0f32; LANES];
        // SAFETY: the array has 16 elements. Token and rows are inside the output, by `matmul`'s assertions; nobody else has these
        // columns, by its callers' promise.
        let places = unsafe {
            L::store(lanes.as_mut_ptr(), products[t]);
            std::slice::from_raw_parts_mut(out.start.add((token + t) * out.width + rows.start), rows.len())
        };
        // Whole panels have a length that the compiler knows.
        match <&mut [f32; LANES]>::try_from(&mut *places) {
            Ok(places) => finish(places, &lanes, epilogue),
            Err(_) => finish(places, &lanes, epilogue),
        }
    }
}

/// A loop without a closure: what a closure computes is not compiled for the caller's instruction set unless it happens to be inlined.
#[inline(always)]
fn finish(places: &mut [f32], products: &[f32; LANES], epilogue: Epilogue) {
    match epilogue {
        Epilogue::Store => places.copy_from_slice(&products[..places.len()]),
        Epilogue::Add => {
            for i in 0..places.len() {
                places[i] += products[i];
            }
        }
        Epilogue::Gate => {
            for i in 0..places.len() {
                places[i] = silu(places[i]) * products[i];
            }
        }
    }
}
