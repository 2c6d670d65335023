//! Which receipts of a feed may be settled. A bad one is set aside with its reason; it never holds up the others.

use std::collections::{BTreeMap, BTreeSet};

use alloy::primitives::Address;
use alloy::sol_types::Eip712Domain;
use thiserror::Error;
use wire::receipt::ServiceReceipt;
use wire::settlement::{Carry, Feed, SignedReceipt};
use wire::typed::TypedError;
use wire::{AccountId, AmountError, B256, Credits, OperatorId};

/// How far the node's clock may run ahead of ours, seconds (`docs/protocol.md`, section 5).
const CLOCK_AHEAD_S_MAX: u64 = 60;

/// What the registry says of a node key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeOwner {
    /// Whose key it is.
    pub operator: OperatorId,
    /// When it was removed; zero while it stands.
    pub until: u64,
}

/// What the chain knows of those whom a feed names.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Owners of the node keys; a key that is missing belongs to nobody.
    pub nodes: BTreeMap<Address, NodeOwner>,
    /// Operators that the vault can credit.
    pub payable: BTreeSet<OperatorId>,
}

/// A feed with the bad ones set aside.
#[derive(Debug, Default)]
pub struct Verified {
    /// Fit to be settled.
    pub receipts: Vec<ServiceReceipt>,
    /// Fit to be settled.
    pub carries: Vec<Carry>,
    /// What was set aside, and why.
    pub excluded: Vec<(B256, Exclusion)>,
}

/// Checks every receipt of `feed`: sane fields, amount equal to the cost, signature by the node key, the key the operator's
/// when it served (as the contract's `verifyReceipt`), and an operator that the vault can credit.
pub fn verify(feed: &Feed, known: &Known, domain: &Eip712Domain, now: u64) -> Verified {
    let mut verified = Verified::default();
    let mut seen = BTreeSet::new();
    for signed in &feed.receipts {
        let request_id = signed.receipt.request_id;
        let checked = if seen.insert(request_id) { check(signed, known, domain, now) } else { Err(Exclusion::Duplicate) };
        match checked {
            Ok(()) => verified.receipts.push(signed.receipt.clone()),
            Err(exclusion) => verified.excluded.push((request_id, exclusion)),
        }
    }
    verified.carries = feed.carries.iter().filter(|carry| known.payable.contains(&carry.operator)).copied().collect();
    verified
}

fn check(signed: &SignedReceipt, known: &Known, domain: &Eip712Domain, now: u64) -> Result<(), Exclusion> {
    let receipt = &signed.receipt;
    if receipt.request_id == B256::ZERO || receipt.account == AccountId(0) || receipt.operator == OperatorId(0) {
        return Err(Exclusion::Unnamed);
    }
    if receipt.served_at < receipt.started_at || receipt.served_at > now.saturating_add(CLOCK_AHEAD_S_MAX) {
        return Err(Exclusion::Time { started_at: receipt.started_at, served_at: receipt.served_at, now });
    }
    let cost = receipt.cost_up().map_err(Exclusion::Cost)?;
    if receipt.amount != cost {
        return Err(Exclusion::Amount { amount: receipt.amount, cost });
    }
    if cost == Credits::ZERO {
        return Err(Exclusion::Nothing);
    }
    let signer = receipt.signer(domain, &signed.signature).map_err(Exclusion::Signature)?;
    if signer != signed.node {
        return Err(Exclusion::Signer { signer, node: signed.node });
    }
    let owner = known.nodes.get(&signer).copied().unwrap_or(NodeOwner { operator: OperatorId(0), until: 0 });
    if owner.operator != receipt.operator {
        return Err(Exclusion::NotTheOperators { node: signer, owner: owner.operator, operator: receipt.operator });
    }
    if owner.until != 0 && receipt.served_at > owner.until {
        return Err(Exclusion::KeyRemoved { node: signer, until: owner.until, served_at: receipt.served_at });
    }
    if !known.payable.contains(&receipt.operator) {
        return Err(Exclusion::NotPayable { operator: receipt.operator });
    }
    Ok(())
}

/// Why a receipt is not settled.
#[derive(Debug, Error)]
pub enum Exclusion {
    /// A zero where an id must be.
    #[error("request id, account and operator must not be zero")]
    Unnamed,
    /// The same request twice in one feed.
    #[error("the request stands twice in the feed")]
    Duplicate,
    /// Ended before it began, or in the future.
    #[error("served at {served_at}, which must lie between its start {started_at} and now {now} + {CLOCK_AHEAD_S_MAX} s")]
    Time {
        /// When it began.
        started_at: u64,
        /// When it ended.
        served_at: u64,
        /// Our clock.
        now: u64,
    },
    /// Counts and rate give no amount.
    #[error("its cost: {0}")]
    Cost(AmountError),
    /// Another amount than counts and rate give.
    #[error("amount {} credits, but the tokens cost {} credits", amount.get(), cost.get())]
    Amount {
        /// What it says.
        amount: Credits,
        /// What it should say.
        cost: Credits,
    },
    /// No credits at all.
    #[error("it costs nothing, so there is nothing to settle")]
    Nothing,
    /// Not a signature.
    #[error("its signature: {0}")]
    Signature(TypedError),
    /// Signed by another key.
    #[error("signed by {signer}, not by its node {node}")]
    Signer {
        /// Who signed.
        signer: Address,
        /// Who should have.
        node: Address,
    },
    /// The registry gives the key to somebody else, or to nobody (0).
    #[error("node key {node} belongs to operator {owner}, not to {operator}")]
    NotTheOperators {
        /// Which key.
        node: Address,
        /// Whose it is; zero for nobody's.
        owner: OperatorId,
        /// Whose it should be.
        operator: OperatorId,
    },
    /// Served after the key was removed.
    #[error("node key {node} was removed at {until}, before it served at {served_at}")]
    KeyRemoved {
        /// Which key.
        node: Address,
        /// When it was removed.
        until: u64,
        /// When it served.
        served_at: u64,
    },
    /// The vault has no payout address, and would refuse the whole batch.
    #[error("operator {operator} has no payout address in the vault")]
    NotPayable {
        /// Which operator.
        operator: OperatorId,
    },
    /// The meter did not sign a batch of this receipt alone.
    #[error("the meter refused it alone: {reason}")]
    Refused {
        /// What the meter said.
        reason: String,
    },
}

