//! Windows of signed receipts on disk, so that a root can be opened when somebody asks. Bounded in bytes and in time.
//!
//! Segments of JSON lines, appended and never changed; the oldest goes as a whole. What is lost with a torn line or a full disk is one
//! proof that can't be served: the receipt and its pay do not depend on it.

use std::collections::{HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use wire::B256;

use super::Window;

/// Segments that the byte limit is cut into: a sixteenth of what is kept goes at a time.
const SEGMENTS: u64 = 16;
/// Longest line that is read, bytes: the windows of a context of 100,000 tokens take about 500 KiB.
const LINE_BYTES_MAX: u64 = 8 << 20;

/// How much is kept, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProofLimits {
    /// All segments together.
    pub bytes_max: u64,
    /// From the signature on, seconds.
    pub keep_s: u64,
}

/// The proofs of the receipts that this node signed last.
#[derive(Debug)]
pub struct ProofStore {
    folder: PathBuf,
    limits: ProofLimits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    places: HashMap<B256, Place>,
    segments: VecDeque<Segment>,
    /// The newest segment, once something was added.
    current: Option<File>,
    next_number: u64,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    segment: u64,
    offset: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Segment {
    number: u64,
    bytes: u64,
    newest_s: u64,
    requests: Vec<B256>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    request_id: B256,
    at: u64,
    windows: Vec<Window>,
}

impl ProofStore {
    /// Opens `folder`, made if absent. Lines that can't be read are left out and counted in the log. One process at a time: the lock of
    /// the receipts beside it.
    pub fn open(folder: &Path, limits: ProofLimits, now_s: u64) -> Result<Self, ProofStoreError> {
        let at = |error| ProofStoreError { path: folder.to_owned(), error };
        std::fs::create_dir_all(folder).map_err(at)?;
        let mut numbers: Vec<u64> = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(at)? {
            numbers.extend(segment_number(&entry.map_err(at)?.file_name().to_string_lossy()));
        }
        numbers.sort_unstable();
        let mut state = State { next_number: numbers.last().map_or(0, |last| last + 1), ..State::default() };
        for number in numbers {
            let path = segment_path(folder, number);
            let damaged = read_segment(&mut state, number, &path).map_err(|error| ProofStoreError { path: path.clone(), error })?;
            if damaged > 0 {
                tracing::warn!(path = %path.display(), damaged, "proofs that can't be read were left out");
            }
        }
        let store = Self { folder: folder.to_owned(), limits, state: Mutex::new(state) };
        store.drop_old(&mut store.state(), now_s)?;
        Ok(store)
    }

    /// Keeps the windows of `request_id`, in place of earlier ones. Blocks on the disk, without a sync.
    pub fn add(&self, request_id: B256, windows: &[Window], now_s: u64) -> Result<(), ProofStoreError> {
        let mut state = self.state();
        let mut bytes =
            serde_json::to_vec(&Line { request_id, at: now_s, windows: windows.to_vec() }).map_err(|error| self.at(error.into()))?;
        bytes.push(b'\n');
        let segment_bytes = (self.limits.bytes_max / SEGMENTS).max(1);
        let full = state.segments.back().is_none_or(|segment| segment.bytes + bytes.len() as u64 > segment_bytes);
        if full || state.current.is_none() {
            self.start_segment(&mut state)?;
        }
        let State { current: Some(file), segments, places, .. } = &mut *state else { return Ok(()) };
        let Some(segment) = segments.back_mut() else { return Ok(()) };
        let place = Place { segment: segment.number, offset: segment.bytes, bytes: bytes.len() };
        if let Err(error) = file.write_all_at(&bytes, segment.bytes) {
            // What stands half written is not in the index; the next segment starts clean.
            state.current = None;
            return Err(self.at(error));
        }
        segment.bytes += bytes.len() as u64;
        segment.newest_s = segment.newest_s.max(now_s);
        segment.requests.push(request_id);
        places.insert(request_id, place);
        self.drop_old(&mut state, now_s)
    }

    /// The windows of `request_id`; `None` when they are not kept (any more). Blocks on the disk.
    pub fn get(&self, request_id: &B256) -> Result<Option<Vec<Window>>, ProofStoreError> {
        let Some(place) = self.state().places.get(request_id).copied() else { return Ok(None) };
        let path = segment_path(&self.folder, place.segment);
        let read = || -> io::Result<Line> {
            let mut bytes = vec![0; place.bytes];
            File::open(&path)?.read_exact_at(&mut bytes, place.offset)?;
            Ok(serde_json::from_slice(&bytes)?)
        };
        match read() {
            Ok(line) => Ok((line.request_id == *request_id).then_some(line.windows)),
            // Dropped between the look and the read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ProofStoreError { path, error }),
        }
    }

    /// How many proofs can be served.
    pub fn len(&self) -> usize {
        self.state().places.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn start_segment(&self, state: &mut State) -> Result<(), ProofStoreError> {
        let number = state.next_number;
        let path = segment_path(&self.folder, number);
        let file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path);
        state.current = Some(file.map_err(|error| ProofStoreError { path, error })?);
        state.next_number += 1;
        state.segments.push_back(Segment { number, bytes: 0, newest_s: 0, requests: Vec::new() });
        Ok(())
    }

