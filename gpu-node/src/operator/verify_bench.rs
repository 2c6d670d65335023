//! `gpu-node verify --bench`: how long it takes to verify an answer, against how long it took to generate it.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{bail, ensure};
use serde_json::json;
use wire::node::SamplingParams;

use super::print_line;
use crate::engine::{Cancel, Engine, EngineConfig, EngineEvent, EngineHandle, EngineJob, Finished};
use crate::proof::recompute::Recomputer;

/// Prompt and answer of the figure, tokens.
const TOKENS: usize = 256;
/// Pairs of one generation and one verification; the figure is the median.
const RUNS: u64 = 7;
/// Seeds tried for an answer that does not end early.
const SEEDS_MAX: u64 = 64;

/// Generates and verifies in turn, so that a busy machine slows both.
pub(super) fn run(model: &Path, threads: usize, json: bool) -> anyhow::Result<ExitCode> {
    let engine = Engine::start(model, EngineConfig { threads, ..EngineConfig::default() })?;
    let mut recomputer = Recomputer::open(model, threads)?;
    let text = engine.prompter().encode("The sea at night, and the ships that pass. ")?;
    ensure!(!text.is_empty(), "the model's tokenizer makes no tokens of English text");
    let prompt: Vec<u32> = text.into_iter().cycle().take(TOKENS).collect();
    let (seed, tokens) = long_answer(&engine, &prompt)?;

    let (mut ratios, mut generated_ms, mut verified_ms) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..RUNS {
        // A scope of its own, so that no prompt is there from the run before.
        let (again, finished) = answer(&engine, &prompt, seed, SEEDS_MAX + run)?;
        ensure!(again == tokens, "the same request gave another answer; the engine is not deterministic");
        let generate = (finished.timings.prefill_us + finished.timings.decode_us) as f64 / 1e3;
        let begin = Instant::now();
        let found = recomputer.recompute(&prompt, &tokens, &params(seed), &|| true)?;
        let verify = begin.elapsed().as_secs_f64() * 1e3;
        ensure!(
            found.windows == finished.windows && found.first_wrong.is_none(),
            "an honest answer does not verify; the numeric contract is broken"
        );
        ratios.push(verify / generate);
        generated_ms.push(generate);
        verified_ms.push(verify);
    }
    let figures = [
        ("verify_time_ratio", median(ratios), ""),
        ("verify_256_256_ms", median(verified_ms), " ms"),
        ("generate_256_256_ms", median(generated_ms), " ms"),
    ];
    let identity = engine.identity();
    if json {
        let mut object = json!({ "device": identity.device_name, "threads": threads, "numeric_contract": identity.numeric_contract });
        for (name, value, _) in figures {
            object[name] = json!(value);
        }
        print_line(serde_json::to_string_pretty(&object)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    for (name, value, unit) in figures {
        print_line(format!("figure {name} {value:.3}{unit}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn params(seed: u64) -> SamplingParams {
    SamplingParams { temperature: 0.8, top_k: 40, seed, ..SamplingParams::greedy(TOKENS as u32) }
}

fn long_answer(engine: &EngineHandle, prompt: &[u32]) -> anyhow::Result<(u64, Vec<u32>)> {
    for seed in 0..SEEDS_MAX {
        let (tokens, _) = answer(engine, prompt, seed, seed)?;
        if tokens.len() == TOKENS {
            return Ok((seed, tokens));
        }
    }
    bail!("no answer of {TOKENS} tokens in {SEEDS_MAX} tries; the model ends its turns too early for this figure")
}

fn answer(engine: &EngineHandle, prompt: &[u32], seed: u64, scope: u64) -> anyhow::Result<(Vec<u32>, Finished)> {
    let mut events = engine.submit(EngineJob { prompt: prompt.to_vec(), params: params(seed), cancel: Cancel::default(), scope })?;
    let mut tokens = Vec::new();
    while let Some(event) = events.blocking_recv() {
        match event {
            EngineEvent::Tokens { ids, .. } => tokens.extend(ids),
            EngineEvent::Finished(finished) => return Ok((tokens, finished)),
            EngineEvent::Failed(failure) => bail!(failure),
        }
    }
    bail!("the engine ended without an answer")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
