// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @notice The one storage slot of an account that a debit reads and writes, from the low bits up:
/// `settled u64 | limit u64 | exposure u48 | lastSettledAt u40 | settleDeadline u40`.
/// @dev A packed struct would be read and written field by field: five warm reads and two writes a debit, about 700 gas.
type DebitSlot is uint256;

using DebitSlots for DebitSlot global;

/// @title DebitSlots
/// @notice Reads and replaces the fields of a `DebitSlot`. Replacing returns a new value and stores nothing.
library DebitSlots {
    uint256 private constant LIMIT_AT = 64;
    uint256 private constant EXPOSURE_AT = 128;
    uint256 private constant LAST_SETTLED_AT = 176;
    uint256 private constant DEADLINE_AT = 216;
    uint256 private constant TIME = type(uint40).max;

    /// @notice Cumulative credits ever debited.
    function settled(DebitSlot slot) internal pure returns (uint64) {
        return uint64(DebitSlot.unwrap(slot));
    }

    /// @notice Cumulative ceiling of `settled`, in credits.
    function limit(DebitSlot slot) internal pure returns (uint64) {
        return uint64(DebitSlot.unwrap(slot) >> LIMIT_AT);
    }

    /// @notice Credits that may be metered and unsettled, and that one velocity window may debit.
    function exposure(DebitSlot slot) internal pure returns (uint48) {
        return uint48(DebitSlot.unwrap(slot) >> EXPOSURE_AT);
    }

    /// @notice When the account was last debited.
    function lastSettledAt(DebitSlot slot) internal pure returns (uint40) {
        return uint40(DebitSlot.unwrap(slot) >> LAST_SETTLED_AT);
    }

    /// @notice After this moment nothing can be debited.
    function settleDeadline(DebitSlot slot) internal pure returns (uint40) {
        return uint40(DebitSlot.unwrap(slot) >> DEADLINE_AT);
    }

    /// @notice Whether debits are still possible now.
    function isLive(DebitSlot slot) internal view returns (bool) {
        return block.timestamp <= slot.settleDeadline();
    }

    /// @notice Credits kept back now.
    function locked(DebitSlot slot) internal view returns (uint64) {
        if (!slot.isLive()) return 0;

        uint64 debitable = slot.limit() - slot.settled();
        return debitable < slot.exposure() ? debitable : slot.exposure();
    }

    /// @param settled_ At most 64 bits.
    /// @param settledAt At most 40 bits.
    function withDebit(DebitSlot slot, uint256 settled_, uint256 settledAt) internal pure returns (DebitSlot) {
        uint256 kept = DebitSlot.unwrap(slot) & ~(uint256(type(uint64).max) | TIME << LAST_SETTLED_AT);
        return DebitSlot.wrap(kept | settled_ | settledAt << LAST_SETTLED_AT);
    }

    function withLimit(DebitSlot slot, uint64 limit_) internal pure returns (DebitSlot) {
        uint256 kept = DebitSlot.unwrap(slot) & ~(uint256(type(uint64).max) << LIMIT_AT);
        return DebitSlot.wrap(kept | uint256(limit_) << LIMIT_AT);
    }

    function withExposure(DebitSlot slot, uint48 exposure_) internal pure returns (DebitSlot) {
        uint256 kept = DebitSlot.unwrap(slot) & ~(uint256(type(uint48).max) << EXPOSURE_AT);
        return DebitSlot.wrap(kept | uint256(exposure_) << EXPOSURE_AT);
    }

    function withDeadline(DebitSlot slot, uint40 deadline) internal pure returns (DebitSlot) {
        uint256 kept = DebitSlot.unwrap(slot) & ~(TIME << DEADLINE_AT);
        return DebitSlot.wrap(kept | uint256(deadline) << DEADLINE_AT);
    }
}
