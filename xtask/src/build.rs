//! Compiling once, and knowing where cargo put what.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::command;
use crate::secret;
use crate::stop::Stop;
use crate::workspace::Workspace;

/// The packages of the network's processes, each with a binary of its name.
pub const PROCESSES: [&str; 3] = ["meter", "keeper", "gpu-node"];

/// Cold, on two cores.
const BUILD_LIMIT: Duration = Duration::from_secs(60 * 60);

/// The network's binaries, and the test binaries when those were built.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// Where the three lie; links, so that a later build does not change what a running network is made of.
    pub folder: PathBuf,
    /// The coordinator.
    pub meter: PathBuf,
    /// The settlement daemon.
    pub keeper: PathBuf,
    /// The operator's node.
    pub gpu_node: PathBuf,
    tests: Vec<TestBinary>,
}

#[derive(Clone, Debug)]
struct TestBinary {
    package: String,
    folder: PathBuf,
    path: PathBuf,
}

/// Which packages' tests are meant.
#[derive(Clone, Copy, Debug)]
pub enum Selection {
    /// One package.
    Only(&'static str),
    /// Every package but one.
    AllBut(&'static str),
}

impl Selection {
    fn takes(self, package: &str) -> bool {
        match self {
            Self::Only(name) => package == name,
            Self::AllBut(name) => package != name,
        }
    }
}

impl Binaries {
    /// Compiles what `selection` (cargo's own flags) names. Errors when a binary of `packages` is not among it.
    pub fn build(workspace: &Workspace, selection: &[&str], packages: &[&str], stop: &Stop) -> Result<Self> {
        let mut cargo = workspace.cargo();
        cargo.args(["build", "--message-format", "json-render-diagnostics"]).args(selection);
        println!("$ {}", command::describe(&cargo));
        let mut messages = Vec::new();
        let status = command::stream(&mut cargo, BUILD_LIMIT, stop, |line| match line.strip_prefix('{') {
            Some(_) => messages.extend(serde_json::from_str::<Value>(line)),
            None => println!("{line}"),
        })?;
        ensure!(status.success(), "cargo could not build the project ({status}); its messages are above");
        let executables: Vec<_> = messages.iter().filter_map(Executable::read).collect();
        let folder = workspace.home().join("bin").join(if selection.contains(&"--release") { "release" } else { "debug" });
        for &name in packages {
            let built = executables.iter().find(|executable| !executable.is_test && executable.name == name);
            link(&built.with_context(|| format!("cargo built no binary `{name}`"))?.path, &folder.join(name))?;
        }
        let tests = executables.into_iter().filter(|executable| executable.is_test);
        let tests = tests.map(|test| TestBinary { package: test.package, folder: test.folder, path: test.path }).collect();
        Ok(Self { tests, ..Self::at(&folder) })
    }

    /// Compiles the binaries of `packages` and nothing else.
    pub fn only(workspace: &Workspace, packages: &[&str], release: bool, stop: &Stop) -> Result<Self> {
        let mut selection = vec!["--bins"];
        selection.extend(packages.iter().flat_map(|package| ["--package", package]));
        selection.extend(release.then_some("--release"));
        Self::build(workspace, &selection, packages, stop)
    }

    /// Binaries that were built before, in `folder`.
    pub fn at(folder: &Path) -> Self {
        let path = |name: &str| folder.join(name);
        Self { folder: folder.to_owned(), meter: path("meter"), keeper: path("keeper"), gpu_node: path("gpu-node"), tests: Vec::new() }
    }

    /// One command that runs the selected tests in parallel.
    pub fn nextest(&self, workspace: &Workspace, selection: Selection) -> Command {
        let mut cargo = workspace.cargo();
        let filter = match selection {
            Selection::Only(name) => format!("package({name})"),
            Selection::AllBut(name) => format!("not package({name})"),
        };
        // A filter and not `-p`, which would unify features anew and compile again.
        cargo.args(["nextest", "run", "--workspace", "--no-fail-fast", "--no-tests", "pass", "--filterset", &filter]);
        cargo
    }

    /// A command for each selected test binary, as `cargo test` would run it.
    pub fn tests(&self, workspace: &Workspace, selection: Selection) -> Vec<Command> {
        let selected = self.tests.iter().filter(|test| selection.takes(&test.package));
        let command = |test: &TestBinary| {
            let mut command = Command::new(&test.path);
            command
                .current_dir(&test.folder)
                .env("CARGO_MANIFEST_DIR", &test.folder)
                .env("CARGO_TARGET_TMPDIR", workspace.home().join("tmp"));
            command
        };
        selected.map(command).collect()
    }
}

struct Executable {
    package: String,
    folder: PathBuf,
    name: String,
    is_test: bool,
    path: PathBuf,
}

impl Executable {
    /// From one of cargo's `compiler-artifact` messages.
    fn read(message: &Value) -> Option<Self> {
        let path = PathBuf::from(message["executable"].as_str()?);
        let folder = Path::new(message["manifest_path"].as_str()?).parent()?.to_owned();
        // Packages are named after their folders in this workspace.
        let package = folder.file_name().and_then(OsStr::to_str)?.to_owned();
        let name = message["target"]["name"].as_str()?.to_owned();
        Some(Self { package, folder, name, is_test: message["profile"]["test"].as_bool()?, path })
    }
}

/// Puts a link to `from`, or a copy where that is another disk, in the place of `to`, in one step.
fn link(from: &Path, to: &Path) -> Result<()> {
    let folder = to.parent().context("a file lies in a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let part = to.with_extension(format!("{}.part", secret::random_hex(4)?));
    fs::hard_link(from, &part).or_else(|_| fs::copy(from, &part).map(drop)).with_context(|| format!("cannot write {}", part.display()))?;
    fs::rename(&part, to).with_context(|| format!("cannot write {}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_read_from_cargo_messages() {
        let message = serde_json::json!({
            "reason": "compiler-artifact", "manifest_path": "/p/test/e2e/Cargo.toml",
            "target": {"name": "straight_path"}, "profile": {"test": true}, "executable": "/t/debug/deps/straight_path-1",
        });
        let executable = Executable::read(&message).unwrap();
        assert_eq!((executable.package.as_str(), executable.name.as_str(), executable.is_test), ("e2e", "straight_path", true));
        assert!(Selection::Only("e2e").takes(&executable.package) && !Selection::AllBut("e2e").takes(&executable.package));
        assert!(Executable::read(&serde_json::json!({"reason": "build-finished"})).is_none());
    }

    #[test]
    fn a_link_replaces_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("bin/to"));
        for text in ["one", "two"] {
            fs::remove_file(&from).ok();
            fs::write(&from, text).unwrap();
            link(&from, &to).unwrap();
            assert_eq!(fs::read_to_string(&to).unwrap(), text);
        }
    }
}
