//! GGUF files written here.

use gpu_node::model::panels::quantize_block;
use gpu_node::model::tensors::{TensorShape, decoder_tensors};
use gpu_node::model::{DecoderConfig, ModelFolder, RopeScaling};
use serde_json::Value;

/// `ggml_type` numbers.
pub const F32: u32 = 0;
pub const F16: u32 = 1;
pub const Q8_0: u32 = 8;

/// A file under construction. A key or tensor that is given twice replaces the first.
#[derive(Default)]
pub struct Writer {
    /// Name, then type and value as they stand in the file.
    keys: Vec<(String, Vec<u8>)>,
    tensors: Vec<Tensor>,
}

struct Tensor {
    name: String,
    /// The fastest dimension first.
    shape: Vec<usize>,
    kind: u32,
    data: Vec<u8>,
}

impl Writer {
    fn key(&mut self, key: &str, kind: u32) -> &mut Vec<u8> {
        self.remove(key);
        self.keys.push((key.to_owned(), kind.to_le_bytes().to_vec()));
        &mut self.keys.last_mut().unwrap().1
    }

    pub fn number(&mut self, key: &str, value: u32) {
        self.key(key, 4).extend(value.to_le_bytes());
    }

    pub fn float(&mut self, key: &str, value: f32) {
        self.key(key, 6).extend(value.to_le_bytes());
    }

    pub fn word(&mut self, key: &str, value: &str) {
        put_text(self.key(key, 8), value);
    }

    pub fn words(&mut self, key: &str, values: &[String]) {
        let out = self.key(key, 9);
        out.extend(8u32.to_le_bytes());
        out.extend((values.len() as u64).to_le_bytes());
        values.iter().for_each(|value| put_text(out, value));
    }

    pub fn integers(&mut self, key: &str, values: &[i32]) {
        let out = self.key(key, 9);
        out.extend(5u32.to_le_bytes());
        out.extend((values.len() as u64).to_le_bytes());
        values.iter().for_each(|value| out.extend(value.to_le_bytes()));
    }

    pub fn remove(&mut self, name: &str) {
        self.keys.retain(|(key, _)| key != name);
        self.tensors.retain(|tensor| tensor.name != name);
    }

    /// `shape` has the fastest dimension first.
    pub fn tensor(&mut self, name: &str, shape: &[usize], kind: u32, data: &[u8]) {
        self.remove(name);
        self.tensors.push(Tensor { name: name.to_owned(), shape: shape.to_vec(), kind, data: data.to_vec() });
    }

