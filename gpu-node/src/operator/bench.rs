//! `gpu-node bench`: how fast this machine serves a model.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, bail};
use clap::Args;
use prompt::Message;
use serde_json::{Map, json};
use tokio::sync::mpsc;
use wire::node::SamplingParams;

use crate::engine::{Cancel, Engine, EngineConfig, EngineEvent, EngineHandle, EngineJob, Finished};

/// Asks for an answer that is longer than any measurement.
const QUESTION: &str = "Write a long and detailed story about a lighthouse keeper, the sea, and the ships that pass at night.";

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  gpu-node bench --model models/smollm2-135m-instruct
  gpu-node bench --model DIR --json --threads 2

Each figure is the median of --runs measurements.")]
pub struct BenchArgs {
    /// Model folder
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Threads that compute; by default all
    #[arg(long)]
    threads: Option<usize>,
    /// Measurements of each figure
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// Prompt length of the prefill figure
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=4096))]
    prompt_tokens: u32,
    /// Answer length of the decode figures
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(2..=4096))]
    completion_tokens: u32,
    /// Print one JSON object instead of lines
    #[arg(long)]
    json: bool,
}

struct Figure {
    name: &'static str,
    value: f64,
    unit: &'static str,
}

impl BenchArgs {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let defaults = EngineConfig::default();
        let config = EngineConfig { threads: self.threads.unwrap_or(defaults.threads), ..defaults };
        let begin = Instant::now();
        let engine = Engine::start(&self.model, config)?;
        let load_ms = begin.elapsed().as_secs_f64() * 1e3;

        let question = engine.prompter().render(&[Message::new("user", QUESTION)])?;
        let long: Vec<u32> = question.iter().copied().cycle().take(self.prompt_tokens as usize).collect();
        // Touches every page of the weights once.
        answer(&engine, &question, 4)?;

        let (mut decode, mut prefill, mut first, mut eight) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.runs {
            let one = answer(&engine, &question, self.completion_tokens)?;
            decode.push(per_second(one.completion_tokens.saturating_sub(1), one.timings.decode_us));
            first.push(one.timings.prefill_us as f64 / 1e3);
            let long = answer(&engine, &long, 1)?;
            prefill.push(per_second(long.prompt_tokens, long.timings.prefill_us));
            eight.push(throughput(&engine, &question, self.completion_tokens, 8)?);
        }

        let figures = [
            Figure { name: "decode_tokens_per_s", value: median(decode), unit: "tokens/s" },
            Figure { name: "prefill_tokens_per_s", value: median(prefill), unit: "tokens/s" },
            Figure { name: "first_token_ms", value: median(first), unit: "ms" },
            Figure { name: "throughput8_tokens_per_s", value: median(eight), unit: "tokens/s" },
            Figure { name: "load_ms", value: load_ms, unit: "ms" },
            Figure { name: "peak_memory_mb", value: peak_memory_mb(), unit: "MB" },
        ];
        print(&figures, &engine, self.json)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn answer(engine: &EngineHandle, prompt: &[u32], max_tokens: u32) -> anyhow::Result<Finished> {
    wait(submit(engine, prompt, max_tokens, 0)?)
}

fn submit(engine: &EngineHandle, prompt: &[u32], max_tokens: u32, seed: u64) -> anyhow::Result<mpsc::Receiver<EngineEvent>> {
    // Sampled, so that answers differ; with the end of turn out of reach of a small nucleus they rarely end early.
    let params = SamplingParams { temperature: 0.8, top_k: 40, seed, ..SamplingParams::greedy(max_tokens) };
    Ok(engine.submit(EngineJob { prompt: prompt.to_vec(), params, cancel: Cancel::default() })?)
}

fn wait(mut events: mpsc::Receiver<EngineEvent>) -> anyhow::Result<Finished> {
    while let Some(event) = events.blocking_recv() {
        match event {
            EngineEvent::Tokens { .. } => {}
            EngineEvent::Finished(finished) => return Ok(finished),
            EngineEvent::Failed(failure) => bail!(failure),
        }
    }
    bail!("the engine ended without an answer")
}

/// Completion tokens per second of several requests at once, prompts included in the time.
fn throughput(engine: &EngineHandle, prompt: &[u32], max_tokens: u32, requests: u64) -> anyhow::Result<f64> {
    let begin = Instant::now();
    let all: Vec<_> = (0..requests).map(|seed| submit(engine, prompt, max_tokens, seed)).collect::<anyhow::Result<_>>()?;
    let mut tokens = 0;
    for events in all {
        tokens += wait(events)?.completion_tokens;
    }
    Ok(f64::from(tokens) / begin.elapsed().as_secs_f64())
}

fn per_second(tokens: u32, took_us: u64) -> f64 {
    f64::from(tokens) / (took_us.max(1) as f64 / 1e6)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Highest resident memory of this process; 0 where the system does not say.
fn peak_memory_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kb: f64 = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or_default();
    kb / 1024.0
}

fn print(figures: &[Figure], engine: &EngineHandle, json: bool) -> anyhow::Result<()> {
    let identity = engine.identity();
    if json {
        let mut object: Map<String, serde_json::Value> = figures.iter().map(|f| (f.name.to_owned(), json!(f.value))).collect();
        object.insert("device".to_owned(), json!(identity.device_name));
        object.insert("threads".to_owned(), json!(identity.parallelism));
        object.insert("numeric_contract".to_owned(), json!(identity.numeric_contract));
        println!("{}", serde_json::to_string_pretty(&object).context("figures as JSON")?);
        return Ok(());
    }
    eprintln!("{} with {} threads, {}", identity.device_name, identity.parallelism, identity.numeric_contract);
    for figure in figures {
        println!("figure {} {:.2} {}", figure.name, figure.value, figure.unit);
    }
    Ok(())
}
