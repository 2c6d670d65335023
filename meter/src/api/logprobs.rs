//! Log-probabilities in OpenAI's two forms, written as they are sent: a long answer has a hundred thousand of them.

use std::fmt::Write;

use prompt::Prompter;
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::answer::Shape;
use crate::serving::stream::ScoredToken;

/// The `logprobs` of a choice: null without a prompter, which is when nobody asked for them.
#[derive(Clone, Copy)]
pub(super) struct Logprobs<'a> {
    /// Which form.
    pub(super) shape: Shape,
    /// Knows the bytes of each token.
    pub(super) prompter: Option<&'a Prompter>,
    /// In order.
    pub(super) tokens: &'a [ScoredToken],
}

impl Serialize for Logprobs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(prompter) = self.prompter else { return serializer.serialize_none() };
        let mut map = serializer.serialize_map(None)?;
        match self.shape {
            Shape::Chat => {
                map.serialize_entry("content", &List(self.tokens, |token| Content { prompter, token }))?;
                map.serialize_entry("refusal", &())?;
            }
            Shape::Text => {
                map.serialize_entry("tokens", &List(self.tokens, |token: &ScoredToken| text_name(prompter, token.token)))?;
                map.serialize_entry("token_logprobs", &List(self.tokens, |token: &ScoredToken| number(token.logprobs.logprob)))?;
                map.serialize_entry("top_logprobs", &List(self.tokens, |token| Likeliest { prompter, token }))?;
                map.serialize_entry("text_offset", &List(self.tokens, |token: &ScoredToken| token.text_offset))?;
            }
        }
        map.end()
    }
}

/// Each item of a slice as something else.
struct List<'a, T, F>(&'a [T], F);

impl<'a, T, U: Serialize, F: Fn(&'a T) -> U> Serialize for List<'a, T, F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(&self.1))
    }
}

/// A token in a chat, with the likeliest ones.
struct Content<'a> {
    prompter: &'a Prompter,
    token: &'a ScoredToken,
}

impl Serialize for Content<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (prompter, logprobs) = (self.prompter, &self.token.logprobs);
        let mut map = serializer.serialize_map(Some(4))?;
        serialize_token(&mut map, prompter, self.token.token, logprobs.logprob)?;
        let alternative = |(token, logprob): &(u32, f32)| Alternative { prompter, token: *token, logprob: *logprob };
        map.serialize_entry("top_logprobs", &List(&logprobs.top, alternative))?;
        map.end()
    }
}

/// A token beside the one that was drawn.
struct Alternative<'a> {
    prompter: &'a Prompter,
    token: u32,
    logprob: f32,
}

impl Serialize for Alternative<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        serialize_token(&mut map, self.prompter, self.token, self.logprob)?;
        map.end()
    }
}

fn serialize_token<M: SerializeMap>(map: &mut M, prompter: &Prompter, token: u32, logprob: f32) -> Result<(), M::Error> {
    let bytes = prompter.token_bytes(token);
    map.serialize_entry("token", &name(&bytes, ""))?;
    map.serialize_entry("logprob", &number(logprob))?;
    map.serialize_entry("bytes", &bytes)
}

/// The likeliest tokens of a text completion by their text, and always the drawn one. Of two with one text the likelier is shown.
struct Likeliest<'a> {
    prompter: &'a Prompter,
    token: &'a ScoredToken,
}

impl Serialize for Likeliest<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ScoredToken { token, logprobs, .. } = self.token;
        let mut shown: Vec<(String, f64)> = Vec::with_capacity(logprobs.top.len() + 1);
        for (token, logprob) in logprobs.top.iter().chain([&(*token, logprobs.logprob)]) {
            let name = text_name(self.prompter, *token);
            if shown.iter().all(|(other, _)| *other != name) {
                shown.push((name, number(*logprob)));
            }
        }
        serializer.collect_map(shown)
    }
}

/// The same shortest decimal in a stream, whose events become f64 values first, as in a whole answer.
fn number(logprob: f32) -> f64 {
    logprob.to_string().parse().unwrap_or(f64::from(logprob))
}

fn text_name(prompter: &Prompter, token: u32) -> String {
    name(&prompter.token_bytes(token), "bytes:")
}

/// A token's text; what is no whole text is written byte by byte, as OpenAI does in both forms.
fn name(bytes: &[u8], mark: &str) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().fold(mark.to_owned(), |mut name, byte| {
            // Writing to a string does not fail.
            let _ = write!(name, "\\x{byte:02x}");
            name
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};
    use wire::node::TokenLogprobs;

    use super::*;

    fn written(shape: Shape, text: &str, top: &[(u32, f32)]) -> Value {
        let prompter = Prompter::open(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/model"))).unwrap();
        let scored = |(index, token): (usize, u32)| {
            let logprobs = TokenLogprobs { logprob: -0.5, top: top.to_vec() };
            ScoredToken { token, logprobs, text_offset: index as u32 }
        };
        let tokens: Vec<ScoredToken> = prompter.encode(text).unwrap().into_iter().enumerate().map(scored).collect();
        serde_json::to_value(Logprobs { shape, prompter: Some(&prompter), tokens: &tokens }).unwrap()
    }

    #[test]
    fn a_chat_has_token_logprob_bytes_and_alternatives() {
        let eos = Prompter::open(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/model"))).unwrap().eos_token_ids()[0];
        let found = written(Shape::Chat, "aé", &[(eos, -0.25)]);
        let first = &found["content"][0];
        assert_eq!((&first["token"], &first["logprob"], &first["bytes"]), (&json!("a"), &json!(-0.5), &json!([97])));
        let top = &first["top_logprobs"][0];
        let name = top["token"].as_str().unwrap();
        assert!(!name.is_empty() && top["bytes"] == json!(name.as_bytes()) && top["logprob"] == -0.25, "{top}");
        assert_eq!((&found["content"][1]["token"], &found["content"][1]["bytes"]), (&json!("\\xc3"), &json!([0xC3])), "half a character");
        assert_eq!(found["refusal"], Value::Null);
        assert_eq!(found["content"].as_array().unwrap().len(), 3);
    }

    #[test]
    fn a_text_has_four_lists_and_the_drawn_token_among_its_alternatives() {
        let found = written(Shape::Text, "aé", &[(98, -0.25)]);
        assert_eq!(found["tokens"], json!(["a", "bytes:\\xc3", "bytes:\\xa9"]));
        assert_eq!(found["token_logprobs"], json!([-0.5, -0.5, -0.5]));
        assert_eq!(found["text_offset"], json!([0, 1, 2]));
        let first = found["top_logprobs"][0].as_object().unwrap();
        assert!(first.len() == 2 && first["a"] == -0.5, "{first:?}");
    }

    #[test]
    fn a_number_is_written_alike_whole_and_by_way_of_a_value() {
        for logprob in [-0.126_987_37f32, -1e-8, -9999.0, 0.0, -3.479_311] {
            let whole = serde_json::to_string(&number(logprob)).unwrap();
            assert_eq!(serde_json::to_value(number(logprob)).unwrap().to_string(), whole);
            assert_eq!(whole.parse::<f32>().unwrap().to_bits(), logprob.to_bits(), "{whole}");
            assert!(whole.len() <= 14, "{whole}");
        }
    }

    #[test]
    fn nobody_asked_is_null() {
        let nothing = Logprobs { shape: Shape::Chat, prompter: None, tokens: &[] };
        assert_eq!(serde_json::to_value(nothing).unwrap(), Value::Null);
    }
}
