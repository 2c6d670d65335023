//! The life of one request in the books: hold, dispatched, checkpoint, then capture or release, and the receipt's signature or refund.

use alloy::primitives::{B256, Bytes};
use wire::receipt::ServiceReceipt;
use wire::{AccountId, Credits, OperatorId, message_cost_up};

use super::{State, credits_or_zero, seconds};
use crate::ledger::accounts::{LedgerAccount, TransferKind};
use crate::ledger::error::{AttachError, CaptureError, HoldRefusal, LedgerError};
use crate::ledger::rows::{HoldRow, HoldState, KeyRow, ReceiptRow};
use crate::ledger::types::{Capture, Captured, DispatchRecord, Held, HoldRequest, ReceiptState, Released};

/// How far ahead of the meter's clock a node's may be, seconds.
pub(crate) const CLOCK_AHEAD_S_MAX: u64 = 60;

/// Reserves the worst case, or refuses in the order of `docs/protocol.md`, section 8.
pub(crate) fn hold(state: &mut State, request: &HoldRequest) -> Result<Held, HoldRefusal> {
    let cost = message_cost_up(request.rate, u64::from(request.prompt_tokens) + u64::from(request.max_tokens))?;
    if cost != request.worst_case {
        return Err(HoldRefusal::Misstated { given: request.worst_case, cost });
    }
    let row = new_hold(state, request);
    if let Some(held) = state.holds.get(&request.request_id) {
        let content = |hold: &HoldRow| (hold.account, hold.rate, hold.prompt_tokens, hold.max_tokens);
        return if content(held) == content(&row) && held.key == row.key && held.model == row.model {
            Ok(Held { request_id: request.request_id, amount: request.worst_case, replayed: true })
        } else {
            Err(HoldRefusal::Conflict { request_id: request.request_id })
        };
    }
    check_room(state, request)?;

    let amount = row.amount;
    let (account, request_id) = (request.account, request.request_id);
    if let Some(key) = &request.key {
        key_row(state, key.0.clone(), account).held += amount;
    }
    state.transfer(TransferKind::Hold, request_id.as_slice(), LedgerAccount::Payer(account), LedgerAccount::Held(account), amount);
    state.holds.put(request_id, row);
    Ok(Held { request_id, amount: request.worst_case, replayed: false })
}

fn new_hold(state: &State, request: &HoldRequest) -> HoldRow {
    HoldRow {
        request_id: request.request_id,
        account: request.account.0,
        key: request.key.as_ref().map(|key| key.0.clone()),
        model: request.model.clone(),
        rate: i64::try_from(request.rate.0).unwrap_or(i64::MAX),
        prompt_tokens: request.prompt_tokens,
        max_tokens: request.max_tokens,
        amount: request.worst_case.as_i64(),
        state: HoldState::Held,
        captured: 0,
        instance: state.instance.clone(),
        expires_at: seconds(request.expires_at_s),
        node: None,
        fallback: 0,
        template: None,
        delivered_tokens: 0,
        delivered_hash: None,
        reason: None,
        created_at: seconds(state.now),
        ended_at: None,
    }
}

fn check_room(state: &State, request: &HoldRequest) -> Result<(), HoldRefusal> {
    let needed = request.worst_case;
    let lacks = |room: i64| needed.as_i64() > room.max(0);
    let Some(payer) = state.payers.get(&request.account) else {
        return Err(HoldRefusal::AuthorizationRequired { available: Credits::ZERO, needed });
    };
    if !payer.is_live(state.now) {
        return Err(HoldRefusal::AuthorizationRequired { available: credits_or_zero(payer.available), needed });
    }
    if let Some(until) = payer.closing_until(state.chain_time) {
        return Err(HoldRefusal::Closing { until, available: credits_or_zero(payer.available), needed });
    }
    if lacks(payer.available) {
        return Err(HoldRefusal::InsufficientCredits { available: credits_or_zero(payer.available), needed });
    }
    if lacks(payer.exposure_room()) {
        return Err(HoldRefusal::ExposureExceeded { available: credits_or_zero(payer.exposure_room()), needed });
    }
    if lacks(payer.cap_room()) {
        return Err(HoldRefusal::CapExceeded { available: credits_or_zero(payer.cap_room()), needed });
    }
    if let Some(limit) = request.key_limit {
        let usage = request.key.as_ref().and_then(|key| state.keys.get(&key.0));
        let used = usage.map_or(0, |usage| usage.captured.saturating_add(usage.held));
        let room = limit.as_i64().saturating_sub(used);
        if lacks(room) {
            return Err(HoldRefusal::KeyLimit { available: credits_or_zero(room), needed });
        }
    }
    Ok(())
}

