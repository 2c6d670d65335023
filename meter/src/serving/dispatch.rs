//! One request to one node: the better of two random capable ones, the network before fallback hardware, or a place in a
//! bounded queue. A node that stopped reporting most likely loses what it is given: it gets nothing until it is heard again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use daemon::clock::SharedClock;
use rand::seq::IndexedRandom;
use thiserror::Error;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use wire::Address;

use super::fleet::{Fleet, Lease, Node};

/// What a request needs of a node.
#[derive(Clone, Debug)]
pub struct Need<'a> {
    /// Which model.
    pub model: &'a str,
    /// Prompt and most of the answer together.
    pub tokens: u32,
    /// Nodes that failed this request.
    pub tried: &'a [Address],
    /// Whether only fallback hardware is left.
    pub fallback_only: bool,
}

/// Chooses nodes.
#[derive(Clone)]
pub struct Dispatcher {
    fleet: Fleet,
    waiting: Arc<Semaphore>,
    /// Of each model, those that wait.
    counts: Arc<Mutex<HashMap<String, usize>>>,
    /// Told whenever one more waits.
    queued: Arc<Notify>,
    timeout: Duration,
    clock: SharedClock,
}

impl Dispatcher {
    /// At most `queue_max` requests wait, each at most `timeout`; `clock` says who was not heard for too long.
    pub fn new(fleet: Fleet, queue_max: usize, timeout: Duration, clock: SharedClock) -> Self {
        let waiting = Arc::new(Semaphore::new(queue_max.min(Semaphore::MAX_PERMITS)));
        Self { fleet, waiting, counts: Arc::default(), queued: Arc::default(), timeout, clock }
    }

    /// Requests for `model` that wait for a place now.
    pub fn waiting_for(&self, model: &str) -> usize {
        self.counts().get(model).copied().unwrap_or(0)
    }

    /// Returns as soon as a request for `model` waits for a place.
    pub async fn somebody_waits_for(&self, model: &str) {
        loop {
            let mut queued = std::pin::pin!(self.queued.notified());
            // Registered before the look, so that whoever comes in between is not missed.
            queued.as_mut().enable();
            if self.waiting_for(model) > 0 {
                return;
            }
            queued.await;
        }
    }

    /// Whether any node that was heard lately, with room or without, could serve this.
    pub fn any_online(&self, need: &Need<'_>) -> bool {
        let now_s = self.clock.now_s();
        self.fleet.nodes().iter().any(|node| capable(node, need, now_s))
    }

    /// A place on a node, at once or after waiting. Errors when no node is online for it, or all stay full.
    pub async fn acquire(&self, need: &Need<'_>) -> Result<Lease, DispatchError> {
        if let Some(lease) = self.choose(need) {
            return Ok(lease);
        }
        if !self.any_online(need) {
            return Err(DispatchError::NoNode);
        }
        let _place = self.waiting.try_acquire().map_err(|_| DispatchError::QueueFull)?;
        let _waiting = Waiting::begin(self, need.model);
        self.wait(need).await
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn wait(&self, need: &Need<'_>) -> Result<Lease, DispatchError> {
        let deadline = Instant::now() + self.timeout;
        loop {
            let mut room = std::pin::pin!(self.fleet.room().notified());
            // Registered before the look, so that room made in between is not missed.
            room.as_mut().enable();
            if let Some(lease) = self.choose(need) {
                return Ok(lease);
            }
            if !self.any_online(need) {
                return Err(DispatchError::NoNode);
            }
            if tokio::time::timeout_at(deadline, room).await.is_err() {
                return Err(DispatchError::QueueTimeout { waited: self.timeout });
            }
        }
    }

    fn choose(&self, need: &Need<'_>) -> Option<Lease> {
        let now_s = self.clock.now_s();
        let nodes: Vec<Arc<Node>> = self.fleet.nodes().into_iter().filter(|node| capable(node, need, now_s)).collect();
        let (fallback, network): (Vec<_>, Vec<_>) = nodes.into_iter().partition(|node| node.facts.fallback);
        better_of_two(network, need.tokens).or_else(|| better_of_two(fallback, need.tokens))
    }
}

/// A request that waits; counted until it is dropped, also by a client that goes away.
struct Waiting<'a> {
    dispatcher: &'a Dispatcher,
    model: &'a str,
}

