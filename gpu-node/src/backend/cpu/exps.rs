//! e^x over a whole vocabulary, for the sampler.
#![allow(unsafe_code)] // One call into a function that is compiled for fused multiply-add.

use super::math::exp;

/// `out[i] = e^((logits[i] − max) / temperature)`, each by [`exp`], so that the bits are the same on every processor.
pub(crate) fn weights(logits: &[f32], max: f32, temperature: f32, out: &mut Vec<f32>) {
    out.clear();
    out.resize(logits.len(), 0.0);
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the processor has both instruction sets.
        unsafe { weights_avx2(logits, max, temperature, out) }
        return;
    }
    each(logits, max, temperature, out);
}

/// Without these instruction sets a fused multiply-add is a library call, 30 times as slow.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn weights_avx2(logits: &[f32], max: f32, temperature: f32, out: &mut [f32]) {
    each(logits, max, temperature, out);
}

#[inline(always)]
fn each(logits: &[f32], max: f32, temperature: f32, out: &mut [f32]) {
    for (out, logit) in out.iter_mut().zip(logits) {
        *out = exp((logit - max) / temperature);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn vectors_give_the_bits_of_single_numbers(
            logits in prop::collection::vec(prop_oneof![-1e30f32..1e30, -50f32..50.0, Just(f32::NEG_INFINITY)], 0..200),
            max in -50f32..50.0,
            temperature in 0.01f32..2.0,
        ) {
            let (mut vectors, mut single) = (Vec::new(), vec![0.0; logits.len()]);
            weights(&logits, max, temperature, &mut vectors);
            each(&logits, max, temperature, &mut single);
            let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&vectors), bits(&single));
        }
    }
}
