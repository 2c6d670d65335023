//! Whether an answer is what its receipt says: the statement, then the computation, all compared for equality.
//!
//! What it can't show stands in [`LIMITS`], and is printed with every report.

use alloy::primitives::{Address, B256, Bytes};
use serde::{Deserialize, Serialize};
use wire::node::{SamplingParams, WrongToken};
use wire::proof::{self, Window};
use wire::receipt::{ServiceReceipt, tokens_hash};
use wire::typed::settlement_domain;

use super::recompute::{RecomputeError, Recomputed, Recomputer};
use crate::backend::Backend;

/// What no report of this kind shows.
pub const LIMITS: [&str; 5] = [
    "that the signing key belongs to a registered operator: `verifyReceipt` on the settlement contract checks that, and that the receipt is in a batch",
    "which machine computed the answer, or when: only that these weights under this arithmetic give it",
    "that prompt and answer stayed private: the meter and the node read them",
    "anything about other requests of the same node",
    "that the answer is whole: a receipt does not say why an answer ended, so neither a node that stopped early nor a stop string's place shows",
];

/// What the contract and chain must be, when the caller knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// Of the chain.
    pub chain_id: u64,
    /// Of the settlement contract there.
    pub contract: Address,
}

/// A receipt, its proof, and what it is about: everything that can be checked, in one object.
///
/// `GET /v1/receipts/{id}/proof` has the first half; the answer to a request with `return_token_ids` has the rest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bundle {
    /// The request that the caller made; the receipt must be this one's.
    pub request_id: B256,
    /// Chain under whose domain the receipt is signed.
    pub chain_id: u64,
    /// Settlement contract of that domain.
    pub settlement: Address,
    /// Key that signed.
    pub node: Address,
    /// What it stated.
    pub receipt: ServiceReceipt,
    /// By that key.
    pub signature: Bytes,
    /// Under the receipt's proof root.
    pub windows: Vec<Window>,
    /// Token ids of the rendered prompt.
    pub prompt_token_ids: Vec<u32>,
    /// Token ids of the answer.
    pub token_ids: Vec<u32>,
    /// As the request was served.
    pub params: SamplingParams,
}

/// What was compared, and how.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Whether everything was equal.
    pub verified: bool,
    /// What the receipt says against what was given.
    pub statement: Vec<Check>,
    /// One for each window that the receipt's counts make.
    pub windows: Vec<WindowCheck>,
    /// The draws.
    pub tokens: TokenCheck,
    /// Why nothing was computed, if so.
    pub not_computed: Option<String>,
    /// What this does not prove.
    pub not_shown: [&'static str; 5],
}

/// One comparison.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// Whether both sides are equal.
    pub equal: bool,
    /// As the receipt has it, or as it must be.
    pub expected: String,
    /// As given or computed.
    pub found: String,
}

/// One window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WindowCheck {
    /// From 0.
    pub index: u32,
    /// `prompt` or `completion`.
    pub part: &'static str,
    /// Where it starts in the sequence.
    pub first_position: u32,
    /// Positions under it.
    pub count: u32,
    /// Whether the digests are equal.
    pub equal: bool,
    /// As the node committed to it; absent when the proof has no such window.
    pub committed: Option<B256>,
    /// As computed here; absent when nothing could be.
    pub computed: Option<B256>,
}

/// How the tokens compare.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TokenCheck {
    /// Tokens of the answer that are what the parameters draw, up to the first that is not.
    pub drawn_equal: u32,
    /// Tokens of the answer.
    pub completion_tokens: u32,
    /// The first that is not.
    pub first_wrong: Option<WrongToken>,
}

