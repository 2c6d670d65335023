//! A database of its own for each network on the PostgreSQL server of `DATABASE_URL`.

use anyhow::{Context, Result};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use xtask::network::plan::Database;

/// A PostgreSQL database that is dropped with this value, or nothing for SQLite.
#[derive(Debug)]
pub(crate) struct TestDatabase {
    server: Option<String>,
    name: String,
}

impl TestDatabase {
    pub(crate) fn create(name: &str) -> Result<Self> {
        let server = std::env::var("DATABASE_URL").ok().filter(|url| url.starts_with("postgres"));
        let database = Self { server, name: format!("e2e_{name}") };
        database.execute("CREATE DATABASE").context("cannot create a database on the server of DATABASE_URL")?;
        Ok(database)
    }

    /// For the plan.
    pub(crate) fn plan(&self) -> Result<Database> {
        let Some(server) = &self.server else { return Ok(Database::Sqlite) };
        let (before, query) = server.split_once('?').map_or((server.as_str(), String::new()), |(url, query)| (url, format!("?{query}")));
        let after_scheme = before.find("://").map_or(0, |at| at + 3);
        let path = before.get(after_scheme..).and_then(|rest| rest.find('/')).map_or(before.len(), |at| after_scheme + at);
        let base = before.get(..path).context("DATABASE_URL is no URL")?;
        Ok(Database::Postgres { url: format!("{base}/{}{query}", self.name) })
    }

    fn execute(&self, verb: &str) -> Result<()> {
        let Some(server) = &self.server else { return Ok(()) };
        let force = if verb.starts_with("DROP") { " WITH (FORCE)" } else { "" };
        // The name is ours: letters, digits and underscores.
        let statement = format!("{verb} {}{force}", self.name);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut connection = PgConnection::connect(server).await?;
            sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await?;
            connection.close().await
        })?;
        Ok(())
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        if let Err(error) = self.execute("DROP DATABASE IF EXISTS") {
            eprintln!("database {} stays behind: {error:#}", self.name);
        }
    }
}
