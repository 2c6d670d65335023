//! The pinned tool chain of `package-lock.json`: forge, anvil, cast, solc and the OpenZeppelin contracts.
//!
//! npm may be told to skip install scripts, which would put the binaries in place; so they are called where npm unpacks
//! them, in the platform's own package. Once installed, nothing here needs a network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use crate::command;
use crate::stop::Stop;
use crate::workspace::Workspace;

const INSTALL_LIMIT: Duration = Duration::from_secs(600);
const VERSION_LIMIT: Duration = Duration::from_secs(30);
/// Beside what npm installed: the digest of the lock file that it was installed from.
const STAMP: &str = "node_modules/.parallelix-lock";

/// Paths of the pinned binaries.
#[derive(Clone, Debug)]
pub struct Tools {
    /// Builds, tests and deploys contracts.
    pub forge: PathBuf,
    /// A development chain.
    pub anvil: PathBuf,
    /// Calls and transactions from the command line.
    pub cast: PathBuf,
}

impl Tools {
    /// Installs the tool chain when it is missing or of another lock file, and checks it.
    ///
    /// Errors name what a fresh machine lacks and how to get it.
    pub fn ready(workspace: &Workspace, stop: &Stop, say: &mut dyn FnMut(&str)) -> Result<Self> {
        let lock =
            fs::read(workspace.root.join("package-lock.json")).context("package-lock.json is missing: is this the project's root?")?;
        let digest = hex::encode(Sha256::digest(&lock));
        let stamp = workspace.root.join(STAMP);
        let installed = fs::read_to_string(&stamp).is_ok_and(|found| found.trim() == digest);
        require("node", "Node.js 20 or later: https://nodejs.org, or your system's packages `nodejs` and `npm`")?;
        if !installed {
            require("npm", "npm, which comes with Node.js: https://nodejs.org, or your system's package `npm`")?;
            say("installing forge, anvil, cast, solc and OpenZeppelin contracts with npm");
            let mut npm = Command::new("npm");
            npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&workspace.root);
            command::capture(&mut npm, INSTALL_LIMIT, stop).context("npm could not install the tool chain of package-lock.json")?;
        }
        let tools = Self::locate(&workspace.root)?;
        if !installed {
            tools.check_versions(&lock, stop)?;
            fs::write(&stamp, &digest).with_context(|| format!("cannot write {}", stamp.display()))?;
        }
        Ok(tools)
    }

    fn locate(root: &Path) -> Result<Self> {
        let platform = platform()?;
        let binary = |name: &str| -> Result<PathBuf> {
            let path = root.join(format!("node_modules/@foundry-rs/{name}-{platform}/bin/{name}"));
            ensure!(
                path.is_file(),
                "npm installed no {name} for {platform}: {} is missing. Run `npm ci --include=optional --ignore-scripts`, \
                 and look whether npm is configured to omit optional packages (`npm config get omit`)",
                path.display()
            );
            Ok(path)
        };
        Ok(Self { forge: binary("forge")?, anvil: binary("anvil")?, cast: binary("cast")? })
    }

    fn check_versions(&self, lock: &[u8], stop: &Stop) -> Result<()> {
        let lock: serde_json::Value = serde_json::from_slice(lock).context("package-lock.json is not JSON")?;
        for (name, path) in [("forge", &self.forge), ("anvil", &self.anvil), ("cast", &self.cast)] {
            let pinned = lock["packages"][format!("node_modules/@foundry-rs/{name}")]["version"].as_str().unwrap_or_default();
            ensure!(!pinned.is_empty(), "package-lock.json does not pin @foundry-rs/{name}");
            let said = command::capture(Command::new(path).arg("--version"), VERSION_LIMIT, stop)?;
            ensure!(
                said.contains(pinned),
                "{} says `{}`, package-lock.json pins {pinned}: remove node_modules and try again",
                path.display(),
                said.trim()
            );
        }
        Ok(())
    }
}

/// Errors with `install` when `program` cannot be started.
pub fn require(program: &str, install: &str) -> Result<()> {
    if command::version(program).is_none() {
        bail!("`{program}` is needed and was not found in PATH. Install {install}");
    }
    Ok(())
}

fn platform() -> Result<&'static str> {
    match (std::env::consts::OS, std::env::consts::ARCH) {
        ("linux", "x86_64") => Ok("linux-amd64"),
        ("linux", "aarch64") => Ok("linux-arm64"),
        ("macos", "x86_64") => Ok("darwin-amd64"),
        ("macos", "aarch64") => Ok("darwin-arm64"),
        (os, arch) => bail!("no tool chain for {os} on {arch}: Linux and macOS on x86-64 and ARM64 are supported"),
    }
}
