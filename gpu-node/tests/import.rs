//! Import of a GGUF file written here, and what happens to damaged ones.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{CONTEXT, DIM, HEAD_DIM, HEADS, HIDDEN, KV_HEADS, LAYERS, Noise, VOCAB, byte_alphabet};
use gpu_node::engine::{Cancel, Engine, EngineConfig, EngineEvent, EngineJob};
use gpu_node::model::import::{ImportError, Outcome, Progress, import};
use gpu_node::model::{Manifest, ManifestError};
use proptest::prelude::*;
use wire::node::SamplingParams;

struct Quiet;

impl Progress for Quiet {
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn end(&self) {}
}

struct Writer(Vec<u8>);

impl Writer {
    fn text(&mut self, text: &str) {
        self.0.extend((text.len() as u64).to_le_bytes());
        self.0.extend(text.as_bytes());
    }

    fn key(&mut self, key: &str, kind: u32, value: &[u8]) {
        self.text(key);
        self.0.extend(kind.to_le_bytes());
        self.0.extend(value);
    }

    fn number(&mut self, key: &str, value: u32) {
        self.key(key, 4, &value.to_le_bytes());
    }

    fn word(&mut self, key: &str, value: &str) {
        self.key(key, 8, &[]);
        self.text(value);
    }

    fn list(&mut self, key: &str, kind: u32, count: usize) {
        self.key(key, 9, &kind.to_le_bytes());
        self.0.extend((count as u64).to_le_bytes());
    }
}

/// A whole GGUF file of the tiny model: Q8_0 embeddings, F16 matrices, F32 norms.
fn gguf() -> Vec<u8> {
    let mut tokens: Vec<String> = byte_alphabet().iter().map(char::to_string).collect();
    tokens.extend((tokens.len()..VOCAB).map(|id| if id == 256 { "<|im_end|>".to_owned() } else { format!("<|extra_{id}|>") }));
    let (q, kv) = (HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM);
    let mut tensors = vec![("token_embd".to_owned(), vec![DIM, VOCAB], 8u32), ("output_norm".to_owned(), vec![DIM], 0)];
    for layer in 0..LAYERS {
        let mut add = |part: &str, shape: Vec<usize>, kind| tensors.push((format!("blk.{layer}.{part}"), shape, kind));
        add("attn_norm", vec![DIM], 0);
        add("attn_q", vec![DIM, q], 1);
        add("attn_k", vec![DIM, kv], 1);
        add("attn_v", vec![DIM, kv], 1);
        add("attn_output", vec![q, DIM], 1);
        add("ffn_norm", vec![DIM], 0);
        add("ffn_gate", vec![DIM, HIDDEN], 1);
        add("ffn_up", vec![DIM, HIDDEN], 1);
        add("ffn_down", vec![HIDDEN, DIM], 1);
    }

    let mut out = Writer(b"GGUF".to_vec());
    out.0.extend(3u32.to_le_bytes());
    out.0.extend((tensors.len() as u64).to_le_bytes());
    out.0.extend(17u64.to_le_bytes());
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
    out.key("llama.attention.layer_norm_rms_epsilon", 6, &1e-5f32.to_le_bytes());
    out.word("tokenizer.ggml.model", "gpt2");
    out.word("tokenizer.ggml.pre", "smollm");
    out.number("tokenizer.ggml.bos_token_id", 256);
    out.number("tokenizer.ggml.eos_token_id", 256);
    out.word("tokenizer.chat_template", "{% for m in messages %}{{ m.content }}{% endfor %}");
    out.list("tokenizer.ggml.tokens", 8, tokens.len());
    tokens.iter().for_each(|token| out.text(token));
    // 17 keys with the two lists below; the merges are one pair.
    out.list("tokenizer.ggml.token_type", 5, tokens.len());
    (0..tokens.len()).for_each(|id| out.0.extend(if id < 256 { 1i32 } else { 3 }.to_le_bytes()));
    let keys = 1 + 8 + 1 + 5 + 2 + 1;
    out.list("tokenizer.ggml.merges", 8, 0);
    out.0[16..24].copy_from_slice(&(keys as u64).to_le_bytes());

    let (mut data, mut noise) = (Vec::new(), Noise(3));
    for (name, shape, kind) in tensors {
        out.text(&format!("{name}.weight"));
        out.0.extend((shape.len() as u32).to_le_bytes());
        shape.iter().for_each(|d| out.0.extend((*d as u64).to_le_bytes()));
        out.0.extend(kind.to_le_bytes());
        out.0.extend((data.len() as u64).to_le_bytes());
        let count: usize = shape.iter().product();
        match kind {
            0 => data.extend(std::iter::repeat_n(1.0f32, count).flat_map(f32::to_le_bytes)),
            1 => data.extend(noise.take(count, 0.5).iter().flat_map(|x| half::f16::from_f32(*x).to_le_bytes())),
            _ => (0..count / 32).for_each(|_| {
                data.extend(half::f16::from_f32(0.002).to_le_bytes());
                data.extend((0..32).map(|_| ((noise.next() * 250.0) as i8).cast_unsigned()));
            }),
        }
        data.resize(data.len().next_multiple_of(32), 0);
    }
    out.0.resize(out.0.len().next_multiple_of(32), 0);
    out.0.extend(data);
    out.0
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
    assert!(matches!(events.blocking_recv(), Some(EngineEvent::Tokens(_))));
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
