//! `meter quarantine`: the nodes that failed an audit, what they were paid for before, and the way back.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Subcommand;
use meter::ledger::{AuditState, Ledger, Quarantine, StoredReceipt};
use wire::Address;

#[derive(Subcommand)]
pub(crate) enum QuarantineCommand {
    /// List the nodes that are quarantined, and those that were.
    List {
        /// The config file.
        #[arg(long)]
        config: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List a node's receipts that are in batches already: what the registry's disputer may slash for.
    Show {
        /// Key of the node.
        node: Address,
        /// The config file.
        #[arg(long)]
        config: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Let a node work again. Receipts that were disputed stay refunded.
    Clear {
        /// Key of the node.
        node: Address,
        /// The config file.
        #[arg(long)]
        config: PathBuf,
    },
}

impl QuarantineCommand {
    pub(crate) fn config(&self) -> &Path {
        match self {
            Self::List { config, .. } | Self::Show { config, .. } | Self::Clear { config, .. } => config,
        }
    }

    pub(crate) async fn run(&self, ledger: &Ledger) -> Result<ExitCode> {
        match self {
            Self::List { json, .. } => list(&ledger.quarantines().await?, *json)?,
            Self::Show { node, json, .. } => show(ledger, *node, *json).await?,
            Self::Clear { node, .. } => {
                if !ledger.clear_quarantine(*node).await? {
                    bail!("node {node} is not quarantined; `meter quarantine list` has those that are");
                }
                println!("node {node} gets jobs again, at running meters within `limits.registry_check_ms`");
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn list(quarantines: &[Quarantine], json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string(quarantines)?);
        return Ok(());
    }
    for found in quarantines {
        let state = found.cleared_at.map_or_else(|| "quarantined".to_owned(), |at| format!("cleared at {at}"));
        println!("{}  operator {}  since {}  {state}", found.node, found.operator, found.since);
        println!("  receipt {}: {}", found.request_id, found.reason);
    }
    println!("{} quarantined, {} cleared", count(quarantines, false), count(quarantines, true));
    Ok(())
}

fn count(quarantines: &[Quarantine], cleared: bool) -> usize {
    quarantines.iter().filter(|found| found.cleared_at.is_some() == cleared).count()
}

async fn show(ledger: &Ledger, node: Address, json: bool) -> Result<()> {
    let receipts = ledger.batched_receipts(node).await?;
    if json {
        println!("{}", serde_json::to_string(&receipts)?);
        return Ok(());
    }
    for stored in &receipts {
        println!("{}", line(stored));
    }
    let failed = receipts.iter().filter(|stored| stored.audit == Some(AuditState::Failed)).count();
    println!("{} receipts in batches, {failed} of them failed an audit; the incident of a slash is the receipt's id", receipts.len());
    Ok(())
}

fn line(stored: &StoredReceipt) -> String {
    let audit = match stored.audit {
        None => "not audited",
        Some(AuditState::Pending) => "audit pending",
        Some(AuditState::Audited) => "audited",
        Some(AuditState::Failed) => "FAILED",
        Some(AuditState::Skipped) => "audit skipped",
    };
    let batch = stored.seq.map_or_else(|| "none".to_owned(), |seq| seq.to_string());
    format!("{}  operator {}  batch {batch}  {} PRLX  {audit}", stored.receipt.request_id, stored.receipt.operator, stored.receipt.amount)
}
