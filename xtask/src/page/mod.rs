//! The page in a real browser, against a real network: `cargo xtask test --only page`.

pub mod browser; // which Chromium
pub mod build; // `cargo xtask web`
pub mod network; // what the specs run against
pub mod specs; // the specs, one after the other
