//! Two stores with one shape: rows travel as JSON, so a store is its list of statements and how it connects. Deliberately absent:
//! decisions. What is read goes to [`crate::ledger::decision`], what it changed is written, in one transaction.

mod postgres;
mod sqlite;
mod statements;
mod transaction; // loads what operations touch, writes what they changed

use serde::de::DeserializeOwned;
use sqlx::migrate::Migrator;
use sqlx::postgres::PgPoolOptions;
use sqlx::sqlite::SqlitePoolOptions;
use sqlx::{AssertSqlSafe, PgConnection, PgPool, Row, SqliteConnection, SqlitePool};

pub(crate) use transaction::Touched;

pub(crate) use statements::Statements;

use super::error::LedgerError;

/// Migrations of SQLite and of PostgreSQL; same tables, same numbers.
static SQLITE_MIGRATIONS: Migrator = sqlx::migrate!("./migrations/sqlite");
static POSTGRES_MIGRATIONS: Migrator = sqlx::migrate!("./migrations/postgres");

/// Where to find the database.
#[derive(Clone, Debug)]
pub(crate) enum Store {
    /// A file of this machine.
    Sqlite(Box<sqlx::sqlite::SqliteConnectOptions>),
    /// A server.
    Postgres(Box<sqlx::postgres::PgConnectOptions>),
}

impl Store {
    /// Reads `sqlite://PATH` or `postgres://…`. Errors on anything else.
    pub(crate) fn at(url: &str) -> Result<Self, LedgerError> {
        let unknown = || LedgerError::Url { url: url.split('@').next_back().unwrap_or_default().to_owned() };
        if let Some(path) = url.strip_prefix("sqlite://") {
            return Ok(Self::Sqlite(Box::new(sqlite::options(path))));
        }
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            return Ok(Self::Postgres(Box::new(url.parse().map_err(|_| unknown())?)));
        }
        Err(unknown())
    }

    /// Brings the tables to this version.
    pub(crate) async fn migrate(&self) -> Result<(), LedgerError> {
        // A pool of one: migrations on a bare connection make a future that can't move between threads.
        let migrated = match self {
            Self::Sqlite(options) => {
                let pool = SqlitePoolOptions::new().max_connections(1).connect_with((**options).clone()).await?;
                let migrated = SQLITE_MIGRATIONS.run(&pool).await;
                pool.close().await;
                migrated
            }
            Self::Postgres(options) => {
                let pool = PgPoolOptions::new().max_connections(1).connect_with((**options).clone()).await?;
                let migrated = POSTGRES_MIGRATIONS.run(&pool).await;
                pool.close().await;
                migrated
            }
        };
        migrated.map_err(|error| LedgerError::Database { reason: format!("migration: {error}") })
    }

    /// One connection, for the writer.
    pub(crate) async fn connect(&self) -> Result<Connection, LedgerError> {
        use sqlx::ConnectOptions;
        Ok(match self {
            Self::Sqlite(options) => Connection::Sqlite(options.connect().await?),
            Self::Postgres(options) => Connection::Postgres(options.connect().await?),
        })
    }

    /// Connections for reading, at most `connections`; opened when first needed.
    pub(crate) fn readers(&self, connections: u32) -> Readers {
        match self {
            Self::Sqlite(options) => Readers::Sqlite(sqlite::readers(options, connections)),
            Self::Postgres(options) => Readers::Postgres(postgres::readers(options, connections)),
        }
    }
}

/// The writer's connection.
#[derive(Debug)]
pub(crate) enum Connection {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

macro_rules! each {
    ($self:expr, $connection:ident => $body:expr) => {
        match $self {
            Connection::Sqlite($connection) => $body,
            Connection::Postgres($connection) => $body,
        }
    };
}

impl Connection {
    /// This database's words.
    pub(crate) fn statements(&self) -> &'static Statements {
        match self {
            Self::Sqlite(_) => &sqlite::STATEMENTS,
            Self::Postgres(_) => &postgres::STATEMENTS,
        }
    }

    /// Opens a transaction that will write.
    pub(crate) async fn begin(&mut self) -> Result<(), LedgerError> {
        match self {
            Self::Sqlite(connection) => sqlx::query("BEGIN IMMEDIATE").execute(connection).await.map(drop)?,
            Self::Postgres(connection) => sqlx::query("BEGIN").execute(connection).await.map(drop)?,
        }
        Ok(())
    }

