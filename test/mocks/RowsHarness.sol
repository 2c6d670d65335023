// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IParalleliXAICredits} from "../../contracts/interfaces/IParalleliXAICredits.sol";
import {BatchRows} from "../../contracts/libraries/BatchRows.sol";
import {Row} from "../utils/ReferenceRows.sol";

/// @notice Walks rows with `BatchRows` as the vault does, and returns what it saw.
contract RowsHarness {
    using BatchRows for bytes;

    function decode(bytes calldata encoded) external pure returns (Row[] memory rows) {
        require(encoded.length != 0, IParalleliXAICredits.EmptyRows());
        rows = new Row[](encoded.length / BatchRows.ROW_SIZE);
        uint256 found = 0;
        uint256 offset = 0;
        while (offset < encoded.length) {
            (uint256 operator, uint256 rowsStart, uint256 rowsEnd) = encoded.header(offset);
            for (uint256 at = rowsStart; at < rowsEnd; at += BatchRows.ROW_SIZE) {
                (uint256 account, uint256 cumulative) = encoded.row(at);
                rows[found++] = Row(uint32(operator), uint32(account), uint64(cumulative));
            }
            offset = rowsEnd;
        }
        assembly ("memory-safe") {
            mstore(rows, found)
        }
    }
}
