//! `cargo xtask kernels`: machine code of every CUDA kernel for every architecture, with no GPU and no CUDA toolkit.

mod cubin;
mod toolchain;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::command;
use crate::stop::Stop;
use crate::workspace::Workspace;
use toolchain::Toolchain;

/// What the numeric contract needs of the compiler; the node's own compilation at run time has the same
/// (`gpu-node/src/backend/cuda/code.rs`).
const FLAGS: &str = "--std=c++17 --fmad=false --prec-div=true --prec-sqrt=true --ftz=false";
/// Ampere, its consumer cards, Ada, Hopper, Blackwell, its consumer cards. No kernel uses what only `a` variants have.
const ARCHITECTURES: [&str; 6] = ["sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"];
const COMPILE_LIMIT: Duration = Duration::from_secs(300);
const COMPILER: &str = include_str!("compile.py");

/// Instructions that must stand in the machine code of a source.
const EXPECTED: [(&str, &[&str]); 5] = [
    ("matmul_skinny", &["IMMA.16832.S8.S8", "LDGSTS.E.BYPASS.LTC128B.128"]),
    ("matmul_prefill", &["IMMA.16832.S8.S8", "LDGSTS.E.BYPASS.LTC128B.128"]),
    ("attention", &["LDGSTS.E.BYPASS.LTC128B.128"]),
    ("repack", &["LDG.E.128", "STG.E.128"]),
    ("copy", &["LDG.E.128", "STG.E.128"]),
];
/// To and from local memory.
const FORBIDDEN: [&str; 2] = ["STL", "LDL"];

/// Where the machine code lies; `gpu-node/build.rs` takes it from there.
pub fn folder(workspace: &Workspace) -> PathBuf {
    workspace.home().join("kernels")
}

/// Compiles and checks what has changed. Returns how many pieces of machine code stand, and every fault.
pub fn run(workspace: &Workspace, stop: &Stop, say: &mut dyn FnMut(&str)) -> Result<(usize, Vec<String>)> {
    let sources = workspace.root.join("gpu-node/kernels");
    let names = files(&sources, "cu")?;
    let toolchain = Toolchain::ready(workspace, stop, say)?;
    let out = folder(workspace);
    fs::create_dir_all(out.join("sources")).with_context(|| format!("cannot create {}", out.display()))?;
    let compiler = out.join("compile.py");
    fs::write(&compiler, COMPILER).with_context(|| format!("cannot write {}", compiler.display()))?;

    let headers: Vec<u8> = files(&sources, "cuh")?.iter().map(fs::read).collect::<std::io::Result<Vec<_>>>()?.concat();
    let mut jobs = Vec::new();
    for source in &names {
        let text = fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
        for architecture in ARCHITECTURES {
            let digest = Sha256::new_with_prefix(&text).chain_update(&headers).chain_update(FLAGS).chain_update(COMPILER);
            let digest = hex::encode(digest.chain_update(format!("{EXPECTED:?}{FORBIDDEN:?}{}", toolchain.nvrtc.display())).finalize());
            let job = Job { source: source.clone(), name: stem(source), architecture, digest, bytes: text.len() };
            jobs.push(job);
        }
    }
    let all = jobs.len();
    // The longest first, so that no core is left with one at the end.
    jobs.retain(|job| !fs::read_to_string(job.stamp(&out)).is_ok_and(|stamp| stamp == job.digest));
    jobs.sort_by_key(|job| std::cmp::Reverse(job.bytes));
    say(&format!("{} of {all} to compile: {} sources, {}", jobs.len(), names.len(), ARCHITECTURES.join(", ")));

    let next = AtomicUsize::new(0);
    let faults = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from).min(jobs.len()) {
            scope.spawn(|| {
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = job.run(&toolchain, &compiler, &out, stop) {
                        faults.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(format!("{}: {error:#}", job.title()));
                    }
                }
            });
        }
    });
    let faults = faults.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    if faults.is_empty() {
        // What the machine code was made from, so that a build sees whether it is of its own sources.
        for file in names.iter().chain(&files(&sources, "cuh")?) {
            let to = out.join("sources").join(file.file_name().unwrap_or_default());
            fs::copy(file, &to).with_context(|| format!("cannot write {}", to.display()))?;
        }
    }
    stop.check()?;
    Ok((all - faults.len(), faults))
}

struct Job {
    source: PathBuf,
    name: String,
    architecture: &'static str,
    digest: String,
    bytes: usize,
}

impl Job {
    fn title(&self) -> String {
        format!("{} for {}", self.name, self.architecture)
    }

    fn stamp(&self, out: &Path) -> PathBuf {
        out.join(format!("{}.{}.sha256", self.name, self.architecture))
    }

    fn run(&self, toolchain: &Toolchain, compiler: &Path, out: &Path, stop: &Stop) -> Result<()> {
        let mut compile = Command::new(toolchain.python);
        compile.arg(compiler).arg(&toolchain.nvrtc).arg(&self.source).arg(out).args([FLAGS, self.architecture]);
        command::capture(&mut compile, COMPILE_LIMIT, stop)?;
        let path = out.join(format!("{}.{}.cubin", self.name, self.architecture));
        let code = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        for function in cubin::functions(&code)? {
            if function.frame_bytes > 0 {
                bail!(
                    "{} spills {} bytes a thread to local memory, with {} registers: make its tile smaller, or index no array by a variable",
                    function.name,
                    function.frame_bytes,
                    function.registers
                );
            }
        }
        let text = command::capture(Command::new(&toolchain.nvdisasm).arg("-c").arg(&path), COMPILE_LIMIT, stop)?;
        check_instructions(&self.name, &text)?;
        let stamp = self.stamp(out);
        fs::write(&stamp, &self.digest).with_context(|| format!("cannot write {}", stamp.display()))
    }
}

/// What must stand in the disassembly, and what must not.
fn check_instructions(name: &str, text: &str) -> Result<()> {
    let expected = EXPECTED.iter().find(|(of, _)| *of == name).map_or(&[][..], |(_, instructions)| instructions);
    if let Some(missing) = expected.iter().find(|instruction| !text.contains(**instruction)) {
        bail!("the machine code has no {missing}");
    }
    let word = |line: &str, wanted: &str| line.split_whitespace().any(|word| word.split('.').next() == Some(wanted));
    if let Some(line) = text.lines().find(|line| FORBIDDEN.iter().any(|wanted| word(line, wanted))) {
        bail!("the machine code uses local memory: {}", line.trim());
    }
    Ok(())
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Files of one ending, by name.
fn files(folder: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut found: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|own| own == ending)).collect();
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_code_without_the_meant_instructions_or_with_spills_is_refused() {
        let good = "/*0010*/ LDG.E.128.CONSTANT R4, desc[UR4][R2.64] ;\n/*0020*/ @P0 STG.E.128 desc[UR4][R2.64], R4 ;";
        assert!(check_instructions("repack", good).is_ok());
        let error = check_instructions("repack", &good.replace("LDG.E.128", "LDG.E")).unwrap_err().to_string();
        assert_eq!(error, "the machine code has no LDG.E.128");
        let spilled = format!("{good}\n/*0030*/ @!P1 STL.64 [R1+0x8], R6 ;");
        assert!(check_instructions("repack", &spilled).unwrap_err().to_string().contains("STL.64"));
    }
}
