//! The greatest logits of a vocabulary, found block by block: the blocks that hold none of them are not looked at again.

/// Logits that are looked at side by side.
const LANES: usize = 16;
/// Logits of one block when the greatest are looked for.
pub(super) const BOUND_BLOCK: usize = 64;

/// A number that at least `count` logits reach, and that few others do: of the greatest logits of all blocks the `count`-th. So the
/// `count` greatest are found among few, without sorting or copying a vocabulary.
pub(super) fn reached_by(maxima: &[f32], count: usize, scratch: &mut Vec<f32>) -> f32 {
    scratch.clear();
    scratch.extend_from_slice(maxima);
    match count.checked_sub(1).filter(|last| *last < scratch.len()) {
        Some(last) => *scratch.select_nth_unstable_by(last, |a, b| b.total_cmp(a)).1,
        None => f32::NEG_INFINITY,
    }
}

/// The greatest logit of each block.
pub(super) fn block_maxima(logits: &[f32], out: &mut Vec<f32>) {
    out.clear();
    // Lane by lane, which the compiler turns into vectors; one running maximum it does not.
    out.extend(logits.chunks(BOUND_BLOCK).map(|block| {
        let (whole, rest) = block.as_chunks::<LANES>();
        let mut most = [f32::NEG_INFINITY; LANES];
        for lanes in whole {
            for (most, logit) in most.iter_mut().zip(lanes) {
                *most = if *logit > *most { *logit } else { *most };
            }
        }
        most.iter().chain(rest).fold(f32::NEG_INFINITY, |max, logit| if *logit > max { *logit } else { max })
    }));
}

/// Greatest logit and its token; ties go to the lowest id. Negative infinity when there is no other.
pub(super) fn greatest_in_blocks(logits: &[f32], maxima: &[f32]) -> (f32, u32) {
    let max = maxima.iter().fold(f32::NEG_INFINITY, |max, block| if *block > max { *block } else { max });
    let first = maxima.iter().position(|block| *block == max).unwrap_or_default() * BOUND_BLOCK;
    let place = logits[first.min(logits.len())..].iter().position(|logit| *logit == max).unwrap_or_default();
    (max, (first + place) as u32)
}

/// Greatest logit and its token, as the sampler takes it when nothing is drawn.
pub(in super::super) fn greatest(logits: &[f32]) -> (f32, u32) {
    let mut maxima = Vec::new();
    block_maxima(logits, &mut maxima);
    greatest_in_blocks(logits, &maxima)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_greatest_is_the_first_of_the_greatest_ones(
            logits in prop::collection::vec(prop_oneof![-3i8..3, Just(i8::MIN)], 0..300),
        ) {
            let value = |x: &i8| if *x == i8::MIN { f32::NEG_INFINITY } else { f32::from(*x) * 0.5 };
            let logits: Vec<f32> = logits.iter().map(value).collect();
            let better = |best: (f32, u32), (logit, id): (&f32, u32)| if *logit > best.0 { (*logit, id) } else { best };
            prop_assert_eq!(greatest(&logits), logits.iter().zip(0..).fold((f32::NEG_INFINITY, 0), better));
        }

        #[test]
        fn the_greatest_logits_all_reach_the_bound(
            logits in prop::collection::vec(prop_oneof![-9f32..9.0, Just(0.0), Just(-0.0), Just(f32::NEG_INFINITY)], 1..4_000),
            count in 1usize..50,
        ) {
            let mut maxima = Vec::new();
            block_maxima(&logits, &mut maxima);
            let least = reached_by(&maxima, count, &mut Vec::new());
            let mut sorted = logits.clone();
            sorted.sort_by(|a, b| b.total_cmp(a));
            prop_assert!(sorted.iter().take(count).all(|logit| *logit >= least), "{least}");
        }
    }
}
