//! Embeds the CUDA kernels' machine code, made by `cargo xtask kernels`, into a release build.
//!
//! Other builds, and a release without it, compile the kernels at run time with the machine's NVRTC. `PRLX_REQUIRE_KERNELS=1` makes
//! missing or stale machine code an error.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

const REQUIRE: &str = "PRLX_REQUIRE_KERNELS";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={REQUIRE}");
    let required = std::env::var(REQUIRE).is_ok_and(|value| value == "1");
    let release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let own = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let compiled = own.join("../.parallelix/kernels");

    let mut table = String::from("[\n");
    if release || required {
        println!("cargo::rerun-if-changed={}", own.join("kernels").display());
        println!("cargo::rerun-if-changed={}", compiled.display());
        match cubins(&own.join("kernels"), &compiled) {
            Ok(cubins) => {
                for (name, architecture, path) in cubins {
                    let _ = writeln!(table, "    ({name:?}, {architecture}, include_bytes!({:?})),", path.display().to_string());
                }
            }
            Err(reason) if required => {
                println!("cargo::error={REQUIRE} is set, and {reason}: run `cargo xtask kernels`");
            }
            Err(reason) => {
                println!(
                    "cargo::warning=no CUDA kernels are embedded, {reason}: `cargo xtask kernels` makes them; NVRTC at run time is the fallback"
                );
            }
        }
    }
    table.push(']');
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default()).join("cubins.rs");
    if let Err(error) = fs::write(&out, table) {
        println!("cargo::error=cannot write {}: {error}", out.display());
    }
}

/// Source name, architecture and file of each piece of machine code; refused when it was made from other sources than ours.
fn cubins(sources: &Path, compiled: &Path) -> Result<Vec<(String, u32, PathBuf)>, String> {
    let list = |folder: &Path| -> Result<Vec<PathBuf>, String> {
        let entries = fs::read_dir(folder).map_err(|error| format!("{} can't be read ({error})", folder.display()))?;
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        Ok(paths)
    };
    for source in list(sources)?.iter().filter(|path| path.extension().is_some_and(|ending| ending == "cu" || ending == "cuh")) {
        let name = source.file_name().unwrap_or_default();
        let then = compiled.join("sources").join(name);
        if fs::read(source).ok() != fs::read(&then).ok() {
            return Err(format!("{} differs from what was compiled", source.display()));
        }
    }
    let mut found = Vec::new();
    for path in list(compiled)? {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let parts: Vec<&str> = file.split('.').collect();
        if let [name, architecture, "cubin"] = parts[..]
            && let Some(Ok(architecture)) = architecture.strip_prefix("sm_").map(str::parse)
        {
            found.push((name.to_owned(), architecture, path));
        }
    }
    if found.is_empty() { Err(format!("{} holds no machine code", compiled.display())) } else { Ok(found) }
}
