//! Merkle trees as OpenZeppelin's `MerkleProof` checks them (`docs/protocol.md`, section 4).

use alloy::primitives::{B256, keccak256};

/// Leaf of a receipt: the hash of its 32-byte EIP-712 digest, so that no leaf can pass for an inner node.
pub fn receipt_leaf(digest: B256) -> B256 {
    keccak256(digest)
}

/// Root over leaves in the given order; an odd last node moves up unchanged. `None` without leaves.
pub fn root(leaves: &[B256]) -> Option<B256> {
    let mut level = leaves.to_vec();
    while level.len() > 1 {
        level = parents(&level);
    }
    level.first().copied()
}

/// Siblings from the leaf at `index` up to the root. `None` when there is no such leaf.
pub fn proof(leaves: &[B256], index: usize) -> Option<Vec<B256>> {
    if index >= leaves.len() {
        return None;
    }
    let (mut level, mut index, mut siblings) = (leaves.to_vec(), index, Vec::new());
    while level.len() > 1 {
        siblings.extend(level.get(index ^ 1));
        level = parents(&level);
        index /= 2;
    }
    Some(siblings)
}

/// Whether `leaf` stands under `root` by way of `proof`.
pub fn verify(root: B256, leaf: B256, proof: &[B256]) -> bool {
    proof.iter().fold(leaf, |node, sibling| parent(node, *sibling)) == root
}

fn parents(level: &[B256]) -> Vec<B256> {
    level.chunks(2).map(|pair| if let [left, right] = pair { parent(*left, *right) } else { pair[0] }).collect()
}

/// Commutative, so that a proof needs no left or right.
fn parent(a: B256, b: B256) -> B256 {
    let (low, high) = if a <= b { (a, b) } else { (b, a) };
    keccak256([low.0, high.0].concat())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_leaf_proves_itself_and_nothing_else(count in 1usize..40, flip in any::<prop::sample::Index>()) {
            let leaves: Vec<B256> = (0..count).map(|i| receipt_leaf(B256::with_last_byte(i as u8))).collect();
            let root = root(&leaves).unwrap();
            for (index, leaf) in leaves.iter().enumerate() {
                let proof = proof(&leaves, index).unwrap();
                prop_assert!(verify(root, *leaf, &proof));
                let mut wrong = *leaf;
                wrong.0[flip.index(32)] ^= 1;
                prop_assert!(!verify(root, wrong, &proof));
            }
        }
    }

    #[test]
    fn no_leaves_have_no_root() {
        assert_eq!(root(&[]), None);
        assert_eq!(proof(&[], 0), None);
    }
}