impl<'a> Waiting<'a> {
    fn begin(dispatcher: &'a Dispatcher, model: &'a str) -> Self {
        *dispatcher.counts().entry(model.to_owned()).or_default() += 1;
        dispatcher.queued.notify_waiters();
        metrics::gauge!("meter_queue_waiting").increment(1.0);
        Self { dispatcher, model }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut counts = self.dispatcher.counts();
        if let Some(count) = counts.get_mut(self.model) {
            *count -= 1;
            if *count == 0 {
                counts.remove(self.model);
            }
        }
        metrics::gauge!("meter_queue_waiting").decrement(1.0);
    }
}

fn capable(node: &Node, need: &Need<'_>, now_s: u64) -> bool {
    let is_able = node.serves(need.model, need.tokens) && !node.is_stale(now_s);
    is_able && !need.tried.contains(&node.facts.node) && (node.facts.fallback || !need.fallback_only)
}

/// Two random ones with room, the one with the shorter backlog first. Others only when both filled up meanwhile.
fn better_of_two(nodes: Vec<Arc<Node>>, tokens: u32) -> Option<Lease> {
    let tokens = u64::from(tokens);
    let with_room: Vec<Arc<Node>> = nodes.into_iter().filter(|node| node.load().active < node.facts.capacity).collect();
    let mut pair: Vec<&Arc<Node>> = with_room.sample(&mut rand::rng(), 2).collect();
    pair.sort_by(|a, b| a.backlog(tokens).total_cmp(&b.backlog(tokens)));
    pair.into_iter().chain(&with_room).find_map(|node| node.reserve(tokens))
}

