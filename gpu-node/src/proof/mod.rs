//! Proof windows: digests of final-norm hidden states under a Merkle root (protocol.md section 5).

pub mod auditor; // other nodes' answers, computed again in the background
pub mod recompute; // one prefill, every window, every draw
pub mod store; // windows on disk, served on challenge
pub mod verify; // a receipt against what it is about

use alloy::primitives::Keccak256;

pub use wire::proof::{COMPLETION_WINDOW, PROMPT_WINDOW, Window, root as proof_root};

/// Takes the hidden states of a sequence position by position.
#[derive(Clone)]
pub struct ProofBuilder {
    prompt_tokens: usize,
    position: usize,
    window_start: usize,
    hasher: Keccak256,
    bytes: Vec<u8>,
    windows: Vec<Window>,
}

impl ProofBuilder {
    pub fn new(prompt_tokens: usize) -> Self {
        Self { prompt_tokens, position: 0, window_start: 0, hasher: Keccak256::new(), bytes: Vec::new(), windows: Vec::new() }
    }

    /// Hidden state of the next position.
    pub fn push(&mut self, hidden: &[f32]) {
        self.bytes.clear();
        self.bytes.extend(hidden.iter().flat_map(|x| x.to_le_bytes()));
        self.hasher.update(&self.bytes);
        self.position += 1;
        let size = if self.window_start < self.prompt_tokens { PROMPT_WINDOW } else { COMPLETION_WINDOW };
        if self.position - self.window_start == size || self.position == self.prompt_tokens {
            self.close_window();
        }
    }

    /// All windows, the last one shorter when the answer ended inside it.
    pub fn finish(mut self) -> Vec<Window> {
        if self.position > self.window_start {
            self.close_window();
        }
        self.windows
    }

    fn close_window(&mut self) {
        let hasher = std::mem::replace(&mut self.hasher, Keccak256::new());
        self.windows.push(Window {
            index: self.windows.len() as u32,
            first_position: self.window_start as u32,
            count: (self.position - self.window_start) as u32,
            digest: hasher.finalize(),
        });
        self.window_start = self.position;
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::B256;

    use super::*;

    fn windows(prompt_tokens: usize, positions: usize) -> Vec<(u32, u32, u32)> {
        let mut builder = ProofBuilder::new(prompt_tokens);
        for position in 0..positions {
            builder.push(&[position as f32]);
        }
        builder.finish().iter().map(|w| (w.index, w.first_position, w.count)).collect()
    }

    #[test]
    fn windows_split_at_the_prompts_end() {
        assert_eq!(windows(300, 300 + 40), [(0, 0, 256), (1, 256, 44), (2, 300, 32), (3, 332, 8)]);
        assert_eq!(windows(256, 256), [(0, 0, 256)]);
        assert_eq!(windows(3, 3 + 32), [(0, 0, 3), (1, 3, 32)]);
        assert_eq!(windows(3, 0), []);
    }

    #[test]
    fn root_changes_with_any_state_and_with_the_place_of_the_prompts_end() {
        let root = |prompt_tokens: usize, states: &[f32]| {
            let mut builder = ProofBuilder::new(prompt_tokens);
            states.iter().for_each(|x| builder.push(&[*x]));
            proof_root(&builder.finish())
        };
        let honest = root(2, &[1.0, 2.0, 3.0]);
        assert_eq!(honest, root(2, &[1.0, 2.0, 3.0]));
        assert_ne!(honest, root(2, &[1.0, 2.0, 3.000_000_2]));
        assert_ne!(honest, root(1, &[1.0, 2.0, 3.0]));
        assert_ne!(root(2, &[0.0]), root(2, &[-0.0]));
        assert_eq!(root(2, &[]), B256::ZERO);
    }
}
