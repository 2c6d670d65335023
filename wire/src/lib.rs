//! What crosses a process boundary, on a socket or in a transaction, and nothing that doesn't.
//!
//! `docs/protocol.md` is the normative text; each module names its section.
//!
//! Invariants of absence: no I/O, no async, no clock, no randomness. `meter`, `keeper` and `gpu-node` all build on this
//! crate and never on each other.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod amounts; // section 1: credits, rates, costs, ids
pub mod contracts; // section 3: bindings of the Solidity interfaces
pub mod deployment;
pub mod merkle; // section 4: tree of receipts
pub mod node; // section 6: messages between meter and node
pub mod params; // section 6.3: sampling parameters and their canonical bytes
pub mod proof; // section 5: proof windows under a receipt's root
pub mod receipt; // section 5: the service receipt and its hashes
pub mod rows; // section 3.1: packed settlement rows
pub mod settlement; // section 9: feed and batch, between meter and keeper
pub mod typed; // section 2: EIP-712 types, signing and recovering // section 10: the deployment file

pub use alloy::primitives::{Address, B256, Bytes, Signature, U256, keccak256};
pub use amounts::{AccountId, AmountError, Credits, ModelRate, OperatorId, WEI_PER_CREDIT, fee_down, message_cost_up};
