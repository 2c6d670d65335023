//! Signed receipts that no meter has acknowledged: the operator's pay, kept on disk until it is booked.
//!
//! One append-only journal, a JSON object a line: `add` is on disk (fsync) before the receipt leaves the node; `ack` is
//! not synced, because an acknowledgement that is lost only means that the receipt is sent once more. A torn last line is
//! an append that never returned, so it is dropped; damage anywhere else is an error, never a silent loss.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use wire::receipt::ServiceReceipt;
use wire::{B256, Bytes};

const JOURNAL: &str = "receipts.journal";
const REWRITTEN: &str = "receipts.journal.new";
const LOCK: &str = "receipts.lock";
/// Longest line that is read, bytes; a receipt's has about 1,200.
const LINE_BYTES_MAX: u64 = 16 << 10;
/// Lines of settled receipts before the journal is rewritten.
const DEAD_LINES_MAX: usize = 4_096;

/// A receipt that is kept until its meter acknowledges it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// Link address of the meter that sent the job.
    pub meter: String,
    /// What was signed.
    pub receipt: ServiceReceipt,
    /// By the node key.
    pub signature: Bytes,
}

/// The receipts on disk. One process at a time: the folder is locked while this lives.
#[derive(Debug)]
pub struct Outbox {
    folder: PathBuf,
    capacity: usize,
    state: Mutex<State>,
    _lock: File,
}

#[derive(Debug)]
struct State {
    journal: File,
    kept: HashMap<B256, (u64, Kept)>,
    next_index: u64,
    dead_lines: usize,
    /// Set when an append failed half-way and could not be undone: nothing may follow a torn line.
    broken: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Add(Box<Kept>),
    Ack(B256),
}

impl Outbox {
    /// Opens the journal in `folder` (made if absent) for at most `capacity` receipts. Errors when another process has it,
    /// or when a line other than the last is damaged.
    pub fn open(folder: &Path, capacity: usize) -> Result<Self, OutboxError> {
        let at = |error| OutboxError::Io { path: folder.to_owned(), error };
        std::fs::create_dir_all(folder).map_err(at)?;
        let lock = private().create(true).truncate(false).write(true).open(folder.join(LOCK)).map_err(at)?;
        lock.try_lock().map_err(|_| OutboxError::Locked { folder: folder.to_owned() })?;
        let path = folder.join(JOURNAL);
        let mut journal = private().create(true).truncate(false).read(true).write(true).open(&path).map_err(at)?;
        let (kept, lines) = replay(&mut journal, &path)?;
        let state = State { next_index: lines as u64, dead_lines: lines - kept.len(), journal, kept, broken: false };
        let outbox = Self { folder: folder.to_owned(), capacity, state: Mutex::new(state), _lock: lock };
        sync_folder(folder).map_err(at)?;
        Ok(outbox)
    }

    /// Keeps `kept`, in place of an earlier receipt of the same request; on disk when this returns. Blocks on the disk.
    /// Errors when the outbox is full or the disk fails; the receipt must not leave the node then.
    pub fn add(&self, kept: Kept) -> Result<(), OutboxError> {
        let mut state = self.state();
        let id = kept.receipt.request_id;
        let known = state.kept.contains_key(&id);
        if !known && state.kept.len() >= self.capacity {
            return Err(OutboxError::Full { kept: state.kept.len(), capacity: self.capacity });
        }
        self.append(&mut state, &Line::Add(Box::new(kept.clone())), true)?;
        let index = state.next_index;
        state.next_index += 1;
        state.dead_lines += usize::from(known);
        state.kept.insert(id, (index, kept));
        Ok(())
    }

    /// Forgets the receipt of `request_id`; returns whether there was one. Rewrites the journal when most of it is dead.
    pub fn acknowledge(&self, request_id: &B256) -> Result<bool, OutboxError> {
        let mut state = self.state();
        if !state.kept.contains_key(request_id) {
            return Ok(false);
        }
        self.append(&mut state, &Line::Ack(*request_id), false)?;
        state.kept.remove(request_id);
        state.dead_lines += 2;
        if state.dead_lines > DEAD_LINES_MAX && state.dead_lines > 2 * state.kept.len() {
            self.rewrite(&mut state)?;
        }
        Ok(true)
    }

    /// Receipts for which `wanted` says yes, by the address of their meter; oldest first.
    pub fn pending(&self, wanted: impl Fn(&str) -> bool) -> Vec<Kept> {
        let state = self.state();
        let mut pending: Vec<&(u64, Kept)> = state.kept.values().filter(|(_, kept)| wanted(&kept.meter)).collect();
        pending.sort_unstable_by_key(|(index, _)| *index);
        pending.into_iter().map(|(_, kept)| kept.clone()).collect()
    }

