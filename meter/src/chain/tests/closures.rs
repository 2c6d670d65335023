//! A clearance, and the chain at depth that uses it, outdates it, or lets it lapse.

use super::*;

/// A payer at depth, whom a clearance keeps from spending, and the clearance's deadline.
async fn closing() -> (Bench, u64) {
    let bench = Bench::new(Depth::Confirmations(2)).await;
    bench.mine(vec![opened(), deposited(100, 100), authorized(0)]);
    bench.mine(vec![]);
    bench.mine(vec![]);
    bench.mirror.look().await.unwrap();
    let given = bench.ledger.give_clearance(PAYER).await.unwrap();
    assert_eq!((given.settled.get(), given.auth_nonce, given.deadline), (0, 1, NOW + 1 + CLEARANCE_S));
    bench.assert_spendable(0, Some(given.deadline)).await;
    (bench, given.deadline)
}

impl Bench {
    /// So many more blocks, and a look at them.
    async fn pass(&self, blocks: u64) {
        (0..blocks).for_each(|_| self.mine(vec![]));
        self.mirror.look().await.unwrap();
    }

    async fn assert_spendable(&self, spendable: u64, closing_until: Option<u64>) {
        let view = self.ledger.credits(PAYER).await.unwrap();
        assert_eq!((view.spendable.get(), view.closing_until), (spendable, closing_until));
    }
}

fn closed() -> (Address, LogData) {
    (VAULT, Credits::Closed { account: PAYER.0, settled: 0 }.encode_log_data())
}

#[tokio::test]
async fn an_unused_clearance_stands_until_a_block_at_depth_is_past_its_deadline() {
    let (bench, deadline) = closing().await;
    // Heights are seconds here: the block at the deadline is the last that may use it.
    let blocks_to_deadline = deadline - NOW - 3;
    bench.pass(blocks_to_deadline + 2).await;
    bench.assert_spendable(0, Some(deadline)).await;
    bench.pass(1).await;
    bench.assert_spendable(60, None).await;
    bench.assert_clean().await;
}

#[tokio::test]
async fn a_closure_in_the_last_second_counts_before_anything_can_be_spent() {
    let (bench, deadline) = closing().await;
    for _ in 0..deadline - NOW - 4 {
        bench.mine(vec![]);
    }
    bench.mine(vec![closed()]);
    bench.pass(1).await;
    bench.assert_spendable(0, Some(deadline)).await;
    bench.pass(2).await;
    bench.assert_spendable(0, None).await;
    let authorization = bench.ledger.credits(PAYER).await.unwrap().authorization.unwrap();
    assert_eq!((authorization.live, authorization.settle_deadline), (false, deadline - 1));

    bench.mine(vec![authorized(1)]);
    bench.pass(2).await;
    bench.assert_spendable(60, None).await;
    bench.assert_clean().await;
}

#[tokio::test]
async fn a_reorg_of_the_closure_leaves_the_clearance_standing() {
    let (bench, deadline) = closing().await;
    bench.mine(vec![closed(), authorized(1)]);
    bench.pass(2).await;
    bench.assert_spendable(60, None).await;
    bench.fork(3);
    bench.mine(vec![]);
    bench.mine(vec![]);
    bench.mine(vec![closed()]);
    bench.pass(0).await;
    bench.assert_spendable(0, Some(deadline)).await;
    bench.pass(2).await;
    bench.assert_spendable(0, None).await;
    assert!(!bench.ledger.credits(PAYER).await.unwrap().authorization.unwrap().live);
    bench.assert_clean().await;
}
