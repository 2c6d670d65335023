//! Token ids in, text out, and where the answer ends whatever the node sends. Pure: no I/O, no clock.

use prompt::{Detokenizer, Prompter, StopError, StopMatcher};
use wire::node::{FinishReason, SamplingParams};
use wire::receipt::tokens_hash;
use wire::{B256, keccak256};

/// Longest text of one answer, bytes; a token is rarely above 16 bytes, and no context is above 256k tokens.
const TEXT_BYTES_MAX: usize = 4 << 20;

/// One answer as the meter counts it.
pub struct AnswerStream {
    detokenizer: Detokenizer,
    stops: StopMatcher,
    end_of_turn: Vec<u32>,
    max_tokens: u32,
    tokens: Vec<u32>,
    text_bytes: usize,
    end: Option<FinishReason>,
}

impl AnswerStream {
    /// An empty answer under `params`. Errors on stop strings that [`SamplingParams::check`] refuses too.
    pub fn new(prompter: &Prompter, params: &SamplingParams) -> Result<Self, StopError> {
        let mut end_of_turn = prompter.eos_token_ids().to_vec();
        end_of_turn.extend(&params.stop_token_ids);
        Ok(Self {
            detokenizer: prompter.detokenizer(),
            stops: StopMatcher::new(params.stop.clone())?,
            end_of_turn,
            max_tokens: params.max_tokens,
            tokens: Vec::new(),
            text_bytes: 0,
            end: None,
        })
    }

    /// Takes tokens in order and returns the text that they complete. Tokens after the end do not exist; the one that ends
    /// the answer (end-of-turn, last of a stop string, `max_tokens`-th) is counted.
    pub fn push(&mut self, tokens: &[u32]) -> String {
        let mut text = String::new();
        for token in tokens {
            if self.end.is_some() {
                break;
            }
            text.push_str(&self.push_one(*token));
        }
        text
    }

    /// The rest of the text once nothing more comes.
    pub fn finish(&mut self) -> String {
        if self.stops.stopped() {
            return String::new();
        }
        let rest = self.detokenizer.finish();
        let outcome = self.stops.push(&rest);
        if outcome.stopped { outcome.emit } else { outcome.emit + &self.stops.finish() }
    }

    /// Why the answer is over, if it is.
    pub fn end(&self) -> Option<FinishReason> {
        self.end
    }

    /// Tokens so far.
    pub fn count(&self) -> u32 {
        // At most `max_tokens`.
        self.tokens.len() as u32
    }

    /// The first `count` token ids, or all when there are fewer.
    pub fn tokens(&self, count: u32) -> &[u32] {
        self.tokens.get(..count as usize).unwrap_or(&self.tokens)
    }

    /// Hash of the token ids so far.
    pub fn hash(&self) -> B256 {
        tokens_hash(&self.tokens)
    }

    /// Hash of the first `count` token ids; `None` when there are fewer.
    pub fn hash_of_first(&self, count: u32) -> Option<B256> {
        self.tokens.get(..count as usize).map(tokens_hash)
    }

    fn push_one(&mut self, token: u32) -> String {
        self.tokens.push(token);
        if self.end_of_turn.contains(&token) {
            self.end = Some(FinishReason::Stop);
            return String::new();
        }
        let outcome = self.stops.push(&self.detokenizer.push(token));
        self.text_bytes += outcome.emit.len();
        if outcome.stopped {
            self.end = Some(FinishReason::Stop);
        } else if self.tokens.len() >= self.max_tokens as usize || self.text_bytes > TEXT_BYTES_MAX {
            self.end = Some(FinishReason::Length);
        }
        outcome.emit
    }
}

/// Hash of an answer without tokens.
pub fn empty_hash() -> B256 {
    keccak256([])
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    fn prompter() -> Prompter {
        Prompter::open(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/model"))).unwrap()
    }

    fn params(max_tokens: u32, stop: &[&str]) -> SamplingParams {
        SamplingParams { stop: stop.iter().map(|stop| (*stop).to_owned()).collect(), ..SamplingParams::greedy(max_tokens) }
    }

    #[test]
    fn the_end_of_turn_is_counted_and_what_follows_does_not_exist() {
        let prompter = prompter();
        let eos = prompter.eos_token_ids()[0];
        let mut tokens = prompter.encode("hello there").unwrap();
        let spoken = tokens.len() as u32;
        tokens.extend([eos, tokens[0], tokens[0]]);
        let mut answer = AnswerStream::new(&prompter, &params(100, &[])).unwrap();
        let text = answer.push(&tokens) + &answer.finish();
        assert_eq!((text.as_str(), answer.count(), answer.end()), ("hello there", spoken + 1, Some(FinishReason::Stop)));
        assert_eq!(answer.hash(), tokens_hash(&tokens[..spoken as usize + 1]));
    }

    #[test]
    fn a_stop_string_over_several_tokens_is_cut_out_and_its_last_token_counted() {
        let prompter = prompter();
        let tokens = prompter.encode("one two END three").unwrap();
        let upto = prompter.encode("one two END").unwrap().len() as u32;
        let mut answer = AnswerStream::new(&prompter, &params(100, &["END"])).unwrap();
        let text: String = tokens.iter().map(|token| answer.push(&[*token])).collect::<String>() + &answer.finish();
        assert_eq!((text.as_str(), answer.count(), answer.end()), ("one two ", upto, Some(FinishReason::Stop)));
    }

    #[test]
    fn nothing_arrived_hashes_to_nothing() {
        let answer = AnswerStream::new(&prompter(), &params(1, &[])).unwrap();
        assert_eq!((answer.count(), answer.hash(), answer.end()), (0, empty_hash(), None));
    }

    proptest! {
        #[test]
        fn cutting_into_frames_changes_nothing(
            tokens in prop::collection::vec(0u32..262, 0..60), cut in 1usize..7, max_tokens in 1u32..50,
        ) {
            thread_local!(static PROMPTER: Prompter = prompter());
            PROMPTER.with(|prompter| {
                let params = params(max_tokens, &["ab", "c"]);
                let mut whole = AnswerStream::new(prompter, &params).unwrap();
                let whole_text = whole.push(&tokens) + &whole.finish();
                let mut framed = AnswerStream::new(prompter, &params).unwrap();
                let framed_text = tokens.chunks(cut).map(|frame| framed.push(frame)).collect::<String>() + &framed.finish();
                prop_assert_eq!(whole_text, framed_text);
                prop_assert_eq!((whole.count(), whole.end(), whole.hash()), (framed.count(), framed.end(), framed.hash()));
                prop_assert!(whole.count() <= max_tokens);
                prop_assert_eq!(whole.hash_of_first(whole.count()), Some(whole.hash()));
                Ok(())
            })?;
        }
    }
}
