// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IParalleliXAICredits} from "../../contracts/interfaces/IParalleliXAICredits.sol";
import {Base} from "../Base.sol";
import {HostileToken} from "../mocks/Tokens.sol";
import {vm} from "../utils/Vm.sol";

contract WithdrawTest is Base {
    uint32 private account;

    function setUp() public override {
        super.setUp();
        account = _fund(alice, aliceKey, 1_000, 500, 50);
    }

    function test_RevertWhen_NoAccount() public {
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.AccountNotOpened.selector, stranger));
        vault.withdraw(1, stranger);
    }

    function test_RevertWhen_AmountZero() public {
        vm.prank(alice);
        vm.expectRevert(IParalleliXAICredits.ZeroAmount.selector);
        vault.withdraw(0, alice);
    }

    function test_RevertWhen_PayeeIsZeroOrTheVault() public {
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.InvalidAddress.selector, address(0)));
        vault.withdraw(1, address(0));
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.InvalidAddress.selector, address(vault)));
        vault.withdraw(1, address(vault));
    }

    function test_RevertWhen_MoreThanFree() public {
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.InsufficientFreeCredits.selector, 950, 951));
        vault.withdraw(951, alice);
    }

    function test_RevertWhen_PayeeIsRefusedByTheToken() public {
        HostileToken token = new HostileToken(alice, 1e30);
        _deploy(address(token));
        vm.prank(alice);
        token.approve(address(vault), type(uint256).max);
        vm.prank(alice);
        vault.deposit(100);
        token.refuse(alice, true);

        vm.prank(alice);
        vm.expectRevert(bytes("refused"));
        vault.withdraw(100, alice);
        vm.prank(alice);
        vault.withdraw(100, bob);

        assertEq(token.balanceOf(bob), 100 * WEI_PER_CREDIT, "paid to another address");
        assertEq(vault.liabilities(), 0, "liabilities");
    }

    function test_RevertWhen_TokenTakesExtra() public {
        HostileToken token = new HostileToken(alice, 1e30);
        _deploy(address(token));
        vm.prank(alice);
        token.approve(address(vault), type(uint256).max);
        vm.prank(alice);
        vault.deposit(100);
        token.setMode(HostileToken.Mode.TakesExtra);

        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.TransferMismatch.selector, 50e9 + 1, 50e9));
        vault.withdraw(50, alice);
    }

    function test_ReentryDuringWithdrawFails() public {
        HostileToken token = new HostileToken(alice, 1e30);
        _deploy(address(token));
        vm.prank(alice);
        token.approve(address(vault), type(uint256).max);
        vm.prank(alice);
        vault.deposit(100);
        token.setReentry(address(vault), abi.encodeCall(vault.claimMany, (_ids(1))));

        vm.prank(alice);
        vault.withdraw(60, bob);

        assertTrue(token.reentryFailed(), "reentry fails");
        assertEq(vault.balance(1), 40, "balance");
    }

    function test_EverythingAboveTheLockLeavesAtOnce() public {
        vm.expectEmit(true, true, true, true, address(vault));
        emit IParalleliXAICredits.Withdrawn(account, bob, 950, 50);
        vm.prank(alice);
        vault.withdraw(950, bob);

        IParalleliXAICredits.AccountView memory got = _view(account);
        assertEq(got.netDeposited, 50, "netDeposited");
        assertEq(got.limit, 50, "limit");
        assertEq(got.authorizedCum, 500, "authorizedCum");
        assertEq(vault.locked(account), 50, "locked");
        assertEq(vault.free(account), 0, "free");
        assertEq(vault.liabilities(), 50, "liabilities");
        assertEq(prlx.balanceOf(address(vault)), 50 * WEI_PER_CREDIT, "PRLX held");
        assertEq(prlx.balanceOf(bob), (FUNDS + 950) * WEI_PER_CREDIT, "PRLX paid");
    }

    function test_LockedCreditsStayDebitableAfterAWithdrawal() public {
        uint32 operator = _register(opal);
        vm.prank(alice);
        vault.withdraw(950, alice);

        _settle(_rows(operator, account, 50));

        assertEq(_view(account).settled, 50, "settled");
        assertEq(vault.balance(account), 0, "balance");
    }

    function test_AfterRevocationEverythingLeavesInAnHour() public {
        vm.prank(alice);
        vault.revoke();
        vm.warp(_view(account).settleDeadline + 1);

        vm.prank(alice);
        vault.withdraw(1_000, alice);

        assertEq(vault.balance(account), 0, "balance");
        assertEq(vault.liabilities(), 0, "liabilities");
    }

    function test_NobodyCanSuspendWithdrawals() public {
        vm.prank(guardian);
        vault.suspendDeposits(true);
        vm.prank(guardian);
        settlement.suspendSettler(true);

        vm.prank(alice);
        vault.withdraw(950, alice);

        assertEq(vault.balance(account), 50, "balance");
    }

    function testFuzz_NeverBelowTheLock(uint64 amount, uint48 exposure, uint64 cap) public {
        uint32 bobs = _fund(bob, bobKey, 1_000, cap, exposure);
        uint64 free = vault.free(bobs);
        uint64 lockedBefore = vault.locked(bobs);
        amount = uint64(bound(amount, 1, 1_000));

        vm.prank(bob);
        if (amount > free) {
            vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.InsufficientFreeCredits.selector, free, amount));
        }
        vault.withdraw(amount, bob);

        assertEq(vault.locked(bobs), lockedBefore, "locked");
        assertTrue(vault.balance(bobs) >= lockedBefore, "balance covers the lock");
    }
}

