//! `gpu-node perplexity`: how well a model, as it is stored and computed here, predicts a text.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::Args;
use serde_json::json;

use crate::backend::{CpuBackend, PAGE_TOKENS, PageId, Placement, Row};
use crate::engine::{Decoder, EngineConfig, StepOutput};
use crate::model::ModelFolder;

/// Positions computed at once; each has a row of logits.
const CHUNK: usize = 64;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  gpu-node perplexity --model models/smollm2-135m-instruct book.txt
  gpu-node perplexity --model DIR --window 1024 --json book.txt

The text is split into windows of tokens, each computed from an empty cache; the mean is over all tokens but the first of each.")]
pub struct PerplexityArgs {
    /// Model folder
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// UTF-8 text
    #[arg(value_name = "FILE")]
    text: PathBuf,
    /// Tokens of a window
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(2..=65_536))]
    window: u32,
    /// Threads that compute; by default all
    #[arg(long)]
    threads: Option<usize>,
    /// Print one JSON object instead of a line
    #[arg(long)]
    json: bool,
}

impl PerplexityArgs {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let threads = self.threads.unwrap_or(EngineConfig::default().threads);
        let folder = ModelFolder::open(&self.model, threads, &|_| ())?;
        let text = std::fs::read_to_string(&self.text).with_context(|| format!("cannot read {}", self.text.display()))?;
        let tokens = folder.prompter.encode(&text)?;
        let window = (self.window as usize).min(folder.config.context_tokens);
        ensure!(tokens.len() > 1, "{} has {} tokens; two are the least that can be predicted", self.text.display(), tokens.len());

        let mut decoder = Decoder::load(&folder, CpuBackend::new(threads), window, CHUNK)?;
        let (mut loss, mut count) = (0.0, 0);
        for part in tokens.chunks(window) {
            loss += surprise(&mut decoder, part)?;
            count += part.len() - 1;
        }
        let perplexity = (loss / count as f64).exp();
        if self.json {
            println!("{}", json!({"tokens": tokens.len(), "perplexity": perplexity}));
        } else {
            println!("perplexity {perplexity:.4} over {} tokens in windows of {window}", tokens.len());
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Sum of −ln p over all tokens but the first.
fn surprise(decoder: &mut Decoder<CpuBackend>, tokens: &[u32]) -> anyhow::Result<f64> {
    let table: Vec<PageId> = (0..tokens.len().div_ceil(PAGE_TOKENS) as u32).map(PageId).collect();
    let mut pool = decoder.pool(table.len())?;
    for page in &table {
        decoder.prepare(&mut pool, *page)?;
    }
    let (mut out, mut loss) = (StepOutput::default(), 0.0);
    let vocabulary = decoder.vocab_size();
    for (index, chunk) in tokens.chunks(CHUNK).enumerate() {
        let first = index * CHUNK;
        let rows: Vec<Row> = (0..chunk.len()).map(|i| Row { sequence: 0, position: first + i }).collect();
        let chosen: Vec<usize> = (0..chunk.len()).collect();
        decoder.step(&Placement { rows: &rows, tables: &[&table] }, chunk, &mut pool, &chosen, &mut out);
        for (logits, next) in out.logits.chunks_exact(vocabulary).zip(&tokens[first + 1..]) {
            let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let total: f64 = logits.iter().map(|x| f64::from(x - most).exp()).sum();
            loss += total.ln() - f64::from(logits[*next as usize] - most);
        }
    }
    Ok(loss)
}
