//! What the engine promises: the same bits in any batch, honest ends, memory that comes back.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::{Duration, Instant};

use common::{CONTEXT, EOS, Noise, VOCAB, write_model};
use gpu_node::backend::{CpuBackend, PAGE_TOKENS, PageId, Placement, Row, cpu::Isa};
use gpu_node::engine::{
    Cancel, Decoder, Engine, EngineConfig, EngineEvent, EngineFailure, EngineHandle, EngineJob, Finished, Refusal, StepOutput,
};
use gpu_node::model::ModelFolder;
use gpu_node::proof::{proof_root, windows};
use tokio::sync::mpsc::Receiver;
use wire::node::{FinishReason, SamplingParams};

fn model() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path(), |_, _| ());
    dir
}

fn start(dir: &tempfile::TempDir, config: EngineConfig) -> EngineHandle {
    Engine::start(dir.path(), EngineConfig { threads: 2, ..config }).unwrap()
}

fn prompt(length: usize, seed: u64) -> Vec<u32> {
    let mut noise = Noise(seed);
    (0..length).map(|_| ((noise.next() + 0.5) * 255.0) as u32).collect()
}

fn warm(max_tokens: u32, seed: u64) -> SamplingParams {
    SamplingParams { temperature: 1.0, seed, top_k: 20, top_p: 0.95, repetition_penalty: 1.1, ..SamplingParams::greedy(max_tokens) }
}

fn job(prompt: Vec<u32>, params: SamplingParams) -> EngineJob {
    EngineJob { prompt, params, cancel: Cancel::default(), scope: 0 }
}

fn collect(mut events: Receiver<EngineEvent>) -> (Vec<u32>, Result<Finished, EngineFailure>) {
    let mut tokens = Vec::new();
    loop {
        match events.blocking_recv().expect("the last event is Finished or Failed") {
            EngineEvent::Tokens { ids, .. } => tokens.extend(ids),
            EngineEvent::Finished(finished) => return (tokens, Ok(finished)),
            EngineEvent::Failed(failure) => return (tokens, Err(failure)),
        }
    }
}

fn answer(engine: &EngineHandle, prompt: Vec<u32>, params: SamplingParams) -> (Vec<u32>, Finished) {
    let (tokens, outcome) = collect(engine.submit(job(prompt, params)).unwrap());
    (tokens, outcome.unwrap())
}

fn wait_until_idle(engine: &EngineHandle) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while engine.load().active + engine.load().queued > 0 {
        assert!(Instant::now() < deadline, "{:?}", engine.load());
        std::thread::yield_now();
    }
}

/// Hidden states of a sequence fed `cut` tokens at a time, after the rows of so many other sequences.
fn hidden(dir: &tempfile::TempDir, isa: Isa, threads: usize, tokens: &[u32], cut: usize, company: usize) -> Vec<u32> {
    let folder = ModelFolder::open(dir.path(), 1, &|_| ()).unwrap();
    let mut decoder = Decoder::load(&folder, CpuBackend::with_isa(threads, isa), CONTEXT, 512).unwrap();
    let (pages, sequences) = (tokens.len().div_ceil(PAGE_TOKENS) as u32, company as u32 + 1);
    let mut pool = decoder.pool((sequences * pages) as usize).unwrap();
    // Interleaved and backwards: places of pages mean nothing.
    let table = |sequence: u32| (0..pages).rev().map(|page| PageId(sequences * page + sequence)).collect();
    let tables: Vec<Vec<PageId>> = (0..sequences).map(table).collect();
    tables.iter().flatten().for_each(|page| decoder.prepare(&mut pool, *page).unwrap());
    let tables: Vec<&[PageId]> = tables.iter().map(Vec::as_slice).collect();
    let others: Vec<Vec<u32>> = (0..company).map(|seed| prompt(tokens.len(), 99 + seed as u64)).collect();
    let mut out = StepOutput { keep_hidden: true, ..StepOutput::default() };
    let mut bits = Vec::new();
    for first in (0..tokens.len()).step_by(cut) {
        let end = (first + cut).min(tokens.len());
        let (mut rows, mut step_tokens) = (Vec::new(), Vec::new());
        for (sequence, tokens) in others.iter().map(Vec::as_slice).chain([tokens]).enumerate() {
            rows.extend((first..end).map(|position| Row { sequence, position }));
            step_tokens.extend_from_slice(&tokens[first..end]);
        }
        decoder.step(&Placement { rows: &rows, tables: &tables }, &step_tokens, &mut pool, &[], &mut out);
        let own = out.hidden.len() - (end - first) * decoder.dim();
        bits.extend(out.hidden[own..].iter().map(|x| x.to_bits()));
    }
    bits
}

