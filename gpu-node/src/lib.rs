//! Operator's node: model formats, back ends, the engine that serves several requests at once, and proofs of what it computed.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod backend;
pub mod engine;
pub mod model;
pub mod operator;
pub mod proof;
