//! Properties of the plan over random feeds and chain views.

use proptest::prelude::*;
use wire::ModelRate;

use super::*;

const NOW: u64 = 10_000;
const LIMITS: Limits = Limits { rows_max: 1_000, receipts_max: 10_000, velocity_window_s: 60, urgent_s: 100 };

fn receipt(id: u64, account: u32, operator: u32, amount: u64, served_at: u64) -> ServiceReceipt {
    ServiceReceipt {
        request_id: wire::keccak256(id.to_be_bytes()),
        account: AccountId(account),
        operator: OperatorId(operator),
        model_root: B256::ZERO,
        engine: B256::ZERO,
        prompt_tokens: 0,
        completion_tokens: 1,
        model_rate: ModelRate(1),
        amount: Credits::new(amount).unwrap(),
        prompt_hash: B256::ZERO,
        completion_hash: B256::ZERO,
        params_hash: B256::ZERO,
        proof_root: B256::ZERO,
        started_at: served_at,
        served_at,
    }
}

fn carry(account: u32, operator: u32, amount: u64) -> Carry {
    Carry { account: AccountId(account), operator: OperatorId(operator), amount: Credits::new(amount).unwrap() }
}

fn account(settled: u64, limit: u64, exposure: u64) -> AccountState {
    AccountState { settled, limit, exposure, last_settled_at: 0, settle_deadline: NOW * 2 }
}

fn leaf(receipt: &ServiceReceipt) -> B256 {
    merkle::receipt_leaf(receipt.request_id)
}

fn plan_all(
    receipts: &[ServiceReceipt],
    carries: &[Carry],
    accounts: &BTreeMap<AccountId, AccountState>,
    limits: &Limits,
) -> Option<Batch> {
    plan(receipts, carries, accounts, limits, NOW, leaf).unwrap()
}

fn accounts_strategy() -> impl Strategy<Value = BTreeMap<AccountId, AccountState>> {
    let state = (0u64..1_000, 0u64..3_000, 0u64..2_000, NOW - 120..=NOW, NOW - 50..NOW + 500).prop_map(
        |(settled, above, exposure, last_settled_at, settle_deadline)| AccountState {
            settled,
            limit: settled + above,
            exposure,
            last_settled_at,
            settle_deadline,
        },
    );
    prop::collection::btree_map((1u32..8).prop_map(AccountId), state, 0..8)
}

fn receipts_strategy() -> impl Strategy<Value = Vec<ServiceReceipt>> {
    prop::collection::vec((1u32..8, 1u32..5, 0u64..400, 0u64..NOW), 0..60).prop_map(|items| {
        items
            .into_iter()
            .enumerate()
            .map(|(id, (account, operator, amount, at))| receipt(id as u64, account, operator, amount, at))
            .collect()
    })
}

fn carries_strategy() -> impl Strategy<Value = Vec<Carry>> {
    prop::collection::btree_map((1u32..8, 1u32..5), 1u64..400, 0..6)
        .prop_map(|items| items.into_iter().map(|((account, operator), amount)| carry(account, operator, amount)).collect())
}

proptest! {
    #[test]
    fn the_order_of_the_feed_changes_nothing(
        accounts in accounts_strategy(),
        (receipts, shuffled) in receipts_strategy().prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle())),
        (carries, shuffled_carries) in carries_strategy().prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle())),
        rows_max in 1usize..12,
        receipts_max in 1usize..40,
    ) {
        let limits = Limits { rows_max, receipts_max, ..LIMITS };
        prop_assert_eq!(
            plan_all(&receipts, &carries, &accounts, &limits),
            plan_all(&shuffled, &shuffled_carries, &accounts, &limits)
        );
    }

    #[test]
    fn sums_are_exact_cumulatives_ascend_and_no_clamp_is_crossed(
        accounts in accounts_strategy(),
        receipts in receipts_strategy(),
        carries in carries_strategy(),
        rows_max in 1usize..12,
        receipts_max in 1usize..40,
    ) {
        let limits = Limits { rows_max, receipts_max, ..LIMITS };
        let Some(batch) = plan_all(&receipts, &carries, &accounts, &limits) else { return Ok(()) };

        let inside: Vec<&ServiceReceipt> = receipts.iter().filter(|r| batch.receipts.contains(&r.request_id)).collect();
        let items: u64 = inside.iter().map(|r| r.amount.get()).chain(batch.carries.iter().map(|c| c.amount.get())).sum();
        prop_assert_eq!(batch.total.get(), items);
        prop_assert_eq!(batch.amounts.iter().map(|a| a.credits.get()).sum::<u64>(), items);
        prop_assert_eq!(&row_amounts(&batch.groups, &accounts).unwrap(), &batch.amounts);
        prop_assert!(batch.receipts.is_sorted() && batch.receipts.len() <= receipts_max);

        let rows: Vec<Row> = batch.groups.iter().flat_map(|group| group.rows.clone()).collect();
        prop_assert!(rows.len() <= rows_max);
        prop_assert!(batch.groups.windows(2).all(|pair| pair[0].operator < pair[1].operator));
        prop_assert!(batch.groups.iter().all(|group| group.rows.windows(2).all(|pair| pair[0].account < pair[1].account)));
        for (id, state) in &accounts {
            let cumulatives: Vec<u64> = rows.iter().filter(|row| row.account == *id).map(|row| row.cumulative).collect();
            prop_assert!(cumulatives.windows(2).all(|pair| pair[0] < pair[1]));
            if let (Some(first), Some(last)) = (cumulatives.first(), cumulatives.last()) {
                prop_assert!(*first > state.settled && *last <= state.limit && *last <= state.settled + state.exposure);
                prop_assert!(NOW >= state.last_settled_at + LIMITS.velocity_window_s && NOW <= state.settle_deadline);
            }
        }

        let proposal = batch.proposal(7, NOW + 60).unwrap();
        prop_assert_eq!(rows::decode(&proposal.rows).unwrap(), batch.groups);
        let waiting: usize = batch.waiting.values().sum();
        let payable = receipts.iter().filter(|r| r.amount > Credits::ZERO).count() + carries.len();
        prop_assert_eq!(waiting + batch.receipts.len() + batch.carries.len(), payable);
    }

    #[test]
    fn every_receipt_inside_has_a_proof_under_the_root(accounts in accounts_strategy(), receipts in receipts_strategy()) {
        let Some(batch) = plan_all(&receipts, &[], &accounts, &LIMITS) else { return Ok(()) };
        let leaves: Vec<B256> = batch.receipts.iter().map(|id| merkle::receipt_leaf(*id)).collect();
        for (index, leaf) in leaves.iter().enumerate() {
            prop_assert!(merkle::verify(batch.receipts_root, *leaf, &merkle::proof(&leaves, index).unwrap()));
        }
    }
}

