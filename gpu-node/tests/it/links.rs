//! Opening, refusal, loss, silence, several meters, draining.

use std::time::Duration;

use gpu_node::link::{LinkState, LinkTimings};
use wire::node::{FailureCode, FinishReason, FromMeter, FromNode, ReceiptOutcome};
use wire::{Address, B256, typed};

use crate::rig::{self, OPERATOR, Options, ScriptedMeter, deployment, job, soon, until};

#[tokio::test]
async fn the_hello_names_what_the_node_serves_and_answers_this_challenge() {
    let meter = ScriptedMeter::start().await;
    let rig = rig::start(&[&meter], Options::default());
    let (_link, hello) = meter.welcome().await;
    assert_eq!((hello.operator, hello.node, hello.capacity), (OPERATOR, rig.signer.address(), 4));
    assert_eq!(hello.models, [rig::model()]);
    assert_eq!(hello.region.as_deref(), Some(rig::REGION));
    let domain = deployment().settlement_domain();
    let signer = |challenge| typed::recover(&hello.typed(challenge), &domain, &hello.signature).unwrap();
    assert_eq!(signer(B256::repeat_byte(0x11)), rig.signer.address());
    assert_ne!(signer(B256::repeat_byte(0x12)), rig.signer.address());
    rig.link_state("the link", |state| matches!(state, LinkState::Linked { fallback: false, .. }).then_some(())).await;
    assert_eq!(rig.node.board().any_linked(), Ok(()));
}

#[tokio::test]
async fn a_refusal_is_shown_with_the_next_step_and_tried_again() {
    let meter = ScriptedMeter::start().await;
    let rig = rig::start(&[&meter], Options::default());
    for _ in 0..2 {
        let mut link = meter.accept().await;
        link.send(rig::challenge()).await;
        assert!(matches!(link.next().await, FromNode::Hello(_)));
        link.send(FromMeter::Refused { code: "not_registered".into(), message: "key 0x12 belongs to no operator".into() }).await;
        let refusal = rig
            .link_state("the refusal", |state| match state {
                LinkState::Refused { .. } | LinkState::Connecting { after: Some(_) } => Some(state.to_string()),
                _ => None,
            })
            .await;
        assert!(refusal.contains("gpu-node register") && refusal.contains("key 0x12 belongs to no operator"), "{refusal}");
    }
    meter.welcome().await;
}

#[tokio::test]
async fn a_meter_of_other_contracts_gets_no_signature() {
    let meter = ScriptedMeter::start().await;
    let rig = rig::start(&[&meter], Options::default());
    let mut link = meter.accept().await;
    let FromMeter::Challenge { protocol, challenge, chain_id, .. } = rig::challenge() else { unreachable!() };
    link.send(FromMeter::Challenge { protocol, challenge, chain_id, settlement: Address::repeat_byte(9) }).await;
    let reason = link.closed().await;
    assert!(reason.contains("settlement contract 0x0909"), "{reason}");
    let reason = rig
        .link_state("the loss", |state| match state {
            LinkState::Lost { reason, .. } | LinkState::Connecting { after: Some(reason) } => Some(reason.clone()),
            _ => None,
        })
        .await;
    assert!(reason.contains("chain.deployment"), "{reason}");
}

#[tokio::test]
async fn a_silent_meter_is_left_and_tried_again() {
    let meter = ScriptedMeter::start().await;
    let timings = LinkTimings { silence: Duration::from_millis(200), ping: Duration::from_millis(50), ..Options::default().timings };
    let rig = rig::start(&[&meter], Options { timings, ..Options::default() });
    // Whoever does not read answers no ping.
    let (_silent, _) = meter.welcome().await;
    let reason = rig
        .link_state("the loss", |state| match state {
            LinkState::Lost { reason, .. } | LinkState::Connecting { after: Some(reason) } => Some(reason.clone()),
            _ => None,
        })
        .await;
    assert!(reason.contains("silent for 200 ms"), "{reason}");
    meter.welcome().await;
}

#[tokio::test]
async fn a_quiet_meter_that_answers_pings_is_kept() {
    let meter = ScriptedMeter::start().await;
    let timings = LinkTimings { silence: Duration::from_millis(400), ping: Duration::from_millis(50), ..Options::default().timings };
    let mut rig = rig::start(&[&meter], Options { timings, ..Options::default() });
    let (mut link, _) = meter.welcome().await;
    // Reading answers pings; three silences long nothing else is said.
    let _ = tokio::time::timeout(Duration::from_millis(1_200), async {
        loop {
            link.next_any().await;
        }
    })
    .await;
    link.send(FromMeter::Job(job(1))).await;
    rig.submitted().await.finish(FinishReason::Stop).await;
    assert!(matches!(link.next().await, FromNode::Finished { .. }));
}

