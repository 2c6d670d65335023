//! A payer who owes nothing is promised that nothing more is debited. While the promise may be used, [`super::request::hold`] refuses.

use wire::AccountId;

use super::{State, credits_or_zero, seconds};
use crate::ledger::clearance::{Clearance, ClearanceRefusal};
use crate::ledger::error::LedgerError;
use crate::ledger::rows::{ClearanceTerms, PayerRow};

/// Promises for at most `valid_s` seconds from now, by this machine's clock or the chain's, whichever is ahead. The same promise again
/// until its deadline is over, then a later one. A deadline never becomes earlier, so that the last promise outlives those before it.
pub(crate) fn give(state: &mut State, account: AccountId, valid_s: u64) -> Result<Clearance, ClearanceRefusal> {
    let now = state.now.max(state.chain_time);
    let payer = state.payers.get(&account).filter(|payer| payer.opened == 1).ok_or(LedgerError::UnknownAccount { account })?;
    check_owes_nothing(payer, now)?;
    let (given, terms) = (payer.clearance, (payer.facts.settled, payer.facts.next_nonce));
    if let Some(until) = payer.closing_until(state.chain_time) {
        if (given.settled, given.nonce) != terms {
            return Err(ClearanceRefusal::Standing { until });
        }
        if now <= until {
            return Ok(promise(account, given));
        }
    }
    let deadline = seconds(now.saturating_add(valid_s)).max(given.deadline);

    let (settled, nonce) = terms;
    let clearance = ClearanceTerms { settled, nonce, deadline };
    state.payers.get_mut(&account).into_iter().for_each(|payer| payer.clearance = clearance);
    Ok(promise(account, clearance))
}

fn check_owes_nothing(payer: &PayerRow, now: u64) -> Result<(), ClearanceRefusal> {
    if !payer.is_kept_back(now) {
        return Err(ClearanceRefusal::NothingKept);
    }
    // A charge is unsettled until the mirror has seen its debit, whatever was signed, sent or mined before; so is a carry.
    if payer.held != 0 || payer.unsettled != 0 {
        return Err(ClearanceRefusal::Outstanding { held: credits_or_zero(payer.held), unsettled: credits_or_zero(payer.unsettled) });
    }
    Ok(())
}

fn promise(account: AccountId, terms: ClearanceTerms) -> Clearance {
    let settled = credits_or_zero(terms.settled);
    Clearance { account, settled, auth_nonce: terms.nonce, deadline: terms.deadline.unsigned_abs() }
}