    pub fn finish(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            put_text(&mut out, key);
            out.extend(value);
        }
        let mut data = Vec::new();
        for Tensor { name, shape, kind, data: bytes } in &self.tensors {
            put_text(&mut out, name);
            out.extend((shape.len() as u32).to_le_bytes());
            shape.iter().for_each(|d| out.extend((*d as u64).to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend((data.len() as u64).to_le_bytes());
            data.extend(bytes);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(data);
        out
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

pub fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// Rows of whole blocks of 32 as Q8_0.
pub fn q8_0_bytes(values: &[f32]) -> Vec<u8> {
    let block = |block: &[f32; 32]| {
        let (scale, q) = quantize_block(block);
        scale.to_le_bytes().into_iter().chain(q.map(i8::cast_unsigned))
    };
    values.as_chunks::<32>().0.iter().flat_map(block).collect()
}

/// A folder's model as llama.cpp's converter would write it, matrices in Q8_0.
pub fn gguf_of(folder: &ModelFolder) -> Writer {
    let config = &folder.config;
    let architecture = if config.qkv_bias {
        "qwen2"
    } else if config.qk_norm {
        "qwen3"
    } else {
        "llama"
    };
    let mut out = Writer::default();
    out.word("general.architecture", architecture);
    for (key, value) in [
        ("block_count", config.n_layers),
        ("context_length", config.context_tokens),
        ("embedding_length", config.dim),
        ("feed_forward_length", config.hidden_dim),
        ("attention.head_count", config.n_heads),
        ("attention.head_count_kv", config.n_kv_heads),
        ("attention.key_length", config.head_dim),
        ("rope.dimension_count", config.head_dim),
        ("attention.sliding_window", config.sliding_window.unwrap_or(0)),
    ] {
        out.number(&format!("{architecture}.{key}"), value as u32);
    }
    out.float(&format!("{architecture}.attention.layer_norm_rms_epsilon"), config.norm_eps);
    out.float(&format!("{architecture}.rope.freq_base"), config.rope_theta as f32);
    write_tokenizer(&mut out, folder);
    if let RopeScaling::Llama3 { original_context_tokens, .. } = config.rope_scaling {
        out.number("llama.rope.scaling.original_context_length", original_context_tokens as u32);
        out.tensor("rope_freqs.weight", &[config.head_dim / 2], F32, &f32_bytes(&llama3_factors(config)));
    }
    for spec in decoder_tensors(config) {
        let name = gguf_name(&spec.name);
        match spec.shape {
            TensorShape::Vector { length } => {
                let values = folder.weights.vector(&spec.name, length).unwrap();
                out.tensor(&name, &[length], F32, &f32_bytes(&values));
            }
            TensorShape::Matrix { rows, columns } => {
                let mut values = folder.weights.matrix(&spec.name, rows, columns).unwrap().panels().to_f32();
                if architecture == "llama" && (name.ends_with("attn_q.weight") || name.ends_with("attn_k.weight")) {
                    values = interleaved(&values, columns, rows / config.head_dim);
                }
                out.tensor(&name, &[columns, rows], Q8_0, &q8_0_bytes(&values));
            }
        }
    }
    out
}

/// `weights.reshape(heads, 2, rows / heads / 2, columns).swapaxes(1, 2)`, as the converter does it.
fn interleaved(values: &[f32], columns: usize, heads: usize) -> Vec<f32> {
    let half = values.len() / columns / heads / 2;
    let row = |head: usize, part: usize, index: usize| &values[((head * 2 + part) * half + index) * columns..][..columns];
    let order = (0..heads).flat_map(|head| (0..half).flat_map(move |index| (0..2).map(move |part| (head, part, index))));
    order.flat_map(|(head, part, index)| row(head, part, index).to_vec()).collect()
}

/// As the converter computes `rope_freqs.weight`.
fn llama3_factors(config: &DecoderConfig) -> Vec<f32> {
    let RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context_tokens } = config.rope_scaling else {
        return Vec::new();
    };
    let (low, high) = (original_context_tokens / low_freq_factor, original_context_tokens / high_freq_factor);
    (0..config.head_dim / 2)
        .map(|pair| {
            let length = std::f64::consts::TAU * config.rope_theta.powf(2.0 * pair as f64 / config.head_dim as f64);
            let smooth = (original_context_tokens / length - low_freq_factor) / (high_freq_factor - low_freq_factor);
            if length < high {
                1.0
            } else if length > low {
                factor as f32
            } else {
                (1.0 / ((1.0 - smooth) / factor + smooth)) as f32
            }
        })
        .collect()
}

fn write_tokenizer(out: &mut Writer, folder: &ModelFolder) {
    let json = |name: &str| -> Value { serde_json::from_slice(&std::fs::read(folder.dir.join(name)).unwrap()).unwrap() };
    let (tokenizer, config) = (json("tokenizer.json"), json("tokenizer_config.json"));
    let mut tokens: Vec<(u64, String, i32)> =
        tokenizer["model"]["vocab"].as_object().unwrap().iter().map(|(text, id)| (id.as_u64().unwrap(), text.clone(), 1)).collect();
    let added = tokenizer["added_tokens"].as_array().unwrap().iter();
    tokens.extend(added.map(|token| (token["id"].as_u64().unwrap(), token["content"].as_str().unwrap().to_owned(), 3)));
    tokens.sort_unstable();
    tokens.dedup_by_key(|token| token.0);
    out.word("tokenizer.ggml.model", "gpt2");
    out.word("tokenizer.ggml.pre", "gpt-2");
    out.words("tokenizer.ggml.tokens", &tokens.iter().map(|token| token.1.clone()).collect::<Vec<_>>());
    out.integers("tokenizer.ggml.token_type", &tokens.iter().map(|token| token.2).collect::<Vec<_>>());
    out.words("tokenizer.ggml.merges", &[]);
    out.number("tokenizer.ggml.bos_token_id", 257);
    out.number("tokenizer.ggml.eos_token_id", folder.prompter.eos_token_ids()[0]);
    out.word("tokenizer.chat_template", config["chat_template"].as_str().unwrap());
}

fn gguf_name(hf: &str) -> String {
    let mut name = hf.replace("model.layers.", "blk.");
    for (from, to) in [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.", "attn_"),
        ("mlp.", "ffn_"),
        ("_proj", ""),
    ] {
        name = name.replace(from, to);
    }
    name
}
