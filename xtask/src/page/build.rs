//! `cargo xtask web`: npm's packages and Vite's build, `web/` → `web/dist`, which the meter embeds.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use crate::command;
use crate::stop::Stop;
use crate::tools::require;
use crate::workspace::Workspace;

const INSTALL_LIMIT: Duration = Duration::from_secs(900);
const BUILD_LIMIT: Duration = Duration::from_secs(900);
/// Beside what npm installed: the digest of the lock file that it was installed from.
const STAMP: &str = "node_modules/.parallelix-lock";
/// Folders of `web/` that no file of `dist` is made from.
const NOT_INPUTS: [&str; 5] = ["node_modules", "dist", "e2e", "test", ".e2e"];

/// Installs and builds what is missing or of other sources. A second call does nothing.
pub fn ready(workspace: &Workspace, stop: &Stop, say: &mut dyn FnMut(&str)) -> Result<()> {
    let web = workspace.root.join("web");
    let digest = inputs_digest(&web)?;
    let stamp = workspace.home().join("page").join("dist.sha256");
    let is_built = web.join("dist/index.html").is_file();
    if is_built && fs::read_to_string(&stamp).is_ok_and(|found| found.trim() == digest) {
        return Ok(());
    }
    packages_ready(workspace, stop, say)?;
    say("building the page");
    command::capture(&mut npm(workspace, &["run", "build"]), BUILD_LIMIT, stop).context("the page could not be built")?;
    ensure!(web.join("dist/index.html").is_file(), "`npm run build` in web/ wrote no web/dist/index.html");
    let folder = workspace.home().join("page");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    fs::write(&stamp, digest).with_context(|| format!("cannot write {}", stamp.display()))
}

/// Installs the packages of `web/package-lock.json`, without running a script of any of them.
pub fn packages_ready(workspace: &Workspace, stop: &Stop, say: &mut dyn FnMut(&str)) -> Result<()> {
    let lock_path = workspace.root.join("web/package-lock.json");
    let lock = fs::read(&lock_path).with_context(|| format!("cannot read {}", lock_path.display()))?;
    let digest = hex::encode(Sha256::digest(&lock));
    let stamp = workspace.root.join("web").join(STAMP);
    if fs::read_to_string(&stamp).is_ok_and(|found| found.trim() == digest) {
        return Ok(());
    }
    require("node", "Node.js 20.19 or later: https://nodejs.org, or your system's packages `nodejs` and `npm`")?;
    require("npm", "npm, which comes with Node.js: https://nodejs.org, or your system's package `npm`")?;
    say("installing the page's packages with npm");
    let mut install = npm(workspace, &["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
    command::capture(&mut install, INSTALL_LIMIT, stop).context("npm could not install the packages of web/package-lock.json")?;
    fs::write(&stamp, &digest).with_context(|| format!("cannot write {}", stamp.display()))
}

/// npm in `web/`.
pub fn npm(workspace: &Workspace, arguments: &[&str]) -> Command {
    let mut npm = Command::new("npm");
    npm.args(arguments).current_dir(workspace.root.join("web"));
    // A build is a function of its sources: no time of day in it.
    npm.env("SOURCE_DATE_EPOCH", "0").env("NO_UPDATE_NOTIFIER", "1");
    npm
}

/// Digest of the names and contents of everything that the build reads.
fn inputs_digest(web: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    for path in inputs_below(web, true)? {
        let name = path.strip_prefix(web).unwrap_or(&path).to_string_lossy().into_owned();
        let content = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        hasher.update(format!("{name}\0{}\0", content.len()));
        hasher.update(content);
    }
    Ok(hex::encode(hasher.finalize()))
}

fn inputs_below(folder: &Path, is_root: bool) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry.with_context(|| format!("cannot read {}", folder.display()))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if !(is_root && NOT_INPUTS.contains(&name.as_str())) {
                paths.extend(inputs_below(&path, false)?);
            }
        } else {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_follows_the_sources_and_not_what_is_made_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("src/main.ts", "one");
        write("package.json", "{}");
        let first = inputs_digest(folder.path()).unwrap();
        write("dist/index.html", "built");
        write("node_modules/a/index.js", "a");
        write("e2e/a.spec.ts", "a");
        assert_eq!(inputs_digest(folder.path()).unwrap(), first);
        write("src/dist/a.ts", "two");
        assert_ne!(inputs_digest(folder.path()).unwrap(), first);
    }

    #[test]
    fn moving_text_from_one_file_to_the_next_changes_the_digest() {
        let digest = |a: &str, b: &str| {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("a"), a).unwrap();
            fs::write(folder.path().join("b"), b).unwrap();
            inputs_digest(folder.path()).unwrap()
        };
        assert_ne!(digest("xb", ""), digest("x", "b"));
    }
}
