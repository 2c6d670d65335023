// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";

import {IParalleliXAICredits} from "../../contracts/interfaces/IParalleliXAICredits.sol";
import {Base} from "../Base.sol";
import {HostileToken} from "../mocks/Tokens.sol";
import {vm} from "../utils/Vm.sol";

contract ClaimTest is Base {
    HostileToken private token;
    uint32 private account;
    uint32 private opals;
    uint32 private ottos;

    function setUp() public override {
        super.setUp();
        token = new HostileToken(alice, 1e30);
        _deploy(address(token));
        vm.prank(alice);
        token.approve(address(vault), type(uint256).max);
        vm.prank(alice);
        vault.deposit(1_000);
        account = vault.accountOf(alice);
        _authorize(alice, aliceKey, 1_000, 200);
        opals = _register(opal);
        ottos = _register(otto);
        _settle(abi.encodePacked(opals, uint16(1), account, uint64(100), ottos, uint16(1), account, uint64(150)));
    }

    function test_RevertWhen_OperatorUnknown() public {
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.OperatorUnknown.selector, 9));
        vault.claim(9);
    }

    function test_RevertWhen_PayeeIsRefused() public {
        token.refuse(opal, true);
        vm.expectRevert(bytes("refused"));
        vault.claim(opals);
        assertEq(_claimable(opals), 90, "claimable");
    }

    function test_ClaimPaysTheStoredAddress() public {
        vm.expectEmit(true, true, true, true, address(vault));
        emit IParalleliXAICredits.Claimed(opals, opal, 90);
        vm.prank(stranger);
        vault.claim(opals);

        assertEq(token.balanceOf(opal), 90 * WEI_PER_CREDIT, "PRLX paid");
        assertEq(_claimable(opals), 0, "claimable");
        assertEq(vault.liabilities(), 910, "liabilities");
        vault.claim(opals);
        assertEq(token.balanceOf(opal), 90 * WEI_PER_CREDIT, "a second claim pays nothing");
    }

    function test_OneFailingPayeeStopsNobody() public {
        token.refuse(opal, true);
        uint32[] memory ids = new uint32[](4);
        (ids[0], ids[1], ids[2], ids[3]) = (opals, 77, ottos, ottos);

        vm.expectEmit(true, true, true, true, address(vault));
        emit IParalleliXAICredits.ClaimFailed(opals);
        vault.claimMany(ids);

        assertEq(_claimable(opals), 90, "opal keeps its credits");
        assertEq(_claimable(ottos), 0, "otto was paid");
        assertEq(token.balanceOf(otto), 45 * WEI_PER_CREDIT, "once");
        assertEq(vault.liabilities(), 955, "liabilities");
        token.refuse(opal, false);
        vault.claim(opals);
        assertEq(token.balanceOf(opal), 90 * WEI_PER_CREDIT, "opal is paid later");
    }

    function test_RevertWhen_TokenMovesNothingOrExtra() public {
        token.setMode(HostileToken.Mode.MovesNothing);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.TransferMismatch.selector, 0, 90e9));
        vault.claimMany(_ids(opals));
        token.setMode(HostileToken.Mode.TakesExtra);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.TransferMismatch.selector, 90e9 + 1, 90e9));
        vault.claim(opals);
        assertEq(_claimable(opals), 90, "claimable");
    }

    function test_TokenThatReturnsFalseFailsTheClaimOnly() public {
        token.setMode(HostileToken.Mode.ReturnsFalse);
        vault.claimMany(_ids(opals, ottos));
        assertEq(_claimable(opals), 90, "claimable");
        assertEq(vault.liabilities(), 1_000, "liabilities");
    }

    function test_ReentryDuringClaimFails() public {
        token.setReentry(address(vault), abi.encodeCall(vault.claim, (opals)));
        vault.claimMany(_ids(opals));
        assertTrue(token.reentryFailed(), "reentry fails");
        assertEq(token.balanceOf(opal), 90 * WEI_PER_CREDIT, "paid once");
    }

    // Fees and surplus

    function test_RevertWhen_AnotherSweeps() public {
        vm.prank(guardian);
        vm.expectRevert(abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, guardian));
        vault.sweepFees(guardian);
        vm.prank(guardian);
        vm.expectRevert(abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, guardian));
        vault.skimSurplus(guardian);
    }

    function test_SweepPaysFeesOnly() public {
        vm.prank(owner);
        vault.sweepFees(owner);

        assertEq(token.balanceOf(owner), 15 * WEI_PER_CREDIT, "PRLX paid");
        assertEq(vault.fees(), 0, "fees");
        assertEq(vault.liabilities(), 985, "liabilities");
        vm.prank(owner);
        vault.sweepFees(owner);
        assertEq(token.balanceOf(owner), 15 * WEI_PER_CREDIT, "a second sweep pays nothing");
    }

    function test_SkimPaysDonationsOnly() public {
        vm.prank(alice);
        token.transfer(address(vault), 7);

        vm.prank(owner);
        vault.skimSurplus(owner);

        assertEq(token.balanceOf(owner), 7, "the donation");
        assertEq(token.balanceOf(address(vault)), 1_000 * WEI_PER_CREDIT, "what is owed stays");
    }

    function test_RevertWhen_SweptToZeroOrTheVault() public {
        vm.prank(owner);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.InvalidAddress.selector, address(0)));
        vault.sweepFees(address(0));
        vm.prank(owner);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.InvalidAddress.selector, address(vault)));
        vault.skimSurplus(address(vault));
    }
}
