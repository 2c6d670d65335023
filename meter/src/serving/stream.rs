//! Token ids in, text out, and where the answer ends whatever the node sends. Pure: no I/O, no clock.

use std::collections::VecDeque;

use prompt::{Detokenizer, Prompter, StopError, StopMatcher};
use wire::node::{FinishReason, SamplingParams, TokenLogprobs};
use wire::receipt::tokens_hash;
use wire::{B256, keccak256};

/// Longest text of one answer, bytes; a token is rarely above 16 bytes, and no context is above 256k tokens.
const TEXT_BYTES_MAX: usize = 4 << 20;

/// Tokens as they came from a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tokens {
    /// The ids, in order.
    pub ids: Vec<u32>,
    /// One for each id when the job asks for them, else empty.
    pub logprobs: Vec<TokenLogprobs>,
}

/// What a client sees of an answer next.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Piece {
    /// Whole characters; may be empty.
    pub text: String,
    /// Tokens whose text is shown by now, when log-probabilities were asked for.
    pub scored: Vec<ScoredToken>,
}

/// A token of the text with its log-probabilities.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredToken {
    /// Its id.
    pub token: u32,
    /// Of it and of those beside it.
    pub logprobs: TokenLogprobs,
    /// Characters of the answer before it.
    pub text_offset: u32,
}

/// A scored token and the bytes of text that are its own.
struct Held {
    scored: ScoredToken,
    start: usize,
    end: usize,
}

/// One answer as the meter counts it.
pub struct AnswerStream {
    detokenizer: Detokenizer,
    stops: StopMatcher,
    end_of_turn: Vec<u32>,
    max_tokens: u32,
    tokens: Vec<u32>,
    text_bytes: usize,
    /// Bytes and characters of text so far, shown or held back because a stop string may begin there.
    made: (usize, u32),
    held: VecDeque<Held>,
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
            made: (0, 0),
            held: VecDeque::new(),
            end: None,
        })
    }

    /// Takes tokens in order and returns the text that they complete. Tokens after the end do not exist; the one that ends
    /// the answer (end-of-turn, last of a stop string, `max_tokens`-th) is counted.
    pub fn push(&mut self, tokens: Tokens) -> Piece {
        let mut text = String::new();
        let mut logprobs = tokens.logprobs.into_iter();
        for token in tokens.ids {
            if self.end.is_some() {
                break;
            }
            text.push_str(&self.push_one(token, logprobs.next()));
        }
        Piece { text, scored: self.shown() }
    }

    /// The rest of the text once nothing more comes.
    pub fn finish(&mut self) -> Piece {
        if self.stops.stopped() {
            return Piece::default();
        }
        let rest = self.detokenizer.finish();
        let outcome = self.stops.push(&rest);
        let text = if outcome.stopped { outcome.emit } else { outcome.emit + &self.stops.finish() };
        self.text_bytes += text.len();
        Piece { text, scored: self.shown() }
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

    fn push_one(&mut self, token: u32, logprobs: Option<TokenLogprobs>) -> String {
        self.tokens.push(token);
        if self.end_of_turn.contains(&token) {
            self.end = Some(FinishReason::Stop);
            return String::new();
        }
        let piece = self.detokenizer.push(token);
        let (start, text_offset) = self.made;
        self.made = (start + piece.len(), text_offset + piece.chars().count() as u32);
        if let Some(logprobs) = logprobs {
            self.held.push_back(Held { scored: ScoredToken { token, logprobs, text_offset }, start, end: self.made.0 });
        }
        let outcome = self.stops.push(&piece);
        self.text_bytes += outcome.emit.len();
        if outcome.stopped {
            self.end = Some(FinishReason::Stop);
        } else if self.tokens.len() >= self.max_tokens as usize || self.text_bytes > TEXT_BYTES_MAX {
            self.end = Some(FinishReason::Length);
        }
        outcome.emit
    }
}

