//! A meter that breaks the protocol: the link closes with a reason, the node stays and serves the next link.

use proptest::prelude::*;
use wire::node::{FRAME_BYTES_MAX, FinishReason, FromMeter, FromNode};

use crate::rig::{self, Options, Rig, ScriptedMeter, job};

async fn serves(rig: &mut Rig, meter: &ScriptedMeter, id: u8) {
    let (mut link, _) = meter.welcome().await;
    link.send(FromMeter::Job(job(id))).await;
    let submitted = rig.submitted().await;
    submitted.tokens(&[1]).await;
    submitted.finish(FinishReason::Stop).await;
    assert!(matches!(link.answer().await.1, FromNode::Finished { .. }));
    link.send(FromMeter::ReceiptAck { request_id: job(id).request_id, outcome: wire::node::ReceiptOutcome::Captured }).await;
    rig::until("the acknowledgement", || rig.pending().is_empty().then_some(())).await;
}

#[tokio::test]
async fn frames_that_the_protocol_does_not_have_close_the_link_with_a_reason() {
    let meter = ScriptedMeter::start().await;
    let mut rig = rig::start(&[&meter], Options::default());
    let with_extra = serde_json::to_string(&FromMeter::Job(job(1))).unwrap().replacen('{', "{\"tip\":1,", 1);
    let negative = serde_json::to_string(&FromMeter::Job(job(1))).unwrap().replace("[1,2,3]", "[-1]");
    let twice = serde_json::to_string(&FromMeter::Welcome { heartbeat_ms: 1, fallback: true }).unwrap();
    let deep = "[".repeat(100_000);
    let cases = [
        (r#"{"type":"reboot"}"#.to_owned(), "unknown variant"),
        (with_extra, "unknown field"),
        (negative, "invalid value"),
        (twice, "`welcome` after the welcome"),
        (serde_json::to_string(&rig::challenge()).unwrap(), "`challenge` after the welcome"),
        ("not json".into(), "unreadable frame"),
        (String::new(), "unreadable frame"),
        (deep, "unreadable frame"),
        (format!("\"{}\"", "x".repeat(FRAME_BYTES_MAX)), "above the limit"),
    ];
    for (text, reason) in cases {
        let (mut link, _) = meter.welcome().await;
        let shown: String = text.chars().take(60).collect();
        link.send_text(text).await;
        let closed = link.closed().await;
        assert!(closed.contains(reason), "{shown}: {closed}");
    }
    serves(&mut rig, &meter, 2).await;
}

#[tokio::test]
async fn frames_before_their_time_close_the_link_with_a_reason() {
    let meter = ScriptedMeter::start().await;
    let mut rig = rig::start(&[&meter], Options::default());
    let mut link = meter.accept().await;
    link.send(FromMeter::Job(job(1))).await;
    let closed = link.closed().await;
    assert!(closed.contains("`job` in place of a challenge"), "{closed}");
    let mut link = meter.accept().await;
    link.send(rig::challenge()).await;
    assert!(matches!(link.next().await, FromNode::Hello(_)));
    link.send(FromMeter::Cancel { request_id: job(1).request_id }).await;
    let closed = link.closed().await;
    assert!(closed.contains("`cancel` in place of a welcome"), "{closed}");
    assert!(rig.submitted.try_recv().is_err());
    serves(&mut rig, &meter, 2).await;
}

#[tokio::test]
async fn the_same_job_twice_closes_the_link_and_cancels_it() {
    let meter = ScriptedMeter::start().await;
    let mut rig = rig::start(&[&meter], Options::default());
    let (mut link, _) = meter.welcome().await;
    link.send(FromMeter::Job(job(1))).await;
    let submitted = rig.submitted().await;
    link.send(FromMeter::Job(job(1))).await;
    let closed = link.closed().await;
    assert!(closed.contains("twice"), "{closed}");
    submitted.cancelled().await;
    drop(submitted);
    serves(&mut rig, &meter, 2).await;
}

#[tokio::test]
async fn a_flood_of_refused_jobs_ends_the_link_and_not_the_node() {
    let meter = ScriptedMeter::start().await;
    let mut rig = rig::start(&[&meter], Options::default());
    let (mut link, _) = meter.welcome().await;
    let text = serde_json::to_string(&FromMeter::Job(wire::node::Job { model: "other".repeat(10_000), ..job(1) })).unwrap();
    // Nobody reads the answers; sooner or later the node hangs up.
    rig::soon("the end of the link", async {
        use futures_util::SinkExt;
        use tokio_tungstenite::tungstenite::Message;
        while link.socket.send(Message::text(text.clone())).await.is_ok() {}
    })
    .await;
    drop(link);
    serves(&mut rig, &meter, 2).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn reading_any_frame_never_panics(text in r#"\{?"?(type|job|tokens)?"?:?.{0,80}\}?"#) {
        let _ = serde_json::from_str::<FromMeter>(&text);
    }
}
