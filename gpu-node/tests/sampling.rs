//! What shapes an answer, through the engine: JSON formats, biases, log-probabilities; on a tiny random model, and on the real
//! small one when it is there (as `parity.rs` finds it).

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::path::{Path, PathBuf};

use common::{EOS, Noise, VOCAB, write_model};
use gpu_node::engine::{
    Cancel, Engine, EngineConfig, EngineEvent, EngineHandle, EngineJob, Finished, Refusal, SampleError, Sampler, redraw,
};
use prompt::{Message, Prompter};
use serde_json::{Value, json};
use wire::node::{AnswerFormat, FailureCode, FinishReason, SamplingParams, TokenLogprobs};

fn tiny() -> (tempfile::TempDir, EngineHandle) {
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path(), |_, _| ());
    let engine = Engine::start(dir.path(), EngineConfig { threads: 2, ..EngineConfig::default() }).unwrap();
    (dir, engine)
}

fn real() -> Option<PathBuf> {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../.parallelix/models/SmolLM2-135M-Instruct");
    let dir = std::env::var_os("PARALLELIX_MODEL").map_or_else(default, PathBuf::from);
    if dir.join("model.safetensors").is_file() {
        return Some(dir);
    }
    eprintln!("did not run: no model in {}; make it with `gpu-node model import` or set PARALLELIX_MODEL", dir.display());
    None
}

fn job(prompt: &[u32], params: &SamplingParams) -> EngineJob {
    EngineJob { prompt: prompt.to_vec(), params: params.clone(), cancel: Cancel::default(), scope: 0 }
}

/// Answers to all prompts at once.
fn answers(engine: &EngineHandle, jobs: &[(Vec<u32>, SamplingParams)]) -> Vec<(Vec<u32>, Vec<TokenLogprobs>, Finished)> {
    let receivers: Vec<_> = jobs.iter().map(|(prompt, params)| engine.submit(job(prompt, params)).unwrap()).collect();
    let collect = |mut events: tokio::sync::mpsc::Receiver<EngineEvent>| {
        let (mut tokens, mut scores) = (Vec::new(), Vec::new());
        loop {
            match events.blocking_recv() {
                Some(EngineEvent::Tokens { ids, logprobs }) => {
                    tokens.extend(ids);
                    scores.extend(logprobs);
                }
                Some(EngineEvent::Finished(finished)) => return (tokens, scores, finished),
                other => panic!("{other:?}"),
            }
        }
    };
    receivers.into_iter().map(collect).collect()
}

fn schema(schema: &Value) -> AnswerFormat {
    AnswerFormat::JsonSchema { schema: schema.to_string() }
}

fn person() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 1, "maxLength": 12},
            "age": {"type": "integer", "minimum": 1, "maximum": 130},
            "alive": {"type": "boolean"},
            "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "minItems": 1, "maxItems": 3},
        },
        "required": ["name", "age", "alive", "tags"],
        "additionalProperties": false,
    })
}

/// Parses, and has every property as [`person`] wants it, in its order.
fn assert_is_a_person(text: &str) {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let fields = value.as_object().unwrap();
    assert_eq!(fields.keys().collect::<Vec<_>>(), ["name", "age", "alive", "tags"], "{text}");
    assert!((1..=12).contains(&value["name"].as_str().unwrap().chars().count()), "{text}");
    assert!((1..=130).contains(&value["age"].as_u64().unwrap()) && value["alive"].is_boolean(), "{text}");
    let tags = value["tags"].as_array().unwrap();
    assert!((1..=3).contains(&tags.len()) && tags.iter().all(|tag| ["red", "green", "blue"].iter().any(|c| tag == c)), "{text}");
}

