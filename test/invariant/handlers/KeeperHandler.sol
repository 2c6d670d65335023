// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ReferenceRows, Row} from "../../utils/ReferenceRows.sol";
import {vm} from "../../utils/Vm.sol";
import {Handler, World} from "./Handler.sol";

/// @notice A settler that signs anything, operators who claim, an owner who sweeps.
contract KeeperHandler is Handler {
    bytes private lastRows;

    constructor(World memory world) Handler(world) {}

    /// @dev One to eight rows of any accounts (an unknown one too) and operators, in any order, stale or far above.
    function settle(uint256 seed) external action("settle") {
        Row[] memory rows = new Row[](1 + seed % 8);
        for (uint256 i = 0; i < rows.length; ++i) {
            uint256 word = uint256(keccak256(abi.encode(seed, i)));
            uint32 account = uint32(1 + word % (PAYERS + 1));
            uint64 cumulative = _view(account).settled + uint64((word >> 64) % 3_000);
            if (word >> 255 == 1 && cumulative > 100) cumulative -= 100;
            rows[i] = Row(uint32(1 + (word >> 32) % OPERATORS), account, cumulative);
            ghost.request(account, cumulative);
        }
        lastRows = ReferenceRows.encode(rows);
        _settleAndCompare(lastRows);
    }

    /// @dev The last batch again, and at once once more, under new numbers. What was short may move the first time.
    function replay() external action("replay") {
        if (lastRows.length == 0) return;
        _settleAndCompare(lastRows);
        if (_settleAndCompare(lastRows) != 0) ghost.moveOnReplay();
    }

    function claim(uint32 operator) external action("claim") {
        operator = uint32(bound(operator, 1, OPERATORS));
        uint64 amount = _claimable(operator);
        vault.claim(operator);
        ghost.addClaimed(amount);
    }

    function claimMany() external action("claimMany") {
        uint32[] memory ids = new uint32[](OPERATORS + 1);
        uint256 amount = 0;
        for (uint32 i = 0; i <= OPERATORS; ++i) {
            ids[i] = i + 1;
            amount += _claimable(i + 1);
        }
        vault.claimMany(ids);
        ghost.addClaimed(amount);
    }

    function sweepFees() external action("sweepFees") {
        uint64 amount = vault.fees();
        vm.prank(owner);
        vault.sweepFees(owner);
        ghost.addSwept(amount);
    }

    function _settleAndCompare(bytes memory rows) private returns (uint256 moved) {
        (uint256 settledBefore, uint256 creditedBefore) = _totals();
        _settle(rows);
        (uint256 settledAfter, uint256 creditedAfter) = _totals();
        moved = settledAfter - settledBefore;
        if (creditedAfter - creditedBefore != moved) ghost.breakConservation();
    }

    function _totals() private view returns (uint256 settled, uint256 credited) {
        for (uint32 account = 1; account <= vault.accountCount(); ++account) {
            settled += _view(account).settled;
        }
        credited = vault.fees();
        for (uint32 operator = 1; operator <= OPERATORS; ++operator) {
            credited += _claimable(operator);
        }
    }
}
