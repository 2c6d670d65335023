//! What happens to an answer, as the objects that a stream shows: for one client's stream and for a job's log alike.

use serde_json::{Value, json};

use super::answer::{Frame, finish_reason, usage};
use crate::serving::request::{AnswerEvent, Outcome, ServeError};

/// Turns events into chunks.
pub(super) struct Chunks {
    pub(super) frame: Frame,
    /// Whether usage is a chunk of its own, and null in the others.
    pub(super) include_usage: bool,
}

/// What an event becomes.
pub(super) struct Shown {
    /// In order.
    pub(super) chunks: Vec<Value>,
    /// Whether these are the last ones.
    pub(super) over: bool,
}

impl Chunks {
    /// The chunks of one event.
    pub(super) fn of(&self, event: AnswerEvent) -> Shown {
        match event {
            AnswerEvent::Started(_) => {
                Shown { chunks: self.frame.role_choice().map(|choice| self.chunk(choice)).into_iter().collect(), over: false }
            }
            AnswerEvent::Text(piece) => Shown { chunks: vec![self.chunk(self.frame.text_choice(&piece))], over: false },
            AnswerEvent::Done(outcome) => Shown { chunks: self.end(&outcome), over: true },
            AnswerEvent::Failed(error, outcome) => Shown { chunks: vec![self.failure(error, outcome.as_deref())], over: true },
        }
    }

    fn chunk(&self, choices: Value) -> Value {
        let mut chunk = self.frame.chunk(choices);
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    fn end(&self, outcome: &Outcome) -> Vec<Value> {
        let mut chunks = Vec::with_capacity(2);
        let mut last = self.frame.chunk(self.frame.end_choice(finish_reason(outcome.end)));
        // All of them on the last choice: a client that joins the ids of all chunks has the same.
        self.frame.add_token_ids(&mut last, outcome);
        if self.include_usage {
            last["usage"] = Value::Null;
            chunks.push(last);
            last = self.frame.chunk(json!([]));
        }
        last["usage"] = usage(outcome);
        last["parallelix"] = self.frame.parallelix(outcome);
        chunks.push(last);
        chunks
    }

    fn failure(&self, error: ServeError, outcome: Option<&Outcome>) -> Value {
        let mut last = self.frame.chunk(self.frame.end_choice("error"));
        last["error"] = self.frame.failure(error, outcome, None).object();
        if let Some(outcome) = outcome {
            last["usage"] = usage(outcome);
            last["parallelix"] = self.frame.parallelix(outcome);
        }
        last
    }
}
