//! Token ids, one by one, to whole characters.

use std::sync::Arc;

use tokenizers::{DecoderWrapper, Tokenizer};

use crate::vocabulary::byte_level;

/// Most tokens that the generic path decodes together while it waits for a character to become whole.
const MAX_HELD_TOKENS: usize = 16;

/// Turns a stream of token ids into text, never emitting half a character; special tokens are skipped.
///
/// The pieces together are `tokenizer.decode(all)`, except that an answer cut in the middle of a character ends before
/// that character.
#[derive(Clone)]
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    state: State,
}

#[derive(Clone)]
enum State {
    /// Byte-level BPE (GPT-2 alphabet): tokens are bytes, and only UTF-8 has to be made whole.
    ByteLevel { tail: Vec<u8> },
    /// Any other decoder (byte fallback, metaspace): decode with a little context, as Hugging Face does.
    Generic { ids: Vec<u32>, context: usize, shown: String },
}

impl Detokenizer {
    pub(crate) fn new(tokenizer: Arc<Tokenizer>) -> Self {
        let state = match tokenizer.get_decoder() {
            Some(DecoderWrapper::ByteLevel(_)) => State::ByteLevel { tail: Vec::new() },
            _ => State::Generic { ids: Vec::new(), context: 0, shown: String::new() },
        };
        Self { tokenizer, state }
    }

    /// Takes the next token and returns the characters that it completes, often none.
    pub fn push(&mut self, token: u32) -> String {
        let Some(text) = self.tokenizer.id_to_token(token) else {
            return String::new();
        };
        if self.tokenizer.get_added_vocabulary().is_special_token(&text) {
            return String::new();
        }
        match &mut self.state {
            State::ByteLevel { tail } => {
                tail.extend(byte_level(&text));
                take_whole_characters(tail)
            }
            State::Generic { ids, context, shown } => {
                ids.push(token);
                push_generic(&self.tokenizer, ids, context, shown)
            }
        }
    }

    /// Ends the stream. Returns what was held back, if it is whole; half a character is dropped.
    pub fn finish(&mut self) -> String {
        match &mut self.state {
            State::ByteLevel { tail } => {
                tail.clear();
                String::new()
            }
            State::Generic { ids, shown, .. } => {
                let text = self.tokenizer.decode(ids, true).unwrap_or_default();
                ids.clear();
                let rest = text.strip_prefix(shown.as_str()).unwrap_or_default();
                rest.trim_end_matches(char::REPLACEMENT_CHARACTER).to_owned()
            }
        }
    }
}

/// Drains what is certain: whole characters, and U+FFFD for bytes that no continuation can mend (as
/// `String::from_utf8_lossy` does). At most three bytes of an unfinished character stay.
fn take_whole_characters(tail: &mut Vec<u8>) -> String {
    let mut out = String::new();
    let mut used = 0;
    for chunk in tail.utf8_chunks() {
        out.push_str(chunk.valid());
        used += chunk.valid().len();
        let rest = chunk.invalid();
        let at_end = used + rest.len() == tail.len();
        let unfinished = at_end && matches!(std::str::from_utf8(rest), Err(e) if e.error_len().is_none());
        if rest.is_empty() || unfinished {
            break;
        }
        out.push(char::REPLACEMENT_CHARACTER);
        used += rest.len();
    }
    tail.drain(..used);
    out
}

/// Decodes the held tokens together; what is new beyond `shown` is emitted when it ends in a whole character.
fn push_generic(tokenizer: &Tokenizer, ids: &mut Vec<u32>, context: &mut usize, shown: &mut String) -> String {
    let text = tokenizer.decode(ids, true).unwrap_or_default();
    let unfinished = text.ends_with(char::REPLACEMENT_CHARACTER) && ids.len() - *context < MAX_HELD_TOKENS;
    if unfinished {
        return String::new();
    }
    let Some(rest) = text.strip_prefix(shown.as_str()).map(str::to_owned) else {
        return String::new();
    };
    // The last emitted tokens stay as context: the decoder treats the first token of a text specially.
    ids.drain(..*context);
    *context = ids.len();
    *shown = tokenizer.decode(ids, true).unwrap_or_default();
    rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_of_an_emoji_come_out_together() {
        let mut tail = Vec::new();
        let mut out = Vec::new();
        for byte in "é🙂".bytes() {
            tail.push(byte);
            out.push(take_whole_characters(&mut tail));
        }
        assert_eq!(out, ["", "é", "", "", "", "🙂"]);
    }

    proptest! {
        #[test]
        fn pieces_equal_lossy_decoding_of_the_whole(bytes in prop::collection::vec(any::<u8>(), 0..64), cut in 1usize..5) {
            let mut tail = Vec::new();
            let mut out = String::new();
            for piece in bytes.chunks(cut) {
                tail.extend_from_slice(piece);
                out.push_str(&take_whole_characters(&mut tail));
            }
            prop_assert!(tail.len() <= 3);
            if !tail.is_empty() {
                out.push(char::REPLACEMENT_CHARACTER);
            }
            prop_assert_eq!(out, String::from_utf8_lossy(&bytes).into_owned());
        }
    }
}
