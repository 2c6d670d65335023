//! One file: resumed where it stopped, tried again when it breaks off, named only after its digest was checked.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};
use sha1::{Digest, Sha1};

use super::hub::{Answer, Failure, Hub, HubFile, next_piece, refusal};
use super::{PROGRESS_BYTES, PullError, PullLimits};
use crate::model::digest::sha256_file;
use crate::model::import::Progress;

/// How often a file may come whole and damaged.
const DAMAGED_MOST: u32 = 2;

impl PullLimits {
    /// Wait before try `failures + 1`.
    pub(super) fn backoff(&self, failures: u32) -> Duration {
        let doubled = 1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        self.backoff_first.saturating_mul(doubled).min(self.backoff_most)
    }
}

/// Bytes of the file that are here already.
pub(super) fn bytes_here(folder: &Path, file: &HubFile) -> u64 {
    let length = |path: PathBuf| fs::metadata(path).map(|m| m.len());
    length(folder.join(&file.name)).or_else(|_| length(part_of(folder, file))).unwrap_or(0).min(file.size)
}

fn part_of(folder: &Path, file: &HubFile) -> PathBuf {
    folder.join(format!("{}.part", file.name))
}

/// Downloads one file into the folder.
pub(super) async fn file(
    hub: &Hub,
    url: &str,
    file: &HubFile,
    folder: &Path,
    limits: &PullLimits,
    progress: &dyn Progress,
) -> Result<(), PullError> {
    let whole = folder.join(&file.name);
    if fs::metadata(&whole).is_ok_and(|m| m.len() == file.size) {
        return Ok(()); // it got this name only after its digest was checked
    }
    let part = part_of(folder, file);
    let (mut failures, mut tries, mut damaged) = (0, 0, 0);
    let mut expected = file.clone();
    progress.begin(&format!("download {}", file.name), file.size);
    loop {
        let before = length_of(&part);
        if tries == 0 {
            progress.advance(before);
        }
        tries += 1;
        let outcome = fetch_rest(hub, url, &mut expected, &part, limits, progress).await?;
        let reason = match outcome {
            Ok(()) => match check(&expected, &part)? {
                None => break,
                Some((found, wanted)) => {
                    damaged += 1;
                    fs::remove_file(&part).map_err(PullError::io(&part))?;
                    if damaged == DAMAGED_MOST {
                        return Err(PullError::Digest { file: file.name.clone(), found, expected: wanted });
                    }
                    continue;
                }
            },
            Err(Failure::Refused(status)) => return Err(refusal(&file.name, status)),
            Err(Failure::Passing(reason)) => reason,
        };
        let gained = length_of(&part).saturating_sub(before);
        failures = if gained >= PROGRESS_BYTES { 1 } else { failures + 1 };
        if failures >= limits.attempts {
            return Err(PullError::GivenUp { file: file.name.clone(), reason, attempts: tries });
        }
        tokio::time::sleep(limits.backoff(failures)).await;
    }
    fs::rename(&part, &whole).map_err(PullError::io(&whole))?;
    progress.end();
    Ok(())
}

fn length_of(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |m| m.len())
}

