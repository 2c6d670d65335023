//! Answers that must be JSON: which tokens may come next, by llguidance.
//!
//! Meter and node compile the same schema under the same limits, so that the meter refuses exactly what a node would. The
//! limits count steps, never time: what fits on one machine fits on every other.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use llguidance::api::{ParserLimits, StopReason, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};
use llguidance::{JsonCompileOptions, Matcher, ParserFactory};
use serde_json::Value;
use tokenizers::Tokenizer;
use wire::node::AnswerFormat;

use crate::vocabulary;

/// White space between two parts of the JSON, at most. A small model writes as much as it may, and each token is paid for.
const WHITE_SPACE: &str = r"\x20";
/// Highest token id of a tokenizer; llguidance's trie has 24 bits for it.
const TOKEN_ID_MAX: u32 = 1 << 20;
/// Steps to build a schema's expressions and tables.
const COMPILE_FUEL: u64 = 500_000;
/// Most symbols of a grammar.
const GRAMMAR_SYMBOLS_MAX: usize = 100_000;
/// Most states of a schema's lexer, 1 to 2 kB each; bounds the memory of one answer.
const LEXER_STATES_MAX: usize = 20_000;
/// Steps of the lexer, and items of the parser, for one mask.
const MASK_FUEL: u64 = 200_000;
const MASK_ITEMS_MAX: usize = 50_000;
/// Most items of the parser at one byte: a schema with so many properties is served, one with more is refused at once.
const ROW_ITEMS_MAX: usize = 10_000;
/// What the `multipleOf` of a schema may come to: its tables have a row for each remainder.
const REMAINDERS_MAX: f64 = 10_000.0;
/// Tokens that are tried when a schema is compiled.
const FIRST_STEPS: usize = 8;
/// Longest reason that is passed on, characters.
const REASON_CHARS_MAX: usize = 300;

/// Why an answer can't be held to its format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    #[error("this model's tokenizer can't be used for JSON answers: {0}; leave `response_format` out, or choose another model")]
    Tokenizer(String),
    #[error("the schema of `response_format` is not JSON: {0}")]
    Json(String),
    #[error("the schema of `response_format` must be a JSON object")]
    NotAnObject,
    #[error("the schema of `response_format` can't be used: {0}; simplify or correct it")]
    Schema(String),
    #[error("the grammar of this answer became too complex: {0}")]
    Step(String),
}

/// Compiles formats for one tokenizer.
pub(crate) struct Grammars {
    factory: ParserFactory,
    eos_token_ids: Arc<[u32]>,
}

impl Grammars {
    /// Takes some tenths of a second for a large vocabulary.
    pub(crate) fn new(tokenizer: &Tokenizer, eos_token_ids: &[u32]) -> Result<Self, GrammarError> {
        // llguidance asserts what it expects of a vocabulary; the file is somebody else's.
        let built = catch_unwind(AssertUnwindSafe(|| Self::build(tokenizer, eos_token_ids)));
        built.unwrap_or_else(|_| Err(GrammarError::Tokenizer("its vocabulary is inconsistent".to_owned())))
    }

