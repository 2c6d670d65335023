//! Scalar functions of the numeric contract: one sequence of IEEE operations each, so that the compiler may use any
//! vector width and the bits stay.

const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 in two parts; the high one has few bits, so that `n · LN2_HIGH` is exact for every exponent `n`.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// 1.5 · 2²³: adding and subtracting it rounds to the nearest integer, ties to even.
const ROUNDER: f32 = 12_582_912.0;
/// Below this e^x is smaller than the smallest normal f32; it is computed as if x were this.
const LEAST: f32 = -87.0;
const MOST: f32 = 88.0;

/// e^x by range reduction and a polynomial of degree 7, within 2 units in the last place on [-87, 88], constant outside.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let x = x.clamp(LEAST, MOST);
    let shifted = x.mul_add(LOG2_E, ROUNDER);
    let n = shifted - ROUNDER;
    let r = n.mul_add(-LN2_HIGH, x);
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
    f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// x / (1 + e^−x).
#[inline(always)]
pub(super) fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// Sum of 16 lanes: halves are added until one is left, the order of every reduction in the contract.
#[inline(always)]
pub(super) fn sum_lanes(v: [f32; 16]) -> f32 {
    let a: [f32; 8] = std::array::from_fn(|i| v[i] + v[i + 8]);
    let b: [f32; 4] = std::array::from_fn(|i| a[i] + a[i + 4]);
    (b[0] + b[2]) + (b[1] + b[3])
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
    fn exp_of_extremes_is_finite_and_monotone() {
        assert!(exp(f32::NEG_INFINITY) > 0.0 && exp(f32::NEG_INFINITY) < 1e-37);
        assert!(exp(f32::INFINITY).is_finite());
        assert_eq!(silu(-1e30), -1e30 / (1.0 + exp(1e30)));
    }
}
