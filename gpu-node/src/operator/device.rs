//! `gpu-node device`: which card there is, and whether it gives the processor's bits.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use alloy::primitives::B256;
use anyhow::{Context, bail};
use clap::Args;
use serde_json::json;
use wire::node::SamplingParams;

use super::print_line;
use crate::backend::cuda::device::Device;
use crate::backend::cuda::driver::CudaDevice;
use crate::backend::cuda::{GpuBackend, code};
use crate::backend::{Backend, BackendConfig, BackendKind, CpuBackend, Found, PAGE_TOKENS, PageId, Placement, Row};
use crate::engine::{Decoder, EngineConfig, Sampler, StepOutput};
use crate::model::ModelFolder;
use crate::model::random::{self, RandomShape};

/// Bytes of each copy of the bandwidth figure: beyond every card's cache.
const COPY_BYTES: usize = 1 << 30;
const COPY_TIMES: usize = 20;
/// Rows of the compared prompt, cut so that every product kernel has its turn.
const CHUNKS: [usize; 7] = [150, 64, 33, 16, 8, 3, 1];
/// Decoding steps of the comparison: single, recorded, replayed.
const DECODED: usize = 5;

/// Show the card that would compute, and compare it with the processor
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  gpu-node device
  gpu-node device --check                               a small random model, on the card and on the processor
  gpu-node device --check --model models/random-8b      that model; the processor takes minutes for 8B
  gpu-node device --copy --json                         bandwidth of the card's memory

