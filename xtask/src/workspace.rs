//! Where things lie: the checkout, what `xtask` keeps in it, and what cargo builds.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::command;
use crate::stop::Stop;

/// A checkout of the project.
#[derive(Clone, Debug)]
pub struct Workspace {
    /// Folder of the root `Cargo.toml`.
    pub root: PathBuf,
}

impl Workspace {
    /// The checkout that this crate was compiled in.
    pub fn here() -> Self {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        Self { root: manifest.parent().unwrap_or(manifest).to_path_buf() }
    }

    /// Everything that `xtask` writes and git ignores: downloads, models, networks.
    pub fn home(&self) -> PathBuf {
        self.root.join(".parallelix")
    }

    /// Where the network called `name` keeps its state.
    pub fn network_dir(&self, name: &str) -> PathBuf {
        self.home().join("net").join(name)
    }

    /// A cargo command in this checkout.
    pub fn cargo(&self) -> Command {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
        cargo.current_dir(&self.root);
        // Set by `cargo run` for xtask itself; a nested cargo would hand them on to build scripts and rebuild.
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
                cargo.env_remove(name);
            }
        }
        cargo
    }

    /// Cargo's target directory, whichever way it is set.
    pub fn target_dir(&self, stop: &Stop) -> Result<PathBuf> {
        let mut metadata = self.cargo();
        metadata.args(["metadata", "--no-deps", "--format-version", "1"]);
        let json = command::capture(&mut metadata, Duration::from_secs(120), stop)?;
        let json: Value = serde_json::from_str(&json).context("`cargo metadata` did not print JSON")?;
        Ok(PathBuf::from(json["target_directory"].as_str().context("`cargo metadata` names no target directory")?))
    }
}
