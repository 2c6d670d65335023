//! Scalar functions of the numeric contract: one sequence of IEEE operations each, so that the compiler may use any
//! vector width and the bits stay.

#![allow(clippy::needless_range_loop)] // Indices name the same lane in several arrays.

use super::lanes::LANES;

const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 in two parts; the high one has few bits, so that `n · LN2_HIGH` is exact for every exponent `n`.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// 1.5 · 2²³: adding and subtracting it rounds to the nearest integer, ties to even.
pub(super) const ROUNDER: f32 = 12_582_912.0;
/// Below this e^x is smaller than the smallest normal f32; it is computed as if x were this.
const LEAST: f32 = -87.0;
const MOST: f32 = 88.0;
/// Lanes of the sum of squares.
const SQUARE_LANES: usize = 128;

/// e^x by range reduction and a polynomial of degree 7, within 2 units in the last place on [-87, 88], constant outside;
/// not a number stays so.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let clamped = x.clamp(LEAST, MOST);
    let shifted = clamped.mul_add(LOG2_E, ROUNDER);
    let n = shifted - ROUNDER;
    let r = n.mul_add(-LN2_HIGH, clamped);
    let r = n.mul_add(-LN2_LOW, r);
    // Taylor coefficients suffice: |r| ≤ ln 2 / 2, and the first left-out term is below 2⁻²⁵.
    let mut p = 1.0 / 5040.0;
    p = f32::mul_add(p, r, 1.0 / 720.0);
    p = p.mul_add(r, 1.0 / 120.0);
    p = p.mul_add(r, 1.0 / 24.0);
    p = p.mul_add(r, 1.0 / 6.0);
    p = p.mul_add(r, 0.5);
    p = p.mul_add(r, 1.0);
    p = p.mul_add(r, 1.0);
    // The low bits of `shifted` are n in two's complement; moved to the exponent field they add n to it.
    let scaled = f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23));
    if x.is_nan() { x } else { scaled }
}

/// x / (1 + e^−x).
#[inline(always)]
pub(super) fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// Sum of lanes: halves are added until one is left, the order of every reduction in the contract.
#[inline(always)]
pub(super) fn sum_lanes(v: &mut [f32]) -> f32 {
    let mut width = v.len();
    while width > 1 {
        width /= 2;
        for i in 0..width {
            v[i] += v[i + width];
        }
    }
    v[0]
}

/// `x / sqrt(mean(x²) + eps) · gain`. Lane `j` of 128 takes the squares of elements `j, j + 128, …` by fused multiply-add.
#[inline(always)]
pub(super) fn norm(x: &[f32], gain: &[f32], eps: f32, out: &mut [f32]) {
    let mut lanes = [0.0f32; SQUARE_LANES];
    for chunk in x.chunks(SQUARE_LANES) {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = x.mul_add(*x, *lane);
        }
    }
    let mean = sum_lanes(&mut lanes) / x.len() as f32;
    let factor = 1.0 / (mean + eps).sqrt();
    for ((out, x), gain) in out.iter_mut().zip(x).zip(gain) {
        *out = x * factor * gain;
    }
}

/// Replaces scores by e^(score − most) and returns their sum: lane `i` of 16 adds every sixteenth, then the lanes are added.
/// Elements from `length` on, and before `first`, become 0 and add nothing.
#[inline(always)]
pub(super) fn softmax_weights<const N: usize>(scores: &mut [f32; N], first: usize, length: usize) -> (f32, f32) {
    let chunks = scores.as_chunks_mut::<LANES>().0;
    let mut greatest = [f32::NEG_INFINITY; LANES];
    for (index, chunk) in chunks.iter_mut().enumerate() {
        for lane in 0..LANES {
            let at = index * LANES + lane;
            let score = if at >= first && at < length { chunk[lane] } else { f32::NEG_INFINITY };
            chunk[lane] = score;
            // Not `f32::max`, which asks more of not-a-numbers than a vector instruction does. Which zero is taken changes nothing.
            greatest[lane] = if score > greatest[lane] { score } else { greatest[lane] };
        }
    }
    let mut most = greatest[0];
    for lane in greatest {
        most = if lane > most { lane } else { most };
    }
    let mut lanes = [0.0f32; LANES];
    for (index, chunk) in chunks.iter_mut().enumerate() {
        for lane in 0..LANES {
            let at = index * LANES + lane;
            let weight = exp(chunk[lane] - most);
            let weight = if at >= first && at < length { weight } else { 0.0 };
            chunk[lane] = weight;
            lanes[lane] += weight;
        }
    }
    (most, sum_lanes(&mut lanes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        let mut worst = 0.0f64;
        for i in -870_000..=880_000 {
            let x = i as f32 * 1e-4;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - exact).abs() / exact);
        }
        assert!(worst < 2.0 * f64::from(f32::EPSILON), "{worst:e}");
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn exp_of_extremes_is_finite_and_of_nothing_is_nothing() {
        assert!(exp(f32::NEG_INFINITY) > 0.0 && exp(f32::NEG_INFINITY) < 1e-37);
        assert!(exp(f32::INFINITY).is_finite());
        assert!(exp(f32::NAN).is_nan() && exp(-f32::NAN).is_nan() && exp(f32::from_bits(0x7fff_ffff)).is_nan());
        assert_eq!(silu(-1e30), -1e30 / (1.0 + exp(1e30)));
    }

    #[test]
    fn weights_outside_the_range_add_nothing() {
        let mut scores = [1.0f32; 64];
        let (most, sum) = softmax_weights(&mut scores, 3, 10);
        assert_eq!((most, sum), (1.0, 7.0));
        assert_eq!(scores.iter().filter(|w| **w == 1.0).count(), 7);
        assert_eq!(scores.iter().filter(|w| **w == 0.0).count(), 57);
    }
}
