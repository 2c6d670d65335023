//! Jobs: tokens in order, receipts, cancellation, refusals, a slow reader.

use std::time::Duration;

use gpu_node::link::serve::ServeEvent;
use wire::node::{FRAME_BYTES_MAX, FailureCode, FinishReason, FromMeter, FromNode, Job, SamplingParams, TokenLogprobs};
use wire::receipt::{ServiceReceipt, tokens_hash};
use wire::{B256, Credits, OperatorId};

use crate::rig::{self, NOW_S, Options, ScriptedMeter, deployment, job, model, same};

#[tokio::test]
async fn a_whole_job_ends_with_the_receipt_that_the_meter_expects() {
    let meter = ScriptedMeter::start().await;
    let mut rig = rig::start(&[&meter], Options::default());
    let (mut link, _) = meter.welcome().await;
    let job = job(1);
    link.send(FromMeter::Job(job.clone())).await;
    let submitted = rig.submitted().await;
    same("prompt", &submitted.job.prompt, &job.prompt);
    same("params", &submitted.job.params, &job.params);
    for tokens in [&[10, 11][..], &[12], &[13, 14]] {
        submitted.tokens(tokens).await;
    }
    submitted.finish(FinishReason::Stop).await;
    let (answer, end) = link.answer().await;
    assert_eq!(answer, [10, 11, 12, 13, 14]);
    let FromNode::Finished { request_id, finish_reason, receipt, signature } = end else { panic!("{end:?}") };
    assert_eq!((request_id, finish_reason), (job.request_id, FinishReason::Stop));
    let expected = ServiceReceipt {
        request_id: job.request_id,
        account: job.account,
        operator: job.operator,
        model_root: model().model_root,
        engine: model().engine,
        prompt_tokens: 3,
        completion_tokens: 5,
        model_rate: job.model_rate,
        amount: Credits::new(32_000).unwrap(),
        prompt_hash: tokens_hash(&job.prompt),
        completion_hash: tokens_hash(&answer),
        params_hash: job.params.hash(),
        proof_root: wire::proof::root(&rig::windows()),
        started_at: job.started_at,
        served_at: NOW_S,
    };
    assert_eq!(receipt, expected);
    assert_eq!(receipt.signer(&deployment().settlement_domain(), &signature).unwrap(), rig.signer.address());
    // Signed and not acknowledged: on disk.
    assert_eq!(rig.pending(), [job.request_id]);
}

#[tokio::test]
async fn log_probabilities_travel_with_their_tokens_in_frames_within_the_limit() {
    let meter = ScriptedMeter::start().await;
    let mut rig = rig::start(&[&meter], Options::default());
    let (mut link, _) = meter.welcome().await;
    let params = SamplingParams { logprobs: Some(20), ..SamplingParams::greedy(1_500) };
    link.send(FromMeter::Job(Job { params, ..job(1) })).await;
    let submitted = rig.submitted().await;
    // As long in JSON as they become.
    let scored = |id: u32| TokenLogprobs { logprob: -9998.123 - id as f32 / 1e4, top: vec![(4_000_000_000, -9998.123); 20] };
    let ids: Vec<u32> = (0..1_500).collect();
    let sent: Vec<TokenLogprobs> = ids.iter().map(|id| scored(*id)).collect();
    submitted.events.send(ServeEvent::Tokens { ids: ids.clone(), logprobs: sent.clone() }).await.unwrap();
    submitted.finish(FinishReason::Length).await;
    let (mut answer, mut arrived) = (Vec::new(), Vec::new());
    while let FromNode::Tokens { request_id, first, tokens, logprobs } = link.next().await {
        let frame = FromNode::Tokens { request_id, first, tokens: tokens.clone(), logprobs: logprobs.clone() };
        assert!(serde_json::to_vec(&frame).unwrap().len() < FRAME_BYTES_MAX);
        assert_eq!(tokens.len(), logprobs.as_ref().unwrap().len());
        answer.extend(tokens);
        arrived.extend(logprobs.unwrap());
    }
    assert_eq!(answer, ids);
    assert!(arrived == sent, "to the bit");
}

