// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IOperatorRegistry} from "../../contracts/interfaces/IOperatorRegistry.sol";
import {IParalleliXAICredits} from "../../contracts/interfaces/IParalleliXAICredits.sol";
import {IParalleliXSettlement} from "../../contracts/interfaces/IParalleliXSettlement.sol";
import {Base} from "../Base.sol";
import {Settlement, System, Vault} from "../utils/System.sol";
import {vm} from "../utils/Vm.sol";

/// @notice The events that watchers of roles and operators live on; those of the money's way are asserted where it goes.
contract EventsTest is Base {
    function _expect(address emitter) private {
        vm.expectEmit(true, true, true, true, emitter);
    }

    function test_Wiring() public {
        Vault fresh = System.vault(address(prlx), owner, EXIT_DELAY, VELOCITY_WINDOW);
        Settlement its = System.settlement(fresh, registry, owner, settler, guardian, FEE_BPS);
        _expect(address(fresh));
        emit IParalleliXAICredits.Initialized(address(its), address(registry), guardian);
        vm.startPrank(owner);
        fresh.initialize(address(its), address(registry), guardian);
        _expect(address(fresh));
        emit IParalleliXAICredits.GuardianChanged(bob);
        fresh.setGuardian(bob);
        _expect(address(fresh));
        emit IParalleliXAICredits.SettlementProposed(address(its), START + 2 * EXIT_DELAY);
        fresh.proposeSettlement(address(its));
        _expect(address(fresh));
        emit IParalleliXAICredits.SettlementProposed(address(0), 0);
        fresh.proposeSettlement(address(0));
        fresh.proposeSettlement(address(its));
        vm.warp(START + 2 * EXIT_DELAY);
        _expect(address(fresh));
        emit IParalleliXAICredits.SettlementChanged(address(its));
        fresh.acceptSettlement();
        vm.stopPrank();
    }

    function test_SettlersAndFees() public {
        vm.startPrank(owner);
        _expect(address(settlement));
        emit IParalleliXSettlement.SettlerProposed(bob, START + 2 * EXIT_DELAY);
        settlement.proposeSettler(bob);
        _expect(address(settlement));
        emit IParalleliXSettlement.FeeProposed(3_000, START + 2 * EXIT_DELAY);
        settlement.proposeFee(3_000);
        (uint16 feeBps,) = settlement.proposedFee();
        assertEq(feeBps, 3_000, "the fee that is proposed");
        vm.warp(START + 2 * EXIT_DELAY);
        _expect(address(settlement));
        emit IParalleliXSettlement.SettlerChanged(bob);
        settlement.acceptSettler();
        (address proposed, uint40 readyAt) = settlement.proposedSettler();
        assertEq(proposed, address(0), "nobody is proposed any more");
        assertEq(readyAt, 0, "nor ready");
        _expect(address(settlement));
        emit IParalleliXSettlement.FeeChanged(3_000);
        settlement.acceptFee();
        (feeBps, readyAt) = settlement.proposedFee();
        assertEq(feeBps, 0, "no fee is proposed any more");
        _expect(address(settlement));
        emit IParalleliXSettlement.GuardianChanged(bob);
        settlement.setGuardian(bob);
        _expect(address(settlement));
        emit IParalleliXSettlement.SettlerProposed(address(0), 0);
        settlement.proposeSettler(address(0));
        vm.stopPrank();
    }

    function test_Suspensions() public {
        vm.startPrank(guardian);
        _expect(address(vault));
        emit IParalleliXAICredits.DepositsSuspended(START + 72 hours);
        vault.suspendDeposits(true);
        _expect(address(vault));
        emit IParalleliXAICredits.DepositsResumed();
        vault.suspendDeposits(false);
        _expect(address(settlement));
        emit IParalleliXSettlement.SettlerSuspended(START + 72 hours);
        settlement.suspendSettler(true);
        _expect(address(settlement));
        emit IParalleliXSettlement.SettlerResumed();
        settlement.suspendSettler(false);
        vm.stopPrank();
        (uint40 until, uint40 nextFrom) = settlement.settlerSuspension();
        assertEq(until, START, "lifted");
        assertEq(nextFrom, START + 72 hours, "and rests");
    }

    function test_FeesSurplusAndClosure() public {
        uint32 account = _fund(alice, aliceKey, 1_000, 500, 50);
        _settle(_rows(_register(opal), account, 50));
        vm.prank(alice);
        prlx.transfer(address(vault), 7);
        vm.startPrank(owner);
        _expect(address(vault));
        emit IParalleliXAICredits.FeesSwept(bob, 5);
        vault.sweepFees(bob);
        _expect(address(vault));
        emit IParalleliXAICredits.SurplusSkimmed(bob, 7);
        vault.skimSurplus(bob);
        vm.stopPrank();
        IParalleliXAICredits.ClosureClearance memory clearance =
            IParalleliXAICredits.ClosureClearance({account: account, settled: 50, authNonce: 1, deadline: _now()});
        bytes memory signature = _signClearance(settlerKey, clearance);
        _expect(address(vault));
        emit IParalleliXAICredits.Closed(account, 50);
        vm.prank(alice);
        vault.closeWithClearance(clearance, signature);
    }

    function test_OperatorsAndKeys() public {
        _expect(address(vault));
        emit IParalleliXAICredits.OperatorPayoutSet(1, otto);
        vm.startPrank(opal);
        registry.register(otto, 0);
        (address node, uint256 key) = makeActor("node");
        bytes32 structHash = keccak256(abi.encode(keccak256("NodeKey(uint32 operator,address key)"), 1, node));
        bytes memory proof = _sign(key, _digest(registry.DOMAIN_SEPARATOR(), structHash));
        _expect(address(registry));
        emit IOperatorRegistry.NodeKeyAdded(1, node);
        registry.addNodeKey(node, proof);
        _expect(address(registry));
        emit IOperatorRegistry.NodeKeyRemoved(1, node);
        registry.removeNodeKey(node);
        _expect(address(registry));
        emit IOperatorRegistry.PayoutProposed(1, bob, START + 24 hours);
        registry.proposePayout(bob);
        (address proposed, uint40 readyAt) = registry.proposedPayout(1);
        assertEq(proposed, bob, "proposed");
        assertEq(readyAt, START + 24 hours, "readyAt");
        _skip(24 hours);
        _expect(address(registry));
        emit IOperatorRegistry.PayoutChanged(1, bob);
        registry.acceptPayout();
        vm.stopPrank();
    }

    function test_Disputers() public {
        vm.startPrank(owner);
        _expect(address(registry));
        emit IOperatorRegistry.DisputerProposed(bob, START + 14 days);
        registry.proposeDisputer(bob);
        _skip(14 days);
        _expect(address(registry));
        emit IOperatorRegistry.DisputerChanged(bob);
        registry.acceptDisputer();
        _expect(address(registry));
        emit IOperatorRegistry.DisputerProposed(address(0), 0);
        registry.proposeDisputer(address(0));
        _expect(address(registry));
        emit IOperatorRegistry.DisputerChanged(address(0));
        registry.dismissDisputer();
        vm.stopPrank();
    }

    function test_Stakes() public {
        vm.prank(alice);
        prlx.transfer(opal, 100 * WEI_PER_CREDIT);
        _register(opal);
        vm.startPrank(opal);
        prlx.approve(address(registry), type(uint256).max);
        registry.stake(60);
        _expect(address(registry));
        emit IOperatorRegistry.Staked(1, 40, 100);
        registry.stake(40);
        _expect(address(registry));
        emit IOperatorRegistry.UnstakeStarted(1, 30, START + 7 days);
        registry.unstake(30);
        registry.unstake(10);
        (uint64 staked, uint64 unbonding, uint40 releaseAt) = registry.stakeOf(1);
        assertEq(staked, 60, "staked");
        assertEq(unbonding, 40, "unbonding");
        assertEq(releaseAt, START + 7 days, "releaseAt");
        vm.stopPrank();

        _expect(address(registry));
        emit IOperatorRegistry.Slashed(1, "incident", 20);
        vm.prank(disputer);
        registry.slash(1, 20, "incident");
        _skip(24 hours);
        vm.prank(disputer);
        registry.slash(1, 5, "another");
        _skip(7 days);
        _expect(address(registry));
        emit IOperatorRegistry.StakeWithdrawn(1, opal, 40);
        vm.prank(opal);
        registry.withdrawStake();
        vm.startPrank(owner);
        _expect(address(registry));
        emit IOperatorRegistry.SlashedSwept(bob, 25);
        registry.sweepSlashed(bob);
        uint256 heldWei = prlx.balanceOf(bob);
        registry.sweepSlashed(bob);
        assertEq(prlx.balanceOf(bob), heldWei, "a second sweep pays nothing");
        vm.expectRevert(IOperatorRegistry.ZeroAddress.selector);
        registry.sweepSlashed(address(0));
        vm.stopPrank();
    }
}
