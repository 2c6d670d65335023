//! How text is cut before the merges: `tokenizer.ggml.pre` → `pre_tokenizer` of a `tokenizer.json`.
//!
//! Source: `llama-vocab.cpp` in ggml-org/llama.cpp for the names, the models' own `tokenizer.json` for the rules.

use serde_json::{Value, json};

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A rule of the imported families.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Split {
    Gpt2,
    SmolLm,
    Llama3,
    Qwen2,
    Tekken,
}

impl Split {
    /// For errors. `default`, llama.cpp's word for a rule that nobody wrote down, is deliberately absent.
    pub(super) const KNOWN: &str = "gpt-2, smollm, llama-bpe, qwen2 and tekken; for others import the Hugging Face folder";

    pub(super) fn of(pre: &str) -> Option<Self> {
        Some(match pre {
            "gpt-2" => Self::Gpt2,
            "smollm" => Self::SmolLm,
            "llama-bpe" | "llama3" | "llama-v3" => Self::Llama3,
            "qwen2" => Self::Qwen2,
            "tekken" => Self::Tekken,
            _ => return None,
        })
    }

    pub(super) fn pre_tokenizer(self) -> Value {
        let bytes = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
        let first = match self {
            Self::Gpt2 => return bytes(true),
            Self::SmolLm => json!({"type": "Digits", "individual_digits": true}),
            Self::Llama3 => by_pattern(LLAMA3),
            Self::Qwen2 => by_pattern(QWEN2),
            Self::Tekken => by_pattern(TEKKEN),
        };
        json!({"type": "Sequence", "pretokenizers": [first, bytes(self == Self::SmolLm)]})
    }

    pub(super) fn normalizer(self) -> Value {
        if self == Self::Qwen2 { json!({"type": "NFC"}) } else { Value::Null }
    }

    /// A piece that is a token by itself is taken whole, even where the merges would not lead to it.
    pub(super) fn ignores_merges(self) -> bool {
        matches!(self, Self::Llama3 | Self::Tekken)
    }
}

fn by_pattern(pattern: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
}
