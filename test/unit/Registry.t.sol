// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";

import {IOperatorRegistry} from "../../contracts/interfaces/IOperatorRegistry.sol";
import {Base} from "../Base.sol";
import {vm} from "../utils/Vm.sol";

contract OperatorsTest is Base {
    address private node;
    uint256 private nodeKey;

    function setUp() public override {
        super.setUp();
        (node, nodeKey) = makeActor("node");
    }

    function _proof(uint256 key, uint32 operator, address node_) private view returns (bytes memory) {
        bytes32 structHash = keccak256(abi.encode(keccak256("NodeKey(uint32 operator,address key)"), operator, node_));
        return _sign(key, _digest(registry.DOMAIN_SEPARATOR(), structHash));
    }

    function test_RevertWhen_RegisteredTwice() public {
        _register(opal);
        vm.prank(opal);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.AlreadyRegistered.selector, opal, 1));
        registry.register(otto, 0);
    }

    function test_RegisterTellsTheVaultWhereToPay() public {
        vm.expectEmit(true, true, true, true, address(registry));
        emit IOperatorRegistry.OperatorRegistered(1, opal, otto, keccak256("about"));
        vm.prank(opal);
        uint32 operator = registry.register(otto, keccak256("about"));

        assertEq(operator, 1, "id");
        assertEq(registry.operatorOf(opal), 1, "operator of its owner");
        assertEq(registry.ownerOfOperator(1), opal, "owner");
        assertEq(registry.operatorCount(), 1, "number of operators");
        assertEq(registry.payoutOf(1), otto, "payout in the registry");
        assertEq(vault.operators(_ids(1))[0].payout, otto, "payout in the vault");
        assertEq(registry.payoutOf(2), address(0), "no payout of an unknown operator");
    }

    function test_RevertWhen_KeyIsNotProvenByItself() public {
        uint32 operator = _register(opal);
        bytes memory proof = _proof(aliceKey, operator, node);
        vm.prank(opal);
        vm.expectPartialRevert(IOperatorRegistry.InvalidSignature.selector);
        registry.addNodeKey(node, proof);
        proof = _proof(nodeKey, operator + 1, node);
        vm.prank(opal);
        vm.expectPartialRevert(IOperatorRegistry.InvalidSignature.selector);
        registry.addNodeKey(node, proof);
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.NotRegistered.selector, stranger));
        registry.addNodeKey(node, proof);
    }

    function test_KeyBelongsToOneOperatorForEver() public {
        uint32 opals = _register(opal);
        uint32 ottos = _register(otto);
        bytes memory proof = _proof(nodeKey, opals, node);
        vm.prank(opal);
        registry.addNodeKey(node, proof);
        (uint32 operator, uint40 since, uint40 until) = registry.operatorOfNode(node);
        assertEq(operator, opals, "operator");
        assertEq(since, START, "since");
        assertEq(until, 0, "until");

        _skip(10);
        vm.prank(otto);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.NodeKeyNotActive.selector, node, ottos));
        registry.removeNodeKey(node);
        vm.prank(opal);
        registry.removeNodeKey(node);
        (,, until) = registry.operatorOfNode(node);
        assertEq(until, START + 10, "until");
        vm.prank(opal);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.NodeKeyNotActive.selector, node, opals));
        registry.removeNodeKey(node);
        vm.prank(opal);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.NodeKeyTaken.selector, node, opals));
        registry.addNodeKey(node, proof);
        proof = _proof(nodeKey, ottos, node);
        vm.prank(otto);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.NodeKeyTaken.selector, node, opals));
        registry.addNodeKey(node, proof);
    }

    function test_PayoutChangesAfterADay() public {
        uint32 operator = _register(opal);
        vm.prank(opal);
        vm.expectRevert(IOperatorRegistry.NothingProposed.selector);
        registry.acceptPayout();
        vm.prank(opal);
        vm.expectRevert(IOperatorRegistry.ZeroAddress.selector);
        registry.proposePayout(address(0));
        vm.prank(opal);
        registry.proposePayout(otto);
        _skip(24 hours - 1);
        vm.prank(opal);
        _expectNotReady(START + 24 hours);
        registry.acceptPayout();
        assertEq(registry.payoutOf(operator), opal, "payout before");
        _skip(1);

        vm.prank(opal);
        registry.acceptPayout();

        assertEq(registry.payoutOf(operator), otto, "payout after");
        (address proposed,) = registry.proposedPayout(operator);
        assertEq(proposed, address(0), "nothing proposed");
    }

    function test_AForgottenPayoutProposalLapses() public {
        uint32 operator = _register(opal);
        vm.prank(opal);
        registry.proposePayout(otto);
        _skip(24 hours + 7 days + 1);
        vm.prank(opal);
        _expectNotReady(START + 24 hours);
        registry.acceptPayout();
        assertEq(registry.payoutOf(operator), opal, "payout of a lapsed proposal");

        vm.prank(opal);
        registry.proposePayout(otto);
        _skip(24 hours + 7 days);
        vm.prank(opal);
        registry.acceptPayout();
        assertEq(registry.payoutOf(operator), otto, "accepted in the last second");
    }

    function _expectNotReady(uint40 readyAt) private {
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.ProposalNotReady.selector, readyAt, readyAt + 7 days));
    }
}

