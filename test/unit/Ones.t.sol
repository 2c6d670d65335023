// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IParalleliXAICredits} from "../../contracts/interfaces/IParalleliXAICredits.sol";
import {Base} from "../Base.sol";
import {vm} from "../utils/Vm.sol";

/// @notice The smallest amounts: a rule written for "more than none" must hold for one credit, and none must say nothing.
contract OnesTest is Base {
    function _claimMany(uint32 operator) private {
        vault.claimMany(_ids(operator));
    }

    function test_OneCreditIsDebitedEarnedAndClaimed() public {
        uint32 account = _fund(alice, aliceKey, 1_000, 500, 50);
        uint32 opals = _register(opal);
        uint32 ottos = _register(otto);
        bytes memory rows = abi.encodePacked(opals, uint16(1), account, uint64(1), ottos, uint16(1), account, uint64(2));
        _settle(rows);
        assertEq(_claimable(opals), 1, "a fee of one credit is rounded down to none");
        assertEq(_claimable(ottos), 1, "for the second operator too");

        vault.claim(opals);
        _claimMany(ottos);

        assertEq(prlx.balanceOf(opal), WEI_PER_CREDIT, "claimed alone");
        assertEq(prlx.balanceOf(otto), WEI_PER_CREDIT, "claimed in a list");
        assertEq(_claimable(opals) + _claimable(ottos), 0, "nothing left");
        assertEq(vault.liabilities(), 998, "owed no more");
    }

    function test_OneCreditOfFeesIsSwept() public {
        uint32 account = _fund(alice, aliceKey, 1_000, 500, 50);
        _settle(_rows(_register(opal), account, 10));

        vm.prank(owner);
        vault.sweepFees(owner);

        assertEq(prlx.balanceOf(owner), WEI_PER_CREDIT, "PRLX paid");
        assertEq(vault.fees(), 0, "nothing left");
    }

    function test_NothingToPayIsNoEvent() public {
        uint32 operator = _register(opal);
        vm.recordLogs();
        vault.claim(operator);
        _claimMany(operator);
        vm.prank(owner);
        vault.sweepFees(owner);
        assertEq(vm.getRecordedLogs().length, 0, "nothing to say");
    }

    function test_OneCreditIsNotDebitedAfterTheDeadline() public {
        uint32 account = _fund(alice, aliceKey, 1_000, 500, 50);
        uint32 operator = _register(opal);
        vm.warp(_view(account).settleDeadline + 1);

        _settle(_rows(operator, account, 1));

        assertEq(_view(account).settled, 0, "settled");
        assertEq(_claimable(operator), 0, "earned");
    }

    function test_TotalsThatDifferByOneCreditAreKeptApart() public {
        IParalleliXAICredits.AccountView memory more = _view(_fund(alice, aliceKey, 101, 100, 10));
        assertEq(more.netDeposited, 101, "one credit above the cap");
        assertEq(more.authorizedCum, 100, "its cap");
        IParalleliXAICredits.AccountView memory less = _view(_fund(bob, bobKey, 100, 101, 10));
        assertEq(less.netDeposited, 100, "one credit below the cap");
        assertEq(less.authorizedCum, 101, "its cap");
    }
}
