//! Finding an installed Chromium; nothing here downloads one.

use std::env;
use std::path::PathBuf;

/// Where to look first: a path.
const VARIABLE: &str = "PARALLELIX_CHROMIUM";
/// What distributions call it.
const NAMES: [&str; 5] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"];
/// Where it is when it is in no `PATH`.
const PLACES: [&str; 2] =
    ["/Applications/Chromium.app/Contents/MacOS/Chromium", "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"];

/// What to do when there is none.
pub const MISSING: &str = "the page's end-to-end tests DID NOT RUN: no Chromium was found. Install it (Debian, Ubuntu: \
     `apt-get install chromium`; Fedora: `dnf install chromium`; macOS: `brew install chromium`), or name it in PARALLELIX_CHROMIUM";

/// The browser, when there is one.
pub fn find() -> Option<PathBuf> {
    if let Some(named) = env::var_os(VARIABLE) {
        return Some(PathBuf::from(named)).filter(|path| path.is_file());
    }
    let folders: Vec<PathBuf> = env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default();
    let in_path = NAMES.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    in_path.chain(PLACES.iter().map(PathBuf::from)).find(|path| path.is_file())
}
