//! Receipts: kept until acknowledged, sent again, signed on request, declined.

use std::sync::Arc;

use wire::node::{FinishReason, FromMeter, FromNode, ReceiptOutcome};
use wire::receipt::{ServiceReceipt, tokens_hash};
use wire::{B256, Bytes, OperatorId};

use crate::rig::{self, Link, Options, Rig, ScriptedMeter, deployment, job, until};

/// Serves job `id` to its end with `tokens`.
async fn serve(rig: &mut Rig, link: &mut Link, id: u8, tokens: &[u32]) -> (ServiceReceipt, Bytes) {
    link.send(FromMeter::Job(job(id))).await;
    let submitted = rig.submitted().await;
    submitted.tokens(tokens).await;
    submitted.finish(FinishReason::Stop).await;
    match link.answer().await.1 {
        FromNode::Finished { receipt, signature, .. } => (receipt, signature),
        other => panic!("{other:?}"),
    }
}

fn ack(id: u8) -> FromMeter {
    FromMeter::ReceiptAck { request_id: B256::repeat_byte(id), outcome: ReceiptOutcome::Captured }
}

#[tokio::test]
async fn what_was_not_acknowledged_is_sent_again_after_the_next_welcome() {
    let meter = ScriptedMeter::start().await;
    let mut rig = rig::start(&[&meter], Options::default());
    let (mut link, _) = meter.welcome().await;
    let (first, first_signature) = serve(&mut rig, &mut link, 1, &[10]).await;
    serve(&mut rig, &mut link, 2, &[10, 11]).await;
    let (third, third_signature) = serve(&mut rig, &mut link, 3, &[10, 11, 12]).await;
    link.send(ack(2)).await;
    until("the acknowledgement", || (rig.pending().len() == 2).then_some(())).await;
    drop(link);
    let (mut link, _) = meter.welcome().await;
    assert_eq!(link.next().await, FromNode::Receipt { receipt: first, signature: first_signature });
    assert_eq!(link.next().await, FromNode::Receipt { receipt: third, signature: third_signature });
    link.send(ack(1)).await;
    link.send(FromMeter::ReceiptAck { request_id: B256::repeat_byte(3), outcome: ReceiptOutcome::Unknown }).await;
    until("the acknowledgements", || rig.pending().is_empty().then_some(())).await;
}

#[tokio::test]
async fn a_killed_node_loses_no_signed_receipt() {
    let meter = ScriptedMeter::start().await;
    let mut rig = rig::start(&[&meter], Options::default());
    let (mut link, _) = meter.welcome().await;
    let (receipt, signature) = serve(&mut rig, &mut link, 1, &[10, 11]).await;
    let folder = rig.kill().await;
    drop(link);
    let rig = rig::start(&[&meter], Options { folder, ..Options::default() });
    let (mut link, _) = meter.welcome().await;
    assert_eq!(link.next().await, FromNode::Receipt { receipt, signature });
    link.send(ack(1)).await;
    until("the acknowledgement", || rig.pending().is_empty().then_some(())).await;
    let folder = rig.kill().await;
    drop(link);
    assert!(rig::open_outbox(folder.path()).is_empty());
}

#[tokio::test]
async fn receipts_go_to_the_meter_they_came_from_or_to_any_when_it_is_gone() {
    let (first, second) = (ScriptedMeter::start().await, ScriptedMeter::start().await);
    let mut rig = rig::start(&[&first, &second], Options::default());
    let (mut one, _) = first.welcome().await;
    let (two, _) = second.welcome().await;
    let (receipt, _) = serve(&mut rig, &mut one, 1, &[10]).await;
    drop(two);
    let (mut two, _) = second.welcome().await;
    // The other meter gets its own jobs, not the first one's receipt.
    let (own, _) = serve(&mut rig, &mut two, 2, &[10]).await;
    assert_eq!(own.request_id, B256::repeat_byte(2));
    two.send(ack(2)).await;
    until("the acknowledgement", || (rig.pending().len() == 1).then_some(())).await;
    let folder = rig.kill().await;
    drop((one, two));
    let _rig = rig::start(&[&second], Options { folder, ..Options::default() });
    let (mut two, _) = second.welcome().await;
    assert!(matches!(two.next().await, FromNode::Receipt { receipt: again, .. } if again == receipt));
}

