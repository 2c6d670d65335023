//! Operator's node: model formats, back ends, the engine that serves several requests at once, proofs of what it computed,
//! the link to the meters, and the operator's command line.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod config;
pub mod link;
