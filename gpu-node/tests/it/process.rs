//! The program itself: `gpu-node run` with a real engine and a real keystore, killed, started again, drained.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use daemon::keystore;
use tempfile::TempDir;
use wire::Address;
use wire::node::{FinishReason, FromMeter, FromNode, ReceiptOutcome};
use wire::receipt::tokens_hash;

use crate::rig::{self, Link, MODEL, OPERATOR, ScriptedMeter, deployment, job, soon, until};
use crate::tiny;

struct Setup {
    folder: TempDir,
    config: PathBuf,
    admin: String,
    node: Address,
}

/// Everything that an operator has before `run`.
fn set_up(meter: &ScriptedMeter) -> Setup {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    tiny::write(&at("model"));
    let mut password = OpenOptions::new().write(true).create_new(true).mode(0o600).open(at("password")).unwrap();
    password.write_all(b"correct horse").unwrap();
    let node = keystore::create(&at("key.json"), &at("password")).unwrap();
    fs::write(at("deployment.json"), serde_json::to_string(&deployment()).unwrap()).unwrap();
    let admin = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let config = at("gpu-node.toml");
    let flags = [
        ("--meter", meter.url.clone()),
        ("--model", format!("{MODEL}=model")),
        ("--operator", OPERATOR.to_string()),
        ("--admin-listen", admin.clone()),
        // Nothing listens there; a local chain on the default port must not change what the tests see.
        ("--rpc-url", "http://127.0.0.1:1".into()),
        ("--keystore", "key.json".into()),
        ("--password-file", "password".into()),
    ];
    let mut init = gpu_node(&["init", "--yes"], &config);
    init.args(flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]));
    assert!(init.output().unwrap().status.success());
    Setup { folder, config, admin, node }
}

fn gpu_node(words: &[&str], config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gpu-node"));
    command.args(words).arg("--config").arg(config).stdin(Stdio::null());
    command
}

/// A running node; it does not outlive its test.
struct Running(Child);

impl Running {
    fn start(setup: &Setup) -> Self {
        let log = OpenOptions::new().create(true).append(true).open(setup.folder.path().join("log")).unwrap();
        Self(gpu_node(&["run"], &setup.config).stderr(log).stdout(Stdio::null()).spawn().unwrap())
    }

    async fn exit_code(&mut self) -> Option<i32> {
        until("the end of the process", || self.0.try_wait().unwrap()).await.code()
    }

