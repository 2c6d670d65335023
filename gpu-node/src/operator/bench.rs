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

use crate::backend::cpu::read_gb_per_s;
use crate::backend::{BackendConfig, BackendKind};
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
    /// Also decode so many requests at once, such as 1,8,32,128
    #[arg(long, value_delimiter = ',', value_name = "REQUESTS")]
    batch: Vec<usize>,
    /// auto, cpu or cuda
    #[arg(long, default_value_t = BackendKind::Auto)]
    backend: BackendKind,
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
        let most = self.batch.iter().copied().max().unwrap_or(0).max(defaults.max_active);
        let config = EngineConfig {
            threads: self.threads.unwrap_or(defaults.threads),
            max_active: most,
            max_queued: most.max(defaults.max_queued),
            backend: BackendConfig { device: self.backend, ..defaults.backend },
            ..defaults
        };
        let threads = config.threads;
        let begin = Instant::now();
        let engine = Engine::start(&self.model, config)?;
        let load_ms = begin.elapsed().as_secs_f64() * 1e3;
        let weight_bytes = engine.load().memory_used_bytes;

        let question = engine.prompter().render(&[Message::new("user", QUESTION)])?;
        let long: Vec<u32> = question.iter().copied().cycle().take(self.prompt_tokens as usize).collect();
        // Touches every page of the weights once.
        answer(&engine, &question, 4)?;

        let mut prompts = Distinct::default();
        let (mut decode, mut prefill, mut first, mut eight, mut read) = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.runs {
            let one = answer(&engine, &prompts.next(&question), self.completion_tokens)?;
            decode.push(per_second(one.completion_tokens.saturating_sub(1), one.timings.decode_us));
            first.push(one.timings.prefill_us as f64 / 1e3);
            let long = answer(&engine, &prompts.next(&long), 1)?;
            prefill.push(per_second(long.prompt_tokens, long.timings.prefill_us));
            eight.push(throughput(&engine, &mut prompts, &question, self.completion_tokens, 8)?);
        }

        let mut batches = Vec::new();
        for &requests in &self.batch {
            let mut found = Vec::new();
            // The first fills recordings and caches.
            for run in 0..=self.runs {
                let speed = decoded_together(&engine, &mut prompts, &long, self.completion_tokens, requests)?;
                if run > 0 {
                    found.push(speed);
                }
            }
            batches.push((requests, median(found)));
        }

        // Before the bandwidth's own buffer, which is no part of serving.
        let peak_memory_mb = peak_memory_mb();
        for _ in 0..self.runs {
            read.push(read_gb_per_s(threads)?);
        }
        let (decode, read) = (median(decode), median(read));
        let figures = [
            Figure { name: "decode_tokens_per_s", value: decode, unit: "tokens/s" },
            Figure { name: "prefill_tokens_per_s", value: median(prefill), unit: "tokens/s" },
            Figure { name: "first_token_ms", value: median(first), unit: "ms" },
            Figure { name: "throughput8_tokens_per_s", value: median(eight), unit: "tokens/s" },
            Figure { name: "read_gb_per_s", value: read, unit: "GB/s" },
            Figure { name: "read_bandwidth_share", value: decode * weight_bytes as f64 / 1e9 / read, unit: "ratio" },
            Figure { name: "load_ms", value: load_ms, unit: "ms" },
            Figure { name: "peak_memory_mb", value: peak_memory_mb, unit: "MB" },
        ];
        let context_tokens = self.prompt_tokens + self.completion_tokens;
        print(&figures, &batches, context_tokens, &engine, self.json)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Prompts that share no prefix with an earlier one, so that every measurement computes all of its prompt.
#[derive(Default)]
struct Distinct(u32);

impl Distinct {
    fn next(&mut self, prompt: &[u32]) -> Vec<u32> {
        self.0 += 1;
        // Ordinary words of every vocabulary of the families; which one does not matter.
        std::iter::once(1_000 + self.0).chain(prompt.iter().copied().skip(1)).collect()
    }
}

fn answer(engine: &EngineHandle, prompt: &[u32], max_tokens: u32) -> anyhow::Result<Finished> {
    wait(submit(engine, prompt, max_tokens)?)
}

