//! The coordinator.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod chain;
pub mod config;
pub mod ledger;
pub mod serving;
