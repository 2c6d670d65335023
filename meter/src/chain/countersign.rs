//! The meter's word on a keeper's batch (`docs/protocol.md`, section 9).

use std::collections::HashMap;

use alloy::primitives::B256;
use alloy::signers::{Signer, SignerSync};
use alloy::sol_types::Eip712Domain;
use wire::merkle;
use wire::receipt::{ServiceReceipt, seconds_u40};
use wire::settlement::{BatchProposal, RECEIPTS_MAX, SignedBatch};
use wire::{rows, typed};

use crate::ledger::{CountersignError, Ledger, LedgerError, Signing};

impl Ledger {
    /// Checks a proposed batch against the books, stores it and signs it with the settler's key. The same content again is the same
    /// batch, signed anew when its deadline moved; another content under the same number is refused with the batch that stands.
    /// The signature leaves this process only after it is stored.
    pub async fn countersign<S: Signer + SignerSync + Sync>(
        &self,
        proposal: BatchProposal,
        signer: &S,
        domain: &Eip712Domain,
    ) -> Result<SignedBatch, CountersignError> {
        if proposal.receipts.len() > RECEIPTS_MAX {
            return Err(CountersignError::Receipts { receipts: proposal.receipts.len(), max: RECEIPTS_MAX });
        }
        let receipts = self.receipts_of(&proposal.receipts).await?;
        let (ids, domain_of_leaves) = (proposal.receipts.clone(), domain.clone());
        // Thousands of hashes: not on a thread that serves.
        let leaves = tokio::task::spawn_blocking(move || leaves(&ids, &receipts, &domain_of_leaves));
        let leaves = leaves.await.map_err(|_| LedgerError::Closed)??;
        let batch = typed::SettlementBatch {
            seq: proposal.seq,
            receiptsRoot: proposal.receipts_root,
            rowsHash: rows::hash(&proposal.rows),
            deadline: seconds_u40(proposal.deadline),
        };
        let signature = typed::sign(&batch, domain, signer).map_err(|error| CountersignError::Signer { reason: error.to_string() })?;
        let batch = SignedBatch { proposal, signature: signature.to_vec().into(), settler: signer.address() };
        self.sign(Signing { batch, leaves }).await
    }
}

fn leaves(ids: &[B256], receipts: &[ServiceReceipt], domain: &Eip712Domain) -> Result<Vec<B256>, CountersignError> {
    let receipts: HashMap<B256, &ServiceReceipt> = receipts.iter().map(|receipt| (receipt.request_id, receipt)).collect();
    let leaf = |request_id: &B256| {
        let receipt = receipts.get(request_id);
        let receipt = receipt.ok_or(CountersignError::Receipt { request_id: *request_id, reason: "it is not in the ledger" })?;
        Ok(merkle::receipt_leaf(receipt.digest(domain)))
    };
    ids.iter().map(leaf).collect()
}
