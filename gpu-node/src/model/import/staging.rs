//! A folder beside the destination that disappears unless it is moved there whole.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::ImportError;

/// Dropped before it was moved, it removes what was written.
pub(super) struct Staging {
    pub(super) dir: PathBuf,
    done: bool,
}

impl Staging {
    pub(super) fn beside(dest: &Path) -> Result<Self, ImportError> {
        let parent = parent_of(dest);
        fs::create_dir_all(parent).map_err(ImportError::io(parent))?;
        let dir = beside(dest, "importing");
        let _ = fs::remove_dir_all(&dir); // left by a killed import of the same process id
        fs::create_dir(&dir).map_err(ImportError::io(&dir))?;
        Ok(Self { dir, done: false })
    }

    /// Makes the files durable, then renames; the destination is absent, whole as it was, or whole as it will be. What
    /// stands at the destination is removed: the caller has looked at it.
    pub(super) fn move_to(mut self, dest: &Path) -> Result<(), ImportError> {
        for entry in fs::read_dir(&self.dir).map_err(ImportError::io(&self.dir))? {
            let path = entry.map_err(ImportError::io(&self.dir))?.path();
            File::open(&path).and_then(|file| file.sync_all()).map_err(ImportError::io(&path))?;
        }
        let former = beside(dest, "replaced");
        let _ = fs::remove_dir_all(&former);
        let replaces = dest.exists();
        if replaces {
            fs::rename(dest, &former).map_err(ImportError::io(dest))?;
        }
        if let Err(error) = fs::rename(&self.dir, dest) {
            if replaces {
                let _ = fs::rename(&former, dest);
            }
            return Err(ImportError::io(dest)(error));
        }
        self.done = true;
        let parent = parent_of(dest);
        File::open(parent).and_then(|dir| dir.sync_all()).map_err(ImportError::io(parent))?;
        if replaces {
            fs::remove_dir_all(&former).map_err(ImportError::io(&former))?;
        }
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.done {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// The folder that holds `path`.
pub(super) fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn beside(dest: &Path, word: &str) -> PathBuf {
    let name = dest.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    parent_of(dest).join(format!(".{name}.{word}-{}", std::process::id()))
}
