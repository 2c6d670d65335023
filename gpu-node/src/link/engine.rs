//! The engine as the link sees it.

use tokio::sync::{mpsc, oneshot};
use wire::node::{AnswerFormat, AuditJob, AuditOutcome};

use super::serve::{Audit, Serve, ServeEvent, ServeJob, ServeLoad};
use crate::engine::{EngineEvent, EngineHandle, EngineJob};
use crate::proof::auditor::Auditor;

/// Events between engine and link; the engine's own channel holds the rest, at most one for each token.
const EVENTS_MAX: usize = 64;

impl Serve for EngineHandle {
    fn submit(&self, job: ServeJob) -> mpsc::Receiver<ServeEvent> {
        let (events, receiver) = mpsc::channel(EVENTS_MAX);
        let has_format = job.params.format != AnswerFormat::Text;
        let job = EngineJob { prompt: job.prompt, params: job.params, cancel: job.cancel, scope: job.scope };
        let (engine, answers) = (self.clone(), tokio::runtime::Handle::current());
        let submit = move || match EngineHandle::submit(&engine, job) {
            Ok(from_engine) => {
                answers.spawn(forward(from_engine, events));
            }
            Err(refusal) => {
                // The channel is empty: there is room.
                let _ = events.try_send(ServeEvent::Failed { code: refusal.code(), message: refusal.to_string() });
            }
        };
        // A schema is compiled before its job is accepted, and the link's pings must not wait for that.
        if has_format {
            drop(tokio::task::spawn_blocking(submit))
        } else {
            submit()
        }
        receiver
    }

    fn load(&self) -> ServeLoad {
        let load = EngineHandle::load(self);
        ServeLoad {
            active: load.active as u32,
            queued: load.queued as u32,
            decode_tokens_per_s: load.decode_tokens_per_s,
            prefill_tokens_per_s: load.prefill_tokens_per_s,
            memory_used_bytes: load.memory_used_bytes as u64,
            utilization_percent: load.utilization_percent,
            tflops: load.tflops,
        }
    }

    fn device_error(&self) -> Option<String> {
        EngineHandle::device_error(self)
    }
}

impl Audit for Auditor {
    fn submit(&self, job: AuditJob) -> oneshot::Receiver<AuditOutcome> {
        Auditor::submit(self, job)
    }
}

/// Ends with the answer, or when nobody listens any more, which cancels it.
async fn forward(mut from_engine: mpsc::Receiver<EngineEvent>, events: mpsc::Sender<ServeEvent>) {
    while let Some(event) = from_engine.recv().await {
        let event = match event {
            EngineEvent::Tokens { ids, logprobs } => ServeEvent::Tokens { ids, logprobs },
            EngineEvent::Finished(finished) => ServeEvent::Finished { reason: finished.reason, windows: finished.windows },
            EngineEvent::Failed(failure) => ServeEvent::Failed { code: wire::node::FailureCode::Engine, message: failure.to_string() },
        };
        if events.send(event).await.is_err() {
            return;
        }
    }
}
