//! A team of threads that computes one parallel region after another.
//!
//! A decode step has hundreds of regions of some ten microseconds, so waking threads for each would cost more than the work.
//! Members spin for a moment and then park. Each thread has a run of tasks of its own, the same in every region, so that it finds in its
//! caches what it wrote in the region before; whoever has none left takes from the end of another's. So a member that the system has put
//! aside delays the others only by the task it is in the middle of; they sleep until it is back, and leave their time to other programs
//! for so long, which they get back.
#![allow(unsafe_code)] // A region borrows its caller's stack; the two places that rely on it say why they may.

use std::cell::UnsafeCell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use super::share;

/// How long a member waits for the next region before it parks: longer than what the caller does by itself between two.
const SPIN: Duration = Duration::from_micros(150);
/// The same, and the caller's wait for another's task, on a busy machine: waiting takes the processor from those who could work.
const SPIN_BUSY: Duration = Duration::from_micros(10);
/// How long the caller waits for another's task before it sleeps.
const SPIN_FOR_TASK: Duration = Duration::from_micros(100);
/// Pauses between two looks at the clock.
const PAUSES: u32 = 16;

/// A wait for another's task that means it was put aside for another program, which then has a time slice of a millisecond and more.
const PUT_ASIDE: Duration = Duration::from_micros(500);
/// The same in tasks of the caller's own, where they are long: whoever claimed the last one is waited for without having been put aside.
const PUT_ASIDE_TASKS: u32 = 3;
/// How long the machine counts as busy after that.
const BUSY: Duration = Duration::from_secs(1);

type Job = *const (dyn Fn(usize) + Sync);

/// Tasks of one thread that nobody has claimed: `first << 32 | end`. Alone on its cache lines, since every claim writes it.
#[repr(align(128))]
#[derive(Default)]
struct Open(AtomicU64);

impl Open {
    fn set(&self, tasks: Range<usize>) {
        self.0.store((tasks.start as u64) << 32 | tasks.end as u64, Ordering::SeqCst);
    }

    fn is_empty(&self) -> bool {
        bounds(self.0.load(Ordering::SeqCst)).is_empty()
    }

    /// The owner's claim.
    fn claim_first(&self) -> Option<usize> {
        let claim = |tasks: Range<u64>| (tasks.start + 1) << 32 | tasks.end;
        self.claim(claim).map(|tasks| tasks.start as usize)
    }

    /// Another's claim.
    fn claim_last(&self) -> Option<usize> {
        let claim = |tasks: Range<u64>| tasks.start << 32 | (tasks.end - 1);
        self.claim(claim).map(|tasks| tasks.end as usize - 1)
    }

    /// What was open before the claim.
    fn claim(&self, claim: impl Fn(Range<u64>) -> u64) -> Option<Range<u64>> {
        let next = |packed| Some(bounds(packed)).filter(|tasks| !tasks.is_empty()).map(&claim);
        self.0.fetch_update(Ordering::Acquire, Ordering::Relaxed, next).ok().map(bounds)
    }
}

fn bounds(packed: u64) -> Range<u64> {
    packed >> 32..packed & u64::from(u32::MAX)
}

struct Shared {
    /// The region's work. Written only while no task is open; read only after a task was claimed.
    job: UnsafeCell<Option<Job>>,
    /// Of each thread; the caller's are the first.
    open: Box<[Open]>,
    finished: AtomicUsize,
    /// Whether the caller sleeps until the last task is finished, and who it is.
    caller_sleeps: AtomicBool,
    caller: Mutex<Option<Thread>>,
    /// Whether other programs want the processors.
    busy: AtomicBool,
    panicked: AtomicBool,
    stop: AtomicBool,
}

// SAFETY: `job` is the only field that is not Sync by itself. `run` writes it while no task is open and every claimed one is
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
    nice: i32,
    /// Until when waiting is kept short.
    busy_until: Option<Instant>,
}

impl Team {
    /// Starts `threads − 1` members, which ask for this nice value. With fewer threads than asked for (the system refused), it works with
    /// those it has.
    pub fn new(threads: usize, nice: i32) -> Self {
        let shared = Arc::new(Shared::new(threads));
        let members = (1..threads).filter_map(|index| Member::start(&shared, index, threads, nice)).collect();
        Self { shared, members, nice, busy_until: None }
    }

