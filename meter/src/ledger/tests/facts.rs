use super::*;

behaviours!(
    deposits_and_withdrawals_move_what_is_available,
    a_withdrawal_of_spent_credits_is_written_off_and_paid_back_by_the_next_deposit,
    a_reorg_takes_a_deposit_back_even_when_it_is_spent,
    a_block_that_left_and_came_back_counts_again,
    facts_that_leave_out_a_deposit_are_refused_whole,
    a_step_from_another_point_changes_nothing,
    a_ledger_follows_one_vault_for_ever,
    a_revocation_stops_spending_and_a_reorg_restores_it,
    node_keys_belong_to_their_operator_from_and_until,
    pending_accounts_and_deposits_are_shown_and_not_spendable,
);

async fn deposits_and_withdrawals_move_what_is_available(ground: Ground) {
    let ledger = ground.open().await;
    let mut chain = TestChain::new();
    chain.mine(&ledger, vec![opened(PAYER), deposited(PAYER, 100, 100)]).await;
    chain.mine(&ledger, vec![deposited(PAYER, 50, 150)]).await;
    chain.mine(&ledger, vec![Fact::Withdrawn { account: PAYER, amount: 120, net_deposited: 30 }]).await;

    let view = ledger.credits(PAYER).await.unwrap();
    assert_eq!((view.available, view.deposited, view.authorization), (credits(30), credits(30), None));
    let account = ledger.account_of_wallet(wallet(PAYER)).await.unwrap().unwrap();
    assert_eq!((account.account, account.wallet, account.confirmed), (PAYER, wallet(PAYER), true));
    assert_clean(&ledger).await;
}

async fn a_withdrawal_of_spent_credits_is_written_off_and_paid_back_by_the_next_deposit(ground: Ground) {
    let ledger = ground.open().await;
    let mut chain = TestChain::new();
    fund(&ledger, &mut chain, PAYER, 100).await;
    ledger.hold(hold(PAYER, 1, 60)).await.unwrap();
    ledger.capture(capture(receipt(PAYER, 1, 50), Some(signature()))).await.unwrap();
    ledger.hold(hold(PAYER, 2, 20)).await.unwrap();

    chain.mine(&ledger, vec![Fact::Withdrawn { account: PAYER, amount: 100, net_deposited: 0 }]).await;
    assert_eq!(money(&ledger, PAYER).await, (0, 20, 50));
    assert_clean(&ledger).await;
    ledger.release(id(2), "cancelled").await.unwrap();
    assert_eq!(money(&ledger, PAYER).await, (0, 0, 50));
    chain.mine(&ledger, vec![deposited(PAYER, 80, 80)]).await;
    assert_eq!(money(&ledger, PAYER).await, (30, 0, 50));
    assert_clean(&ledger).await;
}

async fn a_reorg_takes_a_deposit_back_even_when_it_is_spent(ground: Ground) {
    let ledger = ground.open().await;
    let mut chain = TestChain::new();
    fund(&ledger, &mut chain, PAYER, 100).await;
    let fork = chain.clone();
    chain.mine(&ledger, vec![deposited(PAYER, 900, 1_000), authorized(PAYER, 1_000, 1_000)]).await;
    ledger.hold(hold(PAYER, 1, 700)).await.unwrap();

    let undone = ledger.rewind(ORIGIN, chain.tip.unwrap(), fork.tip.unwrap()).await.unwrap();
    assert_eq!(undone, Stepped::Done(2));
    assert_eq!(money(&ledger, PAYER).await, (0, 700, 0));
    let view = ledger.credits(PAYER).await.unwrap();
    assert_eq!((view.deposited, view.authorization.unwrap().exposure), (credits(100), credits(100)));
    assert_clean(&ledger).await;

    ledger.release(id(1), "cancelled").await.unwrap();
    assert_eq!(money(&ledger, PAYER).await, (100, 0, 0));
    let mut fork = TestChain { salt: 1, ..fork };
    fork.mine(&ledger, vec![deposited(PAYER, 5, 105)]).await;
    assert_eq!(money(&ledger, PAYER).await, (105, 0, 0));
    assert_clean(&ledger).await;
}

async fn a_block_that_left_and_came_back_counts_again(ground: Ground) {
    let ledger = ground.open().await;
    let mut chain = TestChain::new();
    fund(&ledger, &mut chain, PAYER, 100).await;
    let before = chain.clone();
    let block = chain.block(vec![deposited(PAYER, 900, 1_000)]);
    for _ in 0..3 {
        assert_eq!(ledger.advance(block.clone()).await.unwrap(), Stepped::Done(1));
        assert_eq!(money(&ledger, PAYER).await, (1_000, 0, 0));
        ledger.rewind(ORIGIN, chain.tip.unwrap(), before.tip.unwrap()).await.unwrap();
        assert_eq!(money(&ledger, PAYER).await, (100, 0, 0));
        assert_clean(&ledger).await;
    }
}

