//! What a proof is worth: every honest answer verifies, and nothing else does.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::path::Path;

use alloy::signers::local::PrivateKeySigner;
use common::{CONTEXT, EOS, Noise, VOCAB, write_model};
use gpu_node::engine::{Cancel, Engine, EngineConfig, EngineEvent, EngineHandle, EngineJob, Finished};
use gpu_node::model::ModelFolder;
use gpu_node::proof::auditor::{AuditedModel, Auditor};
use gpu_node::proof::recompute::Recomputer;
use gpu_node::proof::verify::{Bundle, Report, Settlement, verify};
use tempfile::TempDir;
use tokio::sync::mpsc::Receiver;
use wire::node::{AnswerFormat, AuditJob, AuditOutcome, SamplingParams, WrongToken};
use wire::proof::{Window, root};
use wire::receipt::{ServiceReceipt, tokens_hash};
use wire::typed::{self, settlement_domain};
use wire::{AccountId, Address, B256, Bytes, Credits, ModelRate, OperatorId};

const KNOWN: Settlement = Settlement { chain_id: 31_337, contract: Address::repeat_byte(0x5e) };

fn model(edit: impl Fn(&str, &mut Vec<f32>)) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path(), edit);
    dir
}

fn start(dir: &Path) -> EngineHandle {
    // So little memory that requests are put aside and computed again.
    let limits = EngineConfig { threads: 2, max_active: 12, max_queued: 2_000, prefill_chunk_tokens: 48, ..EngineConfig::default() };
    Engine::start(dir, EngineConfig { kv_budget_bytes: 1 << 20, ..limits }).unwrap()
}

fn recomputer(dir: &Path) -> Recomputer {
    Recomputer::open(dir, 2).unwrap()
}

fn signer() -> PrivateKeySigner {
    PrivateKeySigner::from_slice(&[0x42; 32]).unwrap()
}

fn prompt(length: usize, seed: u64) -> Vec<u32> {
    let mut noise = Noise(seed);
    (0..length).map(|_| ((noise.next() + 0.5) * 255.0) as u32).collect()
}

fn warm(max_tokens: u32, seed: u64) -> SamplingParams {
    SamplingParams { temperature: 1.0, seed, top_k: 20, top_p: 0.95, ..SamplingParams::greedy(max_tokens) }
}

/// One of several ways to sample.
fn mixed(index: u64) -> SamplingParams {
    let max_tokens = 1 + (index * 7 % 70) as u32;
    let base = warm(max_tokens, index.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    match index % 8 {
        0 => SamplingParams::greedy(max_tokens),
        1 => base,
        2 => SamplingParams { top_k: 20, repetition_penalty: 1.2, ..base },
        3 => SamplingParams { temperature: 0.4, min_p: 0.05, presence_penalty: 0.5, ..base },
        4 => SamplingParams { frequency_penalty: 0.7, stop_token_ids: vec![(index % 256) as u32], ..base },
        5 => SamplingParams { logit_bias: vec![(7, 3.0), (60, -100.0)], logprobs: Some(2), ..base },
        6 => SamplingParams { format: AnswerFormat::JsonObject, ..base },
        _ => SamplingParams { temperature: 2.0, top_p: 1.0, ..base },
    }
}

fn submit(engine: &EngineHandle, prompt: &[u32], params: &SamplingParams) -> Receiver<EngineEvent> {
    engine.submit(EngineJob { prompt: prompt.to_vec(), params: params.clone(), cancel: Cancel::default(), scope: 0 }).unwrap()
}

fn collect(mut events: Receiver<EngineEvent>) -> (Vec<u32>, Finished) {
    let mut tokens = Vec::new();
    loop {
        match events.blocking_recv().expect("an answer has an end") {
            EngineEvent::Tokens { ids, .. } => tokens.extend(ids),
            EngineEvent::Finished(finished) => return (tokens, finished),
            EngineEvent::Failed(failure) => panic!("{failure}"),
        }
    }
}

/// A served answer with the receipt that the engine's node signs for it.
fn bundle(engine: &EngineHandle, seed: u64, prompt: Vec<u32>, params: SamplingParams, answer: (Vec<u32>, Finished)) -> Bundle {
    let (token_ids, finished) = answer;
    let request_id = B256::left_padding_from(&seed.to_be_bytes());
    let receipt = ServiceReceipt {
        request_id,
        account: AccountId(3),
        operator: OperatorId(7),
        model_root: engine.identity().model_root,
        engine: engine.identity().engine,
        prompt_tokens: prompt.len() as u32,
        completion_tokens: token_ids.len() as u32,
        model_rate: ModelRate(4_000_000_000),
        amount: Credits::ZERO,
        prompt_hash: tokens_hash(&prompt),
        completion_hash: tokens_hash(&token_ids),
        params_hash: params.hash(),
        proof_root: finished.proof_root,
        started_at: 1,
        served_at: 2,
    };
    let receipt = ServiceReceipt { amount: receipt.cost_up().unwrap(), ..receipt };
    let bundle = Bundle {
        request_id,
        chain_id: KNOWN.chain_id,
        settlement: KNOWN.contract,
        node: signer().address(),
        receipt,
        signature: Bytes::new(),
        windows: finished.windows,
        prompt_token_ids: prompt,
        token_ids,
        params,
    };
    signed(bundle)
}

/// Signed by the node as it stands, under the domain that it names.
fn signed(mut bundle: Bundle) -> Bundle {
    let domain = settlement_domain(bundle.chain_id, bundle.settlement);
    bundle.signature = typed::sign(&bundle.receipt.typed(), &domain, &signer()).unwrap().into();
    bundle
}

fn served(engine: &EngineHandle, prompt: Vec<u32>, params: SamplingParams) -> Bundle {
    let answer = collect(submit(engine, &prompt, &params));
    bundle(engine, 1, prompt, params, answer)
}

/// Names of the comparisons that failed.
fn failed(report: &Report) -> Vec<&'static str> {
    assert!(!report.verified, "{report:?}");
    report.statement.iter().filter(|check| !check.equal).map(|check| check.name).collect()
}

