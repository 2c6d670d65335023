// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";

import {IOperatorRegistry} from "../../contracts/interfaces/IOperatorRegistry.sol";
import {IParalleliXAICredits} from "../../contracts/interfaces/IParalleliXAICredits.sol";
import {IParalleliXSettlement} from "../../contracts/interfaces/IParalleliXSettlement.sol";
import {Base} from "../Base.sol";
import {Registry, Settlement, System, Vault} from "../utils/System.sol";
import {vm} from "../utils/Vm.sol";

contract ConstructorsTest is Base {
    function test_EveryValueIsWhereItBelongs() public view {
        assertEq(vault.token(), address(prlx), "vault's token");
        assertEq(vault.owner(), owner, "vault's owner");
        assertEq(vault.exitDelay(), EXIT_DELAY, "exitDelay");
        assertEq(vault.velocityWindow(), VELOCITY_WINDOW, "velocityWindow");
        assertEq(vault.settlement(), address(settlement), "vault's settlement");
        assertEq(vault.registry(), address(registry), "vault's registry");
        assertEq(vault.guardian(), guardian, "vault's guardian");
        assertEq(settlement.vault(), address(vault), "settlement's vault");
        assertEq(settlement.registry(), address(registry), "settlement's registry");
        assertEq(settlement.owner(), owner, "settlement's owner");
        assertEq(settlement.settler(), settler, "settler");
        assertEq(settlement.guardian(), guardian, "settlement's guardian");
        assertEq(settlement.feeBps(), FEE_BPS, "feeBps");
        assertEq(settlement.lastSeq(), 0, "lastSeq");
        assertEq(registry.vault(), address(vault), "registry's vault");
        assertEq(registry.token(), address(prlx), "registry's token");
        assertEq(registry.owner(), owner, "registry's owner");
        assertEq(registry.disputer(), disputer, "disputer");
        assertEq(registry.incidentCap(), INCIDENT_CAP, "incidentCap");
    }

    function test_DomainSeparators() public view {
        assertEq(vault.DOMAIN_SEPARATOR(), _domain("ParalleliXAICredits", address(vault)), "vault");
        assertEq(settlement.DOMAIN_SEPARATOR(), _domain("ParalleliXSettlement", address(settlement)), "settlement");
        assertEq(registry.DOMAIN_SEPARATOR(), _domain("OperatorRegistry", address(registry)), "registry");
    }

    function _domain(string memory name, address verifier) private view returns (bytes32) {
        return keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256(bytes(name)),
                keccak256("1"),
                block.chainid,
                verifier
            )
        );
    }

    function test_RevertWhen_VaultParametersAreOutOfRange() public {
        address token = address(prlx);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.InvalidAddress.selector, address(0)));
        System.vault(address(0), owner, EXIT_DELAY, VELOCITY_WINDOW);
        vm.expectRevert(
            abi.encodeWithSelector(IParalleliXAICredits.ParameterOutOfRange.selector, 24 hours + 1, 1, 24 hours)
        );
        System.vault(token, owner, 24 hours + 1, VELOCITY_WINDOW);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.ParameterOutOfRange.selector, 0, 1, 24 hours));
        System.vault(token, owner, 0, VELOCITY_WINDOW);
        vm.expectRevert(
            abi.encodeWithSelector(IParalleliXAICredits.ParameterOutOfRange.selector, 1 hours + 1, 1, 1 hours)
        );
        System.vault(token, owner, EXIT_DELAY, 1 hours + 1);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.ParameterOutOfRange.selector, 0, 1, 1 hours));
        System.vault(token, owner, EXIT_DELAY, 0);
        vm.expectRevert(abi.encodeWithSelector(Ownable.OwnableInvalidOwner.selector, address(0)));
        System.vault(token, address(0), EXIT_DELAY, VELOCITY_WINDOW);
    }

    function test_EveryParameterReachesItsBounds() public {
        Vault shortest = System.vault(address(prlx), owner, 1, 1);
        assertEq(shortest.exitDelay(), 1, "shortest exitDelay");
        assertEq(shortest.velocityWindow(), 1, "shortest velocityWindow");
        Vault longest = System.vault(address(prlx), owner, 24 hours, 1 hours);
        assertEq(longest.exitDelay(), 24 hours, "longest exitDelay");
        assertEq(longest.velocityWindow(), 1 hours, "longest velocityWindow");
        Settlement dearest = System.settlement(vault, registry, owner, settler, guardian, 3_000);
        assertEq(dearest.feeBps(), 3_000, "highest feeBps");
    }

    function test_RevertWhen_SettlementOrRegistryParametersAreWrong() public {
        vm.expectRevert(IParalleliXSettlement.ZeroAddress.selector);
        System.settlement(vault, Registry(address(0)), owner, settler, guardian, 0);
        vm.expectRevert(IParalleliXSettlement.ZeroAddress.selector);
        System.settlement(vault, registry, owner, address(0), guardian, 0);
        vm.expectRevert(IParalleliXSettlement.ZeroAddress.selector);
        System.settlement(vault, registry, owner, settler, address(0), 0);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXSettlement.FeeTooHigh.selector, 3_001, 3_000));
        System.settlement(vault, registry, owner, settler, guardian, 3_001);
        vm.expectRevert(IOperatorRegistry.ZeroAddress.selector);
        System.registry(vault, owner, address(0), 1);
    }
}

