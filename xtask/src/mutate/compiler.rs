//! A compiler that stays loaded while a worker tests its mutants.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::stop::{Stop, wait_until};

/// Served and called by the same file.
const SOURCE: &str = include_str!("warm_solc.mjs");
/// Loading takes a second; a busy machine takes longer.
const START_LIMIT: Duration = Duration::from_secs(120);

/// Ends with its worker.
#[derive(Debug)]
pub(super) struct Compiler {
    process: Child,
}

impl Compiler {
    /// Replaces `script/solc` of a worker's folder by one that asks a process of its own, and waits until that listens.
    pub(super) fn start(folder: &Path, stop: &Stop) -> Result<Self> {
        let script = fs::canonicalize(folder.join("script")).context("a worker has a script folder")?;
        let solc = script.join("solc");
        fs::write(&solc, SOURCE).with_context(|| format!("cannot write {}", solc.display()))?;
        fs::set_permissions(&solc, fs::Permissions::from_mode(0o755)).with_context(|| format!("cannot mark {}", solc.display()))?;
        let module = script.join("warm_solc.mjs");
        fs::write(&module, SOURCE).with_context(|| format!("cannot write {}", module.display()))?;
        let socket = script.join("solc.socket");
        for left in [socket.clone(), script.join("solc.socket.new")] {
            fs::remove_file(left).ok();
        }
        let mut node = Command::new("node");
        node.arg(&module).arg("serve").arg(&script).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut compiler = Self { process: node.spawn().context("cannot start node for the compiler")? };
        wait_until("the compiler to load", START_LIMIT, stop, || {
            let ended = compiler.process.try_wait().context("cannot wait for the compiler")?;
            ensure!(ended.is_none(), "the compiler ended at once; its message is above");
            Ok(socket.exists().then_some(()))
        })?;
        Ok(compiler)
    }
}

impl Drop for Compiler {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
