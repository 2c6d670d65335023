// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IParalleliXAICredits} from "../../contracts/interfaces/IParalleliXAICredits.sol";
import {Base} from "../Base.sol";
import {HostileToken} from "../mocks/Tokens.sol";
import {System} from "../utils/System.sol";
import {vm} from "../utils/Vm.sol";

/// @notice Bug classes 18 to 23 of the settlement note: accounting.
contract AccountingRegressionTest is Base {
    HostileToken private token;
    uint32 private account;
    uint32 private operator;

    function setUp() public override {
        super.setUp();
        account = _fund(alice, aliceKey, 1_000, 500, 50);
        operator = _register(opal);
    }

    /// @dev The same with a token that can misbehave.
    function _setUpHostile() private {
        token = new HostileToken(alice, 1e30);
        _deploy(address(token));
        vm.prank(alice);
        token.approve(address(vault), type(uint256).max);
        vm.prank(alice);
        vault.deposit(1_000);
        _authorize(alice, aliceKey, 500, 50);
        operator = _register(opal);
        _settle(_rows(operator, account, 40));
    }

    function test_Class18_FeePaidTwice() public {
        _deposit(bob, 777);
        _settle(_rows(operator, account, 50));
        vault.claim(operator);
        vault.claim(operator);
        vault.claimMany(_ids(operator, operator));
        vm.prank(owner);
        vault.sweepFees(owner);
        vm.prank(owner);
        vault.sweepFees(owner);
        vm.prank(owner);
        vault.skimSurplus(owner);
        vm.prank(alice);
        vault.revoke();
        vm.warp(_view(account).settleDeadline + 1);
        vm.prank(alice);
        vault.withdraw(950, alice);

        assertEq(prlx.balanceOf(opal), 45 * WEI_PER_CREDIT, "the operator's share, once");
        assertEq(prlx.balanceOf(owner), 5 * WEI_PER_CREDIT, "the fee, once");
        assertEq(prlx.balanceOf(alice), (FUNDS - 50) * WEI_PER_CREDIT, "the rest");
        assertEq(prlx.balanceOf(address(vault)), 777 * WEI_PER_CREDIT, "bob's deposit is untouched");
        assertEq(vault.liabilities(), 777, "and owed");
    }

    function test_Class19_FeeOnTransferIsNotCreditedInFull() public {
        _setUpHostile();
        token.setMode(HostileToken.Mode.TakesFee);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.TransferMismatch.selector, 99e9, 100e9));
        vault.deposit(100);
    }

    function test_Class19_TokenThatTakesExtraOnTheWayOut() public {
        _setUpHostile();
        token.setMode(HostileToken.Mode.TakesExtra);
        bytes memory mismatch = abi.encodeWithSelector(IParalleliXAICredits.TransferMismatch.selector, 36e9 + 1, 36e9);
        vm.expectRevert(mismatch);
        vault.claim(operator);
        vm.expectRevert(mismatch);
        vault.claimMany(_ids(operator));
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.TransferMismatch.selector, 1e9 + 1, 1e9));
        vault.withdraw(1, alice);
        vm.prank(owner);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.TransferMismatch.selector, 4e9 + 1, 4e9));
        vault.sweepFees(owner);
        vm.prank(alice);
        token.transfer(address(vault), 5);
        vm.prank(owner);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.TransferMismatch.selector, 6, 5));
        vault.skimSurplus(owner);
    }

    function test_Class19_TrueWithoutMoving() public {
        _setUpHostile();
        token.setMode(HostileToken.Mode.MovesNothing);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.TransferMismatch.selector, 0, 100e9));
        vault.deposit(100);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.TransferMismatch.selector, 0, 100e9));
        vault.withdraw(100, alice);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.TransferMismatch.selector, 0, 36e9));
        vault.claimMany(_ids(operator));
        assertEq(vault.balance(account), 960, "balance");
        assertEq(_claimable(operator), 36, "claimable");
    }

    function test_Class19_FalseIsAFailure() public {
        _setUpHostile();
        token.setMode(HostileToken.Mode.ReturnsFalse);
        vm.prank(alice);
        vm.expectRevert();
        vault.deposit(100);
        vm.prank(alice);
        vm.expectRevert();
        vault.withdraw(100, alice);
        vault.claimMany(_ids(operator));
        assertEq(_claimable(operator), 36, "claimable stays");
    }

    function test_Class19_NoReturnValueIsASuccess() public {
        _setUpHostile();
        token.setMode(HostileToken.Mode.ReturnsNothing);
        vm.prank(alice);
        vault.deposit(100);
        vm.prank(alice);
        vault.withdraw(200, alice);
        vault.claimMany(_ids(operator));
        assertEq(vault.balance(account), 860, "balance");
        assertEq(token.balanceOf(opal), 36 * WEI_PER_CREDIT, "claimed");
    }

    function test_Class19_ReentrantToken() public {
        _setUpHostile();
        bytes[5] memory calls = [
            abi.encodeCall(vault.depositFor, (alice, 1)),
            abi.encodeCall(vault.withdraw, (1, alice)),
            abi.encodeCall(vault.claim, (operator)),
            abi.encodeCall(vault.claimMany, (_ids(operator))),
            abi.encodeCall(vault.debitBatch, (9, _rows(operator, account, 50), 0))
        ];
        for (uint256 i = 0; i < calls.length; ++i) {
            token.setReentry(address(vault), calls[i]);
            vm.prank(alice);
            vault.deposit(100);
            vm.prank(alice);
            vault.withdraw(100, alice);
        }
        vault.claim(operator);
        assertTrue(!token.reentryPassed() && token.reentryFailed(), "no reentry passes");
        assertEq(vault.balance(account), 960, "balance");
    }

    function test_Class19_BlacklistedPayeeStopsNobodyElse() public {
        _setUpHostile();
        uint32 ottos = _register(otto);
        _skip(VELOCITY_WINDOW);
        _settle(_rows(ottos, account, 90));
        token.refuse(opal, true);
        vault.claimMany(_ids(operator, ottos));
        assertEq(_claimable(operator), 36, "opal's stay");
        assertEq(token.balanceOf(otto), 45 * WEI_PER_CREDIT, "otto is paid");
    }

    function test_Class19_RebasingGainIsSurplusAndNobodysBalance() public {
        _setUpHostile();
        vm.prank(alice);
        token.transfer(address(vault), 123);
        assertEq(vault.balance(account), 960, "balance");
        vm.prank(owner);
        vault.skimSurplus(owner);
        assertEq(token.balanceOf(owner), 123, "the surplus");
        assertEq(token.balanceOf(address(vault)), 1_000 * WEI_PER_CREDIT, "what is owed stays");
    }

    function test_Class20_RoundingAndTruncation() public {
        _settle(_rows(operator, account, 1));
        assertEq(vault.fees(), 0, "a fee below one credit is the operator's");
        assertEq(_claimable(operator), 1, "share");
        uint64 max = uint64(type(int64).max);
        _skip(VELOCITY_WINDOW);
        _authorize(alice, aliceKey, type(uint64).max, type(uint48).max);
        assertEq(_view(account).authorizedCum, max, "a cap beyond the ledger stops at its end");
        _settle(_rows(operator, account, type(uint64).max));
        assertEq(_view(account).settled, 1_000, "the largest cumulative takes what there is");
        assertEq(uint256(_claimable(operator)) + vault.fees(), 1_000, "and nothing is lost");
        _skip(VELOCITY_WINDOW);
        _settle(_rows(operator, account, type(uint64).max));
        assertEq(_view(account).settled, 1_000, "again: nothing");
    }

    function test_Class20_LargestFeeOnTheLargestBatch() public {
        uint64 most = uint64(type(int64).max);
        address[] memory holders = new address[](1);
        uint256[] memory amounts = new uint256[](1);
        (holders[0], amounts[0]) = (alice, uint256(most) * WEI_PER_CREDIT);
        prlx = System.prlx(holders, amounts);
        _deploy(address(prlx));
        account = _fund(alice, aliceKey, most, most, type(uint48).max);
        operator = _register(opal);
        uint64 total = type(uint48).max;
        vm.prank(address(settlement));
        (uint64 debited, uint64 fee) = vault.debitBatch(1, _rows(operator, account, type(uint64).max), 3_000);
        assertEq(debited, total, "one exposure");
        assertEq(fee, uint256(total) * 3_000 / 10_000, "30 % of it, rounded down");
        assertEq(_claimable(operator), total - fee, "the rest");
    }

    function test_Class21_CounterLeaksWhenParametersChangeMidway() public {
        _settle(_rows(operator, account, 40));
        _authorize(alice, aliceKey, 600, 80);
        assertEq(_view(account).authorizedCum, 640, "the new cap counts from what is settled");
        vm.prank(owner);
        settlement.proposeFee(0);
        vm.prank(owner);
        settlement.proposeSettler(bob);
        _skip(2 * EXIT_DELAY);
        vm.prank(owner);
        settlement.acceptFee();
        vm.prank(owner);
        settlement.acceptSettler();
        settlerKey = bobKey;
        _settle(_rows(operator, account, 120));
        assertEq(_view(account).settled, 120, "settled");
        assertEq(_claimable(operator), 36 + 80, "each batch with the fee of its time");
        assertEq(vault.fees(), 4, "fees");
        assertEq(vault.locked(account), 80, "locked");
        assertEq(vault.free(account), 800, "free");
    }

    function test_Class22_DuplicateAccountWithClampingAcrossGroups() public {
        uint32 ottos = _register(otto);
        bytes memory rows = abi.encodePacked(
            operator, uint16(3), account, uint64(10), account, uint64(30), account, uint64(20), ottos, uint16(2)
        );
        rows = bytes.concat(rows, abi.encodePacked(account, uint64(45), account, uint64(999)));
        _settle(rows);
        assertEq(_view(account).settled, 50, "one exposure over all rows");
        assertEq(_claimable(operator), 27, "opal: 30 less the fee");
        assertEq(_claimable(ottos), 18, "otto: 20 less the fee");
        assertEq(vault.fees(), 5, "fees");
        assertEq(_view(account).limit, 500, "the other fields of the slot stay");
        assertEq(_view(account).exposure, 50, "exposure");
    }

    function test_Class23_DepositThatIsGoneIsNoDebt() public {
        // What a meter believed in was reorganised away: the chain knows less.
        vm.prank(alice);
        vault.withdraw(950, alice);
        _settle(_rows(operator, account, 500));
        assertEq(_view(account).settled, 50, "clamped to what is there");
        assertEq(vault.balance(account), 0, "never below zero");
    }

    function test_Class23_SignedButUnclaimedValueIsReserved() public {
        bytes memory rows = _rows(operator, account, 50);
        bytes memory signature = _signBatch(settlerKey, 1, "root", rows, _now() + 15 minutes);
        uint40 deadline = _now() + 15 minutes;
        vm.prank(alice);
        vault.withdraw(950, alice);
        vm.prank(alice);
        vault.revoke();
        settlement.settle(1, "root", rows, deadline, signature);
        assertEq(_claimable(operator), 45, "whatever the payer did since");
    }
}
