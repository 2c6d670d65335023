// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IParalleliXAICredits} from "../../contracts/interfaces/IParalleliXAICredits.sol";
import {Base} from "../Base.sol";
import {HostileToken} from "../mocks/Tokens.sol";
import {vm} from "../utils/Vm.sol";

/// @notice Bug classes 10 to 17 of the settlement note: exit and griefing.
contract ExitRegressionTest is Base {
    uint32 private account;
    uint32 private operator;

    function setUp() public override {
        super.setUp();
        account = _fund(alice, aliceKey, 1_000, 500, 50);
        operator = _register(opal);
    }

    function _revoke() private returns (uint40 deadline) {
        vm.prank(alice);
        vault.revoke();
        return _view(account).settleDeadline;
    }

    function _gift(uint64 amount) private {
        vm.prank(bob);
        prlx.approve(address(vault), amount * WEI_PER_CREDIT);
        vm.prank(bob);
        vault.depositFor(alice, amount);
    }

    function _withdraw(uint64 amount) private {
        vm.prank(alice);
        vault.withdraw(amount, alice);
    }

    function test_Class10_ThirdPartyDepositCancelsOrDelaysAnExit() public {
        uint40 deadline = _revoke();
        vm.prank(bob);
        vm.expectRevert(IParalleliXAICredits.ZeroAmount.selector);
        vault.depositFor(alice, 0);
        _gift(1);
        assertEq(_view(account).settleDeadline, deadline, "deadline");
        vm.warp(deadline + 1);
        _gift(1);
        _withdraw(1_002);
        assertEq(vault.balance(account), 0, "all of it leaves, the gifts too");
    }

    function test_Class11_DepositInheritsAnExitAndRevokingAgainResetsIt() public {
        uint40 deadline = _revoke();
        _skip(10);
        assertEq(_revoke(), deadline, "a second revocation");
        uint64 free = vault.free(account);
        _deposit(alice, 500);
        assertEq(vault.free(account), free + 500, "the new deposit is free at once");
        assertEq(vault.locked(account), 50, "and locked is what was");
        _settle(_rows(operator, account, 400));
        assertEq(_view(account).settled, 50, "the new deposit can't be debited under the old authorization");
    }

    function test_Class12_DustBurnsAClaim() public {
        _withdraw(950);
        _settle(_rows(operator, account, 50));
        assertEq(vault.balance(account), 0, "empty");
        _skip(VELOCITY_WINDOW);
        bytes memory rows = _rows(operator, account, 90);
        _settle(rows);
        assertEq(_view(account).settled, 50, "zero balance: nothing");
        _gift(1);
        _settle(rows);
        assertEq(_view(account).settled, 51, "dust: one");
        _gift(100);
        _skip(VELOCITY_WINDOW);
        _settle(rows);
        assertEq(_view(account).settled, 90, "the rest is not lost");
        assertEq(_claimable(operator), 45 + 1 + 36, "each part less its fee, rounded down");
    }

    function test_Class13_MaturedExitIsAFreeOption() public {
        vm.warp(_revoke() + 1);
        _settle(_rows(operator, account, 10));
        assertEq(_view(account).settled, 0, "nothing can be spent while the exit is matured");
        _authorize(alice, aliceKey, 500, 50);
        assertEq(vault.locked(account), 50, "to spend again is to be locked again");
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.InsufficientFreeCredits.selector, 950, 1_000));
        vault.withdraw(1_000, alice);
    }

    function test_Class14_SelfDealing() public {
        uint256 before = prlx.balanceOf(alice) + prlx.balanceOf(settler);
        vm.prank(alice);
        uint32 alices = registry.register(alice, 0);
        vm.prank(settler);
        uint32 settlers = registry.register(settler, 0);
        _settle(
            abi.encodePacked(alices, uint16(1), account, uint64(30), settlers, uint16(1), account, type(uint64).max)
        );
        vault.claimMany(_ids(alices, settlers));
        vm.warp(_revoke() + 1);
        _withdraw(vault.balance(account));
        uint256 afterwards = prlx.balanceOf(alice) + prlx.balanceOf(settler);
        assertEq(afterwards, before + (1_000 - vault.fees()) * WEI_PER_CREDIT, "they have what they had, less the fee");
        assertEq(vault.liabilities(), vault.fees(), "and the vault owes nothing but the fee");
    }

    function test_Class15_ExitBlockedByPauseDebtContractsOrTheRecipient() public {
        vm.prank(guardian);
        vault.suspendDeposits(true);
        vm.prank(guardian);
        settlement.suspendSettler(true);
        vm.etch(address(settlement), hex"fe");
        vm.etch(address(registry), hex"fe");
        vm.etch(bob, hex"fe");
        uint40 deadline = _revoke();
        _withdraw(450);
        vm.warp(deadline + 1);
        vm.prank(alice);
        vault.withdraw(550, bob);
        assertEq(vault.balance(account), 0, "nothing stood in the way");
    }

    function test_Class15_ExitBlockedByABlacklist() public {
        HostileToken token = new HostileToken(alice, 1e30);
        _deploy(address(token));
        vm.prank(alice);
        token.approve(address(vault), type(uint256).max);
        vm.prank(alice);
        vault.deposit(100);
        token.refuse(alice, true);
        vm.prank(alice);
        vault.withdraw(100, bob);
        assertEq(token.balanceOf(bob), 100 * WEI_PER_CREDIT, "another address is paid");
    }

    /// @dev Every suspension at every time: whoever gains by it gains one exposure at most.
    function test_Class16_PauseShiftsMoneyBetweenParties() public {
        for (uint256 suspended = 0; suspended < 4; ++suspended) {
            for (uint256 late = 0; late < 2; ++late) {
                setUp();
                vm.startPrank(guardian);
                if (suspended & 1 != 0) vault.suspendDeposits(true);
                if (suspended & 2 != 0) settlement.suspendSettler(true);
                vm.stopPrank();
                uint40 deadline = _revoke();
                if (late == 1) vm.warp(deadline + 1);
                uint64 debited = 0;
                if (suspended & 2 == 0) {
                    _settle(_rows(operator, account, 40));
                    debited = late == 0 ? 40 : 0;
                }
                assertEq(_view(account).settled, debited, "debited");
                if (late == 0) vm.warp(deadline + 1);
                _withdraw(1_000 - debited);
                assertLe(40 - debited, 50, "the operator loses one exposure at most");
            }
        }
    }

    function test_Class17_OrderOfExitAndCollection() public {
        uint256 snapshot = prlx.balanceOf(alice);
        _withdraw(950);
        _settle(_rows(operator, account, 50));
        assertEq(_view(account).settled, 50, "exit first: all that was locked is collected");
        assertEq(prlx.balanceOf(alice), snapshot + 950 * WEI_PER_CREDIT, "the rest is out");

        setUp();
        _settle(_rows(operator, account, 50));
        _withdraw(900);
        assertEq(_view(account).settled, 50, "collection first: the same");
        assertEq(vault.locked(account), 50, "and the next exposure is locked");

        setUp();
        vm.warp(_revoke());
        _settle(_rows(operator, account, 50));
        _withdraw(950);
        assertEq(vault.balance(account), 0, "in the last second, one after the other");
    }
}
