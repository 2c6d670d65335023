//! The reference: plain Rust, one operation a lane.

use half::f16;

use super::{LANES, Lanes};
use crate::model::panels::OFFSET;

pub(in super::super) struct Scalar;

impl Lanes for Scalar {
    type V = [f32; LANES];
    type Sum = [i32; LANES];
    type Weights = [[u8; 4]; LANES];
    type Activations = [i8; 4];

    const TILE_PANELS: usize = 1;
    const TILE_PRODUCTS: usize = 4;
    const SUMS: usize = 4;

    #[inline(always)]
    unsafe fn prefetch(_p: *const u8) {}
    #[inline(always)]
    unsafe fn prefetch_far(_p: *const u8) {}
    #[inline(always)]
    unsafe fn zero() -> Self::V {
        [0.0; LANES]
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::V {
        // SAFETY: 16 elements are readable, by the trait's rule.
        unsafe { p.cast::<Self::V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self::V {
        // SAFETY: 16 elements are readable, by the trait's rule.
        unsafe { p.cast::<[u16; LANES]>().read_unaligned() }.map(|bits| f16::from_bits(u16::from_le(bits)).to_f32())
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::V) {
        // SAFETY: 16 elements are writable, by the trait's rule.
        unsafe { p.cast::<Self::V>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, v: Self::V) {
        // SAFETY: 16 elements are writable, by the trait's rule.
        unsafe { p.cast::<[u16; LANES]>().write_unaligned(v.map(|x| f16::from_f32(x).to_bits().to_le())) }
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    unsafe fn weights(p: *const u8) -> Self::Weights {
        // SAFETY: 64 bytes are readable, by the trait's rule.
        unsafe { p.cast::<Self::Weights>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn start(_correction: i32) -> Self::Sum {
        [0; LANES]
    }
    #[inline(always)]
    unsafe fn activations(x: *const i8) -> Self::Activations {
        // SAFETY: 4 elements are readable, by the trait's rule.
        unsafe { x.cast::<[i8; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn dot4(sum: Self::Sum, weights: Self::Weights, x: Self::Activations) -> Self::Sum {
        std::array::from_fn(|i| {
            let products = weights[i].iter().zip(x).map(|(w, x)| i32::from((w ^ OFFSET).cast_signed()) * i32::from(x));
            sum[i] + products.sum::<i32>()
        })
    }
    #[inline(always)]
    unsafe fn to_f32(sum: Self::Sum) -> Self::V {
        sum.map(|x| x as f32)
    }
}
