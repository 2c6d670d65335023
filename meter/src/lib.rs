//! The coordinator.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod chain;
pub mod identity; // who calls: wallets, sessions, API keys
pub mod ledger;
