//! A model's folder without weights.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // Each test crate uses a part of it.

use std::fs;
use std::path::Path;

use prompt::Prompter;
use serde_json::{Value, json};

/// Tokens of the tokenizer.
pub const VOCABULARY: usize = 260;

/// GPT-2's byte alphabet in the order of its bytes.
fn byte_alphabet() -> Vec<char> {
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

/// A byte-level tokenizer with one merge, so that characters beyond ASCII are always split over tokens.
pub fn write_folder(dir: &Path) {
    let mut vocab: serde_json::Map<String, Value> = byte_alphabet().iter().enumerate().map(|(id, c)| (c.to_string(), json!(id))).collect();
    vocab.insert("he".into(), json!(256));
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [
            {"id": 257, "content": "<|im_start|>", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false},
            {"id": 258, "content": "<|im_end|>", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false},
            {"id": 259, "content": "→tool", "special": false, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false},
        ],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": [["h", "e"]]},
    });
    let config = json!({
        "chat_template": "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        "eos_token": {"content": "<|im_end|>"},
    });
    fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    fs::write(dir.join("tokenizer_config.json"), config.to_string()).unwrap();
}

pub fn open() -> Prompter {
    let dir = tempfile::tempdir().unwrap();
    write_folder(dir.path());
    Prompter::open(dir.path()).unwrap()
}