fn states_agree(report: &Report) -> bool {
    report.windows.iter().all(|window| window.equal)
}

#[test]
fn every_honest_receipt_of_a_thousand_mixed_requests_verifies() {
    let dir = model(|_, _| ());
    let engine = start(dir.path());
    let requests: Vec<(Vec<u32>, SamplingParams)> =
        // Of twenty sequences, so that many prompts begin as others do.
        (0..1_000).map(|index| (prompt(1 + (index * 37 % 331) as usize, index % 20), mixed(index))).collect();
    let answers: Vec<_> = requests.iter().map(|(prompt, params)| submit(&engine, prompt, params)).collect();
    let mut recomputer = recomputer(dir.path());
    let (mut verified, mut ends) = (0, 0);
    for (index, ((prompt, params), events)) in requests.into_iter().zip(answers).enumerate() {
        let bundle = bundle(&engine, index as u64, prompt, params, collect(events));
        ends += usize::from(bundle.token_ids.len() < bundle.params.max_tokens as usize);
        let report = verify(&bundle, Some(KNOWN), &mut recomputer);
        assert!(report.verified, "request {index}: {report:?}");
        verified += 1;
    }
    assert_eq!(verified, 1_000);
    // The mixture has answers that ended by themselves too.
    assert!(ends > 0);
}

#[test]
fn a_bundle_survives_its_way_through_json() {
    let dir = model(|_, _| ());
    let bundle = served(&start(dir.path()), prompt(40, 1), SamplingParams { min_p: 0.1, seed: u64::MAX, ..warm(20, 1) });
    let text = serde_json::to_string(&bundle).unwrap();
    let read: Bundle = serde_json::from_str(&text).unwrap();
    assert_eq!(read, bundle);
    assert!(verify(&read, None, &mut recomputer(dir.path())).verified);
}

#[test]
fn an_answer_of_other_weights_is_refused() {
    let honest = model(|_, _| ());
    let mut recomputer = recomputer(honest.path());
    // One value of one matrix, and every value cut to four bits: both served under the honest model's name.
    let one_value = model(|name, values| {
        if name.contains("layers.1.mlp.down_proj") {
            values[5] = 0.49;
        }
    });
    let four_bits = model(|_, values| {
        for block in values.chunks_mut(32) {
            let scale = block.iter().fold(0.0f32, |most, value| most.max(value.abs())) / 7.0;
            block.iter_mut().filter(|_| scale > 0.0).for_each(|value| *value = (*value / scale).round() * scale);
        }
    });
    for dir in [one_value, four_bits] {
        let mut bundle = served(&start(dir.path()), prompt(300, 1), warm(60, 2));
        assert_ne!(bundle.receipt.model_root, recomputer.model_root);
        let report = verify(&bundle, Some(KNOWN), &mut recomputer);
        assert!(failed(&report).contains(&"model_root"));
        bundle.receipt.model_root = recomputer.model_root;
        let report = verify(&signed(bundle), Some(KNOWN), &mut recomputer);
        assert_eq!(failed(&report), ["recomputed_root"]);
        assert!(!states_agree(&report));
    }
}

