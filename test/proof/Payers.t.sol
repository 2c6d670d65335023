// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IParalleliXAICredits} from "../../contracts/interfaces/IParalleliXAICredits.sol";
import {vm} from "../utils/Vm.sol";
import {SymbolicVault, svm} from "./SymbolicVault.sol";

/// @notice I2 and I3 through every call of a payer, from any state; and that nothing but the lock stops a withdrawal.
contract PayersProof is SymbolicVault {
    /// @dev Everything that a role can set: suspension, settlement contract, registry, guardian, proposals, owner.
    function _anyRoles() private {
        uint256 settlement = svm.createUint(256, "settlement and fees");
        uint256 suspensions = svm.createUint(80, "suspensions");
        vm.store(address(vault), bytes32(FEES_SLOT), bytes32(settlement));
        vm.store(address(vault), bytes32(HEAD_SLOT), bytes32(MAX_CREDITS | uint256(2) << 64 | suspensions << 96));
        vm.store(address(vault), bytes32(uint256(0)), bytes32(svm.createUint(256, "owner")));
        for (uint256 slot = OPERATORS_SLOT + 2 ** 32 + 1; slot <= OPERATORS_SLOT + 2 ** 32 + 3; ++slot) {
            vm.store(address(vault), bytes32(slot), bytes32(svm.createUint(256, "roles")));
        }
    }

    function check_WithdrawIsStoppedByTheLockAlone() public {
        State memory alice = _anyState(1, ALICE);
        _anyRoles();
        uint256 amount = svm.createUint(64, "amount");
        address to = svm.createAddress("to");
        vm.assume(to != address(0) && to != address(vault) && to != address(prlx));
        uint256 debitable = alice.limit - alice.settled;
        uint256 locked =
            block.timestamp > alice.settleDeadline ? 0 : debitable < alice.exposure ? debitable : alice.exposure;
        uint256 beforeWei = prlx.balanceOf(to);

        vm.prank(ALICE);
        (bool done,) = address(vault).call(abi.encodeCall(vault.withdraw, (uint64(amount), to)));

        assert(done == (amount != 0 && amount <= alice.netDeposited - alice.settled - locked));
        State memory got = _state(1);
        _assertRules(got);
        assert(got.netDeposited == (done ? alice.netDeposited - amount : alice.netDeposited));
        assert(got.settled == alice.settled && got.authorizedCum == alice.authorizedCum);
        assert(vault.locked(1) == locked);
        assert(prlx.balanceOf(to) == (done ? beforeWei + amount * 1e9 : beforeWei));
    }

    function check_RevokeIsStoppedByNothing() public {
        State memory alice = _anyState(1, ALICE);
        _anyRoles();
        uint256 locked = vault.locked(1);

        vm.prank(ALICE);
        (bool done,) = address(vault).call(abi.encodeCall(vault.revoke, ()));

        assert(done);
        State memory got = _state(1);
        _assertRules(got);
        assert(got.settled == alice.settled && got.netDeposited == alice.netDeposited);
        assert(got.authNonce == alice.authNonce + 1);
        assert(got.settleDeadline <= alice.settleDeadline && got.settleDeadline <= block.timestamp + EXIT_DELAY);
        assert(vault.locked(1) == locked);
        assert(got.limit - got.settled <= alice.exposure);
    }

    function check_DepositAddsAndNothingElse() public {
        State memory alice = _anyState(1, ALICE);
        uint256 liabilities = svm.createUint(63, "liabilities");
        vm.store(address(vault), bytes32(HEAD_SLOT), bytes32(liabilities | uint256(2) << 64));
        uint256 amount = svm.createUint(64, "amount");

        vm.prank(ALICE);
        (bool done,) = address(vault).call(abi.encodeCall(vault.deposit, (uint64(amount))));

        bool fits = alice.netDeposited + amount <= MAX_CREDITS && liabilities + amount <= MAX_CREDITS;
        assert(done == (amount != 0 && fits));
        State memory got = _state(1);
        _assertRules(got);
        assert(got.netDeposited == (done ? alice.netDeposited + amount : alice.netDeposited));
        assert(got.authorizedCum == alice.authorizedCum && got.settled == alice.settled);
        assert(got.exposure == alice.exposure && got.settleDeadline == alice.settleDeadline);
        assert(vault.liabilities() == (done ? liabilities + amount : liabilities));
    }

    /// @dev While the present authorization is live, a new one lowers neither exposure, deadline nor ceiling.
    function check_AuthorizeNeverWeakensALiveAuthorization() public {
        State memory alice = _anyState(1, ALICE);
        uint256 locked = vault.locked(1);
        IParalleliXAICredits.SpendAuthorization memory authorization = IParalleliXAICredits.SpendAuthorization({
            owner: ALICE,
            cap: uint64(svm.createUint(64, "cap")),
            exposure: uint48(svm.createUint(48, "exposure'")),
            validUntil: uint40(svm.createUint(40, "validUntil")),
            challenge: bytes32(0),
            nonce: uint32(svm.createUint(32, "nonce")),
            signDeadline: uint40(svm.createUint(40, "signDeadline"))
        });
        bytes memory signature = svm.createBytes(65, "signature");

        (bool done,) = address(vault).call(abi.encodeCall(vault.authorize, (authorization, signature)));

        State memory got = _state(1);
        _assertRules(got);
        assert(got.settled == alice.settled && got.netDeposited == alice.netDeposited);
        assert(vault.locked(1) >= locked);
        if (!done) return;
        assert(authorization.nonce == alice.authNonce && got.authNonce == alice.authNonce + 1);
        assert(got.authorizedCum <= alice.settled + authorization.cap);
        assert(got.exposure == authorization.exposure);
        if (block.timestamp <= alice.settleDeadline) {
            assert(got.exposure >= alice.exposure);
            assert(got.settleDeadline >= alice.settleDeadline);
            assert(got.authorizedCum >= alice.authorizedCum);
        }
    }
}
