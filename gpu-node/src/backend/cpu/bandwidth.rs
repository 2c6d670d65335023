//! How fast this machine reads memory: what decoding can't exceed.
#![allow(unsafe_code)] // Plain loops, compiled for an instruction set that was detected.

use std::time::Instant;

use super::Isa;
use super::isa::dispatch;
use super::lanes::{LANES, Lanes};
use crate::backend::BackendError;

/// Far more than any cache.
const BUFFER_BYTES: usize = 512 << 20;
/// Passes; the fastest counts, as interruptions only slow one down.
const PASSES: usize = 5;
/// Vectors read side by side.
const VECTORS: usize = 8;

/// Gigabytes (10⁹) per second that `threads` threads read, each its own part of a buffer.
pub fn read_gb_per_s(threads: usize) -> Result<f64, BackendError> {
    let mut buffer: Vec<f32> = Vec::new();
    buffer.try_reserve_exact(BUFFER_BYTES / 4).map_err(|_| BackendError::OutOfMemory { bytes: BUFFER_BYTES })?;
    buffer.resize(BUFFER_BYTES / 4, 1.0);
    let (isa, part) = (Isa::best(), buffer.len().div_ceil(threads.max(1)));
    let mut best = f64::INFINITY;
    for _ in 0..PASSES {
        let begin = Instant::now();
        let sum: f64 = std::thread::scope(|scope| {
            let read = |part| {
                let mut sum = 0.0;
                // SAFETY: the best instruction set is an available one.
                unsafe { sum_part(isa, part, &mut sum) }
                sum
            };
            let readers: Vec<_> = buffer.chunks(part).map(|part| scope.spawn(move || read(part))).collect();
            readers.into_iter().map(|reader| reader.join().unwrap_or_default()).sum()
        });
        let seconds = begin.elapsed().as_secs_f64();
        // The sum is looked at, so that reading can't be left out. It is exact: a lane adds less than 2²⁴ ones.
        assert!(sum == buffer.len() as f64, "every element is read once");
        best = best.min(seconds);
    }
    Ok(BUFFER_BYTES as f64 / 1e9 / best)
}

dispatch! { unsafe fn sum_part = sum_vectors(part: &[f32], out: &mut f64) }

/// Several vectors side by side, or additions would be the limit.
#[inline(always)]
unsafe fn sum_vectors<L: Lanes>(part: &[f32], out: &mut f64) {
    let (chunks, rest) = part.as_chunks::<{ VECTORS * LANES }>();
    let mut lanes = [0.0f32; VECTORS * LANES];
    // SAFETY: the caller promises the instruction set; a chunk and `lanes` hold as many vectors as are loaded and stored.
    unsafe {
        let mut sums = [L::zero(); VECTORS];
        for chunk in chunks {
            for (n, sum) in sums.iter_mut().enumerate() {
                *sum = L::add(*sum, L::load(chunk.as_ptr().add(n * LANES)));
            }
        }
        for (n, sum) in sums.into_iter().enumerate() {
            L::store(lanes.as_mut_ptr().add(n * LANES), sum);
        }
    }
    *out = lanes.iter().chain(rest).map(|x| f64::from(*x)).sum();
}
