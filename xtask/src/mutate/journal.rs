//! What became of each mutant, kept on disk so that a run that was stopped goes on where it was.
//!
//! A kill counts as long as the contracts are the same: another test can only kill more. A survivor is tried again as soon
//! as a test changed. `--fresh` forgets everything; a figure to publish comes from such a run.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Fate, Task};

/// One line of the journal.
#[derive(Debug, Deserialize, Serialize)]
struct Entry {
    /// Digest of all contracts, and of the mutant's place and replacement.
    mutant: String,
    /// Digest of the tests that it met.
    tests: String,
    fate: Fate,
}

/// The journal of one state of contracts and tests.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    contracts: String,
    tests: String,
    known: HashMap<String, Fate>,
}

impl Journal {
    /// Opens or creates the journal at `path`; what does not count any more is passed over.
    pub(super) fn open(path: &Path, contracts: String, tests: String, fresh: bool) -> Result<Self> {
        let folder = path.parent().context("a journal has a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let written = if fresh { String::new() } else { fs::read_to_string(path).unwrap_or_default() };
        // The last line may have been cut by a crash.
        let entries = written.lines().filter_map(|line| serde_json::from_str::<Entry>(line).ok());
        let known =
            entries.filter(|entry| entry.tests == tests || entry.fate != Fate::Survived).map(|entry| (entry.mutant, entry.fate)).collect();
        let file = OpenOptions::new().create(true).append(true).open(path);
        let mut file = file.with_context(|| format!("cannot write {}", path.display()))?;
        if fresh {
            file.set_len(0).with_context(|| format!("cannot empty {}", path.display()))?;
        } else if !written.is_empty() && !written.ends_with('\n') {
            writeln!(file).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(Self { file, contracts, tests, known })
    }

    /// What became of it in an earlier run, if that still counts.
    pub(super) fn fate(&self, task: &Task) -> Option<Fate> {
        self.known.get(&self.key(task)).copied()
    }

    /// Writes one line, so that a stop loses at most the mutant in work.
    pub(super) fn record(&mut self, task: &Task, fate: Fate) -> Result<()> {
        let entry = Entry { mutant: self.key(task), tests: self.tests.clone(), fate };
        let mut line = serde_json::to_string(&entry).context("a journal's entry is JSON")?;
        line.push('\n');
        self.file.write_all(line.as_bytes()).context("cannot write the journal of mutants")
    }

    fn key(&self, task: &Task) -> String {
        let span = &task.mutant.span;
        digest(&[
            self.contracts.as_bytes(),
            task.file.to_string_lossy().as_bytes(),
            format!("{}..{}", span.start, span.end).as_bytes(),
            task.mutant.replacement.as_bytes(),
        ])
    }
}

/// SHA-256 in hex over parts and their lengths.
pub(super) fn digest(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hex::encode(hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::super::mutants;
    use super::*;

    fn task() -> Task {
        let source = "contract C {\n    function f() external {\n        if (a < b) return;\n    }\n}\n";
        Task { file: "contracts/C.sol".into(), mutant: mutants(source).remove(0) }
    }

    fn open(path: &Path, contracts: &str, tests: &str, fresh: bool) -> Journal {
        Journal::open(path, contracts.to_owned(), tests.to_owned(), fresh).unwrap()
    }

    #[test]
    fn a_kill_outlives_other_tests_and_a_survivor_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mutate/journal.jsonl");
        for (fate, after) in [(Fate::Killed, Some(Fate::Killed)), (Fate::Survived, None)] {
            open(&path, "contracts", "tests", true).record(&task(), fate).unwrap();
            assert_eq!(open(&path, "contracts", "tests", false).fate(&task()), Some(fate));
            assert_eq!(open(&path, "contracts", "more tests", false).fate(&task()), after);
            assert_eq!(open(&path, "other contracts", "tests", false).fate(&task()), None);
        }
    }

    #[test]
    fn a_line_cut_by_a_crash_is_passed_over_and_spoils_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        fs::write(&path, "{\"mutant\":\"0").unwrap();
        open(&path, "contracts", "tests", false).record(&task(), Fate::Killed).unwrap();
        assert_eq!(open(&path, "contracts", "tests", false).fate(&task()), Some(Fate::Killed));
    }

    #[test]
    fn a_fresh_run_forgets() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        open(&path, "contracts", "tests", false).record(&task(), Fate::Killed).unwrap();
        assert_eq!(open(&path, "contracts", "tests", true).fate(&task()), None);
        assert_eq!(open(&path, "contracts", "tests", false).fate(&task()), None);
    }
}
