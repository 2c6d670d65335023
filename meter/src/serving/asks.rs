//! Questions to a node whose answers come as frames of their own: asked once, answered once, bounded.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::oneshot;
use wire::B256;

/// Open questions of one kind to one node.
const OPEN_MAX: usize = 256;

/// Who waits for which answer.
pub struct Asks<T>(Mutex<HashMap<B256, oneshot::Sender<T>>>);

impl<T> Default for Asks<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Asks<T> {
    /// Opens the question `id`. `None` when it is open already, or too many are.
    pub fn open(&self, id: B256) -> Option<oneshot::Receiver<T>> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever stopped waiting asks no more.
        waiting.retain(|_, asker| !asker.is_closed());
        if waiting.len() >= OPEN_MAX || waiting.contains_key(&id) {
            return None;
        }
        let (asker, answer) = oneshot::channel();
        waiting.insert(id, asker);
        Some(answer)
    }

    /// Passes an answer on. `false` when nobody asked, or nobody waits any more.
    pub fn answer(&self, id: &B256, answer: T) -> bool {
        let asker = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        asker.is_some_and(|asker| asker.send(answer).is_ok())
    }

    /// Lets everybody who waits know that no answer comes.
    pub fn close(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_answered_once_and_only_when_it_was_asked() {
        let asks = Asks::default();
        let id = B256::repeat_byte(1);
        assert!(!asks.answer(&id, 1));
        let mut waiting = asks.open(id).unwrap();
        assert!(asks.open(id).is_none(), "it is open already");
        assert!(asks.answer(&id, 2) && !asks.answer(&id, 3));
        assert_eq!(waiting.try_recv(), Ok(2));
    }

    #[test]
    fn questions_are_bounded_and_make_room_when_nobody_waits() {
        let asks = Asks::<u32>::default();
        let id = |index: usize| B256::left_padding_from(&index.to_be_bytes());
        let waiting: Vec<_> = (0..OPEN_MAX).map(|index| asks.open(id(index)).unwrap()).collect();
        assert!(asks.open(id(OPEN_MAX)).is_none());
        drop(waiting);
        assert!(asks.open(id(OPEN_MAX)).is_some());
    }
}
