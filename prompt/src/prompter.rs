//! A model's tokenizer and chat template, opened once and shared.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use alloy::primitives::{B256, keccak256};
use tokenizers::Tokenizer;
use wire::node::AnswerFormat;

use crate::config::{ConfigError, FolderConfig, read_bounded};
use crate::detokenizer::Detokenizer;
use crate::grammar::{Grammar, GrammarError, Grammars};
use crate::template::{ChatTemplate, Message, TemplateError};
use crate::vocabulary;

/// Longest `tokenizer.json` in bytes; a vocabulary of 256k tokens takes about 35 MiB.
const MAX_TOKENIZER_BYTES: u64 = 128 * 1024 * 1024;

/// Why a prompt could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{path} is not a tokenizer: {reason}", path = path.display())]
    Tokenizer { path: PathBuf, reason: String },
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error("there are no messages; send at least one")]
    NoMessages,
    #[error("text could not be tokenized: {0}")]
    Encode(String),
}

/// Digests that go into the receipt's `engine` field (protocol.md section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineParts {
    /// keccak256 of the bytes of `tokenizer.json`.
    pub tokenizer_json: B256,
    /// keccak256 of the UTF-8 of the chat template.
    pub chat_template: B256,
}

/// Renders conversations to token ids and token ids to text. Cheap to clone.
#[derive(Clone)]
pub struct Prompter {
    tokenizer: Arc<Tokenizer>,
    template: Arc<ChatTemplate>,
    eos_token_ids: Arc<[u32]>,
    vocab_size: usize,
    parts: EngineParts,
    /// Made when the first JSON answer is asked for.
    grammars: Arc<OnceLock<Result<Grammars, GrammarError>>>,
}

impl Prompter {
    /// Opens a Hugging Face folder: `tokenizer.json`, `tokenizer_config.json` and, when there, `generation_config.json`.
    pub fn open(dir: &Path) -> Result<Self, PromptError> {
        let path = dir.join("tokenizer.json");
        let bytes = read_bounded(&path, MAX_TOKENIZER_BYTES)?;
        let mut tokenizer = parse_tokenizer(&bytes).map_err(|reason| PromptError::Tokenizer { path, reason })?;
        // A folder may ask for cut or padded inputs (made for training); a prompt is neither.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|e| PromptError::Encode(e.to_string()))?;

        let config = FolderConfig::read(dir)?;
        let mut eos_token_ids = config.eos_token_ids.clone();
        if eos_token_ids.is_empty() {
            eos_token_ids.extend(tokenizer.token_to_id(&config.eos_token));
        }
        if eos_token_ids.is_empty() {
            return Err(ConfigError::NoEos { path: dir.to_owned() }.into());
        }

        let template = ChatTemplate::new(&config.chat_template, &config.bos_token, &config.eos_token)?;
        let parts = EngineParts { tokenizer_json: keccak256(&bytes), chat_template: keccak256(template.source().as_bytes()) };
        // Ids may have gaps, so the number of tokens says nothing of the highest.
        let vocab_size = tokenizer.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
        let (tokenizer, template, grammars) = (Arc::new(tokenizer), Arc::new(template), Arc::default());
        Ok(Self { tokenizer, vocab_size, template, eos_token_ids: eos_token_ids.into(), parts, grammars })
    }

    /// Prompt token ids for a conversation, ending where the answer begins.
    pub fn render(&self, messages: &[Message]) -> Result<Vec<u32>, PromptError> {
        if messages.is_empty() {
            return Err(PromptError::NoMessages);
        }
        self.encode(&self.template.render(messages)?)
    }

    /// Prompt token ids for a conversation whose last message, the assistant's, goes on ([`ChatTemplate::render_continued`]).
    pub fn render_continued(&self, messages: &[Message]) -> Result<Vec<u32>, PromptError> {
        self.encode(&self.template.render_continued(messages)?)
    }

    /// Token ids of plain text, with no template and no added tokens.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, PromptError> {
        // No special tokens are added: the template writes those that the model wants.
        let encoding = self.tokenizer.encode_fast(text, false).map_err(|e| PromptError::Encode(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Number of prompt tokens of a conversation.
    pub fn count(&self, messages: &[Message]) -> Result<usize, PromptError> {
        Ok(self.render(messages)?.len())
    }

    /// Text of a whole sequence, special tokens skipped, as Hugging Face's `decode` gives it.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, PromptError> {
        self.tokenizer.decode(tokens, true).map_err(|e| PromptError::Encode(e.to_string()))
    }

    /// A new detokeniser for one answer.
    pub fn detokenizer(&self) -> Detokenizer {
        Detokenizer::new(Arc::clone(&self.tokenizer))
    }

    /// Bytes that a token stands for, of its name when it is special; none when there is no such token.
    pub fn token_bytes(&self, token: u32) -> Vec<u8> {
        vocabulary::bytes(&self.tokenizer, token).unwrap_or_default()
    }

    /// What holds an answer to `format`; `None` when anything may be said. Takes milliseconds, the first one of a model
    /// some tenths of a second; call it off the request threads.
    pub fn grammar(&self, format: &AnswerFormat) -> Result<Option<Grammar>, GrammarError> {
        if *format == AnswerFormat::Text {
            return Ok(None);
        }
        match self.grammars.get_or_init(|| Grammars::new(&self.tokenizer, &self.eos_token_ids)) {
            Ok(grammars) => grammars.compile(format),
            Err(error) => Err(error.clone()),
        }
    }

    /// Ids that end an answer, ascending, never empty.
    pub fn eos_token_ids(&self) -> &[u32] {
        &self.eos_token_ids
    }

    /// One more than the highest token id, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Digests for the receipt's `engine` field.
    pub fn engine_parts(&self) -> EngineParts {
        self.parts
    }
}

/// The crate's reader panics on some files that are no JSON or lack a field; whoever wrote the file must not stop the process.
fn parse_tokenizer(bytes: &[u8]) -> Result<Tokenizer, String> {
    serde_json::from_slice::<serde::de::IgnoredAny>(bytes).map_err(|e| e.to_string())?;
    match std::panic::catch_unwind(|| Tokenizer::from_bytes(bytes)) {
        Ok(parsed) => parsed.map_err(|e| e.to_string()),
        Err(_) => Err("the tokenizers library gave up on it".to_owned()),
    }
}
