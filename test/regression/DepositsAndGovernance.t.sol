// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";

import {IOperatorRegistry} from "../../contracts/interfaces/IOperatorRegistry.sol";
import {IParalleliXAICredits} from "../../contracts/interfaces/IParalleliXAICredits.sol";
import {IParalleliXSettlement} from "../../contracts/interfaces/IParalleliXSettlement.sol";
import {Base} from "../Base.sol";
import {PhantomPermitToken} from "../mocks/Tokens.sol";
import {Settlement, System, Vault} from "../utils/System.sol";
import {vm} from "../utils/Vm.sol";

/// @notice Bug classes 29 to 31 of the settlement note: deposits.
contract DepositRegressionTest is Base {
    function test_Class29_PermitFrontRun() public {
        (uint8 v, bytes32 r, bytes32 s) = _signPermit(aliceKey, alice, 100, _now());
        IParalleliXAICredits.SpendAuthorization memory authorization = _authorization(alice, 80, 10);
        bytes memory signature = _signAuthorization(aliceKey, authorization);
        vm.prank(stranger);
        prlx.permit(alice, address(vault), 100 * WEI_PER_CREDIT, _now(), v, r, s);
        vm.prank(alice);
        vault.depositAndAuthorize(100, _now(), v, r, s, authorization, signature);
        assertEq(vault.balance(1), 100, "deposited all the same");
        assertEq(vault.locked(1), 10, "and authorized");
    }

    function test_Class30_PhantomPermit() public {
        PhantomPermitToken token = new PhantomPermitToken(alice, 1e30);
        _deploy(address(token));
        vm.prank(alice);
        token.approve(address(vault), type(uint256).max);
        IParalleliXAICredits.SpendAuthorization memory authorization = _authorization(stranger, 80, 10);
        (, uint256 strangerKey) = makeActor("stranger");
        bytes memory signature = _signAuthorization(strangerKey, authorization);
        vm.prank(stranger);
        vm.expectRevert();
        vault.depositAndAuthorize(100, _now(), 27, "r", "s", authorization, signature);
        assertEq(token.balanceOf(alice), 1e30, "alice's allowance is not the stranger's");
    }

    function test_Class31_MulticallReusesValueOrSender() public {
        uint32 account = _fund(alice, aliceKey, 1_000, 500, 50);
        _deposit(bob, 100);
        bytes[] memory calls = new bytes[](1);
        calls[0] = abi.encodeCall(vault.withdraw, (100, bob));
        (bool done,) = address(vault).call{value: 1}(abi.encodeCall(vault.multicall, (calls)));
        assertTrue(!done, "native value is refused");
        vm.prank(bob);
        vault.multicall(calls);
        assertEq(vault.balance(account), 1_000, "bob withdrew from his own account");
        assertEq(vault.balance(2), 0, "bob's");

        bytes[] memory twice = new bytes[](2);
        (twice[0], twice[1]) =
        (abi.encodeCall(vault.withdraw, (950, alice)), abi.encodeCall(vault.withdraw, (1, alice)));
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.InsufficientFreeCredits.selector, 0, 1));
        vault.multicall(twice);
        calls[0] = abi.encodeCall(vault.debitBatch, (1, _rows(1, account, 10), 0));
        vm.prank(stranger);
        vm.expectRevert(
            abi.encodeWithSelector(IParalleliXAICredits.UnauthorizedCaller.selector, stranger, address(settlement))
        );
        vault.multicall(calls);
    }
}

