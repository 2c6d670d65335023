// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IParalleliXAICredits} from "../interfaces/IParalleliXAICredits.sol";

/// @title Proposal
/// @notice A change that is announced, can be made after a delay, and lapses when it is not made.
/// @dev Without the lapse, a proposal that everybody has forgotten could be accepted without any notice.
library Proposal {
    /// @notice How long a ready proposal can be accepted.
    uint40 internal constant LIFETIME = 7 days;

    /// @notice When a change proposed now can be made.
    function readyAfter(uint40 delay) internal view returns (uint40) {
        return uint40(block.timestamp) + delay;
    }

    /// @notice Reverts unless a proposal stands, is ready, and has not lapsed.
    function requireReady(uint40 readyAt) internal view {
        require(readyAt != 0, IParalleliXAICredits.NothingProposed());
        require(
            block.timestamp >= readyAt && block.timestamp <= readyAt + LIFETIME,
            IParalleliXAICredits.ProposalNotReady(readyAt, readyAt + LIFETIME)
        );
    }
}
