// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IParalleliXAICredits} from "../../contracts/interfaces/IParalleliXAICredits.sol";
import {Base} from "../Base.sol";
import {HostileToken, PhantomPermitToken} from "../mocks/Tokens.sol";
import {System} from "../utils/System.sol";
import {vm} from "../utils/Vm.sol";

contract DepositTest is Base {
    function _approve(address payer, uint64 amount) private {
        vm.prank(payer);
        prlx.approve(address(vault), amount * WEI_PER_CREDIT);
    }

    function test_RevertWhen_AmountZero() public {
        vm.prank(alice);
        vm.expectRevert(IParalleliXAICredits.ZeroAmount.selector);
        vault.deposit(0);
    }

    function test_RevertWhen_OwnerIsZeroOrTheVault() public {
        _approve(alice, 2);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.InvalidAddress.selector, address(0)));
        vault.depositFor(address(0), 1);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.InvalidAddress.selector, address(vault)));
        vault.depositFor(address(vault), 1);
    }

    function test_RevertWhen_DepositsSuspended() public {
        vm.prank(guardian);
        vault.suspendDeposits(true);

        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.DepositsAreSuspended.selector, _now() + 72 hours));
        vault.deposit(1);
    }

    function test_RevertWhen_LiabilitiesPassTheLedger() public {
        uint64 max = uint64(type(int64).max);
        address[] memory holders = new address[](1);
        uint256[] memory amounts = new uint256[](1);
        (holders[0], amounts[0]) = (alice, type(uint256).max);
        prlx = System.prlx(holders, amounts);
        _deploy(address(prlx));
        _deposit(alice, max);
        vm.prank(alice);
        prlx.approve(address(vault), type(uint256).max);

        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.CreditsOverflow.selector, uint256(max) + 1, max));
        vault.depositFor(bob, 1);
    }

    function test_RevertWhen_TokenTakesAFee() public {
        HostileToken token = new HostileToken(alice, 1e30);
        _deploy(address(token));
        token.setMode(HostileToken.Mode.TakesFee);
        vm.prank(alice);
        token.approve(address(vault), type(uint256).max);

        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.TransferMismatch.selector, 99e9, 100e9));
        vault.deposit(100);
    }

    function test_RevertWhen_TokenMovesNothingOrReturnsFalse() public {
        HostileToken token = new HostileToken(alice, 1e30);
        _deploy(address(token));
        vm.prank(alice);
        token.approve(address(vault), type(uint256).max);

        token.setMode(HostileToken.Mode.MovesNothing);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.TransferMismatch.selector, 0, 100e9));
        vault.deposit(100);
        token.setMode(HostileToken.Mode.ReturnsFalse);
        vm.prank(alice);
        vm.expectRevert();
        vault.deposit(100);
    }

    function test_ReentryDuringDepositFails() public {
        HostileToken token = new HostileToken(alice, 1e30);
        _deploy(address(token));
        vm.prank(alice);
        token.approve(address(vault), type(uint256).max);
        token.setReentry(address(vault), abi.encodeCall(vault.deposit, (1)));

        vm.prank(alice);
        vault.deposit(100);

        assertTrue(token.reentryFailed(), "reentry fails");
        assertEq(vault.liabilities(), 100, "liabilities");
    }

    function test_OpensAnAccountAndCredits() public {
        _approve(alice, 100);

        vm.expectEmit(true, true, true, true, address(vault));
        emit IParalleliXAICredits.AccountOpened(1, alice);
        vm.expectEmit(true, true, true, true, address(vault));
        emit IParalleliXAICredits.Deposited(1, alice, 100, 100);
        vm.prank(alice);
        vault.deposit(100);

        IParalleliXAICredits.AccountView memory account = _view(1);
        assertEq(account.owner, alice, "owner");
        assertEq(account.settled, 0, "settled");
        assertEq(account.limit, 0, "limit, nothing authorized");
        assertEq(account.netDeposited, 100, "netDeposited");
        assertEq(account.authNonce, 0, "authNonce");
        assertEq(vault.accountOf(alice), 1, "account id");
        assertEq(vault.ownerOf(1), alice, "owner of the id");
        assertEq(vault.accountCount(), 1, "number of accounts");
        assertEq(vault.balance(1), 100, "balance");
        assertEq(vault.free(1), 100, "free");
        assertEq(vault.liabilities(), 100, "liabilities");
        assertEq(prlx.balanceOf(address(vault)), 100 * WEI_PER_CREDIT, "PRLX held");
    }

    function testFuzz_DepositForLeavesAuthorizationAlone(uint64 own, uint64 gift) public {
        own = uint64(bound(own, 1_000, FUNDS / 2));
        gift = uint64(bound(gift, 1, FUNDS / 2));
        uint32 account = _fund(alice, aliceKey, own, own, 500);
        vm.prank(alice);
        vault.revoke();
        IParalleliXAICredits.AccountView memory before = _view(account);
        _approve(bob, gift);

        vm.prank(bob);
        vault.depositFor(alice, gift);

        IParalleliXAICredits.AccountView memory got = _view(account);
        assertEq(got.netDeposited, uint256(own) + gift, "netDeposited");
        assertEq(got.settleDeadline, before.settleDeadline, "deadline");
        assertEq(got.authorizedCum, before.authorizedCum, "authorizedCum");
        assertEq(got.exposure, before.exposure, "exposure");
        assertEq(got.limit, before.limit, "limit");
        assertEq(vault.accountOf(bob), 0, "the giver has no account");
    }

    // Permits

    function test_DepositWithPermit() public {
        (uint8 v, bytes32 r, bytes32 s) = _signPermit(aliceKey, alice, 100, _now());

        vm.prank(alice);
        vault.depositWithPermit(100, _now(), v, r, s);

        assertEq(vault.balance(1), 100, "balance");
        assertEq(prlx.allowance(alice, address(vault)), 0, "allowance is used up");
    }

    function test_FrontRunPermitDoesNotFailTheDeposit() public {
        (uint8 v, bytes32 r, bytes32 s) = _signPermit(aliceKey, alice, 100, _now());
        vm.prank(stranger);
        prlx.permit(alice, address(vault), 100 * WEI_PER_CREDIT, _now(), v, r, s);

        vm.prank(alice);
        vault.depositWithPermit(100, _now(), v, r, s);

        assertEq(vault.balance(1), 100, "balance");
    }

    function test_RevertWhen_PermitIsInvalidAndNothingAllowed() public {
        vm.prank(alice);
        vm.expectRevert();
        vault.depositWithPermit(100, _now(), 27, bytes32(uint256(1)), bytes32(uint256(1)));
    }

    function test_PhantomPermitTakesFromTheCallerOnly() public {
        PhantomPermitToken token = new PhantomPermitToken(alice, 1e30);
        _deploy(address(token));
        vm.prank(alice);
        token.approve(address(vault), type(uint256).max);

        vm.prank(stranger);
        vm.expectRevert();
        vault.depositWithPermit(100, _now(), 27, bytes32(uint256(1)), bytes32(uint256(1)));
        assertEq(token.balanceOf(alice), 1e30, "alice's tokens stay");
    }

    function test_DepositAndAuthorize() public {
        (uint8 v, bytes32 r, bytes32 s) = _signPermit(aliceKey, alice, 100, _now());
        IParalleliXAICredits.SpendAuthorization memory authorization = _authorization(alice, 80, 10);
        bytes memory signature = _signAuthorization(aliceKey, authorization);

        vm.prank(alice);
        vault.depositAndAuthorize(100, _now(), v, r, s, authorization, signature);

        assertEq(vault.balance(1), 100, "balance");
        assertEq(vault.locked(1), 10, "locked");
        assertEq(_view(1).limit, 80, "limit");
        assertEq(_view(1).authNonce, 1, "authNonce");
    }

    function test_FrontRunAuthorizationDoesNotFailTheDeposit() public {
        (uint8 v, bytes32 r, bytes32 s) = _signPermit(aliceKey, alice, 100, _now());
        IParalleliXAICredits.SpendAuthorization memory authorization = _authorization(alice, 80, 10);
        bytes memory signature = _signAuthorization(aliceKey, authorization);
        vm.prank(stranger);
        vault.authorize(authorization, signature);

        vm.prank(alice);
        vault.depositAndAuthorize(100, _now(), v, r, s, authorization, signature);

        assertEq(vault.balance(1), 100, "balance");
        assertEq(_view(1).limit, 80, "limit");
        assertEq(_view(1).authNonce, 1, "authNonce moved once");
    }

    function test_RevertWhen_DepositAndAuthorizeWithAnotherStaleNonce() public {
        _fund(alice, aliceKey, 100, 80, 10);
        IParalleliXAICredits.SpendAuthorization memory authorization = _authorization(alice, 80, 20);
        authorization.nonce = 0;
        bytes memory signature = _signAuthorization(aliceKey, authorization);
        _approve(alice, 100);

        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.NonceMismatch.selector, 0, 1));
        vault.depositAndAuthorize(100, 0, 0, 0, 0, authorization, signature);
    }
}
