//! What the link needs of an engine, and nothing more.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use wire::node::{AuditJob, AuditOutcome, FailureCode, FinishReason, SamplingParams, ServedModel, TokenLogprobs};
use wire::proof::Window;

pub use crate::engine::Cancel;

/// Something that generates tokens for one model. Implemented by the engine, and by scripts in tests.
pub trait Serve: Send + Sync + 'static {
    /// Starts one request. The receiver's channel is bounded: whoever reads slowly slows the answer, and holds no memory.
    /// After [`ServeEvent::Finished`] or [`ServeEvent::Failed`] nothing follows.
    fn submit(&self, job: ServeJob) -> mpsc::Receiver<ServeEvent>;

    /// Load and speed now.
    fn load(&self) -> ServeLoad;

    /// Why its device computes nothing any more.
    fn device_error(&self) -> Option<String> {
        None
    }
}

/// One request to an engine.
#[derive(Clone, Debug)]
pub struct ServeJob {
    /// Token ids of the rendered prompt, at least one.
    pub prompt: Vec<u32>,
    /// Checked against their ranges.
    pub params: SamplingParams,
    /// Whose prefixes it may share: the payer's.
    pub scope: u64,
    /// Set when nobody wants the rest.
    pub cancel: Cancel,
}

/// What an engine says about one request.
#[derive(Clone, Debug, PartialEq)]
pub enum ServeEvent {
    /// The next tokens of the answer, in order.
    Tokens {
        /// The ids.
        ids: Vec<u32>,
        /// One for each token when the job asks for them, else empty.
        logprobs: Vec<TokenLogprobs>,
    },
    /// The answer is over.
    Finished {
        /// Why.
        reason: FinishReason,
        /// Proof windows; none when the prompt was not computed to its end.
        windows: Vec<Window>,
    },
    /// The request can't be served, or can't be finished.
    Failed {
        /// What kind of failure.
        code: FailureCode,
        /// What was wrong, without prompt text.
        message: String,
    },
}

/// Load and speed of one engine.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ServeLoad {
    /// Requests being served.
    pub active: u32,
    /// Requests accepted and waiting.
    pub queued: u32,
    /// All requests together, over the last seconds of work.
    pub decode_tokens_per_s: f32,
    /// As above, for prompts.
    pub prefill_tokens_per_s: f32,
    /// Of the KV cache and weights.
    pub memory_used_bytes: u64,
    /// Share of the last seconds in which the engine computed, 0 to 100.
    pub utilization_percent: f32,
    /// Most multiplications and additions of weights per second so far, in 10^12.
    pub tflops: f32,
}

/// Something that computes other nodes' answers again, for the same model. Implemented by the auditor, and by scripts in tests.
pub trait Audit: Send + Sync + 'static {
    /// Queues an audit, bounded; a receiver that ends without a word means that nothing was found out.
    fn submit(&self, job: AuditJob) -> oneshot::Receiver<AuditOutcome>;
}

/// A model and the engine that serves it.
#[derive(Clone)]
pub struct ServingModel {
    /// As the hello and the receipts name it.
    pub model: ServedModel,
    /// Who generates.
    pub engine: Arc<dyn Serve>,
    /// Who audits other nodes, when this one is some meter's fallback hardware.
    pub auditor: Arc<dyn Audit>,
}
