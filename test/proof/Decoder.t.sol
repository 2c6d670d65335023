// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {RowsHarness} from "../mocks/RowsHarness.sol";
import {ReferenceRows, Row} from "../utils/ReferenceRows.sol";
import {Symbolic, svm} from "./SymbolicVault.sol";

/// @notice `BatchRows` and the slow reference decoder agree on **all** bytes of a length.
contract DecoderProof {
    RowsHarness private harness;

    function setUp() public {
        harness = new RowsHarness();
    }

    function _agree(uint256 length) private {
        if (length < 6) return _compare(svm.createBytes(length, "rows"));
        // Where the second header stands must be a number to halmos, so each count that fits is a case of its own; all
        // that do not fit are one.
        bytes memory operator = svm.createBytes(4, "operator");
        uint256 count = svm.createUint(16, "count");
        bytes memory rest = svm.createBytes(length - 6, "rest");
        for (uint256 fitting = 0; fitting <= (length - 6) / 12; ++fitting) {
            if (count == fitting) return _compare(bytes.concat(operator, bytes2(uint16(fitting)), rest));
        }
        _compare(bytes.concat(operator, bytes2(uint16(count)), rest));
    }

    function _compare(bytes memory encoded) private {
        (bool valid, Row[] memory expected) = ReferenceRows.decode(encoded);
        (bool done, bytes memory answer) = address(harness).call(abi.encodeCall(harness.decode, (encoded)));
        assert(done == valid);
        if (done) assert(keccak256(answer) == keccak256(abi.encode(expected)));
    }

    function check_NoBytes() public {
        _agree(0);
    }

    function check_AHeaderAlone() public {
        _agree(6);
    }

    function check_HalfARow() public {
        _agree(17);
    }

    function check_OneRow() public {
        _agree(18);
    }

    function check_OneRowAndOneByte() public {
        _agree(19);
    }

    function check_OneRowAndAHeader() public {
        _agree(24);
    }

    function check_TwoRows() public {
        _agree(30);
    }

    function check_TwoGroups() public {
        _agree(36);
    }
}