    /// Drops the oldest segments while there is too much, or all of one is too old. The newest stays while it is written to.
    fn drop_old(&self, state: &mut State, now_s: u64) -> Result<(), ProofStoreError> {
        loop {
            let total: u64 = state.segments.iter().map(|segment| segment.bytes).sum();
            let Some(oldest) = state.segments.front() else { return Ok(()) };
            let in_use = state.segments.len() == 1 && state.current.is_some();
            let too_old = oldest.newest_s.saturating_add(self.limits.keep_s) < now_s;
            if in_use || !(too_old || total > self.limits.bytes_max) {
                return Ok(());
            }
            let path = segment_path(&self.folder, oldest.number);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(ProofStoreError { path, error }),
                _ => {}
            }
            let Some(gone) = state.segments.pop_front() else { return Ok(()) };
            for request_id in &gone.requests {
                if state.places.get(request_id).is_some_and(|place| place.segment == gone.number) {
                    state.places.remove(request_id);
                }
            }
        }
    }

    fn at(&self, error: io::Error) -> ProofStoreError {
        ProofStoreError { path: self.folder.clone(), error }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The index changes only after the file did, by single inserts and removals.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds a segment's lines to the index; returns how many can't be read.
fn read_segment(state: &mut State, number: u64, path: &Path) -> io::Result<usize> {
    let mut reader = BufReader::new(File::open(path)?);
    let mut segment = Segment { number, bytes: 0, newest_s: 0, requests: Vec::new() };
    let (mut line, mut damaged) = (Vec::new(), 0);
    loop {
        line.clear();
        let bytes = reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
        if bytes == 0 {
            break;
        }
        match serde_json::from_slice::<Line>(&line) {
            Ok(read) => {
                state.places.insert(read.request_id, Place { segment: number, offset: segment.bytes, bytes });
                segment.newest_s = segment.newest_s.max(read.at);
                segment.requests.push(read.request_id);
            }
            Err(_) => damaged += 1,
        }
        segment.bytes += bytes as u64;
    }
    state.segments.push_back(segment);
    Ok(damaged)
}

fn segment_path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("proofs-{number:012}.jsonl"))
}

fn segment_number(name: &str) -> Option<u64> {
    name.strip_prefix("proofs-")?.strip_suffix(".jsonl")?.parse().ok()
}

/// The disk failed.
#[derive(Debug, Error)]
#[error("proofs in {}: {error}", path.display())]
pub struct ProofStoreError {
    /// Which file or folder.
    pub path: PathBuf,
    /// What the system said.
    pub error: io::Error,
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ProofLimits = ProofLimits { bytes_max: 64 << 10, keep_s: 100 };

    fn windows(count: u32) -> Vec<Window> {
        (0..count).map(|index| Window { index, first_position: 32 * index, count: 32, digest: B256::repeat_byte(index as u8) }).collect()
    }

    fn id(seed: u64) -> B256 {
        B256::left_padding_from(&seed.to_be_bytes())
    }

    fn bytes_on_disk(folder: &Path) -> u64 {
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
    }

    #[test]
    fn what_was_added_is_served_also_after_a_restart_and_a_torn_line() {
        let folder = tempfile::tempdir().unwrap();
        let store = ProofStore::open(folder.path(), LIMITS, 0).unwrap();
        store.add(id(1), &windows(3), 10).unwrap();
        store.add(id(2), &windows(4), 11).unwrap();
        store.add(id(1), &windows(5), 12).unwrap();
        drop(store);
        let newest = segment_path(folder.path(), 0);
        let length = std::fs::metadata(&newest).unwrap().len();
        OpenOptions::new().write(true).open(&newest).unwrap().write_all_at(b"{\"request_id\":\"0x00", length).unwrap();

        let store = ProofStore::open(folder.path(), LIMITS, 12).unwrap();
        store.add(id(3), &windows(1), 13).unwrap();
        assert_eq!(store.get(&id(1)).unwrap(), Some(windows(5)));
        assert_eq!(store.get(&id(2)).unwrap(), Some(windows(4)));
        assert_eq!(store.get(&id(3)).unwrap(), Some(windows(1)));
        assert_eq!(store.get(&id(4)).unwrap(), None);
    }

    #[test]
    fn the_oldest_go_first_and_the_folder_stays_within_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let store = ProofStore::open(folder.path(), LIMITS, 0).unwrap();
        for seed in 0..500 {
            store.add(id(seed), &windows(4), seed / 10).unwrap();
            assert!(bytes_on_disk(folder.path()) <= LIMITS.bytes_max, "{}", bytes_on_disk(folder.path()));
        }
        assert_eq!(store.get(&id(0)).unwrap(), None);
        assert_eq!(store.get(&id(499)).unwrap(), Some(windows(4)));
        let kept = store.len();
        assert!((50..500).contains(&kept), "{kept}");
        drop(store);
        assert_eq!(ProofStore::open(folder.path(), LIMITS, 49).unwrap().len(), kept);
        assert_eq!(ProofStore::open(folder.path(), LIMITS, 151).unwrap().len(), 0);
    }

    #[test]
    fn a_disk_that_fails_is_an_error_and_the_store_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let store = ProofStore::open(folder.path(), LIMITS, 0).unwrap();
        std::fs::remove_dir_all(folder.path()).unwrap();
        assert!(store.add(id(1), &windows(1), 1).is_err());
        std::fs::create_dir(folder.path()).unwrap();
        store.add(id(2), &windows(1), 1).unwrap();
        assert_eq!((store.get(&id(1)).unwrap(), store.get(&id(2)).unwrap()), (None, Some(windows(1))));
    }
}
