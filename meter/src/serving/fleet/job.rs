//! What the fleet knows of one job, and whether a node's frame can be its next tokens.

use tokio::sync::mpsc;
use wire::node::TokenLogprobs;

use super::NodeEvent;

/// Where a job's events go, and what may come next.
pub(super) struct JobSlot {
    pub(super) events: mpsc::Sender<NodeEvent>,
    pub(super) next: u32,
    pub(super) max_tokens: u32,
    /// Alternatives that the job asks for beside each token, if it asks for log-probabilities.
    pub(super) logprobs: Option<u32>,
}

impl JobSlot {
    /// Why these are not the next tokens of the job; `None` when they are.
    pub(super) fn fault(&self, first: u32, tokens: &[u32], logprobs: Option<&[TokenLogprobs]>) -> Option<String> {
        if first != self.next {
            return Some(format!("tokens from {first} on were sent where {} was the next", self.next));
        }
        match (self.logprobs, logprobs) {
            (None, None) => None,
            (None, Some(_)) => Some("log-probabilities were sent that nobody asked for".to_owned()),
            (Some(_), None) => Some("log-probabilities were asked for and not sent".to_owned()),
            (Some(_), Some(given)) if given.len() != tokens.len() => {
                Some(format!("{} log-probabilities were sent for {} tokens", given.len(), tokens.len()))
            }
            (Some(count), Some(given)) => {
                given.iter().any(|given| !is_possible(given, count)).then(|| format!("log-probabilities that are none, or not {count}"))
            }
        }
    }
}

/// Whether these can be logarithms of probabilities, `count` alternatives in descending order.
fn is_possible(given: &TokenLogprobs, count: u32) -> bool {
    let in_range = |logprob: &f32| (TokenLogprobs::LEAST..=0.0).contains(logprob);
    given.top.len() == count as usize
        && in_range(&given.logprob)
        && given.top.iter().all(|(_, logprob)| in_range(logprob))
        && given.top.is_sorted_by(|a, b| a.1 >= b.1)
}
