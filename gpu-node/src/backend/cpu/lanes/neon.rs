//! NEON, with and without the byte dot product.
#![allow(clippy::undocumented_unsafe_blocks)] // One reason for all: the rule of the `Lanes` trait.

use std::arch::aarch64::*;
use std::arch::asm;

use super::Lanes;

pub(in super::super) struct Neon;
pub(in super::super) struct NeonDot;

/// Four vectors of four.
type Floats = [float32x4_t; 4];
type Ints = [int32x4_t; 4];
type Bytes = [int8x16_t; 4];

/// An array of what `$of` gives for each of the four vectors.
macro_rules! each {
    ($i:ident => $of:expr) => {
        [each!($i, 0 => $of), each!($i, 1 => $of), each!($i, 2 => $of), each!($i, 3 => $of)]
    };
    ($i:ident, $index:literal => $of:expr) => {{
        let $i: usize = $index;
        unsafe { $of }
    }};
}

/// What both share: everything but the byte dot product.
macro_rules! four_lanes_four_times {
    () => {
        type V = Floats;
        type Sum = Ints;
        type Weights = Bytes;
        type Activations = int8x16_t;

        // Not measured: there was no such machine. Sums of a tile take 16 of the 32 registers, those of attention 24.
        const TILE_PANELS: usize = 1;
        const TILE_PRODUCTS: usize = 4;
        const SUMS: usize = 6;

        #[inline(always)]
        unsafe fn prefetch(p: *const u8) {
            unsafe { asm!("prfm pldl1keep, [{}]", in(reg) p, options(nostack, readonly, preserves_flags)) }
        }
        #[inline(always)]
        unsafe fn prefetch_far(p: *const u8) {
            unsafe { asm!("prfm pldl2keep, [{}]", in(reg) p, options(nostack, readonly, preserves_flags)) }
        }
        #[inline(always)]
        unsafe fn zero() -> Self::V {
            unsafe { [vdupq_n_f32(0.0); 4] }
        }
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self::V {
            unsafe { [vdupq_n_f32(x); 4] }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self::V {
            each!(i => vld1q_f32(p.add(4 * i)))
        }
        #[inline(always)]
        unsafe fn load_f16(p: *const u16) -> Self::V {
            each!(i => vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p.add(4 * i)))))
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, v: Self::V) {
            unsafe {
                vst1q_f32(p, v[0]);
                vst1q_f32(p.add(4), v[1]);
                vst1q_f32(p.add(8), v[2]);
                vst1q_f32(p.add(12), v[3]);
            }
        }
        #[inline(always)]
        unsafe fn store_f16(p: *mut u16, v: Self::V) {
            unsafe {
                vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(v[0])));
                vst1_u16(p.add(4), vreinterpret_u16_f16(vcvt_f16_f32(v[1])));
                vst1_u16(p.add(8), vreinterpret_u16_f16(vcvt_f16_f32(v[2])));
                vst1_u16(p.add(12), vreinterpret_u16_f16(vcvt_f16_f32(v[3])));
            }
        }
        #[inline(always)]
        unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
            each!(i => vfmaq_f32(c[i], a[i], b[i]))
        }
        #[inline(always)]
        unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
            each!(i => vmulq_f32(a[i], b[i]))
        }
        #[inline(always)]
        unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
            each!(i => vaddq_f32(a[i], b[i]))
        }
        #[inline(always)]
        unsafe fn to_f32(sum: Self::Sum) -> Self::V {
            each!(i => vcvtq_f32_s32(sum[i]))
        }
        /// With their signs: both dot products take signed bytes.
        #[inline(always)]
        unsafe fn weights(p: *const u8) -> Self::Weights {
            each!(i => vreinterpretq_s8_u8(veorq_u8(vld1q_u8(p.add(16 * i)), vdupq_n_u8(0x80))))
        }
        #[inline(always)]
        unsafe fn start(_correction: i32) -> Self::Sum {
            unsafe { [vdupq_n_s32(0); 4] }
        }
        #[inline(always)]
        unsafe fn activations(x: *const i8) -> Self::Activations {
            unsafe { vreinterpretq_s8_s32(vdupq_n_s32(x.cast::<i32>().read_unaligned())) }
        }
        #[inline(always)]
        unsafe fn dot4(sum: Self::Sum, weights: Self::Weights, x: Self::Activations) -> Self::Sum {
            each!(i => Self::add_dot4(sum[i], weights[i], x))
        }
    };
}

// SAFETY of every block below: callers keep the rule of `Lanes` (the instruction set is there, the elements are accessible).
impl Lanes for Neon {
    four_lanes_four_times!();
}

impl Lanes for NeonDot {
    four_lanes_four_times!();
}

impl Neon {
    /// Products of two bytes fit 16 bits, and so do pairs of them, since 2 · 128 · 127 < 2¹⁵.
    #[inline(always)]
    unsafe fn add_dot4(sum: int32x4_t, weights: int8x16_t, x: int8x16_t) -> int32x4_t {
        unsafe {
            let low = vmull_s8(vget_low_s8(weights), vget_low_s8(x));
            let high = vmull_high_s8(weights, x);
            vpadalq_s16(sum, vpaddq_s16(low, high))
        }
    }
}

impl NeonDot {
    /// The compiler's name for this instruction is not stable yet. The directive is for the assembler, which checks each piece by itself.
    #[inline(always)]
    unsafe fn add_dot4(sum: int32x4_t, weights: int8x16_t, x: int8x16_t) -> int32x4_t {
        let mut sum = sum;
        unsafe {
            asm!(
                ".arch_extension dotprod",
                "sdot {0:v}.4s, {1:v}.16b, {2:v}.16b",
                inout(vreg) sum, in(vreg) weights, in(vreg) x,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        sum
    }
}