contract StakeTest is Base {
    uint32 private operator;

    function setUp() public override {
        super.setUp();
        vm.prank(alice);
        prlx.transfer(opal, 3_000_000 * WEI_PER_CREDIT);
        operator = _register(opal);
        vm.prank(opal);
        prlx.approve(address(registry), type(uint256).max);
        vm.prank(opal);
        registry.stake(3_000_000);
    }

    function _assertStake(uint64 staked, uint64 unbonding, string memory label) private view {
        (uint64 gotStaked, uint64 gotUnbonding,) = registry.stakeOf(operator);
        assertEq(gotStaked, staked, string.concat(label, ": staked"));
        assertEq(gotUnbonding, unbonding, string.concat(label, ": unbonding"));
    }

    function _slash(uint64 amount, bytes32 incident) private {
        vm.prank(disputer);
        registry.slash(operator, amount, incident);
    }

    function test_RevertWhen_AmountZeroOrTooMuch() public {
        vm.prank(opal);
        vm.expectRevert(IOperatorRegistry.ZeroAmount.selector);
        registry.stake(0);
        vm.prank(opal);
        vm.expectRevert(IOperatorRegistry.ZeroAmount.selector);
        registry.unstake(0);
        vm.prank(opal);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.InsufficientStake.selector, 3_000_000, 3_000_001));
        registry.unstake(3_000_001);
        vm.prank(opal);
        vm.expectRevert(IOperatorRegistry.ZeroAmount.selector);
        registry.withdrawStake();
    }

    function test_UnstakedCreditsLeaveAfterAWeek() public {
        _assertStake(3_000_000, 0, "staked");
        assertEq(prlx.balanceOf(address(registry)), 3_000_000 * WEI_PER_CREDIT, "PRLX held");
        vm.prank(opal);
        registry.unstake(1_000_000);
        _assertStake(2_000_000, 1_000_000, "unstaked");
        _skip(7 days - 1);
        vm.prank(opal);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.StillUnbonding.selector, START + 7 days, _now()));
        registry.withdrawStake();
        _skip(1);

        vm.prank(opal);
        registry.withdrawStake();

        _assertStake(2_000_000, 0, "withdrawn");
        assertEq(prlx.balanceOf(opal), 1_000_000 * WEI_PER_CREDIT, "PRLX paid");
    }

    function test_RevertWhen_SlashIsOutOfBounds() public {
        vm.prank(owner);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.UnauthorizedCaller.selector, owner, disputer));
        registry.slash(operator, 1, "a");
        vm.prank(disputer);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.OperatorUnknown.selector, 9));
        registry.slash(9, 1, "a");
        vm.prank(disputer);
        vm.expectRevert(IOperatorRegistry.ZeroAmount.selector);
        registry.slash(operator, 0, "a");
        vm.prank(disputer);
        vm.expectRevert(
            abi.encodeWithSelector(IOperatorRegistry.IncidentCapExceeded.selector, INCIDENT_CAP + 1, INCIDENT_CAP)
        );
        registry.slash(operator, INCIDENT_CAP + 1, "a");
        _slash(1, "a");
        vm.prank(disputer);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.IncidentUsed.selector, bytes32("a")));
        registry.slash(operator, 1, "a");
        vm.prank(disputer);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.SlashedRecently.selector, START + 24 hours, START));
        registry.slash(operator, 1, "b");
    }

    function test_UnbondingStakeIsSlashed() public {
        vm.prank(opal);
        registry.unstake(2_900_000);

        _slash(1_000_000, "a");

        _assertStake(0, 2_000_000, "slashed");
        assertEq(registry.slashedCredits(), 1_000_000, "slashed credits");
        vm.prank(owner);
        registry.sweepSlashed(owner);
        assertEq(prlx.balanceOf(owner), 1_000_000 * WEI_PER_CREDIT, "swept");
        assertEq(registry.slashedCredits(), 0, "nothing left");
        assertEq(prlx.balanceOf(address(registry)), 2_000_000 * WEI_PER_CREDIT, "PRLX held");
    }

    function test_RevertWhen_SlashIsAboveTheStake() public {
        _slash(INCIDENT_CAP, "a");
        _skip(24 hours);
        _slash(INCIDENT_CAP, "b");
        _skip(24 hours);
        vm.prank(opal);
        registry.unstake(999_999);
        _skip(7 days);
        vm.prank(opal);
        registry.withdrawStake();
        vm.prank(disputer);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.InsufficientStake.selector, 1, 2));
        registry.slash(operator, 2, "c");
    }

    function test_ASingleSlashedCreditIsSweptAndNoneIsNoEvent() public {
        _slash(1, "a");
        vm.prank(owner);
        registry.sweepSlashed(owner);
        assertEq(prlx.balanceOf(owner), WEI_PER_CREDIT, "swept");
        vm.recordLogs();
        vm.prank(owner);
        registry.sweepSlashed(owner);
        assertEq(vm.getRecordedLogs().length, 0, "nothing to say");
    }

    function test_OnlyTheOwnerSweeps() public {
        vm.prank(disputer);
        vm.expectRevert(abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, disputer));
        registry.sweepSlashed(stranger);
    }
}

