use super::*;
use proptest::prelude::*;

/// A small well-formed file: two keys, one Q8_0 tensor of 64 elements.
fn sample() -> Vec<u8> {
    let mut out = Vec::new();
    let text = |out: &mut Vec<u8>, s: &str| {
        out.extend((s.len() as u64).to_le_bytes());
        out.extend(s.as_bytes());
    };
    out.extend(MAGIC);
    out.extend(3u32.to_le_bytes());
    out.extend(1u64.to_le_bytes());
    out.extend(2u64.to_le_bytes());
    text(&mut out, "general.architecture");
    out.extend(8u32.to_le_bytes());
    text(&mut out, "llama");
    text(&mut out, "names");
    out.extend(9u32.to_le_bytes());
    out.extend(8u32.to_le_bytes());
    out.extend(2u64.to_le_bytes());
    text(&mut out, "a");
    text(&mut out, "é");
    text(&mut out, "w");
    out.extend(2u32.to_le_bytes());
    out.extend(32u64.to_le_bytes());
    out.extend(2u64.to_le_bytes());
    out.extend(8u32.to_le_bytes());
    out.extend(0u64.to_le_bytes());
    out.resize(out.len().next_multiple_of(32), 0);
    out.extend([1u8; 68]);
    out
}

#[test]
fn well_formed_file_is_read() {
    let bytes = sample();
    let gguf = Gguf::parse(&bytes).unwrap();
    assert_eq!(gguf.text("general.architecture").unwrap(), "llama");
    assert_eq!(gguf.texts("names").unwrap(), ["a", "é"]);
    let entry = gguf.tensor("w").unwrap();
    assert_eq!((entry.shape.as_slice(), gguf.data(entry).len()), (&[32, 2][..], 68));
    assert!(matches!(gguf.unsigned("names"), Err(GgufError::KeyType { .. })));
}

#[test]
fn long_lists_and_long_headers_are_refused_before_they_take_memory() {
    // Many lists, each within reason.
    let mut bytes = sample()[..16].to_vec();
    bytes.extend(3u64.to_le_bytes());
    for name in ["a", "b", "c"] {
        bytes.extend(1u64.to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend(9u32.to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
        bytes.extend((MAX_ITEMS / 2).to_le_bytes());
        bytes.resize(bytes.len() + MAX_ITEMS as usize / 2, 0);
    }
    assert!(matches!(Gguf::parse(&bytes), Err(GgufError::Bound { what: "number of list items", .. })));

    // One text that is nearly the whole file.
    let mut bytes = sample()[..24].to_vec();
    let length = MAX_HEADER_BYTES as u64 + 1;
    bytes.extend(length.to_le_bytes());
    bytes.resize(bytes.len() + length as usize, b'x');
    assert!(matches!(Gguf::parse(&bytes), Err(GgufError::Bound { what: "header length", .. })));
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = sample();
    for length in 0..bytes.len() {
        assert!(Gguf::parse(&bytes[..length]).is_err(), "{length} bytes");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn damaged_headers_never_panic(at in 0usize..250, bytes in prop::collection::vec(any::<u8>(), 1..9)) {
        let mut file = sample();
        for (i, byte) in bytes.into_iter().enumerate() {
            if let Some(b) = file.get_mut(at + i) { *b = byte }
        }
        if let Ok(gguf) = Gguf::parse(&file) {
            for name in gguf.tensor_names() {
                let entry = gguf.tensor(name).unwrap();
                prop_assert_eq!(gguf.data(entry).len(), entry.bytes);
            }
        }
    }

    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut file = sample()[..8].to_vec();
        file.extend(bytes);
        let _ = Gguf::parse(&file);
    }
}
