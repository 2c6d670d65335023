//! The keeper against the real contracts on a real chain (anvil), a scripted meter, and a JSON-RPC proxy that fails on demand.
//!
//! Needs `npm ci --ignore-scripts` and `forge build` in the repository's root; loopback only.

#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub, missing_docs)]

mod chaos;
mod cli;
mod crash;
mod feed;
mod gas;
mod journal;
mod meter;
mod network;
mod proxy;
mod races;
