//! Proof windows: digests of final-norm hidden states under a Merkle root (protocol.md section 5).

pub mod auditor; // other nodes' answers, computed again in the background
pub mod recompute; // one prefill, every window, every draw
pub mod store; // windows on disk, served on challenge
pub mod verify; // a receipt against what it is about

use alloy::primitives::{B256, Keccak256, keccak256};

pub use wire::proof::{COMPLETION_WINDOW, PROMPT_WINDOW, Window, root as proof_root};

/// keccak256 of a position's final-norm hidden state, little-endian f32. `None` when an element is not finite: such a state
/// says nothing, and no answer is drawn from it.
pub fn position_digest(hidden: &[f32]) -> Option<B256> {
    let mut bytes = Vec::with_capacity(hidden.len() * 4);
    for element in hidden {
        if !element.is_finite() {
            return None;
        }
        bytes.extend(element.to_le_bytes());
    }
    Some(keccak256(bytes))
}

/// The windows over the digests of an answer's positions; the prompt's end ends a window, and the last one may be shorter.
pub fn windows(prompt_tokens: usize, digests: &[B256]) -> Vec<Window> {
    let (prompt, completion) = digests.split_at(prompt_tokens.min(digests.len()));
    let mut first_position = 0;
    let parts = prompt.chunks(PROMPT_WINDOW).chain(completion.chunks(COMPLETION_WINDOW));
    parts
        .zip(0..)
        .map(|(part, index)| {
            let mut hasher = Keccak256::new();
            part.iter().for_each(|digest| hasher.update(digest));
            let window = Window { index, first_position, count: part.len() as u32, digest: hasher.finalize() };
            first_position += part.len() as u32;
            window
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(prompt_tokens: usize, positions: usize) -> Vec<(u32, u32, u32)> {
        let digests: Vec<B256> = (0..positions).map(|position| position_digest(&[position as f32]).unwrap()).collect();
        windows(prompt_tokens, &digests).iter().map(|w| (w.index, w.first_position, w.count)).collect()
    }

    #[test]
    fn windows_split_at_the_prompts_end() {
        assert_eq!(places(300, 300 + 40), [(0, 0, 256), (1, 256, 44), (2, 300, 32), (3, 332, 8)]);
        assert_eq!(places(256, 256), [(0, 0, 256)]);
        assert_eq!(places(3, 3 + 32), [(0, 0, 3), (1, 3, 32)]);
        assert_eq!(places(3, 0), []);
    }

    #[test]
    fn root_changes_with_any_state_and_with_the_place_of_the_prompts_end() {
        let root = |prompt_tokens: usize, states: &[f32]| {
            let digests: Vec<B256> = states.iter().map(|x| position_digest(&[*x]).unwrap()).collect();
            proof_root(&windows(prompt_tokens, &digests))
        };
        let honest = root(2, &[1.0, 2.0, 3.0]);
        assert_eq!(honest, root(2, &[1.0, 2.0, 3.0]));
        assert_ne!(honest, root(2, &[1.0, 2.0, 3.000_000_2]));
        assert_ne!(honest, root(1, &[1.0, 2.0, 3.0]));
        assert_ne!(root(2, &[0.0]), root(2, &[-0.0]));
        assert_eq!(root(2, &[]), B256::ZERO);
    }

    #[test]
    fn a_state_that_is_not_finite_has_no_digest() {
        assert_eq!(position_digest(&[1.0, f32::NAN]), None);
        assert_eq!(position_digest(&[f32::INFINITY]), None);
    }
}
