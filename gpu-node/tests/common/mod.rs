//! A tiny random model of the family: two layers, byte-level vocabulary.

#![allow(dead_code, unreachable_pub)] // Each test crate uses a part of it.

pub mod gguf;
pub mod reference;
pub mod weights;

use std::fs;
use std::path::Path;

use gpu_node::model::import::Progress;
use serde_json::{Map, Value, json};

pub const DIM: usize = 64;
pub const HIDDEN: usize = 96;
pub const HEADS: usize = 4;
pub const KV_HEADS: usize = 2;
pub const HEAD_DIM: usize = 32;
pub const LAYERS: usize = 2;
pub const VOCAB: usize = 264;
pub const CONTEXT: usize = 1024;
pub const EOS: u32 = 257;

/// Progress that nobody watches.
pub struct Quiet;

impl Progress for Quiet {
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn end(&self) {}
}

/// Deterministic numbers in (−0.5, 0.5).
pub struct Noise(pub u64);

impl Noise {
    pub fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 40) as f32 / (1u64 << 24) as f32) - 0.5
    }

    pub fn take(&mut self, count: usize, scale: f32) -> Vec<f32> {
        (0..count).map(|_| self.next() * scale).collect()
    }
}

/// GPT-2's byte alphabet in the order of its bytes.
pub fn byte_alphabet() -> Vec<char> {
    let mut next = 0x100;
    (0u32..256)
        .map(|byte| match byte {
            0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => char::from_u32(byte).unwrap(),
            _ => {
                next += 1;
                char::from_u32(next - 1).unwrap()
            }
        })
        .collect()
}

/// Name and shape of every tensor, as Hugging Face has them.
pub fn tensor_shapes() -> Vec<(String, Vec<usize>)> {
    let (q, kv) = (HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM);
    let mut out = vec![("model.embed_tokens.weight".to_owned(), vec![VOCAB, DIM]), ("model.norm.weight".to_owned(), vec![DIM])];
    for layer in 0..LAYERS {
        let mut add = |part: &str, shape: Vec<usize>| out.push((format!("model.layers.{layer}.{part}.weight"), shape));
        add("input_layernorm", vec![DIM]);
        add("self_attn.q_proj", vec![q, DIM]);
        add("self_attn.k_proj", vec![kv, DIM]);
        add("self_attn.v_proj", vec![kv, DIM]);
        add("self_attn.o_proj", vec![DIM, q]);
        add("post_attention_layernorm", vec![DIM]);
        add("mlp.gate_proj", vec![HIDDEN, DIM]);
        add("mlp.up_proj", vec![HIDDEN, DIM]);
        add("mlp.down_proj", vec![DIM, HIDDEN]);
    }
    out
}

/// Writes the model; `edit` may change a tensor's values by name.
pub fn write_model(dir: &Path, edit: impl Fn(&str, &mut Vec<f32>)) {
    let mut noise = Noise(7);
    let mut tensors = Vec::new();
    for (name, shape) in tensor_shapes() {
        let count = shape.iter().product();
        let mut values = if shape.len() == 1 { vec![1.0; count] } else { noise.take(count, 0.5) };
        if name == "model.embed_tokens.weight" {
            // Logit 0: never among the likeliest, so that answers have the length that a test asks for.
            values[EOS as usize * DIM..(EOS as usize + 1) * DIM].fill(0.0);
        }
        edit(&name, &mut values);
        tensors.push((name, shape, values));
    }
    weights::write_panels(&dir.join("model.safetensors"), &tensors);

    let config = json!({"model_type": "llama", "num_hidden_layers": LAYERS, "hidden_size": DIM, "intermediate_size": HIDDEN,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM, "vocab_size": VOCAB,
        "max_position_embeddings": CONTEXT, "rope_theta": 10000.0, "rms_norm_eps": 1e-5, "tie_word_embeddings": true});
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let vocab: Map<String, Value> = byte_alphabet().iter().enumerate().map(|(id, c)| (c.to_string(), json!(id))).collect();
    let special = |id: u32, content: &str| json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false});
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [special(256, "<|im_start|>"), special(EOS, "<|im_end|>")],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    });
    fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let template = "{% for m in messages %}{{ m.content }}{% endfor %}";
    let tokenizer_config = json!({"chat_template": template, "eos_token": "<|im_end|>"});
    fs::write(dir.join("tokenizer_config.json"), tokenizer_config.to_string()).unwrap();
}
