//! The coordinator: mirrors the chain, holds and captures credits, sends requests to nodes, answers clients.
//!
//! In reading order: `config`; `chain` → `ledger` → `identity` → `serving` → `uptime` → `api`. No import runs upward.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod api; // HTTP, and the only place that knows it
pub mod chain; // the mirror
pub mod config; // one file, every limit
mod database; // SQLite or PostgreSQL, for what is no money
pub mod identity; // who calls: wallets, sessions, API keys
pub mod ledger; // every movement of money
pub mod serving; // hold → dispatch → stream → receipt
pub mod uptime; // how long nodes were online, as seen from here
