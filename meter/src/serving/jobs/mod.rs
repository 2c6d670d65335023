//! Answers that belong to the meter and not to a connection: each is generated once, whoever reads along, and kept a while after
//! its end. The text stays in memory; a meter that dies takes it along, and recovery settles the hold.
//!
//! A job's id comes from the account and the client's idempotency key, and is the request's id in the ledger too: a key that is
//! used again after a crash, or at another meter over the same ledger, finds its hold there and is not served a second time.

mod log; // the events of one job

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use daemon::CancellationToken;
use daemon::clock::SharedClock;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use wire::{AccountId, B256, keccak256};

use crate::config::Limits;
use log::Log;
pub use log::Read;

/// Separates these ids from whatever else is hashed.
const ID_DOMAIN: &[u8] = b"parallelix.job.1";

/// All jobs of this meter.
pub struct Jobs {
    bounds: Bounds,
    clock: SharedClock,
    slots: Mutex<HashMap<B256, Slot>>,
    readers: Arc<Semaphore>,
}

#[derive(Clone, Copy)]
struct Bounds {
    kept_s: u64,
    per_account_max: usize,
    bytes_per_account_max: usize,
    bytes_max: usize,
    job_bytes_max: usize,
}

enum Slot {
    /// Its hold is being made.
    Opening {
        content: [u8; 32],
        opened: watch::Receiver<()>,
    },
    Open(Arc<Job>),
}

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobState {
    /// No token yet.
    Queued,
    /// Tokens arrive.
    Running,
    /// Whole and charged.
    Done,
    /// Nothing, or not everything, arrived.
    Failed,
}

impl JobState {
    /// As clients read it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

/// One generation.
pub struct Job {
    /// Of the job, of the request, and of the receipt.
    pub id: B256,
    /// Who pays, and alone may see it.
    pub account: AccountId,
    /// Which model.
    pub model: String,
    /// Seconds since the epoch.
    pub created_at: u64,
    content: [u8; 32],
    cancel: CancellationToken,
    log: Log,
}

/// What became of the wish to start a job.
pub enum Claim {
    /// It is the caller's to start.
    New(Opening),
    /// It was started before, by the same words.
    Same(Arc<Job>),
    /// The key was used for other words.
    Other,
}

/// A place for a job that has no hold yet; given back when dropped.
pub struct Opening {
    jobs: Arc<Jobs>,
    id: B256,
    account: AccountId,
    content: [u8; 32],
    _opened: watch::Sender<()>,
}

/// The writing side of a job. A writer that is dropped early ends it as failed.
pub struct JobWriter {
    jobs: Arc<Jobs>,
    job: Arc<Job>,
}

/// The id of an account's job under a key.
pub fn job_id(account: AccountId, key: &[u8]) -> B256 {
    keccak256([ID_DOMAIN, &account.0.to_be_bytes(), key].concat())
}

impl Jobs {
    /// None yet.
    pub fn new(limits: &Limits, clock: SharedClock) -> Arc<Self> {
        let bounds = Bounds {
            kept_s: limits.jobs_kept_s,
            per_account_max: limits.jobs_per_account_max,
            bytes_per_account_max: limits.jobs_bytes_per_account_max,
            bytes_max: limits.jobs_bytes_max,
            job_bytes_max: limits.job_bytes_max,
        };
        let readers = Arc::new(Semaphore::new(limits.readers_max.min(Semaphore::MAX_PERMITS)));
        Arc::new(Self { bounds, clock, slots: Mutex::default(), readers })
    }

    /// Claims `id`; while another caller starts the same job, waits for it. `content` is a digest of what is asked.
    pub async fn claim(self: &Arc<Self>, id: B256, account: AccountId, content: [u8; 32]) -> Claim {
        loop {
            let mut opened = match self.try_claim(id, account, content) {
                Ok(claim) => return claim,
                Err(opened) => opened,
            };
            // Ends when the other caller opened the job, or gave up.
            let _ = opened.changed().await;
        }
    }

    fn try_claim(self: &Arc<Self>, id: B256, account: AccountId, content: [u8; 32]) -> Result<Claim, watch::Receiver<()>> {
        let mut slots = self.slots();
        self.bounds.sweep(&mut slots, self.clock.now_s());
        match slots.get(&id) {
            Some(Slot::Open(job)) if job.content == content => Ok(Claim::Same(Arc::clone(job))),
            Some(Slot::Opening { content: theirs, opened }) if *theirs == content => Err(opened.clone()),
            Some(_) => Ok(Claim::Other),
            None => {
                let (sender, opened) = watch::channel(());
                slots.insert(id, Slot::Opening { content, opened });
                Ok(Claim::New(Opening { jobs: Arc::clone(self), id, account, content, _opened: sender }))
            }
        }
    }

