//! Puts the built page into the binary: every file of `web/dist`, as it is and packed.
//!
//! Runs no npm and reads nothing else: `cargo xtask web` builds the page. Without it a one-page notice is embedded that
//! says so, so that a Rust build never needs Node; `PRLX_REQUIRE_WEB=1` makes that an error, for releases.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder};

const DIST: &str = "../web/dist";
const NOTICE: &str = "src/api/no_page.html";
/// Packing less than this gains nothing over the header that says so, bytes.
const PACKED_BYTES_MIN: usize = 256;

/// By ending: media type, and whether packing makes it smaller.
const MEDIA_TYPES: [(&str, &str, bool); 8] = [
    ("html", "text/html; charset=utf-8", true),
    ("js", "text/javascript; charset=utf-8", true),
    ("css", "text/css; charset=utf-8", true),
    ("svg", "image/svg+xml", true),
    ("json", "application/json", true),
    ("webmanifest", "application/manifest+json", true),
    ("txt", "text/plain; charset=utf-8", true),
    ("png", "image/png", false),
];

fn main() -> Result<(), Box<dyn Error>> {
    // A new migration file is a change of this crate, which the compiler can't see by itself.
    println!("cargo:rerun-if-changed=migrations");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={NOTICE}");
    println!("cargo:rerun-if-changed={DIST}");
    println!("cargo:rerun-if-env-changed=PRLX_REQUIRE_WEB");

    let dist = Path::new(DIST);
    // Cargo takes a watched path that is missing for one that has changed, and would compile this crate at every build.
    fs::create_dir_all(dist).ok();
    let is_built = dist.join("index.html").is_file();
    if !is_built && std::env::var("PRLX_REQUIRE_WEB").is_ok_and(|value| value == "1") {
        return Err("PRLX_REQUIRE_WEB=1, and web/dist/index.html is missing: run `cargo xtask web` first".into());
    }
    let files = if is_built { files_below(dist, "")? } else { vec![("/".to_owned(), PathBuf::from(NOTICE))] };
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    fs::write(out.join("page.rs"), embed(&files, is_built, &out)?)?;
    Ok(())
}

/// Files below `folder` in the order of their paths, each with the path that it is served under.
fn files_below(folder: &Path, prefix: &str) -> Result<Vec<(String, PathBuf)>, Box<dyn Error>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).ok_or("a file of web/dist has a name that is not text")?;
        // Anything else would have to be escaped in a URL, and means something in a route.
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
            return Err(format!("web/dist has a file `{name}`: only letters, digits, `-`, `_` and `.` can be served").into());
        }
        let served = format!("{prefix}/{name}");
        if path.is_dir() {
            files.extend(files_below(&path, &served)?);
        } else {
            files.push((if served == "/index.html" { "/".to_owned() } else { served }, path));
        }
    }
    files.sort();
    Ok(files)
}

/// Rust text of the table of assets; the bytes go beside it, so that a later build of the page can't pull them away.
fn embed(files: &[(String, PathBuf)], is_built: bool, out: &Path) -> Result<String, Box<dyn Error>> {
    let mut text =
        format!("/// Whether this is the page, and not the notice that there is none.\npub(super) const IS_BUILT: bool = {is_built};\n");
    writeln!(text, "/// Every file of the page.\npub(super) static ASSETS: [Asset; {}] = [", files.len())?;
    for (index, (served, path)) in files.iter().enumerate() {
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        let Some((_, media_type, packs)) = MEDIA_TYPES.iter().find(|(known, ..)| *known == ending) else {
            return Err(format!("web/dist has a file of an unknown kind, {}: add its ending to meter/build.rs", path.display()).into());
        };
        let bytes = fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        fs::write(out.join(format!("{index}.raw")), &bytes)?;
        let packed = gzip(&bytes)?;
        let mut gzip = "None".to_owned();
        if *packs && bytes.len() >= PACKED_BYTES_MIN && packed.len() < bytes.len() {
            fs::write(out.join(format!("{index}.gz")), &packed)?;
            gzip = format!("Some(include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{index}.gz\")))");
        }
        writeln!(
            text,
            "    Asset {{ path: {served:?}, media_type: {media_type:?}, is_immutable: {}, \
             bytes: include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{index}.raw\")), gzip: {gzip} }},",
            is_hashed(served)
        )?;
    }
    writeln!(text, "];")?;
    Ok(text)
}

/// Whether the name changes with the content: `/assets/NAME-HASH.ENDING`, as Vite writes it.
fn is_hashed(served: &str) -> bool {
    let Some(name) = served.strip_prefix("/assets/") else { return false };
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    // A hash may itself begin with or hold a dash, so its place is counted from the end.
    stem.len() > 9 && stem.as_bytes()[stem.len() - 9] == b'-'
}

/// The same bytes from the same bytes: no time, no name.
fn gzip(bytes: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut encoder = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}
