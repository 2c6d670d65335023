//! The engine: takes prompts as token ids and streams answers as token ids, several at once.

mod forward;
mod logprobs;
mod measure;
mod pages;
mod sampler;
mod scheduler;
mod sequence;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use alloy::primitives::B256;
use prompt::{GrammarError, Prompter};
use tokio::sync::mpsc;
use wire::node::{FailureCode, FinishReason, ParamsError, SamplingParams, TokenLogprobs};

pub use forward::{Decoder, LoadError, StepOutput};
pub use measure::EngineLoad;
pub use sampler::{Drawn, SampleError, Sampler, redraw};

use crate::backend::cuda::driver::NoDevice;
use crate::backend::{Backend, BackendConfig, BackendError, CpuBackend, PAGE_TOKENS};
use crate::model::{ModelError, ModelFolder};
use crate::proof::Window;
use scheduler::{Scheduler, Shared};

/// Limits of one engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineConfig {
    /// Threads that compute; by default as many as the machine has.
    pub threads: usize,
    /// Nice value that these threads ask for, where nobody gave the process another: users wait for them.
    pub nice: i32,
    /// Requests decoded at once.
    pub max_active: usize,
    /// Requests accepted and waiting; beyond it `submit` refuses with `Busy`.
    pub max_queued: usize,
    /// Prompt tokens of one step. Larger is faster for prompts, and pauses other answers for longer.
    pub prefill_chunk_tokens: usize,
    /// So many chunks are one step while there is no other answer that it would pause.
    pub prefill_alone_chunks: usize,
    /// Memory for keys and values of all requests, and of prefixes kept for the next ones. It is taken as it is needed.
    pub kv_budget_bytes: usize,
    /// Most tokens of prompt and answer together; the model's own limit when `None` or larger.
    pub context_tokens: Option<usize>,
    /// Which device computes, and limits of its own.
    pub backend: BackendConfig,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            nice: -5,
            max_active: 16,
            max_queued: 64,
            prefill_chunk_tokens: 64,
            prefill_alone_chunks: 4,
            kv_budget_bytes: 2 << 30,
            context_tokens: None,
            backend: BackendConfig::default(),
        }
    }
}

impl EngineConfig {
    /// Prompt tokens of one step that pauses nobody.
    fn prefill_alone_tokens(&self) -> usize {
        self.prefill_chunk_tokens.saturating_mul(self.prefill_alone_chunks)
    }
}

/// Why an engine did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("kv_budget_bytes is {budget_bytes}, one page of this model's KV cache takes {page_bytes}; raise it")]
    NoPage { budget_bytes: usize, page_bytes: usize },
    #[error(transparent)]
    Device(#[from] NoDevice),
    #[error("{field} is 0; it must be at least 1")]
    Zero { field: &'static str },
    #[error("the engine's thread could not be started: {0}")]
    Thread(std::io::Error),
}

/// Why a request was not accepted. Nothing was computed for it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refusal {
    #[error("{queued} requests are waiting, at most {most} may; try again, or another node")]
    Busy { queued: usize, most: usize },
    #[error("prompt of {prompt_tokens} tokens and max_tokens of {max_tokens} exceed the context of {context_tokens}; shorten either")]
    TooLong { prompt_tokens: usize, max_tokens: usize, context_tokens: usize },
    #[error(
        "the request needs {needed_bytes} bytes of KV cache, the whole budget is {budget_bytes}; lower max_tokens or raise kv_budget_bytes"
    )]
    OverBudget { needed_bytes: usize, budget_bytes: usize },
    #[error("the prompt is empty; send at least one token")]
    EmptyPrompt,
    #[error("token {token} of the prompt is beyond the vocabulary of {vocabulary}; render the prompt with this model's tokenizer")]
    TokenBeyondVocabulary { token: u32, vocabulary: usize },
    #[error(transparent)]
    Params(#[from] ParamsError),
    #[error(transparent)]
    Format(#[from] GrammarError),
    #[error("the device failed: {0}; restart the node, and look at the card with `gpu-node device --check`")]
    Device(String),
    #[error("the engine has stopped")]
    Stopped,
}

impl Refusal {
    /// The code that the node link reports.
    pub fn code(&self) -> FailureCode {
        match self {
            Self::Busy { .. } => FailureCode::Busy,
            Self::TooLong { .. } | Self::OverBudget { .. } => FailureCode::TooLong,
            Self::EmptyPrompt | Self::TokenBeyondVocabulary { .. } | Self::Params(_) | Self::Format(_) => FailureCode::BadParams,
            Self::Device(_) | Self::Stopped => FailureCode::Engine,
        }
    }
}

/// Stops one request between two steps. Clones share the switch.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// One request.
#[derive(Debug, Clone)]
pub struct EngineJob {
    pub prompt: Vec<u32>,
    pub params: SamplingParams,
    pub cancel: Cancel,
    /// Requests of one scope share the pages of equal prefixes; the payer's account.
    pub scope: u64,
}

/// What happens to an accepted request, in order: any number of `Tokens`, then one `Finished` or `Failed`.
#[derive(Debug, Clone, PartialEq)]
pub enum EngineEvent {
    /// Next tokens of the answer, at least one. A token that ends the turn is among them.
    Tokens {
        ids: Vec<u32>,
        /// One for each token when the job asks for them, else empty.
        logprobs: Vec<TokenLogprobs>,
    },
    Finished(Finished),
    /// The engine could not go on; the tokens so far stand.
    Failed(EngineFailure),
}

/// A finished answer, as the receipt states it.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    pub reason: FinishReason,
    pub prompt_tokens: u32,
    pub completion_tokens: u32,
    pub prompt_hash: B256,
    pub completion_hash: B256,
    /// Root over `windows`; zero when the prompt was not computed to its end.
    pub proof_root: B256,
    pub windows: Vec<Window>,
    pub timings: Timings,
}