    /// The account's job of that id; `None` also for another account's and for one that ended long ago.
    pub fn of(&self, account: AccountId, id: B256) -> Option<Arc<Job>> {
        match self.slots().get(&id) {
            Some(Slot::Open(job)) if job.account == account && self.bounds.keeps(job, self.clock.now_s()) => Some(Arc::clone(job)),
            _ => None,
        }
    }

    /// A place for one more reader; `None` when there are as many as there may be.
    pub fn reader(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.readers).try_acquire_owned().ok()
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<B256, Slot>> {
        // Whole after every change.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bounds {
    /// Whether the job runs, or ended not long ago.
    fn keeps(&self, job: &Job, now_s: u64) -> bool {
        job.log.ended_at().is_none_or(|ended_at| now_s < ended_at.saturating_add(self.kept_s))
    }

    /// Forgets ended jobs: those that were kept long enough, then the oldest above an account's and the meter's bounds.
    fn sweep(&self, slots: &mut HashMap<B256, Slot>, now_s: u64) {
        let mut ended: Vec<(u64, B256, AccountId, usize)> = Vec::new();
        slots.retain(|id, slot| {
            let Slot::Open(job) = slot else { return true };
            let kept = self.keeps(job, now_s);
            if let (true, Some(ended_at)) = (kept, job.log.ended_at()) {
                ended.push((ended_at, *id, job.account, job.log.bytes()));
            }
            kept
        });
        // Newest first: what comes after the bounds are reached goes.
        ended.sort_unstable_by(|a, b| b.cmp(a));
        let mut all_bytes = 0usize;
        let mut of_account: HashMap<AccountId, (usize, usize)> = HashMap::new();
        for (_, id, account, bytes) in ended {
            let (count, account_bytes) = of_account.entry(account).or_default();
            *count += 1;
            *account_bytes += bytes;
            all_bytes += bytes;
            if *count > self.per_account_max || *account_bytes > self.bytes_per_account_max || all_bytes > self.bytes_max {
                slots.remove(&id);
            }
        }
    }
}

impl Opening {
    /// The job begins; `cancel` stops its generation.
    pub fn open(self, model: String, cancel: CancellationToken) -> (Arc<Job>, JobWriter) {
        let job = Arc::new(Job {
            id: self.id,
            account: self.account,
            model,
            created_at: self.jobs.clock.now_s(),
            content: self.content,
            cancel,
            log: Log::new(self.jobs.bounds.job_bytes_max),
        });
        self.jobs.slots().insert(self.id, Slot::Open(Arc::clone(&job)));
        let writer = JobWriter { jobs: Arc::clone(&self.jobs), job: Arc::clone(&job) };
        (job, writer)
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        let mut slots = self.jobs.slots();
        if matches!(slots.get(&self.id), Some(Slot::Opening { .. })) {
            slots.remove(&self.id);
        }
    }
}

impl JobWriter {
    /// The first token is here.
    pub fn started(&self) {
        self.job.log.started();
    }

    /// One more event; readers see it at once.
    pub fn push(&self, event: Bytes) {
        self.job.log.push(event);
    }

    /// Nothing more comes.
    pub fn end(self, is_whole: bool) {
        let state = if is_whole { JobState::Done } else { JobState::Failed };
        let now_s = self.jobs.clock.now_s();
        self.job.log.end(state, now_s);
        self.jobs.bounds.sweep(&mut self.jobs.slots(), now_s);
    }
}

impl Drop for JobWriter {
    fn drop(&mut self) {
        // After `end` this changes nothing.
        self.job.log.end(JobState::Failed, self.jobs.clock.now_s());
    }
}

impl Job {
    /// How far it is, and how many events there were.
    pub fn progress(&self) -> (JobState, u64) {
        self.log.progress()
    }

    /// The events after number `after`.
    pub fn read(&self, after: u64) -> Read {
        self.log.read(after)
    }

    /// Changes with every event.
    pub fn follow(&self) -> watch::Receiver<()> {
        self.log.follow()
    }

    /// Stops the generation; what arrived stays and is charged. Again: the same.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }
}

#[cfg(test)]
mod tests;