contract VaultWiringTest is Base {
    function test_RevertWhen_InitializedAgainOrByAnother() public {
        vm.prank(owner);
        vm.expectRevert(
            abi.encodeWithSelector(
                IParalleliXAICredits.AlreadyInitialized.selector, address(settlement), address(registry)
            )
        );
        vault.initialize(address(settlement), address(registry), guardian);

        Vault fresh = System.vault(address(prlx), owner, EXIT_DELAY, VELOCITY_WINDOW);
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, stranger));
        fresh.initialize(address(settlement), address(registry), guardian);
        vm.prank(owner);
        vm.expectRevert(
            abi.encodeWithSelector(IParalleliXAICredits.ForeignSettlement.selector, address(settlement), address(vault))
        );
        fresh.initialize(address(settlement), address(registry), guardian);
        vm.prank(owner);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.InvalidAddress.selector, address(0)));
        fresh.initialize(address(settlement), address(0), guardian);
        Settlement its = System.settlement(fresh, registry, owner, settler, guardian, FEE_BPS);
        vm.prank(owner);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.InvalidAddress.selector, address(0)));
        fresh.initialize(address(its), address(registry), address(0));
        vm.prank(owner);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.InvalidAddress.selector, address(0)));
        fresh.initialize(address(0), address(registry), guardian);
        vm.prank(owner);
        vm.expectPartialRevert(IParalleliXAICredits.ForeignSettlement.selector);
        fresh.proposeSettlement(address(settlement));
    }

    function test_SettlementChangesAfterTwiceTheExitDelay() public {
        Settlement next = System.settlement(vault, registry, owner, settler, guardian, FEE_BPS);
        vm.prank(owner);
        vm.expectRevert(IParalleliXAICredits.NothingProposed.selector);
        vault.acceptSettlement();
        vm.prank(owner);
        vault.proposeSettlement(address(next));
        (address proposed, uint40 readyAt) = vault.proposedSettlement();
        assertEq(proposed, address(next), "proposed");
        assertEq(readyAt, START + 2 * EXIT_DELAY, "readyAt");

        vm.warp(readyAt - 1);
        vm.prank(owner);
        vm.expectRevert(
            abi.encodeWithSelector(IParalleliXAICredits.ProposalNotReady.selector, readyAt, readyAt + 7 days)
        );
        vault.acceptSettlement();
        vm.warp(readyAt);
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, stranger));
        vault.acceptSettlement();
        vm.prank(owner);
        vault.acceptSettlement();

        assertEq(vault.settlement(), address(next), "settlement");
        (proposed, readyAt) = vault.proposedSettlement();
        assertEq(proposed, address(0), "nothing proposed");
        assertEq(readyAt, 0, "nothing ready");
    }

    function test_ProposalsLapseAndAreWithdrawn() public {
        Settlement next = System.settlement(vault, registry, owner, settler, guardian, FEE_BPS);
        vm.prank(owner);
        vault.proposeSettlement(address(next));
        (, uint40 readyAt) = vault.proposedSettlement();
        vm.warp(readyAt + 7 days + 1);
        vm.prank(owner);
        vm.expectRevert(
            abi.encodeWithSelector(IParalleliXAICredits.ProposalNotReady.selector, readyAt, readyAt + 7 days)
        );
        vault.acceptSettlement();

        vm.prank(owner);
        vault.proposeSettlement(address(next));
        (, readyAt) = vault.proposedSettlement();
        vm.warp(readyAt + 7 days);
        vm.prank(owner);
        vault.acceptSettlement();
        assertEq(vault.settlement(), address(next), "accepted in the last second");

        vm.prank(owner);
        vault.proposeSettlement(address(next));
        vm.prank(owner);
        vault.proposeSettlement(address(0));
        _skip(2 * EXIT_DELAY);
        vm.prank(owner);
        vm.expectRevert(IParalleliXAICredits.NothingProposed.selector);
        vault.acceptSettlement();
    }

    function test_SuspensionOfDepositsEndsByItselfAndRests() public {
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.UnauthorizedCaller.selector, stranger, guardian));
        vault.suspendDeposits(true);
        vm.prank(guardian);
        vm.expectRevert(IParalleliXAICredits.NotSuspended.selector);
        vault.suspendDeposits(false);
        vm.prank(guardian);
        vault.suspendDeposits(true);
        (uint40 until, uint40 nextFrom) = vault.depositSuspension();
        assertEq(until, START + 72 hours, "until");
        assertEq(nextFrom, START + 144 hours, "nextFrom");

        vm.warp(until);
        _deposit(alice, 1);
        vm.warp(nextFrom - 1);
        vm.prank(guardian);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.SuspensionCoolingDown.selector, nextFrom));
        vault.suspendDeposits(true);
        vm.warp(nextFrom);
        vm.prank(guardian);
        vault.suspendDeposits(true);
        vm.prank(guardian);
        vault.suspendDeposits(false);
        _deposit(alice, 1);
        (, nextFrom) = vault.depositSuspension();
        assertEq(nextFrom, _now() + 72 hours, "rest after a lifted one");
    }

    function test_GuardianChanges() public {
        vm.prank(guardian);
        vm.expectRevert(abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, guardian));
        vault.setGuardian(stranger);
        vm.prank(owner);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.InvalidAddress.selector, address(0)));
        vault.setGuardian(address(0));
        vm.prank(owner);
        vault.setGuardian(stranger);
        assertEq(vault.guardian(), stranger, "guardian");
    }

    function test_RevertWhen_PayoutIsSetByAnotherOrUnpayable() public {
        vm.prank(owner);
        vm.expectRevert(
            abi.encodeWithSelector(IParalleliXAICredits.UnauthorizedCaller.selector, owner, address(registry))
        );
        vault.setOperatorPayout(1, owner);
        vm.prank(opal);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.InvalidAddress.selector, address(vault)));
        registry.register(address(vault), 0);
    }
}

