//! Windows kept and served on challenge, and audits for a meter whose own hardware this node is.

use wire::B256;
use wire::node::{AuditJob, AuditOutcome, FinishReason, FromMeter, FromNode, SamplingParams};

use crate::rig::{self, MODEL, Options, Rig, ScriptedMeter, job, soon, windows};

fn audit(id: u8, model: &str) -> AuditJob {
    AuditJob {
        audit_id: B256::repeat_byte(id),
        model: model.into(),
        prompt: vec![1],
        completion: vec![2],
        params: SamplingParams::greedy(4),
    }
}

async fn served(rig: &mut Rig, link: &mut rig::Link, id: u8) -> wire::receipt::ServiceReceipt {
    link.send(FromMeter::Job(job(id))).await;
    let submitted = rig.submitted().await;
    submitted.tokens(&[10, 11, 12]).await;
    submitted.finish(FinishReason::Stop).await;
    match link.answer().await.1 {
        FromNode::Finished { receipt, .. } => receipt,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn windows_under_a_signed_root_are_served_also_after_a_restart() {
    let meter = ScriptedMeter::start().await;
    let mut rig = rig::start(&[&meter], Options::default());
    let (mut link, _) = meter.welcome().await;
    let receipt = served(&mut rig, &mut link, 1).await;
    let request_id = receipt.request_id;
    link.send(FromMeter::ProofRequest { request_id }).await;
    let expected = FromNode::Proof { request_id, windows: Some(windows()) };
    assert_eq!(link.next().await, expected);
    assert_eq!(wire::proof::root(&windows()), receipt.proof_root);

    let folder = rig.kill().await;
    drop(link);
    let _rig = rig::start(&[&meter], Options { folder, ..Options::default() });
    let (mut link, _) = meter.welcome().await;
    assert!(matches!(link.next().await, FromNode::Receipt { .. }));
    link.send(FromMeter::ProofRequest { request_id }).await;
    assert_eq!(link.next().await, expected);
    let unknown = B256::repeat_byte(9);
    link.send(FromMeter::ProofRequest { request_id: unknown }).await;
    assert_eq!(link.next().await, FromNode::Proof { request_id: unknown, windows: None });
}

#[tokio::test]
async fn an_audit_is_taken_from_the_meter_whose_hardware_it_is_and_from_no_other() {
    let (own, other) = (ScriptedMeter::start().await, ScriptedMeter::start().await);
    let mut rig = rig::start(&[&own, &other], Options::default());
    let mut link = own.welcome_as(true).await;
    let (mut stranger, _) = other.welcome().await;

    stranger.send(FromMeter::Audit(audit(1, MODEL))).await;
    let FromNode::AuditResult { audit_id, result: AuditOutcome::Refused { message } } = stranger.next().await else { panic!("taken") };
    assert!(audit_id == B256::repeat_byte(1) && message.contains("fallback"), "{message}");
    link.send(FromMeter::Audit(audit(2, "other"))).await;
    assert!(matches!(link.next().await, FromNode::AuditResult { result: AuditOutcome::Refused { .. }, .. }));

    // Two at once, answered in the order in which they are through; one ends without a word.
    for id in [3, 4, 5] {
        link.send(FromMeter::Audit(audit(id, MODEL))).await;
    }
    let (first, to_first) = soon("an audit", rig.audits.recv()).await.unwrap();
    let (_, to_second) = soon("an audit", rig.audits.recv()).await.unwrap();
    let (_, to_third) = soon("an audit", rig.audits.recv()).await.unwrap();
    assert_eq!(first, audit(3, MODEL));
    drop(to_second);
    let result = AuditOutcome::Computed { windows: windows(), first_wrong: None };
    to_third.send(result.clone()).unwrap();
    assert_eq!(link.next().await, FromNode::AuditResult { audit_id: B256::repeat_byte(5), result: result.clone() });
    to_first.send(result.clone()).unwrap();
    assert_eq!(link.next().await, FromNode::AuditResult { audit_id: B256::repeat_byte(3), result });

    // Jobs are served all the same.
    served(&mut rig, &mut link, 1).await;
}
