//! Digests of a model's files: SHA-256 for files, `modelRoot` for weights (protocol.md section 5).

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use alloy::primitives::{B256, keccak256};
use sha2::{Digest, Sha256};

/// Bytes under one leaf of the model root.
pub const CHUNK_BYTES: usize = 1 << 20;

/// Why a file was not hashed.
#[derive(Debug, thiserror::Error)]
pub enum DigestError {
    #[error("{path} can't be read: {source}", path = path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} is empty", path = path.display())]
    Empty { path: PathBuf },
}

/// Merkle root over 1 MiB chunks, leaf = keccak256(keccak256(chunk)), leaves in file order. `None` for no bytes.
///
/// Uses up to `threads` threads; the root does not depend on how many. `progress` is told of hashed bytes.
pub fn model_root(bytes: &[u8], threads: usize, progress: &(dyn Fn(u64) + Sync)) -> Option<B256> {
    let chunks: Vec<&[u8]> = bytes.chunks(CHUNK_BYTES).collect();
    let next = AtomicUsize::new(0);
    let hash_some = || {
        let mut leaves = Vec::new();
        while let index = next.fetch_add(1, Ordering::Relaxed)
            && let Some(chunk) = chunks.get(index)
        {
            leaves.push((index, keccak256(keccak256(chunk))));
            progress(chunk.len() as u64);
        }
        leaves
    };
    let mut leaves: Vec<(usize, B256)> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads.min(chunks.len())).map(|_| scope.spawn(hash_some)).collect();
        let mut leaves = hash_some();
        for other in others {
            // A thread that panicked leaves a gap, and the gap is found below.
            leaves.extend(other.join().unwrap_or_default());
        }
        leaves
    });
    leaves.sort_unstable_by_key(|(index, _)| *index);
    if leaves.len() != chunks.len() {
        return None;
    }
    let leaves: Vec<B256> = leaves.into_iter().map(|(_, leaf)| leaf).collect();
    wire::merkle::root(&leaves)
}

/// [`model_root`] of a file, read chunk by chunk.
pub fn file_root(path: &Path, progress: &(dyn Fn(u64) + Sync)) -> Result<B256, DigestError> {
    let mut leaves = Vec::new();
    read_chunks(path, CHUNK_BYTES, |chunk| {
        leaves.push(keccak256(keccak256(chunk)));
        progress(chunk.len() as u64);
    })?;
    wire::merkle::root(&leaves).ok_or_else(|| DigestError::Empty { path: path.to_owned() })
}

/// SHA-256 of a file in lower-case hex.
pub fn sha256_file(path: &Path, progress: &(dyn Fn(u64) + Sync)) -> Result<String, DigestError> {
    let mut hasher = Sha256::new();
    read_chunks(path, CHUNK_BYTES, |chunk| {
        hasher.update(chunk);
        progress(chunk.len() as u64);
    })?;
    Ok(alloy::hex::encode(hasher.finalize()))
}

/// SHA-256 of bytes in lower-case hex.
pub(crate) fn sha256_bytes(bytes: &[u8]) -> String {
    alloy::hex::encode(Sha256::digest(bytes))
}

/// Calls `each` with consecutive pieces of exactly `size` bytes, the last one shorter.
fn read_chunks(path: &Path, size: usize, mut each: impl FnMut(&[u8])) -> Result<(), DigestError> {
    let read = |source| DigestError::Read { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(read)?;
    let mut chunk = Vec::with_capacity(size);
    loop {
        chunk.clear();
        let got = file.by_ref().take(size as u64).read_to_end(&mut chunk).map_err(read)?;
        if got == 0 {
            return Ok(());
        }
        each(&chunk);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_of_a_file_equals_root_of_its_bytes_on_any_number_of_threads() {
        let bytes: Vec<u8> = (0..3 * CHUNK_BYTES + 17).map(|i| (i % 251) as u8).collect();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights");
        std::fs::write(&path, &bytes).unwrap();
        let root = file_root(&path, &|_| ()).unwrap();
        assert_eq!(model_root(&bytes, 1, &|_| ()), Some(root));
        assert_eq!(model_root(&bytes, 3, &|_| ()), Some(root));
        assert_eq!(model_root(&[], 3, &|_| ()), None);
    }

    #[test]
    fn one_chunk_is_its_own_root() {
        assert_eq!(model_root(b"abc", 2, &|_| ()), Some(keccak256(keccak256(b"abc"))));
    }
}
