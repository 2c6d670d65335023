//! Headers of safetensors files, parsed within bounds.

use safetensors::SafeTensors;

/// Longest header in bytes. The library's own bound of 100 MB takes a gigabyte of memory; models of 126 layers take 150 KiB.
const MAX_HEADER_BYTES: u64 = 16 << 20;

/// Checks the whole header: every tensor inside the file, no gap, no overlap. Tensor data is not touched.
pub(super) fn parse(file: &[u8]) -> Result<SafeTensors<'_>, String> {
    if let Some(length) = file.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes)).filter(|length| *length > MAX_HEADER_BYTES) {
        return Err(format!("its header claims {length} bytes, at most {MAX_HEADER_BYTES} are possible"));
    }
    SafeTensors::deserialize(file).map_err(|e| e.to_string())
}