#[test]
fn json_answers_of_a_random_model_satisfy_their_schema_at_any_temperature() {
    let (_dir, engine) = tiny();
    let params = |seed: u64| SamplingParams {
        temperature: [0.0, 0.5, 1.0, 2.0][seed as usize % 4],
        seed,
        presence_penalty: 2.0,
        repetition_penalty: 1.3,
        logit_bias: vec![(u32::from(b'x'), 100.0), (EOS, 100.0)],
        format: schema(&person()),
        ..SamplingParams::greedy(400)
    };
    let jobs: Vec<_> = (0..12).map(|seed| (vec![1, 2, seed as u32], params(seed))).collect();
    for (tokens, _, finished) in answers(&engine, &jobs) {
        assert_eq!((finished.reason, tokens.last()), (FinishReason::Stop, Some(&EOS)));
        assert_is_a_person(&engine.prompter().decode(&tokens).unwrap());
    }
}

#[test]
fn a_ceiling_cuts_a_json_answer_and_says_so() {
    let (_dir, engine) = tiny();
    let params = SamplingParams { format: AnswerFormat::JsonObject, ..SamplingParams::greedy(2) };
    let (tokens, _, finished) = answers(&engine, &[(vec![1], params)]).remove(0);
    assert_eq!((finished.reason, tokens.len()), (FinishReason::Length, 2));
    assert!(engine.prompter().decode(&tokens).unwrap().starts_with('{'));
}

#[test]
fn greedy_takes_the_first_of_the_alternatives_and_company_changes_no_bit() {
    let (_dir, engine) = tiny();
    let params = SamplingParams { logprobs: Some(5), ..SamplingParams::greedy(20) };
    let alone = answers(&engine, &[(vec![5, 6, 7], params.clone())]).remove(0);
    for (token, scored) in alone.0.iter().zip(&alone.1) {
        assert_eq!((scored.top.len(), scored.top[0]), (5, (*token, scored.logprob)));
        let mass: f32 = scored.top.iter().map(|(_, logprob)| logprob.exp()).sum();
        assert!(scored.logprob <= 0.0 && mass <= 1.000_01 && scored.top.is_sorted_by(|a, b| a.1 >= b.1), "{scored:?}");
    }
    assert_eq!(alone.0.len(), alone.1.len());
    let mut jobs: Vec<_> = (0..6).map(|i| (vec![9, i], SamplingParams { temperature: 1.0, ..params.clone() })).collect();
    jobs.insert(3, (vec![5, 6, 7], params));
    let beside = answers(&engine, &jobs).remove(3);
    assert_eq!((beside.0, beside.1), (alone.0, alone.1));
}

#[test]
fn nothing_is_scored_that_nobody_asked_for() {
    let (_dir, engine) = tiny();
    assert!(answers(&engine, &[(vec![1], SamplingParams::greedy(5))])[0].1.is_empty());
    let asked = SamplingParams { logprobs: Some(0), ..SamplingParams::greedy(5) };
    assert!(answers(&engine, &[(vec![1], asked)])[0].1.iter().all(|scored| scored.top.is_empty() && scored.logprob < 0.0));
}

#[test]
fn a_bias_forces_and_bans_tokens_and_leaves_their_log_probabilities() {
    let (_dir, engine) = tiny();
    let plain = SamplingParams { logprobs: Some(20), ..SamplingParams::greedy(8) };
    let forced = SamplingParams { logit_bias: vec![(65, 100.0)], ..plain.clone() };
    let unbiased = answers(&engine, &[(vec![3, 4], plain.clone())]).remove(0);
    let forced = answers(&engine, &[(vec![3, 4], forced)]).remove(0);
    assert_eq!(forced.0, [65; 8]);
    assert_eq!(forced.1[0].top, unbiased.1[0].top);
    let banned = SamplingParams { logit_bias: vec![(unbiased.0[0], -100.0)], ..plain };
    assert_eq!(answers(&engine, &[(vec![3, 4], banned)])[0].0[0], unbiased.1[0].top[1].0);
}

#[test]
fn what_can_not_be_served_is_refused_before_it_is_computed() {
    let (_dir, engine) = tiny();
    let refusal = |params: SamplingParams| engine.submit(job(&[1], &params)).err().unwrap();
    let unknown = refusal(SamplingParams { logit_bias: vec![(VOCAB as u32, 1.0)], ..SamplingParams::greedy(1) });
    assert_eq!(unknown.code(), FailureCode::BadParams);
    assert!(unknown.to_string().contains(&format!("token {VOCAB}")), "{unknown}");
    let bad = refusal(SamplingParams { format: schema(&json!({"type": "banana"})), ..SamplingParams::greedy(1) });
    assert!(matches!(bad, Refusal::Format(_)) && bad.code() == FailureCode::BadParams, "{bad}");
}