contract DisputerTest is Base {
    function _expectNotReady(uint40 readyAt) private {
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.ProposalNotReady.selector, readyAt, readyAt + 7 days));
    }

    function _assertProposed(address proposed, uint40 readyAt, string memory label) private view {
        (address gotProposed, uint40 gotReadyAt) = registry.proposedDisputer();
        assertEq(gotProposed, proposed, string.concat(label, ": proposed"));
        assertEq(gotReadyAt, readyAt, string.concat(label, ": readyAt"));
    }

    function test_OnlyTheOwnerNamesAndDismisses() public {
        bytes[3] memory calls = [
            abi.encodeCall(registry.proposeDisputer, (stranger)),
            abi.encodeCall(registry.acceptDisputer, ()),
            abi.encodeCall(registry.dismissDisputer, ())
        ];
        vm.prank(owner);
        registry.proposeDisputer(bob);
        _skip(14 days);
        for (uint256 i = 0; i < calls.length; ++i) {
            vm.prank(disputer);
            (bool done, bytes memory answer) = address(registry).call(calls[i]);
            assertTrue(!done, "only the owner");
            assertEq(
                answer, abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, disputer), "unauthorized"
            );
        }
        assertEq(registry.disputer(), disputer, "disputer");
        _assertProposed(bob, START + 14 days, "as it was");
    }

    function test_ADisputerChangesAfterTwiceTheUnbonding() public {
        vm.prank(owner);
        vm.expectRevert(IOperatorRegistry.NothingProposed.selector);
        registry.acceptDisputer();
        vm.prank(owner);
        registry.proposeDisputer(bob);
        _assertProposed(bob, START + 14 days, "announced");
        _skip(14 days - 1);
        vm.prank(owner);
        _expectNotReady(START + 14 days);
        registry.acceptDisputer();
        assertEq(registry.disputer(), disputer, "disputer before");
        _skip(1);

        vm.prank(owner);
        registry.acceptDisputer();

        assertEq(registry.disputer(), bob, "disputer after");
        _assertProposed(address(0), 0, "nothing left");
        vm.prank(owner);
        vm.expectRevert(IOperatorRegistry.NothingProposed.selector);
        registry.acceptDisputer();
    }

    function test_ADisputerProposalLapsesAndIsWithdrawn() public {
        vm.prank(owner);
        registry.proposeDisputer(bob);
        _skip(21 days + 1);
        vm.prank(owner);
        _expectNotReady(START + 14 days);
        registry.acceptDisputer();

        vm.prank(owner);
        registry.proposeDisputer(bob);
        vm.prank(owner);
        registry.proposeDisputer(address(0));
        _assertProposed(address(0), 0, "withdrawn");
        _skip(14 days);
        vm.prank(owner);
        vm.expectRevert(IOperatorRegistry.NothingProposed.selector);
        registry.acceptDisputer();

        vm.prank(owner);
        registry.proposeDisputer(bob);
        _skip(21 days);
        vm.prank(owner);
        registry.acceptDisputer();
        assertEq(registry.disputer(), bob, "accepted in the last second");
    }

    function test_ADismissedDisputerSlashesNobody() public {
        uint32 operator = _register(opal);
        vm.prank(owner);
        registry.proposeDisputer(bob);
        vm.prank(owner);
        registry.dismissDisputer();

        assertEq(registry.disputer(), address(0), "nobody");
        vm.prank(disputer);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.UnauthorizedCaller.selector, disputer, address(0)));
        registry.slash(operator, 1, "a");
        _assertProposed(bob, START + 14 days, "the next one waits on");
        vm.prank(owner);
        registry.dismissDisputer();
        assertEq(registry.disputer(), address(0), "again");
    }

    /// @dev What the delay is for: whoever dislikes the next disputer has unbonded and left before it can slash.
    function test_StakeLeavesBeforeTheNextDisputerCanSlash() public {
        vm.prank(alice);
        prlx.transfer(opal, 100 * WEI_PER_CREDIT);
        uint32 operator = _register(opal);
        vm.startPrank(opal);
        prlx.approve(address(registry), type(uint256).max);
        registry.stake(100);
        vm.stopPrank();
        vm.prank(owner);
        registry.proposeDisputer(stranger);
        _skip(7 days);
        vm.prank(opal);
        registry.unstake(100);
        _skip(7 days);
        vm.prank(opal);
        registry.withdrawStake();
        vm.prank(owner);
        registry.acceptDisputer();

        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(IOperatorRegistry.InsufficientStake.selector, 0, 1));
        registry.slash(operator, 1, "a");
        assertEq(prlx.balanceOf(opal), 100 * WEI_PER_CREDIT, "all of it left");
    }
}