#[tokio::test]
async fn a_lost_link_cancels_its_own_jobs_and_no_others() {
    let (first, second) = (ScriptedMeter::start().await, ScriptedMeter::start().await);
    let mut rig = rig::start(&[&first, &second], Options::default());
    let (mut dying, _) = first.welcome().await;
    let (mut living, _) = second.welcome().await;
    dying.send(FromMeter::Job(job(1))).await;
    let lost = rig.submitted().await;
    living.send(FromMeter::Job(job(2))).await;
    let kept = rig.submitted().await;
    drop(dying);
    lost.cancelled().await;
    kept.tokens(&[5, 6]).await;
    assert!(!kept.job.cancel.is_cancelled());
    kept.finish(FinishReason::Stop).await;
    let (answer, end) = living.answer().await;
    assert_eq!(answer, [5, 6]);
    assert!(matches!(end, FromNode::Finished { .. }));
    lost.finish(FinishReason::Cancelled).await;
    // Only the answer that somebody received has a receipt.
    assert_eq!(rig.pending(), [B256::repeat_byte(2)]);
    first.welcome().await;
}

#[tokio::test]
async fn slots_are_shared_by_all_meters() {
    let (first, second) = (ScriptedMeter::start().await, ScriptedMeter::start().await);
    let mut rig = rig::start(&[&first, &second], Options { capacity: 1, ..Options::default() });
    let (mut one, _) = first.welcome().await;
    let (mut two, _) = second.welcome().await;
    one.send(FromMeter::Job(job(1))).await;
    let running = rig.submitted().await;
    two.send(FromMeter::Job(job(2))).await;
    assert!(matches!(two.next().await, FromNode::Failed { code: FailureCode::Busy, .. }));
    running.finish(FinishReason::Stop).await;
    assert!(matches!(one.next().await, FromNode::Finished { .. }));
    // The slot is free as soon as the meter knows the end.
    two.send(FromMeter::Job(job(2))).await;
    rig.submitted().await.finish(FinishReason::Stop).await;
    assert!(matches!(two.next().await, FromNode::Finished { .. }));
}

#[tokio::test]
async fn a_draining_node_finishes_what_it_has_and_takes_nothing_new() {
    let meter = ScriptedMeter::start().await;
    let mut rig = rig::start(&[&meter], Options::default());
    let (mut link, _) = meter.welcome().await;
    link.send(FromMeter::Job(job(1))).await;
    let running = rig.submitted().await;
    running.tokens(&[5]).await;
    rig.shutdown.cancel();
    soon("a draining status", async {
        loop {
            if matches!(link.next_any().await, FromNode::Status(status) if status.draining) {
                return;
            }
        }
    })
    .await;
    link.send(FromMeter::Job(job(2))).await;
    let refusal = soon("the refusal", async {
        loop {
            if let FromNode::Failed { request_id, code, .. } = link.next().await {
                return (request_id, code);
            }
        }
    })
    .await;
    assert_eq!(refusal, (B256::repeat_byte(2), FailureCode::Busy));
    running.tokens(&[6]).await;
    running.finish(FinishReason::Stop).await;
    let end = soon("the end", async {
        loop {
            if let FromNode::Finished { receipt, .. } = link.next().await {
                return receipt;
            }
        }
    })
    .await;
    assert_eq!(end.completion_tokens, 2);
    link.send(FromMeter::ReceiptAck { request_id: end.request_id, outcome: ReceiptOutcome::Captured }).await;
    assert_eq!(link.closed().await, "drained");
    drop(link);
    soon("the end of the node", &mut rig.running).await.unwrap();
    assert_eq!(rig.pending(), Vec::<B256>::new());
    assert_eq!(rig.node.board().all().into_values().collect::<Vec<_>>(), [LinkState::Closed]);
}

#[tokio::test]
async fn when_the_drain_time_is_over_answers_are_cancelled_and_signed() {
    let meter = ScriptedMeter::start().await;
    let timings = LinkTimings { acks: Duration::from_millis(300), ..Options::default().timings };
    let mut rig = rig::start(&[&meter], Options { drain: Duration::from_millis(50), timings, ..Options::default() });
    let (mut link, _) = meter.welcome().await;
    link.send(FromMeter::Job(job(1))).await;
    let running = rig.submitted().await;
    running.tokens(&[5, 6]).await;
    rig.shutdown.cancel();
    running.cancelled().await;
    running.finish(FinishReason::Cancelled).await;
    let (answer, end) = link.answer().await;
    assert_eq!(answer, [5, 6]);
    let FromNode::Finished { finish_reason: FinishReason::Cancelled, receipt, .. } = end else { panic!("{end:?}") };
    assert_eq!(receipt.completion_tokens, 2);
    assert_eq!(link.closed().await, "drained");
    drop(link);
    soon("the end of the node", &mut rig.running).await.unwrap();
    // Nobody acknowledged: the receipt waits for the next start.
    assert_eq!(rig.pending(), [B256::repeat_byte(1)]);
}

#[tokio::test]
async fn a_node_without_a_meter_stops_at_once() {
    let meter = ScriptedMeter::start().await;
    let mut rig = rig::start(&[&meter], Options::default());
    // Accepted by the system, never by the meter.
    until("the attempt", || (!rig.node.board().all().is_empty()).then_some(())).await;
    rig.shutdown.cancel();
    soon("the end of the node", &mut rig.running).await.unwrap();
}
