//! How much of the last 30 days each node was online, as the coordinator saw it: the only uptime that a node can't declare.
//!
//! One idempotent look, once a minute: who is linked and was heard of lately is noted for the time since the last look. The time in which
//! no meter watched counts for nobody and against nobody.

mod share; // rows → shares, pure
mod store; // days at rest

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use daemon::CancellationToken;
use daemon::clock::SharedClock;
use thiserror::Error;
use tokio::time::{MissedTickBehavior, interval};
use wire::Address;

use crate::database::DatabaseError;
use crate::serving::fleet::Fleet;

pub use share::Share;
pub use store::UptimeStore;

/// Between two looks, seconds: what a share may be wrong by each time a node comes or goes.
pub const PERIOD_S: u64 = 60;
/// Longest time that one look may note, seconds: a meter that slept saw nothing.
const LOOK_MAX_S: u64 = 2 * PERIOD_S;

/// The shares as of the last look, for whoever shows them. Clones share everything.
#[derive(Clone, Default)]
pub struct Board(Arc<RwLock<HashMap<Address, Share>>>);

impl Board {
    /// The share of a node; `None` before the first look that saw it.
    pub fn share(&self, node: Address) -> Option<Share> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&node).copied()
    }
}

/// Looks at the fleet and keeps what it saw.
pub struct Watcher {
    store: UptimeStore,
    fleet: Fleet,
    clock: SharedClock,
    board: Board,
    looked_at_s: Option<u64>,
}

impl Watcher {
    /// A watcher that has seen nothing yet.
    pub fn new(store: UptimeStore, fleet: Fleet, clock: SharedClock, board: Board) -> Self {
        Self { store, fleet, clock, board, looked_at_s: None }
    }

    /// Looks once. Errors when the database fails; the next look then notes that time too, up to a bound.
    pub async fn look(&mut self) -> Result<(), UptimeError> {
        let now_s = self.clock.now_s();
        let from_s = self.looked_at_s.map_or(now_s, |at_s| at_s.clamp(now_s.saturating_sub(LOOK_MAX_S), now_s));

        let nodes = self.fleet.nodes();
        let online = nodes.iter().filter(|node| !node.is_stale(now_s));
        let online = online.map(|node| (node.facts.node, node.facts.linked_at.clamp(from_s, now_s)));
        let seen: Vec<_> = std::iter::once((share::WATCH, from_s)).chain(online).collect();

        self.store.note(&seen, now_s).await?;
        let rows = self.store.rows().await?;
        *self.board.0.write().unwrap_or_else(PoisonError::into_inner) = share::shares(&rows, now_s);
        self.looked_at_s = Some(now_s);
        Ok(())
    }

    /// Looks each period until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut looks = interval(Duration::from_secs(PERIOD_S));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = looks.tick() => {}
                () = stop.cancelled() => return,
            }
            if let Err(error) = self.look().await {
                tracing::warn!(%error, "uptime of nodes was not noted");
            }
        }
    }
}

/// Why uptime could not be kept.
#[derive(Debug, Error)]
pub enum UptimeError {
    /// At the start.
    #[error(transparent)]
    Open(#[from] DatabaseError),
    /// Later.
    #[error("the days of nodes could not be read or written: {0}")]
    Store(#[from] sqlx::Error),
    /// A row is not of the form that is written.
    #[error("table node_uptime holds what the meter never writes; restore it from a backup")]
    Row,
}
