//! The node from outside: a scripted meter on loopback, a scripted engine behind.

#![allow(clippy::unwrap_used, clippy::expect_used)]
#![allow(unreachable_pub, reason = "one binary; `pub` says what the rig offers")]

mod hostile;
mod jobs;
mod links;
mod outbox;
mod process;
mod proofs;
mod receipts;
mod rig;
mod terms;
mod tiny;
mod verify;
#[path = "../common/weights.rs"]
mod weights;
