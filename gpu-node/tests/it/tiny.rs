//! A real model of one layer and 260 tokens, written where a test wants it.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::weights::write_panels;

const DIM: usize = 32;
const VOCAB: usize = 260;

/// Writes `config.json`, `model.safetensors`, `tokenizer.json` and `tokenizer_config.json` into `folder`.
pub fn write(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    let vocab: Map<String, Value> = (0..VOCAB as u32 - 1).map(|id| (char::from_u32(0x100 + id).unwrap().to_string(), json!(id))).collect();
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [
            {"id": 259, "content": "<|im_end|>", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false},
        ],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    });
    let template = json!({"chat_template": "{{ messages[0].content }}", "eos_token": "<|im_end|>"});
    let config = json!({
        "model_type": "llama", "num_hidden_layers": 1, "hidden_size": DIM, "intermediate_size": DIM, "num_attention_heads": 1,
        "num_key_value_heads": 1, "head_dim": DIM, "vocab_size": VOCAB, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": true, "hidden_act": "silu",
    });
    for (name, content) in [("tokenizer.json", tokenizer), ("tokenizer_config.json", template), ("config.json", config)] {
        fs::write(folder.join(name), content.to_string()).unwrap();
    }
    write_weights(&folder.join("model.safetensors"));
}

fn write_weights(path: &Path) {
    let layer = |part: &str| format!("model.layers.0.{part}.weight");
    let square = vec![DIM, DIM];
    let mut shapes: Vec<(String, Vec<usize>)> =
        ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
            .map(|part| (layer(part), square.clone()))
            .into();
    shapes.extend(["input_layernorm", "post_attention_layernorm"].map(|part| (layer(part), vec![DIM])));
    shapes.push(("model.norm.weight".into(), vec![DIM]));
    shapes.push(("model.embed_tokens.weight".into(), vec![VOCAB, DIM]));
    // Any numbers do, as long as they are the same in every run.
    let mut state = 1u32;
    let mut number = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    let mut tensors = Vec::new();
    for (name, shape) in shapes {
        let values = (0..shape.iter().product::<usize>()).map(|_| number()).collect();
        tensors.push((name, shape, values));
    }
    write_panels(path, &tensors);
}
