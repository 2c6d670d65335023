//! Packed settlement rows (`docs/protocol.md`, section 3.1): 6 bytes a group, 12 bytes a row, big-endian.

use alloy::primitives::{B256, keccak256};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{AccountId, OperatorId};

const GROUP_HEAD_BYTES: usize = 6;
const ROW_BYTES: usize = 12;

/// One debit: the account's cumulative total after it, in credits since the account was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Who pays.
    pub account: AccountId,
    /// Total ever debited once this row is applied.
    pub cumulative: u64,
}

/// The rows whose debits go to one operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Who is paid.
    pub operator: OperatorId,
    /// 1 to 65,535 rows.
    pub rows: Vec<Row>,
}

/// Encodes groups as the contract reads them. Errors on no groups, an empty group or one of more than 65,535 rows.
pub fn encode(groups: &[Group]) -> Result<Vec<u8>, RowsError> {
    if groups.is_empty() {
        return Err(RowsError::Empty);
    }
    let mut bytes = Vec::with_capacity(groups.iter().map(|group| GROUP_HEAD_BYTES + ROW_BYTES * group.rows.len()).sum());
    for group in groups {
        let count = u16::try_from(group.rows.len()).ok().filter(|count| *count > 0);
        let count = count.ok_or(RowsError::RowCount { operator: group.operator, rows: group.rows.len() })?;
        bytes.extend(group.operator.0.to_be_bytes());
        bytes.extend(count.to_be_bytes());
        for row in &group.rows {
            bytes.extend(row.account.0.to_be_bytes());
            bytes.extend(row.cumulative.to_be_bytes());
        }
    }
    Ok(bytes)
}

/// Reads what [`encode`] wrote. Errors on anything else; never reads past the end.
pub fn decode(bytes: &[u8]) -> Result<Vec<Group>, RowsError> {
    if bytes.is_empty() {
        return Err(RowsError::Empty);
    }
    let mut groups = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let truncated = RowsError::Truncated { at_byte: bytes.len() - rest.len() };
        let Some((operator, after)) = rest.split_first_chunk::<4>() else { return Err(truncated) };
        let Some((count, after)) = after.split_first_chunk::<2>() else { return Err(truncated) };
        let operator = OperatorId(u32::from_be_bytes(*operator));
        let count = usize::from(u16::from_be_bytes(*count));
        if count == 0 {
            return Err(RowsError::RowCount { operator, rows: 0 });
        }
        let Some((body, after)) = after.split_at_checked(count * ROW_BYTES) else { return Err(truncated) };
        let (rows, _) = body.as_chunks::<ROW_BYTES>();
        groups.push(Group { operator, rows: rows.iter().map(decode_row).collect() });
        rest = after;
    }
    Ok(groups)
}

fn decode_row(bytes: &[u8; ROW_BYTES]) -> Row {
    let [a, b, c, d, cumulative @ ..] = *bytes;
    Row { account: AccountId(u32::from_be_bytes([a, b, c, d])), cumulative: u64::from_be_bytes(cumulative) }
}

/// What a batch's signature commits to in place of the rows.
pub fn hash(encoded: &[u8]) -> B256 {
    keccak256(encoded)
}

/// Why rows can't be encoded or read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RowsError {
    /// No group at all.
    #[error("a batch needs at least one group of rows")]
    Empty,
    /// A group of no rows, or of too many.
    #[error("operator {operator} has {rows} rows in one group; 1 to 65,535 are possible")]
    RowCount {
        /// Whose group.
        operator: OperatorId,
        /// How many rows.
        rows: usize,
    },
    /// A head or a row is cut off.
    #[error("the group that begins at byte {at_byte} is cut off")]
    Truncated {
        /// Where the broken group begins.
        at_byte: usize,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn groups() -> impl Strategy<Value = Vec<Group>> {
        let row = (any::<u32>(), any::<u64>()).prop_map(|(account, cumulative)| Row { account: AccountId(account), cumulative });
        let group =
            (any::<u32>(), prop::collection::vec(row, 1..8)).prop_map(|(operator, rows)| Group { operator: OperatorId(operator), rows });
        prop::collection::vec(group, 1..6)
    }

    proptest! {
        #[test]
        fn what_was_encoded_reads_back(groups in groups()) {
            prop_assert_eq!(decode(&encode(&groups).unwrap()).unwrap(), groups);
        }

        #[test]
        fn every_truncation_is_refused_or_is_itself_whole(groups in groups(), cut in any::<prop::sample::Index>()) {
            let bytes = encode(&groups).unwrap();
            let short = &bytes[..cut.index(bytes.len())];
            if let Ok(read) = decode(short) {
                prop_assert_eq!(encode(&read).unwrap(), short);
            }
        }

        #[test]
        fn any_bytes_read_without_panic_and_only_canonically(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(read) = decode(&bytes) {
                prop_assert_eq!(encode(&read).unwrap(), bytes);
            }
        }
    }

    #[test]
    fn an_empty_group_is_refused_both_ways() {
        let group = Group { operator: OperatorId(7), rows: vec![] };
        assert_eq!(encode(&[group]), Err(RowsError::RowCount { operator: OperatorId(7), rows: 0 }));
        assert_eq!(decode(&[0, 0, 0, 7, 0, 0]), Err(RowsError::RowCount { operator: OperatorId(7), rows: 0 }));
    }
}
