// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Base} from "../Base.sol";
import {HostileToken} from "../mocks/Tokens.sol";
import {System} from "../utils/System.sol";
import {vm} from "../utils/Vm.sol";

/// @notice A token that is itself payer, operator and owner, so that only the guard stands in its way.
contract ReentryTest is Base {
    HostileToken private token;

    function setUp() public override {
        super.setUp();
        token = new HostileToken(alice, 1e30);
        vault = System.vault(address(token), address(token), EXIT_DELAY, VELOCITY_WINDOW);
        registry = System.registry(vault, address(token), disputer, INCIDENT_CAP);
        settlement = System.settlement(vault, registry, owner, settler, guardian, FEE_BPS);
        vm.prank(address(token));
        vault.initialize(address(settlement), address(registry), guardian);
        vm.prank(address(token));
        registry.register(opal, 0);
        vm.prank(opal);
        registry.register(opal, 0);
        vm.startPrank(alice);
        token.transfer(address(token), 1e20);
        token.transfer(opal, 1e20);
        token.approve(address(vault), type(uint256).max);
        vault.depositFor(address(token), 500);
        vault.deposit(500);
        vm.stopPrank();
        _approveAsToken(address(vault));
        _approveAsToken(address(registry));
        _authorize(alice, aliceKey, 500, 100);
        _settle(_rows(1, vault.accountOf(alice), 100));
        vm.prank(opal);
        token.approve(address(registry), type(uint256).max);
        vm.prank(opal);
        registry.stake(100);
        vm.prank(address(token));
        registry.stake(100);
        vm.prank(disputer);
        registry.slash(2, 10, "a");
        vm.prank(opal);
        registry.unstake(50);
        vm.prank(address(token));
        registry.unstake(50);
        _skip(7 days);
        _authorize(alice, aliceKey, 500, 100);
    }

    function _approveAsToken(address spender) private {
        vm.prank(address(token));
        token.approve(spender, type(uint256).max);
    }

    function _try(address sender, address target, bytes memory call, bytes memory reentry) private {
        token.setReentry(target, reentry);
        vm.prank(sender);
        (bool done,) = target.call(call);
        assertTrue(done, "the call itself");
        assertTrue(token.reentryFailed(), "the token tried");
        assertTrue(!token.reentryPassed(), "and was refused");
        token.setMode(HostileToken.Mode.Honest);
    }

    function test_EveryVaultFunctionThatCallsTheTokenIsGuardedAgainstEachOther() public {
        bytes[6] memory calls = [
            abi.encodeCall(vault.depositFor, (address(token), 1)),
            abi.encodeCall(vault.withdraw, (1, bob)),
            abi.encodeCall(vault.claim, (1)),
            abi.encodeCall(vault.claimMany, (_ids(1))),
            abi.encodeCall(vault.sweepFees, (bob)),
            abi.encodeCall(vault.skimSurplus, (bob))
        ];
        for (uint256 inner = 0; inner < calls.length; ++inner) {
            _try(address(token), address(vault), abi.encodeCall(vault.deposit, (1)), calls[inner]);
            _try(address(token), address(vault), abi.encodeCall(vault.withdraw, (1, bob)), calls[inner]);
            _try(address(token), address(vault), abi.encodeCall(vault.skimSurplus, (bob)), calls[inner]);
        }
    }

    /// @dev The token's `permit` fails; the deposit goes on with the allowance.
    function test_DepositsWithPermitAreGuarded() public {
        bytes memory inner = abi.encodeCall(vault.withdraw, (1, bob));
        bytes memory call = abi.encodeCall(vault.depositWithPermit, (1, 0, 27, "r", "s"));
        _try(alice, address(vault), call, inner);
        bytes memory signature = _signAuthorization(aliceKey, _authorization(alice, 500, 100));
        call =
            abi.encodeCall(vault.depositAndAuthorize, (1, 0, 27, "r", "s", _authorization(alice, 500, 100), signature));
        _try(alice, address(vault), call, inner);
    }

    function test_ClaimsAndSweepsAreGuarded() public {
        bytes memory inner = abi.encodeCall(vault.withdraw, (1, bob));
        _try(relayer, address(vault), abi.encodeCall(vault.claim, (1)), inner);
        _settle(_rows(1, vault.accountOf(alice), 200));
        _try(relayer, address(vault), abi.encodeCall(vault.claimMany, (_ids(1))), inner);
        _try(address(token), address(vault), abi.encodeCall(vault.sweepFees, (bob)), inner);
    }

    function test_StakesAreGuarded() public {
        bytes[3] memory inner = [
            abi.encodeCall(registry.stake, (1)),
            abi.encodeCall(registry.withdrawStake, ()),
            abi.encodeCall(registry.sweepSlashed, (bob))
        ];
        for (uint256 i = 0; i < 3; ++i) {
            _try(opal, address(registry), abi.encodeCall(registry.stake, (1)), inner[i]);
        }
        _try(opal, address(registry), abi.encodeCall(registry.withdrawStake, ()), inner[0]);
        _try(address(token), address(registry), abi.encodeCall(registry.sweepSlashed, (bob)), inner[0]);
    }

    function test_ABatchAndAnAuthorizationCannotComeInBetween() public {
        bytes memory signature = _signAuthorization(aliceKey, _authorization(alice, 500, 100));
        bytes memory inner = abi.encodeCall(vault.authorize, (_authorization(alice, 500, 100), signature));
        _try(alice, address(vault), abi.encodeCall(vault.deposit, (1)), inner);
        // As the settlement contract, the token could debit.
        vm.store(address(vault), bytes32(uint256(4)), bytes32(uint256(uint160(address(token)))));
        inner = abi.encodeCall(vault.debitBatch, (9, _rows(1, vault.accountOf(alice), 200), 0));
        _try(alice, address(vault), abi.encodeCall(vault.deposit, (1)), inner);
    }
}