impl Exclusion {
    /// One word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Unnamed => "unnamed",
            Self::Duplicate => "duplicate",
            Self::Time { .. } => "time",
            Self::Cost(_) | Self::Amount { .. } => "amount",
            Self::Nothing => "nothing",
            Self::Signature(_) | Self::Signer { .. } => "signature",
            Self::NotTheOperators { .. } | Self::KeyRemoved { .. } => "node_key",
            Self::NotPayable { .. } => "not_payable",
            Self::Refused { .. } => "refused",
        }
    }
}

#[cfg(test)]
mod tests {
    use alloy::signers::local::PrivateKeySigner;
    use wire::{ModelRate, typed};

    use super::*;

    const NOW: u64 = 5_000;

    fn domain() -> Eip712Domain {
        typed::settlement_domain(31_337, Address::repeat_byte(9))
    }

    fn receipt() -> ServiceReceipt {
        ServiceReceipt {
            request_id: B256::repeat_byte(1),
            account: AccountId(1),
            operator: OperatorId(2),
            model_root: B256::ZERO,
            engine: B256::ZERO,
            prompt_tokens: 400,
            completion_tokens: 20,
            model_rate: ModelRate(1_000_000),
            amount: Credits::new(420).unwrap(),
            prompt_hash: B256::ZERO,
            completion_hash: B256::ZERO,
            params_hash: B256::ZERO,
            proof_root: B256::ZERO,
            started_at: NOW - 10,
            served_at: NOW - 5,
        }
    }

    fn signed(receipt: ServiceReceipt, key: &PrivateKeySigner) -> SignedReceipt {
        let signature = typed::sign(&receipt.typed(), &domain(), key).unwrap();
        SignedReceipt { receipt, signature: signature.to_vec().into(), node: key.address() }
    }

    #[test]
    fn each_lie_is_set_aside_by_its_name_and_the_honest_one_stays() {
        let (key, stranger, removed) = (PrivateKeySigner::random(), PrivateKeySigner::random(), PrivateKeySigner::random());
        let owner = |until| NodeOwner { operator: OperatorId(2), until };
        let known = Known {
            nodes: BTreeMap::from([(key.address(), owner(0)), (removed.address(), owner(NOW - 6))]),
            payable: BTreeSet::from([OperatorId(2)]),
        };
        let cases: Vec<(&str, SignedReceipt)> = vec![
            ("unnamed", signed(ServiceReceipt { account: AccountId(0), ..receipt() }, &key)),
            ("time", signed(ServiceReceipt { served_at: NOW + 61, ..receipt() }, &key)),
            ("time", signed(ServiceReceipt { served_at: NOW - 11, ..receipt() }, &key)),
            ("amount", signed(ServiceReceipt { amount: Credits::new(421).unwrap(), ..receipt() }, &key)),
            ("amount", signed(ServiceReceipt { model_rate: ModelRate(u64::MAX), ..receipt() }, &key)),
            ("nothing", signed(ServiceReceipt { model_rate: ModelRate(0), amount: Credits::ZERO, ..receipt() }, &key)),
            ("signature", SignedReceipt { signature: vec![7; 65].into(), ..signed(receipt(), &key) }),
            ("signature", SignedReceipt { signature: vec![].into(), ..signed(receipt(), &key) }),
            ("signature", SignedReceipt { node: key.address(), ..signed(receipt(), &stranger) }),
            ("node_key", signed(receipt(), &stranger)),
            ("node_key", signed(ServiceReceipt { operator: OperatorId(3), ..receipt() }, &key)),
            ("node_key", signed(receipt(), &removed)),
        ];
        for (index, (expected, lie)) in cases.into_iter().enumerate() {
            let honest = signed(ServiceReceipt { request_id: B256::repeat_byte(2), ..receipt() }, &key);
            let feed = Feed { next_seq: 1, receipts: vec![lie, honest.clone()], carries: vec![] };
            let verified = verify(&feed, &known, &domain(), NOW);
            let labels: Vec<&str> = verified.excluded.iter().map(|(_, exclusion)| exclusion.label()).collect();
            assert_eq!(labels, [expected], "case {index}");
            assert_eq!(verified.receipts, [honest.receipt], "case {index}");
        }
    }

    #[test]
    fn an_operator_whom_the_vault_cannot_credit_is_left_out_with_its_carries() {
        let key = PrivateKeySigner::random();
        let known = Known { nodes: BTreeMap::from([(key.address(), NodeOwner { operator: OperatorId(2), until: 0 })]), ..Known::default() };
        let carry = Carry { account: AccountId(1), operator: OperatorId(2), amount: Credits::new(1).unwrap() };
        let feed = Feed { next_seq: 1, receipts: vec![signed(receipt(), &key)], carries: vec![carry] };
        let verified = verify(&feed, &known, &domain(), NOW);
        assert_eq!((verified.receipts.len(), verified.carries.len()), (0, 0));
        assert_eq!(verified.excluded[0].1.label(), "not_payable");
    }
}
