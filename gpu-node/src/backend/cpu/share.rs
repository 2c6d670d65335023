//! How threads that compute share the processors with other programs.
//!
//! Threads of a team wait for one another many thousand times a second, so on a busy machine they are fast only while all of them run.
//! Each keeps to a processor of its own: otherwise the system wakes one on the processor of the other, which then waits. And each asks
//! for short turns, which cost it no time: the system lets a thread with short turns run as soon as it wakes, so that those it worked
//! with are still there (Linux 6.12 and later; elsewhere this changes nothing).
//!
//! Threads that serve also ask to go before work that nobody waits for. Whether they may is the machine owner's word: the system refuses
//! it without a privilege, and a process that was started with a nice value of its own keeps it.
#![allow(unsafe_code)] // Two system calls for which there is no safe wrapper.

#[cfg(target_os = "linux")]
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The shortest turn that Linux grants, nanoseconds.
#[cfg(target_os = "linux")]
const TURN_NS: u64 = 100_000;

/// Settles the calling thread, the `index`th of `threads`: only for threads that do nothing else, since those they start inherit it.
/// `nice` is what is asked for in place of an ordinary process's 0. What the system refuses is left as it is.
#[cfg(target_os = "linux")]
pub(super) fn settle(index: usize, threads: usize, nice: i32) {
    if let Ok(allowed) = sched_getaffinity(None)
        && let Some(processor) = own(&allowed, index, threads)
    {
        let mut only = CpuSet::new();
        only.set(processor);
        let _ = sched_setaffinity(None, &only);
    }
    ask_for_turns(nice);
}

#[cfg(not(target_os = "linux"))]
pub(super) fn settle(_index: usize, _threads: usize, _nice: i32) {}

/// The nice value that threads of this process compute with when they ask for `nice`.
#[cfg(target_os = "linux")]
pub fn granted_nice(nice: i32) -> i32 {
    let asking = std::thread::spawn(move || {
        ask_for_turns(nice);
        own_nice()
    });
    asking.join().unwrap_or_default()
}

/// The nice value that threads of this process compute with when they ask for `nice`.
#[cfg(not(target_os = "linux"))]
pub fn granted_nice(_nice: i32) -> i32 {
    0
}

/// The processor of the `index`th thread; `None` unless there are as many threads as processors, for who has fewer leaves the choice
/// to the system.
#[cfg(target_os = "linux")]
fn own(allowed: &CpuSet, index: usize, threads: usize) -> Option<usize> {
    if allowed.count() as usize != threads {
        return None;
    }
    (0..CpuSet::MAX_CPU).filter(|processor| allowed.is_set(*processor)).nth(index)
}

/// Of the calling thread.
#[cfg(target_os = "linux")]
fn own_nice() -> i32 {
    rustix::process::getpriority_process(None).unwrap_or_default()
}

/// Asks for short turns at this priority or, where that is refused, at the one that the thread has.
#[cfg(target_os = "linux")]
fn ask_for_turns(nice: i32) {
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
    // SAFETY: the call writes one structure, whose size it is given; 0 is the calling thread.
    let got = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
    if got != 0 || attributes.sched_policy != libc::SCHED_OTHER as u32 {
        return;
    }
    attributes.sched_runtime = TURN_NS;
    let inherited = attributes.sched_nice;
    for nice in [if inherited == 0 { nice } else { inherited }, inherited] {
        attributes.sched_nice = nice;
        // SAFETY: the call reads the same structure.
        if unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw mut attributes, 0) } == 0 {
            return;
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
    fn a_settled_thread_leaves_other_threads_alone() {
        let (before, outside) = (sched_getaffinity(None).unwrap(), own_nice());
        let processors = before.count() as usize;
        let settled = std::thread::spawn(move || {
            settle(processors - 1, processors, outside);
            (sched_getaffinity(None).unwrap().count(), own_nice())
        });
        assert_eq!(settled.join().unwrap(), (1, outside));
        assert_eq!((sched_getaffinity(None).unwrap(), own_nice()), (before, outside));
    }

    #[test]
    fn whoever_has_a_nice_value_already_keeps_it() {
        let found = std::thread::spawn(|| {
            let nicer = (own_nice() + 3).min(19);
            rustix::process::setpriority_process(None, nicer).unwrap();
            ask_for_turns(-5);
            (own_nice(), nicer)
        });
        let (kept, nicer) = found.join().unwrap();
        assert_eq!(kept, nicer);
    }

    /// Any thread may give way, so this one needs no privilege.
    #[test]
    fn the_nice_value_asked_for_is_granted_where_the_system_allows_it() {
        let outside = own_nice();
        let asked = if outside == 0 { 2 } else { outside };
        assert_eq!((granted_nice(asked), own_nice()), (asked, outside));
        // Priority over others: granted or refused, and nothing in between.
        assert!([-5, outside].contains(&granted_nice(-5)));
    }
}