#[test]
fn what_was_changed_after_the_signature_is_refused() {
    let dir = model(|_, _| ());
    let mut recomputer = recomputer(dir.path());
    let honest = served(&start(dir.path()), prompt(300, 1), warm(60, 2));
    assert!(verify(&honest, Some(KNOWN), &mut recomputer).verified);
    let other_key = PrivateKeySigner::from_slice(&[0x43; 32]).unwrap();

    type Change = fn(&mut Bundle);
    let cases: [(&str, Change, &[&str]); 14] = [
        ("a prompt token", |b| b.prompt_token_ids[10] ^= 1, &["prompt_hash", "recomputed_root"]),
        ("an output token", |b| b.token_ids[10] ^= 1, &["completion_hash", "recomputed_root"]),
        ("a missing output token", |b| b.token_ids.truncate(59), &["completion_tokens", "completion_hash", "recomputed_root"]),
        ("the seed", |b| b.params.seed ^= 1, &["params_hash"]),
        ("the temperature", |b| b.params.temperature = 1.01, &["params_hash"]),
        ("a truncated proof", |b| b.windows.truncate(2), &["proof"]),
        ("an empty proof", |b| b.windows.clear(), &["proof"]),
        ("a digest", |b| b.windows[1].digest.0[0] ^= 1, &["proof"]),
        ("a replay for another request", |b| b.request_id.0[0] ^= 1, &["request_id"]),
        ("another request's id in the receipt", |b| (b.request_id.0[0], b.receipt.request_id.0[0]) = (9, 9), &["signer"]),
        ("another chain", |b| b.chain_id = 1, &["chain_id"]),
        ("another contract", |b| b.settlement = Address::ZERO, &["settlement"]),
        ("a higher amount", |b| b.receipt.amount = Credits::new(b.receipt.amount.get() + 1).unwrap(), &["signer", "amount"]),
        ("another node", |b| b.node = Address::ZERO, &["signer"]),
    ];
    for (what, change, expected) in cases {
        let mut bundle = honest.clone();
        change(&mut bundle);
        assert_eq!(failed(&verify(&bundle, Some(KNOWN), &mut recomputer)), expected, "{what}");
    }
    let mut forged = honest.clone();
    let domain = settlement_domain(KNOWN.chain_id, KNOWN.contract);
    forged.signature = typed::sign(&forged.receipt.typed(), &domain, &other_key).unwrap().into();
    assert_eq!(failed(&verify(&forged, Some(KNOWN), &mut recomputer)), ["signer"]);
}

#[test]
fn a_receipt_of_another_chain_or_contract_is_refused_whatever_the_bundle_says() {
    let dir = model(|_, _| ());
    let mut recomputer = recomputer(dir.path());
    let honest = served(&start(dir.path()), prompt(20, 1), warm(10, 2));
    for (chain_id, settlement) in [(1, KNOWN.contract), (KNOWN.chain_id, Address::repeat_byte(0x66))] {
        let elsewhere = signed(Bundle { chain_id, settlement, ..honest.clone() });
        assert!(verify(&elsewhere, None, &mut recomputer).verified, "it is a receipt of that chain");
        assert!(failed(&verify(&elsewhere, Some(KNOWN), &mut recomputer)).contains(&"signer"));
        // Presented as one of ours.
        let presented = Bundle { chain_id: KNOWN.chain_id, settlement: KNOWN.contract, ..elsewhere };
        assert_eq!(failed(&verify(&presented, None, &mut recomputer)), ["signer"]);
        assert_eq!(failed(&verify(&presented, Some(KNOWN), &mut recomputer)), ["signer"]);
    }
}

