//! Import of a GGUF file written here, and what happens to damaged ones.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::gguf::{F16, F32, Q8_0, Writer, f32_bytes};
use common::{CONTEXT, DIM, HEAD_DIM, HEADS, HIDDEN, KV_HEADS, LAYERS, Noise, Quiet, VOCAB, byte_alphabet};
use gpu_node::engine::{Cancel, Engine, EngineConfig, EngineEvent, EngineJob};
use gpu_node::model::import::{ImportError, Outcome, import};
use gpu_node::model::{Manifest, ManifestError};
use proptest::prelude::*;
use wire::node::SamplingParams;

/// A whole GGUF file of the tiny model: Q8_0 embeddings, F16 matrices, F32 norms.
fn gguf() -> Vec<u8> {
    let mut tokens: Vec<String> = byte_alphabet().iter().map(char::to_string).collect();
    tokens.extend((tokens.len()..VOCAB).map(|id| if id == 256 { "<|im_end|>".to_owned() } else { format!("<|extra_{id}|>") }));
    let (q, kv) = (HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM);
    let mut tensors = vec![("token_embd".to_owned(), vec![DIM, VOCAB], Q8_0), ("output_norm".to_owned(), vec![DIM], F32)];
    for layer in 0..LAYERS {
        let mut add = |part: &str, shape: Vec<usize>, kind| tensors.push((format!("blk.{layer}.{part}"), shape, kind));
        add("attn_norm", vec![DIM], F32);
        add("attn_q", vec![DIM, q], F16);
        add("attn_k", vec![DIM, kv], F16);
        add("attn_v", vec![DIM, kv], F16);
        add("attn_output", vec![q, DIM], F16);
        add("ffn_norm", vec![DIM], F32);
        add("ffn_gate", vec![DIM, HIDDEN], F16);
        add("ffn_up", vec![DIM, HIDDEN], F16);
        add("ffn_down", vec![HIDDEN, DIM], F16);
    }

    let mut out = Writer::default();
    out.word("general.architecture", "llama");
    for (key, value) in [
        ("block_count", LAYERS),
        ("context_length", CONTEXT),
        ("embedding_length", DIM),
        ("feed_forward_length", HIDDEN),
        ("attention.head_count", HEADS),
        ("attention.head_count_kv", KV_HEADS),
        ("attention.key_length", HEAD_DIM),
        ("rope.dimension_count", HEAD_DIM),
    ] {
        out.number(&format!("llama.{key}"), value as u32);
    }
    out.float("llama.attention.layer_norm_rms_epsilon", 1e-5);
    out.word("tokenizer.ggml.model", "gpt2");
    out.word("tokenizer.ggml.pre", "smollm");
    out.number("tokenizer.ggml.bos_token_id", 256);
    out.number("tokenizer.ggml.eos_token_id", 256);
    out.word("tokenizer.chat_template", "{% for m in messages %}{{ m.content }}{% endfor %}");
    out.words("tokenizer.ggml.tokens", &tokens);
    out.integers("tokenizer.ggml.token_type", &(0..tokens.len()).map(|id| if id < 256 { 1 } else { 3 }).collect::<Vec<_>>());
    out.words("tokenizer.ggml.merges", &[]);

    let mut noise = Noise(3);
    for (name, shape, kind) in tensors {
        let count: usize = shape.iter().product();
        let data: Vec<u8> = match kind {
            F32 => f32_bytes(&vec![1.0; count]),
            F16 => noise.take(count, 0.5).iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes()).collect(),
            _ => (0..count / 32)
                .flat_map(|_| {
                    let quants: Vec<u8> = (0..32).map(|_| ((noise.next() * 256.0).floor() as i8).cast_unsigned()).collect();
                    half::f16::from_f32(0.002).to_le_bytes().into_iter().chain(quants)
                })
                .collect(),
        };
        out.tensor(&format!("{name}.weight"), &shape, kind, &data);
    }
    out.finish()
}

