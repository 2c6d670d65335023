//! API keys: made by a session, shown once, listed by their prefix, revoked for ever.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Serialize, Serializer};
use thiserror::Error;
use uuid::Uuid;
use wire::{Address, Credits};

use super::secret::{self, Kind, Secret};
use super::store::NewKeyRow;
use super::{Identity, IdentityError};

/// Longest name of a key, characters.
const NAME_MAX_CHARS: usize = 64;
/// Most models that one key names.
const MODELS_MAX: usize = 64;
/// Longest life of a key that ends by itself, seconds: ten years. A later end is a slip of the unit.
const LIFETIME_MAX_S: u64 = 10 * 366 * 24 * 3600;

/// Name of an API key in replies and in the ledger; not a secret. Written `key_` and 32 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub Uuid);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key_{}", self.0.simple())
    }
}

impl FromStr for KeyId {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let digits = text.strip_prefix("key_").filter(|digits| digits.len() == 32);
        digits.and_then(|digits| Uuid::try_parse(digits).ok()).map(Self).ok_or(KeyError::NotFound)
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What a key may do; without a word, all that its wallet's account may, for ever.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyLimits {
    /// The most it may spend in all.
    pub credits: Option<Credits>,
    /// When it ends, Unix seconds.
    pub expires_at: Option<u64>,
    /// The models that it may use, by id.
    pub models: Option<Arc<[String]>>,
}

impl KeyLimits {
    /// Errors on limits under which no call could ever be made, and on an end that is no time of a key's life.
    fn check(&self, now_s: u64) -> Result<(), KeyError> {
        if self.credits == Some(Credits::ZERO) {
            return Err(KeyError::ZeroLimit);
        }
        if let Some(expires_at) = self.expires_at
            && !(1..=LIFETIME_MAX_S).contains(&expires_at.saturating_sub(now_s))
        {
            return Err(KeyError::Expiry { expires_at, now_s });
        }
        match self.models.as_ref().map(|models| models.len()) {
            Some(count) if !(1..=MODELS_MAX).contains(&count) => Err(KeyError::Models { count }),
            _ => Ok(()),
        }
    }
}

/// A key as its owner sees it; the key itself is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// Its name in replies.
    pub id: KeyId,
    /// The owner's words.
    pub name: String,
    /// How the key begins.
    pub prefix: String,
    /// What it may do.
    pub limits: KeyLimits,
    /// Unix seconds.
    pub created_at: u64,
    /// Unix seconds, to the minute.
    pub last_used_at: Option<u64>,
    /// Unix seconds.
    pub revoked_at: Option<u64>,
}

/// A key that was just made: the only moment at which it can be read.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// What the list will show.
    pub facts: ApiKey,
    /// The key.
    pub key: Secret,
}

impl Identity {
    /// Makes a key for `wallet`. Errors on an empty or over-long name, limits under which no call could be made, or too many live keys.
    /// Whether the models are served is the caller's to check.
    pub async fn create_key(&self, wallet: Address, name: &str, limits: KeyLimits) -> Result<NewKey, KeyError> {
        let name = name.trim();
        let chars = name.chars().count();
        if chars == 0 || chars > NAME_MAX_CHARS || name.chars().any(char::is_control) {
            return Err(KeyError::Name { chars, max: NAME_MAX_CHARS });
        }
        let now_s = self.now_s();
        limits.check(now_s)?;

        let key = secret::mint(Kind::ApiKey)?;
        let facts = ApiKey {
            id: KeyId(Uuid::now_v7()),
            name: name.to_owned(),
            prefix: secret::shown_prefix(Kind::ApiKey, &key),
            limits,
            created_at: now_s,
            last_used_at: None,
            revoked_at: None,
        };

        let max = self.inner.settings.keys_per_wallet_max;
        let row = NewKeyRow { wallet, secret_hash: secret::hash(key.reveal()), key: &facts };
        if !self.inner.store.add_key(&row, max).await.map_err(KeyError::from)? {
            return Err(KeyError::TooMany { max });
        }
        tracing::info!(key_id = %facts.id, %wallet, "API key created");
        Ok(NewKey { facts, key })
    }

    /// The keys of `wallet`, newest first; revoked and expired ones stay for a month.
    pub async fn list_keys(&self, wallet: Address) -> Result<Vec<ApiKey>, KeyError> {
        Ok(self.inner.store.keys_of(wallet).await?)
    }

    /// Ends a key of `wallet`; here at once, at other meters within the cache's seconds. Again: the same. Errors when the wallet has no such key.
    pub async fn revoke_key(&self, wallet: Address, id: KeyId) -> Result<(), KeyError> {
        let hash = self.inner.store.revoke_key(wallet, id, self.now_s()).await?.ok_or(KeyError::NotFound)?;
        self.inner.cache.forget(&hash);
        tracing::info!(key_id = %id, %wallet, "API key revoked");
        Ok(())
    }
}

/// Why a key was not made, listed or revoked.
#[derive(Debug, Error)]
pub enum KeyError {
    /// Empty, too long, or not printable.
    #[error("a key's name has 1 to {max} printable characters; this one has {chars}")]
    Name {
        /// Characters given.
        chars: usize,
        /// Most allowed.
        max: usize,
    },
    /// Could never be used.
    #[error("a key with a limit of 0 credits could make no call; leave limit_credits out for a key without a limit of its own")]
    ZeroLimit,
    /// Over already, or further away than a key may live.
    #[error(
        "expires_at is {expires_at} and it is {now_s} (Unix seconds); a key ends at most {LIFETIME_MAX_S} s from now, or leave expires_at out for a \
         key that lasts until it is revoked"
    )]
    Expiry {
        /// As asked.
        expires_at: u64,
        /// The meter's clock.
        now_s: u64,
    },
    /// None, or too many.
    #[error("models names {count} models; name 1 to {MODELS_MAX}, or leave it out for a key for all models")]
    Models {
        /// How many.
        count: usize,
    },
    /// Enough keys.
    #[error("this wallet has {max} live API keys, the most allowed; revoke one first")]
    TooMany {
        /// Most allowed.
        max: u32,
    },
    /// Not this wallet's.
    #[error("this wallet has no API key of that id; GET /v1/keys lists them")]
    NotFound,
    /// The store failed.
    #[error("the keys could not be read or written")]
    Unavailable(#[from] IdentityError),
}

impl KeyError {
    /// The machine-readable code of the reply.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Name { .. } => "invalid_name",
            Self::ZeroLimit => "invalid_limit",
            Self::Expiry { .. } => "invalid_expiry",
            Self::Models { .. } => "invalid_models",
            Self::TooMany { .. } => "too_many_keys",
            Self::NotFound => "key_not_found",
            Self::Unavailable(_) => "unavailable",
        }
    }
}
