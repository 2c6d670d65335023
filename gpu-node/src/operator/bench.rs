//! `gpu-node bench`: how fast this machine serves a model.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use prompt::Message;
use serde_json::{Map, json};
use tokio::sync::mpsc;
use wire::node::SamplingParams;

use crate::backend::cpu::{granted_nice, read_gb_per_s};
use crate::backend::{BackendConfig, BackendKind};
use crate::engine::{Cancel, Engine, EngineConfig, EngineEvent, EngineHandle, EngineJob, Finished};

/// A shorter time says more about who looked at the clock when than about the engine.
const MEASURED_MIN: Duration = Duration::from_millis(20);
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
    /// Nice value that the threads ask for; 0 shares the processors as an equal
    #[arg(long, default_value_t = EngineConfig::default().nice, allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-20..=19))]
    nice: i32,
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
    /// 0 takes the likeliest token
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    #[arg(long, default_value_t = 1.0)]
    top_p: f32,
    /// 0 is off
    #[arg(long, default_value_t = 0)]
    top_k: u32,
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

/// Requests that were decoded together.
struct Batch {
    count: usize,
    tokens_per_s: f64,
    /// Of a token on average.
    context_tokens: f64,
}

impl BenchArgs {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let defaults = EngineConfig::default();
        let most = self.batch.iter().copied().max().unwrap_or(0).max(defaults.max_active);
        let config = EngineConfig {
            threads: self.threads.unwrap_or(defaults.threads),
            nice: self.nice,
            max_active: most,
            max_queued: most.max(defaults.max_queued),
            backend: BackendConfig { device: self.backend, ..defaults.backend },
            ..defaults
        };
        let threads = config.threads;
        let chunks = (config.backend.prefill_chunk_tokens, config.prefill_chunk_tokens);
        let begin = Instant::now();
        let engine = Engine::start(&self.model, config)?;
        let load_ms = begin.elapsed().as_secs_f64() * 1e3;
        let weight_bytes = engine.load().memory_used_bytes;
        let chunk_tokens = if engine.identity().device_kind == "cuda" { chunks.0 } else { chunks.1 };

        let question = engine.prompter().render(&[Message::new("user", QUESTION)])?;
        let long: Vec<u32> = question.iter().copied().cycle().take(self.prompt_tokens as usize).collect();
        let (temperature, top_p, top_k) = (self.temperature, self.top_p, self.top_k);
        let params = SamplingParams { temperature, top_p, top_k, ..SamplingParams::greedy(self.completion_tokens) };
        let mut requests = Requests { engine: &engine, params, next: 0 };
        // Touches every page of the weights once.
        requests.answer(&question, 4)?;

        let (mut decode, mut prefill, mut first, mut eight, mut read) = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.runs {
            let one = requests.answer(&question, self.completion_tokens)?;
            decode.push(per_second(one.completion_tokens.saturating_sub(1), one.timings.decode_us));
            first.push(one.timings.prefill_us as f64 / 1e3);
            let long = requests.answer(&long, 1)?;
            prefill.push(per_second(long.prompt_tokens, long.timings.prefill_us));
            eight.push(requests.throughput(&question, 8)?);
        }

        let mut batches = Vec::new();
        for &count in &self.batch {
            // The first fills recordings and caches.
            requests.decoded_together(&long, count, chunk_tokens)?;
            let runs = (0..self.runs).map(|_| requests.decoded_together(&long, count, chunk_tokens));
            let (speeds, contexts): (Vec<f64>, Vec<f64>) = runs.collect::<anyhow::Result<Vec<_>>>()?.into_iter().unzip();
            batches.push(Batch { count, tokens_per_s: median(speeds), context_tokens: median(contexts) });
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
            Figure { name: "nice", value: granted_nice(self.nice).into(), unit: "nice" },
            Figure { name: "peak_memory_mb", value: peak_memory_mb, unit: "MB" },
        ];
        print(&figures, &batches, self.prompt_tokens, &engine, self.json)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Requests of one kind. Their prompts share no prefix with an earlier one, so that every measurement computes all of its prompt.
struct Requests<'a> {
    engine: &'a EngineHandle,
    params: SamplingParams,
    next: u32,
}

