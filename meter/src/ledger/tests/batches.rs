use std::collections::BTreeMap;

use wire::settlement::{BatchProposal, Carry, Feed};
use wire::{fee_down, merkle, rows};

use super::*;

behaviours!(
    a_batch_is_signed_stored_and_booked_when_it_is_on_chain,
    a_taken_number_is_refused_with_the_batch_that_stands,
    a_batch_that_the_books_do_not_make_is_refused,
    a_short_row_becomes_a_carry_that_the_next_batch_takes,
    a_batch_whose_block_left_the_chain_is_booked_again,
    a_batch_that_was_not_signed_here_is_refused,
);

const DEADLINE: u64 = NOW + 600;

/// What an honest keeper makes of a feed, for one account.
pub(super) fn propose(feed: &Feed, settled: &BTreeMap<AccountId, u64>) -> BatchProposal {
    let mut due = BTreeMap::<(OperatorId, AccountId), u64>::new();
    for signed in &feed.receipts {
        *due.entry((signed.receipt.operator, signed.receipt.account)).or_default() += signed.receipt.amount.get();
    }
    for carry in &feed.carries {
        *due.entry((carry.operator, carry.account)).or_default() += carry.amount.get();
    }
    let mut debits = settled.clone();
    let mut groups = Vec::<rows::Group>::new();
    for ((operator, account), amount) in due {
        let cumulative = debits.entry(account).or_default();
        *cumulative += amount;
        let row = rows::Row { account, cumulative: *cumulative };
        match groups.last_mut() {
            Some(group) if group.operator == operator => group.rows.push(row),
            _ => groups.push(rows::Group { operator, rows: vec![row] }),
        }
    }
    let mut receipts: Vec<&ServiceReceipt> = feed.receipts.iter().map(|signed| &signed.receipt).collect();
    receipts.sort_by_key(|receipt| receipt.request_id);
    let leaves: Vec<B256> = receipts.iter().map(|receipt| merkle::receipt_leaf(receipt.digest(&domain()))).collect();
    BatchProposal {
        seq: feed.next_seq,
        receipts: receipts.iter().map(|receipt| receipt.request_id).collect(),
        carries: feed.carries.clone(),
        rows: rows::encode(&groups).unwrap().into(),
        receipts_root: merkle::root(&leaves).unwrap(),
        deadline: DEADLINE,
    }
}

pub(super) async fn serve(ledger: &Ledger, account: AccountId, seed: u64, operator: OperatorId, amount: u32) {
    ledger.hold(hold(account, seed, amount)).await.unwrap();
    let receipt = ServiceReceipt { operator, ..receipt(account, seed, amount) };
    ledger.capture(capture(receipt, Some(signature()))).await.unwrap();
}

pub(super) fn settled(proposal: &BatchProposal, debited: u64, fee: u64, shorts: Vec<Short>) -> Fact {
    Fact::Settled {
        seq: proposal.seq,
        receipts_root: proposal.receipts_root,
        rows_hash: rows::hash(&proposal.rows),
        debited,
        fee,
        fee_bps: 1_000,
        shorts,
    }
}

pub(super) fn fee(amounts: &[u64]) -> u64 {
    amounts.iter().map(|amount| fee_down(credits(*amount), 1_000).get()).sum()
}

async fn a_batch_is_signed_stored_and_booked_when_it_is_on_chain(ground: Ground) {
    let ledger = ground.open().await;
    let mut chain = TestChain::new();
    fund(&ledger, &mut chain, PAYER, 1_000).await;
    fund(&ledger, &mut chain, AccountId(2), 1_000).await;
    let other = OperatorId(8);
    serve(&ledger, PAYER, 1, OPERATOR, 30).await;
    serve(&ledger, PAYER, 2, other, 25).await;
    serve(&ledger, AccountId(2), 3, other, 47).await;
    let proposal = propose(&ledger.feed().await.unwrap(), &BTreeMap::new());

    let signed = ledger.countersign(proposal.clone(), &settler(), &domain()).await.unwrap();
    let typed_batch = typed::SettlementBatch {
        seq: 1,
        receiptsRoot: proposal.receipts_root,
        rowsHash: rows::hash(&proposal.rows),
        deadline: wire::receipt::seconds_u40(DEADLINE),
    };
    assert_eq!(typed::recover(&typed_batch, &domain(), &signed.signature).unwrap(), settler().address());
    assert_eq!(ledger.feed().await.unwrap().receipts, vec![]);
    assert_eq!(ledger.batch(1).await.unwrap().unwrap(), BatchView { batch: signed, state: BatchState::Signed, transaction: None });
    let batched = ledger.receipt(id(1)).await.unwrap().unwrap();
    assert_eq!((batched.state, batched.seq), (ReceiptState::Batched, Some(1)));
    assert!(merkle::verify(proposal.receipts_root, batched.leaf.unwrap(), &batched.proof.unwrap()));
    assert_clean(&ledger).await;

    chain.mine(&ledger, vec![settled(&proposal, 102, fee(&[30, 72]), vec![])]).await;
    for (seed, account) in [(1, PAYER), (2, PAYER), (3, AccountId(2))] {
        let stored = ledger.receipt(id(seed)).await.unwrap().unwrap();
        assert_eq!((stored.state, stored.receipt.account), (ReceiptState::Settled, account));
        assert_eq!((stored.transaction, stored.root), (Some(keccak256(chain.tip.unwrap().hash)), Some(proposal.receipts_root)));
        assert!(merkle::verify(proposal.receipts_root, stored.leaf.unwrap(), &stored.proof.unwrap()));
    }
    assert_eq!(money(&ledger, PAYER).await, (945, 0, 0));
    assert_eq!(money(&ledger, AccountId(2)).await, (953, 0, 0));
    assert_eq!(ledger.credits(PAYER).await.unwrap().settled, credits(55));
    assert_eq!(ledger.batch(1).await.unwrap().unwrap().state, BatchState::Settled);
    assert_eq!(ledger.feed().await.unwrap(), Feed { next_seq: 2, receipts: vec![], carries: vec![] });
    assert_clean(&ledger).await;
}

