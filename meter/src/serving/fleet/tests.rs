//! Leases, links and frames of the fleet.

use wire::node::SamplingParams;
use wire::{AccountId, ModelRate};

use super::*;

/// A node in the fleet, with its outbox kept open.
pub(crate) fn join(fleet: &Fleet, facts: NodeFacts, nodes_max: usize) -> Option<(Arc<Node>, mpsc::Receiver<FromMeter>)> {
    fleet.join(facts, FromMeter::Welcome { heartbeat_ms: 1, fallback: false }, nodes_max)
}

pub(crate) fn facts(last_byte: u8, fallback: bool, capacity: u32) -> NodeFacts {
    NodeFacts {
        node: Address::with_last_byte(last_byte),
        operator: OperatorId(u32::from(last_byte)),
        fallback,
        models: vec![ServedModel { model: "m".into(), model_root: B256::ZERO, engine: B256::ZERO, context_tokens: 100 }],
        capacity,
        device: Device { kind: "cpu".into(), name: "test".into(), memory_bytes: 1, parallelism: 1 },
        version: "0".into(),
        region: None,
        linked_at: 0,
        quarantine: None,
    }
}

fn job(request_id: B256, max_tokens: u32) -> Job {
    Job {
        request_id,
        account: AccountId(1),
        operator: OperatorId(1),
        model: "m".into(),
        prompt: vec![1],
        params: SamplingParams::greedy(max_tokens),
        model_rate: ModelRate(1),
        started_at: 0,
    }
}

#[test]
fn a_full_node_has_room_again_when_a_lease_ends() {
    let (node, _outbox) = join(&Fleet::default(), facts(1, false, 1), 10).unwrap();
    let lease = node.reserve(50).unwrap();
    assert!(node.reserve(50).is_none());
    assert_eq!((node.load().active, node.load().outstanding_tokens), (1, 50));
    drop(lease);
    assert_eq!((node.load().active, node.load().outstanding_tokens), (0, 0));
    assert!(node.reserve(50).is_some());
}

#[test]
fn an_idle_place_is_there_only_while_no_job_is_and_every_place_is_counted() {
    let (node, _outbox) = join(&Fleet::default(), facts(1, false, 2), 10).unwrap();
    let idle = node.reserve_idle(9).unwrap();
    assert!(node.reserve_idle(9).is_none(), "one is on it");
    let beside = node.reserve(5).unwrap();
    assert!(node.reserve(5).is_none());
    assert_eq!((node.load().active, node.load().outstanding_tokens, node.reserved()), (2, 14, 2));
    drop(idle);
    assert!(node.reserve_idle(9).is_none());
    drop(beside);
    assert!(node.reserve_idle(9).is_some());
    assert_eq!((node.load().active, node.reserved()), (0, 3));
}

#[test]
fn a_newer_link_replaces_the_older_one_and_outlives_its_end() {
    let fleet = Fleet::default();
    let (older, _a) = join(&fleet, facts(1, false, 1), 1).unwrap();
    let (newer, _b) = join(&fleet, facts(1, false, 1), 1).unwrap();
    assert!(older.closed.is_cancelled() && !newer.closed.is_cancelled());
    fleet.leave(&older);
    assert_eq!(fleet.nodes().len(), 1);
    assert!(join(&fleet, facts(2, false, 1), 1).is_none());
    fleet.leave(&newer);
    assert!(fleet.nodes().is_empty());
}

#[test]
fn tokens_past_the_ceiling_are_dropped_and_a_gap_ends_the_job() {
    let (node, _outbox) = join(&Fleet::default(), facts(1, false, 2), 10).unwrap();
    let request = B256::repeat_byte(1);
    let mut lease = node.reserve(3).unwrap();
    let mut events = lease.start(job(request, 3)).unwrap();
    node.deliver_tokens(request, 0, vec![7, 8], None);
    node.deliver_tokens(request, 2, vec![9, 10, 11], None);
    for _ in 0..100 {
        node.deliver_tokens(request, 3, vec![12], None);
    }
    assert!(matches!(events.try_recv(), Ok(NodeEvent::Tokens(tokens)) if tokens.ids == [7, 8]));
    assert!(matches!(events.try_recv(), Ok(NodeEvent::Tokens(tokens)) if tokens.ids == [9]));
    assert!(events.try_recv().is_err());

    let other = B256::repeat_byte(2);
    let mut lease = node.reserve(3).unwrap();
    let mut events = lease.start(job(other, 3)).unwrap();
    node.deliver_tokens(other, 1, vec![7], None);
    assert!(matches!(events.try_recv(), Ok(NodeEvent::Failed { code: FailureCode::Engine, .. })));
}

#[test]
fn log_probabilities_other_than_asked_for_end_the_job() {
    let scored = |logprob: f32, top: &[(u32, f32)]| TokenLogprobs { logprob, top: top.to_vec() };
    let good = scored(-0.5, &[(7, -0.5), (8, -1.5)]);
    let cases = [
        (Some(2), Some(vec![good.clone()]), true),
        (None, None, true),
        (None, Some(vec![good.clone()]), false),
        (Some(2), None, false),
        (Some(2), Some(vec![]), false),
        (Some(2), Some(vec![good.clone(), good.clone()]), false),
        (Some(1), Some(vec![good]), false),
        (Some(2), Some(vec![scored(0.5, &[(7, -0.5), (8, -1.5)])]), false),
        (Some(2), Some(vec![scored(-0.5, &[(8, -1.5), (7, -0.5)])]), false),
        (Some(1), Some(vec![scored(-0.5, &[(7, f32::NAN)])]), false),
        (Some(0), Some(vec![scored(-20_000.0, &[])]), false),
    ];
    for (index, (asked, given, good)) in cases.into_iter().enumerate() {
        let (node, _outbox) = join(&Fleet::default(), facts(1, false, 2), 10).unwrap();
        let request = B256::repeat_byte(1);
        let mut lease = node.reserve(3).unwrap();
        let mut asking = job(request, 3);
        asking.params.logprobs = asked;
        let mut events = lease.start(asking).unwrap();
        node.deliver_tokens(request, 0, vec![7], given);
        assert_eq!(matches!(events.try_recv(), Ok(NodeEvent::Tokens(_))), good, "case {index}");
    }
}

#[test]
fn a_lost_link_tells_every_job() {
    let fleet = Fleet::default();
    let (node, _outbox) = join(&fleet, facts(1, false, 2), 10).unwrap();
    let mut lease = node.reserve(3).unwrap();
    let mut events = lease.start(job(B256::repeat_byte(1), 3)).unwrap();
    fleet.leave(&node);
    assert!(matches!(events.try_recv(), Ok(NodeEvent::Lost)));
    assert!(!node.serves("m", 1));
}

#[test]
fn a_node_that_stops_reporting_is_stale_and_still_there() {
    let (node, _outbox) = join(&Fleet::default(), facts(1, false, 2), 10).unwrap();
    assert_eq!((node.is_stale(STALE_S), node.is_stale(STALE_S + 1)), (false, true));
    node.report(NodeStatus::default(), 100);
    assert_eq!((node.is_stale(100 + STALE_S), node.is_stale(101 + STALE_S)), (false, true));
    assert!(node.serves("m", 1));
}