fn write_source(dir: &Path, bytes: &[u8]) -> PathBuf {
    let path = dir.join("tiny.gguf");
    fs::write(&path, bytes).unwrap();
    path
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn imported_folder_serves_verifies_and_is_not_imported_twice() {
    let dir = tempfile::tempdir().unwrap();
    let source = write_source(dir.path(), &gguf());
    let dest = dir.path().join("models/tiny");
    let Outcome::Imported(manifest) = import(&source, &dest, None, &Quiet).unwrap() else { panic!("not imported") };
    assert_eq!(
        names(&dest),
        ["config.json", "generation_config.json", "model.safetensors", "parallelix.json", "tokenizer.json", "tokenizer_config.json"]
    );
    assert_eq!(names(&dir.path().join("models")), ["tiny"], "nothing is left beside it");
    manifest.verify(&dest, &|_| ()).unwrap();

    let written = fs::metadata(dest.join("model.safetensors")).unwrap().modified().unwrap();
    let again = import(&source, &dest, Some(&manifest.source_sha256), &Quiet).unwrap();
    assert_eq!(again, Outcome::AlreadyThere(manifest.clone()));
    assert_eq!(fs::metadata(dest.join("model.safetensors")).unwrap().modified().unwrap(), written);

    let engine = Engine::start(&dest, EngineConfig { threads: 1, ..EngineConfig::default() }).unwrap();
    assert_eq!(engine.identity().model_root, manifest.model_root);
    let prompt = engine.prompter().encode("hi there").unwrap();
    let mut events = engine.submit(EngineJob { prompt, params: SamplingParams::greedy(2), cancel: Cancel::default(), scope: 0 }).unwrap();
    assert!(matches!(events.blocking_recv(), Some(EngineEvent::Tokens { .. })));
}

#[test]
fn a_changed_byte_is_found_by_verify_and_refused_at_start() {
    let dir = tempfile::tempdir().unwrap();
    let source = write_source(dir.path(), &gguf());
    let dest = dir.path().join("tiny");
    import(&source, &dest, None, &Quiet).unwrap();
    for name in ["model.safetensors", "tokenizer_config.json"] {
        let path = dest.join(name);
        let whole = fs::read(&path).unwrap();
        let mut changed = whole.clone();
        let last = changed.len() - 3;
        changed[last] ^= 1;
        fs::write(&path, &changed).unwrap();
        let error = Manifest::read(&dest).unwrap().verify(&dest, &|_| ()).unwrap_err();
        assert!(matches!(error, ManifestError::Mismatch { ref file, .. } if file == name), "{error}");
        if name == "model.safetensors" {
            assert!(Engine::start(&dest, EngineConfig::default()).is_err());
        }
        fs::write(&path, whole).unwrap();
    }
}

#[test]
fn wrong_digest_and_taken_destination_leave_everything_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let source = write_source(dir.path(), &gguf());
    let dest = dir.path().join("tiny");
    let wrong = "00".repeat(32);
    assert!(matches!(import(&source, &dest, Some(&wrong), &Quiet), Err(ImportError::WrongSource { .. })));
    assert!(!dest.exists());
    fs::create_dir(&dest).unwrap();
    fs::write(dest.join("mine.txt"), "x").unwrap();
    assert!(matches!(import(&source, &dest, None, &Quiet), Err(ImportError::DestinationTaken { .. })));
    assert_eq!(names(&dest), ["mine.txt"]);
    assert_eq!(names(dir.path()), ["tiny", "tiny.gguf"]);
}

#[test]
fn truncated_file_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = gguf();
    for length in [0, 3, 100, bytes.len() / 2, bytes.len() - 1] {
        let source = write_source(dir.path(), &bytes[..length]);
        assert!(import(&source, &dir.path().join("tiny"), None, &Quiet).is_err(), "{length} bytes");
        assert_eq!(names(dir.path()), ["tiny.gguf"]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn damaged_headers_are_imported_or_refused_without_a_panic(at in 0usize..9_000, value in any::<u8>()) {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = gguf();
        bytes[at] = value;
        let source = write_source(dir.path(), &bytes);
        let dest = dir.path().join("tiny");
        if import(&source, &dest, None, &Quiet).is_ok() {
            // What was imported either starts or says why not.
            let _ = Engine::start(&dest, EngineConfig { threads: 1, ..EngineConfig::default() });
        }
    }
}
