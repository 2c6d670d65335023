// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {vm} from "./Vm.sol";

/// @notice The part of a test framework that this project needs: labelled equality, bounds, actors.
abstract contract Test {
    bool public constant IS_TEST = true;

    error AssertionFailed(string label);
    error NotEqualUint(string label, uint256 actual, uint256 expected);
    error NotEqualAddress(string label, address actual, address expected);
    error NotEqualBytes32(string label, bytes32 actual, bytes32 expected);
    error NotEqualBytes(string label, bytes actual, bytes expected);
    error NotAtMost(string label, uint256 actual, uint256 most);

    function assertTrue(bool condition, string memory label) internal pure {
        require(condition, AssertionFailed(label));
    }

    function assertEq(uint256 actual, uint256 expected, string memory label) internal pure {
        require(actual == expected, NotEqualUint(label, actual, expected));
    }

    function assertEq(address actual, address expected, string memory label) internal pure {
        require(actual == expected, NotEqualAddress(label, actual, expected));
    }

    function assertEq(bytes32 actual, bytes32 expected, string memory label) internal pure {
        require(actual == expected, NotEqualBytes32(label, actual, expected));
    }

    function assertEq(bytes memory actual, bytes memory expected, string memory label) internal pure {
        require(keccak256(actual) == keccak256(expected), NotEqualBytes(label, actual, expected));
    }

    function assertLe(uint256 actual, uint256 most, string memory label) internal pure {
        require(actual <= most, NotAtMost(label, actual, most));
    }

    /// @dev Maps a fuzzed value into `[min, max]`; values inside stay as they are.
    function bound(uint256 value, uint256 min, uint256 max) internal pure returns (uint256) {
        if (value >= min && value <= max) return value;
        uint256 size = max - min + 1;
        return size == 0 ? value : min + value % size;
    }

    function makeActor(string memory name) internal returns (address actor, uint256 key) {
        key = uint256(keccak256(bytes(name)));
        actor = vm.addr(key);
        vm.label(actor, name);
    }
}