impl Requests<'_> {
    fn submit(&mut self, prompt: &[u32], max_tokens: u32) -> anyhow::Result<mpsc::Receiver<EngineEvent>> {
        let job = self.job(prompt, max_tokens);
        Ok(self.engine.submit(job)?)
    }

    fn job(&mut self, prompt: &[u32], max_tokens: u32) -> EngineJob {
        self.next += 1;
        // Ordinary words of every vocabulary of the families; which one does not matter.
        let word = (1_000 + self.next) % self.engine.vocabulary() as u32;
        let prompt = std::iter::once(word).chain(prompt.iter().copied().skip(1)).collect();
        let params = SamplingParams { max_tokens, seed: u64::from(self.next), ..self.params.clone() };
        EngineJob { prompt, params, cancel: Cancel::default(), scope: 0 }
    }

    fn answer(&mut self, prompt: &[u32], max_tokens: u32) -> anyhow::Result<Finished> {
        wait(self.submit(prompt, max_tokens)?)
    }

    /// Completion tokens per second of several requests at once, prompts included in the time.
    fn throughput(&mut self, prompt: &[u32], count: usize) -> anyhow::Result<f64> {
        let begin = Instant::now();
        let mut tokens = 0;
        let all: Vec<_> = (0..count).map(|_| self.submit(prompt, self.params.max_tokens)).collect::<anyhow::Result<_>>()?;
        for events in all {
            tokens += wait(events)?.completion_tokens;
        }
        Ok(f64::from(tokens) / begin.elapsed().as_secs_f64())
    }

    /// Tokens per second of several requests while all of them decode, from when the last one has its first token to when the first one
    /// ends, and the tokens in front of one of them on average. Their prompts are not in it.
    fn decoded_together(&mut self, prompt: &[u32], count: usize, chunk_tokens: usize) -> anyhow::Result<(f64, f64)> {
        let engine = self.engine;
        let jobs = self.jobs_together(prompt, count, chunk_tokens);
        let times: Vec<Vec<Instant>> = std::thread::scope(|scope| {
            // Each watcher submits its own, so that it watches before the first token comes.
            let watchers: Vec<_> = jobs.into_iter().map(|job| scope.spawn(move || token_times(engine.submit(job)?))).collect();
            watchers.into_iter().map(|watcher| watcher.join().unwrap_or_else(|_| bail!("a watcher failed"))).collect::<anyhow::Result<_>>()
        })?;
        let begin = times.iter().filter_map(|times| times.first()).max();
        let end = times.iter().filter_map(|times| times.last()).min();
        let (Some(begin), Some(end)) = (begin, end) else { bail!("no request gave a token") };
        let measured = times.iter().flat_map(|times| times.iter().enumerate()).filter(|(_, time)| *time > begin && *time <= end);
        let contexts: Vec<usize> = measured.map(|(index, _)| prompt.len() + index).collect();
        if end <= begin || contexts.is_empty() {
            bail!("{count} requests never decoded all at once; raise --completion-tokens above {}", self.params.max_tokens);
        }
        if *end - *begin < MEASURED_MIN {
            let (took, least) = ((*end - *begin).as_secs_f64() * 1e3, MEASURED_MIN.as_millis());
            bail!(
                "{count} requests decoded together for {took:.1} ms, and {least} ms is the least that can be timed; raise --completion-tokens above {}",
                self.params.max_tokens
            );
        }
        let context_tokens = contexts.iter().sum::<usize>() as f64 / contexts.len() as f64;
        Ok((contexts.len() as f64 / (*end - *begin).as_secs_f64(), context_tokens))
    }

    /// Requests whose answers go on while the prompts of the last ones are computed, one token a step, and that no token ends.
    fn jobs_together(&mut self, prompt: &[u32], count: usize, chunk_tokens: usize) -> Vec<EngineJob> {
        let max_tokens = self.params.max_tokens + (count * prompt.len()).div_ceil(chunk_tokens) as u32;
        let mut ends = self.engine.prompter().eos_token_ids().to_vec();
        ends.sort_unstable();
        ends.dedup();
        let params = SamplingParams { logit_bias: ends.into_iter().map(|token| (token, -100.0)).collect(), ..self.params.clone() };
        let plain = std::mem::replace(&mut self.params, params);
        let jobs = (0..count).map(|_| self.job(prompt, max_tokens)).collect();
        self.params = plain;
        jobs
    }
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

fn print(figures: &[Figure], batches: &[Batch], prompt_tokens: u32, engine: &EngineHandle, json: bool) -> anyhow::Result<()> {
    let identity = engine.identity();
    if json {
        let mut object: Map<String, serde_json::Value> = figures.iter().map(|f| (f.name.to_owned(), json!(f.value))).collect();
        object.insert("device".to_owned(), json!(identity.device_name));
        object.insert("threads".to_owned(), json!(identity.parallelism));
        object.insert("numeric_contract".to_owned(), json!(identity.numeric_contract));
        let by_batch = |figure: fn(&Batch) -> f64| -> Map<String, serde_json::Value> {
            batches.iter().map(|batch| (batch.count.to_string(), json!(figure(batch)))).collect()
        };
        object.insert("decode_tokens_per_s_by_batch".to_owned(), json!(by_batch(|batch| batch.tokens_per_s)));
        object.insert("decode_context_tokens_by_batch".to_owned(), json!(by_batch(|batch| batch.context_tokens)));
        object.insert("prompt_tokens".to_owned(), json!(prompt_tokens));
        println!("{}", serde_json::to_string_pretty(&object).context("figures as JSON")?);
        return Ok(());
    }
    eprintln!("{} with {} threads, {}", identity.device_name, identity.parallelism, identity.numeric_contract);
    for figure in figures {
        println!("figure {} {:.2} {}", figure.name, figure.value, figure.unit);
    }
    for Batch { count, tokens_per_s, context_tokens } in batches {
        println!("figure decode{count}_tokens_per_s {tokens_per_s:.2} tokens/s at {context_tokens:.0} tokens of context");
    }
    Ok(())
}