fn key_row(state: &mut State, key: String, account: AccountId) -> &mut KeyRow {
    if state.keys.get(&key).is_none() {
        state.keys.put(key.clone(), KeyRow { key: key.clone(), account: account.0, captured: 0, held: 0 });
    }
    // Put above when it was absent.
    #[allow(clippy::expect_used)]
    state.keys.get_mut(&key).expect("the key's row was just put")
}

/// Notes the node of a hold that is still open; a later node takes the place of an earlier one that delivered nothing.
pub(crate) fn dispatched(state: &mut State, record: &DispatchRecord) {
    let open = state.holds.get(&record.request_id).is_some_and(|hold| hold.state == HoldState::Held && hold.delivered_tokens == 0);
    let (true, Ok(template)) = (open, serde_json::to_string(&record.template)) else { return };
    let Some(hold) = state.holds.get_mut(&record.request_id) else { return };
    hold.node = Some(record.node);
    hold.fallback = i64::from(record.fallback);
    hold.template = Some(template);
}

/// Notes how much of an open hold's answer arrived; counts only grow.
pub(crate) fn checkpoint(state: &mut State, request_id: B256, delivered_tokens: u32, delivered_hash: B256) {
    let grows = state.holds.get(&request_id).is_some_and(|hold| hold.state == HoldState::Held && hold.delivered_tokens < delivered_tokens);
    let (true, Some(hold)) = (grows, state.holds.get_mut(&request_id)) else { return };
    hold.delivered_tokens = delivered_tokens;
    hold.delivered_hash = Some(delivered_hash);
}

/// Charges, releases the rest, keeps the receipt. Never above the hold. A node's signature that comes with an equal receipt later is attached.
pub(crate) fn capture(state: &mut State, capture: &Capture) -> Result<Captured, CaptureError> {
    let receipt = &capture.receipt;
    let request_id = receipt.request_id;
    let Some(hold) = state.holds.get(&request_id) else { return Err(CaptureError::Unknown { request_id }) };
    check_against_hold(receipt, hold)?;
    match hold.state {
        HoldState::Held => {}
        HoldState::Released => return Err(CaptureError::Released { request_id }),
        HoldState::Captured => return recapture(state, capture),
    }
    let held = hold.amount;
    if receipt.amount.as_i64() > held {
        return Err(CaptureError::AboveHold { amount: receipt.amount, held: credits_or_zero(held) });
    }
    let row = new_receipt(state, capture, hold)?;
    let receipt_state = row.state;
    end_hold(state, request_id, Some((receipt.operator, row.amount)), &capture.finish_reason);
    state.receipts.put(request_id, row);
    Ok(Captured { receipt_id: request_id, state: receipt_state, amount: receipt.amount, replayed: false })
}

fn check_against_hold(receipt: &ServiceReceipt, hold: &HoldRow) -> Result<(), CaptureError> {
    let mismatch = |field| Err(CaptureError::Mismatch { field });
    if receipt.account.0 != hold.account {
        return mismatch("account");
    }
    if i64::try_from(receipt.model_rate.0) != Ok(hold.rate) {
        return mismatch("model_rate");
    }
    if receipt.prompt_tokens != hold.prompt_tokens {
        return mismatch("prompt_tokens");
    }
    if receipt.cost_up().ok() != Some(receipt.amount) {
        return mismatch("amount");
    }
    Ok(())
}

fn new_receipt(state: &State, capture: &Capture, hold: &HoldRow) -> Result<ReceiptRow, LedgerError> {
    let receipt = &capture.receipt;
    let signed = capture.signature.is_some();
    Ok(ReceiptRow {
        position: None,
        request_id: receipt.request_id,
        account: receipt.account.0,
        operator: receipt.operator.0,
        amount: receipt.amount.as_i64(),
        key: hold.key.clone(),
        model: hold.model.clone(),
        node: capture.node,
        fallback: i64::from(capture.fallback),
        finish_reason: capture.finish_reason.clone(),
        state: if signed { ReceiptState::Signed } else { ReceiptState::AwaitingSignature },
        receipt: receipt_json(receipt)?,
        signature: capture.signature.as_ref().map(|signature| signature.to_vec()),
        seq: None,
        leaf: None,
        created_at: seconds(state.now),
        signed_at: signed.then_some(seconds(state.now)),
        audit: capture.audit,
        auditor: None,
    })
}

