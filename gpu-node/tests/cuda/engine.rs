//! Whole models on the emulated device.

use std::collections::HashMap;

use gpu_node::backend::cuda::GpuBackend;
use gpu_node::backend::{Backend, CpuBackend, Found, PageId, Placement, Row};
use gpu_node::engine::{
    Cancel, Decoder, Engine, EngineConfig, EngineEvent, EngineFailure, EngineHandle, EngineJob, Finished, Refusal, Sampler, StartError,
    StepOutput,
};
use gpu_node::model::ModelFolder;
use gpu_node::model::random::{self, RandomShape};
use gpu_node::operator::device::compare;
use wire::node::{AnswerFormat, SamplingParams};

use super::common::{CONTEXT, Noise, VOCAB, write_model};
use super::emulated::Emulated;
use super::{SHARE, emulated, library};

fn model() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path(), |_, _| ());
    dir
}

fn open(dir: &tempfile::TempDir) -> ModelFolder {
    ModelFolder::open(dir.path(), 1, &|_| ()).unwrap()
}

fn prompt(length: usize, seed: u64) -> Vec<u32> {
    let mut noise = Noise(seed);
    (0..length).map(|_| ((noise.next() + 0.5) * 255.0) as u32).collect()
}

/// Hidden states, digests and logits of three sequences along a fixed course: prompts in chunks, decoding together.
fn course<B: Backend>(backend: B, folder: &ModelFolder) -> Vec<Vec<u32>> {
    let mut decoder = Decoder::load(folder, backend, CONTEXT, 200).unwrap();
    let texts = [prompt(90, 1), prompt(150, 2), prompt(20, 3)];
    let pages = 3u32;
    let mut pool = decoder.pool(3 * pages as usize).unwrap();
    let tables: Vec<Vec<PageId>> = (0..3).map(|sequence| (0..pages).map(|page| PageId(page * 3 + sequence)).collect()).collect();
    tables.iter().flatten().for_each(|page| decoder.prepare(&mut pool, *page).unwrap());
    let tables: Vec<&[PageId]> = tables.iter().map(Vec::as_slice).collect();
    let prefill = |sequence: usize, from: usize, to: usize| (from..to).map(|position| Row { sequence, position }).collect::<Vec<_>>();
    let mut steps = vec![prefill(0, 0, 80), [prefill(1, 0, 130), prefill(0, 80, 82)].concat(), prefill(2, 0, 7)];
    // Six steps of one row a sequence: the first two of a kind are started singly and recorded, the rest replayed.
    steps.extend((0..6).map(|step| {
        vec![Row { sequence: 0, position: 82 + step }, Row { sequence: 1, position: 130 + step }, Row { sequence: 2, position: 7 + step }]
    }));
    steps.push([prefill(1, 136, 150), prefill(0, 88, 89)].concat());
    let mut out = StepOutput { keep_hidden: true, ..StepOutput::default() };
    let mut found = Vec::new();
    for rows in steps {
        let tokens: Vec<u32> = rows.iter().map(|row| texts[row.sequence][row.position]).collect();
        let decodes = rows.len() == 3;
        let chosen: Vec<usize> = if decodes { vec![0, 1, 2] } else { vec![rows.len() - 1] };
        decoder.step(&Placement { rows: &rows, tables: &tables }, &tokens, &mut pool, &chosen, &mut out);
        assert_eq!(decoder.fault(), None);
        if !decodes {
            let mut more = Vec::new();
            decoder.logits(&[0, rows.len() / 2], &mut more);
            found.push(bits(&more));
        }
        let digests = out.digests.iter().flat_map(|digest| digest.unwrap().0).map(u32::from).collect();
        found.extend([bits(&out.hidden), bits(&out.logits), digests]);
    }
    found
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn a_whole_model_gives_the_processors_bits() {
    let Some(backend) = emulated() else { return };
    let dir = model();
    let folder = open(&dir);
    let (found, expected) = (course(backend, &folder), course(CpuBackend::new(2), &folder));
    for (result, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert!(found == expected, "result {result} differs");
    }
}

/// Tokens of an answer, and how it ended.
type Answer = (Vec<u32>, Result<Finished, EngineFailure>);

/// Answers to requests that are served together.
fn answers(engine: &EngineHandle, requests: &[(Vec<u32>, SamplingParams)]) -> Vec<Answer> {
    let job = |(prompt, params): &(Vec<u32>, SamplingParams)| EngineJob {
        prompt: prompt.clone(),
        params: params.clone(),
        cancel: Cancel::default(),
        scope: 0,
    };
    let streams: Vec<_> = requests.iter().map(|request| engine.submit(job(request)).unwrap()).collect();
    let last = |mut events: tokio::sync::mpsc::Receiver<EngineEvent>| {
        let mut tokens = Vec::new();
        loop {
            match events.blocking_recv().expect("the last event is Finished or Failed") {
                EngineEvent::Tokens { ids, .. } => tokens.extend(ids),
                EngineEvent::Finished(finished) => return (tokens, Ok(finished)),
                EngineEvent::Failed(failure) => return (tokens, Err(failure)),
            }
        }
    };
    streams.into_iter().map(last).collect()
}

fn warm(temperature: f32, seed: u64) -> SamplingParams {
    SamplingParams { temperature, seed, ..SamplingParams::greedy(20) }
}

/// One of each kind that is drawn differently.
fn kinds() -> Vec<SamplingParams> {
    let penalties = SamplingParams { repetition_penalty: 1.3, presence_penalty: 0.5, frequency_penalty: -0.25, ..warm(0.9, 5) };
    vec![
        SamplingParams::greedy(20),
        warm(1.0, 1),
        SamplingParams { top_k: 20, ..warm(1.0, 2) },
        SamplingParams { top_p: 0.8, ..warm(1.5, 3) },
        SamplingParams { top_k: 50, top_p: 0.9, min_p: 0.02, ..warm(0.8, 4) },
        SamplingParams { logit_bias: vec![(7, 2.0), (9, -100.0)], ..penalties },
        SamplingParams { repetition_penalty: 1.2, ..SamplingParams::greedy(20) },
        // Their logits are read.
        SamplingParams { logprobs: Some(2), ..warm(1.0, 6) },
        SamplingParams { format: AnswerFormat::JsonObject, ..warm(1.0, 7) },
    ]
}

#[test]
fn answers_and_proof_roots_are_the_processors() {
    let Some(backend) = emulated() else { return };
    let dir = model();
    let gpu = Engine::start_on(open(&dir), backend, EngineConfig::default()).unwrap();
    let cpu = Engine::start_on(open(&dir), CpuBackend::new(2), EngineConfig::default()).unwrap();
    assert_eq!((gpu.identity().device_kind, gpu.identity().engine), ("cuda", cpu.identity().engine));
    let requests: Vec<_> = kinds().into_iter().enumerate().map(|(i, params)| (prompt(100 - 9 * i, 5 + i as u64), params)).collect();
    let together = answers(&gpu, &requests);
    for ((tokens, end), request) in together.into_iter().zip(&requests) {
        // The processor serves each alone: company changes nothing.
        let (expected, expected_end) = answers(&cpu, std::slice::from_ref(request)).remove(0);
        assert_eq!(tokens, expected, "{:?}", request.1);
        let (end, expected_end) = (end.unwrap(), expected_end.unwrap());
        assert_eq!(
            (end.proof_root, end.windows, end.completion_hash),
            (expected_end.proof_root, expected_end.windows, expected_end.completion_hash)
        );
    }
}

/// A step brings tokens to the host, and logits of those rows only that need them there.
#[test]
fn logits_stay_on_the_device_where_it_draws() {
    let Some(backend) = emulated() else { return };
    let dir = model();
    let mut decoder = Decoder::load(&open(&dir), backend, CONTEXT, 8).unwrap();
    assert!(decoder.draws());
    let mut pool = decoder.pool(4).unwrap();
    let table: Vec<PageId> = (0..2).map(PageId).collect();
    let rows = [0, 1, 2].map(|position| Row { sequence: 0, position });
    let placement = Placement { rows: &rows, tables: &[&table] };
    let mut all = StepOutput::default();
    decoder.step(&placement, &[7, 8, 9], &mut pool, &[0, 1, 2], &mut all);
    assert_eq!((all.found.len(), all.logits.len()), (0, 3 * VOCAB));

    let sampler = |params: SamplingParams| Sampler::new(&params, &[7], None);
    let mut samplers =
        [sampler(SamplingParams::greedy(1)), sampler(SamplingParams { logprobs: Some(0), ..warm(1.0, 1) }), sampler(warm(1.0, 2))];
    let mut some = StepOutput { draws: samplers.iter().map(Sampler::for_device).collect(), ..StepOutput::default() };
    decoder.step(&placement, &[7, 8, 9], &mut pool, &[0, 1, 2], &mut some);
    let expected = [0, 1, 2].map(|row| samplers[row].choose(&mut all.logits[row * VOCAB..][..VOCAB].to_vec()).unwrap().token);
    assert_eq!(some.found, [Found::Token(expected[0]), Found::Open, Found::Token(expected[2])]);
    assert_eq!(bits(&some.logits), bits(&all.logits[VOCAB..][..VOCAB]));
    assert_eq!(decoder.backend().inner().started.borrow().get("sample_f32"), Some(&1));
}

#[test]
fn decoding_steps_are_recorded_once_and_replayed() {
    let Some(backend) = emulated() else { return };
    let dir = model();
    let mut decoder = Decoder::load(&open(&dir), backend, CONTEXT, 8).unwrap();
    let mut pool = decoder.pool(4).unwrap();
    let table: Vec<PageId> = (0..2).map(PageId).collect();
    let mut out = StepOutput::default();
    for position in 0..6 {
        let rows = [Row { sequence: 0, position }];
        decoder.step(&Placement { rows: &rows, tables: &[&table] }, &[7], &mut pool, &[0], &mut out);
    }
    let device = decoder.backend().inner();
    // The first is started singly, the second recorded; it and the four after it are replayed.
    assert_eq!(*device.replayed.borrow(), 5);
    let started: HashMap<String, usize> = device.started.borrow().clone();
    assert_eq!(started["embed_f32"], 6);
}

#[test]
fn without_memory_for_parts_attention_is_whole() {
    let Some(backend) = emulated() else { return };
    let dir = model();
    let folder = open(&dir);
    let tokens = prompt(71, 8);
    let table = [PageId(1), PageId(0)];
    let rows = |from: usize, to: usize| (from..to).map(|position| Row { sequence: 0, position }).collect::<Vec<_>>();
    let (mut out, mut expected) = (StepOutput::default(), StepOutput::default());

    let mut decoder = Decoder::load(&folder, backend, CONTEXT, 80).unwrap();
    let mut pool = decoder.pool(2).unwrap();
    decoder.step(&Placement { rows: &rows(0, 70), tables: &[&table] }, &tokens[..70], &mut pool, &[69], &mut out);
    *decoder.backend().inner().free.borrow_mut() = 0;
    decoder.step(&Placement { rows: &rows(70, 71), tables: &[&table] }, &tokens[70..], &mut pool, &[0], &mut out);
    assert_eq!(decoder.fault(), None);
    let started = decoder.backend().inner().started.borrow().clone();
    assert!(started.contains_key("attention_whole_1_64") && !started.contains_key("attention_split_1_64"), "{started:?}");

    let mut decoder = Decoder::load(&folder, CpuBackend::new(1), CONTEXT, 80).unwrap();
    let mut pool = decoder.pool(2).unwrap();
    table.iter().for_each(|page| decoder.prepare(&mut pool, *page).unwrap());
    decoder.step(&Placement { rows: &rows(0, 71), tables: &[&table] }, &tokens, &mut pool, &[70], &mut expected);
    assert_eq!((bits(&out.logits), out.digests[0]), (bits(&expected.logits), expected.digests[70]));
}

#[test]
fn the_operators_comparison_finds_equal_values_and_differing_ones() {
    let Some(backend) = emulated() else { return };
    let dir = tempfile::tempdir().unwrap();
    random::write(dir.path(), RandomShape::Tiny, 1).unwrap();
    assert!(compare(dir.path(), backend).unwrap() > 18_000);

    let Some(backend) = emulated() else { return };
    backend.inner().flips.set(true);
    let error = compare(dir.path(), backend).unwrap_err().to_string();
    assert!(error.contains("differ at"), "{error}");
}

#[test]
fn a_device_that_fails_fails_its_jobs_and_takes_no_more() {
    let Some(library) = library() else { return };
    let dir = model();
    let device = Emulated::new(library);
    // Enough to load the model and to begin.
    *device.good.borrow_mut() = 100;
    let engine = Engine::start_on(open(&dir), GpuBackend::new(device, SHARE), EngineConfig::default()).unwrap();
    let (_, outcome) = answers(&engine, &[(prompt(30, 1), SamplingParams::greedy(200))]).remove(0);
    let Err(EngineFailure::Device(reason)) = outcome else { panic!("{outcome:?}") };
    assert!(reason.contains("ILLEGAL_ADDRESS"), "{reason}");
    let job = EngineJob { prompt: vec![1], params: SamplingParams::greedy(1), cancel: Cancel::default(), scope: 0 };
    assert!(matches!(engine.submit(job), Err(Refusal::Device(_))));
    assert_eq!(engine.device_error(), Some(reason));
}

#[test]
fn a_model_that_does_not_fit_is_refused_with_the_bytes() {
    let Some(library) = library() else { return };
    let dir = model();
    let device = Emulated::new(library);
    *device.free.borrow_mut() = 10_000;
    let started = Engine::start_on(open(&dir), GpuBackend::new(device, SHARE), EngineConfig::default());
    let error = started.map(drop).unwrap_err();
    assert!(matches!(&error, StartError::Load(load) if load.to_string().contains("could not be allocated")), "{error}");

    // The weights fit, and no memory is left for pages.
    let started = Engine::start_on(open(&dir), GpuBackend::new(Emulated::new(library), 0.0), EngineConfig::default());
    assert!(matches!(started.map(drop), Err(StartError::NoPage { budget_bytes: 0, .. })));
}