/// The node signs what it likes: the statement is consistent, the computation is not.
#[test]
fn what_a_node_signs_and_did_not_compute_is_refused() {
    let dir = model(|_, _| ());
    let engine = start(dir.path());
    let mut recomputer = recomputer(dir.path());
    let honest = served(&engine, prompt(300, 1), warm(60, 2));
    let last = honest.token_ids.len() - 1;

    // Served another prompt, claims this one.
    let mut bundle = honest.clone();
    bundle.prompt_token_ids[299] ^= 1;
    bundle.receipt.prompt_hash = tokens_hash(&bundle.prompt_token_ids);
    let report = verify(&signed(bundle), Some(KNOWN), &mut recomputer);
    assert_eq!(failed(&report), ["recomputed_root"]);
    assert!(report.windows[0].equal && !report.windows[1].equal, "the window of the change is named");

    // Swaps a token in the middle: states after it differ.
    let mut bundle = honest.clone();
    bundle.token_ids[40] = (bundle.token_ids[40] + 1) % 256;
    bundle.receipt.completion_hash = tokens_hash(&bundle.token_ids);
    let report = verify(&signed(bundle), Some(KNOWN), &mut recomputer);
    assert_eq!(failed(&report), ["recomputed_root"]);
    assert_eq!(report.tokens.first_wrong.map(|wrong| wrong.index), Some(40));

    // Swaps the last one: no state depends on it, only the draw does.
    let mut bundle = honest.clone();
    bundle.token_ids[last] = (bundle.token_ids[last] + 1) % 256;
    bundle.receipt.completion_hash = tokens_hash(&bundle.token_ids);
    let report = verify(&signed(bundle.clone()), Some(KNOWN), &mut recomputer);
    assert!(failed(&report).is_empty() && states_agree(&report));
    let wrong = WrongToken { index: last as u32, found: bundle.token_ids[last], drawn: Some(honest.token_ids[last]) };
    assert_eq!(report.tokens.first_wrong, Some(wrong));

    // Draws by a seed of its own: the states of its tokens are right, the draws are not.
    let mut bundle = honest.clone();
    bundle.params.seed ^= 1;
    bundle.receipt.params_hash = bundle.params.hash();
    let report = verify(&signed(bundle), Some(KNOWN), &mut recomputer);
    assert!(failed(&report).is_empty() && states_agree(&report) && report.tokens.first_wrong.is_some());

    // Signs without a proof, or for too few windows.
    let mut bundle = Bundle { windows: Vec::new(), ..honest.clone() };
    bundle.receipt.proof_root = B256::ZERO;
    assert_eq!(failed(&verify(&signed(bundle), Some(KNOWN), &mut recomputer)), ["proof", "recomputed_root"]);
    let mut bundle = honest.clone();
    bundle.windows.pop();
    bundle.receipt.proof_root = root(&bundle.windows);
    assert_eq!(failed(&verify(&signed(bundle), Some(KNOWN), &mut recomputer)), ["proof", "recomputed_root"]);

    // Goes on after its end of turn, or past the ceiling.
    for cut in [20, 59] {
        let mut bundle = honest.clone();
        if cut == 59 {
            bundle.params.max_tokens = 59;
        } else {
            bundle.params.stop_token_ids = vec![bundle.token_ids[20]];
        }
        bundle.receipt.params_hash = bundle.params.hash();
        let report = verify(&signed(bundle), Some(KNOWN), &mut recomputer);
        assert!(failed(&report).is_empty());
        assert!(report.tokens.first_wrong.is_some_and(|wrong| wrong.index <= 59 && wrong.drawn.is_none()), "{report:?}");
    }
}

#[test]
fn hostile_bundles_end_in_a_report_and_never_in_a_panic() {
    let dir = model(|_, _| ());
    let mut recomputer = recomputer(dir.path());
    let honest = served(&start(dir.path()), prompt(30, 1), warm(20, 2));
    let refused = |report: Report| {
        assert!(!report.verified);
        report
    };
    let beyond = Bundle { token_ids: [&honest.token_ids[..5], &[VOCAB as u32 + 9], &honest.token_ids[6..]].concat(), ..honest.clone() };
    let report = refused(verify(&beyond, None, &mut recomputer));
    assert_eq!(report.tokens.first_wrong.map(|wrong| (wrong.index, wrong.found)), Some((5, VOCAB as u32 + 9)));

    let no_prompt = Bundle { prompt_token_ids: Vec::new(), ..honest.clone() };
    assert!(refused(verify(&no_prompt, None, &mut recomputer)).not_computed.unwrap().contains("empty"));
    let foreign = Bundle { prompt_token_ids: vec![u32::MAX], ..honest.clone() };
    assert!(refused(verify(&foreign, None, &mut recomputer)).not_computed.unwrap().contains("vocabulary"));
    let long = Bundle { token_ids: vec![1; CONTEXT], ..honest.clone() };
    assert!(refused(verify(&long, None, &mut recomputer)).not_computed.unwrap().contains("context"));
    let mut params = honest.clone();
    params.params.temperature = f32::NAN;
    assert!(refused(verify(&params, None, &mut recomputer)).not_computed.unwrap().contains("temperature"));
    let mut counts = honest.clone();
    (counts.receipt.prompt_tokens, counts.receipt.completion_tokens) = (u32::MAX, u32::MAX);
    refused(verify(&counts, None, &mut recomputer));
    let nothing = Bundle { token_ids: Vec::new(), windows: Vec::new(), ..honest.clone() };
    refused(verify(&nothing, None, &mut recomputer));
    let many = Bundle { windows: vec![honest.windows[0]; 10_000], ..honest.clone() };
    refused(verify(&many, None, &mut recomputer));
    let unsigned = Bundle { signature: Bytes::from(vec![0; 64]), ..honest };
    assert_eq!(failed(&refused(verify(&unsigned, None, &mut recomputer))), ["signer"]);
}

