//! `cargo xtask bench engine`: the engine beside llama.cpp on the same weights, in turns.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;

use super::BENCH_LIMIT;
use crate::build::Binaries;
use crate::command;
use crate::model;
use crate::stop::Stop;
use crate::tools;
use crate::workspace::Workspace;

/// The peer, pinned; it is compiled where it is installed.
const PEER: &str = "llama-cpp-python==0.3.36";
/// Turns; each figure is the median.
const ROUNDS: usize = 5;
/// Turns beside a compilation.
const CONTENDED_ROUNDS: usize = 5;
/// Threads of both, the size of the machines that the figures are published for.
const THREADS: &str = "2";
/// Characters of the text whose perplexity is measured: more than 20,000 tokens.
const TEXT_CHARACTERS: usize = 110_000;
/// The text: Python's own documentation of its language, which every installation has.
const WRITE_TEXT: &str = "import sys, pydoc_data.topics as t\nopen(sys.argv[1], 'w', encoding='utf-8').write('\\n'.join(t.topics[k] for k in sorted(t.topics))[:int(sys.argv[2])])";

/// Measures and prints every figure.
pub(super) fn run(workspace: &Workspace, stop: &Stop) -> Result<()> {
    let binaries = Binaries::only(workspace, &["gpu-node"], true, stop)?;
    let model = model::ready(workspace, &binaries.gpu_node, stop)?;
    let Some(peer) = Peer::ready(workspace, stop)? else {
        eprintln!("llama.cpp was not measured: {PEER} could not be installed; the engine's own figures follow");
        let mut bench = Command::new(&binaries.gpu_node);
        bench.args(["bench", "--threads", THREADS, "--model"]).arg(model);
        return command::show(&mut bench, BENCH_LIMIT, stop);
    };
    let source = model::gguf_ready(workspace, stop)?;
    let folder = workspace.home().join("bench");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let (q8, f32) = (peer.converted(&source, &folder, "q8_0", stop)?, peer.converted(&source, &folder, "f32", stop)?);
    let ours = Ours { gpu_node: binaries.gpu_node, model: imported(workspace, &q8, &folder, stop)? };

    let (mut quiet, mut peer_q8, mut peer_q4) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        eprintln!("round {round} of {ROUNDS}");
        quiet.push(ours.speed(&[], stop)?);
        peer_q8.push(peer.speed(&q8, stop)?);
        peer_q4.push(peer.speed(&source, stop)?);
    }
    let (mut contended, mut as_equal, mut peer_contended) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=CONTENDED_ROUNDS {
        eprintln!("round {round} of {CONTENDED_ROUNDS} beside a compilation");
        let load = Compilation::start(workspace)?;
        contended.push(ours.speed(&[], stop)?);
        as_equal.push(ours.speed(&["--nice", "0"], stop)?);
        peer_contended.push(peer.speed(&q8, stop)?);
        drop(load);
    }

    for name in ["decode_tokens_per_s", "prefill_tokens_per_s", "first_token_ms", "throughput8_tokens_per_s"] {
        let unit = if name.ends_with("ms") { "ms" } else { "tokens/s" };
        for (who, runs) in [("engine", &quiet), ("llama_cpp_q8", &peer_q8), ("llama_cpp_q4_1", &peer_q4)] {
            println!("figure {who}_{name} {:.2} {unit}", median(runs, name));
        }
    }
    let ratio = |name: &str, peer: &[Value]| median(&quiet, name) / median(peer, name);
    println!("figure decode_ratio_q8 {:.3} ratio", ratio("decode_tokens_per_s", &peer_q8));
    println!("figure decode_ratio_q4_1 {:.3} ratio", ratio("decode_tokens_per_s", &peer_q4));
    println!("figure prefill_ratio_q8 {:.3} ratio", ratio("prefill_tokens_per_s", &peer_q8));
    println!("figure throughput8_ratio_q8 {:.3} ratio", ratio("throughput8_tokens_per_s", &peer_q8));
    let beside = |beside: &[Value], quiet: &[Value]| median(beside, "decode_tokens_per_s") / median(quiet, "decode_tokens_per_s");
    println!("figure decode_contended_ratio {:.3} ratio", beside(&contended, &quiet));
    println!("figure decode_contended_nice {} nice", median(&contended, "nice"));
    println!("figure decode_contended_as_equal_ratio {:.3} ratio", beside(&as_equal, &quiet));
    println!("figure llama_cpp_q8_decode_contended_ratio {:.3} ratio", beside(&peer_contended, &peer_q8));
    println!("figure read_gb_per_s {:.2} GB/s", median(&quiet, "read_gb_per_s"));
    println!("figure read_bandwidth_share {:.3} ratio", median(&quiet, "read_bandwidth_share"));
    let mut verify = Command::new(&ours.gpu_node);
    let verify = json(verify.args(["verify", "--bench", "--json", "--threads", THREADS, "--model"]).arg(&ours.model), stop)?;
    println!("figure verify_time_ratio {:.3} ratio", number(&verify, "verify_time_ratio"));
    perplexity(&ours, &peer, &[("q8", &q8), ("q4_1", &source), ("f32", &f32)], &folder, stop)
}

