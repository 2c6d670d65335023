//! `node_uptime` at rest. One text for both databases; a look is one transaction.

use wire::Address;

use super::UptimeError;
use super::share::{DAY_S, Day, KEPT_DAYS, by_day};
use crate::database::Database;

/// Adds what is beyond where the day is counted to: a look that comes twice, or from two meters, counts once.
const NOTE: &str = "INSERT INTO node_uptime (node, day, online_s, first_s, counted_to_s) VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (node, day) DO UPDATE SET
        online_s = node_uptime.online_s + excluded.counted_to_s
            - CASE WHEN node_uptime.counted_to_s > excluded.first_s THEN node_uptime.counted_to_s ELSE excluded.first_s END,
        counted_to_s = excluded.counted_to_s
    WHERE excluded.counted_to_s > node_uptime.counted_to_s";
const FORGET: &str = "DELETE FROM node_uptime WHERE day < $1";
const READ: &str = "SELECT node, day, online_s, first_s, counted_to_s FROM node_uptime";

/// Days of nodes in SQLite or PostgreSQL.
pub struct UptimeStore(Database);

type Row = (Vec<u8>, i64, i64, i64, i64);

/// The same statements to whichever database.
macro_rules! each {
    ($database:expr, $pool:ident => $body:expr) => {
        match $database {
            Database::Sqlite($pool) => $body,
            Database::Postgres($pool) => $body,
        }
    };
}

impl UptimeStore {
    /// Opens the database at `url` and brings its tables up to date.
    pub async fn open(url: &str) -> Result<Self, UptimeError> {
        Ok(Self(Database::open(url).await?))
    }

    /// Notes that each of `seen` was online from its second up to `to_s`, and forgets days that are too old.
    pub(super) async fn note(&self, seen: &[(Address, u64)], to_s: u64) -> Result<(), UptimeError> {
        let forgotten = stored((to_s / DAY_S).saturating_sub(KEPT_DAYS));
        each!(&self.0, pool => {
            let mut transaction = pool.begin().await?;
            for (node, from_s) in seen {
                for (day, from_s, to_s) in by_day(*from_s, to_s) {
                    let note = sqlx::query(NOTE).bind(node.as_slice()).bind(stored(day)).bind(stored(to_s - from_s));
                    note.bind(stored(from_s)).bind(stored(to_s)).execute(&mut *transaction).await?;
                }
            }
            sqlx::query(FORGET).bind(forgotten).execute(&mut *transaction).await?;
            transaction.commit().await?;
        });
        Ok(())
    }

    /// Every day that is kept.
    pub(super) async fn rows(&self) -> Result<Vec<Day>, UptimeError> {
        let rows: Vec<Row> = each!(&self.0, pool => sqlx::query_as(READ).fetch_all(pool).await?);
        rows.iter().map(day).collect()
    }
}

fn day((node, day, online_s, first_s, counted_to_s): &Row) -> Result<Day, UptimeError> {
    let seconds = |value: &i64| u64::try_from(*value).map_err(|_| UptimeError::Row);
    Ok(Day {
        node: Address::try_from(&node[..]).map_err(|_| UptimeError::Row)?,
        day: seconds(day)?,
        online_s: seconds(online_s)?,
        first_s: seconds(first_s)?,
        counted_to_s: seconds(counted_to_s)?,
    })
}

/// As both databases store it; a time past `i64` is the end of time.
fn stored(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
