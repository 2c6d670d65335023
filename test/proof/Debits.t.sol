// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {vm} from "../utils/Vm.sol";
import {SymbolicVault, svm} from "./SymbolicVault.sol";

/// @notice I2, I3, I4 and I9 for any batch of one or two rows, from any state of the accounts.
/// @dev A debit neither reads nor writes an account's cold slot, and of the hot one it changes two fields. So `settled <=
/// limit` and nothing else changed are I2 and I3: `limit` is the lower of both totals by how the slots hold them. Asked that
/// way, a query takes the solver a second, and not minutes.
/// The fee is zero, because a solver gets lost in `total * feeBps / 10_000` with both open; that a fee is rounded down
/// and nothing lost is in `SettleFuzzTest` and in the invariants.
contract DebitsProof is SymbolicVault {
    struct Account {
        uint256 settled;
        uint256 limit;
        uint256 exposure;
        uint256 lastSettledAt;
        uint256 settleDeadline;
        /// Its hot slot without `settled` and `lastSettledAt`.
        uint256 rest;
        uint256 cold;
    }

    uint256 private constant DEBITED = uint256(type(uint64).max) | uint256(type(uint40).max) << 176;

    function _anyAccount(uint256 id) private returns (Account memory account) {
        vm.store(address(vault), bytes32(ACCOUNTS_SLOT + 2 * id), bytes32(svm.createUint(256, "hot slot")));
        vm.store(address(vault), bytes32(ACCOUNTS_SLOT + 2 * id + 1), bytes32(svm.createUint(256, "cold slot")));
        account = _account(id);
        vm.assume(account.settled <= account.limit);
        vm.assume(account.limit <= MAX_CREDITS);
        vm.assume(account.lastSettledAt <= block.timestamp);
    }

    function _account(uint256 id) private view returns (Account memory account) {
        uint256 hot = uint256(vm.load(address(vault), bytes32(ACCOUNTS_SLOT + 2 * id)));
        account.settled = uint64(hot);
        account.limit = uint64(hot >> 64);
        account.exposure = uint48(hot >> 128);
        account.lastSettledAt = uint40(hot >> 176);
        account.settleDeadline = hot >> 216;
        account.rest = hot & ~DEBITED;
        account.cold = uint256(vm.load(address(vault), bytes32(ACCOUNTS_SLOT + 2 * id + 1)));
    }

    function _debit(bytes memory rows, uint256 feeBps) private returns (bool done) {
        vm.prank(SETTLEMENT);
        (done,) = address(vault).call(abi.encodeCall(vault.debitBatch, (1, rows, uint16(feeBps))));
    }

    /// @dev What one transaction may do to an account, whatever the rows ask for.
    function _isDebit(Account memory before, Account memory got) private view returns (bool ok) {
        bool moved = got.settled != before.settled;
        ok = _and(got.settled <= got.limit, got.settled >= before.settled);
        unchecked {
            ok = _and(ok, got.settled - before.settled <= before.exposure);
            ok = _and(ok, _if(moved, block.timestamp >= before.lastSettledAt + VELOCITY_WINDOW));
        }
        ok = _and(ok, _if(moved, block.timestamp <= before.settleDeadline));
        ok = _and(ok, _if(moved, got.lastSettledAt == block.timestamp));
        ok = _and(ok, _if(!moved, got.lastSettledAt == before.lastSettledAt));
        ok = _and(ok, _and(got.rest == before.rest, got.cold == before.cold));
    }

    function check_OneRow() public {
        Account memory alice = _anyAccount(1);
        uint256 cumulative = svm.createUint(64, "cumulative");

        bool done = _debit(abi.encodePacked(uint32(1), uint16(1), uint32(1), uint64(cumulative)), 0);

        Account memory got = _account(1);
        bool ok = _and(done, _isDebit(alice, got));
        unchecked {
            uint256 debited = got.settled - alice.settled;
            ok = _and(ok, _or(debited == 0, got.settled <= cumulative));
            ok = _and(ok, _claimable(1) + _fees() == debited);
            ok = _and(ok, _fees() == 0);
            // Not short without a reason.
            bool fits = _and(block.timestamp <= alice.settleDeadline, cumulative <= alice.limit);
            fits = _and(fits, block.timestamp >= alice.lastSettledAt + VELOCITY_WINDOW);
            fits = _and(fits, cumulative <= alice.settled + alice.exposure);
            ok = _and(ok, _if(_and(fits, cumulative >= alice.settled), got.settled == cumulative));
        }
        assert(ok);
    }

    function check_TwoRowsOfOneAccount() public {
        Account memory alice = _anyAccount(1);
        uint256 first = svm.createUint(64, "first");
        uint256 second = svm.createUint(64, "second");

        bytes memory rows = abi.encodePacked(
            uint32(1), uint16(1), uint32(1), uint64(first), uint32(2), uint16(1), uint32(1), uint64(second)
        );
        bool done = _debit(rows, 0);

        Account memory got = _account(1);
        unchecked {
            bool conserved = _claimable(1) + _claimable(2) + _fees() == got.settled - alice.settled;
            assert(_and(_and(done, conserved), _isDebit(alice, got)));
        }
    }

    function check_TwoRowsOfTwoAccounts() public {
        Account memory alice = _anyAccount(1);
        Account memory bob = _anyAccount(2);
        uint256 first = svm.createUint(64, "first");
        uint256 second = svm.createUint(64, "second");

        bytes memory rows = abi.encodePacked(uint32(1), uint16(2), uint32(1), uint64(first), uint32(2), uint64(second));
        bool done = _debit(rows, 0);

        Account memory gotAlice = _account(1);
        Account memory gotBob = _account(2);
        unchecked {
            uint256 debited = gotAlice.settled - alice.settled + gotBob.settled - bob.settled;
            bool conserved = _and(_claimable(1) + _fees() == debited, _claimable(2) == 0);
            assert(_and(_and(done, conserved), _and(_isDebit(alice, gotAlice), _isDebit(bob, gotBob))));
        }
    }

    /// @dev A settlement contract that asks for more than the vault's ceiling gets nothing.
    function check_FeeCeiling() public {
        Account memory alice = _anyAccount(1);
        uint256 feeBps = svm.createUint(16, "feeBps");
        vm.assume(feeBps > 3_000);

        bool done = _debit(abi.encodePacked(uint32(1), uint16(1), uint32(1), type(uint64).max), feeBps);

        assert(_and(!done, _account(1).settled == alice.settled));
    }
}
