//! What can go wrong with the journal.

use alloy::primitives::Address;
use thiserror::Error;

/// Why the journal can't be used. Nothing was sent that it does not know.
#[derive(Debug, Error)]
pub enum JournalError {
    /// The file can't be opened.
    #[error("journal {}: {error}", path.display())]
    Open {
        /// Which file.
        path: std::path::PathBuf,
        /// What SQLite said.
        error: sqlx::Error,
    },
    /// Another process writes it.
    #[error("journal lock {}: {error}; does another keeper use this journal?", path.display())]
    Lock {
        /// Which lock file.
        path: std::path::PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The schema can't be brought up to date.
    #[error("journal schema: {0}")]
    Migrate(sqlx::migrate::MigrateError),
    /// Made for another chain or contract.
    #[error("the journal is not of chain {chain_id} and settlement contract {settlement}; name another file in `journal`")]
    OtherDeployment {
        /// What the deployment file says.
        chain_id: u64,
        /// What the deployment file says.
        settlement: Address,
    },
    /// SQLite failed.
    #[error("journal: {0}")]
    Sql(#[from] sqlx::Error),
    /// An arrow that does not exist.
    #[error("batch {seq} can't go from {from} to {to}")]
    NoArrow {
        /// Which batch.
        seq: u64,
        /// Where it is.
        from: &'static str,
        /// Where it should go.
        to: &'static str,
    },
    /// Somebody else moved the batch.
    #[error("batch {seq} is not at version {version} any more; the next round reads it again")]
    Lost {
        /// Which batch.
        seq: u64,
        /// What was compared.
        version: i64,
    },
    /// A value that SQLite can't hold.
    #[error("{value} exceeds 63 bits")]
    TooLarge {
        /// Which value.
        value: u64,
    },
    /// A value that was never written so.
    #[error("the journal is damaged at {column}; restore the file, or start a new one: the chain and the meter know the rest")]
    Damaged {
        /// Where.
        column: &'static str,
    },
    /// A value that does not serialize.
    #[error("journal: {0}")]
    Encode(serde_json::Error),
}