fn recapture(state: &mut State, capture: &Capture) -> Result<Captured, CaptureError> {
    let receipt = &capture.receipt;
    let request_id = receipt.request_id;
    let stored = state.receipts.get(&request_id).ok_or(CaptureError::Unknown { request_id })?;
    let stands = stored_receipt(stored)?;
    let (amount, receipt_state) = (credits_or_zero(stored.amount), stored.state);
    let conflict = || CaptureError::Conflict { request_id, amount, state: receipt_state };
    if different_field(&stands, receipt).is_some() || stored.node != capture.node {
        return Err(conflict());
    }
    let receipt_state = match &capture.signature {
        Some(signature) => attach(state, receipt, signature).map_err(|_| conflict())?,
        None => receipt_state,
    };
    Ok(Captured { receipt_id: request_id, state: receipt_state, amount, replayed: true })
}

/// Gives the whole hold back.
pub(crate) fn release(state: &mut State, request_id: B256, reason: &str) -> Released {
    let Some(hold) = state.holds.get(&request_id) else { return Released::Unknown };
    match hold.state {
        HoldState::Captured => Released::Captured { amount: credits_or_zero(hold.captured) },
        HoldState::Released => Released::Before,
        HoldState::Held => {
            let amount = credits_or_zero(hold.amount);
            end_hold(state, request_id, None, reason);
            Released::Now { amount }
        }
    }
}

/// Ends an open hold: what is captured goes to the operator, the rest back to the payer. The capture is at most the hold.
fn end_hold(state: &mut State, request_id: B256, captured: Option<(OperatorId, i64)>, reason: &str) {
    let now = seconds(state.now);
    let Some(hold) = state.holds.get_mut(&request_id) else { return };
    hold.ended_at = Some(now);
    hold.reason = Some(reason.to_owned());
    hold.state = if captured.is_some() { HoldState::Captured } else { HoldState::Released };
    hold.captured = captured.map_or(0, |(_, amount)| amount);
    let (account, held, charged, key) = (AccountId(hold.account), hold.amount, hold.captured, hold.key.clone());

    if let Some(row) = key.and_then(|key| state.keys.get_mut(&key)) {
        row.held -= held;
        row.captured += charged;
    }
    if let Some((operator, _)) = captured {
        let target = LedgerAccount::Unsettled(operator);
        state.transfer(TransferKind::Capture, request_id.as_slice(), LedgerAccount::Held(account), target, charged);
        state.payers.get_mut(&account).into_iter().for_each(|payer| payer.unsettled += charged);
    }
    state.credit_payer(TransferKind::Release, request_id.as_slice(), LedgerAccount::Held(account), account, held - charged);
}

/// Settles a hold whose owner is gone or whose time is over: what is known to have arrived is charged, else all goes back.
pub(crate) fn recover(state: &mut State, request_id: B256, reason: &str) -> Released {
    let Some(hold) = state.holds.get(&request_id) else { return Released::Unknown };
    let delivered = (hold.state == HoldState::Held).then(|| delivered(hold, state.now)).flatten();
    let Some(mut delivered) = delivered else { return release(state, request_id, reason) };
    delivered.finish_reason = reason.to_owned();
    match capture(state, &delivered) {
        Ok(captured) => Released::Captured { amount: captured.amount },
        // A template that doesn't fit its hold charges nobody.
        Err(_) => release(state, request_id, reason),
    }
}

fn delivered(hold: &HoldRow, now: u64) -> Option<Capture> {
    let template: ServiceReceipt = serde_json::from_str(hold.template.as_deref()?).ok()?;
    let (node, completion_hash) = (hold.node?, hold.delivered_hash?);
    let receipt = template.for_fewer(hold.delivered_tokens, completion_hash).ok()?;
    let receipt = ServiceReceipt { served_at: now.max(receipt.started_at), ..receipt };
    let fallback = hold.fallback == 1;
    // Its token ids went with the process that had them, so there is nothing to audit.
    let capture = Capture { receipt, signature: None, node, fallback, finish_reason: String::new(), audit: None };
    (hold.delivered_tokens > 0).then_some(capture)
}