contract SettlementWiringTest is Base {
    function test_SettlerChangesAfterTwiceTheExitDelay() public {
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, stranger));
        settlement.proposeSettler(stranger);
        vm.prank(owner);
        settlement.proposeSettler(bob);
        (address proposed, uint40 readyAt) = settlement.proposedSettler();
        assertEq(proposed, bob, "proposed");
        assertEq(readyAt, START + 2 * EXIT_DELAY, "readyAt");
        vm.prank(owner);
        vm.expectPartialRevert(IParalleliXSettlement.ProposalNotReady.selector);
        settlement.acceptSettler();

        vm.warp(readyAt);
        vm.prank(owner);
        settlement.acceptSettler();

        assertEq(settlement.settler(), bob, "settler");
        vm.prank(owner);
        vm.expectRevert(IParalleliXSettlement.NothingProposed.selector);
        settlement.acceptSettler();
    }

    function test_WithdrawnSettlerProposalCannotBeAccepted() public {
        vm.prank(owner);
        settlement.proposeSettler(bob);
        vm.prank(owner);
        settlement.proposeSettler(address(0));
        _skip(2 * EXIT_DELAY);
        vm.prank(owner);
        vm.expectRevert(IParalleliXSettlement.NothingProposed.selector);
        settlement.acceptSettler();
    }

    function test_FeeChangesAfterTwiceTheExitDelay() public {
        vm.prank(owner);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXSettlement.FeeTooHigh.selector, 3_001, 3_000));
        settlement.proposeFee(3_001);
        vm.prank(owner);
        settlement.proposeFee(0);
        (uint16 proposed, uint40 readyAt) = settlement.proposedFee();
        assertEq(proposed, 0, "proposed");
        vm.prank(owner);
        vm.expectPartialRevert(IParalleliXSettlement.ProposalNotReady.selector);
        settlement.acceptFee();

        vm.warp(readyAt);
        vm.prank(owner);
        settlement.acceptFee();

        assertEq(settlement.feeBps(), 0, "feeBps");
        (, readyAt) = settlement.proposedFee();
        assertEq(readyAt, 0, "nothing proposed");
    }

    function test_SuspensionOfTheSettlerEndsByItselfAndRests() public {
        uint32 account = _fund(alice, aliceKey, 1_000, 500, 50);
        uint32 operator = _register(opal);
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXSettlement.UnauthorizedCaller.selector, stranger, guardian));
        settlement.suspendSettler(true);
        vm.prank(guardian);
        settlement.suspendSettler(true);
        (uint40 until, uint40 nextFrom) = settlement.settlerSuspension();
        vm.prank(guardian);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXSettlement.SuspensionCoolingDown.selector, nextFrom));
        settlement.suspendSettler(true);

        vm.warp(until);
        _settle(_rows(operator, account, 10));

        assertEq(_view(account).settled, 10, "settled after the suspension");
        vm.warp(nextFrom);
        vm.prank(guardian);
        settlement.suspendSettler(true);
        vm.prank(guardian);
        settlement.suspendSettler(false);
        _settle(_rows(operator, account, 20));
        assertEq(_view(account).settled, 20, "settled after it was lifted");
    }

    function test_GuardianChanges() public {
        vm.prank(owner);
        vm.expectRevert(IParalleliXSettlement.ZeroAddress.selector);
        settlement.setGuardian(address(0));
        vm.prank(owner);
        settlement.setGuardian(stranger);
        assertEq(settlement.guardian(), stranger, "guardian");
    }
}
