//! What a GGUF file may hold, and what of it is refused by name.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;

use common::gguf::{F32, Q8_0, Writer, f32_bytes, gguf_of};
use common::{Quiet, byte_alphabet};
use gpu_node::model::gguf::QuantType;
use gpu_node::model::import::{ImportError, import};
use gpu_node::model::{ModelFolder, RopeScaling};
use prompt::Prompter;
use serde::Deserialize;

/// The family's model as a GGUF file that a test may change.
fn gguf(family: &str) -> (tempfile::TempDir, Writer) {
    let dir = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../test/vectors/families").join(family);
    import(&source, &dir.path().join("folder"), None, &Quiet).unwrap();
    let folder = ModelFolder::open(&dir.path().join("folder"), 1, &|_| ()).unwrap();
    (dir, gguf_of(&folder))
}

fn imported(dir: &tempfile::TempDir, writer: &Writer) -> Result<ModelFolder, ImportError> {
    let (source, dest) = (dir.path().join("model.gguf"), dir.path().join("imported"));
    fs::write(&source, writer.finish()).unwrap();
    import(&source, &dest, None, &Quiet)?;
    Ok(ModelFolder::open(&dest, 1, &|_| ()).unwrap())
}

#[test]
fn q8_0_blocks_are_stored_as_they_are_down_to_minus_128() {
    let (dir, mut writer) = gguf("qwen3");
    let mut data = Vec::new();
    for block in 0..64 * 64 / 32 {
        data.extend(half::f16::from_f32(0.001 * (block + 1) as f32).to_le_bytes());
        data.extend((0..32).map(|i| ((block * 37 + i * 11) as u8).wrapping_sub(128)));
    }
    data[2] = 0x80; // −128, which our own quantiser never writes
    writer.tensor("blk.0.ffn_gate.weight", &[64, 64], Q8_0, &data);
    let folder = imported(&dir, &writer).unwrap();
    let mut expected = Vec::new();
    QuantType::Q8_0.dequantize(&data, &mut expected);
    let found = folder.weights.matrix("model.layers.0.mlp.gate_proj.weight", 64, 64).unwrap().panels().to_f32();
    assert_eq!(expected[0], half::f16::from_f32(0.001).to_f32() * -128.0);
    assert_eq!(found.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), expected.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
}

#[derive(Deserialize)]
struct Vector {
    code: u32,
    blocks: String,
    elements: Vec<u32>,
}

#[test]
fn every_storage_type_is_imported_within_half_a_step() {
    let vectors: Vec<Vector> = serde_json::from_str(include_str!("../../test/vectors/gguf_dequant.json")).unwrap();
    for Vector { code, blocks, elements } in vectors {
        let kind = QuantType::from_code(code).unwrap();
        let values: Vec<f32> = elements.iter().map(|bits| f32::from_bits(*bits)).collect();
        let bytes = alloy::hex::decode(blocks).unwrap();
        // 64 rows of 256 columns, a whole super-block, out of the vector's blocks over and over.
        let blocks = values.len() / kind.block_elements();
        let order: Vec<usize> = (0..64 * 256 / kind.block_elements()).map(|i| i % blocks).collect();
        let data: Vec<u8> = order.iter().flat_map(|i| &bytes[i * kind.block_bytes()..][..kind.block_bytes()]).copied().collect();
        let expected: Vec<f32> =
            order.iter().flat_map(|i| &values[i * kind.block_elements()..][..kind.block_elements()]).copied().collect();

        let (dir, mut writer) = gguf("qwen3");
        writer.number("qwen3.feed_forward_length", 256);
        for layer in 0..2 {
            for part in ["ffn_gate", "ffn_up"] {
                writer.tensor(&format!("blk.{layer}.{part}.weight"), &[64, 256], F32, &f32_bytes(&[0.5; 64 * 256]));
            }
            writer.tensor(&format!("blk.{layer}.ffn_down.weight"), &[256, 64], code, &data);
        }
        let folder = imported(&dir, &writer).unwrap();
        let found = folder.weights.matrix("model.layers.1.mlp.down_proj.weight", 64, 256).unwrap().panels().to_f32();
        for (found, expected) in found.chunks(32).zip(expected.chunks(32)) {
            let most = expected.iter().fold(0.0f32, |most, x| most.max(x.abs()));
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() <= most / 127.0 * 0.57), "{kind:?}");
        }
    }
}

