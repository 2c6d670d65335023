//! What the end-to-end tests share: a network of their own, made by the same code as `cargo xtask up`, and questions to it.
//!
//! `DATABASE_URL` set: the meter's ledger is a new database on that PostgreSQL server; unset: SQLite. Everything is bounded
//! by deadlines and on loopback. A failed test leaves its folder with logs and says where it is.

mod books; // the same money, on chain and in the ledger
mod database; // a database of its own
mod prompt; // asking, and what comes back
mod scene; // a network for one test

pub use books::{Books, receipts};
pub use prompt::{Answer, ask, ask_streaming, question};
pub use scene::{Scene, await_that};

/// Longest wait for anything in a test; the machine may be busy.
pub const LIMIT: std::time::Duration = std::time::Duration::from_secs(120);
