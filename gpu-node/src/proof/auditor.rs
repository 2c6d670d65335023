//! Audits for meters: other nodes' answers computed again, one after the other, on one thread that gives way to whoever serves.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use tokio::sync::oneshot;
use wire::B256;
use wire::node::{AuditJob, AuditOutcome};

use super::recompute::{RecomputeError, Recomputer};

/// Added to the thread's nice value: beside a busy engine it gets about a tenth of a processor, alone all of it.
const NICENESS: i32 = 10;

/// The model that is audited with, as the node serves it.
#[derive(Clone, Debug)]
pub struct AuditedModel {
    /// Its folder.
    pub folder: PathBuf,
    /// Digest of the weights that the engine serves.
    pub model_root: B256,
    /// Engine id that the engine serves under.
    pub engine: B256,
}

/// Computes answers again in the background. The model is loaded with the first one.
pub struct Auditor {
    queue: Option<SyncSender<Box<Task>>>,
    stop: Arc<AtomicBool>,
}

struct Task {
    job: AuditJob,
    reply: oneshot::Sender<AuditOutcome>,
}

impl Auditor {
    /// At most `waiting_max` audits wait. Errors when the system gives no thread.
    pub fn start(model: AuditedModel, waiting_max: usize) -> std::io::Result<Self> {
        let (queue, tasks) = sync_channel(waiting_max);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        std::thread::Builder::new().name("auditor".to_owned()).spawn(move || work(&model, &tasks, &stopped))?;
        Ok(Self { queue: Some(queue), stop })
    }

    /// Queues an audit; a full queue refuses at once. The receiver ends without a word when this is dropped.
    pub fn submit(&self, job: AuditJob) -> oneshot::Receiver<AuditOutcome> {
        let (reply, outcome) = oneshot::channel();
        let refused = match self.queue.as_ref().map(|queue| queue.try_send(Box::new(Task { job, reply }))) {
            Some(Ok(())) => return outcome,
            Some(Err(TrySendError::Full(task))) => Some((task, "too many audits wait")),
            Some(Err(TrySendError::Disconnected(task))) => Some((task, "the auditor has stopped")),
            None => None,
        };
        if let Some((task, message)) = refused {
            let _ = task.reply.send(refusal(message));
        }
        outcome
    }
}

impl Drop for Auditor {
    fn drop(&mut self) {
        // The thread sees it between two steps, and then the closed queue.
        self.stop.store(true, Ordering::Relaxed);
        self.queue = None;
    }
}

fn work(model: &AuditedModel, tasks: &Receiver<Box<Task>>, stop: &AtomicBool) {
    // On Linux the priority is the thread's own, and those that it starts inherit it.
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::warn!(%error, "the auditor could not lower its priority");
    }
    let mut opened: Option<Recomputer> = None;
    while let Ok(task) = tasks.recv() {
        let Task { job, reply } = *task;
        if reply.is_closed() || stop.load(Ordering::Relaxed) {
            continue;
        }
        let outcome = audit(model, &mut opened, &job, &|| !stop.load(Ordering::Relaxed) && !reply.is_closed());
        let _ = reply.send(outcome);
    }
}

fn audit(model: &AuditedModel, opened: &mut Option<Recomputer>, job: &AuditJob, go_on: &dyn Fn() -> bool) -> AuditOutcome {
    let recomputer = match opened {
        Some(recomputer) => recomputer,
        none => match open(model) {
            Ok(recomputer) => none.insert(recomputer),
            Err(message) => {
                tracing::error!(folder = %model.folder.display(), message, "the auditor could not open its model");
                return refusal(message);
            }
        },
    };
    match recomputer.recompute(&job.prompt, &job.completion, &job.params, go_on) {
        Ok(found) => AuditOutcome::Computed { windows: found.windows, first_wrong: found.first_wrong },
        Err(error) => refusal(error.to_string()),
    }
}

/// An auditor that computes with other weights than its node serves would accuse the innocent.
fn open(model: &AuditedModel) -> Result<Recomputer, String> {
    let recomputer = Recomputer::open(&model.folder, 1).map_err(|error: RecomputeError| error.to_string())?;
    if (recomputer.model_root, recomputer.engine) != (model.model_root, model.engine) {
        return Err(format!(
            "the folder now holds model {}, the node serves {}; restart the node",
            recomputer.model_root, model.model_root
        ));
    }
    Ok(recomputer)
}

fn refusal(message: impl Into<String>) -> AuditOutcome {
    AuditOutcome::Refused { message: message.into() }
}