/// Attaches the node's signature; `proof_root` and `served_at` become the node's. Once signed, the first signature stands.
pub(crate) fn attach(state: &mut State, receipt: &ServiceReceipt, signature: &Bytes) -> Result<ReceiptState, AttachError> {
    let request_id = receipt.request_id;
    let now = state.now;
    let row = state.receipts.get(&request_id).ok_or(AttachError::Unknown { request_id })?;
    if let Some(field) = different_field(&stored_receipt(row)?, receipt) {
        return Err(AttachError::Mismatch { field });
    }
    match row.state {
        ReceiptState::AwaitingSignature => {}
        ReceiptState::Refunded => return Err(AttachError::Refunded { request_id }),
        signed => return Ok(signed),
    }
    if receipt.served_at < receipt.started_at || receipt.served_at > now.saturating_add(CLOCK_AHEAD_S_MAX) {
        return Err(AttachError::Mismatch { field: "served_at" });
    }
    let json = receipt_json(receipt)?;
    let row = state.receipts.get_mut(&request_id).ok_or(AttachError::Unknown { request_id })?;
    row.receipt = json;
    row.signature = Some(signature.to_vec());
    row.signed_at = Some(seconds(now));
    row.state = ReceiptState::Signed;
    Ok(ReceiptState::Signed)
}

/// Gives the charge of a receipt back that waited too long for its signature. Whether it did.
pub(crate) fn refund(state: &mut State, request_id: B256, refund_after_s: u64) -> bool {
    let now = seconds(state.now);
    let Some(row) = state.receipts.get(&request_id) else { return false };
    let due = row.created_at.saturating_add(seconds(refund_after_s)) <= now;
    if row.state != ReceiptState::AwaitingSignature || !due {
        return false;
    }
    give_back(state, request_id, ReceiptState::Refunded);
    true
}

/// Moves the charge of an open receipt back to its payer, once: the reference is unique, and the receipt's state is `outcome` from here on.
pub(super) fn give_back(state: &mut State, request_id: B256, outcome: ReceiptState) {
    let Some(row) = state.receipts.get_mut(&request_id) else { return };
    row.state = outcome;
    let (account, operator, amount, key) = (AccountId(row.account), OperatorId(row.operator), row.amount, row.key.clone());
    if let Some(payer) = state.payers.get_mut(&account) {
        payer.unsettled -= amount;
    }
    if let Some(row) = key.and_then(|key| state.keys.get_mut(&key)) {
        row.captured -= amount;
    }
    state.credit_payer(TransferKind::Refund, request_id.as_slice(), LedgerAccount::Unsettled(operator), account, amount);
}

/// The first field in which two receipts differ, other than those that only the node knows.
fn different_field(stored: &ServiceReceipt, given: &ServiceReceipt) -> Option<&'static str> {
    let same = ServiceReceipt { proof_root: stored.proof_root, served_at: stored.served_at, ..given.clone() };
    if same == *stored {
        return None;
    }
    let fields: [(&'static str, bool); 6] = [
        ("request_id", stored.request_id != given.request_id),
        ("account", stored.account != given.account),
        ("operator", stored.operator != given.operator),
        ("completion_tokens", stored.completion_tokens != given.completion_tokens),
        ("completion_hash", stored.completion_hash != given.completion_hash),
        ("amount", stored.amount != given.amount),
    ];
    Some(fields.into_iter().find(|(_, differs)| *differs).map_or("content", |(field, _)| field))
}

/// The receipt of a row.
pub(crate) fn stored_receipt(row: &ReceiptRow) -> Result<ServiceReceipt, LedgerError> {
    serde_json::from_str(&row.receipt).map_err(|error| LedgerError::Row { table: "receipts", reason: error.to_string() })
}

fn receipt_json(receipt: &ServiceReceipt) -> Result<String, LedgerError> {
    serde_json::to_string(receipt).map_err(|error| LedgerError::Row { table: "receipts", reason: error.to_string() })
}
