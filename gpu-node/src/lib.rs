//! Operator's node: model formats, back ends, the engine that serves several requests at once, proofs of what it computed,
//! the links to the meters, and the operator's command line.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod backend;
pub mod config;
pub mod engine;
pub mod link;
pub mod model;
pub mod operator;
pub mod proof;