#[tokio::test]
async fn a_lower_receipt_is_signed_in_place_of_the_own_one() {
    let meter = ScriptedMeter::start().await;
    let mut rig = rig::start(&[&meter], Options::default());
    let (mut link, _) = meter.welcome().await;
    let (full, _) = serve(&mut rig, &mut link, 1, &[10, 11, 12]).await;
    let lower = full.for_fewer(2, tokens_hash(&[10, 11])).unwrap();
    link.send(FromMeter::SignReceipt { receipt: lower.clone() }).await;
    let FromNode::Receipt { receipt, signature } = link.next().await else { panic!("declined") };
    assert_eq!(receipt, lower);
    assert_eq!(receipt.signer(&deployment().settlement_domain(), &signature).unwrap(), rig.signer.address());
    let pending = rig.node.outbox().pending(|_| true);
    assert_eq!(pending.iter().map(|kept| &kept.receipt).collect::<Vec<_>>(), [&lower]);
}

#[tokio::test]
async fn after_a_lost_link_the_meters_count_is_signed_and_no_more() {
    let meter = ScriptedMeter::start().await;
    let mut rig = rig::start(&[&meter], Options::default());
    let (mut link, _) = meter.welcome().await;
    link.send(FromMeter::Job(job(1))).await;
    let submitted = rig.submitted().await;
    submitted.tokens(&[10, 11, 12]).await;
    assert!(matches!(link.next().await, FromNode::Tokens { .. }));
    drop(link);
    submitted.cancelled().await;
    submitted.finish(FinishReason::Cancelled).await;
    let (mut link, _) = meter.welcome().await;
    let served = ServiceReceipt { proof_root: B256::ZERO, ..serve(&mut rig, &mut link, 2, &[10, 11, 12, 13]).await.0 };
    let of_first = ServiceReceipt { request_id: B256::repeat_byte(1), ..served };
    let above = of_first.clone();
    link.send(FromMeter::SignReceipt { receipt: above }).await;
    let FromNode::ReceiptDeclined { message, .. } = link.next().await else { panic!("signed for more than was served") };
    assert!(message.contains("4 completion tokens") && message.contains("served 3"), "{message}");
    let counted = of_first.for_fewer(2, tokens_hash(&[10, 11])).unwrap();
    link.send(FromMeter::SignReceipt { receipt: counted.clone() }).await;
    assert!(matches!(link.next().await, FromNode::Receipt { receipt, .. } if receipt == counted));
}

#[tokio::test]
async fn a_node_that_forgot_signs_what_can_be_its_own_and_nothing_else() {
    let meter = ScriptedMeter::start().await;
    let mut rig = rig::start(&[&meter], Options::default());
    let (mut link, _) = meter.welcome().await;
    let (own, _) = serve(&mut rig, &mut link, 1, &[10, 11]).await;
    let folder = rig.kill().await;
    drop(link);
    let rig = rig::start(&[&meter], Options { folder: Arc::clone(&folder), ..Options::default() });
    let (mut link, _) = meter.welcome().await;
    assert!(matches!(link.next().await, FromNode::Receipt { .. }));
    let forgotten = ServiceReceipt { proof_root: B256::ZERO, ..own };
    let foreign = ServiceReceipt { operator: OperatorId(8), ..forgotten.clone() };
    link.send(FromMeter::SignReceipt { receipt: foreign }).await;
    assert!(matches!(link.next().await, FromNode::ReceiptDeclined { .. }));
    link.send(FromMeter::SignReceipt { receipt: forgotten.clone() }).await;
    assert!(matches!(link.next().await, FromNode::Receipt { receipt, .. } if receipt == forgotten));
    assert_eq!(rig.node.outbox().len(), 1);
}
