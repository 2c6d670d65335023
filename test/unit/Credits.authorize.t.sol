// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IParalleliXAICredits} from "../../contracts/interfaces/IParalleliXAICredits.sol";
import {Base} from "../Base.sol";
import {Wallet} from "../mocks/Wallets.sol";
import {vm} from "../utils/Vm.sol";

contract AuthorizeTest is Base {
    IParalleliXAICredits.SpendAuthorization private auth;

    function setUp() public override {
        super.setUp();
        _deposit(alice, 1_000);
        auth = _authorization(alice, 500, 50);
    }

    function _relay() private {
        vault.authorize(auth, _signAuthorization(aliceKey, auth));
    }

    function _expect(bytes memory revertData) private returns (bytes memory signature) {
        signature = _signAuthorization(aliceKey, auth);
        vm.expectRevert(revertData);
    }

    // Refused

    function test_RevertWhen_DepositsSuspended() public {
        vm.prank(guardian);
        vault.suspendDeposits(true);
        bytes memory signature =
            _expect(abi.encodeWithSelector(IParalleliXAICredits.DepositsAreSuspended.selector, _now() + 72 hours));
        vault.authorize(auth, signature);
    }

    function test_RevertWhen_SignDeadlinePassed() public {
        vm.warp(auth.signDeadline + 1);
        bytes memory signature =
            _expect(abi.encodeWithSelector(IParalleliXAICredits.SignatureExpired.selector, auth.signDeadline, _now()));
        vault.authorize(auth, signature);
    }

    function test_RevertWhen_ValidUntilPassedOrTooLate() public {
        uint256 max = type(uint40).max - EXIT_DELAY;
        auth.validUntil = _now();
        bytes memory signature = _expect(
            abi.encodeWithSelector(IParalleliXAICredits.ValidUntilOutOfRange.selector, auth.validUntil, _now() + 1, max)
        );
        vault.authorize(auth, signature);

        auth.validUntil = uint40(max) + 1;
        signature = _expect(
            abi.encodeWithSelector(IParalleliXAICredits.ValidUntilOutOfRange.selector, auth.validUntil, _now() + 1, max)
        );
        vault.authorize(auth, signature);
    }

    function test_RevertWhen_NonceIsNotTheNext() public {
        auth.nonce = 1;
        bytes memory signature = _expect(abi.encodeWithSelector(IParalleliXAICredits.NonceMismatch.selector, 1, 0));
        vault.authorize(auth, signature);
    }

    function test_RevertWhen_Replayed() public {
        _relay();
        bytes memory signature = _expect(abi.encodeWithSelector(IParalleliXAICredits.NonceMismatch.selector, 0, 1));
        vault.authorize(auth, signature);
    }

    function test_RevertWhen_OwnerIsZero() public {
        auth.owner = address(0);
        bytes memory signature =
            _expect(abi.encodeWithSelector(IParalleliXAICredits.InvalidAddress.selector, address(0)));
        vault.authorize(auth, signature);
    }

    function test_RevertWhen_AnyFieldIsMutated() public {
        bytes memory signature = _signAuthorization(aliceKey, auth);
        for (uint256 field = 0; field < 6; ++field) {
            IParalleliXAICredits.SpendAuthorization memory mutated = auth;
            if (field == 0) mutated.owner = bob;
            if (field == 1) mutated.cap += 1;
            if (field == 2) mutated.exposure += 1;
            if (field == 3) mutated.validUntil += 1;
            if (field == 4) mutated.challenge ^= bytes32(uint256(1));
            if (field == 5) mutated.signDeadline += 1;
            vm.expectPartialRevert(IParalleliXAICredits.InvalidSignature.selector);
            vault.authorize(mutated, signature);
        }
    }

    function test_RevertWhen_SignedForAnotherChain() public {
        bytes memory signature = _signAuthorization(aliceKey, auth);
        vm.chainId(1);
        vm.expectPartialRevert(IParalleliXAICredits.InvalidSignature.selector);
        vault.authorize(auth, signature);
    }

    function test_RevertWhen_SIsHighOrSignatureIsShort() public {
        bytes memory signature = _signAuthorization(aliceKey, auth);
        (bytes32 r, bytes32 s, uint8 v) = _split(signature);

        vm.expectPartialRevert(IParalleliXAICredits.InvalidSignature.selector);
        vault.authorize(auth, abi.encodePacked(r, bytes32(CURVE_ORDER - uint256(s)), v == 27 ? uint8(28) : uint8(27)));
        vm.expectPartialRevert(IParalleliXAICredits.InvalidSignature.selector);
        vault.authorize(auth, abi.encodePacked(r, bytes32(uint256(s) | uint256(v - 27) << 255)));
        vm.expectPartialRevert(IParalleliXAICredits.InvalidSignature.selector);
        vault.authorize(auth, "");
    }

    function _split(bytes memory signature) private pure returns (bytes32 r, bytes32 s, uint8 v) {
        assembly ("memory-safe") {
            r := mload(add(signature, 32))
            s := mload(add(signature, 64))
            v := byte(0, mload(add(signature, 96)))
        }
    }

    // While live, protection only grows

    function test_RevertWhen_ALiveAuthorizationIsLowered() public {
        _relay();
        IParalleliXAICredits.AccountView memory live = _view(1);

        auth = _authorization(alice, 500, 49);
        bytes memory signature = _expect(abi.encodeWithSelector(IParalleliXAICredits.ExposureLowered.selector, 49, 50));
        vault.authorize(auth, signature);

        auth = _authorization(alice, 499, 50);
        signature = _expect(abi.encodeWithSelector(IParalleliXAICredits.AuthorizedLowered.selector, 499, 500));
        vault.authorize(auth, signature);

        auth = _authorization(alice, 500, 50);
        auth.validUntil -= 1;
        signature = _expect(
            abi.encodeWithSelector(
                IParalleliXAICredits.SettleDeadlineLowered.selector, live.settleDeadline - 1, live.settleDeadline
            )
        );
        vault.authorize(auth, signature);
    }

    function test_RevertWhen_LoweredInTheLastLiveSecond() public {
        _relay();
        vm.warp(_view(1).settleDeadline);
        auth = _authorization(alice, 500, 1);

        bytes memory signature = _expect(abi.encodeWithSelector(IParalleliXAICredits.ExposureLowered.selector, 1, 50));
        vault.authorize(auth, signature);
    }

    function test_AnythingGoesOnceExpired() public {
        _relay();
        vm.warp(_view(1).settleDeadline + 1);
        auth = _authorization(alice, 5, 1);

        _relay();

        assertEq(_view(1).exposure, 1, "exposure");
        assertEq(_view(1).authorizedCum, 5, "authorizedCum");
        assertEq(_view(1).limit, 5, "limit");
    }

    // Effects

    function test_ValidUntilReachesItsBounds() public {
        auth.validUntil = _now() + 1;
        vault.authorize(auth, _signAuthorization(aliceKey, auth));
        assertEq(_view(1).settleDeadline, _now() + 1 + EXIT_DELAY, "the earliest");
        auth.nonce += 1;
        auth.validUntil = type(uint40).max - EXIT_DELAY;
        vault.authorize(auth, _signAuthorization(aliceKey, auth));
        assertEq(_view(1).settleDeadline, type(uint40).max, "the latest");
    }

    function test_PutsTheAuthorizationInForce() public {
        vm.expectEmit(true, true, true, true, address(vault));
        emit IParalleliXAICredits.Authorized(
            1, 500, 50, auth.validUntil + EXIT_DELAY, auth.validUntil, 0, auth.challenge
        );
        _relay();

        IParalleliXAICredits.AccountView memory account = _view(1);
        assertEq(account.settled, 0, "settled");
        assertEq(account.limit, 500, "limit");
        assertEq(account.exposure, 50, "exposure");
        assertEq(account.lastSettledAt, 0, "lastSettledAt");
        assertEq(account.settleDeadline, auth.validUntil + EXIT_DELAY, "settleDeadline");
        assertEq(account.netDeposited, 1_000, "netDeposited");
        assertEq(account.authorizedCum, 500, "authorizedCum");
        assertEq(account.authNonce, 1, "authNonce");
        assertEq(vault.locked(1), 50, "locked");
        assertEq(vault.free(1), 950, "free");
    }

    function test_OpensAnAccountWithoutADeposit() public {
        auth = _authorization(bob, 500, 50);
        vault.authorize(auth, _signAuthorization(bobKey, auth));

        assertEq(vault.ownerOf(2), bob, "owner");
        assertEq(_view(2).limit, 0, "limit");
        assertEq(vault.locked(2), 0, "locked");
    }

    function testFuzz_LimitIsTheLowerOfDepositAndCap(uint64 cap, uint48 exposure) public {
        auth.cap = cap;
        auth.exposure = exposure;
        _relay();

        uint256 ceiling = uint64(type(int64).max);
        assertEq(_view(1).authorizedCum, cap < ceiling ? cap : ceiling, "authorizedCum");
        assertEq(_view(1).limit, cap < 1_000 ? cap : 1_000, "limit");
        uint256 limit = _view(1).limit;
        assertEq(vault.locked(1), exposure < limit ? exposure : limit, "locked");
    }

    function test_CapCountsFromSettled() public {
        _relay();
        uint32 operator = _register(opal);
        _settle(_rows(operator, 1, 30));

        auth = _authorization(alice, 500, 50);
        _relay();

        assertEq(_view(1).authorizedCum, 530, "authorizedCum");
    }

    // Contract wallets

    function test_ContractWalletAuthorizes() public {
        Wallet wallet = new Wallet(bob);
        auth = _authorization(address(wallet), 500, 50);

        vault.authorize(auth, _signAuthorization(bobKey, auth));

        assertEq(vault.ownerOf(2), address(wallet), "owner");
        assertEq(_view(2).authNonce, 1, "authNonce");
    }

    function test_RevertWhen_ContractWalletMisbehaves() public {
        Wallet wallet = new Wallet(bob);
        auth = _authorization(address(wallet), 500, 50);
        bytes memory signature = _signAuthorization(bobKey, auth);
        for (uint256 mode = 1; mode <= 4; ++mode) {
            wallet.setMode(Wallet.Mode(mode));
            vm.expectRevert();
            vault.authorize{gas: 5_000_000}(auth, signature);
        }
    }

    function test_AccountThatGainsCodeKeepsItsKey() public {
        bytes memory signature = _signAuthorization(aliceKey, auth);
        Wallet hostile = new Wallet(stranger);
        hostile.setMode(Wallet.Mode.Reverts);
        vm.etch(alice, address(hostile).code);

        vault.authorize(auth, signature);

        assertEq(_view(1).authNonce, 1, "authNonce");
    }
}