contract CloseTest is Base {
    uint32 private account;
    IParalleliXAICredits.ClosureClearance private clearance;

    function setUp() public override {
        super.setUp();
        account = _fund(alice, aliceKey, 1_000, 500, 50);
        clearance = IParalleliXAICredits.ClosureClearance({
            account: account, settled: 0, authNonce: 1, deadline: _now() + 15 minutes
        });
    }

    function test_RevertWhen_CallerIsNotTheOwner() public {
        bytes memory signature = _signClearance(settlerKey, clearance);
        vm.prank(bob);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.UnauthorizedCaller.selector, bob, alice));
        vault.closeWithClearance(clearance, signature);
    }

    function test_RevertWhen_ClearanceExpired() public {
        bytes memory signature = _signClearance(settlerKey, clearance);
        vm.warp(clearance.deadline + 1);
        vm.prank(alice);
        vm.expectRevert(
            abi.encodeWithSelector(IParalleliXAICredits.SignatureExpired.selector, clearance.deadline, _now())
        );
        vault.closeWithClearance(clearance, signature);
    }

    function test_RevertWhen_SettledOrNonceMoved() public {
        bytes memory signature = _signClearance(settlerKey, clearance);
        _settle(_rows(_register(opal), account, 10));
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.ClearanceOutdated.selector, 0, 10, 1, 1));
        vault.closeWithClearance(clearance, signature);

        clearance.settled = 10;
        signature = _signClearance(settlerKey, clearance);
        vm.prank(alice);
        vault.revoke();
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.ClearanceOutdated.selector, 10, 10, 1, 2));
        vault.closeWithClearance(clearance, signature);
    }

    function test_RevertWhen_NotSignedByTheSettler() public {
        bytes memory signature = _signClearance(aliceKey, clearance);
        vm.prank(alice);
        vm.expectPartialRevert(IParalleliXAICredits.InvalidSignature.selector);
        vault.closeWithClearance(clearance, signature);
    }

    function test_RevertWhen_SettlerSuspended() public {
        bytes memory signature = _signClearance(settlerKey, clearance);
        vm.prank(guardian);
        settlement.suspendSettler(true);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.SettlerIsSuspended.selector, _now() + 72 hours));
        vault.closeWithClearance(clearance, signature);
    }

    function test_ClosesAndWithdrawsInOneTransaction() public {
        bytes[] memory calls = new bytes[](2);
        calls[0] = abi.encodeCall(vault.closeWithClearance, (clearance, _signClearance(settlerKey, clearance)));
        calls[1] = abi.encodeCall(vault.withdraw, (1_000, alice));

        vm.prank(alice);
        vault.multicall(calls);

        assertEq(_view(account).settleDeadline, _now() - 1, "settleDeadline");
        assertEq(_view(account).authNonce, 1, "authNonce");
        assertEq(vault.balance(account), 0, "balance");
        assertEq(prlx.balanceOf(alice), FUNDS * WEI_PER_CREDIT, "PRLX is back");
    }

    function test_ClosedAccountCannotBeDebited() public {
        uint32 operator = _register(opal);
        bytes memory signature = _signClearance(settlerKey, clearance);
        vm.prank(alice);
        vault.closeWithClearance(clearance, signature);

        _settle(_rows(operator, account, 10));

        assertEq(_view(account).settled, 0, "settled");
        assertEq(_claimable(operator), 0, "claimable");
    }

    function test_ClosingAnExpiredAuthorizationKeepsItsDeadline() public {
        uint40 deadline = _view(account).settleDeadline;
        vm.warp(deadline + 10);
        clearance.deadline = _now();
        bytes memory signature = _signClearance(settlerKey, clearance);

        vm.prank(alice);
        vault.closeWithClearance(clearance, signature);

        assertEq(_view(account).settleDeadline, deadline, "settleDeadline");
    }
}
