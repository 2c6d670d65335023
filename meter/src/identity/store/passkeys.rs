//! Rows of passkeys, whichever database they came from.

use sqlx::Row;
use wire::Address;

use super::super::{IdentityError, UserId};
use super::{fixed, seconds};

/// A passkey to be stored.
pub(in super::super) struct NewPasskeyRow<'a> {
    pub(in super::super) user: UserId,
    /// Of the user, when it is made with this passkey.
    pub(in super::super) wallet: Option<Address>,
    pub(in super::super) credential_id: &'a [u8],
    pub(in super::super) name: &'a str,
    pub(in super::super) credential: &'a str,
    pub(in super::super) created_at: u64,
}

/// A stored one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct PasskeyRow {
    pub(in super::super) user: UserId,
    pub(in super::super) credential_id: Vec<u8>,
    pub(in super::super) name: String,
    pub(in super::super) credential: String,
    pub(in super::super) created_at: u64,
    pub(in super::super) last_used_at: Option<u64>,
}

/// What became of the wish to remove one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Removal {
    Removed,
    /// The user has no such passkey.
    Unknown,
    /// Without it nobody could sign in as this user any more.
    LastWayIn,
}

pub(super) fn passkey_row<R: Row>(row: &R) -> Result<PasskeyRow, IdentityError>
where
    for<'r> &'r [u8]: sqlx::Decode<'r, R::Database>,
    for<'r> String: sqlx::Decode<'r, R::Database>,
    for<'r> i64: sqlx::Decode<'r, R::Database>,
    [u8]: sqlx::Type<R::Database>,
    String: sqlx::Type<R::Database>,
    i64: sqlx::Type<R::Database>,
    for<'c> &'c str: sqlx::ColumnIndex<R>,
{
    let table = "passkeys";
    let last_used_at = row.try_get::<Option<i64>, _>("last_used_at")?;
    Ok(PasskeyRow {
        user: UserId(fixed(row.try_get("user_id")?, table, "user_id")?),
        credential_id: row.try_get::<&[u8], _>("credential_id")?.to_vec(),
        name: row.try_get("name")?,
        credential: row.try_get("credential")?,
        created_at: seconds(row.try_get("created_at")?, table, "created_at")?,
        last_used_at: last_used_at.map(|value| seconds(value, table, "last_used_at")).transpose()?,
    })
}
