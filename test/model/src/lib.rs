//! The contracts' rules once more, in plain Rust: what `docs/protocol.md` says, written without looking at Solidity.
//!
//! A stream is random operations, each with whether it must succeed and with the whole state after it. `test/Model.t.sol`
//! does the same to the contracts and compares after each operation.

pub mod ledger; // the rules
pub mod stream; // random operations, and the bytes that forge reads
