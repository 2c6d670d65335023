//! The events of one job, numbered from 1, bounded in bytes: a log that is full loses its oldest events.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use super::JobState;

/// What a look at the log shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// Events in order, the first one's number, and whether the job is over behind them.
    Events {
        /// Number of the first event.
        first: u64,
        /// Each as it was written.
        events: Vec<Bytes>,
        /// Whether nothing more comes.
        over: bool,
    },
    /// The next event was dropped, because the log was full.
    Dropped {
        /// Number of the oldest event that is kept.
        oldest: u64,
    },
}

pub(super) struct Log {
    bytes_max: usize,
    state: Mutex<LogState>,
    changed: watch::Sender<()>,
}

struct LogState {
    events: VecDeque<Bytes>,
    /// Number of the first of `events`.
    oldest: u64,
    bytes: usize,
    job: JobState,
    ended_at: Option<u64>,
}

impl Log {
    pub(super) fn new(bytes_max: usize) -> Self {
        let state = LogState { events: VecDeque::new(), oldest: 1, bytes: 0, job: JobState::Queued, ended_at: None };
        Self { bytes_max, state: Mutex::new(state), changed: watch::Sender::new(()) }
    }

    pub(super) fn started(&self) {
        self.state().job = JobState::Running;
        self.changed.send_replace(());
    }

    pub(super) fn push(&self, event: Bytes) {
        let mut state = self.state();
        state.bytes += event.len();
        state.events.push_back(event);
        while state.bytes > self.bytes_max && state.events.len() > 1 {
            let dropped = state.events.pop_front().map_or(0, |event| event.len());
            state.bytes -= dropped;
            state.oldest += 1;
        }
        drop(state);
        self.changed.send_replace(());
    }

    /// The first end stands.
    pub(super) fn end(&self, job: JobState, now_s: u64) {
        let mut state = self.state();
        if state.ended_at.is_none() {
            (state.job, state.ended_at) = (job, Some(now_s));
        }
        drop(state);
        self.changed.send_replace(());
    }

    pub(super) fn read(&self, after: u64) -> Read {
        let state = self.state();
        let first = after.saturating_add(1);
        if first < state.oldest {
            return Read::Dropped { oldest: state.oldest };
        }
        // A number that is still to come has nothing yet.
        let skipped = usize::try_from(first - state.oldest).unwrap_or(usize::MAX);
        let events = state.events.iter().skip(skipped).cloned().collect();
        Read::Events { first, events, over: state.ended_at.is_some() }
    }

    pub(super) fn progress(&self) -> (JobState, u64) {
        let state = self.state();
        (state.job, state.oldest + state.events.len() as u64 - 1)
    }

    pub(super) fn ended_at(&self) -> Option<u64> {
        self.state().ended_at
    }

    pub(super) fn bytes(&self) -> usize {
        self.state().bytes
    }

    pub(super) fn follow(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    fn state(&self) -> MutexGuard<'_, LogState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
