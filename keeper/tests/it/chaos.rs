//! Any one JSON-RPC call fails, in any way, at any moment: the answer is "unknown", and the end is the same.

use keeper::journal::Journal;

use crate::network::{Network, WINDOW_S};
use crate::proxy::Fault;

#[tokio::test]
async fn any_single_call_may_fail_in_any_way() {
    let network = Network::start().await;
    let (config, signer) = (network.config("a"), network.funded_key().await);
    let keeper = network.keeper(config, &signer).await;
    network.serve_six().await;
    let before = network.proxy.calls();
    for _ in 0..3 {
        network.quiet().await;
        keeper.round(network.now().await).await.unwrap();
    }
    let calls = network.proxy.calls() - before;
    network.assert_paid_exactly_once(1).await;

    let faults = [Fault::LoseAnswer, Fault::Refuse(500), Fault::Lie("header not found")];
    for index in 0..calls {
        network.advance(WINDOW_S + 1).await;
        network.serve_six().await;
        network.proxy.fail("eth_", index, 1, faults[index % faults.len()]);
        for _ in 0..6 {
            // An error is fine; what counts is the end.
            network.quiet().await;
            let _ = keeper.round(network.now().await).await;
        }
        network.proxy.heal();
        network.assert_paid_exactly_once(index as u64 + 2).await;
    }
}

#[tokio::test]
async fn a_dead_endpoint_moves_nothing_and_says_so() {
    let network = Network::start().await;
    let (config, signer) = (network.config("a"), network.funded_key().await);
    network.serve_six().await;
    let path = config.journal.clone();
    let keeper = network.keeper(config, &signer).await;
    network.proxy.fail("", 0, usize::MAX, Fault::Refuse(502));
    let error = keeper.round(network.now().await).await.unwrap_err().to_string();
    assert!(error.contains("eth_chainId") && error.contains("nothing is concluded"), "{error}");
    assert!(Journal::read(&path).await.unwrap().recent(10).await.unwrap().is_empty());
    assert_eq!(network.meter.edit(|script| script.posts), 0);
}