    fn build(tokenizer: &Tokenizer, eos_token_ids: &[u32]) -> Result<Self, GrammarError> {
        let highest = tokenizer.get_vocab(true).into_values().chain(eos_token_ids.iter().copied()).max().unwrap_or(0);
        if highest > TOKEN_ID_MAX {
            return Err(GrammarError::Tokenizer(format!("it has token id {highest}, at most {TOKEN_ID_MAX} is possible")));
        }
        let words: Vec<Vec<u8>> = (0..=highest).map(|id| trie_bytes(tokenizer, id, eos_token_ids)).collect();
        let Some(&eos) = eos_token_ids.first() else {
            return Err(GrammarError::Tokenizer("it has no end-of-turn token".to_owned()));
        };
        let trie = TokTrie::from(&TokRxInfo::new(highest + 1, eos), &words).with_eos_tokens(eos_token_ids);
        let environment: TokEnv = Arc::new(Vocabulary(trie));
        let factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &SlicedBiasComputer::json_slices());
        let mut factory = factory.map_err(|error| GrammarError::Tokenizer(reason(&error)))?;
        factory.quiet();
        *factory.limits_mut() = ParserLimits {
            initial_lexer_fuel: COMPILE_FUEL,
            max_grammar_size: GRAMMAR_SYMBOLS_MAX,
            max_items_in_row: ROW_ITEMS_MAX,
            max_lexer_states: LEXER_STATES_MAX,
            step_lexer_fuel: MASK_FUEL,
            step_max_items: MASK_ITEMS_MAX,
            verbose_errors: false,
            ..ParserLimits::default()
        };
        Ok(Self { factory, eos_token_ids: eos_token_ids.into() })
    }

    /// The grammar of a whole answer; `None` when anything may be said.
    pub(crate) fn compile(&self, format: &AnswerFormat) -> Result<Option<Grammar>, GrammarError> {
        let mut schema = match format {
            AnswerFormat::Text => return Ok(None),
            AnswerFormat::JsonObject => serde_json::json!({ "type": "object" }),
            AnswerFormat::JsonSchema { schema } => serde_json::from_str(schema).map_err(|error| GrammarError::Json(error.to_string()))?,
        };
        let Value::Object(fields) = &schema else { return Err(GrammarError::NotAnObject) };
        if fields.contains_key("x-guidance") {
            return Err(GrammarError::Schema("`x-guidance` is not offered".to_owned()));
        }
        check_multiples(&schema)?;
        JsonCompileOptions { whitespace_pattern: Some(WHITE_SPACE.to_owned()), ..JsonCompileOptions::default() }.apply_to(&mut schema);

        let parser = self.factory.create_parser(TopLevelGrammar::from_json_schema(schema));
        let parser = parser.map_err(|error| GrammarError::Schema(reason(&error)))?;
        let matcher = Matcher::new(Ok(parser));
        first_steps(matcher.clone()).map_err(|error| GrammarError::Schema(reason(&error)))?;
        Ok(Some(Grammar { matcher, eos_token_ids: Arc::clone(&self.eos_token_ids) }))
    }
}

/// Walks into the grammar as far as it leaves no choice, and into its first choice: the widest row of an object's
/// properties stands there. Shows what compiling leaves for later.
fn first_steps(mut matcher: Matcher) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    for _ in 0..FIRST_STEPS {
        let allowed = matcher.compute_mask_or_eos()?;
        let Some(token) = allowed.first_bit_set() else { return Err("NoExtension".into()) };
        if matcher.is_stopped() {
            return Ok(());
        }
        matcher.consume_token(token as TokenId)?;
    }
    Ok(())
}

/// The library builds a table with a row for each remainder, and one for the least common multiple where two meet; it
/// counts them in 32 bits.
fn check_multiples(schema: &Value) -> Result<(), GrammarError> {
    let mut found = Multiples { sum: 0.0, product: 1.0, meet: false };
    found.collect(schema)?;
    let rows = if found.meet { found.sum.max(found.product) } else { found.sum };
    if rows <= REMAINDERS_MAX {
        return Ok(());
    }
    Err(GrammarError::Schema(format!("its `multipleOf` come to {rows} remainders, at most {REMAINDERS_MAX} are possible")))
}

struct Multiples {
    sum: f64,
    product: f64,
    /// Two may hold for one number.
    meet: bool,
}

impl Multiples {
    fn collect(&mut self, value: &Value) -> Result<(), GrammarError> {
        match value {
            Value::Array(items) => items.iter().try_for_each(|item| self.collect(item)),
            Value::Object(fields) => fields.iter().try_for_each(|(name, value)| {
                self.meet |= matches!(name.as_str(), "allOf" | "$ref");
                match (name.as_str(), value.as_f64()) {
                    ("multipleOf", Some(multiple)) if multiple > 0.0 => {
                        self.add(multiple);
                        Ok(())
                    }
                    ("multipleOf", Some(multiple)) => {
                        Err(GrammarError::Schema(format!("its `multipleOf` is {multiple}, it must be above 0")))
                    }
                    _ => self.collect(value),
                }
            }),
            _ => Ok(()),
        }
    }

