//! Rows of the journal's tables, as values and back.

use alloy::primitives::{Address, B256, Bytes};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::{JournalBatch, JournalError, Landing, Outcome, State};
use crate::attempt::{Attempt, AttemptState, Paid, Purpose};

pub(super) fn read_batch(row: &SqliteRow) -> Result<JournalBatch, JournalError> {
    let name: String = row.try_get("state")?;
    let signature: Option<Vec<u8>> = row.try_get("signature")?;
    let settler: Option<Vec<u8>> = row.try_get("settler")?;
    let settler = settler.and_then(|bytes| Address::try_from(bytes.as_slice()).ok());
    let landing = match (fixed(row, "tx_hash")?, fixed(row, "block_hash")?, row.try_get::<Option<i64>, _>("block_number")?) {
        (Some(tx_hash), Some(block_hash), Some(number)) => Some(Landing { tx_hash, block_hash, block_number: uint(number)? }),
        _ => None,
    };
    let outcome = match (row.try_get::<Option<i64>, _>("debited")?, row.try_get::<Option<i64>, _>("fee")?) {
        (Some(debited), Some(fee)) => Some(Outcome { debited: uint(debited)?, fee: uint(fee)?, applied: from_json(row, "applied")? }),
        _ => None,
    };
    Ok(JournalBatch {
        id: row.try_get("id")?,
        version: row.try_get("version")?,
        state: State::read(&name).ok_or(JournalError::Damaged { column: "state" })?,
        adopted: row.try_get("adopted")?,
        proposal: from_json(row, "proposal")?,
        countersignature: signature.map(Bytes::from).zip(settler),
        amounts: from_json(row, "amounts")?,
        from_block: uint(row.try_get("from_block")?)?,
        landing,
        outcome,
        note: row.try_get("note")?,
        created_at: uint(row.try_get("created_at")?)?,
        updated_at: uint(row.try_get("updated_at")?)?,
    })
}

pub(super) fn read_attempt(row: &SqliteRow) -> Result<Attempt, JournalError> {
    let state = match (row.try_get::<String, _>("state")?.as_str(), fixed(row, "block_hash")?) {
        ("live", _) => AttemptState::Live,
        (name, Some(block_hash)) => {
            let paid = Paid {
                block_hash,
                block_number: uint(row.try_get("block_number")?)?,
                gas_used: uint(row.try_get("gas_used")?)?,
                gas_price_wei: uint(row.try_get("gas_price_wei")?)?,
            };
            if name == "mined" { AttemptState::Mined(paid) } else { AttemptState::Reverted(paid) }
        }
        _ => return Err(JournalError::Damaged { column: "attempts.state" }),
    };
    Ok(Attempt {
        hash: fixed(row, "hash")?.ok_or(JournalError::Damaged { column: "hash" })?,
        purpose: Purpose::read(&row.try_get::<String, _>("purpose")?).ok_or(JournalError::Damaged { column: "purpose" })?,
        nonce: uint(row.try_get("nonce")?)?,
        raw: row.try_get::<Vec<u8>, _>("raw")?.into(),
        max_fee_wei: uint(row.try_get("max_fee_wei")?)?,
        max_priority_fee_wei: uint(row.try_get("max_priority_fee_wei")?)?,
        gas_limit: uint(row.try_get("gas_limit")?)?,
        state,
        signed_at: uint(row.try_get("signed_at")?)?,
    })
}

pub(super) fn fixed(row: &SqliteRow, column: &'static str) -> Result<Option<B256>, JournalError> {
    let bytes: Option<Vec<u8>> = row.try_get(column)?;
    bytes.map(|bytes| B256::try_from(bytes.as_slice()).map_err(|_| JournalError::Damaged { column })).transpose()
}

fn from_json<T: serde::de::DeserializeOwned>(row: &SqliteRow, column: &'static str) -> Result<T, JournalError> {
    serde_json::from_str(&row.try_get::<String, _>(column)?).map_err(|_| JournalError::Damaged { column })
}

pub(super) fn json<T: serde::Serialize>(value: &T) -> Result<String, JournalError> {
    serde_json::to_string(value).map_err(JournalError::Encode)
}

pub(super) fn int(value: u64) -> Result<i64, JournalError> {
    i64::try_from(value).map_err(|_| JournalError::TooLarge { value })
}

pub(super) fn uint(value: i64) -> Result<u64, JournalError> {
    u64::try_from(value).map_err(|_| JournalError::Damaged { column: "a negative number" })
}
