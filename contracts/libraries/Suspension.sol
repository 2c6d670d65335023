// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IParalleliXAICredits} from "../interfaces/IParalleliXAICredits.sol";

/// @title Suspension
/// @notice When a guardian's suspension ends and when the next one may start: 72 hours at most, 72 hours of rest after.
library Suspension {
    /// @notice The longest suspension.
    uint40 internal constant DURATION = 72 hours;
    /// @notice The rest after one.
    uint40 internal constant COOL_DOWN = 72 hours;

    /// @notice Whether a suspension that ends at `until` is in force.
    function inForce(uint40 until) internal view returns (bool) {
        return block.timestamp < until;
    }

    /// @notice The end of a suspension that starts now, and the start of the next.
    function start(uint40 nextFrom) internal view returns (uint40, uint40) {
        require(block.timestamp >= nextFrom, IParalleliXAICredits.SuspensionCoolingDown(nextFrom));

        uint40 until = uint40(block.timestamp) + DURATION;
        return (until, until + COOL_DOWN);
    }

    /// @notice The same for a suspension that is lifted now.
    function lift(uint40 until) internal view returns (uint40, uint40) {
        require(inForce(until), IParalleliXAICredits.NotSuspended());

        return (uint40(block.timestamp), uint40(block.timestamp) + COOL_DOWN);
    }
}
