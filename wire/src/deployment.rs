//! Where the contracts are (`docs/protocol.md`, section 10).

use alloy::primitives::Address;
use alloy::sol_types::Eip712Domain;
use serde::{Deserialize, Serialize};

use crate::typed;

/// The file that the deploy script writes and every process reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deployment {
    /// Chain of the contracts.
    pub chain_id: u64,
    /// First block that can hold an event of ours.
    pub deploy_block: u64,
    /// The ERC-20.
    pub prlx: Address,
    /// The vault.
    pub credits: Address,
    /// The settlement contract.
    pub settlement: Address,
    /// The operator registry.
    pub registry: Address,
    /// From revocation to the last possible debit, seconds.
    pub exit_delay: u64,
    /// Least time between two debits of one account, seconds.
    pub velocity_window: u64,
    /// Project fee, basis points.
    pub fee_bps: u16,
    /// Who signs batches.
    pub settler: Address,
}

impl Deployment {
    /// Domain of what payers sign.
    pub fn credits_domain(&self) -> Eip712Domain {
        typed::credits_domain(self.chain_id, self.credits)
    }

    /// Domain of batches, receipts, hellos and passes.
    pub fn settlement_domain(&self) -> Eip712Domain {
        typed::settlement_domain(self.chain_id, self.settlement)
    }

    /// Domain of node key proofs.
    pub fn registry_domain(&self) -> Eip712Domain {
        typed::registry_domain(self.chain_id, self.registry)
    }
}