/// The same tokens through the engine and through llama.cpp with the weights in f32.
fn perplexity(ours: &Ours, peer: &Peer, files: &[(&str, &PathBuf)], folder: &Path, stop: &Stop) -> Result<()> {
    let text = folder.join("text.txt");
    let mut write = Command::new("python3");
    write.args(["-c", WRITE_TEXT]).arg(&text).arg(TEXT_CHARACTERS.to_string());
    command::capture(&mut write, BENCH_LIMIT, stop).context("Python's documentation could not be written as text")?;

    let mut measure = Command::new(&ours.gpu_node);
    measure.args(["perplexity", "--json", "--threads", THREADS, "--model"]).arg(&ours.model).arg(&text);
    let engine = json(&mut measure, stop)?;
    println!("figure perplexity_tokens {} tokens", engine["tokens"]);
    println!("figure perplexity_engine {:.4} perplexity", number(&engine, "perplexity"));
    for (name, file) in files {
        let found = peer.perplexity(file, &text, stop)?;
        println!("figure perplexity_llama_cpp_{name} {:.4} perplexity", number(&found, "perplexity"));
        if *name == "f32" {
            println!("figure perplexity_ratio_f32 {:.5} ratio", number(&engine, "perplexity") / number(&found, "perplexity"));
        }
    }
    Ok(())
}

/// The engine with the peer's 8-bit weights.
struct Ours {
    gpu_node: PathBuf,
    model: PathBuf,
}

impl Ours {
    fn speed(&self, options: &[&str], stop: &Stop) -> Result<Value> {
        let mut bench = Command::new(&self.gpu_node);
        json(bench.args(["bench", "--json", "--runs", "1", "--threads", THREADS]).args(options).arg("--model").arg(&self.model), stop)
    }
}

fn imported(workspace: &Workspace, gguf: &Path, folder: &Path, stop: &Stop) -> Result<PathBuf> {
    let model = folder.join("q8");
    let binaries = Binaries::only(workspace, &["gpu-node"], true, stop)?;
    if model.exists() {
        fs::remove_dir_all(&model).with_context(|| format!("cannot remove {}", model.display()))?;
    }
    let mut import = Command::new(&binaries.gpu_node);
    command::show(import.args(["model", "import"]).arg(gguf).arg(&model), BENCH_LIMIT, stop)?;
    Ok(model)
}

/// llama.cpp behind its Python binding, in an environment of its own.
struct Peer {
    python: PathBuf,
    script: PathBuf,
}

