//! Uptime as looks find it, over SQLite always and over PostgreSQL when `DATABASE_URL` names one.

use std::sync::Arc;

use daemon::clock::{Clock, ManualClock};
use proptest::prelude::*;
use tokio::sync::mpsc;
use wire::node::{FromMeter, NodeStatus};

use super::share::{DAY_S, Day, WATCH, by_day, shares};
use super::*;
use crate::identity::tests::{Database, databases};
use crate::serving::fleet::tests::{facts, join};
use crate::serving::fleet::{Node, NodeFacts};

/// A minute after midnight, far from any other.
const NOW_S: u64 = 20_000 * DAY_S + 60;

/// A meter's watch over a fleet, with a clock of its own.
struct Watch {
    watcher: Watcher,
    board: Board,
    fleet: Fleet,
    clock: Arc<ManualClock>,
    outboxes: Vec<mpsc::Receiver<FromMeter>>,
}

impl Watch {
    async fn over(database: &Database) -> Self {
        let (fleet, board, clock) = (Fleet::default(), Board::default(), ManualClock::at_s(NOW_S));
        let store = UptimeStore::open(&database.url).await.unwrap();
        let watcher = Watcher::new(store, fleet.clone(), clock.clone(), board.clone());
        Self { watcher, board, fleet, clock, outboxes: Vec::new() }
    }

    /// A node that links now.
    fn link(&mut self, last_byte: u8) -> Arc<Node> {
        let facts = NodeFacts { linked_at: self.clock.now_s(), ..facts(last_byte, false, 1) };
        let (node, outbox) = join(&self.fleet, facts, 9).unwrap();
        self.outboxes.push(outbox);
        node
    }

    /// Time passes, the nodes say that they are there, somebody looks.
    async fn minutes(&mut self, minutes: u64, nodes: &[&Arc<Node>]) {
        for _ in 0..minutes {
            self.clock.advance_ms(60_000);
            nodes.iter().for_each(|node| node.report(NodeStatus::default(), self.clock.now_s()));
            self.watcher.look().await.unwrap();
        }
    }

    fn share(&self, last_byte: u8) -> (u64, u64, Option<u64>) {
        let share = self.board.share(Address::with_last_byte(last_byte)).unwrap();
        (share.online_s, share.watched_s, share.since_s)
    }
}

#[tokio::test]
async fn a_node_is_online_while_it_is_linked_and_heard_of() {
    for database in databases().await {
        let mut watch = Watch::over(&database).await;
        watch.watcher.look().await.unwrap();
        let (steady, silent) = (watch.link(1), watch.link(2));
        watch.minutes(3, &[&steady, &silent]).await;
        watch.minutes(1, &[&steady]).await;
        watch.fleet.leave(&silent);
        watch.minutes(6, &[&steady]).await;

        assert_eq!(watch.share(1), (600, 600, Some(NOW_S)));
        assert_eq!(watch.share(2), (180, 600, Some(NOW_S)), "a node that nobody hears is not online");
        assert_eq!(watch.board.share(Address::with_last_byte(1)).unwrap().percent_down(), Some(100.0));
        assert_eq!(watch.board.share(Address::with_last_byte(2)).unwrap().percent_down(), Some(30.0));
        assert_eq!(watch.board.share(Address::with_last_byte(3)), None);
    }
}

#[tokio::test]
async fn two_meters_over_one_database_count_no_second_twice() {
    for database in databases().await {
        let (mut one, mut other) = (Watch::over(&database).await, Watch::over(&database).await);
        // Half a period apart, so that each look overlaps the other meter's last one.
        other.clock.advance_ms(30_000);
        let (node, again) = (one.link(1), other.link(1));
        for _ in 0..5 {
            one.minutes(1, &[&node]).await;
            other.minutes(1, &[&again]).await;
        }
        one.watcher.look().await.unwrap();
        // The first looks had nothing before them.
        assert_eq!(one.share(1), (240, 240, Some(NOW_S + 60)));
    }
}

#[tokio::test]
async fn what_a_stopped_meter_did_not_see_counts_against_nobody() {
    for database in databases().await {
        let mut before = Watch::over(&database).await;
        let node = before.link(1);
        before.minutes(11, &[&node]).await;
        let mut after = Watch::over(&database).await;
        after.clock.advance_ms(6 * 3_600_000);
        let node = after.link(1);
        after.minutes(11, &[&node]).await;
        assert_eq!(after.share(1), (1_200, 1_200, Some(NOW_S + 60)));
    }
}

#[tokio::test]
async fn a_meter_that_slept_saw_nothing() {
    for database in databases().await {
        let mut watch = Watch::over(&database).await;
        let node = watch.link(1);
        watch.minutes(2, &[&node]).await;
        watch.clock.advance_ms(3_600_000);
        watch.minutes(1, &[&node]).await;
        assert_eq!(watch.share(1), (60 + LOOK_MAX_S, 60 + LOOK_MAX_S, Some(NOW_S + 60)));
    }
}

#[tokio::test]
async fn days_that_are_too_old_are_forgotten() {
    for database in databases().await {
        let mut watch = Watch::over(&database).await;
        let node = watch.link(1);
        watch.minutes(2, &[&node]).await;
        watch.fleet.leave(&node);
        watch.clock.advance_ms(41 * DAY_S * 1_000);
        watch.minutes(1, &[]).await;
        assert_eq!(watch.board.share(Address::with_last_byte(1)), None);
    }
}

fn row(node: Address, day: u64, online_s: u64) -> Day {
    Day { node, day, online_s, first_s: day * DAY_S, counted_to_s: (day + 1) * DAY_S }
}

#[test]
fn only_the_last_thirty_days_count_and_a_longer_history_has_no_beginning() {
    let (node, today) = (Address::repeat_byte(1), 20_000);
    let days = |node, online_s| (today - 35..=today).map(move |day| row(node, day, online_s));
    let rows: Vec<Day> = days(WATCH, DAY_S).chain(days(node, DAY_S / 2)).collect();
    let share = shares(&rows, (today + 1) * DAY_S - 1)[&node];
    assert_eq!(share, Share { online_s: 30 * DAY_S / 2, watched_s: 30 * DAY_S, since_s: None });
    assert_eq!(share.percent_down(), Some(50.0));
    assert_eq!(Share { online_s: 2, watched_s: 3, since_s: None }.percent_down(), Some(66.66), "rounded down");
    assert_eq!(Share { online_s: 0, watched_s: 0, since_s: None }.percent_down(), None);
}

proptest! {
    #[test]
    fn days_make_up_the_whole_span(from_s in 0u64..10 * DAY_S, length_s in 0u64..3 * DAY_S) {
        let to_s = from_s + length_s;
        let days = by_day(from_s, to_s);
        prop_assert_eq!(days.iter().map(|(_, from_s, to_s)| to_s - from_s).sum::<u64>(), length_s);
        prop_assert_eq!((days[0].1, days[days.len() - 1].2), (from_s, to_s));
        for (day, from_s, to_s) in days {
            prop_assert!(day * DAY_S <= from_s && from_s <= to_s && to_s <= (day + 1) * DAY_S);
        }
    }
}