async fn a_taken_number_is_refused_with_the_batch_that_stands(ground: Ground) {
    let ledger = ground.open().await;
    fund(&ledger, &mut TestChain::new(), PAYER, 1_000).await;
    serve(&ledger, PAYER, 1, OPERATOR, 30).await;
    let first = propose(&ledger.feed().await.unwrap(), &BTreeMap::new());
    let signed = ledger.countersign(first.clone(), &settler(), &domain()).await.unwrap();
    assert_eq!(ledger.countersign(first.clone(), &settler(), &domain()).await.unwrap(), signed);

    serve(&ledger, PAYER, 2, OPERATOR, 10).await;
    let second = propose(&ledger.feed().await.unwrap(), &BTreeMap::new());
    let taken = ledger.countersign(second, &settler(), &domain()).await;
    assert!(matches!(taken, Err(CountersignError::SeqTaken { standing }) if *standing == signed));
    let moved = BatchProposal { deadline: DEADLINE + 100, ..first };
    let again = ledger.countersign(moved.clone(), &settler(), &domain()).await.unwrap();
    assert_eq!(again.proposal, moved);
    assert_ne!(again.signature, signed.signature);
    assert_eq!(ledger.batch(1).await.unwrap().unwrap().batch, again);
    assert_clean(&ledger).await;
}

async fn a_batch_that_the_books_do_not_make_is_refused(ground: Ground) {
    let ledger = ground.open().await;
    let mut chain = TestChain::new();
    chain.mine(&ledger, vec![opened(PAYER), deposited(PAYER, 1_000, 1_000), authorized(PAYER, 1_000, 40)]).await;
    serve(&ledger, PAYER, 1, OPERATOR, 30).await;
    ledger.hold(hold(PAYER, 2, 10)).await.unwrap();
    ledger.capture(capture(receipt(PAYER, 2, 10), None)).await.unwrap();
    let good = propose(&ledger.feed().await.unwrap(), &BTreeMap::new());
    let sign = |proposal| async { ledger.countersign(proposal, &settler(), &domain()).await.unwrap_err() };

    let mut bad = good.clone();
    bad.seq = 2;
    assert!(matches!(sign(bad).await, CountersignError::Seq { seq: 2, next_seq: 1 }));
    let mut bad = good.clone();
    bad.deadline = NOW;
    assert!(matches!(sign(bad).await, CountersignError::Deadline { .. }));
    let mut bad = good.clone();
    bad.deadline = NOW + 901;
    assert!(matches!(sign(bad).await, CountersignError::Deadline { max, .. } if max == NOW + 900));
    let mut bad = good.clone();
    bad.receipts_root = B256::repeat_byte(1);
    assert!(matches!(sign(bad).await, CountersignError::Root { .. }));
    let mut bad = good.clone();
    bad.rows = propose(&ledger.feed().await.unwrap(), &BTreeMap::from([(PAYER, 1)])).rows;
    assert!(matches!(sign(bad).await, CountersignError::Rows));
    let mut bad = good.clone();
    bad.receipts = vec![];
    assert!(matches!(sign(bad).await, CountersignError::Receipts { .. }));
    let mut bad = good.clone();
    bad.receipts = vec![good.receipts[0]; 2];
    assert!(matches!(sign(bad).await, CountersignError::Receipts { .. }));
    let mut bad = good.clone();
    bad.receipts = vec![id(2)];
    assert!(matches!(sign(bad).await, CountersignError::Receipt { reason: "the node has not signed it", .. }));
    let mut bad = good.clone();
    bad.receipts = vec![id(3)];
    assert!(matches!(sign(bad).await, CountersignError::Receipt { reason: "it is not in the ledger", .. }));
    let mut bad = good.clone();
    bad.carries = vec![Carry { account: PAYER, operator: OPERATOR, amount: credits(1) }];
    assert!(matches!(sign(bad).await, CountersignError::Carry { ledger: Credits::ZERO, .. }));

    assert_eq!(ledger.batch(1).await.unwrap(), None);
    assert_eq!(ledger.receipt(id(1)).await.unwrap().unwrap().state, ReceiptState::Signed);
    let lowered = Fact::Withdrawn { account: PAYER, amount: 980, net_deposited: 20 };
    chain.mine(&ledger, vec![lowered]).await;
    assert!(matches!(sign(good).await, CountersignError::AboveLimit { allowed, .. } if allowed == credits(20)));
    assert_clean(&ledger).await;
}

