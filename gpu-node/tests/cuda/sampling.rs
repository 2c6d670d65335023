//! Draws on the emulated device beside those of the processor's sampler, from the same logits.

use gpu_node::backend::cuda::GpuBackend;
use gpu_node::backend::{Backend, Draw, Found};
use gpu_node::engine::{SampleError, Sampler};
use proptest::prelude::*;
use wire::node::SamplingParams;

use super::common::Noise;
use super::emulated;
use super::emulated::Emulated;

/// A request in the middle of its answer.
#[derive(Debug, Clone)]
struct Request {
    params: SamplingParams,
    prompt: Vec<u32>,
    answer: Vec<u32>,
}

impl Request {
    fn new(params: SamplingParams) -> Self {
        Self { params, prompt: Vec::new(), answer: Vec::new() }
    }

    fn sampler(&self) -> Sampler {
        let mut sampler = Sampler::new(&self.params, &self.prompt, None);
        self.answer.iter().for_each(|token| sampler.accept(*token).unwrap());
        sampler
    }
}

fn warm(temperature: f32) -> SamplingParams {
    SamplingParams { temperature, ..SamplingParams::greedy(9) }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// Draws a row for each request on the device; logits must stay as they were.
fn drawn(backend: &mut GpuBackend<Emulated>, logits: &[f32], draws: &[Option<Draw>]) -> Vec<Found> {
    let rows = backend.upload_rows(logits, logits.len() / draws.len()).unwrap();
    let (mut found, mut after) = (Vec::new(), Vec::new());
    backend.draw(&rows, draws, &mut found);
    backend.read(&rows, &mut after);
    assert_eq!(backend.fault(), None);
    assert!(bits(&after) == bits(logits), "the draw left other logits");
    found
}

/// What serving would take: from the device, or from the logits where it leaves them.
fn expect_the_processors(backend: &mut GpuBackend<Emulated>, logits: &[f32], requests: &[Request]) -> Vec<Found> {
    let draws: Vec<Option<Draw>> = requests.iter().map(|request| request.sampler().for_device()).collect();
    let found = drawn(backend, logits, &draws);
    for ((found, request), row) in found.iter().zip(requests).zip(logits.chunks(logits.len() / requests.len())) {
        let expected = request.sampler().choose(&mut row.to_vec());
        match found {
            Found::Token(token) => assert_eq!(expected.map(|drawn| drawn.token), Ok(*token), "{request:?}"),
            Found::NotFinite => assert_eq!(expected, Err(SampleError::NotFinite), "{request:?}"),
            Found::Open => assert_ne!(expected, Err(SampleError::NotFinite), "{request:?}"),
        }
    }
    found
}

const VOCABULARIES: [usize; 10] = [1, 2, 31, 33, 1_000, 2_047, 2_048, 2_049, 3_001, 6_007];

/// Rows of logits that are smooth, full of equals, or absurd.
fn hostile_logits(vocabulary: usize) -> impl Strategy<Value = Vec<f32>> {
    let absurd = prop_oneof![Just(f32::MAX), Just(f32::MIN), Just(0.0f32), Just(-0.0f32), Just(1e-40f32), -1e30f32..1e30, Just(88.0f32)];
    let damage =
        prop_oneof![9 => Just(None), 1 => prop_oneof![Just(Some(f32::NAN)), Just(Some(f32::INFINITY)), Just(Some(f32::NEG_INFINITY))]];
    let few = (any::<u64>(), 0usize..6, prop::collection::vec((any::<prop::sample::Index>(), absurd), 0..12));
    (few, damage, any::<prop::sample::Index>()).prop_map(move |((seed, kind, absurd), damage, at)| {
        let mut noise = Noise(seed);
        let mut row: Vec<f32> = match kind {
            0 => noise.take(vocabulary, 16.0),
            1 => noise.take(vocabulary, 4.0).iter().map(|x| x.round()).collect(),
            2 => vec![noise.next() * 9.0; vocabulary],
            3 => noise.take(vocabulary, 1e-6),
            4 => noise.take(vocabulary, 400.0),
            _ => noise.take(vocabulary, 2.0).iter().map(|x| if *x < 0.0 { -0.0 } else { 0.0 }).collect(),
        };
        absurd.iter().for_each(|(at, logit)| row[at.index(vocabulary)] = *logit);
        if let Some(damaged) = damage {
            row[at.index(vocabulary)] = damaged;
        }
        row
    })
}

fn any_request(vocabulary: usize) -> impl Strategy<Value = Request> {
    let size = vocabulary as u32;
    let temperature = prop_oneof![Just(0.0f32), Just(f32::MIN_POSITIVE), Just(1e-4f32), 0.01f32..2.0, Just(2.0f32)];
    let top_k = prop_oneof![Just(0u32), Just(1u32), Just(2u32), 3u32..1_500, Just(size.saturating_sub(1)), Just(size), Just(u32::MAX)];
    let top_p = prop_oneof![Just(1.0f32), Just(1e-9f32), 0.01f32..1.0, Just(1.0f32 - f32::EPSILON)];
    let min_p = prop_oneof![Just(0.0f32), 0.0f32..1.0, Just(1.0f32)];
    let penalty = || prop_oneof![Just(0.0f32), -2f32..2.0];
    let repetition = prop_oneof![Just(1.0f32), 0.01f32..2.0, Just(f32::MIN_POSITIVE)];
    let tokens = || prop::collection::vec(0..size, 0..40);
    let bias = prop::collection::btree_map(0..size + 3, -100f32..100.0, 0..6);
    let numbers = (temperature, top_k, top_p, min_p, penalty(), penalty(), repetition);
    (numbers, any::<u64>(), bias, tokens(), tokens()).prop_map(|(numbers, seed, bias, prompt, answer)| {
        let (temperature, top_k, top_p, min_p, presence_penalty, frequency_penalty, repetition_penalty) = numbers;
        let penalties = SamplingParams { presence_penalty, frequency_penalty, repetition_penalty, ..warm(temperature) };
        let params = SamplingParams { top_k, top_p, min_p, seed, logit_bias: bias.into_iter().collect(), ..penalties };
        Request { params, prompt, answer }
    })
}

fn any_batch() -> impl Strategy<Value = (Vec<f32>, Vec<Request>)> {
    (prop::sample::select(VOCABULARIES.to_vec()), 1usize..4).prop_flat_map(|(vocabulary, rows)| {
        let logits = prop::collection::vec(hostile_logits(vocabulary), rows).prop_map(|rows| rows.concat());
        (logits, prop::collection::vec(any_request(vocabulary), rows))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]
    #[test]
    fn a_token_that_the_device_draws_is_the_processors((logits, requests) in any_batch()) {
        let Some(mut backend) = emulated() else { return Ok(()) };
        expect_the_processors(&mut backend, &logits, &requests);
    }
}

/// Requests as they are made: the device draws all of them, from logits as peaked and as flat as a model's.
#[test]
fn ordinary_requests_are_drawn_on_the_device() {
    let Some(mut backend) = emulated() else { return };
    let penalties = SamplingParams { repetition_penalty: 1.1, presence_penalty: 0.3, frequency_penalty: 0.2, ..warm(0.8) };
    let kinds = [
        SamplingParams::greedy(9),
        warm(1.0),
        warm(0.1),
        SamplingParams { top_k: 40, ..warm(0.7) },
        SamplingParams { top_k: 1_000, ..warm(2.0) },
        SamplingParams { top_p: 0.9, ..warm(0.7) },
        SamplingParams { top_k: 64, top_p: 0.95, min_p: 0.9, ..warm(1.0) },
        SamplingParams { min_p: 0.1, ..warm(1.5) },
        SamplingParams { logit_bias: vec![(5, 4.0), (6_000, -3.0)], ..penalties },
    ];
    let vocabulary = 6_007;
    let mut tokens = std::collections::BTreeSet::new();
    for seed in 0..12 {
        let answer: Vec<u32> = (0..seed as u32).map(|i| i * 97 % 6_007).collect();
        let requests: Vec<Request> = kinds
            .iter()
            .map(|params| Request { params: SamplingParams { seed, ..params.clone() }, prompt: vec![1, 2, 700], answer: answer.clone() })
            .collect();
        let logits = Noise(seed + 1).take(vocabulary * kinds.len(), 24.0);
        let found = expect_the_processors(&mut backend, &logits, &requests);
        for (found, params) in found.iter().zip(&kinds) {
            let Found::Token(token) = found else { panic!("{found:?}: {params:?}") };
            tokens.insert(*token);
        }
    }
    assert!(tokens.len() > 50, "{} tokens", tokens.len());
}

/// Logits that differ in their last bits have equal weights: a nucleus takes these by id, whatever their logits.
#[test]
fn equal_weights_of_unequal_logits_are_taken_by_id() {
    let Some(mut backend) = emulated() else { return };
    let nucleus = Request::new(SamplingParams { top_p: 0.101, seed: 3, ..warm(1.0) });
    for (vocabulary, is_listed) in [(500, true), (2_048, true), (6_007, false)] {
        let mut logits = Noise(5).take(vocabulary, 1e-9);
        logits[vocabulary / 2] = 1e-9;
        let found = expect_the_processors(&mut backend, &logits, std::slice::from_ref(&nucleus));
        // Of 6,007 the list has others than those with the lowest ids.
        assert_eq!(matches!(found[..], [Found::Token(_)]), is_listed, "{vocabulary}: {found:?}");
    }
}

/// Numbers that fall on the bound between two tokens, but for rounding, are not decided; those between the bounds are.
#[test]
fn a_sum_on_its_bound_is_left_to_the_processor() {
    let Some(mut backend) = emulated() else { return };
    let (all, listed) = (6_007u32, 1_000u32);
    let logits = vec![1.0f32; all as usize];
    for params in [warm(1.0), SamplingParams { top_k: listed, ..warm(1.0) }] {
        let mut draw = Request::new(params.clone()).sampler().for_device().unwrap();
        let count = if params.top_k > 0 { listed } else { all };
        for token in [1, 2, 77, 500, 999] {
            let mut at = |uniform: f64| {
                draw.uniform = uniform;
                drawn(&mut backend, &logits, &[Some(draw.clone())])
            };
            let bound = f64::from(token) / f64::from(count);
            let near = [-1i64, 0, 1].map(|by| f64::from_bits(bound.to_bits().wrapping_add_signed(by)));
            assert_eq!(near.map(|uniform| at(uniform)[0]), [Found::Open; 3], "{token} of {count}");
            assert_eq!(at((f64::from(token) + 0.5) / f64::from(count)), [Found::Token(token)]);
        }
    }
}

#[test]
fn zeros_are_equal_and_damage_under_a_bias_is_seen() {
    let Some(mut backend) = emulated() else { return };
    let greedy = Request::new(SamplingParams::greedy(1));
    assert_eq!(expect_the_processors(&mut backend, &[-1.0, -0.0, 0.0], &[greedy]), [Found::Token(1)]);
    let biased = Request::new(SamplingParams { logit_bias: vec![(1, 4.0)], ..SamplingParams::greedy(1) });
    for damaged in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
        let draw = biased.sampler().for_device();
        let rows = backend.upload_rows(&[1.0, damaged, 2.0], 3).unwrap();
        let mut found = Vec::new();
        backend.draw(&rows, &[draw], &mut found);
        assert_eq!(found, [Found::NotFinite]);
    }
}

/// What is too near to be sure of, too wide to be listed, or not asked for goes to the processor; the rows beside it do not.
#[test]
fn rows_that_the_device_cannot_be_sure_of_stay_open() {
    let Some(mut backend) = emulated() else { return };
    let vocabulary = 6_007;
    let flat = |id: usize| -((id * 7_919 % vocabulary) as f32) * 1e-4;
    let row: Vec<f32> = (0..vocabulary).map(flat).collect();
    let requests = [
        // 0.9 of a flat distribution is more than a list.
        SamplingParams { top_p: 0.9, ..warm(1.0) },
        SamplingParams { top_p: 0.1, ..warm(1.0) },
        // Longer than a list.
        SamplingParams { top_k: 3_000, ..warm(1.0) },
        SamplingParams { top_k: 1_024, ..warm(1.0) },
        SamplingParams::greedy(9),
    ];
    let requests: Vec<Request> = requests.into_iter().map(Request::new).collect();
    let found = expect_the_processors(&mut backend, &row.repeat(requests.len()), &requests);
    let open: Vec<bool> = found.iter().map(|found| *found == Found::Open).collect();
    assert_eq!(open, [true, false, true, false, false]);

    // Half of the weight of two equal tokens is exactly one of them.
    let halves = Request::new(SamplingParams { top_p: 0.5, ..warm(1.0) });
    assert_eq!(expect_the_processors(&mut backend, &[3.0, 3.0], &[halves]), [Found::Open]);

    let greedy = Request::new(SamplingParams::greedy(1)).sampler().for_device();
    assert_eq!(
        drawn(&mut backend, &[1.0, 2.0, 9.0, 9.0, f32::NAN, 1.0], &[None, greedy.clone(), greedy]),
        [Found::Open, Found::Token(0), Found::NotFinite]
    );
}

#[test]
fn without_room_on_the_device_the_processor_draws() {
    let Some(mut backend) = emulated() else { return };
    let rows = backend.upload_rows(&[1.0, 2.0], 2).unwrap();
    *backend.inner().free.borrow_mut() = 0;
    let mut found = Vec::new();
    backend.draw(&rows, &[Request::new(SamplingParams::greedy(1)).sampler().for_device()], &mut found);
    assert_eq!((found, backend.fault()), (vec![Found::Open], None));
}

#[test]
fn log_probabilities_need_the_logits() {
    let params = SamplingParams { logprobs: Some(0), ..warm(1.0) };
    assert_eq!(Request::new(params).sampler().for_device(), None);
}
