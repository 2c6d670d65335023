//! The settlement daemon: one idempotent function, run every period, that compares the chain, the journal and the meter's
//! feed, and does the one next thing (`docs/protocol.md`, section 9).
//!
//! Reading order: [`reconcile`] (the loop) → [`propose`] ([`feed`], [`verify`], [`batch`]) → [`settle`] ([`submit`],
//! [`attempt`]) → `errands`; [`journal`] remembers, [`chain`] answers.
//!
//! Why nothing is paid twice: rows carry cumulative amounts and the contract takes each sequence number once, so a second
//! transaction moves nothing. Why nothing is lost: every step is written down before it is acted on, and can be repeated.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod attempt;
pub mod batch;
pub mod chain;
pub mod config;
mod errands;
pub mod feed;
pub mod journal;
pub mod propose;
pub mod reconcile;
pub mod report;
pub mod settle;
pub mod submit;
pub mod verify;

use std::time::Duration;

use alloy::signers::local::PrivateKeySigner;
use anyhow::Context;

use crate::chain::Chain;
use crate::config::Config;
use crate::feed::Meter;
use crate::journal::Journal;
use crate::reconcile::Keeper;
use crate::submit::Sender;

/// Opens everything that the config names and puts the keeper together.
pub async fn open(config: Config, signer: PrivateKeySigner, journal: Journal) -> anyhow::Result<Keeper> {
    let deployment = config.deployment()?;
    let timeout = Duration::from_millis(config.chain.timeout_ms);
    let chain = Chain::new(config.chain.rpc_url.clone(), timeout, deployment.clone())?;
    let timeout = Duration::from_millis(config.meter_timeout_ms);
    let meter = Meter::new(config.meter_url.clone(), timeout, signer.clone(), deployment.settlement_domain()).context("meter client")?;
    let sender = Sender::new(chain.clone(), journal.clone(), signer, config.gas);
    Ok(Keeper::new(config, chain, meter, journal, sender))
}