/// Checks `bundle` with the model in `recomputer`. `settlement` is what the caller knows of chain and contract; without it the bundle's
/// own are used, and only the signature ties them to the receipt.
pub fn verify<B: Backend>(bundle: &Bundle, settlement: Option<Settlement>, recomputer: &mut Recomputer<B>) -> Report {
    let mut statement = statement(bundle, settlement);
    statement.push(check("model_root", &bundle.receipt.model_root, &recomputer.model_root));
    statement.push(check("engine", &bundle.receipt.engine, &recomputer.engine));

    let recomputed = recomputer.recompute(&bundle.prompt_token_ids, &bundle.token_ids, &bundle.params, &|| true);
    if let Ok(found) = &recomputed {
        statement.push(check("recomputed_root", &bundle.receipt.proof_root, &proof::root(&found.windows)));
    }
    compared(bundle, statement, recomputed)
}

fn compared(bundle: &Bundle, statement: Vec<Check>, recomputed: Result<Recomputed, RecomputeError>) -> Report {
    let (computed, first_wrong, not_computed) = match recomputed {
        Ok(found) => (found.windows, found.first_wrong, None),
        Err(error) => (Vec::new(), None, Some(error.to_string())),
    };
    let windows = window_checks(bundle.prompt_token_ids.len(), &bundle.windows, &computed);
    let completion_tokens = bundle.token_ids.len() as u32;
    let drawn_equal = if not_computed.is_some() { 0 } else { first_wrong.map_or(completion_tokens, |wrong| wrong.index) };
    let verified = not_computed.is_none()
        && first_wrong.is_none()
        && statement.iter().all(|check| check.equal)
        && !windows.is_empty()
        && windows.iter().all(|window| window.equal);
    let tokens = TokenCheck { drawn_equal, completion_tokens, first_wrong };
    Report { verified, statement, windows, tokens, not_computed, not_shown: LIMITS }
}

fn statement(bundle: &Bundle, settlement: Option<Settlement>) -> Vec<Check> {
    let receipt = &bundle.receipt;
    let known = settlement.unwrap_or(Settlement { chain_id: bundle.chain_id, contract: bundle.settlement });
    // Under the domain that is expected, so that a receipt of another chain or contract has another signer.
    let domain = settlement_domain(known.chain_id, known.contract);
    let signer = receipt.signer(&domain, &bundle.signature).map_or_else(|error| error.to_string(), |signer| signer.to_string());
    let amount = receipt.cost_up().map_or_else(|error| error.to_string(), |cost| cost.get().to_string());
    let proof = proof::check(receipt, &bundle.windows).map_or_else(|error| error.to_string(), |()| "complete".to_owned());
    vec![
        check("request_id", &bundle.request_id, &receipt.request_id),
        check("chain_id", &known.chain_id, &bundle.chain_id),
        check("settlement", &known.contract, &bundle.settlement),
        check("signer", &bundle.node, &signer),
        check("prompt_tokens", &receipt.prompt_tokens, &bundle.prompt_token_ids.len()),
        check("prompt_hash", &receipt.prompt_hash, &tokens_hash(&bundle.prompt_token_ids)),
        check("completion_tokens", &receipt.completion_tokens, &bundle.token_ids.len()),
        check("completion_hash", &receipt.completion_hash, &tokens_hash(&bundle.token_ids)),
        check("params_hash", &receipt.params_hash, &bundle.params.hash()),
        check("amount", &receipt.amount.get(), &amount),
        check("proof", &"complete", &proof),
    ]
}

fn check(name: &'static str, expected: &impl ToString, found: &impl ToString) -> Check {
    let (expected, found) = (expected.to_string(), found.to_string());
    Check { name, equal: expected == found, expected, found }
}

/// Pairs by index; a window that only one side has is not equal.
fn window_checks(prompt_tokens: usize, committed: &[Window], computed: &[Window]) -> Vec<WindowCheck> {
    let longest = if committed.len() > computed.len() { committed } else { computed };
    let pair = |(place, shape): (usize, &Window)| {
        let (left, right) = (committed.get(place), computed.get(place));
        WindowCheck {
            index: shape.index,
            part: if (shape.first_position as usize) < prompt_tokens { "prompt" } else { "completion" },
            first_position: shape.first_position,
            count: shape.count,
            equal: left == right,
            committed: left.map(|window| window.digest),
            computed: right.map(|window| window.digest),
        }
    };
    longest.iter().enumerate().map(pair).collect()
}
