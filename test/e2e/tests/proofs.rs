//! Every answer is audited by the fallback node, and its payer verifies it with the node's own program.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use e2e::{Scene, await_that, question};
use serde_json::{Value, json};
use xtask::network::depositor::Terms;

/// Runs `gpu-node verify` on what the meter gave; its exit code and report.
fn verified(scene: &Scene, proof: &Value, answer: &Value) -> Result<(Option<i32>, Value)> {
    let folder = scene.plan.dir.join("verify");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("proof.json"), proof.to_string())?;
    fs::write(folder.join("answer.json"), answer.to_string())?;
    let mut verify = Command::new(&scene.parts.binaries.gpu_node);
    verify.arg("verify").arg(folder.join("proof.json")).arg("--answer").arg(folder.join("answer.json"));
    verify.arg("--model").arg(&scene.parts.model).arg("--deployment").arg(scene.plan.deployment_file()).arg("--json");
    let output = verify.output().context("gpu-node verify does not start")?;
    let report = serde_json::from_slice(&output.stdout).with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    Ok((output.status.code(), report))
}

#[test]
fn an_answer_is_audited_settled_and_verified_by_its_payer() -> Result<()> {
    let every_answer = |plan: &mut xtask::network::plan::Plan| plan.audit_rate_bps = 10_000;
    Scene::play_with("proofs", 1, true, every_answer, |scene| {
        let depositor = scene.funded("depositor", &Terms::DEMO)?;
        let api = depositor.api(&scene.meter())?;
        let mut body = question("Why is the sea salty?", 48);
        (body["temperature"], body["return_token_ids"]) = (json!(0.8), json!(true));
        let mut answer = api.post("/v1/chat/completions", &body)?.ok("a chat completion")?;
        ensure!(answer["parallelix"]["fallback"] == false, "{answer}");
        let path = format!("/v1/receipts/{}", answer["parallelix"]["receipt_id"].as_str().context("no receipt")?);

        let receipt = || api.get(&path)?.ok("a receipt");
        await_that("the audit", || Ok(receipt()?["audit"] == "audited"))?;
        await_that("the receipt to be settled", || Ok(receipt()?["state"] == "settled"))?;

        let proof = api.get(&format!("{path}/proof"))?.ok("a proof")?;
        let (code, report) = verified(scene, &proof, &answer)?;
        ensure!(code == Some(0) && report["verified"] == true, "{report}");

        let swapped = answer["choices"][0]["token_ids"][0].as_u64().context("no token ids")?;
        answer["choices"][0]["token_ids"][0] = json!(swapped + 1);
        let (code, report) = verified(scene, &proof, &answer)?;
        ensure!(code == Some(5) && report["tokens"]["first_wrong"]["index"] == 0, "{report}");

        // A node that forgets keeps its proofs: they are on its disk, and the meter asks it again after its own restart.
        scene.process("meter")?.stop();
        scene.restart("meter")?;
        await_that("the node to be linked again", || Ok(api.get(&format!("{path}/proof"))?.status == 200))
    })
}