/// Durations of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timings {
    /// From submission to the first step.
    pub queued_us: u64,
    /// From the first step to the first token.
    pub prefill_us: u64,
    /// From the first token to the last.
    pub decode_us: u64,
}

/// Why an accepted request failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EngineFailure {
    #[error(transparent)]
    Sample(#[from] SampleError),
    #[error(transparent)]
    Memory(#[from] BackendError),
    #[error("the model computed a state that is not finite; its weights are damaged: run `gpu-node model verify`")]
    NotFinite,
    #[error("the engine failed in a step: {0}")]
    Step(String),
    #[error("the device failed: {0}")]
    Device(String),
    #[error("the engine was stopped")]
    Stopped,
}

/// What the node says of itself when it links to a meter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineIdentity {
    pub model_root: B256,
    /// `engine` of the receipts: numeric contract, tokenizer and chat template.
    pub engine: B256,
    pub numeric_contract: &'static str,
    pub context_tokens: usize,
    pub max_active: usize,
    /// `cpu` or `cuda`.
    pub device_kind: &'static str,
    pub device_name: String,
    /// Threads or multiprocessors that compute.
    pub parallelism: usize,
    /// Of the device, where it has its own.
    pub device_memory_bytes: Option<u64>,
}

/// Starts engines.
pub struct Engine;

impl Engine {
    /// Opens and checks a model's folder and serves it on the device that the configuration chooses.
    pub fn start(model_dir: &Path, config: EngineConfig) -> Result<EngineHandle, StartError> {
        // Before gigabytes are hashed.
        let card = config.backend.open()?;
        let folder = ModelFolder::open(model_dir, config.threads, &|_| ())?;
        match card {
            Some(card) => {
                let prefill_chunk_tokens = config.backend.prefill_chunk_tokens;
                // A card's chunks fill it already.
                Self::start_on(folder, card, EngineConfig { prefill_chunk_tokens, prefill_alone_chunks: 1, ..config })
            }
            None => {
                let backend = CpuBackend::serving(config.threads, config.nice);
                Self::start_on(folder, backend, config)
            }
        }
    }

