//! How threads that compute share the processors with other programs.
//!
//! Threads of a team wait for one another many thousand times a second, so on a busy machine they are fast only while all of them run.
//! Each keeps to a processor of its own: otherwise the system wakes one on the processor of the other, which then waits. And each asks
//! for short turns, which cost it no time: the system lets a thread with short turns run as soon as it wakes, so that those it worked
//! with are still there (Linux 6.12 and later; elsewhere this changes nothing).
//!
//! Deliberately absent: a priority. The machine's owner decides what goes first.
#![allow(unsafe_code)] // Two system calls for which there is no safe wrapper.

#[cfg(target_os = "linux")]
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The shortest turn that Linux grants, nanoseconds.
#[cfg(target_os = "linux")]
const TURN_NS: u64 = 100_000;

/// Settles the calling thread, the `index`th of `threads`: only for threads that do nothing else, since those they start inherit it.
/// What the system refuses is left as it is.
#[cfg(target_os = "linux")]
pub(super) fn settle(index: usize, threads: usize) {
    if let Ok(allowed) = sched_getaffinity(None)
        && let Some(processor) = own(&allowed, index, threads)
    {
        let mut only = CpuSet::new();
        only.set(processor);
        let _ = sched_setaffinity(None, &only);
    }
    ask_for_short_turns();
}

#[cfg(not(target_os = "linux"))]
pub(super) fn settle(_index: usize, _threads: usize) {}

/// The processor of the `index`th thread; `None` unless there are as many threads as processors, for who has fewer leaves the choice
/// to the system.
#[cfg(target_os = "linux")]
fn own(allowed: &CpuSet, index: usize, threads: usize) -> Option<usize> {
    if allowed.count() as usize != threads {
        return None;
    }
    (0..CpuSet::MAX_CPU).filter(|processor| allowed.is_set(*processor)).nth(index)
}

#[cfg(target_os = "linux")]
fn ask_for_short_turns() {
    let size = size_of::<libc::sched_attr>() as u32;
    let mut attributes = libc::sched_attr {
        size,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the calls read and write one structure, whose size they are given; 0 is the calling thread.
    unsafe {
        let got = libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0);
        if got == 0 && attributes.sched_policy == libc::SCHED_OTHER as u32 {
            attributes.sched_runtime = TURN_NS;
            libc::syscall(libc::SYS_sched_setattr, 0, &raw mut attributes, 0);
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn processors(numbers: &[usize]) -> CpuSet {
        let mut set = CpuSet::new();
        numbers.iter().for_each(|number| set.set(*number));
        set
    }

    #[test]
    fn a_team_as_large_as_the_machine_has_a_processor_for_each_thread() {
        let allowed = processors(&[1, 4, 7]);
        assert_eq!([0, 1, 2].map(|index| own(&allowed, index, 3)), [Some(1), Some(4), Some(7)]);
    }

    #[test]
    fn a_smaller_or_larger_team_goes_where_the_system_puts_it() {
        let allowed = processors(&[0, 1]);
        assert_eq!([own(&allowed, 0, 1), own(&allowed, 0, 3), own(&allowed, 2, 3)], [None; 3]);
    }

    #[test]
    fn a_settled_thread_keeps_its_nice_value_and_leaves_other_threads_alone() {
        let before = sched_getaffinity(None).unwrap();
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let (outside, processors) = (nice(), before.count() as usize);
        std::thread::spawn(move || {
            settle(processors - 1, processors);
            assert_eq!((sched_getaffinity(None).unwrap().count(), nice()), (1, outside));
        })
        .join()
        .unwrap();
        assert_eq!(sched_getaffinity(None).unwrap(), before);
    }
}
