//! How fast each model answered lately, as measured here.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Answers that count; enough for a steady median, few enough that an hour-old crowd is forgotten.
const ANSWERS_MAX: usize = 64;

/// One answer.
#[derive(Clone, Copy, Debug)]
pub struct AnswerSpeed {
    /// From the job's way to its node until its first token.
    pub first_token: Duration,
    /// From the first token to the last, when there were several.
    pub tokens_per_s: Option<f64>,
}

/// Medians over a model's last answers; each `None` before any.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Medians {
    /// Milliseconds.
    pub first_token_ms: Option<f64>,
    /// Tokens per second of one answer.
    pub tokens_per_s: Option<f64>,
}

/// The last answers of every model.
#[derive(Default)]
pub struct Speeds(Mutex<HashMap<String, VecDeque<AnswerSpeed>>>);

impl Speeds {
    /// Books an answer. `model` is one of the catalog's, which bounds them.
    pub fn add(&self, model: &str, speed: AnswerSpeed) {
        let mut models = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let answers = models.entry(model.to_owned()).or_default();
        if answers.len() == ANSWERS_MAX {
            answers.pop_front();
        }
        answers.push_back(speed);
    }

    /// The medians of a model's last answers.
    pub fn medians(&self, model: &str) -> Medians {
        let models = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(answers) = models.get(model) else { return Medians::default() };
        Medians {
            first_token_ms: median(answers.iter().map(|answer| answer.first_token.as_secs_f64() * 1_000.0)),
            tokens_per_s: median(answers.iter().filter_map(|answer| answer.tokens_per_s)),
        }
    }
}

/// The middle value; of an even number the lower one of the two in the middle.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len().checked_sub(1)? / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_of_the_last_answers_only() {
        let speeds = Speeds::default();
        assert_eq!(speeds.medians("m"), Medians::default());
        let add = |ms: u64, tokens_per_s| speeds.add("m", AnswerSpeed { first_token: Duration::from_millis(ms), tokens_per_s });
        add(10, None);
        assert_eq!(speeds.medians("m"), Medians { first_token_ms: Some(10.0), tokens_per_s: None });
        (0..ANSWERS_MAX).for_each(|_| add(20, Some(5.0)));
        add(90, Some(50.0));
        assert_eq!(speeds.medians("m"), Medians { first_token_ms: Some(20.0), tokens_per_s: Some(5.0) });
        assert_eq!(speeds.medians("other"), Medians::default());
    }
}
