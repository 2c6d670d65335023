// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IParalleliXAICredits} from "../../contracts/interfaces/IParalleliXAICredits.sol";
import {Base} from "../Base.sol";
import {Settlement} from "../utils/System.sol";
import {vm} from "../utils/Vm.sol";
import {Ghost} from "./Ghost.sol";

/// @notice The formulas that need no knowledge of the last action; the handlers check the others. What these simulate (an
/// exit, a collection) is undone: a campaign keeps nothing that an invariant does.
abstract contract InvariantRules is Base {
    uint32 internal constant PAYERS = 3;
    uint32 internal constant OPERATORS = 3;

    Ghost internal ghost;
    Settlement internal first;
    Settlement internal second;

    function _total(bytes32 name) private view returns (uint256) {
        return ghost.totals(name);
    }

    /// @dev I1 and, over all time, I4.
    function _checkSolvency() internal view {
        uint256 balances = 0;
        uint256 settled = 0;
        uint256 claimable = 0;
        for (uint32 id = 1; id <= PAYERS; ++id) {
            balances += vault.balance(id);
            settled += _view(id).settled;
        }
        for (uint32 id = 1; id <= OPERATORS; ++id) {
            claimable += _claimable(id);
        }
        uint256 owed = balances + claimable + vault.fees();
        assertEq(vault.liabilities(), owed, "I1: liabilities = balances + claimable + fees");
        assertEq(
            prlx.balanceOf(address(vault)),
            owed * WEI_PER_CREDIT + _total("donatedWei") - _total("skimmedWei"),
            "I1: PRLX = 1e9 * (balances + claimable + fees) + donations"
        );
        assertEq(
            owed,
            _total("deposited") - _total("withdrawn") - _total("claimed") - _total("swept"),
            "I1: owed = deposited - withdrawn - claimed - swept"
        );
        assertEq(
            settled,
            claimable + _total("claimed") + vault.fees() + _total("swept"),
            "I4: settled = claimable + claimed + fees + swept"
        );

        uint256 staked = registry.slashedCredits();
        for (uint32 id = 1; id <= OPERATORS; ++id) {
            (uint64 bonded, uint64 unbonding,) = registry.stakeOf(id);
            staked += uint256(bonded) + unbonding;
        }
        assertEq(staked, _total("staked") - _total("unstaked"), "I1: stakes = staked - paid out");
        assertEq(prlx.balanceOf(address(registry)), staked * WEI_PER_CREDIT, "I1: PRLX of the registry = stakes");
    }

    /// @dev I2, I3, I5 and I8b.
    function _checkAccount(uint32 id) internal view {
        IParalleliXAICredits.AccountView memory account = _view(id);
        assertLe(account.settled, account.authorizedCum, "I2: settled <= authorizedCum");
        assertLe(account.settled, ghost.signedCaps(id), "I2: settled <= sum of the caps signed");
        assertEq(account.authNonce, ghost.signatures(id), "I2: a nonce for each signature that counted");

        uint64 lower = account.netDeposited < account.authorizedCum ? account.netDeposited : account.authorizedCum;
        assertEq(account.limit, lower, "I3: limit = min(netDeposited, authorizedCum)");
        assertLe(account.settled, account.limit, "I3: settled <= limit");
        assertEq(vault.free(id) + vault.locked(id), vault.balance(id), "I3: balance = free + locked");

        assertLe(account.settled, ghost.requested(id), "I5: settled <= highest cumulative asked for");
        if (_now() <= account.settleDeadline) {
            assertLe(ghost.metered(id), account.settled + vault.locked(id), "I8b: metered - settled <= locked");
        }
    }

    /// @dev I11 and I12: nobody but payers, operators' payees and, for fees and slashes, the owner ever gets PRLX.
    function _checkAuthority() internal view virtual {
        address[4] memory actors = [guardian, settler, relayer, disputer];
        for (uint256 i = 0; i < 4; ++i) {
            assertEq(prlx.balanceOf(actors[i]), 0, "I11: no role earns PRLX");
        }
        uint256 ownersWei = _total("owners") * WEI_PER_CREDIT + _total("skimmedWei");
        assertLe(prlx.balanceOf(owner), ownersWei, "I11: the owner earns fees, slashes and donations");
        assertLe(first.feeBps(), 3_000, "I12: fee <= 30 %");
        assertLe(second.feeBps(), 3_000, "I12: fee <= 30 %");
    }

    function _beforeExit() internal virtual {}

    /// @dev I7: the payer leaves; settler and guardian do all that they can against it.
    function _checkExit(uint32 id) internal {
        IParalleliXAICredits.AccountView memory before = _view(id);
        uint64 balance = vault.balance(id);
        uint64 locked = vault.locked(id);
        _beforeExit();
        _suspend(address(vault), abi.encodeCall(vault.suspendDeposits, (true)));
        vm.prank(before.owner);
        vault.revoke();
        uint40 deadline = _view(id).settleDeadline;
        assertLe(deadline, before.settleDeadline < _now() ? _now() : _now() + EXIT_DELAY, "I7: within the exit delay");

        for (uint256 i = 0; i < 3 && _now() <= deadline; ++i) {
            _debit(id, type(uint64).max);
            vm.warp(_now() + VELOCITY_WINDOW);
        }
        vm.warp(deadline >= _now() ? deadline + 1 : _now());
        uint64 left = vault.balance(id);
        assertLe(balance - left, locked, "I7: at most what was locked is debited");
        _debit(id, type(uint64).max);
        assertEq(vault.balance(id), left, "I7: nothing is debited after the deadline");
        _suspend(address(settlement), abi.encodeCall(settlement.suspendSettler, (true)));
        if (left == 0) return;
        (address refuge,) = makeActor("refuge");
        vm.prank(before.owner);
        vault.withdraw(left, refuge);
        assertEq(prlx.balanceOf(refuge), left * WEI_PER_CREDIT, "I7: everything else leaves");
        assertEq(vault.balance(id), 0, "I7: nothing stays");
    }

    /// @dev I8: the payer withdraws and revokes; all that is metered is collected all the same.
    function _checkCoverage(uint32 id) internal {
        IParalleliXAICredits.AccountView memory before = _view(id);
        uint256 metered = ghost.metered(id);
        if (metered == before.settled || _now() > before.settleDeadline) return;
        _beforeExit();
        (address refuge,) = makeActor("refuge");
        uint64 free = vault.free(id);
        vm.prank(before.owner);
        vault.revoke();
        vm.prank(before.owner);
        if (free != 0) vault.withdraw(free, refuge);

        uint40 ready = before.lastSettledAt + VELOCITY_WINDOW;
        if (ready > _now()) vm.warp(ready);
        bool open = _now() <= _view(id).settleDeadline;
        if (_debit(id, uint64(metered)) && open) assertEq(_view(id).settled, metered, "I8: all metered is collected");
    }

    function _suspend(address target, bytes memory call) private {
        vm.prank(guardian);
        // Fails while it rests; it is suspended already, or was not long ago.
        (bool done,) = target.call(call);
        done;
    }

    /// @dev The settler's worst row; false while it is suspended.
    function _debit(uint32 id, uint64 cumulative) private returns (bool) {
        settlement = Settlement(vault.settlement());
        (address other, uint256 otherKey) = makeActor("settler 2");
        if (settlement.settler() == other) settlerKey = otherKey;
        (uint40 suspendedUntil,) = settlement.settlerSuspension();
        if (_now() < suspendedUntil) return false;
        _settle(_rows(2, id, cumulative));
        return true;
    }
}