impl AnswerStream {
    /// Scored tokens whose text is shown by now. Those of a stop string never are; one that begins before it is.
    fn shown(&mut self) -> Vec<ScoredToken> {
        let (shown, stopped) = (self.text_bytes, self.stops.stopped());
        let is_shown = |held: &Held| held.end <= shown || (stopped && held.start < shown);
        let count = self.held.iter().take_while(|held| is_shown(held)).count();
        self.held.drain(..count).map(|held| held.scored).collect()
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
        let text = answer.push(plain(&tokens)).text + &answer.finish().text;
        assert_eq!((text.as_str(), answer.count(), answer.end()), ("hello there", spoken + 1, Some(FinishReason::Stop)));
        assert_eq!(answer.hash(), tokens_hash(&tokens[..spoken as usize + 1]));
    }

    #[test]
    fn a_stop_string_over_several_tokens_is_cut_out_and_its_last_token_counted() {
        let prompter = prompter();
        let tokens = prompter.encode("one two END three").unwrap();
        let upto = prompter.encode("one two END").unwrap().len() as u32;
        let mut answer = AnswerStream::new(&prompter, &params(100, &["END"])).unwrap();
        let text: String = tokens.iter().map(|token| answer.push(plain(&[*token])).text).collect::<String>() + &answer.finish().text;
        assert_eq!((text.as_str(), answer.count(), answer.end()), ("one two ", upto, Some(FinishReason::Stop)));
    }

    fn plain(ids: &[u32]) -> Tokens {
        Tokens { ids: ids.to_vec(), logprobs: Vec::new() }
    }

    /// Token ids with a log-probability each, and what of them is shown in frames of `cut` tokens.
    fn shown(ids: &[u32], params: &SamplingParams, cut: usize) -> (String, Vec<ScoredToken>) {
        let mut answer = AnswerStream::new(&prompter(), params).unwrap();
        let scored = |ids: &[u32]| {
            let logprobs = ids.iter().map(|id| TokenLogprobs { logprob: -(*id as f32), top: Vec::new() }).collect();
            Tokens { ids: ids.to_vec(), logprobs }
        };
        let mut pieces: Vec<Piece> = ids.chunks(cut).map(|ids| answer.push(scored(ids))).collect();
        pieces.push(answer.finish());
        (pieces.iter().map(|piece| piece.text.as_str()).collect(), pieces.into_iter().flat_map(|piece| piece.scored).collect())
    }

    #[test]
    fn scored_tokens_are_those_of_the_text_without_stop_string_and_end_of_turn() {
        let prompter = prompter();
        let ids = |text: &str| prompter.encode(text).unwrap();
        for cut in 1..6 {
            let (text, scored) = shown(&ids("é one END two"), &params(100, &["END"]), cut);
            assert_eq!((text.as_str(), scored.iter().map(|scored| scored.token).collect()), ("é one ", ids("é one ")));
            assert!(scored.iter().all(|scored| scored.logprobs.logprob == -(scored.token as f32)));
            let ended = [ids("é one EN"), vec![prompter.eos_token_ids()[0]]].concat();
            let (text, scored) = shown(&ended, &params(100, &["END"]), cut);
            assert_eq!((text.as_str(), scored.len()), ("é one EN", ended.len() - 1), "what was held back is shown at the end");
            assert!(scored.is_sorted_by_key(|scored| scored.text_offset));
            assert_eq!(scored.last().unwrap().text_offset, 7, "characters, not bytes");
        }
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
                let whole_text = whole.push(plain(&tokens)).text + &whole.finish().text;
                let mut framed = AnswerStream::new(prompter, &params).unwrap();
                let framed_text = tokens.chunks(cut).map(|frame| framed.push(plain(frame)).text).collect::<String>() + &framed.finish().text;
                prop_assert_eq!(whole_text, framed_text);
                prop_assert_eq!((whole.count(), whole.end(), whole.hash()), (framed.count(), framed.end(), framed.hash()));
                prop_assert!(whole.count() <= max_tokens);
                prop_assert_eq!(whole.hash_of_first(whole.count()), Some(whole.hash()));
                Ok(())
            })?;
        }
    }
}
