//! Computes a finished answer again: one prefill over prompt and completion, the digest of every window, and every draw repeated.
//!
//! Everything here that knows the engine is [`prefill`] and [`Replay::draw`]; the rest compares.

use std::path::Path;

use alloy::primitives::B256;
use prompt::{GrammarError, Prompter};
use wire::node::{ParamsError, SamplingParams, WrongToken};

use super::{Window, windows};
use crate::backend::{Backend, BackendError, CpuBackend, PAGE_TOKENS, PageId, Placement, Row};
use crate::engine::{Decoder, LoadError, Sampler, StepOutput};
use crate::model::{ModelError, ModelFolder};

/// Positions of one step. The numeric contract makes the bits the same for any.
const STEP_ROWS: usize = 512;
/// Positions whose logits are computed at once: of 128 they would take 25 MB and more, which no cache holds.
const LOGIT_ROWS: usize = 32;

/// A model that is opened to compute answers again, beside or without an engine that serves it.
pub struct Recomputer<B: Backend = CpuBackend> {
    decoder: Decoder<B>,
    prompter: Prompter,
    context_tokens: usize,
    /// Digest of the weights, computed from the bytes.
    pub model_root: B256,
    /// `engine` of receipts that were served under this model, tokenizer, template and arithmetic.
    pub engine: B256,
    /// Name of the arithmetic.
    pub numeric_contract: &'static str,
}

/// What came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recomputed {
    /// All windows; those before the wrong token when one is beyond the vocabulary, because nothing can be computed from that.
    pub windows: Vec<Window>,
    /// The first token that the parameters do not draw.
    pub first_wrong: Option<WrongToken>,
}

