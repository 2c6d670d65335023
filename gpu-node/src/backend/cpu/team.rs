//! A team of threads that computes one parallel region after another.
//!
//! A decode step has a hundred regions of some ten microseconds, so waking threads for each would cost more than the work.
//! Members spin for a moment and then park. Tasks are claimed one by one: a member that the system has put aside claims
//! nothing and delays nobody. One that is put aside in the middle of a task delays everybody, by a time slice of the other
//! program; when that happens the caller goes on alone for a while, which is what there is to have on a busy machine.
#![allow(unsafe_code)] // A region borrows its caller's stack; the two places that rely on it say why they may.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

/// Pauses before a waiting member parks, about 20 µs: longer than the gap between regions, shorter than a time slice.
const SPINS_BEFORE_PARK: u32 = 600;
/// Pauses before the caller yields while another member finishes its task.
const SPINS_BEFORE_YIELD: u32 = 2_000;

/// A wait for another member's task that means it was put aside, where tasks are short: in a decode step one takes some ten microseconds.
const PUT_ASIDE: Duration = Duration::from_micros(200);
/// The same in tasks of the caller's own, where they are long: those of a prompt take a hundred microseconds and more, and whoever claimed
/// the last one is waited for without having been put aside.
const PUT_ASIDE_TASKS: u32 = 3;
/// How long the caller then works alone before it tries again: long beside a time slice, which the try may cost.
const ALONE: Duration = Duration::from_millis(60);

type Job = *const (dyn Fn(usize) + Sync);

struct Shared {
    /// The region's work. Written only while no task is open; read only after a task was claimed.
    job: UnsafeCell<Option<Job>>,
    /// Tasks not yet claimed; task `remaining − 1` is claimed next.
    remaining: AtomicUsize,
    finished: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
}

// SAFETY: `job` is the only field that is not Sync by itself. `run` writes it while `remaining` is 0 and every claimed task is
// finished; members read it between a successful claim and the matching increment of `finished`. So no read meets a write.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` is to a `Sync` closure, which any thread may call.
unsafe impl Send for Shared {}

struct Member {
    parked: Arc<AtomicBool>,
    thread: Thread,
    handle: Option<JoinHandle<()>>,
}

/// `threads` threads, of which the caller of [`Team::run`] is one.
pub struct Team {
    shared: Arc<Shared>,
    members: Vec<Member>,
    /// Until when the caller works alone.
    alone_until: Option<Instant>,
}

impl Team {
    /// Starts `threads − 1` members. With fewer threads than asked for (the system refused), it works with those it has.
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            job: UnsafeCell::new(None),
            remaining: AtomicUsize::new(0),
            finished: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let members = (1..threads).filter_map(|index| Member::start(&shared, index)).collect();
        Self { shared, members, alone_until: None }
    }

    pub fn threads(&self) -> usize {
        self.members.len() + 1
    }

    /// Calls `work(0..tasks)`, each once, on whichever members are free, and returns when all are done.
    pub fn run(&mut self, tasks: usize, work: &(dyn Fn(usize) + Sync)) {
        if self.members.is_empty() || tasks <= 1 || self.alone() {
            (0..tasks).for_each(work);
            return;
        }
        let shared = &*self.shared;
        // SAFETY: only the lifetime is erased. `wait` below returns, also when a task panics here, after every claimed task
        // is finished and none can be claimed, so no member uses the pointer once `run` has returned.
        let job: Job = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(work) };
        // SAFETY: no task is open (`&mut self`, and the previous `run` waited), so nobody reads the cell.
        unsafe { *shared.job.get() = Some(job) };
        shared.finished.store(0, Ordering::Relaxed);
        shared.remaining.store(tasks, Ordering::SeqCst);
        for member in &self.members {
            if member.parked.load(Ordering::SeqCst) {
                member.thread.unpark();
            }
        }

        let (begun, mut done) = (Instant::now(), 0);
        while shared.work_one() {
            done += 1;
        }
        let put_aside = PUT_ASIDE.max(begun.elapsed() / done.max(1) * PUT_ASIDE_TASKS);
        let (mut spins, mut waiting_since) = (0, None);
        while shared.finished.load(Ordering::Acquire) < tasks {
            spins += 1;
            if spins < SPINS_BEFORE_YIELD {
                std::hint::spin_loop();
            } else {
                waiting_since.get_or_insert_with(Instant::now);
                thread::yield_now();
            }
        }
        if waiting_since.is_some_and(|since: Instant| since.elapsed() >= put_aside) {
            self.alone_until = Some(Instant::now() + ALONE);
        }
        assert!(!shared.panicked.swap(false, Ordering::Relaxed), "a task of a parallel region panicked");
    }
}

