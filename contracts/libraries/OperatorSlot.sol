// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @notice The one storage slot of an operator, from the low bits up: `claimable u64 | payout address`. Never zero once the
/// operator is known.
/// @dev A packed struct would be read again for each write, about 150 gas a group and a claim.
type OperatorSlot is uint256;

using OperatorSlots for OperatorSlot global;

/// @title OperatorSlots
/// @notice Reads and replaces the fields of an `OperatorSlot`. Replacing returns a new value and stores nothing.
library OperatorSlots {
    uint256 private constant PAYOUT_AT = 64;

    /// @notice Credits that can be claimed.
    function claimable(OperatorSlot slot) internal pure returns (uint64) {
        return uint64(OperatorSlot.unwrap(slot));
    }

    /// @notice Where they are paid; zero for an unknown operator.
    function payout(OperatorSlot slot) internal pure returns (address) {
        return address(uint160(OperatorSlot.unwrap(slot) >> PAYOUT_AT));
    }

    /// @notice Whether the registry ever named a payout address.
    function isKnown(OperatorSlot slot) internal pure returns (bool) {
        return OperatorSlot.unwrap(slot) >> PAYOUT_AT != 0;
    }

    function withClaimable(OperatorSlot slot, uint64 claimable_) internal pure returns (OperatorSlot) {
        uint256 kept = OperatorSlot.unwrap(slot) & ~uint256(type(uint64).max);
        return OperatorSlot.wrap(kept | claimable_);
    }

    function withPayout(OperatorSlot slot, address payout_) internal pure returns (OperatorSlot) {
        return OperatorSlot.wrap(uint256(uint160(payout_)) << PAYOUT_AT | slot.claimable());
    }
}