#[tokio::test]
async fn many_jobs_at_once_each_get_their_own_tokens() {
    let meter = ScriptedMeter::start().await;
    let mut rig = rig::start(&[&meter], Options { capacity: 16, ..Options::default() });
    let (mut link, _) = meter.welcome().await;
    for id in 1..=16 {
        link.send(FromMeter::Job(Job { prompt: vec![u32::from(id)], ..job(id) })).await;
    }
    for _ in 0..16 {
        let submitted = rig.submitted().await;
        tokio::spawn(async move {
            let own = submitted.job.prompt[0];
            for index in 0..50 {
                submitted.tokens(&[own * 1_000 + index]).await;
            }
            submitted.finish(FinishReason::Length).await;
        });
    }
    let mut answers = std::collections::HashMap::<B256, Vec<u32>>::new();
    let mut finished = 0;
    while finished < 16 {
        match link.next().await {
            FromNode::Tokens { request_id, first, tokens, .. } => {
                let answer = answers.entry(request_id).or_default();
                assert_eq!(first as usize, answer.len());
                answer.extend(tokens);
            }
            FromNode::Finished { request_id, receipt, .. } => {
                assert_eq!(receipt.completion_hash, tokens_hash(&answers[&request_id]));
                finished += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    for id in 1..=16u8 {
        let expected: Vec<u32> = (0..50).map(|index| u32::from(id) * 1_000 + index).collect();
        assert_eq!(answers[&B256::repeat_byte(id)], expected);
    }
}

#[tokio::test]
async fn a_cancelled_job_ends_with_the_tokens_so_far() {
    let meter = ScriptedMeter::start().await;
    let mut rig = rig::start(&[&meter], Options::default());
    let (mut link, _) = meter.welcome().await;
    link.send(FromMeter::Job(job(1))).await;
    let submitted = rig.submitted().await;
    submitted.tokens(&[10, 11]).await;
    link.send(FromMeter::Cancel { request_id: B256::repeat_byte(1) }).await;
    submitted.cancelled().await;
    submitted.finish(FinishReason::Cancelled).await;
    let (answer, end) = link.answer().await;
    assert_eq!(answer, [10, 11]);
    let FromNode::Finished { finish_reason: FinishReason::Cancelled, receipt, .. } = end else { panic!("{end:?}") };
    assert_eq!((receipt.completion_tokens, receipt.amount.get()), (2, 20_000));
    // Too late, and for nobody: both ignored.
    link.send(FromMeter::Cancel { request_id: B256::repeat_byte(1) }).await;
    link.send(FromMeter::Cancel { request_id: B256::repeat_byte(99) }).await;
    link.send(FromMeter::Job(job(2))).await;
    rig.submitted().await;
}

#[tokio::test]
async fn what_can_not_be_served_fails_before_the_engine_sees_it() {
    let meter = ScriptedMeter::start().await;
    let mut rig = rig::start(&[&meter], Options::default());
    let (mut link, _) = meter.welcome().await;
    let hot = SamplingParams { temperature: 3.0, ..job(0).params };
    let long = SamplingParams::greedy(2_046);
    let refused = [
        (Job { operator: OperatorId(8), ..job(1) }, FailureCode::BadParams, "operator 8"),
        (Job { model: "other".into(), ..job(2) }, FailureCode::UnknownModel, "`other`"),
        (Job { params: hot, ..job(3) }, FailureCode::BadParams, "temperature"),
        (Job { params: long, ..job(4) }, FailureCode::TooLong, "2048"),
        (Job { prompt: vec![], ..job(5) }, FailureCode::BadParams, "no tokens"),
    ];
    for (job, expected, word) in refused {
        let id = job.request_id;
        link.send(FromMeter::Job(job)).await;
        let FromNode::Failed { request_id, code, message } = link.next().await else { panic!("{id} was taken") };
        assert_eq!((request_id, code), (id, expected));
        assert!(message.contains(word), "{message}");
    }
    assert!(rig.submitted.try_recv().is_err());
    assert_eq!(rig.pending(), Vec::<B256>::new());
}

#[tokio::test]
async fn an_engine_that_fails_or_vanishes_is_reported() {
    let meter = ScriptedMeter::start().await;
    let mut rig = rig::start(&[&meter], Options::default());
    let (mut link, _) = meter.welcome().await;
    link.send(FromMeter::Job(job(1))).await;
    let submitted = rig.submitted().await;
    submitted.events.send(ServeEvent::Failed { code: FailureCode::Busy, message: "no pages".into() }).await.unwrap();
    assert!(matches!(link.next().await, FromNode::Failed { code: FailureCode::Busy, .. }));
    link.send(FromMeter::Job(job(2))).await;
    let submitted = rig.submitted().await;
    submitted.tokens(&[7]).await;
    drop(submitted);
    let (answer, end) = link.answer().await;
    assert_eq!(answer, [7]);
    assert!(matches!(end, FromNode::Failed { code: FailureCode::Engine, .. }), "{end:?}");
}

#[tokio::test]
async fn a_meter_that_does_not_read_stops_the_engine_and_not_the_memory() {
    let meter = ScriptedMeter::start().await;
    let mut rig = rig::start(&[&meter], Options::default());
    let (mut link, _) = meter.welcome().await;
    link.send(FromMeter::Job(job(1))).await;
    let submitted = rig.submitted().await;
    // 2,000 events of 8,192 tokens would be 160 MB of frames.
    let tokens = vec![1_000_000; 8_192];
    let mut taken = 0;
    while taken < 2_000 {
        let send = submitted.events.send(ServeEvent::Tokens { ids: tokens.clone(), logprobs: Vec::new() });
        match tokio::time::timeout(Duration::from_millis(500), send).await {
            Ok(sent) => sent.unwrap(),
            Err(_) => break,
        }
        taken += 1;
    }
    assert!(taken < 500, "{taken} events were taken");
    // Reading on sets the engine free again; nothing was lost.
    let finishing = tokio::spawn(submitted.finish(FinishReason::Length));
    let (answer, end) = link.answer().await;
    finishing.await.unwrap();
    assert!(matches!(end, FromNode::Finished { .. }));
    assert_eq!(answer.len(), taken * 8_192);
}
