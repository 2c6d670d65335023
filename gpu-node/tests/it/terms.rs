//! Which receipts are signed on request: every field that could cost somebody money is moved once.

use gpu_node::link::terms::{Answer, Decline, Terms, check_sign_request};
use proptest::prelude::*;
use wire::receipt::{ServiceReceipt, tokens_hash};
use wire::{AccountId, B256, Credits, ModelRate, OperatorId};

use crate::rig::{NOW_S, OPERATOR, job, model};

fn answer() -> Answer {
    Answer { terms: Terms::of(&job(1), &model()), completion: vec![10, 11, 12], proof_root: B256::repeat_byte(0xcc) }
}

fn own() -> ServiceReceipt {
    answer().terms.receipt(&[10, 11, 12], B256::repeat_byte(0xcc), NOW_S).unwrap()
}

fn check(receipt: &ServiceReceipt, remembered: bool) -> Result<(), Decline> {
    check_sign_request(receipt, OPERATOR, &[model()], remembered.then(answer).as_ref(), NOW_S)
}

fn priced(mut receipt: ServiceReceipt) -> ServiceReceipt {
    receipt.amount = receipt.cost_up().unwrap();
    receipt
}

#[test]
fn what_was_served_or_less_is_signed() {
    assert_eq!(check(&own(), true), Ok(()));
    for (count, tokens) in [(0, &[][..]), (1, &[10]), (3, &[10, 11, 12])] {
        let fewer = own().for_fewer(count, tokens_hash(tokens)).unwrap();
        assert_eq!(check(&fewer, true), Ok(()), "{count}");
        assert_eq!(check(&fewer, false), Ok(()), "{count}");
    }
}

#[test]
fn whatever_differs_from_what_was_served_is_declined() {
    let other = B256::repeat_byte(0xee);
    let moved = [
        ServiceReceipt { operator: OperatorId(8), ..own() },
        ServiceReceipt { account: AccountId(4), ..own() },
        ServiceReceipt { model_root: other, ..own() },
        ServiceReceipt { engine: other, ..own() },
        ServiceReceipt { amount: Credits::new(1).unwrap(), ..own() },
        priced(ServiceReceipt { prompt_tokens: 4, ..own() }),
        priced(ServiceReceipt { completion_tokens: 4, ..own() }),
        priced(ServiceReceipt { completion_tokens: 2, ..own() }),
        priced(ServiceReceipt { model_rate: ModelRate(1), ..own() }),
        ServiceReceipt { model_rate: ModelRate(u64::MAX), ..own() },
        ServiceReceipt { prompt_hash: other, ..own() },
        ServiceReceipt { completion_hash: other, ..own() },
        ServiceReceipt { params_hash: other, ..own() },
        ServiceReceipt { proof_root: other, ..own() },
        ServiceReceipt { started_at: own().started_at - 1, ..own() },
        ServiceReceipt { served_at: own().started_at - 1, ..own() },
        ServiceReceipt { served_at: NOW_S + 61, ..own() },
    ];
    for receipt in moved {
        let declined = check(&receipt, true);
        assert!(declined.is_err(), "{receipt:?}");
    }
}

#[test]
fn a_node_that_forgot_stands_for_no_proof() {
    assert_eq!(check(&own(), false), Err(Decline::Field { field: "proof_root" }));
}

#[test]
fn a_clock_behind_the_meters_counts_as_the_start() {
    let receipt = answer().terms.receipt(&[], B256::ZERO, 0).unwrap();
    assert_eq!(receipt.served_at, job(1).started_at);
}

proptest! {
    /// No receipt is signed that claims a token more, a credit more or another answer than was served.
    #[test]
    fn a_signed_receipt_never_claims_more(completion_tokens in 0u32..8, tokens in prop::collection::vec(9u32..14, 0..5), amount in 0u64..100_000) {
        let receipt = ServiceReceipt {
            completion_tokens,
            completion_hash: tokens_hash(&tokens),
            amount: Credits::new(amount).unwrap(),
            proof_root: B256::ZERO,
            ..own()
        };
        if check(&receipt, true).is_ok() {
            prop_assert!(completion_tokens <= 3);
            prop_assert_eq!(&tokens[..], &[10, 11, 12][..completion_tokens as usize]);
            prop_assert!(receipt.amount <= own().amount);
        }
    }
}