impl Peer {
    /// Installs it once. `None`: it can't be had here.
    fn ready(workspace: &Workspace, stop: &Stop) -> Result<Option<Self>> {
        tools::require(
            "python3",
            "Python 3.9 or later with venv: https://www.python.org, or your system's packages `python3` and `python3-venv`",
        )?;
        let folder = workspace.home().join("peers").join("llama_cpp");
        let python = folder.join("bin").join("python");
        let script = workspace.root.join("test").join("parity").join("bench_llama_cpp.py");
        let installed =
            || Command::new(&python).args(["-c", "import llama_cpp, numpy"]).stderr(Stdio::null()).status().is_ok_and(|s| s.success());
        if !installed() {
            eprintln!("installing {PEER}; it is compiled here, which takes some minutes");
            fs::create_dir_all(workspace.home().join("peers")).context("cannot create the folder of peers")?;
            command::show(Command::new("python3").args(["-m", "venv"]).arg(&folder), BENCH_LIMIT, stop)?;
            let mut pip = Command::new(&python);
            pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", PEER, "numpy"]);
            // GCC 12 takes the stores that shape the tile unit for dead ones, and llama.cpp ends with an illegal instruction where there is one.
            pip.env("CXXFLAGS", "-fno-tree-dse -fno-dse");
            if let Err(error) = command::capture(&mut pip, BENCH_LIMIT, stop) {
                eprintln!("{error:#}");
                return Ok(None);
            }
        }
        Ok(Some(Self { python, script }))
    }

    fn script(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.python);
        command.arg(&self.script).args(arguments);
        command
    }

    fn converted(&self, source: &Path, folder: &Path, kind: &str, stop: &Stop) -> Result<PathBuf> {
        let out = folder.join(format!("{kind}.gguf"));
        if !out.exists() {
            let part = folder.join(format!("{kind}.part"));
            command::capture(self.script(&["convert"]).arg(source).arg(&part).arg(kind), BENCH_LIMIT, stop)?;
            fs::rename(&part, &out).with_context(|| format!("cannot move {}", part.display()))?;
        }
        Ok(out)
    }

    fn speed(&self, gguf: &Path, stop: &Stop) -> Result<Value> {
        json(self.script(&["speed", "--threads", THREADS]).arg(gguf), stop)
    }

    fn perplexity(&self, gguf: &Path, text: &Path, stop: &Stop) -> Result<Value> {
        json(self.script(&["perplexity", "--threads", THREADS]).arg(gguf).arg(text), stop)
    }
}

/// A compilation from nothing that runs beside a measurement, and is ended with it.
struct Compilation {
    cargo: Child,
    target: PathBuf,
}

impl Compilation {
    fn start(workspace: &Workspace) -> Result<Self> {
        let target = workspace.home().join("bench").join("target");
        fs::remove_dir_all(&target).ok();
        let mut cargo = workspace.cargo();
        cargo.args(["build", "--quiet", "--package", "meter", "--jobs", THREADS]).env("CARGO_TARGET_DIR", &target);
        let cargo = cargo.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("cannot start a compilation")?;
        Ok(Self { cargo, target })
    }
}

impl Drop for Compilation {
    fn drop(&mut self) {
        // Cargo ends its compilers when it is asked to; killed outright it would leave them behind.
        if let Some(pid) = i32::try_from(self.cargo.id()).ok().and_then(rustix::process::Pid::from_raw) {
            rustix::process::kill_process(pid, rustix::process::Signal::INT).ok();
        }
        self.cargo.wait().ok();
        fs::remove_dir_all(&self.target).ok();
    }
}

fn json(command: &mut Command, stop: &Stop) -> Result<Value> {
    let name = command::describe(command);
    let said = command::capture(command, BENCH_LIMIT, stop)?;
    serde_json::from_str(&said).with_context(|| format!("`{name}` did not print JSON"))
}

fn number(object: &Value, name: &str) -> f64 {
    object[name].as_f64().unwrap_or(f64::NAN)
}

fn median(runs: &[Value], name: &str) -> f64 {
    let mut values: Vec<f64> = runs.iter().map(|run| number(run, name)).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
