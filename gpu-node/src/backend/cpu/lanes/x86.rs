//! AVX2, AVX-VNNI and AVX-512 VNNI.
#![allow(clippy::undocumented_unsafe_blocks)] // One reason for all: the rule of the `Lanes` trait.

use std::arch::x86_64::*;

use super::Lanes;

pub(in super::super) struct Avx2;
pub(in super::super) struct AvxVnni;
pub(in super::super) struct Avx512;

/// Two vectors of eight.
type Pair = (__m256, __m256);
type IntPair = (__m256i, __m256i);

/// What both 256-bit sets share: everything but the byte dot product.
macro_rules! eight_lanes_twice {
    () => {
        type V = Pair;
        type Sum = IntPair;
        type Weights = IntPair;
        type Activations = __m256i;

        #[inline(always)]
        unsafe fn prefetch(p: *const u8) {
            unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
        }
        #[inline(always)]
        unsafe fn prefetch_far(p: *const u8) {
            unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
        }
        #[inline(always)]
        unsafe fn zero() -> Self::V {
            unsafe { (_mm256_setzero_ps(), _mm256_setzero_ps()) }
        }
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self::V {
            unsafe { (_mm256_set1_ps(x), _mm256_set1_ps(x)) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self::V {
            unsafe { (_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))) }
        }
        #[inline(always)]
        unsafe fn load_f16(p: *const u16) -> Self::V {
            unsafe { (_mm256_cvtph_ps(_mm_loadu_si128(p.cast())), _mm256_cvtph_ps(_mm_loadu_si128(p.add(8).cast()))) }
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, v: Self::V) {
            unsafe {
                _mm256_storeu_ps(p, v.0);
                _mm256_storeu_ps(p.add(8), v.1);
            }
        }
        #[inline(always)]
        unsafe fn store_f16(p: *mut u16, v: Self::V) {
            unsafe {
                _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v.0));
                _mm_storeu_si128(p.add(8).cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v.1));
            }
        }
        #[inline(always)]
        unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
            unsafe { (_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1)) }
        }
        #[inline(always)]
        unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
            unsafe { (_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1)) }
        }
        #[inline(always)]
        unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
            unsafe { (_mm256_add_ps(a.0, b.0), _mm256_add_ps(a.1, b.1)) }
        }
        #[inline(always)]
        unsafe fn to_f32(sum: Self::Sum) -> Self::V {
            unsafe { (_mm256_cvtepi32_ps(sum.0), _mm256_cvtepi32_ps(sum.1)) }
        }
        #[inline(always)]
        unsafe fn weights(p: *const u8) -> Self::Weights {
            unsafe { (_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast())) }
        }
        #[inline(always)]
        unsafe fn activations(x: *const i8) -> Self::Activations {
            unsafe { _mm256_set1_epi32(x.cast::<i32>().read_unaligned()) }
        }
    };
}

// SAFETY of every block below: callers keep the rule of `Lanes` (the instruction set is there, the elements are accessible).
impl Lanes for Avx2 {
    eight_lanes_twice!();

    const TILE_PANELS: usize = 1;
    const TILE_PRODUCTS: usize = 4;
    const SUMS: usize = 6;

    #[inline(always)]
    unsafe fn start(_correction: i32) -> Self::Sum {
        unsafe { (_mm256_setzero_si256(), _mm256_setzero_si256()) }
    }
    #[inline(always)]
    unsafe fn dot4(sum: Self::Sum, weights: Self::Weights, x: Self::Activations) -> Self::Sum {
        unsafe { (add_dot4(sum.0, weights.0, x), add_dot4(sum.1, weights.1, x)) }
    }
}

/// |q| as bytes without sign times x with q's sign; pairs fit 16 bits, since 2 · 128 · 127 < 2¹⁵.
#[inline(always)]
unsafe fn add_dot4(sum: __m256i, stored: __m256i, x: __m256i) -> __m256i {
    unsafe {
        let q = _mm256_xor_si256(stored, _mm256_set1_epi8(-128));
        let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(q), _mm256_sign_epi8(x, q));
        _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    }
}

impl Lanes for AvxVnni {
    eight_lanes_twice!();

    const TILE_PANELS: usize = 1;
    const TILE_PRODUCTS: usize = 6;
    const SUMS: usize = 6;

    #[inline(always)]
    unsafe fn start(correction: i32) -> Self::Sum {
        unsafe { (_mm256_set1_epi32(correction), _mm256_set1_epi32(correction)) }
    }
    #[inline(always)]
    unsafe fn dot4(sum: Self::Sum, weights: Self::Weights, x: Self::Activations) -> Self::Sum {
        unsafe { (_mm256_dpbusd_avx_epi32(sum.0, weights.0, x), _mm256_dpbusd_avx_epi32(sum.1, weights.1, x)) }
    }
}

impl Lanes for Avx512 {
    type V = __m512;
    type Sum = __m512i;
    type Weights = __m512i;
    type Activations = __m512i;

    const TILE_PANELS: usize = 3;
    const TILE_PRODUCTS: usize = 12;
    const SUMS: usize = 24;

    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn prefetch_far(p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn zero() -> Self::V {
        unsafe { _mm512_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::V {
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self::V {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::V) {
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, v: Self::V) {
        unsafe { _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)) }
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn weights(p: *const u8) -> Self::Weights {
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn start(correction: i32) -> Self::Sum {
        unsafe { _mm512_set1_epi32(correction) }
    }
    #[inline(always)]
    unsafe fn activations(x: *const i8) -> Self::Activations {
        unsafe { _mm512_set1_epi32(x.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn dot4(sum: Self::Sum, weights: Self::Weights, x: Self::Activations) -> Self::Sum {
        unsafe { _mm512_dpbusd_epi32(sum, weights, x) }
    }
    #[inline(always)]
    unsafe fn to_f32(sum: Self::Sum) -> Self::V {
        unsafe { _mm512_cvtepi32_ps(sum) }
    }
}
