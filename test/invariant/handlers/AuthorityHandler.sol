// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Settlement} from "../../utils/System.sol";
import {vm} from "../../utils/Vm.sol";
import {Handler, World} from "./Handler.sol";

/// @notice A hostile owner and a hostile guardian: each uses every power that it has, whenever it can, and tries those that
/// it does not have.
contract AuthorityHandler is Handler {
    constructor(World memory world) Handler(world) {}

    // Owner

    function proposeFee(uint16 feeBps) external action("proposeFee") {
        feeBps %= 3_100;
        vm.prank(owner);
        try settlement.proposeFee(feeBps) {
            _check(feeBps <= 3_000, "I12: the fee has a ceiling");
            ghost.propose(_of("fee", settlement), feeBps);
        } catch {}
    }

    function acceptFee() external action("acceptFee") {
        bytes32 what = _of("fee", settlement);
        vm.prank(owner);
        try settlement.acceptFee() {
            _enforce(what, 2 * EXIT_DELAY, "I12: a fee waits twice the exit delay, and lapses");
        } catch {}
    }

    function proposeSettler(bool other) external action("proposeSettler") {
        (address next,) = makeActor(other ? "settler 2" : "settler");
        vm.prank(owner);
        settlement.proposeSettler(next);
        ghost.propose(_of("settler", settlement), uint160(next));
    }

    function acceptSettler() external action("acceptSettler") {
        bytes32 what = _of("settler", settlement);
        vm.prank(owner);
        try settlement.acceptSettler() {
            _enforce(what, 2 * EXIT_DELAY, "I11: a settler waits twice the exit delay, and lapses");
        } catch {}
    }

    function proposeSettlement() external action("proposeSettlement") {
        Settlement next = settlement == first ? second : first;
        vm.prank(owner);
        vault.proposeSettlement(address(next));
        ghost.propose("settlement", uint160(address(next)));
    }

    function acceptSettlement() external action("acceptSettlement") {
        vm.prank(owner);
        try vault.acceptSettlement() {
            _enforce("settlement", 2 * EXIT_DELAY, "I11: a settlement contract waits twice the exit delay, and lapses");
        } catch {}
    }

    function proposeDisputer(bool other) external action("proposeDisputer") {
        (address next,) = makeActor(other ? "disputer 2" : "disputer");
        vm.prank(owner);
        registry.proposeDisputer(next);
        ghost.propose("disputer", uint160(next));
    }

    function acceptDisputer() external action("acceptDisputer") {
        vm.prank(owner);
        try registry.acceptDisputer() {
            _enforce("disputer", 14 days, "I11: a disputer waits two weeks, and lapses");
        } catch {}
    }

    function dismissDisputer() external action("dismissDisputer") {
        vm.prank(owner);
        registry.dismissDisputer();
        ghost.setInForce("disputer", 0);
    }

    function sweepFees() external action("sweepFees") {
        uint64 amount = vault.fees();
        vm.prank(owner);
        try vault.sweepFees(owner) {
            ghost.add("swept", amount);
            ghost.add("owners", amount);
        } catch {}
    }

    function skimSurplus() external action("skimSurplus") {
        uint256 beforeWei = prlx.balanceOf(address(vault));
        vm.prank(owner);
        try vault.skimSurplus(owner) {
            uint256 skimmedWei = beforeWei - prlx.balanceOf(address(vault));
            _check(
                skimmedWei == ghost.totals("donatedWei") - ghost.totals("skimmedWei"), "I11: only donations are skimmed"
            );
            ghost.add("skimmedWei", skimmedWei);
        } catch {}
    }

    function _enforce(bytes32 what, uint256 delay, string memory rule) private {
        (uint256 value, uint256 at) = ghost.proposed(what);
        _check(at != 0 && _now() >= at + delay && _now() <= at + delay + 7 days, rule);
        ghost.setInForce(what, value);
        ghost.propose(what, value);
    }

    // Guardian

    function suspendDeposits(bool suspended) external action("suspendDeposits") {
        vm.prank(guardian);
        try vault.suspendDeposits(suspended) {
            _rest("deposits", suspended);
        } catch {}
    }

    function suspendSettler(bool suspended) external action("suspendSettler") {
        vm.prank(guardian);
        try settlement.suspendSettler(suspended) {
            _rest(_of("suspension", settlement), suspended);
        } catch {}
    }

    /// @dev 72 hours of suspension at most, and 72 hours of rest.
    function _rest(bytes32 what, bool suspended) private {
        if (suspended) {
            _check(_now() >= ghost.suspendableFrom(what), "I7: a suspension rests before it comes again");
            ghost.rest(what, _now() + 144 hours);
        } else {
            ghost.rest(what, _now() + 72 hours);
        }
    }

    // Powers that nobody has

    /// @dev Every function that moves credits or wiring, by everybody who may not call it.
    function attack(uint256 who, uint256 what) external action("attack") {
        address[5] memory actors = [guardian, settler, relayer, disputer, owner];
        address actor = actors[who % 5];
        (address victim,) = makeActor("payer 1");
        bytes memory rows = abi.encodePacked(uint32(1), uint16(1), uint32(2), type(uint64).max);
        bytes[9] memory calls = [
            abi.encodeCall(vault.debitBatch, (1, rows, 3_000)),
            abi.encodeCall(vault.setOperatorPayout, (1, actor)),
            abi.encodeCall(vault.withdraw, (1, actor)),
            abi.encodeCall(vault.initialize, (address(first), actor, actor)),
            abi.encodeCall(vault.revoke, ()),
            abi.encodeCall(prlx.transferFrom, (victim, actor, 1)),
            abi.encodeCall(registry.withdrawStake, ()),
            abi.encodeCall(registry.acceptPayout, ()),
            abi.encodeCall(registry.slash, (1, 1, bytes32(who)))
        ];
        uint256 index = what % 9;
        if (index == 8 && actor == registry.disputer()) return;
        address target = index == 5 ? address(prlx) : index >= 6 ? address(registry) : address(vault);
        uint256 beforeWei = prlx.balanceOf(victim);
        vm.prank(actor);
        (bool done,) = target.call(calls[index]);
        // A hostile token may say that it moved something and not do it.
        if (index == 5) done = prlx.balanceOf(victim) != beforeWei;
        _check(!done, "I11: nobody has a power that is not his");
    }

    /// @dev The owner's powers, by everybody else.
    function usurp(uint256 who, uint256 what) external action("usurp") {
        address[4] memory actors = [guardian, settler, relayer, disputer];
        address actor = actors[who % 4];
        bytes[7] memory owners = [
            abi.encodeCall(vault.sweepFees, (actor)),
            abi.encodeCall(vault.skimSurplus, (actor)),
            abi.encodeCall(vault.setGuardian, (actor)),
            abi.encodeCall(vault.proposeSettlement, (address(second))),
            abi.encodeCall(registry.proposeDisputer, (actor)),
            abi.encodeCall(registry.acceptDisputer, ()),
            abi.encodeCall(registry.dismissDisputer, ())
        ];
        uint256 index = what % 7;
        vm.prank(actor);
        (bool done,) = (index < 4 ? address(vault) : address(registry)).call(owners[index]);
        _check(!done, "I11: nobody has the owner's powers");
    }
}
