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
        bytes memory encoded = svm.createBytes(length, "rows");
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

    function check_ThreeRows() public {
        _agree(42);
    }
}
