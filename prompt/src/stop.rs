//! Stop strings over a stream of text pieces.
//!
//! The match that *completes* first wins, and of those that complete at the same byte the one that starts first. This is
//! the only rule whose outcome does not depend on how the text is cut into pieces.

/// Most stop strings of one request; OpenAI allows 4, the open engines more.
pub const MAX_STOPS: usize = 16;
/// Longest stop string in bytes; bounds what a stream holds back.
pub const MAX_STOP_BYTES: usize = 256;

/// Why a set of stop strings was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StopError {
    #[error("{count} stop strings were given, at most {MAX_STOPS} are allowed; send fewer")]
    TooMany { count: usize },
    #[error("stop string {index} is empty; remove it, or name the text to stop at")]
    Empty { index: usize },
    #[error("stop string {index} is {bytes} bytes long, at most {MAX_STOP_BYTES} are allowed; shorten it")]
    TooLong { index: usize, bytes: usize },
}

/// What a piece of text brought.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StopOutcome {
    /// Text that may be shown now: it is part of no stop string, whatever follows.
    pub emit: String,
    /// A stop string is complete. The answer ends after `emit`; the stop string itself is not shown.
    pub stopped: bool,
}

/// Finds stop strings in a stream and holds back what may be the beginning of one.
#[derive(Debug, Clone, Default)]
pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
    stopped: bool,
}

impl StopMatcher {
    /// Refuses empty, over-long and too many stop strings.
    pub fn new(stops: Vec<String>) -> Result<Self, StopError> {
        if stops.len() > MAX_STOPS {
            return Err(StopError::TooMany { count: stops.len() });
        }
        for (index, stop) in stops.iter().enumerate() {
            if stop.is_empty() {
                return Err(StopError::Empty { index });
            }
            if stop.len() > MAX_STOP_BYTES {
                return Err(StopError::TooLong { index, bytes: stop.len() });
            }
        }
        Ok(Self { stops, held: String::new(), stopped: false })
    }

    /// Takes the next piece of the answer. After a stop nothing more is emitted.
    pub fn push(&mut self, piece: &str) -> StopOutcome {
        if self.stopped {
            return StopOutcome { emit: String::new(), stopped: true };
        }
        if self.stops.is_empty() {
            return StopOutcome { emit: piece.to_owned(), stopped: false };
        }

        let seen = self.held.len();
        self.held.push_str(piece);
        for end in seen + 1..=self.held.len() {
            if let Some(start) = self.match_ending_at(end) {
                self.stopped = true;
                self.held.truncate(start);
                return StopOutcome { emit: std::mem::take(&mut self.held), stopped: true };
            }
        }

        let keep = self.partial_match_bytes();
        let rest = self.held.split_off(self.held.len() - keep);
        StopOutcome { emit: std::mem::replace(&mut self.held, rest), stopped: false }
    }

    /// The answer ended without a stop string: what was held back is part of it.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Whether a stop string has been found.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// Start of the longest stop string whose last byte is just before `end`.
    fn match_ending_at(&self, end: usize) -> Option<usize> {
        let text = self.held.as_bytes().get(..end)?;
        self.stops.iter().filter(|stop| text.ends_with(stop.as_bytes())).map(|stop| end - stop.len()).min()
    }

    /// Length of the longest end of the held text that is the beginning of a stop string.
    fn partial_match_bytes(&self) -> usize {
        let text = self.held.as_bytes();
        let longest = |stop: &String| {
            let most = text.len().min(stop.len() - 1);
            (1..=most).rev().find(|&n| text.ends_with(&stop.as_bytes()[..n])).unwrap_or(0)
        };
        self.stops.iter().map(longest).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let mut matcher = StopMatcher::new(stops.iter().map(|s| (*s).to_owned()).collect()).unwrap();
        let mut text = String::new();
        for piece in pieces {
            text.push_str(&matcher.push(piece).emit);
        }
        let stopped = matcher.stopped();
        if !stopped {
            text.push_str(&matcher.finish());
        }
        (text, stopped)
    }

    #[test]
    fn stop_over_piece_boundaries_cuts_before_its_first_byte() {
        assert_eq!(stream(&["END"], &["ab E", "N", "D tail"]), ("ab ".to_owned(), true));
    }

    #[test]
    fn partial_match_that_fails_is_emitted() {
        assert_eq!(stream(&["END"], &["E", "NE", "NX"]), ("ENENX".to_owned(), false));
    }

    #[test]
    fn match_that_completes_first_wins_however_the_text_is_cut() {
        assert_eq!(stream(&["abcd", "bc"], &["abcd"]), ("a".to_owned(), true));
        assert_eq!(stream(&["abcd", "bc"], &["ab", "cd"]), ("a".to_owned(), true));
    }

    #[test]
    fn stop_inside_multi_byte_text_cuts_at_a_character() {
        assert_eq!(stream(&["🙂"], &["é🙃", "🙂x"]), ("é🙃".to_owned(), true));
    }

    #[test]
    fn unusable_stop_strings_are_refused() {
        assert_eq!(StopMatcher::new(vec![String::new()]).unwrap_err(), StopError::Empty { index: 0 });
        assert_eq!(StopMatcher::new(vec!["x".repeat(300)]).unwrap_err(), StopError::TooLong { index: 0, bytes: 300 });
        assert_eq!(StopMatcher::new(vec!["x".to_owned(); 10_000]).unwrap_err(), StopError::TooMany { count: 10_000 });
    }

    /// The rule, written without streaming: the first end at which any stop completes, and its earliest start.
    fn reference(text: &str, stops: &[String]) -> (String, bool) {
        for end in 1..=text.len() {
            let start = stops.iter().filter(|s| text.as_bytes()[..end].ends_with(s.as_bytes())).map(|s| end - s.len());
            if let Some(start) = start.min() {
                return (text[..start].to_owned(), true);
            }
        }
        (text.to_owned(), false)
    }

    proptest! {
        #[test]
        fn outcome_does_not_depend_on_the_pieces(
            pieces in prop::collection::vec("[abé🙂]{0,4}", 0..12),
            stops in prop::collection::vec("[abé🙂]{1,3}", 0..4),
        ) {
            let text = pieces.concat();
            let stop_refs: Vec<&str> = stops.iter().map(String::as_str).collect();
            let piece_refs: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let expected = reference(&text, &stops);
            prop_assert_eq!(stream(&stop_refs, &piece_refs), expected.clone());
            prop_assert_eq!(stream(&stop_refs, &[&text]), expected);
        }
    }
}
