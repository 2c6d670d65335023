//! Every family as its authors publish it, imported, beside logits by Hugging Face `transformers`.
//!
//! `test/parity/peer_transformers.py` makes `test/vectors/families`.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::gguf::gguf_of;
use common::{Quiet, reference};
use gpu_node::backend::{CpuBackend, PAGE_TOKENS, PageId, Placement, Row};
use gpu_node::engine::{Decoder, StepOutput};
use gpu_node::model::import::{Import, Outcome, import};
use gpu_node::model::{Manifest, ModelFolder, RopeScaling};
use prompt::Message;
use serde::Deserialize;

const FAMILIES: [&str; 5] = ["llama3", "qwen2", "qwen3", "mistral", "smollm"];

#[derive(Deserialize)]
struct Golden {
    user: String,
    prompt: Vec<u32>,
    answer: Vec<u32>,
    logits: Vec<Shown>,
    /// Distance of the logits when the family's own feature is left out.
    without: f64,
    /// Distance of the logits when `transformers` rounds the inputs of products to int8.
    rounded: f64,
}

#[derive(Deserialize)]
struct Shown {
    position: usize,
    values: Vec<f64>,
}

impl Golden {
    fn of(family: &str) -> Self {
        serde_json::from_slice(&fs::read(source(family).join("golden.json")).unwrap()).unwrap()
    }

    fn tokens(&self) -> Vec<u32> {
        self.prompt.iter().chain(&self.answer).copied().collect()
    }

    /// Relative L2 distance of the shown logits from `found`, which holds all positions.
    fn distance(&self, found: &[Vec<f64>]) -> f64 {
        let (mut moved, mut length) = (0.0, 0.0);
        for Shown { position, values } in &self.logits {
            assert_eq!(values.len(), found[*position].len());
            moved += values.iter().zip(&found[*position]).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
            length += values.iter().map(|a| a * a).sum::<f64>();
        }
        (moved / length).sqrt()
    }

    /// Asserts the greedy answer wherever `transformers` and an engine with this distance can't disagree about it.
    fn check_answer(&self, found: &[Vec<f64>], near_tie: f64) {
        let begin = self.prompt.len() - 1;
        let mut compared = 0;
        for (row, expected) in found[begin..].iter().zip(&self.answer) {
            let best = row.iter().copied().fold(f64::MIN, f64::max);
            if best - row[*expected as usize] > near_tie {
                panic!("token {expected} has logit {}, another has {best}", row[*expected as usize]);
            }
            compared += 1;
        }
        assert_eq!(compared, self.answer.len());
    }
}

fn source(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../test/vectors/families").join(family)
}

fn imported(family: &str) -> (tempfile::TempDir, ModelFolder) {
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path().join(family);
    import(&source(family), &dest, None, &Quiet).unwrap();
    let folder = ModelFolder::open(&dest, 1, &|_| ()).unwrap();
    (dir, folder)
}

#[test]
fn imported_weights_and_configuration_give_transformers_logits_in_f64() {
    for family in FAMILIES {
        let (_dir, folder) = imported(family);
        let golden = Golden::of(family);
        let found = reference::logits(&folder.config, &folder.weights, &golden.tokens());
        let distance = golden.distance(&found);
        // transformers computes in f32, and the file has four decimals.
        assert!(distance < 1e-4, "{family}: {distance}");
        golden.check_answer(&found, 1e-3);
        assert!(golden.without > 10.0 * golden.rounded, "{family}: the vectors would not show a missing feature");
    }
}

#[test]
fn imported_template_and_tokenizer_give_transformers_prompt() {
    for family in FAMILIES {
        let (_dir, folder) = imported(family);
        let golden = Golden::of(family);
        assert_eq!(folder.prompter.render(&[Message::new("user", golden.user)]).unwrap(), golden.prompt, "{family}");
        assert_eq!(folder.prompter.eos_token_ids(), [258], "{family}");
    }
}

/// A meter counts the same in the header of either file (`meter/src/serving/weights.rs`, with the same numbers).
#[test]
fn operations_of_a_token_are_those_of_the_layers_matrices_in_the_file() {
    for (family, operations) in [("smollm", 49_152), ("mistral", 98_304), ("qwen2", 98_304), ("qwen3", 131_072)] {
        let (dir, folder) = imported(family);
        assert_eq!(folder.config.operations_per_token(), operations, "{family}");
        let file = fs::read(dir.path().join(family).join("model.safetensors")).unwrap();
        let header = &file[8..][..u64::from_le_bytes(*file.first_chunk().unwrap()) as usize];
        let tensors: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(header).unwrap();
        let matrices = tensors.iter().filter(|(name, _)| name.starts_with("model.layers.") && name.ends_with(".weight"));
        let shapes = matrices.filter_map(|(_, tensor)| tensor["shape"].as_array()).filter(|shape| shape.len() > 1);
        let weights: u64 = shapes.map(|shape| shape.iter().filter_map(serde_json::Value::as_u64).product::<u64>()).sum();
        assert_eq!(2 * weights, operations, "{family}");
    }
}