#[test]
fn hidden_states_are_the_same_bits_for_prefill_decode_chunks_company_and_instruction_sets() {
    let dir = model();
    let tokens = prompt(200, 3);
    let reference = hidden(&dir, Isa::Scalar, 1, &tokens, 1, 0);
    for isa in Isa::available() {
        for (cut, company) in [(200, 0), (1, 0), (16, 1), (7, 2), (1, 1), (1, 5), (1, 63), (8, 63)] {
            for threads in [1, 2] {
                let found = hidden(&dir, isa, threads, &tokens, cut, company);
                assert!(found == reference, "{isa:?}, {cut} at a time, company of {company}, {threads} threads");
            }
        }
    }
}

#[test]
fn proof_root_equals_that_of_one_prefill_over_prompt_and_answer() {
    let dir = model();
    let engine = start(&dir, EngineConfig::default());
    let prompt = prompt(300, 5);
    let (tokens, finished) = answer(&engine, prompt.clone(), warm(70, 11));
    assert_eq!(tokens.len(), 70);

    let folder = ModelFolder::open(dir.path(), 1, &|_| ()).unwrap();
    let mut decoder = Decoder::load(&folder, CpuBackend::new(1), CONTEXT, 512).unwrap();
    // The last token was drawn and never computed.
    let all: Vec<u32> = prompt.iter().chain(&tokens[..69]).copied().collect();
    let rows: Vec<Row> = (0..all.len()).map(|position| Row { sequence: 0, position }).collect();
    let table: Vec<PageId> = (0..all.len().div_ceil(PAGE_TOKENS) as u32).map(PageId).collect();
    let mut pool = decoder.pool(table.len()).unwrap();
    table.iter().for_each(|page| decoder.prepare(&mut pool, *page).unwrap());
    let mut out = StepOutput::default();
    decoder.step(&Placement { rows: &rows, tables: &[&table] }, &all, &mut pool, &[], &mut out);
    let digests: Vec<_> = out.digests.iter().map(|digest| digest.unwrap()).collect();
    let windows = windows(prompt.len(), &digests);
    assert_eq!(windows, finished.windows);
    assert_eq!(proof_root(&windows), finished.proof_root);
    assert_eq!(finished.prompt_hash, wire::receipt::tokens_hash(&prompt));
    assert_eq!(finished.completion_hash, wire::receipt::tokens_hash(&tokens));
    let counts: Vec<u32> = windows.iter().map(|w| w.count).collect();
    assert_eq!(counts, [256, 44, 32, 32, 5]);
}

#[test]
fn answers_and_proofs_do_not_depend_on_what_runs_beside_them() {
    let dir = model();
    let alone = start(&dir, EngineConfig { prefill_chunk_tokens: 512, ..EngineConfig::default() });
    let crowded = start(&dir, EngineConfig { prefill_chunk_tokens: 5, max_active: 3, ..EngineConfig::default() });
    let jobs: Vec<EngineJob> = (0..8).map(|i| job(prompt(1 + 13 * i, i as u64), warm(20 + i as u32, 100 + i as u64))).collect();
    let together: Vec<_> = jobs.iter().map(|job| crowded.submit(job.clone()).unwrap()).collect();
    for (job, events) in jobs.into_iter().zip(together) {
        let (crowded_tokens, crowded) = collect(events);
        let (tokens, finished) = answer(&alone, job.prompt, job.params);
        assert_eq!(crowded_tokens, tokens);
        assert_eq!(crowded.unwrap().proof_root, finished.proof_root);
    }
}

#[test]
fn seed_decides_the_answer() {
    let dir = model();
    let engine = start(&dir, EngineConfig::default());
    let with_seed = |seed| answer(&engine, prompt(10, 1), warm(24, seed)).0;
    assert_eq!(with_seed(1), with_seed(1));
    assert_ne!(with_seed(1), with_seed(2));
}

#[test]
fn answer_ends_at_length_stop_token_stop_string_and_end_of_turn() {
    let dir = model();
    let engine = start(&dir, EngineConfig::default());
    let (tokens, finished) = answer(&engine, prompt(10, 1), warm(30, 4));
    assert_eq!((finished.reason, finished.completion_tokens, tokens.len()), (FinishReason::Length, 30, 30));

    let at = tokens[12];
    let first = tokens.iter().position(|t| *t == at).unwrap();
    let (stopped, finished) = answer(&engine, prompt(10, 1), SamplingParams { stop_token_ids: vec![at], ..warm(30, 4) });
    assert_eq!((finished.reason, stopped.as_slice()), (FinishReason::Stop, &tokens[..=first]));

    let text = |tokens: &[u32]| {
        let mut detokenizer = engine.prompter().detokenizer();
        tokens.iter().map(|t| detokenizer.push(*t)).collect::<String>()
    };
    let stop: String = text(&tokens).chars().skip(3).take(2).collect();
    let (stopped, finished) = answer(&engine, prompt(10, 1), SamplingParams { stop: vec![stop.clone()], ..warm(30, 4) });
    assert_eq!(finished.reason, FinishReason::Stop);
    assert!(
        text(&stopped).contains(&stop) && !text(&stopped[..stopped.len() - 1]).contains(&stop),
        "ends with the token that completes it"
    );
}

