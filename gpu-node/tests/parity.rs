//! Greedy answers and token ids beside llama.cpp's, on the real model when it is there.
//!
//! `PARALLELIX_MODEL` names the model folder; by default `.parallelix/models/SmolLM2-135M-Instruct` in the repository. The
//! vectors are made by `test/parity/peer_llama_cpp.py`.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::path::{Path, PathBuf};

use gpu_node::engine::{Cancel, Engine, EngineConfig, EngineEvent, EngineJob};
use prompt::{Message, Prompter};
use serde::Deserialize;
use wire::node::SamplingParams;

/// A choice between two tokens closer than this may fall either way between two orders of summation.
const NEAR_TIE: f64 = 0.05;

#[derive(Deserialize)]
struct Vectors {
    peer: String,
    chats: Vec<Chat>,
    texts: Vec<Text>,
}

#[derive(Deserialize)]
struct Chat {
    user: String,
    prompt: Vec<u32>,
    /// llama.cpp on the same weights in f32.
    exact: Answer,
    /// llama.cpp on the file as it is: it rounds activations to 8 bits.
    rounded: Answer,
}

#[derive(Deserialize)]
struct Answer {
    tokens: Vec<u32>,
    gaps: Vec<f64>,
    /// Choices of the f32 weights after the same tokens.
    #[serde(default)]
    exact_tokens: Vec<u32>,
}

#[derive(Deserialize)]
struct Text {
    text: String,
    tokens: Vec<u32>,
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn model_dir() -> Option<PathBuf> {
    let default = || repository().join(".parallelix/models/SmolLM2-135M-Instruct");
    let dir = std::env::var_os("PARALLELIX_MODEL").map_or_else(default, PathBuf::from);
    if dir.join("model.safetensors").is_file() {
        return Some(dir);
    }
    eprintln!("did not run: no model in {}; make it with `gpu-node model import` or set PARALLELIX_MODEL", dir.display());
    None
}

fn vectors() -> Vectors {
    let text = std::fs::read_to_string(repository().join("test/vectors/smollm2_greedy.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn rebuilt_tokenizer_and_template_give_llama_cpps_token_ids() {
    let Some(dir) = model_dir() else { return };
    let prompter = Prompter::open(&dir).unwrap();
    let Vectors { chats, texts, .. } = vectors();
    for Text { text, tokens } in &texts {
        assert_eq!(&prompter.encode(text).unwrap(), tokens, "{text:?}");
    }
    for chat in &chats {
        assert_eq!(prompter.render(&[Message::new("user", &chat.user)]).unwrap(), chat.prompt, "{}", chat.user);
    }
}

#[test]
fn detokenizer_streams_what_the_tokenizer_decodes() {
    let Some(dir) = model_dir() else { return };
    let prompter = Prompter::open(&dir).unwrap();
    for Text { text, tokens } in vectors().texts {
        let mut detokenizer = prompter.detokenizer();
        let pieces: Vec<String> = tokens.iter().map(|token| detokenizer.push(*token)).collect();
        assert!(pieces.iter().all(|piece| !piece.contains(char::REPLACEMENT_CHARACTER)), "{text:?}");
        assert_eq!(pieces.concat(), prompter.decode(&tokens).unwrap(), "{text:?}");
    }
}

/// Greedy answers of the engine, all prompts at once.
fn answers(dir: &Path, chats: &[Chat]) -> Vec<Vec<u32>> {
    let engine = Engine::start(dir, EngineConfig { threads: 2, ..EngineConfig::default() }).unwrap();
    let submit = |chat: &Chat| {
        let params = SamplingParams::greedy(64);
        engine.submit(EngineJob { prompt: chat.prompt.clone(), params, cancel: Cancel::default(), scope: 0 }).unwrap()
    };
    let receivers: Vec<_> = chats.iter().map(submit).collect();
    let collect = |mut events: tokio::sync::mpsc::Receiver<EngineEvent>| {
        let mut tokens = Vec::new();
        loop {
            match events.blocking_recv() {
                Some(EngineEvent::Tokens(ids)) => tokens.extend(ids),
                Some(EngineEvent::Finished(_)) => return tokens,
                other => panic!("{other:?}"),
            }
        }
    };
    receivers.into_iter().map(collect).collect()
}

fn first_difference(ours: &[u32], theirs: &[u32]) -> Option<usize> {
    (0..theirs.len().max(ours.len())).find(|&i| ours.get(i) != theirs.get(i))
}

#[test]
fn greedy_answers_equal_llama_cpps() {
    let Some(dir) = model_dir() else { return };
    let Vectors { peer, chats, .. } = vectors();
    let ours = answers(&dir, &chats);

    let (mut equal_exact, mut equal_rounded) = (0, 0);
    let mut unexplained = Vec::new();
    for (chat, ours) in chats.iter().zip(&ours) {
        match first_difference(ours, &chat.exact.tokens) {
            None => equal_exact += 1,
            Some(step) if chat.exact.gaps[step] < NEAR_TIE => {}
            Some(step) => unexplained.push((&chat.user, "f32", step, chat.exact.gaps[step])),
        }
        let Some(step) = first_difference(ours, &chat.rounded.tokens) else {
            equal_rounded += 1;
            continue;
        };
        let gap = chat.rounded.gaps[step];
        // Its own rounding of activations moved llama.cpp's choice when its f32 arithmetic chooses our token there.
        let own_rounding = chat.rounded.exact_tokens.get(step) == ours.get(step);
        eprintln!(
            "{:?}: first difference from the rounded answer at step {step}, gap {gap}, f32 agrees with us: {own_rounding}",
            chat.user
        );
        if gap >= NEAR_TIE && !own_rounding {
            unexplained.push((&chat.user, "rounded", step, gap));
        }
    }
    eprintln!("{equal_exact} of {} answers equal {peer} in f32, {equal_rounded} with its 8-bit activations", chats.len());
    assert_eq!(unexplained, []);
}
