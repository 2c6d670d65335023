//! Challenges, sessions and keys at rest. One trait, written by hand for each database; the tests run over both.

mod passkeys; // rows of passkeys
mod postgres;
mod sqlite;

use async_trait::async_trait;
use sqlx::Row;
use wire::{Address, B256, Credits};

pub(super) use passkeys::{NewPasskeyRow, PasskeyRow, Removal};

use super::IdentityError;
use super::UserId;
use super::keys::{ApiKey, KeyId, KeyLimits};
use super::secret::SecretHash;
use crate::database::Database;

/// How long an expired challenge or session, and how long a key that ended, is kept so that its caller is told what happened, seconds.
const EXPIRED_KEPT_S: u64 = 3600;
const REVOKED_KEPT_S: u64 = 30 * 24 * 3600;

/// Opens the store that `database_url` names.
pub(super) async fn open(database_url: &str) -> Result<Box<dyn Store>, IdentityError> {
    Ok(match Database::open(database_url).await? {
        Database::Sqlite(pool) => Box::new(sqlite::SqliteStore { pool }),
        Database::Postgres(pool) => Box::new(postgres::PostgresStore { pool }),
    })
}

/// What identity asks of a database. Every write is one atomic statement.
#[async_trait]
pub(super) trait Store: Send + Sync {
    /// Stores a challenge that was given out.
    async fn add_challenge(&self, challenge: B256, expires_at: u64) -> Result<(), IdentityError>;

    /// Consumes a challenge: among any number of callers, one gets [`Consumption::Consumed`].
    async fn consume_challenge(&self, challenge: B256, now_s: u64) -> Result<Consumption, IdentityError>;

    /// Drops what expired or was revoked long enough ago, and the oldest challenges above `challenges_max`.
    async fn sweep(&self, now_s: u64, challenges_max: u32) -> Result<(), IdentityError>;

    /// Stores a session; ends and names the oldest ones above `max` of the same user or wallet.
    async fn add_session(&self, row: &SessionRow, max: u32) -> Result<Vec<SecretHash>, IdentityError>;

    /// The session under `hash`, expired or not, with the user and the wallet that stand behind it now.
    async fn session(&self, hash: &SecretHash) -> Result<Option<SessionRow>, IdentityError>;

    /// The sessions that `user`'s passkeys opened and those that `wallet` did, expired or not, the last used one first.
    async fn sessions_of(&self, user: Option<UserId>, wallet: Option<Address>) -> Result<Vec<SessionRow>, IdentityError>;

    /// Notes that a session was used.
    async fn touch_session(&self, hash: &SecretHash, now_s: u64) -> Result<(), IdentityError>;

    /// Ends a session; whether there was one.
    async fn remove_session(&self, hash: &SecretHash) -> Result<bool, IdentityError>;

