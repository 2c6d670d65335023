//! `gpu-node model` as an operator types it.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

fn source(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../test/vectors/families").join(family)
}

fn model(dir: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gpu-node"));
    command.current_dir(dir).arg("model").args(words).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn imported(dir: &Path, family: &str) {
    let output = model(dir, &["import", source(family).to_str().unwrap(), &format!("models/{family}")]);
    assert!(output.status.success(), "{}", text(&output.stderr));
}

fn list(dir: &Path) -> Vec<Value> {
    let output = model(dir, &["list", "--json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn models_are_listed_verified_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    imported(dir.path(), "qwen3");
    imported(dir.path(), "smollm");
    let listed = list(dir.path());
    let names: Vec<&str> = listed.iter().map(|model| model["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["qwen3", "smollm"]);
    assert!(
        listed.iter().all(|model| model["state"] == "ready" && model["context_tokens"] == 512 && model["source_name"] == model["name"])
    );
    let shown = text(&model(dir.path(), &["list"]).stdout);
    assert!(shown.contains("qwen3") && shown.contains(listed[0]["model_root"].as_str().unwrap()), "{shown}");
    assert!(model(dir.path(), &["verify", "models/qwen3"]).status.success());

    let dry = model(dir.path(), &["rm", "models/qwen3", "--dry-run"]);
    assert!(dry.status.success() && text(&dry.stdout).contains("would remove"));
    let unasked = model(dir.path(), &["rm", "models/qwen3"]);
    assert_eq!(unasked.status.code(), Some(3), "nobody was there to ask");
    assert_eq!(list(dir.path()).len(), 2);
    let removed = model(dir.path(), &["rm", "models/qwen3", "--yes", "--json"]);
    let report: Value = serde_json::from_slice(&removed.stdout).unwrap();
    assert_eq!((&report["removed"], &report["files"]), (&json!(true), &json!(6)));
    assert!(!dir.path().join("models/qwen3").exists());
    assert_eq!(list(dir.path()).len(), 1);
    assert_eq!(fs::read_dir(dir.path().join("models")).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn only_what_an_import_wrote_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    imported(dir.path(), "smollm");
    fs::write(dir.path().join("models/smollm/notes.txt"), "mine").unwrap();
    fs::create_dir(dir.path().join("models/other")).unwrap();
    std::os::unix::fs::symlink("smollm", dir.path().join("models/link")).unwrap();
    for name in ["smollm", "other", "link", "absent"] {
        let output = model(dir.path(), &["rm", &format!("models/{name}"), "--yes"]);
        assert_eq!(output.status.code(), Some(1), "{name}: {}", text(&output.stdout));
    }
    assert!(dir.path().join("models/smollm/notes.txt").exists() && dir.path().join("models/other").exists());
}

#[test]
fn a_folder_of_the_older_layout_is_shown_and_replaced() {
    let dir = tempfile::tempdir().unwrap();
    imported(dir.path(), "smollm");
    let manifest = dir.path().join("models/smollm/parallelix.json");
    let mut older: Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    older["format"] = json!(1);
    fs::write(&manifest, older.to_string()).unwrap();
    assert_eq!(list(dir.path())[0]["state"], "older_layout");
    let verify = model(dir.path(), &["verify", "models/smollm"]);
    assert!(verify.status.code() == Some(1) && text(&verify.stderr).contains("import the model again"), "{}", text(&verify.stderr));

    fs::write(dir.path().join("models/smollm/notes.txt"), "mine").unwrap();
    let taken = model(dir.path(), &["import", source("smollm").to_str().unwrap(), "models/smollm"]);
    assert_eq!(taken.status.code(), Some(1), "a file of the operator's is not replaced");
    fs::remove_file(dir.path().join("models/smollm/notes.txt")).unwrap();
    imported(dir.path(), "smollm");
    assert_eq!(list(dir.path())[0]["state"], "ready");
    assert_eq!(fs::read_dir(dir.path().join("models")).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn damage_is_shown_and_found() {
    let dir = tempfile::tempdir().unwrap();
    imported(dir.path(), "smollm");
    let config = dir.path().join("models/smollm/config.json");
    let whole = fs::read(&config).unwrap();
    fs::write(&config, &whole[..100]).unwrap();
    assert_eq!(list(dir.path())[0]["state"], "damaged");
    assert_eq!(model(dir.path(), &["verify", "models/smollm"]).status.code(), Some(1));
    fs::write(&config, whole).unwrap();
    fs::write(dir.path().join("models/smollm/extra.json"), "{}").unwrap();
    let extra = model(dir.path(), &["verify", "models/smollm"]);
    assert!(extra.status.code() == Some(1) && text(&extra.stderr).contains("extra.json"));
}

#[test]
fn help_shows_examples_and_a_hub_without_tls_is_a_usage_error() {
    let dir = tempfile::tempdir().unwrap();
    for word in ["pull", "import", "list", "verify", "rm"] {
        let help = text(&model(dir.path(), &[word, "--help"]).stdout);
        assert!(help.starts_with("Examples:\n  gpu-node model"), "{help}");
    }
    let plain = model(dir.path(), &["pull", "owner/name", "--hub", "http://hub.example.org"]);
    assert!(plain.status.code() == Some(2) && text(&plain.stderr).contains("https"), "{}", text(&plain.stderr));
}
