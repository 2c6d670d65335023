//! The meter's database, for whoever keeps more than money in it: opened by its URL, brought up to date, a few pooled connections.

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use thiserror::Error;

const CONNECTIONS_MAX: u32 = 4;
/// Longest wait for SQLite's lock, or for a connection to PostgreSQL.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Connections to one of the two.
pub(crate) enum Database {
    /// Write-ahead log, durable commits; writers wait their turn at the file's lock.
    Sqlite(SqlitePool),
    /// At its default isolation.
    Postgres(PgPool),
}

impl Database {
    /// Opens `sqlite:…` or `postgres:…`. Errors on another scheme, an unreachable database, or a migration that does not fit.
    pub(crate) async fn open(url: &str) -> Result<Self, DatabaseError> {
        let scheme = url.split(':').next().unwrap_or_default();
        match scheme {
            "sqlite" => {
                let options = SqliteConnectOptions::from_str(url)?
                    .create_if_missing(true)
                    .journal_mode(SqliteJournalMode::Wal)
                    .synchronous(SqliteSynchronous::Full)
                    .busy_timeout(WAIT_MAX);
                let pool = SqlitePoolOptions::new().max_connections(CONNECTIONS_MAX).connect_with(options).await?;
                sqlx::migrate!("migrations/sqlite").run(&pool).await?;
                Ok(Self::Sqlite(pool))
            }
            "postgres" | "postgresql" => {
                let pool = PgPoolOptions::new().max_connections(CONNECTIONS_MAX).acquire_timeout(WAIT_MAX).connect(url).await?;
                sqlx::migrate!("migrations/postgres").run(&pool).await?;
                Ok(Self::Postgres(pool))
            }
            _ => Err(DatabaseError::Scheme { scheme: scheme.to_owned() }),
        }
    }
}

/// Why the database could not be opened.
#[derive(Debug, Error)]
pub enum DatabaseError {
    /// The URL names no database that the meter speaks.
    #[error("the database URL starts with `{scheme}`; use sqlite: or postgres:")]
    Scheme {
        /// What stands before the colon.
        scheme: String,
    },
    /// The tables could not be brought up to date.
    #[error("the tables could not be brought up to date: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// It refused or was not reached.
    #[error("the database could not be opened: {0}")]
    Connect(#[from] sqlx::Error),
}
