//! Sixteen lanes on each instruction set. Every function gives the same bits on all of them.
#![allow(unsafe_code)] // Vector intrinsics; the rule for callers stands at the trait.

#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "aarch64")]
pub(super) use neon::{Neon, NeonDot};
pub(super) use scalar::Scalar;
#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512, AvxVnni};

/// Lanes of a vector: a panel's rows.
pub(super) const LANES: usize = 16;

/// Instruction sets, chosen once at run time. Deliberately absent: x86's tile unit (AMX). With a scale for each 32 columns every block's sums
/// leave it through memory, vectors have one of their two ports while it works, and what else runs on the host slows it threefold at times: prompts were
/// 0.7 to 1.0 times as fast as with [`Isa::Avx512`] (Emerald Rapids, two threads), though a loop in the first-level cache was 1.3 times as fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX2 with the 256-bit byte dot product.
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    /// AVX-512 with the byte dot product.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// NEON with the byte dot product.
    #[cfg(target_arch = "aarch64")]
    NeonDot,
}

impl Isa {
    /// All that this processor has, best first.
    pub fn available() -> Vec<Self> {
        let mut out = Vec::new();
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni") {
                out.push(Self::Avx512);
            }
            if is_x86_feature_detected!("avxvnni") {
                out.push(Self::AvxVnni);
            }
            out.push(Self::Avx2);
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            if std::arch::is_aarch64_feature_detected!("dotprod") {
                out.push(Self::NeonDot);
            }
            out.push(Self::Neon);
        }
        out.push(Self::Scalar);
        out
    }

    pub fn best() -> Self {
        Self::available().first().copied().unwrap_or(Self::Scalar)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "AVX2",
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => "AVX-VNNI",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "AVX-512 VNNI",
            #[cfg(target_arch = "aarch64")]
            Self::Neon => "NEON",
            #[cfg(target_arch = "aarch64")]
            Self::NeonDot => "NEON dot product",
        }
    }
}

/// Vectors of 16 f32, of 16 int32, and of 64 weight bytes (four columns of 16 rows).
///
/// # Safety
/// Every function may be called only on a processor with the instruction set, and pointers must allow access to what the
/// function's vector holds (unaligned).
pub(super) trait Lanes {
    type V: Copy;
    type Sum: Copy;
    type Weights: Copy;
    /// Four activations, in every lane.
    type Activations: Copy;

    /// Panels that a tile of products spans.
    const TILE_PANELS: usize;
    /// Most products (panels × tokens) of a tile: what the registers hold.
    const TILE_PRODUCTS: usize;
    /// Vectors that are summed side by side in attention.
    const SUMS: usize;

    /// Asks for the cache line at `p`, which may be any address. A hint; no access.
    unsafe fn prefetch(p: *const u8);
    /// The same into the second-level cache.
    unsafe fn prefetch_far(p: *const u8);
    unsafe fn zero() -> Self::V;
    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(p: *const f32) -> Self::V;
    /// 16 f16, widened exactly.
    unsafe fn load_f16(p: *const u16) -> Self::V;
    unsafe fn store(p: *mut f32, v: Self::V);
    /// Rounded to nearest, ties to even.
    unsafe fn store_f16(p: *mut u16, v: Self::V);
    /// `a · b + c`, rounded once.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;

    /// 64 stored bytes, `q + 128` each.
    unsafe fn weights(p: *const u8) -> Self::Weights;
    /// What [`Lanes::dot4`] starts from, so that it ends at Σ q·x; `correction` is −128 · Σ x of the block.
    unsafe fn start(correction: i32) -> Self::Sum;
    /// Four activations from `x` on.
    unsafe fn activations(x: *const i8) -> Self::Activations;
    /// Adds to each lane the products of its four weights and the four activations. Exact.
    unsafe fn dot4(sum: Self::Sum, weights: Self::Weights, x: Self::Activations) -> Self::Sum;
    /// Exact: block sums are below 2²⁴.
    unsafe fn to_f32(sum: Self::Sum) -> Self::V;
}