#[test]
fn end_of_turn_token_is_sent_counted_and_last() {
    let dir = tempfile::tempdir().unwrap();
    // An embedding row that is far larger makes its token the likeliest after almost any text.
    write_model(dir.path(), |name, values| {
        if name == "model.embed_tokens.weight" {
            let eos = EOS as usize;
            let (from, to) = (values[..64].to_vec(), eos * 64..(eos + 1) * 64);
            values[to].copy_from_slice(&from.iter().map(|x| x * 30.0).collect::<Vec<_>>());
        }
    });
    let engine = start(&dir, EngineConfig::default());
    let ended =
        (0..16).map(|seed| answer(&engine, prompt(5, seed), SamplingParams::greedy(50))).find(|(_, f)| f.reason == FinishReason::Stop);
    let (tokens, finished) = ended.expect("one of the prompts leads to the end of turn");
    assert_eq!(tokens.last(), Some(&EOS));
    assert_eq!(tokens.iter().filter(|t| **t == EOS).count(), 1);
    assert_eq!(finished.completion_tokens as usize, tokens.len());
}

#[test]
fn cancelled_and_abandoned_requests_give_their_memory_back() {
    let dir = model();
    let engine = start(&dir, EngineConfig { max_active: 2, ..EngineConfig::default() });
    let long = || job(prompt(20, 1), warm(1000, 1));
    let cancelled = long();
    let mut events = engine.submit(cancelled.clone()).unwrap();
    let abandoned = engine.submit(long()).unwrap();
    let queued = engine.submit(long()).unwrap();
    assert!(matches!(events.blocking_recv(), Some(EngineEvent::Tokens { .. })));
    assert!(engine.load().kv_used_bytes > 0);

    cancelled.cancel.cancel();
    let (tokens, outcome) = collect(events);
    let finished = outcome.unwrap();
    assert_eq!(finished.reason, FinishReason::Cancelled);
    assert_eq!(finished.completion_tokens as usize, tokens.len() + 1, "one token was received above");
    drop(abandoned);
    drop(queued);
    wait_until_idle(&engine);
    assert_eq!(engine.load().kv_used_bytes, 0);
    // The engine goes on serving.
    assert_eq!(answer(&engine, prompt(5, 2), warm(3, 3)).0.len(), 3);
}

#[test]
fn requests_that_can_not_be_served_are_refused_with_the_reason() {
    let dir = model();
    let engine = start(&dir, EngineConfig { kv_budget_bytes: 200_000, max_active: 1, max_queued: 1, ..EngineConfig::default() });
    let refusal = |prompt: Vec<u32>, params: SamplingParams| engine.submit(job(prompt, params)).err();
    assert!(matches!(refusal(prompt(1000, 1), warm(25, 1)), Some(Refusal::TooLong { context_tokens: CONTEXT, .. })));
    assert!(matches!(refusal(prompt(1, 1), warm(u32::MAX, 1)), Some(Refusal::TooLong { .. })));
    assert!(matches!(refusal(prompt(400, 1), warm(1, 1)), Some(Refusal::OverBudget { budget_bytes: 196_608, .. })));
    assert_eq!(refusal(vec![], warm(1, 1)), Some(Refusal::EmptyPrompt));
    assert_eq!(refusal(vec![VOCAB as u32], warm(1, 1)), Some(Refusal::TokenBeyondVocabulary { token: VOCAB as u32, vocabulary: VOCAB }));
    assert!(matches!(refusal(prompt(1, 1), SamplingParams { temperature: f32::NAN, ..warm(1, 1) }), Some(Refusal::Params(_))));
    assert!(matches!(refusal(prompt(1, 1), warm(0, 1)), Some(Refusal::Params(_))));

    let mut held = Vec::new();
    let busy = (0..1_000).find_map(|_| engine.submit(job(prompt(5, 1), warm(300, 1))).map(|events| held.push(events)).err());
    assert!(matches!(busy, Some(Refusal::Busy { most: 1, .. })), "{busy:?} after {}", held.len());
}