/// Why a request has no node.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DispatchError {
    /// Nobody serves that model now.
    #[error("no node is online for this model; try again later")]
    NoNode,
    /// All are full, and so is the queue.
    #[error("every node is busy and the queue is full; try again in a few seconds")]
    QueueFull,
    /// All stayed full.
    #[error("every node stayed busy for {} ms; try again in a few seconds", waited.as_millis())]
    QueueTimeout {
        /// How long it waited.
        waited: Duration,
    },
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use daemon::clock::ManualClock;
    use wire::node::NodeStatus;

    use super::super::fleet::STALE_S;
    use super::super::fleet::tests::{facts, join};
    use super::*;

    const NEED: Need<'static> = Need { model: "m", tokens: 10, tried: &[], fallback_only: false };

    fn dispatcher(fleet: &Fleet, queue_max: usize) -> Dispatcher {
        Dispatcher::new(fleet.clone(), queue_max, Duration::from_millis(50), ManualClock::at_s(0))
    }

    #[tokio::test]
    async fn fallback_hardware_serves_only_when_no_network_node_has_room() {
        let fleet = Fleet::default();
        let (_network, _a) = join(&fleet, facts(1, false, 1), 9).unwrap();
        let (_fallback, _b) = join(&fleet, facts(2, true, 1), 9).unwrap();
        let dispatcher = dispatcher(&fleet, 1);
        let first = dispatcher.acquire(&NEED).await.unwrap();
        assert!(!first.node().facts.fallback);
        let second = dispatcher.acquire(&NEED).await.unwrap();
        assert!(second.node().facts.fallback);
    }

    #[tokio::test]
    async fn nobody_online_and_everybody_busy_are_told_apart() {
        let fleet = Fleet::default();
        assert_eq!(dispatcher(&fleet, 1).acquire(&NEED).await.err(), Some(DispatchError::NoNode));
        let (_node, _a) = join(&fleet, facts(1, false, 1), 9).unwrap();
        let _lease = dispatcher(&fleet, 1).acquire(&NEED).await.unwrap();
        assert_eq!(dispatcher(&fleet, 0).acquire(&NEED).await.err(), Some(DispatchError::QueueFull));
        assert!(matches!(dispatcher(&fleet, 1).acquire(&NEED).await.err(), Some(DispatchError::QueueTimeout { .. })));
    }

    #[tokio::test]
    async fn a_place_that_frees_up_goes_to_who_waits() {
        let fleet = Fleet::default();
        let (_node, _a) = join(&fleet, facts(1, false, 1), 9).unwrap();
        let dispatcher = Dispatcher::new(fleet.clone(), 1, Duration::from_secs(10), ManualClock::at_s(0));
        let lease = dispatcher.acquire(&NEED).await.unwrap();
        let waiting = tokio::spawn(async move { dispatcher.acquire(&NEED).await.map(drop) });
        tokio::task::yield_now().await;
        drop(lease);
        waiting.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_node_that_stopped_reporting_gets_nothing_until_it_is_heard_again() {
        let fleet = Fleet::default();
        let clock = ManualClock::at_s(100);
        let dispatcher = Dispatcher::new(fleet.clone(), 1, Duration::from_secs(10), clock.clone());
        let (silent, _a) = join(&fleet, facts(1, false, 9), 9).unwrap();
        let (heard, _b) = join(&fleet, facts(2, false, 9), 9).unwrap();
        let (fallback, _c) = join(&fleet, facts(3, true, 9), 9).unwrap();
        silent.report(NodeStatus::default(), 100);
        clock.advance_ms(STALE_S * 1_000);
        assert!(
            dispatcher.any_online(&Need { tried: &[heard.facts.node, fallback.facts.node], ..NEED }),
            "fifteen seconds are not too long"
        );
        [&heard, &fallback].into_iter().for_each(|node| node.report(NodeStatus::default(), 100 + STALE_S));
        clock.advance_ms(1_000);
        let mut leases = Vec::new();
        for _ in 0..9 {
            leases.push(dispatcher.acquire(&NEED).await.unwrap());
        }
        assert_eq!((silent.load().active, heard.load().active), (0, 9));
        // Full is not silent, and fallback hardware comes before a silent node too.
        assert_eq!(dispatcher.acquire(&NEED).await.unwrap().node().facts.node, fallback.facts.node);
        let only_silent = Need { tried: &[heard.facts.node, fallback.facts.node], ..NEED };
        assert_eq!(dispatcher.acquire(&only_silent).await.err(), Some(DispatchError::NoNode));

        silent.report(NodeStatus::default(), 101 + STALE_S);
        assert_eq!(dispatcher.acquire(&NEED).await.unwrap().node().facts.node, silent.facts.node);
    }

    #[tokio::test]
    async fn a_request_that_waits_is_told_of_to_whoever_makes_room_for_it() {
        let fleet = Fleet::default();
        let (_node, _a) = join(&fleet, facts(1, false, 1), 9).unwrap();
        let dispatcher = Dispatcher::new(fleet.clone(), 1, Duration::from_secs(10), ManualClock::at_s(0));
        let lease = dispatcher.acquire(&NEED).await.unwrap();
        let told = Arc::new(AtomicBool::new(false));
        let (listening, flag) = (dispatcher.clone(), Arc::clone(&told));
        let makes_room = tokio::spawn(async move {
            listening.somebody_waits_for("m").await;
            flag.store(true, Ordering::SeqCst);
            drop(lease);
        });
        tokio::task::yield_now().await;
        assert!(!told.load(Ordering::SeqCst));
        dispatcher.acquire(&NEED).await.unwrap();
        makes_room.await.unwrap();
    }

    #[tokio::test]
    async fn the_node_with_the_shorter_backlog_is_preferred() {
        let fleet = Fleet::default();
        let (slow, _a) = join(&fleet, facts(1, false, 100), 9).unwrap();
        let (fast, _b) = join(&fleet, facts(2, false, 100), 9).unwrap();
        slow.measured(11, 1.0);
        fast.measured(101, 1.0);
        let dispatcher = dispatcher(&fleet, 1);
        let mut leases = Vec::new();
        for _ in 0..22 {
            leases.push(dispatcher.acquire(&NEED).await.unwrap());
        }
        let on_fast = leases.iter().filter(|lease| lease.node().facts.node == fast.facts.node).count();
        assert_eq!(on_fast, 20);
    }

    #[tokio::test]
    async fn a_tried_node_and_one_with_too_small_a_context_are_not_asked() {
        let fleet = Fleet::default();
        let (node, _a) = join(&fleet, facts(1, false, 1), 9).unwrap();
        let dispatcher = dispatcher(&fleet, 1);
        assert!(!dispatcher.any_online(&Need { tried: &[node.facts.node], ..NEED }));
        assert!(!dispatcher.any_online(&Need { tokens: 101, ..NEED }));
        assert!(!dispatcher.any_online(&Need { fallback_only: true, ..NEED }));
        assert!(dispatcher.any_online(&NEED));
    }
}