impl Team {
    /// Whether a member was put aside a short while ago.
    fn alone(&mut self) -> bool {
        self.alone_until = self.alone_until.filter(|until| Instant::now() < *until);
        self.alone_until.is_some()
    }
}

impl Shared {
    /// Claims and does one task. False when none is open.
    fn work_one(&self) -> bool {
        let claim = |remaining: usize| remaining.checked_sub(1);
        let Ok(before) = self.remaining.fetch_update(Ordering::Acquire, Ordering::Relaxed, claim) else {
            return false;
        };
        // SAFETY: the claim succeeded, so `run` wrote the cell before (its store to `remaining` released it) and neither
        // writes it again nor returns before this task is counted as finished.
        let job = unsafe { *self.job.get() };
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            if let Some(job) = job {
                // SAFETY: as above; the closure outlives the region.
                unsafe { (*job)(before - 1) };
            }
        }));
        if outcome.is_err() {
            self.panicked.store(true, Ordering::Relaxed);
        }
        self.finished.fetch_add(1, Ordering::Release);
        true
    }
}

impl Member {
    fn start(shared: &Arc<Shared>, index: usize) -> Option<Self> {
        let parked = Arc::new(AtomicBool::new(false));
        let (its_shared, its_parked) = (Arc::clone(shared), Arc::clone(&parked));
        let name = format!("compute-{index}");
        let handle = thread::Builder::new().name(name).spawn(move || serve(&its_shared, &its_parked)).ok()?;
        Some(Self { parked, thread: handle.thread().clone(), handle: Some(handle) })
    }
}

fn serve(shared: &Shared, parked: &AtomicBool) {
    let mut idle = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        if shared.work_one() {
            idle = 0;
        } else if idle < SPINS_BEFORE_PARK {
            idle += 1;
            std::hint::spin_loop();
        } else {
            parked.store(true, Ordering::SeqCst);
            // A region opened before the flag was seen would not wake this thread.
            if shared.remaining.load(Ordering::SeqCst) == 0 && !shared.stop.load(Ordering::SeqCst) {
                thread::park();
            }
            parked.store(false, Ordering::SeqCst);
            idle = 0;
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for member in &mut self.members {
            member.thread.unpark();
            if let Some(handle) = member.handle.take() {
                let _ = handle.join();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn every_task_runs_once_in_every_region() {
        let mut team = Team::new(4);
        for round in 0..2_000 {
            let tasks = round % 37;
            let counts: Vec<AtomicU64> = (0..tasks).map(|_| AtomicU64::new(0)).collect();
            team.run(tasks, &|task| {
                counts[task].fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1), "round {round}");
        }
    }

    #[test]
    fn the_caller_alone_does_every_task_too() {
        let mut team = Team::new(3);
        team.alone_until = Some(Instant::now() + Duration::from_secs(3_600));
        let caller = thread::current().id();
        let sum = AtomicU64::new(0);
        team.run(50, &|task| {
            assert_eq!(thread::current().id(), caller);
            sum.fetch_add(task as u64, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 1225);
        team.alone_until = Some(Instant::now());
        team.run(2, &|_| ());
        assert!(team.alone_until.is_none(), "the others are asked again");
    }

    #[test]
    fn parked_members_wake_for_the_next_region() {
        let mut team = Team::new(3);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(120);
        while !team.members.iter().all(|m| m.parked.load(Ordering::SeqCst)) {
            assert!(std::time::Instant::now() < deadline, "members did not park");
            thread::yield_now();
        }
        let sum = AtomicU64::new(0);
        team.run(100, &|task| {
            sum.fetch_add(task as u64, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 4950);
    }

    #[test]
    fn panic_in_a_task_reaches_the_caller_and_the_team_goes_on() {
        let mut team = Team::new(2);
        let caught = catch_unwind(AssertUnwindSafe(|| team.run(8, &|task| assert_ne!(task, 3))));
        assert!(caught.is_err());
        let sum = AtomicU64::new(0);
        team.run(8, &|_| {
            sum.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 8);
    }
}