fn submit(engine: &EngineHandle, prompt: &[u32], max_tokens: u32) -> anyhow::Result<mpsc::Receiver<EngineEvent>> {
    let params = SamplingParams::greedy(max_tokens);
    Ok(engine.submit(EngineJob { prompt: prompt.to_vec(), params, cancel: Cancel::default(), scope: 0 })?)
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
fn throughput(engine: &EngineHandle, prompts: &mut Distinct, prompt: &[u32], max_tokens: u32, requests: usize) -> anyhow::Result<f64> {
    let prompts: Vec<Vec<u32>> = (0..requests).map(|_| prompts.next(prompt)).collect();
    let begin = Instant::now();
    let all: Vec<_> = prompts.iter().map(|prompt| submit(engine, prompt, max_tokens)).collect::<anyhow::Result<_>>()?;
    let mut tokens = 0;
    for events in all {
        tokens += wait(events)?.completion_tokens;
    }
    Ok(f64::from(tokens) / begin.elapsed().as_secs_f64())
}

/// Tokens per second of several requests while all of them decode: from when the last one has its first token to when the first one
/// ends. Their prompts are not in it.
fn decoded_together(
    engine: &EngineHandle,
    prompts: &mut Distinct,
    prompt: &[u32],
    max_tokens: u32,
    requests: usize,
) -> anyhow::Result<f64> {
    let prompts: Vec<Vec<u32>> = (0..requests).map(|_| prompts.next(prompt)).collect();
    let all: Vec<_> = prompts.iter().map(|prompt| submit(engine, prompt, max_tokens)).collect::<anyhow::Result<_>>()?;
    let times: Vec<Vec<Instant>> = std::thread::scope(|scope| {
        let watchers: Vec<_> = all.into_iter().map(|events| scope.spawn(move || token_times(events))).collect();
        watchers.into_iter().map(|watcher| watcher.join().unwrap_or_else(|_| bail!("a watcher failed"))).collect::<anyhow::Result<_>>()
    })?;
    let begin = times.iter().filter_map(|times| times.first()).max();
    let end = times.iter().filter_map(|times| times.last()).min();
    let (Some(begin), Some(end)) = (begin, end) else { bail!("no request gave a token") };
    if end <= begin {
        bail!("{requests} requests never decoded all at once; raise --completion-tokens above {max_tokens}");
    }
    let tokens = times.iter().flatten().filter(|time| *time > begin && *time <= end).count();
    Ok(tokens as f64 / (*end - *begin).as_secs_f64())
}

/// When each token came.
fn token_times(mut events: mpsc::Receiver<EngineEvent>) -> anyhow::Result<Vec<Instant>> {
    let mut times = Vec::new();
    while let Some(event) = events.blocking_recv() {
        match event {
            EngineEvent::Tokens { ids, .. } => times.extend(ids.iter().map(|_| Instant::now())),
            EngineEvent::Finished(_) => return Ok(times),
            EngineEvent::Failed(failure) => bail!(failure),
        }
    }
    bail!("the engine ended without an answer")
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

fn print(figures: &[Figure], batches: &[(usize, f64)], context_tokens: u32, engine: &EngineHandle, json: bool) -> anyhow::Result<()> {
    let identity = engine.identity();
    if json {
        let mut object: Map<String, serde_json::Value> = figures.iter().map(|f| (f.name.to_owned(), json!(f.value))).collect();
        object.insert("device".to_owned(), json!(identity.device_name));
        object.insert("threads".to_owned(), json!(identity.parallelism));
        object.insert("numeric_contract".to_owned(), json!(identity.numeric_contract));
        let batches: Map<String, serde_json::Value> =
            batches.iter().map(|(requests, speed)| (requests.to_string(), json!(speed))).collect();
        object.insert("decode_tokens_per_s_by_batch".to_owned(), json!(batches));
        object.insert("context_tokens".to_owned(), json!(context_tokens));
        println!("{}", serde_json::to_string_pretty(&object).context("figures as JSON")?);
        return Ok(());
    }
    eprintln!("{} with {} threads, {}", identity.device_name, identity.parallelism, identity.numeric_contract);
    for figure in figures {
        println!("figure {} {:.2} {}", figure.name, figure.value, figure.unit);
    }
    for (requests, speed) in batches {
        println!("figure decode{requests}_tokens_per_s {speed:.2} tokens/s");
    }
    Ok(())
}
