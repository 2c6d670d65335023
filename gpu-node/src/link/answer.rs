//! One job: from the engine's tokens, through frames in order, to the signed receipt.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;
use wire::B256;
use wire::node::{FailureCode, FinishReason, FromNode, Job, TokenLogprobs};
use wire::proof::{self, Window};

use super::Node;
use super::serve::{Cancel, ServeEvent, ServeJob, ServingModel};
use super::socket::Outgoing;
use super::terms::{Answer, Terms};

/// Engine events taken at once: tokens that are ready together travel together.
const EVENTS_AT_ONCE: usize = 64;
/// Tokens in one frame at most: 88 KiB of JSON, far below the frame limit.
const FRAME_TOKENS_MAX: usize = 8_192;
/// With log-probabilities: each takes up to 600 bytes, so 600 KiB.
const FRAME_SCORED_TOKENS_MAX: usize = 1_024;

/// A job that was taken.
pub(super) struct Answering {
    pub(super) node: Arc<Node>,
    /// Link address of the meter.
    pub(super) meter: String,
    pub(super) job: Job,
    pub(super) serving: ServingModel,
    pub(super) cancel: Cancel,
    /// Set before the last frame goes out.
    pub(super) over: Arc<AtomicBool>,
    /// Bounded: a slow link stops the reading of the engine's events, which stops the engine.
    pub(super) out: mpsc::Sender<Outgoing>,
    /// Given back when the engine is done with the job, not when the link is.
    pub(super) slot: OwnedSemaphorePermit,
}

enum End {
    Finished { reason: FinishReason, windows: Vec<Window> },
    Failed { code: FailureCode, message: String },
}

impl Answering {
    /// Serves the job to its end. A lost link cancels it; the meter settles what arrived and asks for a signature later.
    pub(super) async fn run(mut self) {
        let request_id = self.job.request_id;
        let terms = Terms::of(&self.job, &self.serving.model);
        let mut answer = Answer { terms, completion: Vec::new(), proof_root: B256::ZERO };
        let prompt_tokens = self.job.prompt.len();
        let job = ServeJob {
            prompt: std::mem::take(&mut self.job.prompt),
            params: self.job.params.clone(),
            scope: u64::from(self.job.account.0),
            cancel: self.cancel.clone(),
        };
        let events = self.serving.engine.submit(job);
        let (end, linked) = self.relay(events, &mut answer.completion).await;
        let completion_tokens = answer.completion.len();
        metrics::counter!("node_completion_tokens_total").increment(completion_tokens as u64);
        metrics::counter!("node_prompt_tokens_total").increment(prompt_tokens as u64);
        let (frame, outcome) = match end {
            End::Finished { reason, windows } => {
                answer.proof_root = proof::root(&windows);
                if !windows.is_empty() {
                    self.node.keep_proof(request_id, windows).await;
                }
                let outcome = format!("{reason:?}").to_lowercase();
                (self.finished(answer, reason, linked).await, outcome)
            }
            End::Failed { code, message } => {
                tracing::warn!(%request_id, ?code, message, "answer failed");
                self.node.served().remember(answer);
                (Some(FromNode::Failed { request_id, code, message }), "failed".into())
            }
        };
        tracing::info!(%request_id, prompt_tokens, completion_tokens, outcome, linked, "answer ended");
        metrics::counter!("node_jobs_total", "outcome" => outcome).increment(1);
        // Before the last frame: the meter may answer it with the next job, or with the same one.
        drop(self.slot);
        self.over.store(true, Ordering::Release);
        if let Some(frame) = frame {
            // A link that is gone by now gets the receipt again after the next welcome.
            let _ = self.out.send(Outgoing::Frame(Box::new(frame))).await;
        }
    }

    /// Passes tokens on until the engine is done. Returns how it ended, and whether the link still stands.
    async fn relay(&self, mut events: mpsc::Receiver<ServeEvent>, completion: &mut Vec<u32>) -> (End, bool) {
        let silence = self.node.limits.answer_silence;
        let mut ready = Vec::with_capacity(EVENTS_AT_ONCE);
        let mut linked = true;
        loop {
            let failed = match timeout(silence, events.recv_many(&mut ready, EVENTS_AT_ONCE)).await {
                Err(_) => Some(format!("the engine was silent for {} s", silence.as_secs())),
                Ok(0) => Some("the engine stopped in the middle of the answer".into()),
                Ok(_) => None,
            };
            if let Some(message) = failed {
                self.cancel.cancel();
                return (End::Failed { code: FailureCode::Engine, message }, linked);
            }
            let (first, mut end, mut scores) = (completion.len(), None, Vec::new());
            for event in ready.drain(..) {
                match event {
                    ServeEvent::Tokens { ids, logprobs } => {
                        completion.extend(ids);
                        scores.extend(logprobs);
                    }
                    ServeEvent::Finished { reason, windows } => end = Some(End::Finished { reason, windows }),
                    ServeEvent::Failed { code, message } => end = Some(End::Failed { code, message }),
                }
            }
            linked = linked && self.send_tokens(completion, first, scores).await;
            if let Some(end) = end {
                return (end, linked);
            }
            if !linked {
                self.cancel.cancel();
            }
        }
    }

    /// Sends the tokens from index `first` on, with `scores` for each if the job asks for them. Returns whether the link took them.
    async fn send_tokens(&self, completion: &[u32], first: usize, scores: Vec<TokenLogprobs>) -> bool {
        let asked = self.job.params.logprobs.is_some();
        let (frame_tokens, mut scores) = (if asked { FRAME_SCORED_TOKENS_MAX } else { FRAME_TOKENS_MAX }, scores.into_iter());
        for (index, tokens) in completion[first..].chunks(frame_tokens).enumerate() {
            let first = (first + index * frame_tokens) as u32;
            let logprobs = asked.then(|| scores.by_ref().take(tokens.len()).collect());
            let frame = FromNode::Tokens { request_id: self.job.request_id, first, tokens: tokens.to_vec(), logprobs };
            if self.out.send(Outgoing::Frame(Box::new(frame))).await.is_err() {
                return false;
            }
        }
        // A dead link shows also when there is nothing to send.
        !self.out.is_closed()
    }

    /// The `finished` frame with its signed receipt; none when the link is gone, because the meter settles without it.
    async fn finished(&self, answer: Answer, finish_reason: FinishReason, linked: bool) -> Option<FromNode> {
        let request_id = self.job.request_id;
        let receipt = answer.terms.receipt(&answer.completion, answer.proof_root, self.node.now_s());
        self.node.served().remember(answer);
        if !linked {
            return None;
        }
        let receipt = match receipt {
            Ok(receipt) => receipt,
            Err(error) => return Some(FromNode::Failed { request_id, code: FailureCode::Engine, message: error.to_string() }),
        };
        match self.node.sign_and_keep(&self.meter, &receipt).await {
            Ok(signature) => Some(FromNode::Finished { request_id, finish_reason, receipt, signature }),
            Err(error) => {
                tracing::error!(%request_id, %error, "receipt was not signed");
                Some(FromNode::Failed { request_id, code: FailureCode::Engine, message: error.to_string() })
            }
        }
    }
}