    /// Counts `multiple` as the whole number that it is in its last decimal place, times that place.
    fn add(&mut self, multiple: f64) {
        let (mut whole, mut place) = (multiple, 1.0);
        while whole.fract() != 0.0 && place <= REMAINDERS_MAX {
            (whole, place) = (whole * 10.0, place * 10.0);
        }
        let rows = whole * place;
        (self.sum, self.product) = (self.sum + rows, self.product * rows.max(1.0));
    }
}

/// What an answer may go on with; one for each answer.
pub struct Grammar {
    matcher: Matcher,
    eos_token_ids: Arc<[u32]>,
}

impl Grammar {
    /// Sets the logits of all tokens that can't come next to negative infinity. Once the JSON is complete only the
    /// end-of-turn tokens can. Errors when the grammar's limits are reached.
    pub fn forbid(&mut self, logits: &mut [f32]) -> Result<(), GrammarError> {
        let allowed = self.matcher.compute_mask_or_eos().map_err(|error| GrammarError::Step(reason(&error)))?;
        allowed.iter_unset_entries(|id| {
            if let Some(logit) = logits.get_mut(id) {
                *logit = f32::NEG_INFINITY;
            }
        });
        // A model's matrix may have more rows than its tokenizer has tokens.
        if let Some(beyond) = logits.get_mut(allowed.len()..) {
            beyond.fill(f32::NEG_INFINITY);
        }
        Ok(())
    }

    /// Takes the next token of the answer. Errors when it can't come next.
    pub fn accept(&mut self, token: u32) -> Result<(), GrammarError> {
        // The library takes no token after JSON that can't go on, not even the one that ends the turn.
        let complete = matches!(self.matcher.stop_reason(), StopReason::NoExtension | StopReason::NoExtensionBias);
        if complete && self.eos_token_ids.contains(&token) {
            return Ok(());
        }
        self.matcher.consume_token(token).map_err(|error| GrammarError::Step(reason(&error)))
    }
}

impl std::fmt::Debug for Grammar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Grammar").field(&self.matcher.stop_reason()).finish()
    }
}

struct Vocabulary(TokTrie);

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.0
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.0.greedy_tokenize(bytes)
    }

    /// The model chooses how it writes what the grammar forces, as it does everywhere else.
    fn tokenize_is_canonical(&self) -> bool {
        false
    }
}

/// Tokens that say nothing are marked, so that no text of the grammar matches them.
fn trie_bytes(tokenizer: &Tokenizer, id: u32, eos_token_ids: &[u32]) -> Vec<u8> {
    let Some(text) = tokenizer.id_to_token(id) else { return Vec::new() };
    if eos_token_ids.contains(&id) || tokenizer.get_added_vocabulary().is_special_token(&text) {
        return [&[TokTrie::SPECIAL_TOKEN_MARKER], text.as_bytes()].concat();
    }
    vocabulary::bytes(tokenizer, id).unwrap_or_default()
}

/// The library's words on one line, short, without its advice to developers.
fn reason(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    if text.starts_with("panic: ") {
        return "the grammar library failed on it".to_owned();
    }
    if text.starts_with("NoExtension") {
        return "no answer can satisfy it".to_owned();
    }
    if text.starts_with("oneOf constraints are not supported") {
        return "`oneOf` whose options may hold at once is not supported; use `anyOf`".to_owned();
    }
    if let Some((_, why)) = text.strip_prefix("regex parse error:").and_then(|rest| rest.rsplit_once("error: ")) {
        return format!("a `pattern` is no regular expression: {}", why.trim());
    }
    let text = text.split_once("; consider making").map_or(text.as_str(), |(reason, _)| reason);
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().take(REASON_CHARS_MAX).collect()
}
