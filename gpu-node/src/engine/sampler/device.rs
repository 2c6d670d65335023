//! Draws that a device makes from the logits where they lie.

use std::collections::BTreeMap;

use super::{Drawn, SampleError, Sampler, uniform};
use crate::backend::{Change, Draw};

impl Sampler {
    /// What a device needs to draw the next token; `None` when log-probabilities or a format need the logits themselves.
    pub fn for_device(&self) -> Option<Draw> {
        let p = &self.params;
        if p.logprobs.is_some() || self.grammar.is_some() {
            return None;
        }
        Some(Draw {
            temperature: p.temperature,
            top_k: p.top_k,
            top_p: p.top_p,
            min_p: p.min_p,
            repetition_penalty: p.repetition_penalty,
            uniform: uniform(p.seed, self.drawn),
            changes: self.changes(),
        })
    }

    /// Takes a token that a device has drawn as [`Self::for_device`] says.
    pub fn take(&mut self, token: u32) -> Result<Drawn, SampleError> {
        self.accept(token)?;
        Ok(Drawn { token, logprobs: None })
    }

    /// What `adjust` does, token by token.
    fn changes(&self) -> Vec<Change> {
        let mut changes: BTreeMap<u32, Change> = BTreeMap::new();
        let mut of = |token: u32, alter: &dyn Fn(&mut Change)| {
            alter(changes.entry(token).or_insert(Change { token, is_repeated: false, minus: None, bias: None }));
        };
        for token in &self.in_prompt {
            of(*token, &|change| change.is_repeated = true);
        }
        for (token, count) in &self.in_answer {
            let minus = self.lessened_by(*count);
            of(*token, &|change| (change.is_repeated, change.minus) = (true, Some(minus)));
        }
        for (token, bias) in &self.params.logit_bias {
            of(*token, &|change| change.bias = Some(*bias));
        }
        changes.into_values().collect()
    }
}