    fn terminate(&self) {
        assert!(Command::new("kill").arg("-TERM").arg(self.0.id().to_string()).status().unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn get(setup: &Setup, path: &str) -> (u16, String) {
    let answer = reqwest::Client::builder().no_proxy().build().unwrap().get(format!("http://{}{path}", setup.admin)).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

async fn finished(link: &mut Link) -> FromNode {
    let (answer, end) = link.answer().await;
    let FromNode::Finished { finish_reason, receipt, .. } = &end else { panic!("{end:?}") };
    assert!(matches!(finish_reason, FinishReason::Length | FinishReason::Stop));
    assert_eq!(receipt.completion_hash, tokens_hash(&answer));
    assert_eq!(receipt.completion_tokens as usize, answer.len());
    assert!(!receipt.proof_root.is_zero());
    end
}

#[tokio::test]
async fn the_program_serves_survives_kill_nine_and_drains() {
    daemon::install_tls();
    let meter = ScriptedMeter::start().await;
    let setup = set_up(&meter);
    let mut first = Running::start(&setup);
    let (mut link, hello) = meter.welcome().await;
    assert_eq!((hello.node, hello.models[0].model.as_str()), (setup.node, MODEL));
    let mut served = job(1);
    served.params.max_tokens = 12;
    link.send(FromMeter::Job(served)).await;
    let FromNode::Finished { receipt, signature, .. } = finished(&mut link).await else { unreachable!() };
    assert_eq!(receipt.signer(&deployment().settlement_domain(), &signature).unwrap(), setup.node);
    let status = gpu_node(&["status", "--json"], &setup.config).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!((status.status.code(), &report["receipts_unacknowledged"]), (Some(0), &serde_json::json!(1)));
    // `kill` sends SIGKILL: nothing is flushed, nothing drained.
    first.0.kill().unwrap();
    first.0.wait().unwrap();
    drop(link);

    let mut second = Running::start(&setup);
    let (mut link, _) = meter.welcome().await;
    let id = receipt.request_id;
    assert_eq!(link.next().await, FromNode::Receipt { receipt, signature });
    link.send(FromMeter::ReceiptAck { request_id: id, outcome: ReceiptOutcome::Captured }).await;
    let ready = soon("readiness", async {
        loop {
            if get(&setup, "/readyz").await.0 == 200 {
                return get(&setup, "/metrics").await.1;
            }
        }
    })
    .await;
    assert!(ready.contains("node_link_up"), "{ready}");
    second.terminate();
    assert_eq!(link.closed().await, "drained");
    drop(link);
    assert_eq!(second.exit_code().await, Some(0));
    let log = fs::read_to_string(setup.folder.path().join("log")).unwrap();
    assert!(log.contains("job taken") && !log.contains("correct horse"), "{log}");
    assert_eq!(gpu_node(&["status"], &setup.config).output().unwrap().status.code(), Some(4));
}

fn failed(output: &Output, code: i32, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(words.iter().all(|word| said.contains(word)) && !said.contains("panicked"), "{said}");
}

#[tokio::test]
async fn what_keeps_a_node_from_starting_is_said_with_the_next_step() {
    let meter = ScriptedMeter::start().await;
    let setup = set_up(&meter);
    let path = setup.folder.path();
    let run = || gpu_node(&["run"], &setup.config).output().unwrap();
    failed(&gpu_node(&["run"], Path::new("no/such.toml")).output().unwrap(), 1, &["no/such.toml", "--config"]);
    let good = fs::read_to_string(&setup.config).unwrap();
    fs::write(&setup.config, good.replace("operator = 7", "#operator = 7")).unwrap();
    failed(&run(), 4, &["chain.rpc_url", "operator"]);
    fs::write(&setup.config, good.replace("capacity = 4", "capacity = 0")).unwrap();
    failed(&run(), 1, &["`capacity`"]);
    fs::write(&setup.config, &good).unwrap();
    fs::remove_file(path.join("model/tokenizer.json")).unwrap();
    failed(&run(), 1, &["tokenizer.json", "gpu-node doctor"]);
    fs::write(path.join("key.json"), "{}").unwrap();
    failed(&run(), 1, &["key.json"]);
}

#[tokio::test]
async fn doctor_names_each_thing_that_is_broken() {
    let meter = ScriptedMeter::start().await;
    let setup = set_up(&meter);
    let greeting = tokio::spawn(async move {
        let mut link = meter.accept().await;
        link.send(rig::challenge()).await;
        link.closed().await
    });
    let doctor = || {
        let mut command = gpu_node(&["doctor", "--json"], &setup.config);
        tokio::task::spawn_blocking(move || command.output().unwrap())
    };
    let outcomes = |output: &Output| -> Vec<(String, String)> {
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        report["checks"].as_array().unwrap().iter().map(|check| (text(&check["id"]), text(&check["outcome"]))).collect()
    };
    let output = doctor().await.unwrap();
    let seen = outcomes(&output);
    let of = |id: &str| seen.iter().find(|(seen, _)| seen == id).map(|(_, outcome)| outcome.as_str());
    for id in ["config", "password_file", "keystore", "state_dir", "deployment", "meter", "admin_listen"] {
        assert_eq!(of(id), Some("pass"), "{id} in {seen:?}");
    }
    assert_eq!((of("rpc"), of("model"), output.status.code()), (Some("fail"), Some("info"), Some(1)));
    greeting.await.unwrap();

    let path = setup.folder.path();
    fs::set_permissions(path.join("password"), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    fs::write(path.join("deployment.json"), "[]").unwrap();
    fs::remove_file(path.join("model/model.safetensors")).unwrap();
    let _taken = TcpListener::bind(&setup.admin).unwrap();
    let broken: Vec<String> =
        outcomes(&doctor().await.unwrap()).into_iter().filter(|(_, outcome)| outcome == "fail").map(|(id, _)| id).collect();
    assert_eq!(broken, ["password_file", "deployment", "model", "meter", "admin_listen"]);
}
