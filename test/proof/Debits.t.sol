// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {vm} from "../utils/Vm.sol";
import {SymbolicVault, svm} from "./SymbolicVault.sol";

/// @notice I2, I3 and I4 for any batch of one or two rows, from any state of the accounts.
contract DebitsProof is SymbolicVault {
    function _debit(bytes memory rows, uint256 feeBps) private returns (bool done) {
        vm.prank(SETTLEMENT);
        (done,) = address(vault).call(abi.encodeCall(vault.debitBatch, (1, rows, uint16(feeBps))));
    }

    /// @dev What one transaction may do to an account, whatever the rows ask for.
    function _assertDebit(State memory before, State memory got) private view {
        _assertRules(got);
        assert(got.settled >= before.settled);
        assert(got.settled - before.settled <= before.exposure);
        assert(got.settled == before.settled || block.timestamp <= before.settleDeadline);
        assert(got.settled == before.settled || block.timestamp >= before.lastSettledAt + VELOCITY_WINDOW);
        assert(got.netDeposited == before.netDeposited);
        assert(got.authorizedCum == before.authorizedCum);
        assert(got.exposure == before.exposure);
        assert(got.settleDeadline == before.settleDeadline);
        assert(got.authNonce == before.authNonce);
        assert(got.owner == before.owner);
    }

    function check_OneRow() public {
        State memory alice = _anyState(1, ALICE);
        uint256 cumulative = svm.createUint(64, "cumulative");
        uint256 feeBps = svm.createUint(16, "feeBps");
        uint256 fees = vault.fees();

        bool done = _debit(abi.encodePacked(uint32(1), uint16(1), uint32(1), uint64(cumulative)), feeBps);

        assert(done == (feeBps <= 3_000));
        State memory got = _state(1);
        _assertDebit(alice, got);
        uint256 debited = got.settled - alice.settled;
        assert(debited == 0 || got.settled <= cumulative);
        assert(_claimable(1) + vault.fees() - fees == debited);
        assert(done ? vault.fees() - fees == debited * feeBps / 10_000 : debited == 0);
        // Not short without a reason.
        bool open =
            block.timestamp <= alice.settleDeadline && block.timestamp >= alice.lastSettledAt + VELOCITY_WINDOW && done;
        if (open && cumulative <= alice.limit && cumulative <= alice.settled + alice.exposure) {
            assert(got.settled == (cumulative > alice.settled ? cumulative : alice.settled));
        }
    }

    function check_TwoRowsOfOneAccount() public {
        State memory alice = _anyState(1, ALICE);
        uint256 first = svm.createUint(64, "first");
        uint256 second = svm.createUint(64, "second");

        bytes memory rows = abi.encodePacked(
            uint32(1), uint16(1), uint32(1), uint64(first), uint32(2), uint16(1), uint32(1), uint64(second)
        );
        assert(_debit(rows, 1_000));

        State memory got = _state(1);
        _assertDebit(alice, got);
        assert(_claimable(1) + _claimable(2) + vault.fees() == got.settled - alice.settled);
    }

    function check_TwoRowsOfTwoAccounts() public {
        State memory alice = _anyState(1, ALICE);
        State memory bob = _anyState(2, BOB);
        uint256 first = svm.createUint(64, "first");
        uint256 second = svm.createUint(64, "second");

        bytes memory rows = abi.encodePacked(uint32(1), uint16(2), uint32(1), uint64(first), uint32(2), uint64(second));
        assert(_debit(rows, 1_000));

        State memory gotAlice = _state(1);
        State memory gotBob = _state(2);
        _assertDebit(alice, gotAlice);
        _assertDebit(bob, gotBob);
        uint256 debited = gotAlice.settled - alice.settled + gotBob.settled - bob.settled;
        assert(_claimable(1) + vault.fees() == debited);
        assert(_claimable(2) == 0);
    }
}
