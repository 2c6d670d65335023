//! Identity: who is calling, and on whose credits. Wallets sign in, sessions and API keys follow from that.
//!
//! In reading order: `challenge` → `sign_in` → `authenticate`; `keys` beside them.
//!
//! Invariants of absence: no row, log line or `Debug` text holds a secret; no password exists; nothing here moves money.
//! Secrets come from the operating system's randomness and from nowhere else, so that no caller can hand in a weak source.

mod authenticate; // headers → Caller
mod cache; // five seconds of memory, forgotten at once on revocation
mod ceremonies; // passkey ceremonies that have begun
mod contract_wallet; // EIP-1271
mod cookie; // the session cookie: its name, flags and reading
mod keys; // API keys: create, list, revoke
mod mirrored; // the ledger: accounts of wallets, spending of keys
mod passkeys; // registration, sign-in, list, removal
mod secret; // the form of API keys and session secrets
mod sessions; // where somebody is signed in
mod sign_in; // challenge, signature → session
mod store; // challenges, sessions, keys; SQLite and PostgreSQL

#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use async_trait::async_trait;
use daemon::clock::SharedClock;
use serde::Deserialize;
use thiserror::Error;
use wire::{AccountId, Address};

use crate::database::DatabaseError;

pub use authenticate::{ApiKeyFacts, AuthError, Caller, CurrentSession, is_of_own_page};

pub use contract_wallet::{ContractWalletError, ContractWallets, RpcContractWallets, Verdict};
pub use cookie::SessionCookie;
pub use keys::{ApiKey, KeyError, KeyId, KeyLimits, NewKey};
pub use passkeys::{Ceremony, PasskeyError, PasskeyFacts, UserId};
pub use secret::Secret;
pub use sessions::{SessionError, SessionFacts, SessionId};
pub use sign_in::{Challenge, Session, SignInError, SignInKind, SignInRequest};

use cache::Cache;
use ceremonies::Ceremonies;
use store::Store;
use webauthn_rs::Webauthn;

/// Lifetimes and bounds of identity; the configuration's `[identity]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IdentitySettings {
    /// How long a challenge may wait for its signature, seconds.
    pub challenge_lifetime_s: u64,
    /// Challenges kept at most; above it the oldest go, so a flood costs others nothing until it outruns a person's signing.
    pub challenges_max: u32,
    /// How long a session lives, seconds.
    pub session_lifetime_s: u64,
    /// How long a session may rest unused, seconds.
    pub session_idle_s: u64,
    /// Sessions of one wallet at most; above it the oldest end.
    pub sessions_per_wallet_max: u32,
    /// Live API keys of one wallet at most.
    pub keys_per_wallet_max: u32,
    /// How long an accepted credential is believed without asking the store, seconds; what another meter's revocation may take to arrive.
    pub cache_s: u64,
    /// Passkeys of one user at most.
    pub passkeys_per_user_max: u32,
    /// Domain of passkeys (WebAuthn's rp id): the page's host, or a parent domain. Never an IP address. Changing it makes every passkey
    /// useless.
    pub passkey_domain: String,
    /// Origin of the page, such as `https://chat.example.com`. Of `localhost` any port counts.
    pub passkey_origin: String,
    /// How long after a passkey or a wallet's signature a session may change who gets in, seconds.
    pub fresh_s: u64,
    /// Whether people reach the meter over https: the cookie is then `Secure` and named `__Host-…`.
    pub https: bool,
}

impl Default for IdentitySettings {
    fn default() -> Self {
        Self {
            challenge_lifetime_s: 600,
            challenges_max: 65_536,
            session_lifetime_s: 7 * 24 * 3600,
            session_idle_s: 24 * 3600,
            sessions_per_wallet_max: 32,
            keys_per_wallet_max: 100,
            passkeys_per_user_max: 16,
            passkey_domain: "localhost".to_owned(),
            passkey_origin: "http://localhost".to_owned(),
            cache_s: 5,
            fresh_s: 600,
            https: false,
        }
    }
}