    /// Settles the thread that will call [`Team::run`], if it does nothing else; members are settled already.
    pub(super) fn settle_caller(&self) {
        share::settle(0, self.threads(), self.nice);
    }

    pub fn threads(&self) -> usize {
        self.members.len() + 1
    }

    /// Calls `work(0..tasks)`, each once, on whichever members are free, and returns when all are done. Fewer than 2³² tasks.
    pub fn run(&mut self, tasks: usize, work: &(dyn Fn(usize) + Sync)) {
        if self.members.is_empty() || tasks <= 1 {
            (0..tasks).for_each(work);
            return;
        }
        assert!(u32::try_from(tasks).is_ok(), "a region of {tasks} tasks");
        let shared = &*self.shared;
        // SAFETY: only the lifetime is erased. `wait` below returns, also when a task panics here, after every claimed task
        // is finished and none can be claimed, so no member uses the pointer once `run` has returned.
        let job: Job = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(work) };
        // SAFETY: no task is open (`&mut self`, and the previous `run` waited), so nobody reads the cell.
        unsafe { *shared.job.get() = Some(job) };
        shared.finished.store(0, Ordering::Relaxed);
        let threads = shared.open.len();
        for (index, open) in shared.open.iter().enumerate() {
            open.set(tasks * index / threads..tasks * (index + 1) / threads);
        }
        for member in &self.members {
            if member.parked.load(Ordering::SeqCst) {
                member.thread.unpark();
            }
        }

        let (begun, mut done) = (Instant::now(), 0);
        while shared.work_one(0) {
            done += 1;
        }
        let worked = begun.elapsed();
        let waited = shared.wait(tasks);
        if waited >= PUT_ASIDE.max(worked / done.max(1) * PUT_ASIDE_TASKS) {
            self.busy_until = Some(Instant::now() + BUSY);
            shared.busy.store(true, Ordering::Relaxed);
        } else if self.busy_until.is_some_and(|until| begun >= until) {
            self.busy_until = None;
            shared.busy.store(false, Ordering::Relaxed);
        }
        assert!(!shared.panicked.swap(false, Ordering::Relaxed), "a task of a parallel region panicked");
    }
}

impl Shared {
    fn new(threads: usize) -> Self {
        Self {
            job: UnsafeCell::new(None),
            open: (0..threads.max(1)).map(|_| Open::default()).collect(),
            finished: AtomicUsize::new(0),
            caller_sleeps: AtomicBool::new(false),
            caller: Mutex::new(None),
            busy: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        }
    }

    /// A task of the thread's own, or else of another.
    fn claim(&self, thread: usize) -> Option<usize> {
        let mut others = self.open[thread + 1..].iter().chain(&self.open[..thread]);
        self.open[thread].claim_first().or_else(|| others.find_map(Open::claim_last))
    }

    /// Claims and does one task. False when none is open.
    fn work_one(&self, thread: usize) -> bool {
        let Some(task) = self.claim(thread) else { return false };
        // SAFETY: the claim succeeded, so `run` wrote the cell before (its store to `open` released it) and neither
        // writes it again nor returns before this task is counted as finished.
        let job = unsafe { *self.job.get() };
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            if let Some(job) = job {
                // SAFETY: as above; the closure outlives the region.
                unsafe { (*job)(task) };
            }
        }));
        if outcome.is_err() {
            self.panicked.store(true, Ordering::Relaxed);
        }
        self.finished.fetch_add(1, Ordering::SeqCst);
        // Either this thread sees that the caller sleeps, or the caller sees the count before it does.
        if self.caller_sleeps.load(Ordering::SeqCst)
            && let Some(caller) = &*self.caller.lock().unwrap_or_else(PoisonError::into_inner)
        {
            caller.unpark();
        }
        true
    }

    /// Waits until so many tasks are finished; how long that took. It sleeps rather than yields: a thread that yields gives up time that is
    /// its own, and does not get it back.
    fn wait(&self, tasks: usize) -> Duration {
        let is_over = || self.finished.load(Ordering::SeqCst) >= tasks;
        if is_over() {
            return Duration::ZERO;
        }
        let begun = Instant::now();
        let spin = if self.busy.load(Ordering::Relaxed) { SPIN_BUSY } else { SPIN_FOR_TASK };
        if spin_until(begun + spin, is_over) {
            return begun.elapsed();
        }
        *self.caller.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread::current());
        self.caller_sleeps.store(true, Ordering::SeqCst);
        while !is_over() {
            thread::park();
        }
        self.caller_sleeps.store(false, Ordering::SeqCst);
        begun.elapsed()
    }

    fn is_open(&self) -> bool {
        self.open.iter().any(|open| !open.is_empty())
    }
}

