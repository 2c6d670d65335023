// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IParalleliXAICredits} from "../../contracts/interfaces/IParalleliXAICredits.sol";
import {vm} from "../utils/Vm.sol";
import {SymbolicVault, svm} from "./SymbolicVault.sol";

/// @notice I2 and I3 through every call of a payer, from any state; and that nothing but the lock stops a withdrawal.
contract PayersProof is SymbolicVault {
    /// @dev Everything that a role can set: suspension, settlement contract, registry, guardian, proposals, owner.
    function _anyRoles() private {
        uint256 suspensions = svm.createUint(80, "suspensions");
        vm.store(address(vault), bytes32(FEES_SLOT), bytes32(svm.createUint(224, "settlement and fees")));
        vm.store(address(vault), bytes32(HEAD_SLOT), bytes32(MAX_CREDITS | uint256(2) << 64 | suspensions << 96));
        vm.store(address(vault), bytes32(uint256(0)), bytes32(svm.createUint(160, "owner")));
        for (uint256 slot = OPERATORS_SLOT + 2 ** 32 + 1; slot <= OPERATORS_SLOT + 2 ** 32 + 3; ++slot) {
            vm.store(address(vault), bytes32(slot), bytes32(svm.createUint(160, "roles")));
        }
    }

    function check_WithdrawIsStoppedByTheLockAlone() public {
        State memory alice = _anyState(1, ALICE);
        _anyRoles();
        uint256 amount = svm.createUint(64, "amount");
        vm.assume(amount != 0);
        unchecked {
            vm.assume(amount <= alice.netDeposited - alice.settled - _locked(alice));
        }

        vm.prank(ALICE);
        (bool done,) = address(vault).call(abi.encodeCall(vault.withdraw, (uint64(amount), BOB)));

        assert(done);
    }

    function check_WithdrawTakesFreeCreditsAndNothingElse() public {
        State memory alice = _anyState(1, ALICE);
        uint256 amount = svm.createUint(64, "amount");

        vm.prank(ALICE);
        (bool done,) = address(vault).call(abi.encodeCall(vault.withdraw, (uint64(amount), BOB)));

        State memory got = _state(1);
        unchecked {
            bool ok = _and(_rules(got), got.settled == alice.settled);
            ok = _and(ok, _if(done, amount <= alice.netDeposited - alice.settled - _locked(alice)));
            ok = _and(ok, _if(done, got.netDeposited + amount == alice.netDeposited));
            ok = _and(ok, _if(!done, got.netDeposited == alice.netDeposited));
            ok = _and(ok, got.authorizedCum == alice.authorizedCum);
            ok = _and(ok, _locked(got) == _locked(alice));
            assert(ok);
        }
    }

    function check_RevokeIsStoppedByNothing() public {
        State memory alice = _anyState(1, ALICE);
        _anyRoles();

        vm.prank(ALICE);
        (bool done,) = address(vault).call(abi.encodeCall(vault.revoke, ()));

        State memory got = _state(1);
        unchecked {
            bool ok = _and(done, _rules(got));
            ok = _and(ok, got.settled == alice.settled);
            ok = _and(ok, got.netDeposited == alice.netDeposited);
            ok = _and(ok, got.authNonce == alice.authNonce + 1);
            ok = _and(ok, got.settleDeadline <= alice.settleDeadline);
            ok = _and(ok, got.settleDeadline <= block.timestamp + EXIT_DELAY);
            ok = _and(ok, _locked(got) == _locked(alice));
            ok = _and(ok, got.limit - got.settled <= alice.exposure);
            assert(ok);
        }
    }

    function check_DepositAddsAndNothingElse() public {
        State memory alice = _anyState(1, ALICE);
        uint256 liabilities = svm.createUint(63, "liabilities");
        vm.store(address(vault), bytes32(HEAD_SLOT), bytes32(liabilities | uint256(2) << 64));
        uint256 amount = svm.createUint(64, "amount");

        vm.prank(ALICE);
        (bool done,) = address(vault).call(abi.encodeCall(vault.deposit, (uint64(amount))));

        State memory got = _state(1);
        unchecked {
            bool fits = _and(alice.netDeposited + amount <= MAX_CREDITS, liabilities + amount <= MAX_CREDITS);
            bool ok = _and(done == _and(amount != 0, fits), _rules(got));
            ok = _and(ok, _if(done, got.netDeposited == alice.netDeposited + amount));
            ok = _and(ok, _if(!done, got.netDeposited == alice.netDeposited));
            ok = _and(ok, got.authorizedCum == alice.authorizedCum);
            ok = _and(ok, got.settled == alice.settled);
            ok = _and(ok, got.exposure == alice.exposure);
            ok = _and(ok, got.settleDeadline == alice.settleDeadline);
            assert(ok);
        }
    }

    /// @dev While the present authorization is live, a new one lowers neither exposure, deadline nor ceiling.
    function check_AuthorizeNeverWeakensALiveAuthorization() public {
        State memory alice = _anyState(1, ALICE);
        IParalleliXAICredits.SpendAuthorization memory authorization = IParalleliXAICredits.SpendAuthorization({
            owner: ALICE,
            cap: uint64(svm.createUint(64, "cap")),
            exposure: uint48(svm.createUint(48, "new exposure")),
            validUntil: uint40(svm.createUint(40, "validUntil")),
            challenge: bytes32(0),
            nonce: uint32(svm.createUint(32, "nonce")),
            signDeadline: uint40(svm.createUint(40, "signDeadline"))
        });
        bytes memory signature = svm.createBytes(65, "signature");

        (bool done,) = address(vault).call(abi.encodeCall(vault.authorize, (authorization, signature)));

        State memory got = _state(1);
        bool live = block.timestamp <= alice.settleDeadline;
        unchecked {
            bool ok = _and(_rules(got), got.settled == alice.settled);
            ok = _and(ok, got.netDeposited == alice.netDeposited);
            ok = _and(ok, _locked(got) >= _locked(alice));
            ok = _and(ok, _if(done, authorization.nonce == alice.authNonce));
            ok = _and(ok, _if(done, got.authNonce == alice.authNonce + 1));
            ok = _and(ok, _if(done, got.authorizedCum <= alice.settled + authorization.cap));
            ok = _and(ok, _if(!done, got.authorizedCum == alice.authorizedCum));
            ok = _and(ok, _if(live, got.exposure >= alice.exposure));
            ok = _and(ok, _if(live, got.settleDeadline >= alice.settleDeadline));
            ok = _and(ok, _if(live, got.authorizedCum >= alice.authorizedCum));
            assert(ok);
        }
    }
}
