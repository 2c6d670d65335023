//! NVIDIA's compiler and disassembler, without a CUDA toolkit: two wheels from PyPI, pinned by digest.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::command;
use crate::stop::Stop;
use crate::workspace::Workspace;

const INSTALL_LIMIT: Duration = Duration::from_secs(600);
/// For Linux on x86-64 and ARM64; NVIDIA publishes them for no other system that we build on.
const REQUIREMENTS: &str = include_str!("requirements.txt");
/// What a machine without the wheels is told.
const ADVICE: &str = "the kernels' compiler (NVRTC) comes from PyPI: install Python 3 with pip (packages `python3` and `python3-pip`), \
     and let pip reach an index once (`pip config`, PIP_INDEX_URL); it is kept in .parallelix/cuda";

/// Where the programs are.
#[derive(Clone, Debug)]
pub(super) struct Toolchain {
    /// NVRTC's library.
    pub(super) nvrtc: PathBuf,
    /// The disassembler.
    pub(super) nvdisasm: PathBuf,
    /// A Python that can call the library.
    pub(super) python: &'static str,
}

impl Toolchain {
    /// Installs the wheels into `.parallelix/cuda` unless these very ones are there. Errors say what is missing.
    pub(super) fn ready(workspace: &Workspace, stop: &Stop, say: &mut dyn FnMut(&str)) -> Result<Self> {
        ensure!(cfg!(target_os = "linux"), "NVIDIA publishes no compiler for this system; kernels are compiled on Linux");
        let Some(python) = ["python3", "python"].into_iter().find(|name| command::version(name).is_some()) else {
            bail!("neither `python3` nor `python` was found in PATH: {ADVICE}");
        };
        let folder = workspace.home().join("cuda");
        let stamp = folder.join("requirements.txt");
        if !fs::read_to_string(&stamp).is_ok_and(|text| text == REQUIREMENTS) {
            say("downloading NVRTC and nvdisasm from PyPI, 95 MB");
            install(python, &folder, stop).context(ADVICE)?;
            fs::write(&stamp, REQUIREMENTS).with_context(|| format!("cannot write {}", stamp.display()))?;
        }
        let nvrtc = find(&folder, "libnvrtc.so.12").context("the NVRTC wheel holds no libnvrtc.so.12: remove .parallelix/cuda")?;
        let nvdisasm = find(&folder, "nvdisasm").context("the nvdisasm wheel holds no nvdisasm: remove .parallelix/cuda")?;
        Ok(Self { nvrtc, nvdisasm, python })
    }
}

fn install(python: &str, folder: &Path, stop: &Stop) -> Result<()> {
    fs::remove_dir_all(folder).ok();
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let wanted = folder.join("wanted.txt");
    fs::write(&wanted, REQUIREMENTS).with_context(|| format!("cannot write {}", wanted.display()))?;
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"]);
    pip.args(["--require-hashes", "--requirement"]).arg(&wanted).arg("--target").arg(folder.join("wheels"));
    command::capture(&mut pip, INSTALL_LIMIT, stop).map(drop)
}

/// The file of that name, anywhere below.
fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).ok()?.flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if entry.file_name() == name {
                return Some(path);
            }
        }
    }
    None
}
