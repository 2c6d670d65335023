//! The serving rooms from outside: real HTTP, real WebSockets, the real ledger on SQLite; only the nodes are scripted.

#![allow(clippy::unwrap_used, clippy::expect_used)]
#![allow(unreachable_pub, reason = "one binary: nothing in it is reachable from outside")]

mod admission; // what is refused before anything is dispatched
mod answers; // what is served and charged
mod audits; // what is computed again, who is caught, who is not
mod benchmarks; // how fast idle nodes compute
mod demo; // the answer that the operator publishes
mod http; // the accept loop and the other resources
mod jobs;
mod keys; // what an API key may ask for // answers that belong to the meter
mod links; // who may link, and what late receipts become
mod network; // a meter with its ledger and payers
mod node; // a scripted node
mod page; // what the page reads: usage, the chain
mod passkeys;
mod sampling; // what shapes an answer // signing up and in without a wallet
