//! What the node remembers of the requests it served last, so that it signs for no more than that.

use std::collections::{HashMap, VecDeque};

use wire::B256;

use super::terms::Answer;

/// Answers kept at most. A meter asks within seconds, or after its own restart.
const ANSWERS_MAX: usize = 8_192;
/// Tokens of all kept answers together at most: 16 MiB.
const TOKENS_MAX: usize = 4 << 20;

/// The last answers, oldest forgotten first.
#[derive(Debug, Default)]
pub(super) struct Served {
    answers: HashMap<B256, Answer>,
    order: VecDeque<B256>,
    tokens: usize,
}

impl Served {
    /// Keeps `answer`, in place of an earlier one of the same request.
    pub(super) fn remember(&mut self, answer: Answer) {
        let id = answer.terms.request_id();
        self.tokens += answer.completion.len();
        match self.answers.insert(id, answer) {
            Some(earlier) => self.tokens -= earlier.completion.len(),
            None => self.order.push_back(id),
        }
        while self.answers.len() > ANSWERS_MAX || (self.tokens > TOKENS_MAX && self.answers.len() > 1) {
            let Some(oldest) = self.order.pop_front() else { return };
            self.tokens -= self.answers.remove(&oldest).map_or(0, |answer| answer.completion.len());
        }
    }

    /// What was served for `request_id`, when it is not forgotten.
    pub(super) fn answer(&self, request_id: &B256) -> Option<&Answer> {
        self.answers.get(request_id)
    }
}
