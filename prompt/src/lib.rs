//! Text ↔ tokens: chat template, tokenizer, streaming detokeniser and stop strings, the same bytes on meter and node.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod config;
mod detokenizer;
mod grammar;
mod prompter;
mod stop;
mod template;
mod vocabulary;

pub use config::ConfigError;
pub use detokenizer::Detokenizer;
pub use grammar::{Grammar, GrammarError};
pub use prompter::{EngineParts, PromptError, Prompter};
pub use stop::{MAX_STOP_BYTES, MAX_STOPS, StopError, StopMatcher, StopOutcome};
pub use template::{ChatTemplate, Message, TemplateError};