/// Why nothing could be computed.
#[derive(Debug, thiserror::Error)]
pub enum RecomputeError {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Memory(#[from] BackendError),
    #[error(transparent)]
    Params(#[from] ParamsError),
    #[error(transparent)]
    Format(#[from] GrammarError),
    #[error("the prompt is empty; there is nothing to compute")]
    EmptyPrompt,
    #[error("prompt and completion have {tokens} tokens, the model's context is {context_tokens}")]
    TooLong { tokens: usize, context_tokens: usize },
    #[error("token {token} of the prompt is beyond the vocabulary of {vocabulary}; the prompt is of another model")]
    PromptBeyondVocabulary { token: u32, vocabulary: usize },
    #[error("a hidden state is not finite; the weights are damaged: run `gpu-node model verify`")]
    NotFinite,
    #[error("stopped before it was through")]
    Stopped,
}

impl Recomputer {
    /// Opens the folder, hashes its weights and loads them on the processor.
    pub fn open(model_dir: &Path, threads: usize) -> Result<Self, RecomputeError> {
        let folder = ModelFolder::open(model_dir, threads, &|_| ())?;
        Self::on(&folder, CpuBackend::new(threads))
    }
}

impl<B: Backend> Recomputer<B> {
    /// Loads an opened model into the given back end.
    pub fn on(folder: &ModelFolder, backend: B) -> Result<Self, RecomputeError> {
        let context_tokens = folder.config.context_tokens;
        let numeric_contract = backend.numeric_contract();
        let parts = folder.prompter.engine_parts();
        let engine = wire::receipt::engine_id(numeric_contract, parts.tokenizer_json, parts.chat_template);
        let decoder = Decoder::load(folder, backend, context_tokens, STEP_ROWS)?;
        let prompter = folder.prompter.clone();
        Ok(Self { decoder, prompter, context_tokens, model_root: folder.model_root, engine, numeric_contract })
    }

    /// Computes the answer `completion` to `prompt` again. `go_on` is asked before every step.
    pub fn recompute(
        &mut self,
        prompt: &[u32],
        completion: &[u32],
        params: &SamplingParams,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Recomputed, RecomputeError> {
        params.check()?;
        let (vocabulary, context_tokens) = (self.decoder.vocab_size(), self.context_tokens);
        if prompt.is_empty() {
            return Err(RecomputeError::EmptyPrompt);
        }
        let tokens = prompt.len() + completion.len();
        if tokens > context_tokens {
            return Err(RecomputeError::TooLong { tokens, context_tokens });
        }
        let is_known = |token: &u32| (*token as usize) < vocabulary;
        if let Some(token) = prompt.iter().find(|token| !is_known(token)) {
            return Err(RecomputeError::PromptBeyondVocabulary { token: *token, vocabulary });
        }
        // Nothing is computed from the last token, nor from one that the model does not have.
        let known = completion.iter().take_while(|token| is_known(token)).count();
        let inputs = [prompt, &completion[..known.min(completion.len().saturating_sub(1))]].concat();

        let mut replay = Replay::new(&self.prompter, prompt, completion, params)?;
        let digests = prefill(&mut self.decoder, &inputs, prompt.len() - 1, go_on, &mut replay)?;
        Ok(Recomputed { windows: windows(prompt.len(), &digests), first_wrong: replay.first_wrong })
    }
}

/// One pass over `inputs`, on pages of its own; the digests of all positions. Logits from position `first_draw` on go to `replay`.
fn prefill<B: Backend>(
    decoder: &mut Decoder<B>,
    inputs: &[u32],
    first_draw: usize,
    go_on: &dyn Fn() -> bool,
    replay: &mut Replay<'_>,
) -> Result<Vec<B256>, RecomputeError> {
    let (vocabulary, step_rows) = (decoder.vocab_size(), decoder.max_rows());
    // A context is far below 2^32 pages.
    let pages: Vec<PageId> = (0..inputs.len().div_ceil(PAGE_TOKENS) as u32).map(PageId).collect();
    let mut pool = decoder.pool(pages.len())?;
    for page in &pages {
        decoder.prepare(&mut pool, *page)?;
    }
    let (mut out, mut digests) = (StepOutput::default(), Vec::with_capacity(inputs.len()));
    for (step, tokens) in inputs.chunks(step_rows).enumerate() {
        if !go_on() {
            return Err(RecomputeError::Stopped);
        }
        let first = step * step_rows;
        let rows: Vec<Row> = (first..first + tokens.len()).map(|position| Row { sequence: 0, position }).collect();
        let draws = if replay.is_over() { tokens.len() } else { first_draw.saturating_sub(first).min(tokens.len()) };
        let chosen: Vec<usize> = (draws..tokens.len()).collect();
        decoder.step(&Placement { rows: &rows, tables: &[&pages] }, tokens, &mut pool, &[], &mut out);
        for digest in &out.digests {
            digests.push(digest.ok_or(RecomputeError::NotFinite)?);
        }
        for few in chosen.chunks(LOGIT_ROWS) {
            if replay.is_over() {
                break;
            }
            decoder.logits(few, &mut out.logits);
            out.logits.chunks_exact_mut(vocabulary).for_each(|logits| replay.draw(logits));
        }
    }
    Ok(digests)
}

/// Repeats the draws of an answer, one after the other, up to the first that gives another token.
struct Replay<'a> {
    sampler: Sampler,
    completion: &'a [u32],
    ends: Vec<u32>,
    max_tokens: usize,
    next: usize,
    first_wrong: Option<WrongToken>,
}

impl<'a> Replay<'a> {
    fn new(prompter: &Prompter, prompt: &[u32], completion: &'a [u32], params: &SamplingParams) -> Result<Self, GrammarError> {
        let ends = [prompter.eos_token_ids(), &params.stop_token_ids].concat();
        // Log-probabilities change no draw and stand in no receipt.
        let sampler = Sampler::for_request(prompter, &SamplingParams { logprobs: None, ..params.clone() }, prompt)?;
        Ok(Self { sampler, completion, ends, max_tokens: params.max_tokens as usize, next: 0, first_wrong: None })
    }

    /// Whether there is nothing more to compare: the sampler's state after a wrong token is not the node's.
    fn is_over(&self) -> bool {
        self.first_wrong.is_some() || self.next == self.completion.len()
    }

    fn draw(&mut self, logits: &mut [f32]) {
        if self.is_over() {
            return;
        }
        let (index, found) = (self.next, self.completion[self.next]);
        let ended = index >= self.max_tokens || index.checked_sub(1).is_some_and(|before| self.ends.contains(&self.completion[before]));
        // Logits that are not finite draw nothing, at the node as here.
        let drawn = if ended { None } else { self.sampler.draw(logits).ok().map(|drawn| drawn.token) };
        if drawn != Some(found) {
            self.first_wrong = Some(WrongToken { index: index as u32, found, drawn });
        }
        self.next += 1;
    }
}
