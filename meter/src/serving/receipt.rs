//! What was served, as both sides state it: the meter's own receipt, the node's claim, and which of the two is charged.

use alloy::sol_types::Eip712Domain;
use thiserror::Error;
use wire::node::{FromMeter, Job, ReceiptOutcome};
use wire::receipt::{ServiceReceipt, tokens_hash};
use wire::typed::TypedError;
use wire::{Address, AmountError, B256, Bytes};

use super::catalog::Model;
use super::stream::{AnswerStream, empty_hash};
use crate::ledger::{AttachError, Ledger, LedgerError, ReceiptState, StoredReceipt};

/// How far a node's clock may run ahead, seconds (`docs/protocol.md`, section 5).
const CLOCK_AHEAD_S_MAX: u64 = 60;

/// A receipt with the signature that came with it.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The node's statement.
    pub receipt: ServiceReceipt,
    /// By its key, it says.
    pub signature: Bytes,
}

/// What is charged.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The meter's receipt, or the node's lower one.
    pub receipt: ServiceReceipt,
    /// The node's signature of exactly that; without one it waits.
    pub signature: Option<Bytes>,
    /// Why the node's claim was not taken, if it made one.
    pub problem: Option<ClaimProblem>,
}

/// Why a node's claim was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ClaimProblem {
    /// More tokens than arrived.
    #[error("the node claims {claimed} completion tokens, {counted} arrived")]
    HigherCount {
        /// By the node.
        claimed: u32,
        /// By the meter.
        counted: u32,
    },
    /// Another request, payer, price or text.
    #[error("the node's receipt differs in `{field}`")]
    Differs {
        /// First field that does.
        field: &'static str,
    },
    /// Somebody else's key, or none.
    #[error("the receipt is not signed by the node's key: {reason}")]
    Signature {
        /// What is wrong with it.
        reason: String,
    },
}

/// The receipt of a job of which nothing has arrived yet. Errors when the prompt alone costs more than any account can hold.
pub fn template(job: &Job, model: &Model) -> Result<ServiceReceipt, AmountError> {
    let blank = ServiceReceipt {
        request_id: job.request_id,
        account: job.account,
        operator: job.operator,
        model_root: model.model_root,
        engine: model.engine,
        // A context is a `u32` of tokens.
        prompt_tokens: job.prompt.len() as u32,
        completion_tokens: 0,
        model_rate: job.model_rate,
        amount: wire::Credits::ZERO,
        prompt_hash: tokens_hash(&job.prompt),
        completion_hash: empty_hash(),
        params_hash: job.params.hash(),
        proof_root: B256::ZERO,
        started_at: job.started_at,
        served_at: job.started_at,
    };
    Ok(ServiceReceipt { amount: blank.cost_up()?, ..blank })
}

/// The meter's own receipt for what arrived. Errors as [`template`].
pub fn own(template: &ServiceReceipt, answer: &AnswerStream, now_s: u64) -> Result<ServiceReceipt, AmountError> {
    let served_at = now_s.max(template.started_at);
    Ok(ServiceReceipt { served_at, ..template.for_fewer(answer.count(), answer.hash())? })
}

/// Compares the node's claim with the meter's own count: an equal or lower claim that its key signed stands, everything
/// else leaves the meter's own receipt, unsigned.
pub fn judge(
    own: ServiceReceipt,
    answer: &AnswerStream,
    claim: Option<Claim>,
    node: Address,
    domain: &Eip712Domain,
    now_s: u64,
) -> Verdict {
    let Some(claim) = claim else {
        return Verdict { receipt: own, signature: None, problem: None };
    };
    match accepted(&own, answer, &claim, node, domain, now_s) {
        Ok(()) => Verdict { receipt: claim.receipt, signature: Some(claim.signature), problem: None },
        Err(problem) => Verdict { receipt: own, signature: None, problem: Some(problem) },
    }
}

fn accepted(
    own: &ServiceReceipt,
    answer: &AnswerStream,
    claim: &Claim,
    node: Address,
    domain: &Eip712Domain,
    now_s: u64,
) -> Result<(), ClaimProblem> {
    let (claimed, counted) = (claim.receipt.completion_tokens, own.completion_tokens);
    let hash = answer.hash_of_first(claimed).ok_or(ClaimProblem::HigherCount { claimed, counted })?;
    let expected = own.for_fewer(claimed, hash).map_err(|_| ClaimProblem::Differs { field: "amount" })?;
    if let Some(field) = difference(&expected, &claim.receipt) {
        return Err(ClaimProblem::Differs { field });
    }
    check_statement(&claim.receipt, &claim.signature, node, domain, now_s)
}