#[test]
fn a_verifier_repeats_each_draw_of_a_json_answer_from_its_logits_alone() {
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path(), |_, _| ());
    let prompter = Prompter::open(dir.path()).unwrap();
    let prompt = [1, 2, 3];
    for seed in 0..6 {
        let params = SamplingParams {
            temperature: 1.0,
            seed,
            top_p: 0.9,
            repetition_penalty: 1.2,
            logprobs: Some(2),
            format: schema(&person()),
            ..SamplingParams::greedy(300)
        };
        let mut noise = Noise(seed);
        let mut serving = Sampler::for_request(&prompter, &params, &prompt).unwrap();
        let mut drawn = Vec::new();
        while drawn.last() != Some(&EOS) {
            let logits = noise.take(VOCAB, 8.0);
            let served = serving.draw(&mut logits.clone()).unwrap();
            // Each from nothing is quadratic; a few suffice.
            if drawn.len() % 7 == 0 {
                assert_eq!(redraw(&prompter, &params, &prompt, &drawn, &mut logits.clone()).unwrap(), served);
            }
            drawn.push(served.token);
        }
        assert_is_a_person(&prompter.decode(&drawn).unwrap());
        let swapped = [drawn[..4].to_vec(), vec![EOS]].concat();
        assert!(redraw(&prompter, &params, &prompt, &swapped, &mut noise.take(VOCAB, 8.0)).is_err(), "no node can have drawn that");
    }
}

#[test]
fn a_model_without_any_allowed_token_fails_the_answer() {
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path(), |_, _| ());
    let prompter = Prompter::open(dir.path()).unwrap();
    for temperature in [0.0, 1.0] {
        let params = SamplingParams { temperature, format: AnswerFormat::JsonObject, ..SamplingParams::greedy(5) };
        let mut sampler = Sampler::for_request(&prompter, &params, &[1]).unwrap();
        // `{` is token 123 here.
        assert_eq!(sampler.draw(&mut [0.0; 100]), Err(SampleError::NothingAllowed));
        assert_eq!(sampler.draw(&mut [0.0; 124]).unwrap().token, 123);
    }
}

#[test]
fn json_answers_of_the_real_model_satisfy_their_schema() {
    let Some(dir) = real() else { return };
    let engine = Engine::start(&dir, EngineConfig { threads: 2, ..EngineConfig::default() }).unwrap();
    let asks = ["Describe a famous scientist as JSON.", "Who wrote Hamlet? Answer in JSON.", "Invent a character.", "Say hello."];
    let prompts: Vec<Vec<u32>> = asks.iter().map(|ask| engine.prompter().render(&[Message::new("user", *ask)]).unwrap()).collect();
    let params = |temperature: f32, format: AnswerFormat| SamplingParams { temperature, seed: 7, format, ..SamplingParams::greedy(200) };
    let held: Vec<_> = prompts.iter().flat_map(|p| [0.0, 1.0].map(|t| (p.clone(), params(t, schema(&person()))))).collect();
    for (tokens, _, finished) in answers(&engine, &held) {
        let text = engine.prompter().decode(&tokens).unwrap();
        eprintln!("{text}");
        assert_eq!(finished.reason, FinishReason::Stop, "{text}");
        assert_is_a_person(&text);
    }
    let objects: Vec<_> = prompts.iter().map(|p| (p.clone(), params(0.0, AnswerFormat::JsonObject))).collect();
    for (tokens, _, finished) in answers(&engine, &objects) {
        let text = engine.prompter().decode(&tokens).unwrap();
        // A small model may not come to an end; what it said until then still begins an object.
        match finished.reason {
            FinishReason::Stop => assert!(serde_json::from_str::<Value>(&text).unwrap().is_object(), "{text}"),
            _ => assert!(text.starts_with('{'), "{text}"),
        }
    }
}
