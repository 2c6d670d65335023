//! Reading one TOML file into a process's own config struct.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use thiserror::Error;

/// Largest config file, bytes.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// Reads `path` as TOML. The struct should be `#[serde(deny_unknown_fields)]`, so that a misspelt setting is an error and
/// not a default.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let read = |error| ConfigError::Read { path: path.to_owned(), error };
    let length_bytes = std::fs::metadata(path).map_err(read)?.len();
    if length_bytes > CONFIG_BYTES_MAX {
        return Err(ConfigError::TooLarge { path: path.to_owned(), length_bytes });
    }
    let text = std::fs::read_to_string(path).map_err(read)?;
    toml::from_str(&text).map_err(|error| ConfigError::Parse { path: path.to_owned(), error: Box::new(error) })
}

/// `path` as it stands, or below the config file's folder when it is relative, so that a config works from any folder.
pub fn beside(config: &Path, path: &Path) -> PathBuf {
    if path.is_absolute() { path.to_owned() } else { config.parent().unwrap_or(Path::new(".")).join(path) }
}

/// Why a config file can't be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// Missing or unreadable.
    #[error("config file {}: {error}; name another with --config", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// Not a config file.
    #[error("config file {} has {length_bytes} bytes, at most {CONFIG_BYTES_MAX} are read", path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// Its size.
        length_bytes: u64,
    },
    /// Not TOML, or not ours.
    #[error("config file {}: {error}", path.display())]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Where and what.
        error: Box<toml::de::Error>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        #[allow(dead_code, reason = "only parsed")]
        period_ms: u64,
    }

    #[test]
    fn a_misspelt_setting_is_named_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sample.toml");
        std::fs::write(&path, "period_ms = 1\nperiode_ms = 2\n").unwrap();
        let error = load::<Sample>(&path).unwrap_err().to_string();
        assert!(error.contains("periode_ms") && error.contains("line 2"), "{error}");
    }

    #[test]
    fn a_missing_file_names_itself_and_the_flag() {
        let error = load::<Sample>(Path::new("no/such.toml")).unwrap_err().to_string();
        assert!(error.contains("no/such.toml") && error.contains("--config"), "{error}");
    }
}