async fn facts_that_leave_out_a_deposit_are_refused_whole(ground: Ground) {
    let ledger = ground.open().await;
    let mut chain = TestChain::new();
    fund(&ledger, &mut chain, PAYER, 100).await;
    let mut other = chain.clone();
    let gap = ledger.advance(other.block(vec![deposited(PAYER, 10, 110), deposited(PAYER, 10, 140)])).await;
    assert!(matches!(gap, Err(FactError::NetDeposited { ledger: 120, chain: 140, .. })));
    let mut other = chain.clone();
    let unopened = ledger.advance(other.block(vec![deposited(AccountId(2), 10, 10)])).await;
    assert!(matches!(unopened, Err(FactError::UnopenedAccount { account: AccountId(2) })));
    assert_eq!(money(&ledger, PAYER).await, (100, 0, 0));
    chain.mine(&ledger, vec![deposited(PAYER, 10, 110)]).await;
    assert_clean(&ledger).await;
}

async fn a_step_from_another_point_changes_nothing(ground: Ground) {
    let ledger = ground.open().await;
    let mut chain = TestChain::new();
    fund(&ledger, &mut chain, PAYER, 100).await;
    let block = chain.block(vec![deposited(PAYER, 10, 110)]);
    ledger.advance(block.clone()).await.unwrap();
    assert_eq!(ledger.advance(block).await.unwrap(), Stepped::Stale);
    assert_eq!(ledger.advance(TestChain::new().block(vec![])).await.unwrap(), Stepped::Stale);
    assert_eq!(money(&ledger, PAYER).await, (110, 0, 0));
    assert_clean(&ledger).await;
}

async fn a_ledger_follows_one_vault_for_ever(ground: Ground) {
    let ledger = ground.open().await;
    let mut chain = TestChain::new();
    fund(&ledger, &mut chain, PAYER, 100).await;
    let other = ChainOrigin { chain_id: 1, ..ORIGIN };
    let step = Advance { origin: other, ..chain.block(vec![deposited(PAYER, 10, 110)]) };
    assert!(matches!(ledger.advance(step).await, Err(FactError::Origin { stored: ORIGIN, given }) if given == other));
    assert_eq!(money(&ledger, PAYER).await, (100, 0, 0));
}

async fn a_revocation_stops_spending_and_a_reorg_restores_it(ground: Ground) {
    let ledger = ground.open().await;
    let mut chain = TestChain::new();
    fund(&ledger, &mut chain, PAYER, 100).await;
    let before = chain.clone();
    let revoked = Fact::Revoked { account: PAYER, authorized_cum: 100, settle_deadline: NOW + 3_600, nonce: 1 };
    chain.mine(&ledger, vec![revoked]).await;
    assert!(matches!(ledger.hold(hold(PAYER, 1, 10)).await, Err(HoldRefusal::AuthorizationRequired { .. })));
    let authorization = ledger.credits(PAYER).await.unwrap().authorization.unwrap();
    assert_eq!((authorization.live, authorization.next_nonce, authorization.valid_until), (false, 2, 0));

    ledger.rewind(ORIGIN, chain.tip.unwrap(), before.tip.unwrap()).await.unwrap();
    ledger.hold(hold(PAYER, 1, 10)).await.unwrap();
    assert_clean(&ledger).await;
}

async fn node_keys_belong_to_their_operator_from_and_until(ground: Ground) {
    let ledger = ground.open().await;
    let mut chain = TestChain::new();
    assert_eq!(ledger.node_operator(NODE).await.unwrap(), None);
    let operator = Fact::OperatorRegistered { operator: OPERATOR, owner: VAULT, payout: VAULT };
    chain.mine(&ledger, vec![operator, Fact::NodeKeyAdded { operator: OPERATOR, node: NODE }]).await;
    let owner = NodeOwner { operator: OPERATOR, since: NOW + 1, until: None };
    assert_eq!(ledger.node_operator(NODE).await.unwrap(), Some(owner));

    let before = chain.clone();
    chain.mine(&ledger, vec![Fact::NodeKeyRemoved { operator: OPERATOR, node: NODE }]).await;
    assert_eq!(ledger.node_operator(NODE).await.unwrap(), Some(NodeOwner { until: Some(NOW + 2), ..owner }));
    ledger.rewind(ORIGIN, chain.tip.unwrap(), before.tip.unwrap()).await.unwrap();
    assert_eq!(ledger.node_operator(NODE).await.unwrap(), Some(owner));
}

async fn pending_accounts_and_deposits_are_shown_and_not_spendable(ground: Ground) {
    let ledger = ground.open().await;
    let pending = Pending { deposits: [(PAYER, credits(70))].into(), opened: [(wallet(PAYER), PAYER)].into() };
    ledger.set_pending(pending);
    let account = ledger.account_of_wallet(wallet(PAYER)).await.unwrap().unwrap();
    assert_eq!((account.account, account.confirmed), (PAYER, false));
    let view = ledger.credits(PAYER).await.unwrap();
    assert_eq!((view.pending_deposits, view.available, view.spendable), (credits(70), Credits::ZERO, Credits::ZERO));
}
