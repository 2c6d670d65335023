//! The bytes that each token stands for.

use tokenizers::{DecoderWrapper, Tokenizer};

/// How a tokenizer writes bytes into the text of its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Alphabet {
    /// GPT-2's: each character is a byte.
    ByteLevel,
    /// SentencePiece's: `▁` is a space, `<0x0A>` a byte.
    Metaspace,
    /// The text is the bytes.
    Plain,
}

/// Bytes of token `id`, the real ones, of which a character may have several tokens. A special token has those of its own
/// name; `None` when there is no such token.
pub(crate) fn bytes(tokenizer: &Tokenizer, id: u32) -> Option<Vec<u8>> {
    let text = tokenizer.id_to_token(id)?;
    if tokenizer.get_added_vocabulary().is_special_token(&text) {
        return Some(text.into_bytes());
    }
    Some(match alphabet(tokenizer) {
        Alphabet::ByteLevel => byte_level(&text),
        Alphabet::Metaspace => metaspace(&text),
        Alphabet::Plain => text.into_bytes(),
    })
}

/// Bytes of a byte-level token as Hugging Face's decoder sees them: a token with a character outside the byte alphabet
/// (an added token) stands for its own UTF-8.
pub(crate) fn byte_level(text: &str) -> Vec<u8> {
    text.chars().map(byte_of).collect::<Option<Vec<u8>>>().unwrap_or_else(|| text.as_bytes().to_vec())
}

fn alphabet(tokenizer: &Tokenizer) -> Alphabet {
    match tokenizer.get_decoder() {
        Some(DecoderWrapper::ByteLevel(_)) => Alphabet::ByteLevel,
        Some(DecoderWrapper::Metaspace(_) | DecoderWrapper::ByteFallback(_)) => Alphabet::Metaspace,
        Some(DecoderWrapper::Sequence(parts)) => {
            let parts = parts.get_decoders();
            if parts.iter().any(|part| matches!(part, DecoderWrapper::ByteLevel(_))) {
                Alphabet::ByteLevel
            } else if parts.iter().any(|part| matches!(part, DecoderWrapper::Metaspace(_) | DecoderWrapper::ByteFallback(_))) {
                Alphabet::Metaspace
            } else {
                Alphabet::Plain
            }
        }
        _ => Alphabet::Plain,
    }
}

/// Inverse of GPT-2's byte alphabet: printable Latin-1 stands for itself, the other 68 bytes follow from U+0100 on.
fn byte_of(c: char) -> Option<u8> {
    match u32::from(c) {
        code @ (0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) => u8::try_from(code).ok(),
        code @ 0x100..=0x120 => u8::try_from(code - 0x100).ok(),
        code @ 0x121..=0x142 => u8::try_from(code - 0x121 + 0x7F).ok(),
        0x143 => Some(0xAD),
        _ => None,
    }
}

fn metaspace(text: &str) -> Vec<u8> {
    let byte = text
        .strip_prefix("<0x")
        .and_then(|rest| rest.strip_suffix('>'))
        .filter(|digits| digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
    match byte.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
        Some(byte) => vec![byte],
        None => text.replace('▁', " ").into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_alphabet_is_a_bijection_on_bytes() {
        let mut seen = [false; 256];
        let chars = (0..0x144).filter_map(char::from_u32).filter_map(byte_of);
        for byte in chars {
            assert!(!std::mem::replace(&mut seen[usize::from(byte)], true), "byte {byte} twice");
        }
        assert!(seen.iter().all(|s| *s));
    }

    #[test]
    fn sentencepiece_tokens_are_spaces_and_bytes() {
        assert_eq!(metaspace("▁a▁b"), b" a b");
        assert_eq!(metaspace("<0xF0>"), [0xF0]);
        assert_eq!(metaspace("<0x+1>"), b"<0x+1>".map(|b| b), "a sign is no digit");
    }
}