fn audited(dir: &Path) -> AuditedModel {
    let folder = ModelFolder::open(dir, 1, &|_| ()).unwrap();
    let recomputer = recomputer(dir);
    AuditedModel { folder: folder.dir, model_root: recomputer.model_root, engine: recomputer.engine }
}

fn audit_of(bundle: &Bundle) -> AuditJob {
    AuditJob {
        audit_id: B256::repeat_byte(1),
        model: "tiny".into(),
        prompt: bundle.prompt_token_ids.clone(),
        completion: bundle.token_ids.clone(),
        params: bundle.params.clone(),
    }
}

#[test]
fn an_auditor_that_knows_no_root_finds_the_same_one_while_its_engine_serves() {
    let dir = model(|_, _| ());
    let engine = start(dir.path());
    let auditor = Auditor::start(audited(dir.path()), 4).unwrap();
    let honest = served(&engine, prompt(300, 1), warm(60, 2));
    let busy: Vec<_> = (0..8).map(|seed| submit(&engine, &prompt(200, seed), &warm(100, seed))).collect();
    let outcome = auditor.submit(audit_of(&honest)).blocking_recv().unwrap();
    let AuditOutcome::Computed { windows, first_wrong: None } = outcome else { panic!("{outcome:?}") };
    assert_eq!(windows, honest.windows);
    busy.into_iter().for_each(|events| drop(collect(events)));

    let mut swapped = audit_of(&honest);
    swapped.completion[59] = EOS; // never among the likeliest twenty
    let outcome = auditor.submit(swapped).blocking_recv().unwrap();
    assert!(matches!(outcome, AuditOutcome::Computed { first_wrong: Some(wrong), .. } if wrong.index == 59), "{outcome:?}");
}

#[test]
fn an_auditor_with_other_weights_or_a_full_queue_accuses_nobody() {
    let dir = model(|_, _| ());
    let honest = served(&start(dir.path()), prompt(30, 1), warm(20, 2));
    let elsewhere = AuditedModel { model_root: B256::ZERO, ..audited(dir.path()) };
    let outcome = Auditor::start(elsewhere, 4).unwrap().submit(audit_of(&honest)).blocking_recv().unwrap();
    assert!(matches!(&outcome, AuditOutcome::Refused { message } if message.contains("restart")), "{outcome:?}");

    let auditor = Auditor::start(audited(dir.path()), 1).unwrap();
    let long = AuditJob { prompt: prompt(900, 1), completion: Vec::new(), ..audit_of(&honest) };
    let all: Vec<_> = (0..50).map(|_| auditor.submit(long.clone())).collect();
    let outcomes: Vec<AuditOutcome> = all.into_iter().map(|outcome| outcome.blocking_recv().unwrap()).collect();
    let refused = outcomes.iter().filter(|outcome| matches!(outcome, AuditOutcome::Refused { .. })).count();
    assert!((1..50).contains(&refused), "{refused}");
    drop(auditor.submit(long.clone()));
    drop(auditor);
}

#[test]
fn windows_cover_what_the_layout_says() {
    let dir = model(|_, _| ());
    let engine = start(dir.path());
    for (length, max_tokens) in [(1, 1), (256, 33), (257, 34), (300, 2)] {
        let bundle = served(&engine, prompt(length, 3), SamplingParams::greedy(max_tokens));
        let shape = |window: &Window| (u64::from(window.first_position), u64::from(window.count));
        let expected: Vec<_> = wire::proof::layout(length as u32, bundle.token_ids.len() as u32).collect();
        assert_eq!(bundle.windows.iter().map(shape).collect::<Vec<_>>(), expected);
    }
}
