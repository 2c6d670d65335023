//! An audit ends: its receipt says how, a node that failed is quarantined, and what it was not paid for yet goes back to the payers.

use alloy::primitives::{Address, B256};

use super::request::give_back;
use super::{State, seconds};
use crate::ledger::rows::QuarantineRow;
use crate::ledger::types::{AuditRecord, AuditState, ReceiptState};

/// Notes how an audit ended. A failure quarantines the receipt's node and disputes the receipt. A verdict stands once it is there; only
/// a skipped audit may still get one. Whether anything changed.
pub(crate) fn conclude(state: &mut State, record: &AuditRecord) -> bool {
    let Some(row) = state.receipts.get_mut(&record.request_id) else { return false };
    let open = matches!(row.audit, None | Some(AuditState::Pending | AuditState::Skipped));
    if !open || record.state == AuditState::Pending {
        return false;
    }
    row.audit = Some(record.state);
    row.auditor = record.auditor;
    let (node, operator) = (row.node, row.operator);
    if record.state == AuditState::Failed {
        if !is_quarantined(state, node) {
            let (request_id, reason, since) = (record.request_id, record.finding.clone(), seconds(state.now));
            state.quarantines.put(node, QuarantineRow { node, operator, request_id, reason, since, cleared_at: None });
        }
        dispute(state, record.request_id);
    }
    true
}

/// Gives up on an audit that is pending since `audit_wait_s` or longer: whoever ran it is gone. Whether it was.
pub(crate) fn expire(state: &mut State, request_id: B256, audit_wait_s: u64) -> bool {
    let due = |created_at: i64| created_at.saturating_add(seconds(audit_wait_s)) <= seconds(state.now);
    let expired = state.receipts.get(&request_id).is_some_and(|row| row.audit == Some(AuditState::Pending) && due(row.created_at));
    if expired && let Some(row) = state.receipts.get_mut(&request_id) {
        row.audit = Some(AuditState::Skipped);
    }
    expired
}

/// Gives the charge of a quarantined node's receipt back that is in no batch yet. Whether it did.
pub(crate) fn dispute(state: &mut State, request_id: B256) -> bool {
    let Some(row) = state.receipts.get(&request_id) else { return false };
    let unbatched = matches!(row.state, ReceiptState::Signed | ReceiptState::AwaitingSignature) && row.seq.is_none();
    if !unbatched || !is_quarantined(state, row.node) {
        return false;
    }
    give_back(state, request_id, ReceiptState::Disputed);
    true
}

/// Lets a node work again; receipts that were disputed stay so. Whether it was quarantined.
pub(crate) fn clear(state: &mut State, node: Address) -> bool {
    let now = seconds(state.now);
    if !is_quarantined(state, node) {
        return false;
    }
    if let Some(row) = state.quarantines.get_mut(&node) {
        row.cleared_at = Some(now);
    }
    true
}

/// Whether the node failed an audit and nobody cleared it since.
pub(crate) fn is_quarantined(state: &State, node: Address) -> bool {
    state.quarantines.get(&node).is_some_and(|row| row.cleared_at.is_none())
}