/// Where the account of a wallet is looked up: the ledger's mirror of the chain.
#[async_trait]
pub trait Accounts: Send + Sync {
    /// The account that the vault opened for `wallet`; `None` before its first deposit or authorization.
    async fn account_of_wallet(&self, wallet: Address) -> Result<Option<AccountId>, Box<dyn std::error::Error + Send + Sync>>;
}

/// Sessions, API keys and sign-in of one meter. Clones share everything.
#[derive(Clone)]
pub struct Identity {
    inner: Arc<Inner>,
}

struct Inner {
    settings: IdentitySettings,
    clock: SharedClock,
    store: Box<dyn Store>,
    cache: Cache,
    accounts: Option<Arc<dyn Accounts>>,
    contract_wallets: Option<Arc<dyn ContractWallets>>,
    challenges_issued: AtomicU64,
    webauthn: Webauthn,
    ceremonies: Ceremonies,
}

/// What [`Identity::open`] connects to besides its own tables.
#[derive(Clone, Default)]
pub struct Neighbours {
    /// The ledger's mirror; without it every caller has no account.
    pub accounts: Option<Arc<dyn Accounts>>,
    /// The chain, for wallets that are contracts; without it only plain keys sign in.
    pub contract_wallets: Option<Arc<dyn ContractWallets>>,
}

impl Identity {
    /// Opens the store at `database_url` (`sqlite:` or `postgres:`) and brings its tables up to date.
    /// Errors on another scheme, an unreachable database, or a migration that does not fit.
    pub async fn open(
        database_url: &str,
        settings: IdentitySettings,
        clock: SharedClock,
        neighbours: Neighbours,
    ) -> Result<Self, IdentityError> {
        let store = store::open(database_url).await?;
        let webauthn = passkeys::relying_party(&settings)?;
        let inner = Inner {
            cache: Cache::new(settings.cache_s),
            settings,
            clock,
            store,
            accounts: neighbours.accounts,
            contract_wallets: neighbours.contract_wallets,
            challenges_issued: AtomicU64::new(0),
            webauthn,
            ceremonies: Ceremonies::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The session cookie's name and flags under these settings.
    pub fn cookie(&self) -> SessionCookie {
        SessionCookie { https: self.inner.settings.https, lifetime_s: self.inner.settings.session_lifetime_s }
    }

    fn now_s(&self) -> u64 {
        self.inner.clock.now_s()
    }
}

/// What fails beneath a call, through no fault of the caller's; its text is for the log, not for the reply.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// The database could not be opened.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The database refused or was not reached.
    #[error("identity's store failed: {0}")]
    Store(#[from] sqlx::Error),
    /// The settings of passkeys name no site.
    #[error(
        "identity.passkey_origin is `{origin}` and identity.passkey_domain is `{domain}`: {reason}; the origin is a URL whose host is that domain or below it, and no IP address"
    )]
    Passkeys {
        /// As set.
        origin: String,
        /// As set.
        domain: String,
        /// What is wrong.
        reason: String,
    },
    /// A passkey's row can't be written or read.
    #[error("a passkey can't be stored or read: {0}")]
    Passkey(serde_json::Error),
    /// The models of a key can't be written or read.
    #[error("the models of an API key can't be stored or read: {0}")]
    KeyModels(serde_json::Error),
    /// A row is not of the form that identity writes.
    #[error("table {table}: column {column} holds what identity never writes; restore it from a backup")]
    Row {
        /// Table.
        table: &'static str,
        /// Column.
        column: &'static str,
    },
    /// The operating system gave no randomness.
    #[error("the operating system gave no randomness: {0}")]
    Randomness(rand::rngs::SysError),
    /// The ledger's mirror failed.
    #[error("the account of wallet {wallet} could not be looked up: {source}")]
    Accounts {
        /// Whose.
        wallet: Address,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
