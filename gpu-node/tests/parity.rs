//! Greedy answers and token ids beside llama.cpp's, on the real model when it is there.
//!
//! `PARALLELIX_MODEL` names the model folder; by default `.parallelix/models/smollm2-135m-instruct` in the repository. The
//! vectors are made by `test/parity/peer_llama_cpp.py`.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::path::{Path, PathBuf};

use gpu_node::engine::{Cancel, Engine, EngineConfig, EngineEvent, EngineJob};
use prompt::{Message, Prompter};
use serde::Deserialize;
use wire::node::SamplingParams;

/// llama.cpp rounds activations to 8 bits; a choice between two tokens closer than this may fall the other way.
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
    tokens: Vec<u32>,
    runners_up: Vec<u32>,
    gaps: Vec<f64>,
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
    let default = || repository().join(".parallelix/models/smollm2-135m-instruct");
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

#[test]
fn greedy_answers_equal_llama_cpps_up_to_near_ties() {
    let Some(dir) = model_dir() else { return };
    let Vectors { peer, chats, .. } = vectors();
    let engine = Engine::start(&dir, EngineConfig { threads: 2, ..EngineConfig::default() }).unwrap();
    let receivers: Vec<_> = chats
        .iter()
        .map(|chat| {
            let params = SamplingParams::greedy(chat.tokens.len() as u32);
            engine.submit(EngineJob { prompt: chat.prompt.clone(), params, cancel: Cancel::default() }).unwrap()
        })
        .collect();

    let mut equal = 0;
    let mut wrong = Vec::new();
    for (chat, mut events) in chats.iter().zip(receivers) {
        let mut tokens = Vec::new();
        while let Some(event) = events.blocking_recv() {
            match event {
                EngineEvent::Tokens(ids) => tokens.extend(ids),
                EngineEvent::Finished(_) => break,
                EngineEvent::Failed(failure) => panic!("{failure}"),
            }
        }
        let Some(step) = (0..chat.tokens.len()).find(|&i| tokens.get(i) != chat.tokens.get(i)) else {
            equal += 1;
            continue;
        };
        let gap = chat.gaps[step];
        eprintln!("{:?}: first difference at step {step}, gap {gap} in {peer}", chat.user);
        let runner_up = tokens.get(step) == Some(&chat.runners_up[step]);
        if gap >= NEAR_TIE || !runner_up {
            wrong.push((chat.user.as_str(), step, gap));
        }
    }
    eprintln!("{equal} of {} answers equal {peer}'s token by token", chats.len());
    assert_eq!(wrong, [], "differences that a gap below {NEAR_TIE} does not explain");
}
