//! The same money, counted on chain, in the ledger and in the receipts.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xtask::command;
use xtask::network::Network;
use xtask::network::depositor::Depositor;
use xtask::once::claimable;

const AUDIT_LIMIT: Duration = Duration::from_secs(60);

/// Sums over some depositors and all operators, in credits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Books {
    /// Debited from these depositors on chain.
    pub debited: u64,
    /// Amounts of all their receipts, whatever their state.
    pub charged: u64,
    /// Of those, the settled ones.
    pub settled: u64,
    /// Available, in the ledger.
    pub available: u64,
    /// Held, in the ledger.
    pub held: u64,
    /// Deposited less withdrawn, on chain.
    pub deposited: u64,
    /// Owed to all operators on chain.
    pub claimable: u64,
    /// The project's, on chain.
    pub fees: u64,
}

impl Books {
    /// Reads everything. Errors when the meter's own audit finds the ledger unbalanced.
    pub fn read(network: &Network, depositors: &[Depositor]) -> Result<Self> {
        audit(network)?;
        let (chain, deployment) = (&network.chain, &network.deployment);
        let fees = chain.call_number(&deployment.credits, "fees()(uint64)", &[])?;
        let owed = network.operators.iter().map(|operator| claimable(network, operator)).sum::<Result<u128>>()?;
        let mut books = Self {
            debited: 0,
            charged: 0,
            settled: 0,
            available: 0,
            held: 0,
            deposited: 0,
            claimable: u64::try_from(owed)?,
            fees: u64::try_from(fees)?,
        };
        for depositor in depositors {
            let account = depositor.account(chain, deployment)?;
            let api = depositor.api(&network.meter())?;
            let credits = api.get("/v1/credits")?.ok("asking for credits")?;
            let amount = |name: &str| credits[name].as_u64().with_context(|| format!("/v1/credits has no `{name}`"));
            books.debited += account.settled;
            books.deposited += account.net_deposited;
            books.available += amount("available_credits")?;
            books.held += amount("held_credits")?;
            for receipt in receipts(network, depositor)? {
                let cost = receipt["cost_credits"].as_u64().context("a receipt has no cost")?;
                books.charged += cost;
                books.settled += if receipt["state"] == "settled" { cost } else { 0 };
            }
        }
        Ok(books)
    }

    /// Errors unless everything charged is settled and both sides agree to the credit.
    pub fn balance(&self) -> Result<()> {
        ensure!(self.held == 0, "{} credits are still held: {self:?}", self.held);
        ensure!(self.charged == self.settled, "not all charges are settled: {self:?}");
        ensure!(self.debited == self.charged, "the chain debited {}, receipts say {}: {self:?}", self.debited, self.charged);
        ensure!(self.claimable + self.fees == self.debited, "operators and fees do not add up to what was debited: {self:?}");
        ensure!(self.available + self.charged == self.deposited, "the ledger's balance is not deposits less charges: {self:?}");
        Ok(())
    }
}

/// All receipts of a depositor.
pub fn receipts(network: &Network, depositor: &Depositor) -> Result<Vec<Value>> {
    let api = depositor.api(&network.meter())?;
    let (mut all, mut before) = (Vec::new(), None::<u64>);
    loop {
        let path = before.map_or_else(|| "/v1/receipts?limit=100".to_owned(), |before| format!("/v1/receipts?limit=100&before={before}"));
        let page = api.get(&path)?.ok("asking for receipts")?;
        all.extend(page["data"].as_array().context("no list of receipts")?.iter().cloned());
        match page["next_before"].as_u64() {
            Some(next) => before = Some(next),
            None => return Ok(all),
        }
    }
}

/// The meter's own proof that the sum of entries is every balance.
fn audit(network: &Network) -> Result<()> {
    let mut meter = Command::new(&network.parts.binaries.meter);
    meter.args(["audit", "--config"]).arg(network.plan.dir.join("meter/meter.toml"));
    command::capture(&mut meter, AUDIT_LIMIT, network.stop()).context("the ledger's audit failed").map(drop)
}
