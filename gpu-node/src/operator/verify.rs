//! `gpu-node verify`: computes an answer again and compares it with its receipt.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Map, Value};
use wire::deployment::Deployment;

use super::{print_line, verify_bench};
use crate::proof::recompute::Recomputer;
use crate::proof::verify::{Bundle, Report, Settlement, verify};

/// Largest file that is read, bytes: a context of 128k tokens with its windows has about 4 MB.
const FILE_BYTES_MAX: u64 = 32 << 20;
/// Exit code when something is not equal.
const REFUSED: u8 = 5;

/// Check that an answer is what its receipt says, by computing it again
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  curl -s -H \"Authorization: Bearer $KEY\" $METER/v1/receipts/$ID/proof > proof.json
  gpu-node verify proof.json --answer answer.json --model models/smollm2-135m-instruct --deployment deployment.json
  gpu-node verify bundle.json --model DIR --json
  gpu-node verify --bench --model DIR

answer.json is the meter's answer to a request with \"return_token_ids\": true; its fields may also stand in the first file.
Exit codes: 0 everything is equal, 1 could not be checked, 2 usage, 5 something is not equal.")]
pub struct VerifyArgs {
    /// Receipt, signature and windows, as `GET /v1/receipts/{id}/proof` gives them
    #[arg(value_name = "RECEIPT.json", required_unless_present = "bench", conflicts_with = "bench")]
    receipt: Option<PathBuf>,
    /// Measure verification against generation, 256 + 256 tokens, in place of verifying anything
    #[arg(long)]
    bench: bool,
    /// The answer with token ids and parameters, unless the first file has them
    #[arg(long, value_name = "FILE")]
    answer: Option<PathBuf>,
    /// Model folder
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Deployment file: chain and contract that the receipt must be of
    #[arg(long, value_name = "FILE")]
    deployment: Option<PathBuf>,
    /// Threads that compute; by default all
    #[arg(long)]
    threads: Option<usize>,
    /// Print one JSON object instead of lines
    #[arg(long)]
    json: bool,
}

impl VerifyArgs {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let threads = self.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        let Some(receipt) = &self.receipt else { return verify_bench::run(&self.model, threads, self.json) };
        let bundle = self.bundle(receipt)?;
        let settlement = self.deployment.as_deref().map(read_deployment).transpose()?;
        let mut recomputer = Recomputer::open(&self.model, threads)?;
        let report = verify(&bundle, settlement, &mut recomputer);
        if self.json {
            print_line(serde_json::to_string_pretty(&report)?)?;
        } else {
            print(&report, &bundle, settlement.is_some())?;
        }
        Ok(if report.verified { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) })
    }

    fn bundle(&self, receipt: &Path) -> anyhow::Result<Bundle> {
        let mut fields = read_object(receipt)?;
        if let Some(path) = &self.answer {
            fields.extend(answer_fields(&read_object(path)?).with_context(|| path.display().to_string())?);
        }
        let missing = |field: &str| !fields.contains_key(field);
        if let Some(field) = ["token_ids", "prompt_token_ids", "params", "request_id"].into_iter().find(|field| missing(field)) {
            bail!("{} has no `{field}`; give the answer to a request with \"return_token_ids\": true as --answer FILE", receipt.display());
        }
        let path = receipt.display();
        serde_json::from_value(Value::Object(fields))
            .with_context(|| format!("{path} is no proof as GET /v1/receipts/{{id}}/proof gives it"))
    }
}

/// What an OpenAI-shaped answer has of a bundle. Errors when it was not asked for token ids.
pub fn answer_fields(answer: &Map<String, Value>) -> anyhow::Result<Map<String, Value>> {
    let answer_value = Value::Object(answer.clone());
    let choice = &answer_value["choices"][0];
    let of_choice = |field: &str| choice.get(field).or_else(|| answer.get(field)).filter(|value| value.is_array());
    let about = &answer_value["parallelix"];
    let found = [
        ("token_ids", of_choice("token_ids")),
        ("prompt_token_ids", of_choice("prompt_token_ids")),
        ("params", about.get("params")),
        ("request_id", about.get("receipt_id")),
    ];
    let mut fields = Map::new();
    for (field, value) in found {
        let Some(value) = value else { bail!("the answer has no `{field}`; ask for it with \"return_token_ids\": true") };
        fields.insert(field.to_owned(), value.clone());
    }
    Ok(fields)
}

fn read_object(path: &Path) -> anyhow::Result<Map<String, Value>> {
    let at = || path.display().to_string();
    let bytes = fs::metadata(path).with_context(at)?.len();
    if bytes > FILE_BYTES_MAX {
        bail!("{} has {bytes} bytes, a proof has at most {FILE_BYTES_MAX}", path.display());
    }
    serde_json::from_slice(&fs::read(path).with_context(at)?).with_context(|| format!("{} is no JSON object", path.display()))
}

fn read_deployment(path: &Path) -> anyhow::Result<Settlement> {
    let fields = Value::Object(read_object(path)?);
    let deployment: Deployment = serde_json::from_value(fields).with_context(|| format!("{} is no deployment file", path.display()))?;
    Ok(Settlement { chain_id: deployment.chain_id, contract: deployment.settlement })
}

fn print(report: &Report, bundle: &Bundle, settlement_known: bool) -> anyhow::Result<()> {
    let mark = |equal: bool| if equal { "equal " } else { "DIFFER" };
    print_line(format!("receipt   {} of node {}", bundle.receipt.request_id, bundle.node))?;
    for check in &report.statement {
        let other = if check.equal { String::new() } else { format!(", found {}", check.found) };
        print_line(format!("{}  {:<18} {}{other}", mark(check.equal), check.name, check.expected))?;
    }
    for window in &report.windows {
        let last = u64::from(window.first_position) + u64::from(window.count.max(1)) - 1;
        let what = format!("window {} ({})", window.index, window.part);
        print_line(format!("{}  {what:<24} positions {} to {last}", mark(window.equal), window.first_position))?;
    }
    let tokens = &report.tokens;
    match (&report.not_computed, tokens.first_wrong) {
        (Some(reason), _) => print_line(format!("DIFFER  nothing could be computed: {reason}"))?,
        (None, None) => print_line(format!("equal   all {} tokens are what the parameters draw", tokens.completion_tokens))?,
        (None, Some(wrong)) => {
            let drawn = wrong.drawn.map_or_else(|| "nothing".to_owned(), |token| format!("token {token}"));
            print_line(format!("DIFFER  token {} of the answer is {}, the parameters draw {drawn}", wrong.index, wrong.found))?;
        }
    }
    print_line(if report.verified { "verified: the answer is what the receipt says" } else { "NOT verified" })?;
    print_line("This does not show:")?;
    for limit in report.not_shown {
        print_line(format!("  - {limit}"))?;
    }
    if !settlement_known {
        print_line("  - that chain and contract are the ones you mean: they are taken from the proof; name --deployment FILE")?;
    }
    Ok(())
}
