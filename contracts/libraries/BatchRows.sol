// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IParalleliXAICredits} from "../interfaces/IParalleliXAICredits.sol";

/// @title BatchRows
/// @notice Reads the packed rows of a settlement batch: groups of `operator u32 ‖ rowCount u16`, each followed by
/// `rowCount` rows of `account u32 ‖ cumulative u64`, all big-endian.
/// @dev docs/protocol.md, section 3.1. `test/utils/ReferenceRows.sol` is the slow plain twin that tests compare it with.
library BatchRows {
    /// @notice Bytes of a group's header.
    uint256 internal constant HEADER_SIZE = 6;
    /// @notice Bytes of a row.
    uint256 internal constant ROW_SIZE = 12;

    /// @notice Reads the header at `offset`, and checks that the group lies within `rows`.
    /// @return operator The operator that the group pays, 32 bits.
    /// @return rowsStart Offset of the group's first row.
    /// @return rowsEnd Offset behind its last row, which is the next group's.
    function header(bytes calldata rows, uint256 offset)
        internal
        pure
        returns (uint256 operator, uint256 rowsStart, uint256 rowsEnd)
    {
        // `offset` and `rows.length` are below 2^64, and a group is shorter than 2^20.
        unchecked {
            rowsStart = offset + HEADER_SIZE;
            require(rows.length >= rowsStart, IParalleliXAICredits.TruncatedHeader(offset, rows.length));

            uint256 word = _load(rows, offset);
            uint256 count = uint16(word >> 208);
            require(count != 0, IParalleliXAICredits.EmptyGroup(offset));

            operator = word >> 224;
            rowsEnd = rowsStart + count * ROW_SIZE;
            require(rowsEnd <= rows.length, IParalleliXAICredits.TruncatedGroup(offset, rowsEnd, rows.length));
        }
    }

    /// @notice Reads the row at `offset`, which must lie within a group that `header` accepted.
    /// @return account 32 bits.
    /// @return cumulative 64 bits.
    function row(bytes calldata rows, uint256 offset) internal pure returns (uint256 account, uint256 cumulative) {
        uint256 word = _load(rows, offset);
        account = word >> 224;
        cumulative = uint64(word >> 160);
    }

    /// @dev 32 bytes from `offset` on. What lies behind the end of `rows` is in the low bytes, which no caller uses: the
    /// bytes that a caller takes were checked against `rows.length`. A slice (`rows[a:b]`) would check each of them again,
    /// for about 150 gas a row.
    function _load(bytes calldata rows, uint256 offset) private pure returns (uint256 word) {
        assembly ("memory-safe") {
            word := calldataload(add(rows.offset, offset))
        }
    }
}