    /// Serves an opened model on the given back end.
    pub fn start_on<B: Backend>(folder: ModelFolder, backend: B, config: EngineConfig) -> Result<EngineHandle, StartError> {
        let limits = [
            ("max_active", config.max_active),
            ("max_queued", config.max_queued),
            ("prefill_chunk_tokens", config.prefill_chunk_tokens),
            ("prefill_alone_chunks", config.prefill_alone_chunks),
        ];
        if let Some((field, _)) = limits.into_iter().find(|(_, value)| *value == 0) {
            return Err(StartError::Zero { field });
        }

        let model_context = folder.config.context_tokens;
        let context_tokens = config.context_tokens.unwrap_or(model_context).min(model_context);
        let prompter = folder.prompter.clone();
        let parts = prompter.engine_parts();
        let (device_kind, device_name, parallelism) = backend.device();
        let identity = EngineIdentity {
            model_root: folder.model_root,
            engine: wire::receipt::engine_id(backend.numeric_contract(), parts.tokenizer_json, parts.chat_template),
            numeric_contract: backend.numeric_contract(),
            context_tokens,
            max_active: config.max_active,
            device_kind,
            device_name,
            parallelism,
            device_memory_bytes: backend.memory_bytes(),
        };
        let vocabulary = folder.config.vocab_size;
        let decoder = Decoder::load(&folder, backend, context_tokens, config.prefill_alone_tokens() + config.max_active)?;
        let page_bytes = decoder.page_bytes();
        // Never more than all requests at once can use with as much again for prefixes.
        let most = context_tokens.div_ceil(PAGE_TOKENS).saturating_mul(2 * config.max_active);
        let kv_budget_bytes = decoder.kv_budget_bytes(config.kv_budget_bytes);
        if let Some(reason) = decoder.fault() {
            return Err(StartError::Load(LoadError::Backend(BackendError::Device(reason))));
        }
        let pages = (kv_budget_bytes / page_bytes).min(most);
        if pages == 0 {
            return Err(StartError::NoPage { budget_bytes: kv_budget_bytes, page_bytes });
        }
        let config = EngineConfig { kv_budget_bytes, ..config };
        let shared = Arc::new(Shared::new(&config, folder.weights.file_bytes().len()));
        let scheduler =
            Scheduler::new(decoder, prompter.clone(), config.clone(), Arc::clone(&shared), pages).map_err(LoadError::Backend)?;
        let thread = std::thread::Builder::new().name("engine".to_owned()).spawn(move || scheduler.run()).map_err(StartError::Thread)?;
        let inner = Inner { shared, identity, prompter, vocabulary, pages, page_bytes, thread: Mutex::new(Some(thread)) };
        Ok(EngineHandle(Arc::new(inner)))
    }
}

struct Inner {
    shared: Arc<Shared>,
    identity: EngineIdentity,
    prompter: Prompter,
    vocabulary: usize,
    pages: usize,
    page_bytes: usize,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// A running engine. Clones share it; it stops when the last one is dropped.
#[derive(Clone)]
pub struct EngineHandle(Arc<Inner>);

impl EngineHandle {
    /// How many tokens the model knows.
    pub fn vocabulary(&self) -> usize {
        self.0.vocabulary
    }

    /// Accepts a request, or says why not. Dropping the receiver cancels it, as `cancel` does. A JSON schema is compiled here,
    /// which takes milliseconds.
    pub fn submit(&self, job: EngineJob) -> Result<mpsc::Receiver<EngineEvent>, Refusal> {
        job.params.check()?;
        let (prompt_tokens, max_tokens) = (job.prompt.len(), job.params.max_tokens as usize);
        if prompt_tokens == 0 {
            return Err(Refusal::EmptyPrompt);
        }
        let context_tokens = self.0.identity.context_tokens;
        let all_tokens = prompt_tokens.saturating_add(max_tokens);
        if all_tokens > context_tokens {
            return Err(Refusal::TooLong { prompt_tokens, max_tokens, context_tokens });
        }
        let vocabulary = self.0.vocabulary;
        if let Some(&token) = job.prompt.iter().find(|&&token| token as usize >= vocabulary) {
            return Err(Refusal::TokenBeyondVocabulary { token, vocabulary });
        }
        let needed_pages = all_tokens.div_ceil(PAGE_TOKENS);
        if needed_pages > self.0.pages {
            let page_bytes = self.0.page_bytes;
            return Err(Refusal::OverBudget { needed_bytes: needed_pages * page_bytes, budget_bytes: self.0.pages * page_bytes });
        }
        job.params.check_vocabulary(vocabulary)?;
        let sampler = Sampler::for_request(&self.0.prompter, &job.params, &job.prompt)?;
        // One event per token and one at the end: the channel is never full.
        let (events, receiver) = mpsc::channel(max_tokens + 1);
        self.0.shared.enqueue(job, sampler, events)?;
        Ok(receiver)
    }

    /// Why the device computes nothing any more. The engine takes no job from then on.
    pub fn device_error(&self) -> Option<String> {
        self.0.shared.device_error()
    }

    /// How busy and how fast the engine is.
    pub fn load(&self) -> EngineLoad {
        self.0.shared.load()
    }

    pub fn identity(&self) -> &EngineIdentity {
        &self.0.identity
    }

    /// The model's tokenizer and chat template.
    pub fn prompter(&self) -> &Prompter {
        &self.0.prompter
    }

    /// Fails what is active or queued and ends the thread. To drain, wait until `load()` is idle first.
    pub fn stop(&self) {
        self.0.stop();
    }
}

impl Inner {
    fn stop(&self) {
        self.shared.stop();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop();
    }
}