async fn a_short_row_becomes_a_carry_that_the_next_batch_takes(ground: Ground) {
    let ledger = ground.open().await;
    let mut chain = TestChain::new();
    fund(&ledger, &mut chain, PAYER, 1_000).await;
    serve(&ledger, PAYER, 1, OPERATOR, 100).await;
    let first = propose(&ledger.feed().await.unwrap(), &BTreeMap::new());
    ledger.countersign(first.clone(), &settler(), &domain()).await.unwrap();
    let short = Short { account: PAYER, operator: OPERATOR, applied: 60 };
    chain.mine(&ledger, vec![settled(&first, 60, fee(&[60]), vec![short])]).await;
    assert_eq!(money(&ledger, PAYER).await, (900, 0, 40));
    let carry = Carry { account: PAYER, operator: OPERATOR, amount: credits(40) };
    assert_eq!(ledger.feed().await.unwrap().carries, vec![carry]);
    assert_clean(&ledger).await;

    serve(&ledger, PAYER, 2, OPERATOR, 10).await;
    let second = propose(&ledger.feed().await.unwrap(), &BTreeMap::from([(PAYER, 60)]));
    ledger.countersign(second.clone(), &settler(), &domain()).await.unwrap();
    assert_eq!(ledger.feed().await.unwrap().carries, vec![]);
    chain.mine(&ledger, vec![settled(&second, 50, fee(&[50]), vec![])]).await;
    assert_eq!(money(&ledger, PAYER).await, (890, 0, 0));
    assert_eq!(ledger.feed().await.unwrap(), Feed { next_seq: 3, receipts: vec![], carries: vec![] });
    assert_clean(&ledger).await;
}

async fn a_batch_whose_block_left_the_chain_is_booked_again(ground: Ground) {
    let ledger = ground.open().await;
    let mut chain = TestChain::new();
    fund(&ledger, &mut chain, PAYER, 1_000).await;
    serve(&ledger, PAYER, 1, OPERATOR, 100).await;
    let batch = propose(&ledger.feed().await.unwrap(), &BTreeMap::new());
    ledger.countersign(batch.clone(), &settler(), &domain()).await.unwrap();
    let before = chain.clone();
    let short = Short { account: PAYER, operator: OPERATOR, applied: 60 };
    chain.mine(&ledger, vec![settled(&batch, 60, fee(&[60]), vec![short])]).await;
    ledger.rewind(ORIGIN, chain.tip.unwrap(), before.tip.unwrap()).await.unwrap();

    assert_eq!(money(&ledger, PAYER).await, (900, 0, 100));
    let view = ledger.credits(PAYER).await.unwrap();
    assert_eq!(view.settled, Credits::ZERO);
    assert_eq!(ledger.receipt(id(1)).await.unwrap().unwrap().state, ReceiptState::Batched);
    assert_eq!(ledger.batch(1).await.unwrap().unwrap().state, BatchState::Signed);
    assert_eq!(ledger.feed().await.unwrap(), Feed { next_seq: 1, receipts: vec![], carries: vec![] });
    assert_clean(&ledger).await;

    let mut fork = TestChain { salt: 1, ..before };
    fork.mine(&ledger, vec![settled(&batch, 100, fee(&[100]), vec![])]).await;
    assert_eq!(money(&ledger, PAYER).await, (900, 0, 0));
    assert_eq!(ledger.receipt(id(1)).await.unwrap().unwrap().state, ReceiptState::Settled);
    assert_clean(&ledger).await;
}

async fn a_batch_that_was_not_signed_here_is_refused(ground: Ground) {
    let ledger = ground.open().await;
    let mut chain = TestChain::new();
    fund(&ledger, &mut chain, PAYER, 1_000).await;
    serve(&ledger, PAYER, 1, OPERATOR, 100).await;
    let batch = propose(&ledger.feed().await.unwrap(), &BTreeMap::new());
    let unknown = ledger.advance(chain.clone().block(vec![settled(&batch, 100, 10, vec![])])).await;
    assert!(matches!(unknown, Err(FactError::ForeignBatch { seq: 1 })));
    ledger.countersign(batch.clone(), &settler(), &domain()).await.unwrap();
    let wrong_total = ledger.advance(chain.clone().block(vec![settled(&batch, 90, 9, vec![])])).await;
    assert!(matches!(wrong_total, Err(FactError::BatchTotals { ledger: 100, chain: 90, .. })));
    let second = BatchProposal { seq: 2, ..batch };
    let skipped = ledger.advance(chain.clone().block(vec![settled(&second, 100, 10, vec![])])).await;
    assert!(matches!(skipped, Err(FactError::Seq { seq: 2, expected: 1 })));
    assert_eq!(money(&ledger, PAYER).await, (900, 0, 100));
    assert_clean(&ledger).await;
}