/// Checks what only the node states: when it ended, and its signature.
fn check_statement(
    receipt: &ServiceReceipt,
    signature: &[u8],
    node: Address,
    domain: &Eip712Domain,
    now_s: u64,
) -> Result<(), ClaimProblem> {
    if receipt.served_at < receipt.started_at || receipt.served_at > now_s + CLOCK_AHEAD_S_MAX {
        return Err(ClaimProblem::Differs { field: "served_at" });
    }
    let refused = |error: TypedError| ClaimProblem::Signature { reason: error.to_string() };
    let signer = receipt.signer(domain, signature).map_err(refused)?;
    if signer == node { Ok(()) } else { Err(ClaimProblem::Signature { reason: format!("it is by {signer}, the node is {node}") }) }
}

/// First field in which two receipts differ, apart from the two that only the node knows.
fn difference(expected: &ServiceReceipt, claimed: &ServiceReceipt) -> Option<&'static str> {
    let same = [
        ("request_id", expected.request_id == claimed.request_id),
        ("account", expected.account == claimed.account),
        ("operator", expected.operator == claimed.operator),
        ("model_root", expected.model_root == claimed.model_root),
        ("engine", expected.engine == claimed.engine),
        ("prompt_tokens", expected.prompt_tokens == claimed.prompt_tokens),
        ("completion_tokens", expected.completion_tokens == claimed.completion_tokens),
        ("model_rate", expected.model_rate == claimed.model_rate),
        ("amount", expected.amount == claimed.amount),
        ("prompt_hash", expected.prompt_hash == claimed.prompt_hash),
        ("completion_hash", expected.completion_hash == claimed.completion_hash),
        ("params_hash", expected.params_hash == claimed.params_hash),
        ("started_at", expected.started_at == claimed.started_at),
    ];
    same.into_iter().find(|(_, equal)| !equal).map(|(field, _)| field)
}

/// What to tell a node about a receipt that it sent on its own, late or again. `in_flight` says whether the request still
/// runs here; its node hears of it when it is over. Errors when the ledger does; the node keeps the receipt then.
pub async fn late(
    ledger: &Ledger,
    domain: &Eip712Domain,
    node: Address,
    claim: Claim,
    in_flight: bool,
    now_s: u64,
) -> Result<Option<FromMeter>, LedgerError> {
    let request_id = claim.receipt.request_id;
    let ack = |outcome| Ok(Some(FromMeter::ReceiptAck { request_id, outcome }));
    if in_flight {
        return Ok(None);
    }
    let Some(stored) = ledger.receipt(request_id).await?.filter(|stored| stored.node == node) else {
        return ack(ReceiptOutcome::Unknown);
    };
    match stored.state {
        ReceiptState::Refunded | ReceiptState::Disputed => return ack(ReceiptOutcome::Unknown),
        ReceiptState::AwaitingSignature => {}
        ReceiptState::Signed | ReceiptState::Batched | ReceiptState::Settled => {
            return ack(ReceiptOutcome::Captured);
        }
    }
    if let Err(problem) = statement_of(&stored, &claim, domain, now_s) {
        metrics::counter!("meter_receipts_refused_total").increment(1);
        tracing::warn!(%request_id, %node, %problem, "late receipt differs; asked for the stored one");
        return Ok(Some(FromMeter::SignReceipt { receipt: stored.receipt }));
    }
    match ledger.attach_signature(&claim.receipt, claim.signature).await {
        Ok(state) => {
            metrics::counter!("meter_receipts_signed_late_total").increment(1);
            tracing::info!(%request_id, %node, ?state, "late signature attached");
            ack(ReceiptOutcome::Captured)
        }
        Err(AttachError::Mismatch { .. }) => Ok(Some(FromMeter::SignReceipt { receipt: stored.receipt })),
        Err(AttachError::Unknown { .. } | AttachError::Refunded { .. }) => ack(ReceiptOutcome::Unknown),
        Err(AttachError::Ledger(error)) => Err(error),
    }
}

fn statement_of(stored: &StoredReceipt, claim: &Claim, domain: &Eip712Domain, now_s: u64) -> Result<(), ClaimProblem> {
    match difference(&stored.receipt, &claim.receipt) {
        Some(field) => Err(ClaimProblem::Differs { field }),
        None => check_statement(&claim.receipt, &claim.signature, stored.node, domain, now_s),
    }
}
