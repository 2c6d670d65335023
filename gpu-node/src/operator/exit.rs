//! Exit codes beyond 0 (done), 1 (failed) and 2 (usage).

use thiserror::Error;

/// A failure whose kind a script can act on.
#[derive(Debug, Error)]
pub enum Problem {
    /// Code 3: somebody has to do something first, such as fund an account.
    #[error("{0}")]
    NeedsAction(String),
    /// Code 4: the chain, the meter or the running node does not answer.
    #[error("{0}")]
    Unavailable(String),
}

impl Problem {
    /// What the process exits with.
    pub fn code(&self) -> u8 {
        match self {
            Self::NeedsAction(_) => 3,
            Self::Unavailable(_) => 4,
        }
    }
}