/// One request for what is missing. The outer error is this machine's, the inner one the connection's.
async fn fetch_rest(
    hub: &Hub,
    url: &str,
    file: &mut HubFile,
    part: &Path,
    limits: &PullLimits,
    progress: &dyn Progress,
) -> Result<Result<(), Failure>, PullError> {
    let io = |source| PullError::Io { path: part.to_owned(), source };
    let mut out = OpenOptions::new().append(true).create(true).open(part).map_err(io)?;
    let mut have = out.metadata().map_err(io)?.len();
    if have > file.size {
        out.set_len(0).map_err(io)?;
        have = 0;
    }
    if have == file.size && have > 0 {
        return Ok(Ok(()));
    }

    let mut headers = HeaderMap::new();
    if have > 0
        && let Ok(range) = HeaderValue::from_str(&format!("bytes={have}-"))
    {
        headers.insert(RANGE, range);
    }
    let Answer { mut response, linked_etag } = match hub.get(url, headers, limits).await {
        Ok(answer) => answer,
        // The part and the hub disagree about the length: begin again.
        Err(Failure::Refused(StatusCode::RANGE_NOT_SATISFIABLE)) => {
            out.set_len(0).map_err(io)?;
            return Ok(Err(Failure::Passing("the hub does not resume at this length".to_owned())));
        }
        Err(failure) => return Ok(Err(failure)),
    };
    if file.sha256.is_none() && file.git_sha1.is_none() {
        file.sha256 = linked_etag.filter(|etag| etag.len() == 64 && etag.bytes().all(|b| b.is_ascii_hexdigit()));
    }
    if let Err(reason) = agrees(&response, have, file.size) {
        out.set_len(0).map_err(io)?;
        return Ok(Err(Failure::Passing(reason)));
    }
    if response.status() != StatusCode::PARTIAL_CONTENT && have > 0 {
        out.set_len(0).map_err(io)?; // the hub ignores ranges and sends all of it
        have = 0;
    }

    loop {
        let piece = match next_piece(&mut response, limits).await {
            Ok(Some(piece)) => piece,
            Ok(None) if have == file.size => break,
            Ok(None) => return Ok(Err(Failure::Passing(format!("it ended after {have} of {} bytes", file.size)))),
            Err(failure) => return Ok(Err(failure)),
        };
        have += piece.len() as u64;
        if have > file.size {
            out.set_len(0).map_err(io)?;
            return Ok(Err(Failure::Passing(format!("more than the listed {} bytes come", file.size))));
        }
        out.write_all(&piece).map_err(io)?;
        progress.advance(piece.len() as u64);
    }
    out.sync_all().map_err(io)?;
    Ok(Ok(()))
}

/// Whether the answer is the rest of this file, as far as its head says.
fn agrees(response: &reqwest::Response, have: u64, size: u64) -> Result<(), String> {
    let resumed = response.status() == StatusCode::PARTIAL_CONTENT;
    if resumed {
        let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let wanted = format!("bytes {have}-{}/{size}", size.saturating_sub(1));
        if range != wanted {
            return Err(format!("the hub sends range {range:?}, {wanted:?} was asked for"));
        }
    }
    let expected = if resumed { size - have } else { size };
    match response.content_length() {
        Some(length) if length != expected => Err(format!("the hub announces {length} bytes, its listing says {expected}")),
        _ => Ok(()),
    }
}

/// Digest found and digest named, when they differ.
fn check(file: &HubFile, part: &Path) -> Result<Option<(String, String)>, PullError> {
    let found = match (&file.sha256, &file.git_sha1) {
        (Some(_), _) => sha256_file(part, &|_| ()).map_err(|e| PullError::Import(e.into()))?,
        (None, Some(_)) => git_sha1(part, file.size)?,
        (None, None) if is_weights(&file.name) => return Err(PullError::NoDigest { file: file.name.clone() }),
        (None, None) => return Ok(None),
    };
    let expected = file.sha256.as_ref().or(file.git_sha1.as_ref()).cloned().unwrap_or_default();
    Ok((found != expected).then_some((found, expected)))
}

fn is_weights(name: &str) -> bool {
    name.ends_with(".safetensors") || name.ends_with(".gguf")
}

/// git's name of a file's content.
fn git_sha1(path: &Path, size: u64) -> Result<String, PullError> {
    let mut hasher = Sha1::new();
    hasher.update(format!("blob {size}\0"));
    let mut file = File::open(path).map_err(PullError::io(path))?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = file.read(&mut buffer).map_err(PullError::io(path))?;
        if count == 0 {
            return Ok(alloy::hex::encode(hasher.finalize()));
        }
        hasher.update(buffer.get(..count).unwrap_or_default());
    }
}
