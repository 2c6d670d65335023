// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IOperatorRegistry} from "../../contracts/interfaces/IOperatorRegistry.sol";
import {IParalleliXAICredits} from "../../contracts/interfaces/IParalleliXAICredits.sol";
import {IParalleliXSettlement} from "../../contracts/interfaces/IParalleliXSettlement.sol";
import {Base} from "../Base.sol";
import {Wallet} from "../mocks/Wallets.sol";
import {Registry, Settlement, System, Vault} from "../utils/System.sol";
import {vm} from "../utils/Vm.sol";

/// @notice Bug classes 1 to 9 of the settlement note: signatures and authorization.
contract SignatureRegressionTest is Base {
    uint32 private account;
    uint32 private operator;
    IParalleliXAICredits.SpendAuthorization private auth;

    function setUp() public override {
        super.setUp();
        account = _fund(alice, aliceKey, 1_000, 500, 50);
        operator = _register(opal);
        auth = _authorization(alice, 600, 60);
    }

    function _refuse(bytes memory signature) private {
        vm.expectPartialRevert(IParalleliXAICredits.InvalidSignature.selector);
        vault.authorize(auth, signature);
    }

    function test_Class01_TypeStringWithAStraySpace() public {
        bytes32 typeHash = keccak256(
            "SpendAuthorization(address owner, uint64 cap,uint48 exposure,uint40 validUntil,bytes32 challenge,uint32 nonce,uint40 signDeadline)"
        );
        bytes32 structHash = keccak256(
            abi.encode(
                typeHash,
                auth.owner,
                auth.cap,
                auth.exposure,
                auth.validUntil,
                auth.challenge,
                auth.nonce,
                auth.signDeadline
            )
        );
        _refuse(_sign(aliceKey, _digest(vault.DOMAIN_SEPARATOR(), structHash)));

        vault.authorize(auth, _signAuthorization(aliceKey, auth));

        assertEq(_view(account).authorizedCum, 600, "what wallets sign is accepted");
    }

    function test_Class02_FieldOutsideTheHash() public {
        IParalleliXSettlement.ServiceReceipt memory receipt;
        bytes32 digest = settlement.receiptDigest(receipt);
        uint256 words = abi.encode(receipt).length / 32;
        assertEq(words, 15, "fields of a receipt");
        for (uint256 i = 0; i < words; ++i) {
            uint256[15] memory raw;
            raw[i] = 1;
            receipt = abi.decode(abi.encode(raw), (IParalleliXSettlement.ServiceReceipt));
            assertTrue(settlement.receiptDigest(receipt) != digest, "every field of a receipt is hashed");
        }

        IParalleliXAICredits.Revocation memory revocation =
            IParalleliXAICredits.Revocation({owner: alice, nonce: 1, signDeadline: _now()});
        bytes memory signature = _signRevocation(aliceKey, revocation);
        for (uint256 field = 0; field < 3; ++field) {
            IParalleliXAICredits.Revocation memory mutated =
                abi.decode(abi.encode(revocation), (IParalleliXAICredits.Revocation));
            if (field == 0) mutated.owner = bob;
            if (field == 1) mutated.nonce += 1;
            if (field == 2) mutated.signDeadline += 1;
            vm.expectRevert();
            vault.revokeBySig(mutated, signature);
        }

        IParalleliXAICredits.ClosureClearance memory clearance =
            IParalleliXAICredits.ClosureClearance({account: account, settled: 0, authNonce: 1, deadline: _now()});
        signature = _signClearance(settlerKey, clearance);
        for (uint256 field = 0; field < 4; ++field) {
            IParalleliXAICredits.ClosureClearance memory mutated =
                abi.decode(abi.encode(clearance), (IParalleliXAICredits.ClosureClearance));
            if (field == 0) mutated.account += 1;
            if (field == 1) mutated.settled += 1;
            if (field == 2) mutated.authNonce += 1;
            if (field == 3) mutated.deadline += 1;
            vm.prank(alice);
            vm.expectRevert();
            vault.closeWithClearance(mutated, signature);
        }
        // `SpendAuthorization`: AuthorizeTest.test_RevertWhen_AnyFieldIsMutated; `SettlementBatch`: SettleTest, the same name.
    }

    function test_Class03_VoucherUsedAgainAfterItsSignerWasReboundToAnotherPayer() public {
        Wallet wallet = new Wallet(alice);
        auth = _authorization(address(wallet), 500, 50);
        bytes memory signature = _signAuthorization(aliceKey, auth);
        vault.authorize(auth, signature);

        wallet.setSigner(bob);
        Wallet next = new Wallet(alice);
        auth.owner = address(next);
        _refuse(signature);
        auth.owner = address(wallet);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.NonceMismatch.selector, 0, 1));
        vault.authorize(auth, signature);
    }

    function test_Class04_NonceResetWithADeletedAccount() public {
        bytes memory old = _signAuthorization(aliceKey, auth);
        vault.authorize(auth, old);
        vm.prank(alice);
        vault.revoke();
        vm.warp(_view(account).settleDeadline + 1);
        vm.prank(alice);
        vault.withdraw(1_000, alice);
        assertEq(vault.balance(account), 0, "emptied");

        assertEq(_deposit(alice, 10), account, "the same id as before");
        assertEq(_view(account).authNonce, 3, "nonces go on");
        auth.signDeadline = _now();
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.NonceMismatch.selector, 1, 3));
        vault.authorize(auth, old);
    }

    function test_Class05_OneSignatureForSeveralEntities() public {
        Wallet first = new Wallet(alice);
        Wallet second = new Wallet(alice);
        auth = _authorization(address(first), 500, 50);
        bytes memory signature = _signAuthorization(aliceKey, auth);
        vault.authorize(auth, signature);
        auth.owner = address(second);
        _refuse(signature);

        (address node, uint256 nodeKey) = makeActor("node");
        uint32 ottos = _register(otto);
        bytes32 structHash = keccak256(abi.encode(keccak256("NodeKey(uint32 operator,address key)"), operator, node));
        bytes memory proof = _sign(nodeKey, _digest(registry.DOMAIN_SEPARATOR(), structHash));
        assertTrue(ottos != operator, "two operators");
        vm.prank(otto);
        vm.expectPartialRevert(IOperatorRegistry.InvalidSignature.selector);
        registry.addNodeKey(node, proof);
    }

    function test_Class06_WrongContract() public {
        Vault twin = System.vault(address(prlx), owner, EXIT_DELAY, VELOCITY_WINDOW);
        auth = _authorization(bob, 500, 50);
        bytes memory signature = _signAuthorization(bobKey, auth);
        vm.expectPartialRevert(IParalleliXAICredits.InvalidSignature.selector);
        twin.authorize(auth, signature);

        Settlement next = System.settlement(vault, registry, owner, settler, guardian, FEE_BPS);
        bytes memory rows = _rows(operator, account, 10);
        signature = _signBatch(settlerKey, 1, "root", rows, _now());
        vm.expectPartialRevert(IParalleliXSettlement.InvalidSignature.selector);
        next.settle(1, "root", rows, _now(), signature);
    }

    function test_Class06_ForkedChainId() public {
        bytes memory signature = _signAuthorization(aliceKey, auth);
        vm.chainId(block.chainid + 1);
        _refuse(signature);
        signature = _signAuthorization(aliceKey, auth);
        vault.authorize(auth, signature);
        assertEq(_view(account).authNonce, 2, "the fork has a domain of its own");
    }

    function test_Class06_MalleableCompactAndEmptySignatures() public {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(aliceKey, _authDigest());
        _refuse(abi.encodePacked(r, bytes32(CURVE_ORDER - uint256(s)), v == 27 ? uint8(28) : uint8(27)));
        // EIP-2098, 64 bytes.
        _refuse(abi.encodePacked(r, bytes32(uint256(s) | uint256(v - 27) << 255)));
        _refuse(abi.encodePacked(r, s, v, uint8(0)));
        _refuse(abi.encodePacked(r, s, uint8(v - 27)));
        _refuse("");
    }

    function test_Class06_RecoveryOfTheZeroAddress() public {
        auth.owner = address(0);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.InvalidAddress.selector, address(0)));
        vault.authorize(auth, abi.encodePacked(bytes32(0), bytes32(0), uint8(27)));
        bytes memory rows = _rows(operator, account, 10);
        vm.expectPartialRevert(IParalleliXSettlement.InvalidSignature.selector);
        settlement.settle(1, "root", rows, _now(), abi.encodePacked(bytes32(0), bytes32(0), uint8(27)));
    }

    function test_Class06_ExpiredDeadline() public {
        bytes memory signature = _signAuthorization(aliceKey, auth);
        vm.warp(auth.signDeadline);
        vault.authorize(auth, signature);
        auth = _authorization(alice, 700, 60);
        signature = _signAuthorization(aliceKey, auth);
        vm.warp(auth.signDeadline + 1);
        vm.expectPartialRevert(IParalleliXAICredits.SignatureExpired.selector);
        vault.authorize(auth, signature);
    }

    function _authDigest() private view returns (bytes32) {
        bytes32 typeHash = keccak256(
            "SpendAuthorization(address owner,uint64 cap,uint48 exposure,uint40 validUntil,bytes32 challenge,uint32 nonce,uint40 signDeadline)"
        );
        return _digest(vault.DOMAIN_SEPARATOR(), keccak256(bytes.concat(typeHash, abi.encode(auth))));
    }

    function test_Class07_CodeAtAPayersAddressBlocksCollection() public {
        Wallet hostile = new Wallet(stranger);
        hostile.setMode(Wallet.Mode.BurnsGas);
        vm.etch(alice, address(hostile).code);
        // EIP-7702's own form of code, a pointer to the wallet.
        vm.etch(bob, abi.encodePacked(hex"ef0100", address(hostile)));
        _settle(_rows(operator, account, 10));
        assertEq(_view(account).settled, 10, "settlement never calls a payer");

        vault.authorize(auth, _signAuthorization(aliceKey, auth));
        assertEq(_view(account).authNonce, 2, "the key is asked first");
        auth = _authorization(bob, 500, 50);
        vault.authorize(auth, _signAuthorization(bobKey, auth));
        assertEq(_view(vault.accountOf(bob)).authNonce, 1, "with delegated code too");
    }

    function test_Class08_HostileContractWallets() public {
        Wallet wallet = new Wallet(bob);
        prlx.approve(address(vault), 0);
        vm.prank(alice);
        prlx.approve(address(vault), 1_000 * WEI_PER_CREDIT);
        vm.prank(alice);
        vault.depositFor(address(wallet), 1_000);
        uint32 walletAccount = vault.accountOf(address(wallet));
        auth = _authorization(address(wallet), 500, 50);
        bytes memory signature = _signAuthorization(bobKey, auth);
        for (uint256 mode = 1; mode <= 4; ++mode) {
            wallet.setMode(Wallet.Mode(mode));
            vm.expectRevert();
            vault.authorize{gas: 5_000_000}(auth, signature);
        }
        bytes memory reentry = abi.encodeCall(vault.authorize, (auth, signature));
        wallet.setReentry(address(vault), reentry);
        vault.authorize(auth, signature);
        assertEq(_view(walletAccount).authNonce, 1, "reentry changes nothing");

        wallet.setMode(Wallet.Mode.BurnsGas);
        _settle(_rows(operator, walletAccount, 10));
        assertEq(_view(walletAccount).settled, 10, "settlement does not ask the wallet");
    }

    function test_Class09_SignatureThatCannotBeRevoked() public {
        bytes memory signature = _signAuthorization(aliceKey, auth);
        vm.prank(alice);
        vault.revoke();
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.NonceMismatch.selector, 1, 2));
        vault.authorize(auth, signature);
    }
}
