//! How fast this machine reads memory: what decoding can't exceed.

use std::time::Instant;

use anyhow::Context;

/// Far more than any cache.
const BUFFER_BYTES: usize = 512 << 20;
/// Passes; the fastest counts, as interruptions only slow one down.
const PASSES: usize = 3;

/// Gigabytes (10⁹) per second that `threads` threads read, each its own part of a buffer.
pub(super) fn read_gb_per_s(threads: usize) -> anyhow::Result<f64> {
    let mut buffer: Vec<u64> = Vec::new();
    buffer.try_reserve_exact(BUFFER_BYTES / 8).context("no memory for the bandwidth measurement")?;
    buffer.resize(BUFFER_BYTES / 8, 1);
    let part = buffer.len().div_ceil(threads.max(1));
    let mut best = f64::INFINITY;
    for _ in 0..PASSES {
        let begin = Instant::now();
        let sum: u64 = std::thread::scope(|scope| {
            let readers: Vec<_> = buffer.chunks(part).map(|part| scope.spawn(move || sum(part))).collect();
            readers.into_iter().map(|reader| reader.join().unwrap_or_default()).sum()
        });
        let seconds = begin.elapsed().as_secs_f64();
        // The sum is looked at, so that reading can't be left out.
        anyhow::ensure!(sum == buffer.len() as u64, "the memory returned {sum} for {} ones", buffer.len());
        best = best.min(seconds);
    }
    Ok(BUFFER_BYTES as f64 / 1e9 / best)
}

/// Several sums side by side, or additions would be the limit.
fn sum(part: &[u64]) -> u64 {
    let mut sums = [0u64; 32];
    let (chunks, rest) = part.as_chunks::<32>();
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, x)| *sum += x);
    }
    sums.iter().sum::<u64>() + rest.iter().sum::<u64>()
}
