//! Activations as the integer products take them: int8 in blocks of 32 with an f32 scale each.
#![allow(unsafe_code)] // Plain loops, compiled for an instruction set that the caller promises.

use super::isa::dispatch;
use super::lanes::Lanes;
use super::math::ROUNDER;
use crate::model::panels::BLOCK;

/// Blocks whose greatest magnitude is below this are zero: products of scales stay normal numbers.
const LEAST_MAGNITUDE: f32 = f32::from_bits((127 - 90) << 23);
/// Bits of infinity; greater ones are not numbers.
const INFINITY_BITS: u32 = 0x7f80_0000;

/// Quantised rows `[rows × columns]`.
#[derive(Default)]
pub(super) struct Activations {
    pub(super) columns: usize,
    /// −127..=127, row by row.
    pub(super) values: Vec<i8>,
    /// `[rows × blocks]`.
    pub(super) scales: Vec<f32>,
    /// `[rows × blocks]`: −128 · the sum of a block's values, for weights that are stored with 128 added.
    pub(super) corrections: Vec<i32>,
}

impl Activations {
    /// Room for so many rows; what was in them is left.
    pub(super) fn resize(&mut self, rows: usize, columns: usize) {
        self.columns = columns;
        self.values.resize(rows * columns, 0);
        self.scales.resize(rows * (columns / BLOCK), 0.0);
        self.corrections.resize(rows * (columns / BLOCK), 0);
    }

    pub(super) fn rows(&self) -> usize {
        self.values.len() / self.columns.max(1)
    }
}

/// One row while it is written.
pub(super) struct ActivationRow<'a> {
    pub(super) values: &'a mut [i8],
    pub(super) scales: &'a mut [f32],
    pub(super) corrections: &'a mut [i32],
}

dispatch! {
    /// Quantises whole blocks: `scale = amax / 127`, `q = x / scale` rounded to nearest, ties to even. A block below
    /// 2⁻⁹⁰ is zero. One with an element that is not finite has the scale NaN, so that every product with it is NaN.
    ///
    /// # Safety
    /// `isa` is available.
    pub(super) unsafe fn quantize = quantize_blocks(x: &[f32], out: ActivationRow<'_>)
}

#[inline(always)]
unsafe fn quantize_blocks<L: Lanes>(x: &[f32], out: ActivationRow<'_>) {
    let blocks = x.as_chunks::<BLOCK>().0.iter().zip(out.values.as_chunks_mut::<BLOCK>().0);
    for ((block, values), (scale, correction)) in blocks.zip(out.scales.iter_mut().zip(out.corrections)) {
        let most = block.iter().fold(0u32, |most, x| most.max(x.to_bits() & 0x7fff_ffff));
        let magnitude = f32::from_bits(most);
        if most >= INFINITY_BITS || magnitude < LEAST_MAGNITUDE {
            *scale = if most >= INFINITY_BITS { f32::NAN } else { 0.0 };
            *correction = 0;
            values.fill(0);
            continue;
        }
        let divisor = magnitude / 127.0;
        let mut sum = 0;
        for (value, x) in values.iter_mut().zip(block) {
            // The low bits of x/d + 1.5 · 2²³ are the rounded quotient in two's complement.
            let quantized = (x / divisor + ROUNDER).to_bits() as i8;
            sum += i32::from(quantized);
            *value = quantized;
        }
        *scale = divisor;
        *correction = -128 * sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::Isa;
    use proptest::prelude::*;

    fn quantized(isa: Isa, x: &[f32]) -> (Vec<i8>, Vec<u32>, Vec<i32>) {
        let mut out = Activations::default();
        out.resize(1, x.len());
        let row = ActivationRow { values: &mut out.values, scales: &mut out.scales, corrections: &mut out.corrections };
        // SAFETY: only available sets are asked for.
        unsafe {
            quantize(isa, x, row);
        }
        (out.values, out.scales.iter().map(|x| x.to_bits()).collect(), out.corrections)
    }

    /// The contract's sentence in f64, where a quotient of two f32 never lies wrongly near a tie.
    fn reference(x: &[f32]) -> Vec<i8> {
        let amax = x.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let scale = amax / 127.0;
        x.iter().map(|x| if scale == 0.0 { 0 } else { (x / scale).round_ties_even() as i8 }).collect()
    }

    #[test]
    fn ends_of_the_range_ties_and_what_is_not_finite() {
        let mut x = [0.0f32; BLOCK];
        x[0] = 127.0;
        (x[1], x[2], x[3], x[4]) = (2.5, 3.5, -2.5, -127.0);
        let (values, scales, corrections) = quantized(Isa::Scalar, &x);
        assert_eq!(values[..5], [127, 2, 4, -2, -127]);
        assert_eq!((f32::from_bits(scales[0]), corrections[0]), (1.0, -128 * 4));
        x[7] = f32::INFINITY;
        let (values, scales, _) = quantized(Isa::Scalar, &x);
        assert!(f32::from_bits(scales[0]).is_nan() && values.iter().all(|q| *q == 0));
        let (values, scales, _) = quantized(Isa::Scalar, &[1e-28; BLOCK]);
        assert!(f32::from_bits(scales[0]) == 0.0 && values.iter().all(|q| *q == 0));
    }

    proptest! {
        #[test]
        fn every_instruction_set_quantises_alike(bits in proptest::collection::vec(any::<u32>(), BLOCK * 2), shift in 0i32..8) {
            let hostile: Vec<f32> = bits.iter().map(|b| f32::from_bits(*b)).collect();
            let tame: Vec<f32> = bits.iter().map(|b| (*b as i32 as f32) * 2f32.powi(-shift * 4)).collect();
            for x in [hostile, tame] {
                let expected = quantized(Isa::Scalar, &x);
                for isa in Isa::available() {
                    prop_assert_eq!(&quantized(isa, &x), &expected, "{:?}", isa);
                }
            }
        }

        #[test]
        fn values_are_the_rounded_quotients(x in proptest::collection::vec(-1e3f32..1e3, BLOCK)) {
            prop_assert_eq!(quantized(Isa::best(), &x).0, reference(&x));
        }
    }
}