#[test]
fn stopping_fails_what_is_open_and_refuses_what_comes() {
    let dir = model();
    let engine = start(&dir, EngineConfig { max_active: 1, ..EngineConfig::default() });
    let open: Vec<_> = (0..3).map(|seed| engine.submit(job(prompt(5, 1), warm(1000, seed))).unwrap()).collect();
    engine.stop();
    for events in open {
        let (_, outcome) = collect(events);
        assert!(matches!(outcome, Err(EngineFailure::Stopped)), "{outcome:?}");
    }
    assert_eq!(engine.submit(job(prompt(5, 1), warm(1, 1))).err(), Some(Refusal::Stopped));
}

#[test]
fn damaged_weights_fail_the_request_and_not_the_engine() {
    let dir = model();
    let path = dir.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let (header, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let scales = metadata.info("model.embed_tokens.weight_scale").unwrap().data_offsets.0 + header + 8;
    // Token 1: lane 1 of the first panel.
    bytes[scales + 2..scales + 4].copy_from_slice(&half::f16::NAN.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let engine = start(&dir, EngineConfig::default());
    for _ in 0..2 {
        let (_, outcome) = collect(engine.submit(job(vec![1], warm(4, 1))).unwrap());
        assert_eq!(outcome, Err(EngineFailure::NotFinite));
    }
    // The same row of the output matrix spoils its logit and nothing else.
    let (_, outcome) = collect(engine.submit(job(vec![2], warm(4, 1))).unwrap());
    assert!(matches!(outcome, Err(EngineFailure::Sample(_))), "{outcome:?}");
}

#[test]
fn a_prefix_that_was_computed_before_changes_no_bit_of_the_proof() {
    let dir = model();
    let fresh = || start(&dir, EngineConfig { prefill_chunk_tokens: 50, ..EngineConfig::default() });
    let (engine, first) = (fresh(), prompt(300, 21));
    let (answered, _) = answer(&engine, first.clone(), warm(40, 1));
    // The next turn: prompt, answer and something new; a page boundary, one before it and one after it.
    let turn: Vec<u32> = first.iter().chain(&answered).chain(&prompt(60, 22)).copied().collect();
    for length in [128, 129, 127, 256, 257, 320, 330, 400] {
        let asked = turn[..length].to_vec();
        let before = engine.load().prefix_hit_tokens;
        let (shared_tokens, shared) = answer(&engine, asked.clone(), warm(20, 5));
        let hit = engine.load().prefix_hit_tokens - before;
        let expected = ((length - 1).min(339) / PAGE_TOKENS * PAGE_TOKENS) as u64;
        assert!(hit >= expected, "{hit} of {length} tokens were shared, at least {expected} were there");
        let (tokens, alone) = answer(&fresh(), asked, warm(20, 5));
        assert_eq!((shared_tokens, shared.proof_root), (tokens, alone.proof_root), "{length}");
    }
    // Another payer's request shares nothing.
    let before = engine.load().prefix_hit_tokens;
    let other = EngineJob { scope: 7, ..job(turn, warm(5, 5)) };
    collect(engine.submit(other).unwrap()).1.unwrap();
    assert_eq!(engine.load().prefix_hit_tokens, before);
}

#[test]
fn preempted_requests_are_computed_again_to_the_same_bits() {
    let dir = model();
    // Eight pages; each request ends with three, so that five of them can't stand side by side.
    let small = EngineConfig { kv_budget_bytes: 8 * 32_768, prefill_chunk_tokens: 64, max_active: 5, ..EngineConfig::default() };
    let (crowded, roomy) = (start(&dir, small), start(&dir, EngineConfig::default()));
    let jobs: Vec<EngineJob> = (0..5).map(|i| job(prompt(30 + 5 * i, 40 + i as u64), warm(150, i as u64))).collect();
    let together: Vec<_> = jobs.iter().map(|job| crowded.submit(job.clone()).unwrap()).collect();
    for (job, events) in jobs.into_iter().zip(together) {
        let (crowded_tokens, crowded) = collect(events);
        let (tokens, finished) = answer(&roomy, job.prompt, job.params);
        assert_eq!((crowded_tokens, crowded.unwrap().proof_root), (tokens, finished.proof_root));
    }
    assert!(crowded.load().preemptions > 0 && roomy.load().preemptions == 0, "{:?}", crowded.load());
    wait_until_idle(&crowded);
    assert_eq!(crowded.load().kv_used_bytes, 0);
}

#[test]
fn load_measures_work() {
    let dir = model();
    let engine = start(&dir, EngineConfig::default());
    assert_eq!(engine.load().decode_tokens_per_s, 0.0);
    answer(&engine, prompt(50, 1), warm(30, 1));
    wait_until_idle(&engine);
    let load = engine.load();
    assert!(load.decode_tokens_per_s > 0.0 && load.prefill_tokens_per_s > 0.0);
    assert_eq!((load.active, load.queued, load.capacity), (0, 0, 16));
}