contract RevokeTest is Base {
    uint32 private account;

    function setUp() public override {
        super.setUp();
        account = _fund(alice, aliceKey, 1_000, 500, 50);
    }

    function _revocation(uint32 nonce) private view returns (IParalleliXAICredits.Revocation memory) {
        return IParalleliXAICredits.Revocation({owner: alice, nonce: nonce, signDeadline: _now() + 60});
    }

    function test_RevertWhen_NoAccount() public {
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.AccountNotOpened.selector, stranger));
        vault.revoke();
    }

    function test_RevokeShrinksLimitAndDeadline() public {
        vm.expectEmit(true, true, true, true, address(vault));
        emit IParalleliXAICredits.Revoked(account, 50, _now() + EXIT_DELAY, 1);
        vm.prank(alice);
        vault.revoke();

        IParalleliXAICredits.AccountView memory got = _view(account);
        assertEq(got.authorizedCum, 50, "authorizedCum");
        assertEq(got.limit, 50, "limit");
        assertEq(got.exposure, 50, "exposure");
        assertEq(got.settleDeadline, _now() + EXIT_DELAY, "settleDeadline");
        assertEq(got.authNonce, 2, "authNonce");
        assertEq(vault.locked(account), 50, "locked until the deadline");
        vm.warp(got.settleDeadline + 1);
        assertEq(vault.locked(account), 0, "nothing is locked after it");
    }

    function test_RevokingAgainDoesNotMoveTheDeadline() public {
        vm.prank(alice);
        vault.revoke();
        uint40 deadline = _view(account).settleDeadline;
        _skip(10 minutes);

        vm.prank(alice);
        vault.revoke();

        assertEq(_view(account).settleDeadline, deadline, "settleDeadline");
        assertEq(_view(account).authorizedCum, 50, "authorizedCum");
        assertEq(_view(account).authNonce, 3, "authNonce");
    }

    function test_RevokeBySigIsRelayed() public {
        IParalleliXAICredits.Revocation memory revocation = _revocation(1);
        bytes memory signature = _signRevocation(aliceKey, revocation);

        vm.prank(relayer);
        vault.revokeBySig(revocation, signature);

        assertEq(_view(account).settleDeadline, _now() + EXIT_DELAY, "settleDeadline");
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.NonceMismatch.selector, 1, 2));
        vault.revokeBySig(revocation, signature);
    }

    function test_RevertWhen_RevocationIsNotTheOwners() public {
        IParalleliXAICredits.Revocation memory revocation = _revocation(1);
        bytes memory signature = _signRevocation(bobKey, revocation);
        vm.expectPartialRevert(IParalleliXAICredits.InvalidSignature.selector);
        vault.revokeBySig(revocation, signature);

        signature = _signRevocation(aliceKey, revocation);
        revocation.signDeadline += 1;
        vm.expectPartialRevert(IParalleliXAICredits.InvalidSignature.selector);
        vault.revokeBySig(revocation, signature);

        vm.warp(revocation.signDeadline + 1);
        vm.expectRevert(
            abi.encodeWithSelector(IParalleliXAICredits.SignatureExpired.selector, revocation.signDeadline, _now())
        );
        vault.revokeBySig(revocation, signature);
    }

    function test_RevocationInvalidatesASignedAuthorization() public {
        IParalleliXAICredits.SpendAuthorization memory authorization = _authorization(alice, 900, 900);
        bytes memory signature = _signAuthorization(aliceKey, authorization);
        vm.prank(alice);
        vault.revoke();

        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.NonceMismatch.selector, 1, 2));
        vault.authorize(authorization, signature);
    }

    function test_RevokeWhileDepositsAreSuspended() public {
        vm.prank(guardian);
        vault.suspendDeposits(true);

        vm.prank(alice);
        vault.revoke();

        assertEq(_view(account).settleDeadline, _now() + EXIT_DELAY, "settleDeadline");
    }
}