    /// Opens a transaction that sees one moment and writes nothing.
    pub(crate) async fn begin_snapshot(&mut self) -> Result<(), LedgerError> {
        match self {
            Self::Sqlite(connection) => sqlx::query("BEGIN").execute(connection).await.map(drop)?,
            Self::Postgres(connection) => {
                sqlx::query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").execute(connection).await.map(drop)?;
            }
        }
        Ok(())
    }

    /// Makes the transaction durable. After an error its outcome is unknown.
    pub(crate) async fn commit(&mut self) -> Result<(), LedgerError> {
        each!(self, connection => sqlx::query("COMMIT").execute(connection).await.map(drop))?;
        Ok(())
    }

    /// Drops the transaction.
    pub(crate) async fn rollback(&mut self) -> Result<(), LedgerError> {
        each!(self, connection => sqlx::query("ROLLBACK").execute(connection).await.map(drop))?;
        Ok(())
    }

    /// Runs a statement; how many rows it changed.
    pub(crate) async fn execute(&mut self, sql: &'static str, parameters: &[&str]) -> Result<u64, LedgerError> {
        Ok(each!(self, connection => {
            let query = parameters.iter().fold(sqlx::query(sql), |query, parameter| query.bind(*parameter));
            query.execute(connection).await?.rows_affected()
        }))
    }

    /// Reads rows that are one JSON text each.
    pub(crate) async fn rows<T: DeserializeOwned>(&mut self, sql: &'static str, parameters: &[&str]) -> Result<Vec<T>, LedgerError> {
        from_json(self.texts(sql, parameters).await?)
    }

    /// Reads rows that are one text each.
    pub(crate) async fn texts(&mut self, sql: &'static str, parameters: &[&str]) -> Result<Vec<String>, LedgerError> {
        Ok(each!(self, connection => {
            let query = parameters.iter().fold(sqlx::query_scalar(sql), |query, parameter| query.bind(*parameter));
            query.fetch_all(connection).await?
        }))
    }

    /// Reads rows of two texts and two integers.
    pub(crate) async fn differences(&mut self, sql: String) -> Result<Vec<(String, i64, i64)>, LedgerError> {
        // The text is ours: constants joined at run time.
        Ok(each!(self, connection => {
            let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(connection).await?;
            rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))).collect::<Result<_, sqlx::Error>>()?
        }))
    }
}

/// Connections for reading.
#[derive(Clone, Debug)]
pub(crate) enum Readers {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

impl Readers {
    /// This database's words.
    pub(crate) fn statements(&self) -> &'static Statements {
        match self {
            Self::Sqlite(_) => &sqlite::STATEMENTS,
            Self::Postgres(_) => &postgres::STATEMENTS,
        }
    }

    /// Reads rows that are one JSON text each.
    pub(crate) async fn rows<T: DeserializeOwned>(&self, sql: &'static str, parameters: &[&str]) -> Result<Vec<T>, LedgerError> {
        from_json(self.texts(sql, parameters).await?)
    }

    /// Reads at most one row.
    pub(crate) async fn row<T: DeserializeOwned>(&self, sql: &'static str, parameters: &[&str]) -> Result<Option<T>, LedgerError> {
        Ok(self.rows(sql, parameters).await?.pop())
    }

    /// Reads rows that are one text each.
    pub(crate) async fn texts(&self, sql: &'static str, parameters: &[&str]) -> Result<Vec<String>, LedgerError> {
        Ok(match self {
            Self::Sqlite(pool) => {
                let query = parameters.iter().fold(sqlx::query_scalar(sql), |query, parameter| query.bind(*parameter));
                query.fetch_all(pool).await?
            }
            Self::Postgres(pool) => {
                let query = parameters.iter().fold(sqlx::query_scalar(sql), |query, parameter| query.bind(*parameter));
                query.fetch_all(pool).await?
            }
        })
    }

    /// Closes them all.
    pub(crate) async fn close(&self) {
        match self {
            Self::Sqlite(pool) => pool.close().await,
            Self::Postgres(pool) => pool.close().await,
        }
    }
}

fn from_json<T: DeserializeOwned>(texts: Vec<String>) -> Result<Vec<T>, LedgerError> {
    let parsed = texts.iter().map(|text| serde_json::from_str(text));
    parsed.collect::<Result<_, _>>().map_err(|error| LedgerError::Row { table: "rows", reason: error.to_string() })
}

impl From<sqlx::Error> for LedgerError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database { reason: error.to_string() }
    }
}