#[test]
fn one_account_in_two_groups_ascends_from_what_is_settled() {
    let accounts = BTreeMap::from([(AccountId(3), account(100, 1_000, 500))]);
    let receipts = [receipt(1, 3, 9, 40, 5), receipt(2, 3, 2, 60, 6), receipt(3, 3, 9, 1, 7)];
    let batch = plan_all(&receipts, &[carry(3, 2, 10)], &accounts, &LIMITS).unwrap();
    let row = |cumulative| vec![Row { account: AccountId(3), cumulative }];
    assert_eq!(batch.groups, [Group { operator: OperatorId(2), rows: row(170) }, Group { operator: OperatorId(9), rows: row(211) }]);
    assert_eq!((batch.total.get(), batch.oldest_served_at, batch.urgent), (111, Some(5), false));
    assert!(batch.waiting.is_empty());
}

#[test]
fn a_receipt_beyond_the_exposure_waits_whole_and_a_smaller_one_goes() {
    let accounts = BTreeMap::from([(AccountId(1), account(0, 1_000, 100))]);
    let receipts = [receipt(1, 1, 1, 80, 1), receipt(2, 1, 1, 30, 2), receipt(3, 1, 1, 20, 3)];
    let batch = plan_all(&receipts, &[], &accounts, &LIMITS).unwrap();
    assert_eq!(batch.total.get(), 100);
    assert_eq!(batch.waiting, BTreeMap::from([(Wait::Room, 1)]));
}

#[test]
fn an_account_within_its_window_or_past_its_deadline_waits() {
    let young = AccountState { last_settled_at: NOW - 59, ..account(0, 100, 100) };
    let over = AccountState { settle_deadline: NOW - 1, ..account(0, 100, 100) };
    let accounts = BTreeMap::from([(AccountId(1), young), (AccountId(2), over)]);
    let receipts = [receipt(1, 1, 1, 5, 1), receipt(2, 2, 1, 5, 1), receipt(3, 3, 1, 5, 1)];
    assert_eq!(plan_all(&receipts, &[], &accounts, &LIMITS), None);
    let at_the_edge = BTreeMap::from([(AccountId(1), AccountState { last_settled_at: NOW - 60, ..young })]);
    let batch = plan_all(&receipts, &[], &at_the_edge, &LIMITS).unwrap();
    assert_eq!((batch.total.get(), batch.waiting), (5, BTreeMap::from([(Wait::NotLive, 2)])));
}

#[test]
fn a_small_young_batch_waits_unless_it_is_urgent() {
    let late = AccountState { settle_deadline: NOW + 99, ..account(0, 100, 100) };
    let calm = BTreeMap::from([(AccountId(1), account(0, 100, 100))]);
    let receipts = [receipt(1, 1, 1, 5, NOW - 10)];
    let batch = plan_all(&receipts, &[], &calm, &LIMITS).unwrap();
    assert!(!batch.is_due(6, 11, NOW) && batch.is_due(5, 11, NOW) && batch.is_due(6, 10, NOW));
    let batch = plan_all(&receipts, &[], &BTreeMap::from([(AccountId(1), late)]), &LIMITS).unwrap();
    assert!(batch.urgent && batch.is_due(6, 11, NOW));
}

#[test]
fn amounts_near_the_end_of_the_range_are_an_error_or_wait_and_never_wrap() {
    let accounts = BTreeMap::from([(AccountId(1), account(u64::MAX - 10, u64::MAX, u64::MAX))]);
    let receipts = [receipt(1, 1, 1, Credits::MAX.get(), 1), receipt(2, 1, 1, 10, 2)];
    let batch = plan_all(&receipts, &[], &accounts, &LIMITS).unwrap();
    assert_eq!(batch.groups[0].rows[0].cumulative, u64::MAX);
    assert_eq!(batch.waiting, BTreeMap::from([(Wait::Room, 1)]));
}
