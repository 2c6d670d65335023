// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {RowsHarness} from "../mocks/RowsHarness.sol";
import {ReferenceRows, Row} from "../utils/ReferenceRows.sol";
import {Test} from "../utils/Test.sol";

/// @notice `BatchRows` and the slow reference decoder accept the same bytes and read the same rows.
contract BatchRowsFuzzTest is Test {
    RowsHarness private harness = new RowsHarness();

    function _compare(bytes memory encoded) private view {
        (bool valid, Row[] memory expected) = ReferenceRows.decode(encoded);
        try harness.decode(encoded) returns (Row[] memory actual) {
            assertTrue(valid, "accepted what the reference refuses");
            assertEq(abi.encode(actual), abi.encode(expected), "rows");
        } catch {
            assertTrue(!valid, "refused what the reference accepts");
        }
    }

    function testFuzz_ArbitraryBytes(bytes memory encoded) public view {
        _compare(encoded);
    }

    /// @dev Nearly valid: groups with small counts, then one cut, one wrong count, or trailing bytes.
    function testFuzz_NearlyValidBatches(uint256 seed, uint16 cut, uint16 count, bytes4 trailing) public view {
        Row[] memory rows = new Row[](1 + seed % 12);
        for (uint256 i = 0; i < rows.length; ++i) {
            uint256 word = uint256(keccak256(abi.encode(seed, i)));
            rows[i] = Row(uint32(word % 3), uint32(word >> 64), uint64(word >> 128));
        }
        bytes memory encoded = ReferenceRows.encode(rows);
        _compare(encoded);
        _compare(bytes.concat(encoded, trailing));
        _compare(_cut(encoded, cut % encoded.length));
        (encoded[4], encoded[5]) = (bytes1(uint8((count % 300) >> 8)), bytes1(uint8(count % 300)));
        _compare(encoded);
    }

    function test_EveryTruncationOfOneBatch() public view {
        Row[] memory rows = new Row[](5);
        for (uint32 i = 0; i < 5; ++i) {
            rows[i] = Row(1 + i / 2, 10 + i, 1_000 + i);
        }
        bytes memory encoded = ReferenceRows.encode(rows);
        for (uint256 length = 0; length <= encoded.length; ++length) {
            _compare(_cut(encoded, length));
        }
    }

    function _cut(bytes memory source, uint256 length) private pure returns (bytes memory result) {
        result = new bytes(length);
        for (uint256 i = 0; i < length; ++i) {
            result[i] = source[i];
        }
    }
}