Exit codes: 0 the card can be used and, if asked, gives the same bits; 1 not.")]
pub struct DeviceArgs {
    /// Which card, as the driver counts
    #[arg(long, default_value_t = 0)]
    card: usize,
    /// Compare hidden states, digests, logits and drawn tokens with the processor's, bit by bit
    #[arg(long)]
    check: bool,
    /// Model to compare with
    #[arg(long, value_name = "DIR", requires = "check")]
    model: Option<PathBuf>,
    /// Measure copies inside the card's memory
    #[arg(long)]
    copy: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl DeviceArgs {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let backend = self.open()?;
        let facts = backend.inner().facts().clone();
        let free_bytes = backend.inner().free_bytes()?;
        let copy_gb_per_s = if self.copy { Some(backend.copy_gb_per_s(COPY_BYTES, COPY_TIMES)?) } else { None };
        let compared = if self.check { Some(self.compare(backend)?) } else { None };
        if self.json {
            let report = json!({
                "v": 1, "name": facts.name, "architecture": facts.architecture, "multiprocessors": facts.multiprocessors,
                "memory_bytes": facts.memory_bytes, "free_bytes": free_bytes, "kernels_embedded": code::is_embedded(),
                "copy_gb_per_s": copy_gb_per_s, "equal_values": compared,
            });
            print_line(serde_json::to_string_pretty(&report)?)?;
        } else {
            let (major, minor) = (facts.architecture / 10, facts.architecture % 10);
            print_line(format_args!("{}, compute capability {major}.{minor}, {} multiprocessors", facts.name, facts.multiprocessors))?;
            print_line(format_args!("memory: {} MiB free of {} MiB", free_bytes >> 20, facts.memory_bytes >> 20))?;
            let kernels = if code::is_embedded() { "in this binary" } else { "compiled by this machine's NVRTC" };
            print_line(format_args!("kernels: {kernels}"))?;
            if let Some(speed) = copy_gb_per_s {
                print_line(format_args!("copies: {speed:.0} GB/s, read and written together"))?;
            }
            if let Some(values) = compared {
                print_line(format_args!("check: {values} values equal the processor's, bit by bit"))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    fn open(&self) -> anyhow::Result<GpuBackend<CudaDevice>> {
        let config = BackendConfig { device: BackendKind::Cuda, card: self.card, ..BackendConfig::default() };
        config.open()?.context("the processor was chosen")
    }

    /// How many values were equal; an error names the first step with another one.
    fn compare(&self, backend: GpuBackend<CudaDevice>) -> anyhow::Result<usize> {
        let own = tempfile_dir()?;
        let dir = match &self.model {
            Some(dir) => dir.clone(),
            None => {
                random::write(&own.0, RandomShape::Tiny, 1)?;
                own.0.clone()
            }
        };
        compare(&dir, backend)
    }
}

/// A folder that is removed at the end.
struct OwnDir(PathBuf);

impl Drop for OwnDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn tempfile_dir() -> anyhow::Result<OwnDir> {
    let path = std::env::temp_dir().join(format!("gpu-node-check-{:016x}", rand::random::<u64>()));
    std::fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
    Ok(OwnDir(path))
}

/// Runs the same course on `backend` and on the processor; the number of values compared, or where they differ.
pub fn compare<B: Backend>(dir: &Path, backend: B) -> anyhow::Result<usize> {
    let threads = EngineConfig::default().threads;
    let folder = ModelFolder::open(dir, threads, &|_| ())?;
    let device = course(&folder, backend)?;
    let processor = course(&folder, CpuBackend::new(threads))?;
    let mut values = 0;
    for (step, (found, expected)) in device.iter().zip(&processor).enumerate() {
        for (what, found, expected) in [("hidden states", &found.hidden, &expected.hidden), ("logits", &found.logits, &expected.logits)] {
            let differs = found.iter().zip(expected).position(|(a, b)| a.to_bits() != b.to_bits());
            if let Some(at) = differs {
                let (a, b) = (found[at], expected[at]);
                bail!(
                    "{what} of step {step} differ at {at}: the card has {a} ({:08x}), the processor {b} ({:08x})",
                    a.to_bits(),
                    b.to_bits()
                );
            }
            if found.len() != expected.len() {
                bail!("{what} of step {step} are {} values, the processor has {}", found.len(), expected.len());
            }
            values += found.len();
        }
        if found.digests != expected.digests {
            bail!("digests of step {step} differ");
        }
        if found.drawn != expected.drawn {
            bail!("tokens drawn at step {step} differ: the card drew {:?}, the processor {:?}", found.drawn, expected.drawn);
        }
        values += found.digests.len() + found.drawn.len();
    }
    Ok(values)
}

struct Step {
    hidden: Vec<f32>,
    logits: Vec<f32>,
    digests: Vec<Option<B256>>,
    drawn: Vec<u32>,
}

/// Requests whose next tokens are drawn at every step.
fn draws(step: usize) -> Vec<SamplingParams> {
    let warm = SamplingParams { temperature: 0.8, seed: step as u64, ..SamplingParams::greedy(1) };
    vec![
        SamplingParams::greedy(1),
        warm.clone(),
        SamplingParams { top_k: 40, ..warm.clone() },
        SamplingParams { top_p: 0.9, ..warm.clone() },
        SamplingParams { min_p: 0.05, ..warm.clone() },
        SamplingParams { repetition_penalty: 1.2, logit_bias: vec![(1, 2.5)], ..warm },
    ]
}

/// One token a request from the last step's logits: by the device where it draws, else by the processor's sampler.
fn drawn<B: Backend>(decoder: &mut Decoder<B>, logits: &[f32], step: usize) -> anyhow::Result<Vec<u32>> {
    let mut tokens = Vec::new();
    for params in draws(step) {
        let mut sampler = Sampler::new(&params, &[0, 1, 2], None);
        let mut found = Vec::new();
        decoder.draw(&[sampler.for_device()], &mut found);
        tokens.push(match found[..] {
            [Found::Token(token)] => token,
            _ => sampler.draw(&mut logits.to_vec())?.token,
        });
    }
    Ok(tokens)
}

fn course<B: Backend>(folder: &ModelFolder, backend: B) -> anyhow::Result<Vec<Step>> {
    let positions = CHUNKS.iter().sum::<usize>() + DECODED;
    let rows_max = CHUNKS.into_iter().max().unwrap_or(1);
    let mut decoder = Decoder::load(folder, backend, positions, rows_max)?;
    let pages = positions.div_ceil(PAGE_TOKENS);
    let mut pool = decoder.pool(pages)?;
    let table: Vec<PageId> = (0..pages as u32).rev().map(PageId).collect();
    for page in &table {
        decoder.prepare(&mut pool, *page)?;
    }
    let vocabulary = decoder.vocab_size().max(1);
    let mut first = 0;
    let mut steps = Vec::new();
    for rows in CHUNKS.into_iter().chain([1; DECODED]) {
        let places: Vec<Row> = (first..first + rows).map(|position| Row { sequence: 0, position }).collect();
        let tokens: Vec<u32> = places.iter().map(|row| (row.position * 2_654_435_761 % vocabulary) as u32).collect();
        let mut out = StepOutput { keep_hidden: true, ..StepOutput::default() };
        decoder.step(&Placement { rows: &places, tables: &[&table] }, &tokens, &mut pool, &[rows - 1], &mut out);
        if let Some(reason) = decoder.fault() {
            bail!("the device failed: {reason}");
        }
        let drawn = drawn(&mut decoder, &out.logits, steps.len())?;
        steps.push(Step { hidden: out.hidden, logits: out.logits, digests: out.digests, drawn });
        first += rows;
    }
    Ok(steps)
}
