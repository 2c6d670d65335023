//! Logits and token ids beside llama.cpp's, on the real model when it is there.
//!
//! `PARALLELIX_MODEL` names the model folder; by default `.parallelix/models/SmolLM2-135M-Instruct` in the repository. The
//! vectors are made by `test/parity/peer_llama_cpp.py`.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::path::{Path, PathBuf};

use gpu_node::backend::{CpuBackend, PAGE_TOKENS, PageId, Placement, Row};
use gpu_node::engine::{Decoder, StepOutput};
use gpu_node::model::ModelFolder;
use prompt::{Message, Prompter};
use serde::Deserialize;

/// A choice may move where f32's gap is below so many times what llama.cpp's own 8-bit arithmetic moves a logit.
const NEAR_TIE: f64 = 4.0;

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
    /// llama.cpp's greedy answer in f32.
    tokens: Vec<u32>,
    /// The eight likeliest tokens at each step, and their logits: in f32, and with its own 8-bit weights and activations.
    top: Vec<Vec<u32>>,
    exact: Vec<Vec<f64>>,
    q8: Vec<Vec<f64>>,
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

/// The engine's logits of the listed tokens at each step of llama.cpp's answer, all computed in one pass.
fn logits_along(decoder: &mut Decoder<CpuBackend>, chat: &Chat) -> Vec<(u32, Vec<f64>)> {
    let tokens: Vec<u32> = chat.prompt.iter().chain(&chat.tokens[..chat.tokens.len() - 1]).copied().collect();
    let table: Vec<PageId> = (0..tokens.len().div_ceil(PAGE_TOKENS) as u32).map(PageId).collect();
    let mut pool = decoder.pool(table.len()).unwrap();
    table.iter().for_each(|page| decoder.prepare(&mut pool, *page).unwrap());
    let rows: Vec<Row> = (0..tokens.len()).map(|position| Row { sequence: 0, position }).collect();
    let chosen: Vec<usize> = (chat.prompt.len() - 1..tokens.len()).collect();
    let mut out = StepOutput::default();
    decoder.step(&Placement { rows: &rows, tables: &[&table] }, &tokens, &mut pool, &chosen, &mut out);
    let step = |(logits, top): (&[f32], &Vec<u32>)| {
        let likeliest = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
        (likeliest as u32, top.iter().map(|token| f64::from(logits[*token as usize])).collect())
    };
    out.logits.chunks_exact(decoder.vocab_size()).zip(&chat.top).map(step).collect()
}

/// Differences between two rows of logits. What all have in common changes no probability, and is left out.
fn differences(a: &[f64], b: &[f64]) -> Vec<f64> {
    let shift = a.iter().zip(b).map(|(a, b)| a - b).sum::<f64>() / a.len() as f64;
    a.iter().zip(b).map(|(a, b)| a - b - shift).collect()
}

fn root_mean_square(values: &[f64]) -> f64 {
    (values.iter().map(|x| x * x).sum::<f64>() / values.len() as f64).sqrt()
}

#[test]
fn logits_are_as_near_to_f32_as_llama_cpps_own_8_bit_arithmetic() {
    let Some(dir) = model_dir() else { return };
    let Vectors { peer, chats, .. } = vectors();
    let folder = ModelFolder::open(&dir, 2, &|_| ()).unwrap();
    let mut decoder = Decoder::load(&folder, CpuBackend::new(2), 1024, 512).unwrap();

    let (mut ours, mut theirs, mut steps, mut agreed, mut agreed_q8) = (Vec::new(), Vec::new(), 0, 0, 0);
    let (mut equal_answers, mut gaps) = (0, Vec::new());
    for chat in &chats {
        let mut first_difference = None;
        for (step, (choice, logits)) in logits_along(&mut decoder, chat).into_iter().enumerate() {
            let (exact, q8) = (&chat.exact[step], &chat.q8[step]);
            ours.extend(differences(&logits, exact));
            theirs.extend(differences(q8, exact));
            steps += 1;
            agreed_q8 += usize::from(q8[1..].iter().all(|x| *x <= q8[0]));
            if choice == chat.tokens[step] {
                agreed += 1;
                continue;
            }
            let gap = exact[0] - exact[1];
            first_difference = first_difference.or(Some((step, gap)));
            gaps.push((&chat.user, step, gap));
        }
        match first_difference {
            None => equal_answers += 1,
            Some((step, gap)) => eprintln!("{:?}: first other choice at step {step}, where f32's gap is {gap:.4}", chat.user),
        }
    }
    let (ours, theirs) = (root_mean_square(&ours), root_mean_square(&theirs));
    eprintln!(
        "beside {peer} in f32: {agreed} of {steps} choices and {equal_answers} of {} answers equal, logits differ by {ours:.4};",
        chats.len()
    );
    eprintln!("its own 8-bit arithmetic: {agreed_q8} of {steps} choices, {theirs:.4}");
    gaps.retain(|(_, _, gap)| *gap >= NEAR_TIE * theirs);
    assert_eq!(gaps, [], "choices that rounding does not explain");
    assert!(agreed + 6 >= agreed_q8, "{agreed} choices agree with f32, {agreed_q8} of llama.cpp's 8-bit arithmetic");
    assert!(ours <= 1.1 * theirs, "logits differ from f32 by {ours:.4}, llama.cpp's 8-bit arithmetic by {theirs:.4}");
}
