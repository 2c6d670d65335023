// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// @notice One row with the operator of its group.
struct Row {
    uint32 operator;
    uint32 account;
    uint64 cumulative;
}

/// @notice Slow plain twin of `BatchRows`: one byte at a time, no assembly, no early return on success.
library ReferenceRows {
    /// @dev Groups neighbours of one operator.
    function encode(Row[] memory rows) internal pure returns (bytes memory encoded) {
        for (uint256 i = 0; i < rows.length;) {
            uint256 end = i;
            while (end < rows.length && rows[end].operator == rows[i].operator) ++end;
            encoded = bytes.concat(encoded, abi.encodePacked(rows[i].operator, uint16(end - i)));
            for (; i < end; ++i) {
                encoded = bytes.concat(encoded, abi.encodePacked(rows[i].account, rows[i].cumulative));
            }
        }
    }

    /// @return valid Whether the bytes are a well-formed batch; `rows` means nothing otherwise.
    function decode(bytes memory encoded) internal pure returns (bool valid, Row[] memory rows) {
        if (encoded.length == 0) return (false, rows);

        rows = new Row[](encoded.length / 12);
        uint256 found = 0;
        uint256 position = 0;
        while (position != encoded.length) {
            if (encoded.length < position + 6) return (false, rows);
            uint32 operator = uint32(_number(encoded, position, 4));
            uint256 count = _number(encoded, position + 4, 2);
            position += 6;
            if (count == 0) return (false, rows);
            for (uint256 i = 0; i < count; ++i) {
                if (encoded.length < position + 12) return (false, rows);
                uint32 account = uint32(_number(encoded, position, 4));
                uint64 cumulative = uint64(_number(encoded, position + 4, 8));
                rows[found++] = Row(operator, account, cumulative);
                position += 12;
            }
        }
        assembly ("memory-safe") {
            mstore(rows, found)
        }
        valid = true;
    }

    function _number(bytes memory source, uint256 position, uint256 size) private pure returns (uint256 value) {
        for (uint256 i = 0; i < size; ++i) {
            value = value * 256 + uint8(source[position + i]);
        }
    }
}