    /// Stores a passkey, and its user when there is none yet, unless that has `max` of them or the credential is known; whether it was
    /// stored.
    async fn add_passkey(&self, row: &NewPasskeyRow<'_>, max: u32) -> Result<bool, IdentityError>;

    /// The passkey of a credential.
    async fn passkey(&self, credential_id: &[u8]) -> Result<Option<PasskeyRow>, IdentityError>;

    /// A user's passkeys, oldest first.
    async fn passkeys_of(&self, user: UserId) -> Result<Vec<PasskeyRow>, IdentityError>;

    /// Notes that a passkey was used, with its new counter, unless another use came in between; whether it was noted.
    async fn use_passkey(&self, credential_id: &[u8], was: &str, credential: &str, now_s: u64) -> Result<bool, IdentityError>;

    /// Removes a passkey of `user`, unless it is the last way in.
    async fn remove_passkey(&self, user: UserId, credential_id: &[u8]) -> Result<Removal, IdentityError>;

    /// The user of a wallet.
    async fn user_of_wallet(&self, wallet: Address) -> Result<Option<UserId>, IdentityError>;

    /// Links a wallet to a user, away from one that has no passkey left; whether it is linked, which it is not when another user has it.
    async fn link_wallet(&self, user: UserId, wallet: Address) -> Result<bool, IdentityError>;

    /// Stores a key, unless the wallet has `max` live ones at its `created_at`; whether it was stored.
    async fn add_key(&self, row: &NewKeyRow<'_>, max: u32) -> Result<bool, IdentityError>;

    /// The key under `hash`, over or not.
    async fn key(&self, hash: &SecretHash) -> Result<Option<KeyRow>, IdentityError>;

    /// The wallet's keys, newest first.
    async fn keys_of(&self, wallet: Address) -> Result<Vec<ApiKey>, IdentityError>;

    /// Notes that a key was used.
    async fn touch_key(&self, id: KeyId, now_s: u64) -> Result<(), IdentityError>;

    /// Revokes a key of `wallet` and names its digest; `None` when the wallet has no such key. The first revocation's time stays.
    async fn revoke_key(&self, wallet: Address, id: KeyId, now_s: u64) -> Result<Option<SecretHash>, IdentityError>;
}

/// What became of an attempt to consume a challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Consumption {
    Consumed,
    Unknown,
    Used,
    Expired { expires_at: u64 },
}

impl Consumption {
    /// Why nothing was consumed, from what stands in the row.
    fn refused(row: Option<(i64, Option<i64>)>) -> Self {
        match row {
            None => Self::Unknown,
            Some((_, Some(_))) => Self::Used,
            Some((expires_at, None)) => Self::Expired { expires_at: expires_at.unsigned_abs() },
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SessionRow {
    pub(super) secret_hash: SecretHash,
    /// Stored, or behind the wallet now. Of a new session exactly one of the two.
    pub(super) user: Option<UserId>,
    /// Stored, or behind the user now.
    pub(super) wallet: Option<Address>,
    pub(super) created_at: u64,
    pub(super) last_used_at: u64,
    pub(super) expires_at: u64,
}

pub(super) struct NewKeyRow<'a> {
    pub(super) wallet: Address,
    pub(super) secret_hash: SecretHash,
    pub(super) key: &'a ApiKey,
}

#[derive(Clone, Debug)]
pub(super) struct KeyRow {
    pub(super) wallet: Address,
    pub(super) secret_hash: SecretHash,
    pub(super) key: ApiKey,
}

/// Seconds as both databases store them; a time past `i64` is the end of time.
fn stored(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

fn fixed<const N: usize>(bytes: &[u8], table: &'static str, column: &'static str) -> Result<[u8; N], IdentityError> {
    bytes.try_into().map_err(|_| IdentityError::Row { table, column })
}

fn seconds(value: i64, table: &'static str, column: &'static str) -> Result<u64, IdentityError> {
    u64::try_from(value).map_err(|_| IdentityError::Row { table, column })
}

/// The models of a key as a row holds them.
fn models_text(limits: &KeyLimits) -> Result<Option<String>, IdentityError> {
    limits.models.as_ref().map(|models| serde_json::to_string(&models[..]).map_err(IdentityError::KeyModels)).transpose()
}

/// Reads a row of `sessions`, whichever database it came from.
fn session_row<R: Row>(row: &R) -> Result<SessionRow, IdentityError>
where
    for<'r> &'r [u8]: sqlx::Decode<'r, R::Database>,
    for<'r> Option<&'r [u8]>: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
    [u8]: sqlx::Type<R::Database>,
    for<'r> i64: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
    for<'c> &'c str: sqlx::ColumnIndex<R>,
{
    let table = "sessions";
    let (user, wallet) = (row.try_get::<Option<&[u8]>, _>("user_id")?, row.try_get::<Option<&[u8]>, _>("wallet")?);
    Ok(SessionRow {
        secret_hash: fixed(row.try_get("secret_hash")?, table, "secret_hash")?,
        user: user.map(|bytes| fixed(bytes, table, "user_id").map(UserId)).transpose()?,
        wallet: wallet.map(|bytes| fixed::<20>(bytes, table, "wallet").map(Address::from)).transpose()?,
        created_at: seconds(row.try_get("created_at")?, table, "created_at")?,
        last_used_at: seconds(row.try_get("last_used_at")?, table, "last_used_at")?,
        expires_at: seconds(row.try_get("expires_at")?, table, "expires_at")?,
    })
}

/// Reads a row of `api_keys`, whichever database it came from.
fn key_row<R: Row>(row: &R) -> Result<KeyRow, IdentityError>
where
    for<'r> &'r [u8]: sqlx::Decode<'r, R::Database>,
    for<'r> &'r str: sqlx::Decode<'r, R::Database>,
    for<'r> String: sqlx::Decode<'r, R::Database>,
    for<'r> i64: sqlx::Decode<'r, R::Database>,
    [u8]: sqlx::Type<R::Database>,
    str: sqlx::Type<R::Database>,
    for<'r> Option<&'r str>: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
    String: sqlx::Type<R::Database>,
    i64: sqlx::Type<R::Database>,
    for<'c> &'c str: sqlx::ColumnIndex<R>,
{
    let table = "api_keys";
    let id: &str = row.try_get("id")?;
    let models = row.try_get::<Option<&str>, _>("models")?.map(serde_json::from_str::<Vec<String>>).transpose();
    let models = models.map_err(IdentityError::KeyModels)?.map(Into::into);
    let credits = row.try_get::<Option<i64>, _>("limit_credits")?.map(Credits::try_from).transpose();
    let optional = |column| row.try_get::<Option<i64>, _>(column)?.map(|value| seconds(value, table, column)).transpose();
    let key = ApiKey {
        id: id.parse().map_err(|_| IdentityError::Row { table, column: "id" })?,
        name: row.try_get("name")?,
        prefix: row.try_get("prefix")?,
        limits: KeyLimits {
            credits: credits.map_err(|_| IdentityError::Row { table, column: "limit_credits" })?,
            expires_at: optional("expires_at")?,
            models,
        },
        created_at: seconds(row.try_get("created_at")?, table, "created_at")?,
        last_used_at: optional("last_used_at")?,
        revoked_at: optional("revoked_at")?,
    };
    let wallet = Address::from(fixed::<20>(row.try_get("wallet")?, table, "wallet")?);
    Ok(KeyRow { wallet, secret_hash: fixed(row.try_get("secret_hash")?, table, "secret_hash")?, key })
}
