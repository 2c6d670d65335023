//! Which KV page belongs to whom: free pages, held pages, and full pages kept for the next request with the same prefix.
//!
//! A full page is named by the hash of its tokens and of everything before them, so that equal prefixes share pages. Sharing
//! changes no bit (`docs/numerics.md`). Names begin with a scope, the payer: nobody can find out by the clock what somebody else
//! has asked.

use std::collections::{BTreeMap, HashMap};

use alloy::primitives::{B256, Keccak256};

use crate::backend::{PAGE_TOKENS, PageId};

/// Name of a full page: its tokens, everything before them, and its scope.
pub(super) type PrefixKey = B256;

/// The name that the first page of a sequence continues.
pub(super) fn scope_key(scope: u64) -> PrefixKey {
    let mut hasher = Keccak256::new();
    hasher.update(b"prefix-scope");
    hasher.update(scope.to_le_bytes());
    hasher.finalize()
}

/// The name of a page with these tokens after the page `before`.
pub(super) fn next_key(before: PrefixKey, tokens: &[u32]) -> PrefixKey {
    let mut hasher = Keccak256::new();
    hasher.update(before);
    tokens.iter().for_each(|token| hasher.update(token.to_le_bytes()));
    hasher.finalize()
}

/// A full page that other requests may use.
struct Published {
    key: PrefixKey,
    /// Digests of its positions' final hidden states, for the proofs of requests that do not compute them.
    digests: Vec<B256>,
}

#[derive(Default)]
struct PageState {
    holders: u32,
    published: Option<Published>,
    /// When it was last released; its place among the idle.
    idle_since: u64,
}

/// All pages of a pool.
pub(super) struct PageTable {
    pages: Vec<PageState>,
    free: Vec<PageId>,
    by_key: HashMap<PrefixKey, PageId>,
    /// Published pages that nobody holds, the longest idle first. They are given away when no page is free.
    idle: BTreeMap<u64, PageId>,
    clock: u64,
}

impl PageTable {
    pub(super) fn new(pages: usize) -> Self {
        let mut states = Vec::new();
        states.resize_with(pages, PageState::default);
        // Taken from the end: low pages first, so that a quiet node touches little memory.
        let free = (0..pages as u32).rev().map(PageId).collect();
        Self { pages: states, free, by_key: HashMap::new(), idle: BTreeMap::new(), clock: 0 }
    }

    pub(super) fn total(&self) -> usize {
        self.pages.len()
    }

    /// Pages that `take` can give.
    pub(super) fn available(&self) -> usize {
        self.free.len() + self.idle.len()
    }

    /// Pages that a request holds.
    pub(super) fn held(&self) -> usize {
        self.total() - self.available()
    }

    /// A page of nobody's, held by the caller from here on. `None`: all are held.
    pub(super) fn take(&mut self) -> Option<PageId> {
        let page = self.free.pop().or_else(|| self.idle.pop_first().map(|(_, page)| page))?;
        let state = &mut self.pages[page.0 as usize];
        if let Some(published) = state.published.take() {
            self.by_key.remove(&published.key);
        }
        state.holders = 1;
        Some(page)
    }

    /// The page of that name with the digests of its positions, held by the caller too from here on.
    pub(super) fn find(&mut self, key: PrefixKey) -> Option<(PageId, &[B256])> {
        let page = *self.by_key.get(&key)?;
        let state = &mut self.pages[page.0 as usize];
        if state.holders == 0 {
            self.idle.remove(&state.idle_since);
        }
        state.holders += 1;
        state.published.as_ref().map(|published| (page, published.digests.as_slice()))
    }

    /// Names a full page, unless another page has the name already.
    pub(super) fn publish(&mut self, page: PageId, key: PrefixKey, digests: &[B256]) {
        assert_eq!(digests.len(), PAGE_TOKENS, "only full pages are published");
        let state = &mut self.pages[page.0 as usize];
        if state.published.is_none() && !self.by_key.contains_key(&key) {
            state.published = Some(Published { key, digests: digests.to_vec() });
            self.by_key.insert(key, page);
        }
    }

    /// Gives a held page back.
    pub(super) fn release(&mut self, page: PageId) {
        let state = &mut self.pages[page.0 as usize];
        assert!(state.holders > 0, "a page is released by its holder");
        state.holders -= 1;
        if state.holders > 0 {
            return;
        }
        if state.published.is_some() {
            self.clock += 1;
            state.idle_since = self.clock;
            self.idle.insert(self.clock, page);
        } else {
            self.free.push(page);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn digests(byte: u8) -> Vec<B256> {
        vec![B256::repeat_byte(byte); PAGE_TOKENS]
    }

    #[test]
    fn a_published_page_is_found_until_it_is_given_away() {
        let mut table = PageTable::new(2);
        let key = next_key(scope_key(1), &[7; PAGE_TOKENS]);
        let page = table.take().unwrap();
        table.publish(page, key, &digests(3));
        table.release(page);
        assert_eq!(table.available(), 2);

        let (found, hidden) = table.find(key).unwrap();
        assert_eq!((found, hidden), (page, digests(3).as_slice()));
        assert_eq!(table.available(), 1);
        table.release(page);

        // The free page goes first, then the idle one, and its name with it.
        let (first, second) = (table.take().unwrap(), table.take().unwrap());
        assert_eq!((first == page, second == page), (false, true));
        assert!(table.find(key).is_none() && table.take().is_none());
    }

    #[test]
    fn names_depend_on_scope_order_and_everything_before() {
        let (a, b) = ([1; PAGE_TOKENS], [2; PAGE_TOKENS]);
        let key = |scope: u64, pages: &[[u32; PAGE_TOKENS]]| pages.iter().fold(scope_key(scope), |key, tokens| next_key(key, tokens));
        let keys = [key(1, &[a]), key(2, &[a]), key(1, &[b]), key(1, &[a, b]), key(1, &[b, a]), key(1, &[a, a])];
        assert_eq!(keys.iter().collect::<std::collections::HashSet<_>>().len(), keys.len());
    }

    proptest! {
        /// Against a plain model: a page is free, idle or held, never two of them, and none is lost.
        #[test]
        fn no_page_is_lost_or_given_twice(steps in proptest::collection::vec((0u8..4, any::<u8>()), 0..200)) {
            let mut table = PageTable::new(5);
            let mut held: Vec<PageId> = Vec::new();
            for (step, number) in steps {
                let key = B256::repeat_byte(number % 7);
                match step {
                    0 => {
                        let before = table.available();
                        let taken = table.take();
                        prop_assert_eq!(taken.is_some(), before > 0);
                        if let Some(page) = taken {
                            prop_assert!(!held.contains(&page), "a held page was given away");
                            held.push(page);
                        }
                    }
                    1 => held.extend(table.find(key).map(|(page, _)| page)),
                    2 if !held.is_empty() => table.publish(held[number as usize % held.len()], key, &digests(number)),
                    3 if !held.is_empty() => table.release(held.swap_remove(number as usize % held.len())),
                    _ => {}
                }
                let distinct: std::collections::HashSet<_> = held.iter().collect();
                prop_assert_eq!(table.held(), distinct.len());
                prop_assert_eq!(table.available() + distinct.len(), 5);
            }
        }
    }
}
