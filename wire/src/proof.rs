//! Proof windows: what a receipt's `proofRoot` is over (`docs/protocol.md`, section 5).

use alloy::primitives::{B256, keccak256};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::merkle;
use crate::receipt::ServiceReceipt;

/// Positions of a prompt under one leaf.
pub const PROMPT_WINDOW: usize = 256;
/// Positions of a completion under one leaf.
pub const COMPLETION_WINDOW: usize = 32;

/// One leaf before hashing; served when the root is challenged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// From 0, over prompt and completion together.
    pub index: u32,
    /// Position of its first token in the sequence.
    pub first_position: u32,
    /// Positions under it.
    pub count: u32,
    /// keccak256 of the positions' digests in order, each keccak256 of the little-endian f32 final-norm hidden state.
    pub digest: B256,
}

impl Window {
    /// `keccak256(keccak256(index ‖ first_position ‖ count ‖ digest))`, numbers as 4 bytes little-endian.
    pub fn leaf(&self) -> B256 {
        let mut bytes = Vec::with_capacity(44);
        for number in [self.index, self.first_position, self.count] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(self.digest);
        keccak256(keccak256(bytes))
    }
}

/// `proofRoot` over windows in index order; zero without any.
pub fn root(windows: &[Window]) -> B256 {
    let leaves: Vec<B256> = windows.iter().map(Window::leaf).collect();
    merkle::root(&leaves).unwrap_or(B256::ZERO)
}

/// First position and count of each window of an answer, in order. The last completion token has no hidden state: nothing was drawn
/// from it.
pub fn layout(prompt_tokens: u32, completion_tokens: u32) -> impl Iterator<Item = (u64, u64)> {
    let prompt = u64::from(prompt_tokens);
    let end = prompt + u64::from(completion_tokens.saturating_sub(1));
    let of = |start: u64, end: u64, size: usize| (start..end).step_by(size).map(move |first| (first, (end - first).min(size as u64)));
    of(0, prompt, PROMPT_WINDOW).chain(of(prompt, end, COMPLETION_WINDOW))
}

/// Checks that `windows` are all the windows of an answer of so many tokens, in order.
pub fn check_layout(prompt_tokens: u32, completion_tokens: u32, windows: &[Window]) -> Result<(), ProofError> {
    // Counted, not collected: a receipt may claim any count.
    let completion = u64::from(completion_tokens.saturating_sub(1));
    let expected = u64::from(prompt_tokens).div_ceil(PROMPT_WINDOW as u64) + completion.div_ceil(COMPLETION_WINDOW as u64);
    if windows.len() as u64 != expected {
        return Err(ProofError::Count { expected, found: windows.len() });
    }
    for (place, (window, (first_position, count))) in windows.iter().zip(layout(prompt_tokens, completion_tokens)).enumerate() {
        let found = (u64::from(window.index), u64::from(window.first_position), u64::from(window.count));
        if found != (place as u64, first_position, count) {
            return Err(ProofError::Place { place, first_position, count, found: *window });
        }
    }
    Ok(())
}

/// Checks that `windows` are what `receipt` committed to. Says nothing about whether their digests are right.
pub fn check(receipt: &ServiceReceipt, windows: &[Window]) -> Result<(), ProofError> {
    if receipt.proof_root == B256::ZERO {
        return Err(ProofError::NoRoot);
    }
    check_layout(receipt.prompt_tokens, receipt.completion_tokens, windows)?;
    let found = root(windows);
    if found == receipt.proof_root { Ok(()) } else { Err(ProofError::Root { signed: receipt.proof_root, found }) }
}

/// Why windows are not those of a receipt.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProofError {
    /// Signed without a proof.
    #[error("the receipt's proof root is zero: it was signed without a proof, and there is nothing to check windows against")]
    NoRoot,
    /// Truncated, empty, or too many.
    #[error("the proof has {found} windows, an answer of these counts has {expected}")]
    Count {
        /// By the receipt's counts.
        expected: u64,
        /// In the proof.
        found: usize,
    },
    /// Out of order, or of other positions.
    #[error("window {place} must cover {count} positions from {first_position} on, it is {found:?}")]
    Place {
        /// Its place in the proof.
        place: usize,
        /// By the receipt's counts.
        first_position: u64,
        /// By the receipt's counts.
        count: u64,
        /// As given.
        found: Window,
    },
    /// Other digests than were committed to.
    #[error("the windows have the root {found}, the receipt is signed over {signed}")]
    Root {
        /// In the receipt.
        signed: B256,
        /// Of the windows.
        found: B256,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn windows(prompt_tokens: u32, completion_tokens: u32) -> Vec<Window> {
        let window = |(index, (first, count)): (usize, (u64, u64))| Window {
            index: index as u32,
            first_position: first as u32,
            count: count as u32,
            digest: B256::with_last_byte(index as u8),
        };
        layout(prompt_tokens, completion_tokens).enumerate().map(window).collect()
    }

    #[test]
    fn windows_split_at_the_prompts_end_and_leave_the_last_token_out() {
        let of = |prompt, completion| layout(prompt, completion).collect::<Vec<_>>();
        assert_eq!(of(300, 41), [(0, 256), (256, 44), (300, 32), (332, 8)]);
        assert_eq!(of(256, 1), [(0, 256)]);
        assert_eq!(of(3, 33), [(0, 3), (3, 32)]);
        assert_eq!(of(3, 0), [(0, 3)]);
        assert_eq!(of(0, 0), []);
    }

    proptest! {
        #[test]
        fn whole_proofs_fit_and_any_other_does_not(prompt in 1u32..1_000, completion in 1u32..200, drop in any::<prop::sample::Index>()) {
            let whole = windows(prompt, completion);
            prop_assert_eq!(check_layout(prompt, completion, &whole), Ok(()));
            let mut short = whole.clone();
            short.remove(drop.index(whole.len()));
            let short_error = matches!(check_layout(prompt, completion, &short), Err(ProofError::Count { .. }));
            prop_assert!(short_error);
            let mut moved = whole.clone();
            moved[drop.index(whole.len())].count += 1;
            let moved_error = matches!(check_layout(prompt, completion, &moved), Err(ProofError::Place { .. }));
            prop_assert!(moved_error);
            prop_assert!(check_layout(prompt, completion + 32, &whole).is_err());
        }
    }

    #[test]
    fn counts_beyond_any_answer_are_refused_without_work() {
        assert!(matches!(check_layout(u32::MAX, u32::MAX, &[]), Err(ProofError::Count { .. })));
    }
}