/// Whether it came true before the deadline.
fn spin_until(deadline: Instant, is_true: impl Fn() -> bool) -> bool {
    loop {
        for _ in 0..PAUSES {
            if is_true() {
                return true;
            }
            std::hint::spin_loop();
        }
        if Instant::now() >= deadline {
            return is_true();
        }
    }
}

impl Member {
    fn start(shared: &Arc<Shared>, index: usize, threads: usize, nice: i32) -> Option<Self> {
        let parked = Arc::new(AtomicBool::new(false));
        let (its_shared, its_parked) = (Arc::clone(shared), Arc::clone(&parked));
        let name = format!("compute-{index}");
        let handle = thread::Builder::new().name(name).spawn(move || {
            share::settle(index, threads, nice);
            serve(&its_shared, index, &its_parked);
        });
        let handle = handle.ok()?;
        Some(Self { parked, thread: handle.thread().clone(), handle: Some(handle) })
    }
}

fn serve(shared: &Shared, index: usize, parked: &AtomicBool) {
    let stopped = || shared.stop.load(Ordering::SeqCst);
    while !stopped() {
        if shared.work_one(index) {
            continue;
        }
        let spin = if shared.busy.load(Ordering::Relaxed) { SPIN_BUSY } else { SPIN };
        if spin_until(Instant::now() + spin, || shared.is_open() || stopped()) {
            continue;
        }
        parked.store(true, Ordering::SeqCst);
        // A region opened before the flag was seen would not wake this thread.
        if !shared.is_open() && !stopped() {
            thread::park();
        }
        parked.store(false, Ordering::SeqCst);
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
        let mut team = Team::new(4, 0);
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
    fn tasks_of_a_thread_that_does_not_come_are_taken_by_the_others() {
        let shared = Shared::new(3);
        shared.open[1].set(4..7);
        let job: &(dyn Fn(usize) + Sync) = &|_| ();
        // SAFETY: nobody else knows of `shared`; the job outlives every use.
        unsafe { *shared.job.get() = Some(std::ptr::from_ref(job)) };
        let taken: Vec<usize> = std::iter::from_fn(|| shared.claim(0)).collect();
        assert_eq!(taken, [6, 5, 4], "from the end, so that the owner finds its first ones");
        shared.open[0].set(0..2);
        shared.open[2].set(7..9);
        let taken: Vec<usize> = std::iter::from_fn(|| shared.claim(2)).collect();
        assert_eq!(taken, [7, 8, 1, 0], "its own first");
        assert!(!shared.is_open());
    }

    #[test]
    fn a_caller_that_sleeps_is_woken_by_the_last_task() {
        let mut team = Team::new(2, 0);
        team.shared.busy.store(true, Ordering::SeqCst);
        for _ in 0..20 {
            let (first, second) = (AtomicBool::new(false), AtomicBool::new(false));
            // Each task ends only once the other has begun, so two threads do one each; one of them is much longer.
            team.run(2, &|task| {
                let (mine, other) = if task == 0 { (&first, &second) } else { (&second, &first) };
                mine.store(true, Ordering::SeqCst);
                while !other.load(Ordering::SeqCst) {
                    thread::yield_now();
                }
                let until = Instant::now() + if task == 1 { 20 * SPIN_BUSY } else { Duration::ZERO };
                while Instant::now() < until {
                    thread::yield_now();
                }
            });
            assert!(first.into_inner() && second.into_inner());
            assert!(!team.shared.caller_sleeps.load(Ordering::SeqCst));
        }
    }

    #[test]
    fn parked_members_wake_for_the_next_region() {
        let mut team = Team::new(3, 0);
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
        let mut team = Team::new(2, 0);
        let caught = catch_unwind(AssertUnwindSafe(|| team.run(8, &|task| assert_ne!(task, 3))));
        assert!(caught.is_err());
        let sum = AtomicU64::new(0);
        team.run(8, &|_| {
            sum.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 8);
    }
}
