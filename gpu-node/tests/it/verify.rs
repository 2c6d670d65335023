//! `gpu-node verify` as its user runs it: two saved answers of the meter, a model folder, an exit code.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use alloy::signers::local::PrivateKeySigner;
use gpu_node::engine::{Cancel, Engine, EngineConfig, EngineEvent, EngineJob, Finished};
use serde_json::{Value, json};
use tempfile::TempDir;
use wire::node::{Job, SamplingParams};
use wire::receipt::{ServiceReceipt, tokens_hash};
use wire::{Credits, typed};

use crate::rig::{deployment, job};
use crate::tiny;

/// What a payer has: the two files, the model, the deployment.
struct Saved {
    folder: TempDir,
    proof: Value,
    answer: Value,
}

fn saved() -> Saved {
    let folder = tempfile::tempdir().unwrap();
    tiny::write(&folder.path().join("model"));
    fs::write(folder.path().join("deployment.json"), serde_json::to_string(&deployment()).unwrap()).unwrap();
    let engine = Engine::start(&folder.path().join("model"), EngineConfig { threads: 1, ..EngineConfig::default() }).unwrap();
    // The largest seed under which the answer does not end early.
    let params = |seed| SamplingParams { temperature: 1.0, top_k: 8, seed, ..SamplingParams::greedy(40) };
    let asked = (0..64).map(|below| Job { prompt: (0..20).collect(), params: params(u64::MAX - below), ..job(1) });
    let mut answers = asked.map(|job| (served(&engine, &job), job));
    let ((tokens, finished), job) = answers.find(|((tokens, _), _)| tokens.len() == 40).unwrap();
    let identity = engine.identity();
    let receipt = ServiceReceipt {
        request_id: job.request_id,
        account: job.account,
        operator: job.operator,
        model_root: identity.model_root,
        engine: identity.engine,
        prompt_tokens: job.prompt.len() as u32,
        completion_tokens: tokens.len() as u32,
        model_rate: job.model_rate,
        amount: Credits::ZERO,
        prompt_hash: tokens_hash(&job.prompt),
        completion_hash: tokens_hash(&tokens),
        params_hash: job.params.hash(),
        proof_root: finished.proof_root,
        started_at: job.started_at,
        served_at: job.started_at,
    };
    let receipt = ServiceReceipt { amount: receipt.cost_up().unwrap(), ..receipt };
    let signer = PrivateKeySigner::from_slice(&[0x42; 32]).unwrap();
    let signature = typed::sign(&receipt.typed(), &deployment().settlement_domain(), &signer).unwrap();
    // The shapes of `GET /v1/receipts/{id}/proof` and of a chat completion.
    let proof = json!({
        "object": "receipt.proof", "request_id": job.request_id, "chain_id": 31_337, "settlement": deployment().settlement,
        "node": signer.address(), "receipt": receipt, "signature": wire::Bytes::from(signature), "windows": finished.windows,
    });
    let answer = json!({
        "object": "chat.completion", "prompt_token_ids": job.prompt,
        "choices": [{ "index": 0, "message": { "role": "assistant", "content": "…" }, "token_ids": tokens }],
        "parallelix": { "receipt_id": job.request_id, "params": job.params },
    });
    Saved { folder, proof, answer }
}

fn served(engine: &gpu_node::engine::EngineHandle, job: &Job) -> (Vec<u32>, Finished) {
    let mut events =
        engine.submit(EngineJob { prompt: job.prompt.clone(), params: job.params.clone(), cancel: Cancel::default(), scope: 0 }).unwrap();
    let mut tokens = Vec::new();
    loop {
        match events.blocking_recv().unwrap() {
            EngineEvent::Tokens { ids, .. } => tokens.extend(ids),
            EngineEvent::Finished(finished) => return (tokens, finished),
            EngineEvent::Failed(failure) => panic!("{failure}"),
        }
    }
}

impl Saved {
    fn verify(&self, flags: &[&str]) -> (Option<i32>, String, String) {
        let at = |name: &str| self.folder.path().join(name);
        fs::write(at("proof.json"), self.proof.to_string()).unwrap();
        fs::write(at("answer.json"), self.answer.to_string()).unwrap();
        run(self.folder.path(), &[&["proof.json", "--answer", "answer.json", "--deployment", "deployment.json"], flags].concat())
    }
}

fn run(folder: &Path, words: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gpu-node"));
    command.current_dir(folder).args(["verify", "--model", "model", "--threads", "1"]).args(words);
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn an_honest_answer_verifies_and_the_report_says_what_that_does_not_show() {
    let saved = saved();
    let (code, out, err) = saved.verify(&[]);
    assert_eq!(code, Some(0), "{out}{err}");
    for line in
        ["window 0 (prompt)", "window 2 (completion)", "all 40 tokens are what the parameters draw", "verified:", "This does not show:"]
    {
        assert!(out.contains(line), "{line}: {out}");
    }
    assert!(!out.contains("DIFFER") && !out.contains("name --deployment"));
    let (code, out, _) = saved.verify(&["--json"]);
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &report["verified"], &report["tokens"]["drawn_equal"]), (Some(0), &json!(true), &json!(40)));
    assert_eq!(report["windows"].as_array().unwrap().len(), 3);
    assert!(report["not_shown"].as_array().unwrap().len() > 3);
}

#[test]
fn an_answer_that_differs_exits_with_5_and_names_where() {
    let mut saved = saved();
    let last = saved.answer["choices"][0]["token_ids"][39].as_u64().unwrap();
    saved.answer["choices"][0]["token_ids"][39] = json!((last + 1) % 250);
    let (code, out, _) = saved.verify(&[]);
    assert_eq!(code, Some(5), "{out}");
    assert!(
        out.contains("DIFFER  completion_hash") && out.contains("DIFFER  token 39 of the answer") && out.contains("NOT verified"),
        "{out}"
    );
}

#[test]
fn what_can_not_be_checked_exits_with_1_and_says_what_to_do() {
    let saved = saved();
    saved.verify(&[]);
    let cases: [(&[&str], &str); 5] = [
        (&["proof.json"], "return_token_ids"),
        (&["absent.json"], "absent.json"),
        (&["deployment.json"], "return_token_ids"),
        (&["proof.json", "--answer", "proof.json"], "return_token_ids"),
        (&["model/model.safetensors"], "no JSON object"),
    ];
    for (words, said) in cases {
        let (code, _, err) = run(saved.folder.path(), words);
        assert_eq!(code, Some(1), "{words:?} {err}");
        assert!(err.contains(said), "{words:?} {err}");
    }
    let (code, _, err) = run(saved.folder.path(), &[]);
    assert_eq!(code, Some(2), "{err}");
}