    /// How many receipts wait.
    pub fn len(&self) -> usize {
        self.state().kept.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether another receipt fits beside `promised` ones that are being served.
    pub fn has_room_for(&self, promised: usize) -> bool {
        self.len().saturating_add(promised) <= self.capacity
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The map changes only after the journal did, by single inserts and removals.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append(&self, state: &mut State, line: &Line, sync: bool) -> Result<(), OutboxError> {
        let at = |error| OutboxError::Io { path: self.folder.join(JOURNAL), error };
        if state.broken {
            return Err(at(io::Error::other("an earlier write failed; restart the node when the disk is well")));
        }
        let bytes = encode(line).map_err(at)?;
        let end = state.journal.stream_position().map_err(at)?;
        let journal = &mut state.journal;
        let written = journal.write_all(&bytes).and_then(|()| if sync { journal.sync_data() } else { Ok(()) });
        written.map_err(|error| {
            let undone = state.journal.set_len(end).and_then(|()| state.journal.seek(SeekFrom::Start(end)));
            state.broken = undone.is_err();
            at(error)
        })
    }

    fn rewrite(&self, state: &mut State) -> Result<(), OutboxError> {
        let path = self.folder.join(REWRITTEN);
        let at = |error| OutboxError::Io { path: path.clone(), error };
        let mut live: Vec<&(u64, Kept)> = state.kept.values().collect();
        live.sort_unstable_by_key(|(index, _)| *index);
        let mut journal = private().create(true).truncate(true).read(true).write(true).open(&path).map_err(at)?;
        for (_, kept) in live {
            journal.write_all(&encode(&Line::Add(Box::new(kept.clone()))).map_err(at)?).map_err(at)?;
        }
        journal.sync_all().map_err(at)?;
        std::fs::rename(&path, self.folder.join(JOURNAL)).map_err(at)?;
        sync_folder(&self.folder).map_err(at)?;
        state.journal = journal;
        state.dead_lines = 0;
        Ok(())
    }
}

type Replayed = (HashMap<B256, (u64, Kept)>, usize);

/// Reads the journal from the start and cuts a torn last line; the file stands at its end afterwards.
fn replay(journal: &mut File, path: &Path) -> Result<Replayed, OutboxError> {
    let at = |error| OutboxError::Io { path: path.to_owned(), error };
    let length = journal.metadata().map_err(at)?.len();
    let mut reader = BufReader::new(&*journal);
    let (mut kept, mut lines, mut good_bytes, mut line) = (HashMap::new(), 0usize, 0u64, Vec::new());
    loop {
        line.clear();
        let read = io::Read::take(&mut reader, LINE_BYTES_MAX).read_until(b'\n', &mut line).map_err(at)? as u64;
        if read == 0 || (line.last() != Some(&b'\n') && good_bytes + read == length) {
            break;
        }
        let damaged = |what: String| OutboxError::Damaged { path: path.to_owned(), line: lines + 1, what };
        match serde_json::from_slice(&line).map_err(|error| damaged(error.to_string()))? {
            Line::Add(receipt) => {
                kept.insert(receipt.receipt.request_id, (lines as u64, *receipt));
            }
            Line::Ack(request_id) => {
                kept.remove(&request_id);
            }
        }
        lines += 1;
        good_bytes += read;
    }
    journal.set_len(good_bytes).map_err(at)?;
    journal.seek(SeekFrom::Start(good_bytes)).map_err(at)?;
    Ok((kept, lines))
}

fn encode(line: &Line) -> io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Why a receipt can't be kept.
#[derive(Debug, Error)]
pub enum OutboxError {
    /// The disk.
    #[error("receipts in {}: {error}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Two nodes, one folder.
    #[error("another gpu-node uses {}; stop it, or give this one its own `state_dir`", folder.display())]
    Locked {
        /// Which folder.
        folder: PathBuf,
    },
    /// Not what was written.
    #[error("{} is damaged in line {line}: {what}; move it aside to start without its receipts, and keep it", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        what: String,
    },
    /// No meter acknowledges.
    #[error("{kept} receipts wait for acknowledgement, at most {capacity} are kept; no meter has taken them")]
    Full {
        /// How many wait.
        kept: usize,
        /// The limit.
        capacity: usize,
    },
}
