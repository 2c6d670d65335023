//! A whole folder: template, tokenizer and streaming detokeniser agree with each other.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;

use prompt::{ConfigError, Message, PromptError, Prompter};
use proptest::prelude::*;

use common::{open, write_folder};

fn stream(prompter: &Prompter, tokens: &[u32]) -> Vec<String> {
    let mut detokenizer = prompter.detokenizer();
    let mut pieces: Vec<String> = tokens.iter().map(|&t| detokenizer.push(t)).collect();
    pieces.push(detokenizer.finish());
    pieces
}

#[test]
fn conversation_renders_to_ids_with_special_tokens() {
    let prompter = open();
    let tokens = prompter.render(&[Message::new("user", "hé")]).unwrap();
    assert_eq!(tokens.first(), Some(&257));
    assert_eq!(prompter.count(&[Message::new("user", "hé")]).unwrap(), tokens.len());
    assert_eq!(prompter.decode(&tokens).unwrap(), "user\nhé\nassistant\n");
    assert_eq!(prompter.eos_token_ids(), [258]);
}

#[test]
fn characters_split_over_tokens_come_out_whole() {
    let prompter = open();
    let text = "the 🙂 漢字 é→tool";
    let tokens = prompter.encode(text).unwrap();
    let pieces = stream(&prompter, &tokens);
    assert!(pieces.iter().all(|p| !p.contains(char::REPLACEMENT_CHARACTER)));
    assert_eq!(pieces.concat(), text);
}

#[test]
fn answer_cut_inside_a_character_ends_before_it() {
    let prompter = open();
    let mut tokens = prompter.encode("ok 🙂").unwrap();
    tokens.pop();
    assert_eq!(stream(&prompter, &tokens).concat(), "ok ");
}

#[test]
fn no_messages_and_missing_files_are_named() {
    assert!(matches!(open().render(&[]), Err(PromptError::NoMessages)));
    let empty = tempfile::tempdir().unwrap();
    let error = Prompter::open(empty.path()).err().unwrap();
    assert!(matches!(error, PromptError::Config(ConfigError::Read { ref path, .. }) if path.ends_with("tokenizer.json")));
}

#[test]
fn engine_parts_change_with_the_template() {
    let dir = tempfile::tempdir().unwrap();
    write_folder(dir.path());
    let before = Prompter::open(dir.path()).unwrap().engine_parts();
    let path = dir.path().join("tokenizer_config.json");
    let changed = fs::read_to_string(&path).unwrap().replace("assistant", "Assistant");
    fs::write(&path, changed).unwrap();
    let after = Prompter::open(dir.path()).unwrap().engine_parts();
    assert_eq!(before.tokenizer_json, after.tokenizer_json);
    assert_ne!(before.chat_template, after.chat_template);
}

proptest! {
    #[test]
    fn streamed_pieces_equal_decoding_the_whole(tokens in prop::collection::vec(0u32..262, 0..80)) {
        thread_local!(static PROMPTER: Prompter = open());
        PROMPTER.with(|prompter| {
            let streamed = stream(prompter, &tokens).concat();
            let whole = prompter.decode(&tokens).unwrap();
            let rest = whole.strip_prefix(&streamed);
            prop_assert!(matches!(rest, Some("" | "\u{FFFD}")), "{:?} is not the start of {:?}", streamed, whole);
            Ok(())
        })?;
    }
}