/// @notice Bug classes 32 and 33 of the settlement note: governance.
contract GovernanceRegressionTest is Base {
    uint32 private account;
    uint32 private operator;

    function setUp() public override {
        super.setUp();
        account = _fund(alice, aliceKey, 1_000, 500, 50);
        operator = _register(opal);
    }

    function test_Class32_SettlementChangesFasterThanUsersCanLeave() public {
        Settlement next = System.settlement(vault, registry, owner, stranger, guardian, 3_000);
        vm.prank(owner);
        vault.proposeSettlement(address(next));
        _skip(EXIT_DELAY - 1);
        // Half the delay later somebody looks at it, and is out in time.
        vm.prank(alice);
        vault.revoke();
        vm.warp(_view(account).settleDeadline + 1);
        vm.prank(alice);
        vault.withdraw(1_000, alice);
        (, uint40 readyAt) = vault.proposedSettlement();
        assertTrue(_now() <= readyAt, "before the change can be made");
    }

    function test_Class32_GuardianSuspendsForEver() public {
        uint256 suspended = 0;
        for (uint256 hour = 0; hour < 60 days / 1 hours; ++hour) {
            vm.prank(guardian);
            (bool done,) = address(vault).call(abi.encodeCall(vault.suspendDeposits, (true)));
            if (done) assertTrue(hour % 144 == 0, "once in 144 hours");
            (uint40 until,) = vault.depositSuspension();
            if (_now() < until) ++suspended;
            _skip(1 hours);
        }
        assertEq(suspended, 60 days / 1 hours / 2, "half of the time at most");
    }

    function test_Class32_AnotherGuardianSuspendsDuringTheRest() public {
        vm.prank(guardian);
        vault.suspendDeposits(true);
        vm.prank(owner);
        vault.setGuardian(stranger);
        _skip(72 hours);
        vm.prank(stranger);
        vm.expectPartialRevert(IParalleliXAICredits.SuspensionCoolingDown.selector);
        vault.suspendDeposits(true);
        _deposit(alice, 1);
    }

    function test_Class32_PayoutAddressSwappedJustBeforeAClaim() public {
        _settle(_rows(operator, account, 50));
        vm.prank(opal);
        registry.proposePayout(stranger);
        vm.prank(opal);
        vm.expectPartialRevert(IOperatorRegistry.ProposalNotReady.selector);
        registry.acceptPayout();
        vault.claim(operator);
        assertEq(prlx.balanceOf(opal), 45 * WEI_PER_CREDIT, "the owner of the credits claims within the day");
    }

    function test_Class32_InitializerFrontRun() public {
        Vault fresh = System.vault(address(prlx), owner, EXIT_DELAY, VELOCITY_WINDOW);
        Settlement its = System.settlement(fresh, registry, stranger, stranger, stranger, 3_000);
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, stranger));
        fresh.initialize(address(its), address(registry), stranger);
    }

    function test_Class32_UpgradeRemovesTheExit() public view {
        // EIP-1967: implementation, admin, beacon.
        bytes32[3] memory slots = [
            bytes32(uint256(keccak256("eip1967.proxy.implementation")) - 1),
            bytes32(uint256(keccak256("eip1967.proxy.admin")) - 1),
            bytes32(uint256(keccak256("eip1967.proxy.beacon")) - 1)
        ];
        for (uint256 i = 0; i < 3; ++i) {
            assertEq(vm.load(address(vault), slots[i]), bytes32(0), "the vault is no proxy");
        }
    }

    function test_Class32_OldSettlementContractAfterAChange() public {
        Settlement next = System.settlement(vault, registry, owner, settler, guardian, FEE_BPS);
        vm.prank(owner);
        vault.proposeSettlement(address(next));
        _skip(2 * EXIT_DELAY);
        vm.prank(owner);
        vault.acceptSettlement();
        bytes memory rows = _rows(operator, account, 10);
        bytes memory signature = _signBatch(settlerKey, 1, "root", rows, _now());
        vm.expectPartialRevert(IParalleliXAICredits.UnauthorizedCaller.selector);
        settlement.settle(1, "root", rows, _now(), signature);
        assertEq(settlement.lastSeq(), 0, "nothing settled");
        signature = _signBatch(settlerKey, 1, "root", rows, _now());
        vm.expectPartialRevert(IParalleliXSettlement.InvalidSignature.selector);
        next.settle(1, "root", rows, _now(), signature);
    }

    function test_Class33_OperatorLeavesBeforeTheDisputeEnds() public {
        vm.prank(alice);
        prlx.transfer(opal, 1_000_000 * WEI_PER_CREDIT);
        vm.prank(opal);
        prlx.approve(address(registry), type(uint256).max);
        vm.prank(opal);
        registry.stake(1_000_000);
        vm.prank(opal);
        registry.unstake(1_000_000);
        _skip(6 days);
        vm.prank(opal);
        vm.expectPartialRevert(IOperatorRegistry.StillUnbonding.selector);
        registry.withdrawStake();
        vm.prank(disputer);
        registry.slash(operator, 400_000, "incident");
        _skip(1 days);
        vm.prank(opal);
        registry.withdrawStake();
        assertEq(prlx.balanceOf(opal), 600_000 * WEI_PER_CREDIT, "what was slashed in time stays");
        assertEq(prlx.balanceOf(address(registry)), 400_000 * WEI_PER_CREDIT, "with the registry");
    }
}
