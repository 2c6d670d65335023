//! Accepted credentials, believed for a few seconds without asking the store.
//!
//! A revocation in this process is felt by the very next call: it empties the entry and moves the generation on, and a
//! look-up that began before it may not put its answer in.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::authenticate::Caller;
use super::secret::SecretHash;

/// Entries at most; a full cache is emptied, which costs each caller one look-up.
const ENTRIES_MAX: usize = 16_384;

pub(super) struct Cache {
    lifetime_s: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    generation: u64,
    entries: HashMap<SecretHash, Entry>,
}

struct Entry {
    caller: Caller,
    until_s: u64,
}

/// The moment a look-up began, in revocations.
#[derive(Clone, Copy)]
pub(super) struct Generation(u64);

impl Cache {
    pub(super) fn new(lifetime_s: u64) -> Self {
        Self { lifetime_s, state: Mutex::default() }
    }

    /// The remembered caller, or where a look-up now begins.
    pub(super) fn get(&self, hash: &SecretHash, now_s: u64) -> Result<Caller, Generation> {
        let state = self.state();
        let fresh = state.entries.get(hash).filter(|entry| now_s < entry.until_s);
        fresh.map(|entry| entry.caller.clone()).ok_or(Generation(state.generation))
    }

    /// Remembers `caller` until the lifetime or `expires_at_s` is over, unless something was revoked since the look-up began.
    pub(super) fn put(&self, began: Generation, hash: SecretHash, caller: Caller, now_s: u64, expires_at_s: u64) {
        let mut state = self.state();
        if state.generation != began.0 {
            return;
        }
        if state.entries.len() >= ENTRIES_MAX {
            state.entries.clear();
        }
        let until_s = expires_at_s.min(now_s.saturating_add(self.lifetime_s));
        state.entries.insert(hash, Entry { caller, until_s });
    }

    /// Forgets one credential. Called after the store has forgotten it.
    pub(super) fn forget(&self, hash: &SecretHash) {
        let mut state = self.state();
        state.generation += 1;
        state.entries.remove(hash);
    }

    /// Forgets everything, because what stands behind credentials changed.
    pub(super) fn forget_all(&self) {
        let mut state = self.state();
        state.generation += 1;
        state.entries.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while holding the lock leaves at worst a missing entry.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use wire::Address;

    use super::*;

    fn caller() -> Caller {
        Caller { wallet: Some(Address::repeat_byte(1)), user: None, account: None, key: None, session: true, authenticated_at: 0 }
    }

    #[test]
    fn a_lookup_that_began_before_a_revocation_is_not_remembered() {
        let cache = Cache::new(5);
        let began = cache.get(&[1; 32], 0).unwrap_err();
        cache.forget(&[1; 32]);
        cache.put(began, [1; 32], caller(), 0, u64::MAX);
        assert!(cache.get(&[1; 32], 0).is_err());
    }

    #[test]
    fn an_entry_ends_with_its_lifetime_or_with_the_credential() {
        let cache = Cache::new(5);
        let began = cache.get(&[1; 32], 0).unwrap_err();
        cache.put(began, [1; 32], caller(), 10, u64::MAX);
        cache.put(began, [2; 32], caller(), 10, 12);
        assert!(cache.get(&[1; 32], 14).is_ok() && cache.get(&[1; 32], 15).is_err());
        assert!(cache.get(&[2; 32], 11).is_ok() && cache.get(&[2; 32], 12).is_err());
    }

    #[test]
    fn a_full_cache_stays_bounded() {
        let cache = Cache::new(5);
        let began = cache.get(&[0; 32], 0).unwrap_err();
        for index in 0..=ENTRIES_MAX as u64 {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&index.to_le_bytes());
            cache.put(began, hash, caller(), 0, u64::MAX);
        }
        assert!(cache.state().entries.len() <= ENTRIES_MAX);
    }
}