#[test]
fn what_is_not_computed_is_refused_by_name() {
    type Edit = fn(&mut Writer);
    let cases: [(&str, Edit, &str); 13] = [
        ("llama3", |w| w.word("general.architecture", "gemma3"), "gemma3"),
        ("smollm", |w| w.word("llama.rope.scaling.type", "yarn"), "yarn"),
        ("smollm", |w| w.word("llama.rope.scaling.type", "linear"), "rope.scaling.factor"),
        ("smollm", |w| w.number("llama.expert_count", 8), "8 experts"),
        ("smollm", |w| w.number("llama.rope.dimension_count", 16), "rope.dimension_count"),
        ("smollm", |w| w.float("llama.attention.scale", 0.5), "attention.scale"),
        ("qwen2", |w| w.number("qwen2.attention.sliding_window", 64), "sliding_window"),
        ("smollm", |w| w.tensor("blk.0.attn_q.bias", &[64], F32, &f32_bytes(&[0.0; 64])), "blk.0.attn_q.bias belongs to no part"),
        ("qwen2", |w| w.remove("blk.1.attn_k.bias"), "blk.1.attn_k.bias is missing"),
        ("qwen3", |w| w.tensor("blk.0.attn_q_norm.weight", &[64], F32, &f32_bytes(&[1.0; 64])), "shape [64]"),
        ("smollm", |w| w.word("tokenizer.ggml.model", "llama"), "byte-level BPE"),
        ("smollm", |w| w.word("tokenizer.ggml.pre", "default"), "llama-bpe"),
        ("smollm", |w| w.number("tokenizer.ggml.eos_token_id", 260), "eos_token_id"),
    ];
    for (family, edit, named) in cases {
        let (dir, mut writer) = gguf(family);
        edit(&mut writer);
        let error = imported(&dir, &writer).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(error.contains(named), "{named}: {error}");
        assert!(!dir.path().join("imported").exists());
    }
}

#[test]
fn rotation_factors_become_llama_3s_scaling_or_are_refused() {
    let (dir, writer) = gguf("llama3");
    let scaling = imported(&dir, &writer).unwrap().config.rope_scaling;
    let expected = RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context_tokens: 64.0 };
    assert_eq!(scaling, expected);

    // Without the context of training Llama 3's own is assumed, and these factors then do not follow.
    let (dir, mut writer) = gguf("llama3");
    writer.remove("llama.rope.scaling.original_context_length");
    assert!(matches!(imported(&dir, &writer), Err(ImportError::RopeFactors { .. })));
    let (dir, mut writer) = gguf("llama3");
    writer.tensor("rope_freqs.weight", &[16], F32, &f32_bytes(&[f32::NAN; 16]));
    assert!(matches!(imported(&dir, &writer), Err(ImportError::RopeFactors { pair: 0, .. })));

    let (dir, mut writer) = gguf("smollm");
    writer.word("llama.rope.scaling.type", "linear");
    writer.float("llama.rope.scaling.factor", 4.0);
    assert_eq!(imported(&dir, &writer).unwrap().config.rope_scaling, RopeScaling::Linear { factor: 4.0 });
}

#[test]
fn scales_that_are_no_numbers_are_refused() {
    let (dir, mut writer) = gguf("qwen3");
    let mut data = vec![0; 34 * 128];
    data[34 * 3 + 1] = 0x7E; // NaN
    writer.tensor("blk.0.ffn_up.weight", &[64, 64], Q8_0, &data);
    let error = imported(&dir, &writer).err().unwrap().to_string();
    assert!(error.contains("mlp.up_proj") && error.contains("row 1") && error.contains("column 32"), "{error}");
}

/// Token texts of `text` under a rule, with merges that would join any digits or letters.
fn pieces(pre: &str, text: &str) -> Vec<String> {
    let (dir, mut writer) = gguf("smollm");
    let mut tokens: Vec<String> = byte_alphabet().iter().map(char::to_string).collect();
    let merges = ["1 1", "11 1", "11 11", "a b", "ab c", "' s"];
    // In place of control characters, so that the vocabulary keeps its size.
    for (index, merge) in merges.iter().enumerate() {
        tokens[index] = merge.replace(' ', "");
    }
    tokens.extend(["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(str::to_owned));
    writer.words("tokenizer.ggml.tokens", &tokens);
    writer.integers("tokenizer.ggml.token_type", &(0..tokens.len()).map(|id| if id < 256 { 1 } else { 3 }).collect::<Vec<_>>());
    writer.words("tokenizer.ggml.merges", &merges.map(str::to_owned));
    writer.word("tokenizer.ggml.pre", pre);
    let folder = imported(&dir, &writer).unwrap();
    let prompter: &Prompter = &folder.prompter;
    prompter.encode(text).unwrap().iter().map(|id| tokens[*id as usize].replace('Ġ', " ")).collect()
}

#[test]
fn text_is_cut_as_each_familys_rule_says() {
    let digits = "1111";
    assert_eq!(pieces("gpt-2", digits), ["1111"]);
    assert_eq!(pieces("smollm", digits), ["1", "1", "1", "1"]);
    assert_eq!(pieces("llama-bpe", digits), ["111", "1"]);
    assert_eq!(pieces("qwen2", digits), ["1", "1", "1", "1"]);
    assert_eq!(pieces("tekken", digits), ["1", "1", "1", "1"]);
    // Apostrophes: a piece of its own everywhere but in tekken, which lets it begin a word.
    for pre in ["gpt-2", "smollm", "llama-bpe", "qwen2"] {
        assert_eq!(pieces(pre, "abc's"), ["abc", "'s"], "{pre}");
    }
    // Qwen composes characters first: e and an accent are é, two bytes.
    assert_eq!(pieces("qwen2", "e\u{301}").len(), 2);
    assert_eq!(pieces("llama-bpe", "e\u{301}").len(), 3);
}
