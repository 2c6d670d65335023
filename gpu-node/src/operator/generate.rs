//! `gpu-node generate`: one answer on this machine, without network or payment.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use prompt::{Message, StopMatcher};
use serde_json::json;
use wire::node::SamplingParams;

use crate::backend::{BackendConfig, BackendKind};
use crate::engine::{Cancel, Engine, EngineConfig, EngineEvent, EngineJob, Finished};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  gpu-node generate --model models/smollm2-135m-instruct \"What is the sea?\"
  gpu-node generate --model DIR --temperature 0.7 --seed 1 --stop '.' \"Tell me a story\"")]
pub struct GenerateArgs {
    /// Model folder
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// What the user says
    prompt: String,
    /// A system message before it
    #[arg(long)]
    system: Option<String>,
    /// Most tokens of the answer
    #[arg(long, default_value_t = 256)]
    max_tokens: u32,
    /// 0 takes the likeliest token
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    #[arg(long, default_value_t = 1.0)]
    top_p: f32,
    /// 0 is off
    #[arg(long, default_value_t = 0)]
    top_k: u32,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Text that ends the answer; may be given several times
    #[arg(long)]
    stop: Vec<String>,
    /// Threads that compute; by default all
    #[arg(long)]
    threads: Option<usize>,
    /// auto, cpu or cuda
    #[arg(long, default_value_t = BackendKind::Auto)]
    backend: BackendKind,
    /// Print one JSON object at the end instead of streaming
    #[arg(long)]
    json: bool,
}

impl GenerateArgs {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let defaults = EngineConfig::default();
        let backend = BackendConfig { device: self.backend, ..defaults.backend };
        let config = EngineConfig { threads: self.threads.unwrap_or(defaults.threads), backend, ..defaults };
        let engine = Engine::start(&self.model, config)?;
        let mut messages: Vec<Message> = self.system.iter().map(|text| Message::new("system", text)).collect();
        messages.push(Message::new("user", &self.prompt));
        let prompt = engine.prompter().render(&messages)?;
        let mut matcher = StopMatcher::new(self.stop.clone())?;
        let params = SamplingParams {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            seed: self.seed,
            stop: self.stop,
            ..SamplingParams::greedy(self.max_tokens)
        };

        let mut events = engine.submit(EngineJob { prompt, params, cancel: Cancel::default(), scope: 0 })?;
        let mut detokenizer = engine.prompter().detokenizer();
        let mut text = String::new();
        let mut tokens = Vec::new();
        while let Some(event) = events.blocking_recv() {
            match event {
                EngineEvent::Tokens { ids, .. } => {
                    for id in ids {
                        tokens.push(id);
                        show(&matcher.push(&detokenizer.push(id)).emit, self.json, &mut text)?;
                    }
                }
                EngineEvent::Finished(finished) => {
                    if !matcher.stopped() {
                        let rest = detokenizer.finish();
                        let rest = matcher.push(&rest).emit + &matcher.finish();
                        show(&rest, self.json, &mut text)?;
                    }
                    return report(&finished, &text, &tokens, self.json);
                }
                EngineEvent::Failed(failure) => bail!(failure),
            }
        }
        bail!("the engine ended without an answer")
    }
}

fn show(piece: &str, quiet: bool, text: &mut String) -> anyhow::Result<()> {
    text.push_str(piece);
    if !quiet {
        let mut out = std::io::stdout().lock();
        out.write_all(piece.as_bytes())?;
        out.flush()?;
    }
    Ok(())
}

fn report(finished: &Finished, text: &str, tokens: &[u32], json: bool) -> anyhow::Result<ExitCode> {
    let timings = finished.timings;
    let steps = finished.completion_tokens.saturating_sub(1);
    let decode = f64::from(steps) / (timings.decode_us.max(1) as f64 / 1e6);
    if json {
        let object = json!({
            "text": text, "tokens": tokens, "finish_reason": finished.reason,
            "prompt_tokens": finished.prompt_tokens, "completion_tokens": finished.completion_tokens,
            "proof_root": finished.proof_root, "first_token_ms": timings.prefill_us as f64 / 1e3, "decode_tokens_per_s": decode,
        });
        println!("{}", serde_json::to_string_pretty(&object)?);
    } else {
        println!();
        eprintln!(
            "{} prompt + {} completion tokens; first token after {:.0} ms, then {decode:.1} tokens/s",
            finished.prompt_tokens,
            finished.completion_tokens,
            timings.prefill_us as f64 / 1e3
        );
    }
    Ok(ExitCode::SUCCESS)
}
