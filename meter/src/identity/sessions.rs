//! Where somebody is signed in: the open sessions of a user and of the wallet behind it, and their end from any of them.

use std::fmt;
use std::str::FromStr;

use http::HeaderMap;
use thiserror::Error;

use super::authenticate::{AuthError, Caller};
use super::secret::SecretHash;
use super::store::SessionRow;
use super::{Identity, IdentityError};

/// Bytes of a session's digest that name it to its owner; nobody gets from them to the secret.
const ID_BYTES: usize = 8;

/// Names a session among those of one account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionId([u8; ID_BYTES]);

impl SessionId {
    fn of(hash: &SecretHash) -> Self {
        let mut id = [0; ID_BYTES];
        id.copy_from_slice(&hash[..ID_BYTES]);
        Self(id)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sess_{:016x}", u64::from_be_bytes(self.0))
    }
}

impl FromStr for SessionId {
    type Err = SessionError;

    fn from_str(text: &str) -> Result<Self, SessionError> {
        let is_digits = |digits: &&str| digits.len() == 2 * ID_BYTES && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let digits = text.strip_prefix("sess_").filter(is_digits).ok_or(SessionError::NotFound)?;
        u64::from_str_radix(digits, 16).map(|number| Self(number.to_be_bytes())).map_err(|_| SessionError::NotFound)
    }
}

/// Why a session was not ended.
#[derive(Debug, Error)]
pub enum SessionError {
    /// Whoever asks may not.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// Never there, another's, or over.
    #[error("no open session of yours has this id; GET /v1/sessions lists them")]
    NotFound,
}

impl From<IdentityError> for SessionError {
    fn from(error: IdentityError) -> Self {
        Self::Auth(error.into())
    }
}

/// An open session as its owner sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionFacts {
    /// Names it.
    pub id: SessionId,
    /// By a passkey or a signature, Unix seconds.
    pub created_at: u64,
    /// To about a minute, Unix seconds.
    pub last_used_at: u64,
    /// When it ends unless it is used, Unix seconds.
    pub expires_at: u64,
    /// Whether it is the one that asks.
    pub is_current: bool,
}

impl Identity {
    /// The open sessions of whoever calls, the last used one first. Errors as [`Identity::authenticate`], and on an API key.
    pub async fn open_sessions(&self, headers: &HeaderMap) -> Result<Vec<SessionFacts>, AuthError> {
        let current = self.presented_session(headers)?;
        let rows = self.rows_of_caller(headers).await?;
        let seen = rows.iter().map(|row| SessionFacts {
            id: SessionId::of(&row.secret_hash),
            created_at: row.created_at,
            last_used_at: row.last_used_at,
            expires_at: self.ends_at(row),
            is_current: row.secret_hash == current,
        });
        Ok(seen.collect())
    }

    /// Ends one session of whoever calls. Errors on one that is another's or over.
    pub async fn end_session(&self, headers: &HeaderMap, id: SessionId) -> Result<(), SessionError> {
        let rows = self.rows_of_caller(headers).await?;
        let row = rows.iter().find(|row| SessionId::of(&row.secret_hash) == id).ok_or(SessionError::NotFound)?;
        self.end(&row.secret_hash).await?;
        tracing::info!(session = %id, "session ended from another");
        Ok(())
    }

    /// Ends every session of whoever calls but the one that calls; how many those were.
    pub async fn end_other_sessions(&self, headers: &HeaderMap) -> Result<usize, AuthError> {
        let current = self.presented_session(headers)?;
        let rows = self.rows_of_caller(headers).await?;
        let others: Vec<&SessionRow> = rows.iter().filter(|row| row.secret_hash != current).collect();
        for row in &others {
            self.end(&row.secret_hash).await?;
        }
        tracing::info!(ended = others.len(), "other sessions ended");
        Ok(others.len())
    }

    async fn rows_of_caller(&self, headers: &HeaderMap) -> Result<Vec<SessionRow>, AuthError> {
        // From the store and not from memory: whoever was signed out a moment ago sees nothing.
        let Caller { user, wallet, .. } = self.current_session(headers).await?.caller;
        let now_s = self.now_s();
        let mut rows = self.inner.store.sessions_of(user, wallet).await?;
        rows.retain(|row| now_s < self.ends_at(row));
        Ok(rows)
    }

    /// Ends a session at once; whether there was one.
    pub(super) async fn end(&self, hash: &SecretHash) -> Result<bool, IdentityError> {
        let removed = self.inner.store.remove_session(hash).await?;
        self.inner.cache.forget(hash);
        Ok(removed)
    }
}