fn engine_gives_transformers_logits(family: &str) {
    let (_dir, folder) = imported(family);
    let golden = Golden::of(family);
    let tokens = golden.tokens();
    let mut decoder = Decoder::load(&folder, CpuBackend::new(2), 128, 128).unwrap();
    let pages: Vec<PageId> = (0..tokens.len().div_ceil(PAGE_TOKENS) as u32).map(PageId).collect();
    let mut pool = decoder.pool(pages.len()).unwrap();
    pages.iter().for_each(|page| decoder.prepare(&mut pool, *page).unwrap());
    let rows: Vec<Row> = (0..tokens.len()).map(|position| Row { sequence: 0, position }).collect();
    let chosen: Vec<usize> = (0..tokens.len()).collect();
    let mut out = StepOutput::default();
    decoder.step(&Placement { rows: &rows, tables: &[&pages] }, &tokens, &mut pool, &chosen, &mut out);
    let found: Vec<Vec<f64>> = out.logits.chunks(folder.config.vocab_size).map(|row| row.iter().map(|x| f64::from(*x)).collect()).collect();
    let distance = golden.distance(&found);
    assert!(distance < 2.0 * golden.rounded, "{family}: {distance}, int8 inputs alone move transformers by {}", golden.rounded);
    // A logit of these models has a standard deviation of about 1.6.
    golden.check_answer(&found, 8.0 * golden.rounded);
}

#[test]
fn engine_gives_transformers_logits_for_every_family() {
    FAMILIES.iter().for_each(|family| engine_gives_transformers_logits(family));
}

#[test]
fn the_same_model_as_gguf_and_as_folder_becomes_the_same_weights() {
    for family in FAMILIES {
        let (dir, folder) = imported(family);
        let gguf = dir.path().join("model.gguf");
        fs::write(&gguf, gguf_of(&folder).finish()).unwrap();
        let dest = dir.path().join("from-gguf");
        let Outcome::Imported(manifest) = import(&gguf, &dest, None, &Quiet).unwrap() else { panic!("not imported") };
        assert_eq!(manifest.model_root, folder.model_root, "{family}");
        let again = ModelFolder::open(&dest, 1, &|_| ()).unwrap();
        assert_eq!(again.config, folder.config, "{family}");
        let text = "Hello, 12345 wörld\n\n  it's";
        assert_eq!(again.prompter.encode(text).unwrap(), folder.prompter.encode(text).unwrap(), "{family}");
    }
}

#[test]
fn import_gives_the_same_bytes_on_any_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let manifests: Vec<Manifest> = [1, 2, 7]
        .map(|threads| {
            let dest = dir.path().join(threads.to_string());
            let import = Import { source: &source("llama3"), dest: &dest, expected_sha256: None, source_name: None, threads };
            let Outcome::Imported(manifest) = import.run(&Quiet).unwrap() else { panic!("not imported") };
            manifest
        })
        .into();
    assert!(manifests.windows(2).all(|pair| pair[0] == pair[1]), "{manifests:?}");
    for name in ["model.safetensors", "config.json", "tokenizer_config.json", "parallelix.json"] {
        let bytes = |threads: &str| fs::read(dir.path().join(threads).join(name)).unwrap();
        assert_eq!(bytes("1"), bytes("7"), "{name}");
    }
}

#[test]
fn configuration_of_each_family_survives_the_import() {
    let config = |family: &str| imported(family).1.config;
    assert!(matches!(config("llama3").rope_scaling, RopeScaling::Llama3 { factor: 8.0, original_context_tokens: 64.0, .. }));
    assert!(config("qwen2").qkv_bias && config("qwen2").sliding_window.is_none());
    assert!(config("qwen3").qk_norm && config("qwen3").q_dim() == 128 && config("qwen3").dim == 64);
    assert_eq!(config("mistral").sliding_window, Some(8));
    assert!(config("smollm").tied_embeddings && !config("mistral").tied_embeddings);
}
