// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {vm} from "../../utils/Vm.sol";
import {Handler, World} from "./Handler.sol";

/// @notice Operators who claim, change where they are paid, stake and leave; a disputer that slashes whenever it may.
contract OperatorHandler is Handler {
    uint256 private incidents;

    constructor(World memory world) Handler(world) {}

    function claim(uint256 seed) external action("claim") {
        (, uint32 operator) = _operatorOwner(seed);
        uint64 amount = _claimable(operator);
        address payout = registry.payoutOf(operator);
        uint256 beforeWei = prlx.balanceOf(payout);
        vm.prank(stranger);
        try vault.claim(operator) {
            ghost.add("claimed", amount);
            _check(_claimable(operator) == 0, "I11: a claim pays all that is claimable");
            _check(amount == 0 || prlx.balanceOf(payout) > beforeWei, "I11: a claim pays where the registry says");
        } catch {
            _check(_claimable(operator) == amount, "I4: a claim that fails keeps the credits");
        }
    }

    function claimMany(uint256 seed) external action("claimMany") {
        uint32[] memory ids = new uint32[](OPERATORS + 2);
        uint256 amount = 0;
        for (uint32 i = 0; i < OPERATORS; ++i) {
            ids[i] = 1 + (i + uint32(seed % OPERATORS)) % OPERATORS;
            amount += _claimable(ids[i]);
        }
        // An unknown one, and one twice.
        (ids[OPERATORS], ids[OPERATORS + 1]) = (99, 1);
        vm.prank(stranger);
        try vault.claimMany(ids) {
            uint256 left = 0;
            for (uint32 id = 1; id <= OPERATORS; ++id) {
                left += _claimable(id);
            }
            ghost.add("claimed", amount - left);
        } catch {}
    }

    function changePayout(uint256 seed, uint256 payee) external action("changePayout") {
        (address operatorOwner, uint32 operator) = _operatorOwner(seed);
        (address payout,) = makeActor(string.concat("payee ", vm.toString(payee % 3)));
        vm.prank(operatorOwner);
        registry.proposePayout(payout);
        ghost.propose(keccak256(abi.encode("payout", operator)), uint160(payout));
    }

    function acceptPayout(uint256 seed) external action("acceptPayout") {
        (address operatorOwner, uint32 operator) = _operatorOwner(seed);
        (uint256 value, uint256 at) = ghost.proposed(keccak256(abi.encode("payout", operator)));
        vm.prank(operatorOwner);
        try registry.acceptPayout() {
            bool inTime = _now() >= at + 24 hours && _now() <= at + 8 days;
            _check(inTime, "I11: a payout address changes after a day, or lapses");
            _check(uint160(registry.payoutOf(operator)) == value, "I11: to the one that was announced");
        } catch {}
    }

    function stake(uint256 seed, uint64 amount) external action("stake") {
        (address operatorOwner,) = _operatorOwner(seed);
        amount = uint64(bound(amount, 1, 2 * INCIDENT_CAP));
        vm.prank(operatorOwner);
        prlx.approve(address(registry), amount * WEI_PER_CREDIT);
        vm.prank(operatorOwner);
        try registry.stake(amount) {
            ghost.add("staked", amount);
        } catch {}
    }

    function unstake(uint256 seed, uint64 amount) external action("unstake") {
        (address operatorOwner, uint32 operator) = _operatorOwner(seed);
        (uint64 staked,,) = registry.stakeOf(operator);
        if (staked == 0) return;
        vm.prank(operatorOwner);
        registry.unstake(uint64(bound(amount, 1, staked)));
        ghost.propose(keccak256(abi.encode("unstake", operator)), 0);
    }

    function withdrawStake(uint256 seed) external action("withdrawStake") {
        (address operatorOwner, uint32 operator) = _operatorOwner(seed);
        (, uint64 unbonding,) = registry.stakeOf(operator);
        (, uint256 at) = ghost.proposed(keccak256(abi.encode("unstake", operator)));
        vm.prank(operatorOwner);
        try registry.withdrawStake() {
            ghost.add("unstaked", unbonding);
            _check(_now() >= at + 7 days, "I11: stake leaves a week after it was last unstaked");
        } catch {}
    }

    function slash(uint256 seed, uint64 amount) external action("slash") {
        (, uint32 operator) = _operatorOwner(seed);
        amount = uint64(bound(amount, 1, 2 * INCIDENT_CAP));
        bytes32 what = keccak256(abi.encode("slash", operator));
        // Nobody can send from address zero, which is there once the disputer is dismissed.
        address caller = registry.disputer();
        if (caller == address(0)) caller = disputer;
        vm.prank(caller);
        try registry.slash(operator, amount, bytes32(++incidents)) {
            (, uint256 at) = ghost.proposed(what);
            _check(registry.disputer() != address(0), "I11: a dismissed disputer slashes nobody");
            _check(amount <= INCIDENT_CAP, "I11: an incident takes at most its cap");
            _check(at == 0 || _now() >= at + 24 hours, "I11: a slash a day");
            ghost.propose(what, amount);
        } catch {}
    }

    function sweepSlashed() external action("sweepSlashed") {
        uint64 amount = registry.slashedCredits();
        vm.prank(owner);
        try registry.sweepSlashed(owner) {
            ghost.add("unstaked", amount);
            ghost.add("owners", amount);
        } catch {}
    }

    /// @dev Long enough for payout changes and unbonding.
    function passDays(uint256 duration) external action("passDays") {
        ghost.pass(bound(duration, 1 days, 8 days));
    }
}
