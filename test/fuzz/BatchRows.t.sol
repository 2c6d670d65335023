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

    /// @dev A batch of up to three groups, `shape` says with how many rows each, two bits a group.
    function _batch(uint256 shape) private pure returns (bytes memory encoded) {
        for (uint32 group = 0; group < 3; ++group) {
            uint256 count = (shape >> 2 * group) % 4;
            if (count == 0) continue;
            encoded = bytes.concat(encoded, abi.encodePacked(1 + group, uint16(count)));
            for (uint32 row = 0; row < count; ++row) {
                encoded = bytes.concat(encoded, abi.encodePacked(10 * group + row, uint64(1_000 + row)));
            }
        }
    }

    function _withCount(bytes memory encoded, uint256 at, uint256 count) private pure {
        (encoded[at + 4], encoded[at + 5]) = (bytes1(uint8(count >> 8)), bytes1(uint8(count)));
    }

    /// @dev Of each shape: the batch, every truncation, and 1 to 24 bytes behind it.
    function test_EveryTruncationAndEveryTrailingLength() public view {
        for (uint256 shape = 0; shape < 64; ++shape) {
            bytes memory encoded = _batch(shape);
            for (uint256 length = 0; length <= encoded.length; ++length) {
                _compare(_cut(encoded, length));
            }
            for (uint256 length = 1; length <= 24; ++length) {
                encoded = bytes.concat(encoded, bytes1(uint8(length)));
                _compare(encoded);
            }
        }
    }

    /// @dev Of each shape, each group's count from none to beyond the end: groups that swallow the headers behind them.
    function test_EveryCountAndOverlap() public view {
        for (uint256 shape = 1; shape < 64; ++shape) {
            uint256 at = 0;
            for (uint256 group = 0; group < 3; ++group) {
                uint256 own = (shape >> 2 * group) % 4;
                if (own == 0) continue;
                for (uint256 count = 0; count <= 12; ++count) {
                    bytes memory encoded = _batch(shape);
                    _withCount(encoded, at, count);
                    _compare(encoded);
                }
                at += 6 + 12 * own;
            }
        }
    }

    function testFuzz_AnyCountOfAnyGroup(uint8 shape, uint8 group, uint16 count) public view {
        bytes memory encoded = _batch(shape % 64);
        uint256 at = 0;
        for (uint256 i = 0; i < group % 3; ++i) {
            uint256 own = (shape >> 2 * i) % 4;
            if (own != 0) at += 6 + 12 * own;
        }
        if (at + 6 > encoded.length) return;
        _withCount(encoded, at, count);
        _compare(encoded);
    }

    function _cut(bytes memory source, uint256 length) private pure returns (bytes memory result) {
        result = new bytes(length);
        for (uint256 i = 0; i < length; ++i) {
            result[i] = source[i];
        }
    }
}
