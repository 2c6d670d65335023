//! Free space of a file system.

use std::io;
use std::path::Path;

/// Bytes that this user may still write where `path` is; of its nearest ancestor when it does not exist yet.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let path = std::path::absolute(path)?;
    let there = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(&path);
    let stat = rustix::fs::statvfs(there)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
