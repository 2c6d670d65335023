//! GGUF vocabulary → `tokenizer.json`, `tokenizer_config.json`, `generation_config.json`.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::Source;
use super::split::Split;
use crate::model::import::ImportError;

/// `tokenizer.ggml.token_type` of the tokens that stand outside the merges.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
/// Control tokens that end an answer in the known families, whichever of them the file names as `eos`. llama.cpp goes by
/// the same texts.
const END_OF_TURN: [&str; 6] = ["<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "</s>"];

/// A byte-level BPE vocabulary with its special tokens and chat template.
pub(super) struct Vocabulary<'a> {
    tokens: Vec<&'a str>,
    kinds: Vec<i64>,
    merges: Vec<(&'a str, &'a str)>,
    split: Split,
    chat_template: &'a str,
    pub(super) bos: Option<u64>,
    pub(super) eos: u64,
}

impl<'a> Vocabulary<'a> {
    pub(super) fn of(source: &'a Source) -> Result<Self, ImportError> {
        let gguf = &source.gguf;
        let in_source = |error| source.error(error);
        let model = gguf.text("tokenizer.ggml.model").map_err(in_source)?;
        if model != "gpt2" {
            let (key, known) = ("tokenizer.ggml.model", "gpt2 (byte-level BPE); for others import the Hugging Face folder");
            return Err(ImportError::Tokenizer { key, found: model.to_owned(), known });
        }
        // Each rule splits text in a way of its own; guessing one would split differently from the model's training.
        let pre = gguf.text("tokenizer.ggml.pre").map_err(in_source)?;
        let Some(split) = Split::of(pre) else {
            return Err(ImportError::Tokenizer { key: "tokenizer.ggml.pre", found: pre.to_owned(), known: Split::KNOWN });
        };

        let tokens = gguf.texts("tokenizer.ggml.tokens").map_err(in_source)?;
        let kinds = gguf.integers("tokenizer.ggml.token_type").map_err(in_source)?;
        if kinds.len() != tokens.len() {
            return Err(ImportError::Inconsistent { what: "length of tokenizer.ggml.token_type", value: kinds.len().to_string() });
        }
        let mut seen = HashSet::with_capacity(tokens.len());
        if let Some(twice) = tokens.iter().find(|token| !seen.insert(**token)) {
            return Err(inconsistent("a token that stands twice", twice));
        }
        let merges = gguf.texts("tokenizer.ggml.merges").map_err(in_source)?;
        let merges = merges
            .into_iter()
            .map(|merge| merge.split_once(' ').ok_or_else(|| inconsistent("a merge", merge)))
            .collect::<Result<Vec<_>, _>>()?;
        let id = |key: &'static str| {
            let id = gguf.unsigned(key).map_err(in_source)?;
            if id >= tokens.len() as u64 { Err(inconsistent(key, &id.to_string())) } else { Ok(id) }
        };
        let bos_key = "tokenizer.ggml.bos_token_id";
        let bos = gguf.value(bos_key).map(|_| id(bos_key)).transpose()?;
        let eos = id("tokenizer.ggml.eos_token_id")?;
        let chat_template = gguf.text("tokenizer.chat_template").map_err(in_source)?;
        Ok(Self { tokens, kinds, merges, split, chat_template, bos, eos })
    }

    pub(super) fn tokenizer_json(&self) -> Value {
        let vocab: Map<String, Value> = self.tokens.iter().enumerate().map(|(id, text)| ((*text).to_owned(), json!(id))).collect();
        json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": self.added_tokens(),
            "normalizer": self.split.normalizer(),
            "pre_tokenizer": self.split.pre_tokenizer(),
            "post_processor": null,
            "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
            "model": {
                "type": "BPE",
                "dropout": null,
                "unk_token": null,
                "continuing_subword_prefix": null,
                "end_of_word_suffix": null,
                "fuse_unk": false,
                "byte_fallback": false,
                "ignore_merges": self.split.ignores_merges(),
                "vocab": vocab,
                "merges": self.merges.iter().map(|(left, right)| json!([left, right])).collect::<Vec<_>>(),
            },
        })
    }

    pub(super) fn tokenizer_config_json(&self, context_tokens: usize) -> Value {
        json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_prefix_space": false,
            "bos_token": self.bos.map(|id| self.text(id)),
            "eos_token": self.text(self.eos),
            "model_max_length": context_tokens,
            "clean_up_tokenization_spaces": false,
            "chat_template": self.chat_template,
        })
    }

    pub(super) fn generation_config_json(&self) -> Value {
        let ends = self.tokens.iter().zip(&self.kinds).enumerate();
        let others = ends.filter(|(_, (text, kind))| **kind == CONTROL && END_OF_TURN.contains(text)).map(|(id, _)| id as u64);
        let mut ids = vec![self.eos];
        ids.extend(others.filter(|id| *id != self.eos));
        json!({"bos_token_id": self.bos, "eos_token_id": ids})
    }

    fn added_tokens(&self) -> Vec<Value> {
        let all = self.tokens.iter().zip(&self.kinds).enumerate();
        all.filter(|(_, (_, kind))| matches!(**kind, CONTROL | USER_DEFINED))
            .map(|(id, (text, kind))| {
                json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                       "normalized": false, "special": *kind == CONTROL})
            })
            .collect()
    }

    fn text(&self, id: u64) -> &str {
        self.tokens.get(id as usize).copied().unwrap_or_default()
    }
}

fn inconsistent(what: &'static str, value: &str) -> ImportError {
    ImportError::Inconsistent { what, value: format!("{value:?}") }
}
