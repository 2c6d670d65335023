//! The developer's and the newcomer's one door: `cargo xtask up | test | bench | kernels`, and what `test/e2e` brings networks up with.
//!
//! Invariants of absence: nothing here signs, counts or settles. The network is made of the same processes, configs and
//! keystores as in production; this crate only starts them, in order, and plays the depositor.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod bench; // `cargo xtask bench`
pub mod deep; // `cargo xtask deep`
pub mod mutate; // `cargo xtask mutate`
pub mod prove; // `cargo xtask prove`
pub mod suite; // `cargo xtask test`
pub mod up; // `cargo xtask up`

pub mod page; // built, and tried in a browser

pub mod once; // one prompt through the eight rooms

pub mod network; // processes, keys, configs, depositors

pub mod build; // what cargo compiled
pub mod kernels; // `cargo xtask kernels`
pub mod model; // SmolLM2 as a Hugging Face folder
pub mod tools; // forge, anvil, cast
pub mod workspace; // where things lie

pub mod chain; // calls, transactions, signatures
pub mod command; // other programs
pub mod http; // loopback HTTP
pub mod secret; // random secrets and their files
pub mod stop; // Ctrl-C, and waiting that heeds it
