//! Days of a node and of the watch → its share of the last 30 days. Pure.

use std::collections::{BTreeMap, HashMap};

use wire::Address;

/// Stands for the watch itself among the nodes; no key has this address.
pub(super) const WATCH: Address = Address::ZERO;
/// Days that a share is of, today among them.
const HISTORY_DAYS: u64 = 30;
/// Days that are kept: a few more, so that it is known whether a history is whole.
pub(super) const KEPT_DAYS: u64 = HISTORY_DAYS + 10;
pub(super) const DAY_S: u64 = 86_400;

/// One node on one day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Day {
    pub(super) node: Address,
    /// Days since the epoch.
    pub(super) day: u64,
    pub(super) online_s: u64,
    /// Seconds since the epoch, as the next one.
    pub(super) first_s: u64,
    pub(super) counted_to_s: u64,
}

/// How much of the time that was watched a node was online.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Seconds online, at most `watched_s`.
    pub online_s: u64,
    /// Seconds in which a meter watched, of the last 30 days or since the node is known.
    pub watched_s: u64,
    /// Since when the node is known, seconds since the epoch, where that is less than 30 days ago.
    pub since_s: Option<u64>,
}

impl Share {
    /// Percent with two digits, rounded down, so that 100 means always; `None` before any time was watched.
    pub fn percent_down(&self) -> Option<f64> {
        let hundredths = (self.online_s * 10_000).checked_div(self.watched_s)?;
        Some(hundredths as f64 / 100.0)
    }
}

/// `[from_s, to_s]` day by day: `(day, from, to)`. One of no length is a sight that counts nothing yet.
pub(super) fn by_day(from_s: u64, to_s: u64) -> Vec<(u64, u64, u64)> {
    let days = from_s / DAY_S..=to_s / DAY_S;
    days.map(|day| (day, from_s.max(day * DAY_S), to_s.min((day + 1) * DAY_S))).collect()
}

/// The share of every node of which there are rows.
pub(super) fn shares(rows: &[Day], now_s: u64) -> HashMap<Address, Share> {
    let first_day = (now_s / DAY_S).saturating_sub(HISTORY_DAYS - 1);
    let watch: BTreeMap<u64, &Day> = rows.iter().filter(|row| row.node == WATCH).map(|row| (row.day, row)).collect();
    let mut of_node: HashMap<Address, Vec<&Day>> = HashMap::new();
    for row in rows.iter().filter(|row| row.node != WATCH) {
        of_node.entry(row.node).or_default().push(row);
    }
    let of_node = of_node.into_iter();
    of_node.map(|(node, rows)| (node, share(&rows, &watch, first_day))).collect()
}

fn share(rows: &[&Day], watch: &BTreeMap<u64, &Day>, first_day: u64) -> Share {
    let known_s = rows.iter().map(|row| row.first_s).min().unwrap_or_default();
    let since_s = (known_s > first_day * DAY_S).then_some(known_s);
    let from_s = known_s.max(first_day * DAY_S);
    let online_s: u64 = rows.iter().filter(|row| row.day >= first_day).map(|row| row.online_s).sum();
    // Of the day on which the node came, only what was watched after that.
    let watched = watch.range(from_s / DAY_S..).map(|(_, row)| row.online_s.min(row.counted_to_s.saturating_sub(from_s)));
    let watched_s = watched.sum();
    Share { online_s: online_s.min(watched_s), watched_s, since_s }
}
