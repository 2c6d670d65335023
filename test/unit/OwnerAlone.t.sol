// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";

import {IParalleliXAICredits} from "../../contracts/interfaces/IParalleliXAICredits.sol";
import {Base} from "../Base.sol";
import {vm} from "../utils/Vm.sol";

/// @notice What belongs to the owner is refused to every other role, whatever else would refuse it too.
contract OwnerAloneTest is Base {
    function test_VaultsWiringAndSurplusAreTheOwners() public {
        _refused(address(vault), abi.encodeCall(vault.initialize, (address(settlement), address(registry), guardian)));
        _refused(address(vault), abi.encodeCall(vault.setGuardian, (bob)));
        _refused(address(vault), abi.encodeCall(vault.proposeSettlement, (address(settlement))));
        _refused(address(vault), abi.encodeCall(vault.proposeSettlement, (address(0))));
        _refused(address(vault), abi.encodeCall(vault.acceptSettlement, ()));
        _refused(address(vault), abi.encodeCall(vault.sweepFees, (bob)));
        _refused(address(vault), abi.encodeCall(vault.skimSurplus, (bob)));
    }

    function test_SettlementsWiringIsTheOwners() public {
        _refused(address(settlement), abi.encodeCall(settlement.setGuardian, (bob)));
        _refused(address(settlement), abi.encodeCall(settlement.proposeSettler, (bob)));
        _refused(address(settlement), abi.encodeCall(settlement.acceptSettler, ()));
        _refused(address(settlement), abi.encodeCall(settlement.proposeFee, (0)));
        _refused(address(settlement), abi.encodeCall(settlement.acceptFee, ()));
    }

    function test_RegistrysDisputerAndSlashedStakeAreTheOwners() public {
        _refused(address(registry), abi.encodeCall(registry.proposeDisputer, (bob)));
        _refused(address(registry), abi.encodeCall(registry.acceptDisputer, ()));
        _refused(address(registry), abi.encodeCall(registry.dismissDisputer, ()));
        _refused(address(registry), abi.encodeCall(registry.sweepSlashed, (bob)));
    }

    function _refused(address target, bytes memory call) private {
        address[6] memory others = [stranger, guardian, settler, disputer, alice, address(registry)];
        for (uint256 i = 0; i < others.length; i++) {
            vm.prank(others[i]);
            (bool done, bytes memory answer) = target.call(call);
            assertTrue(!done, "went through");
            assertEq(
                answer, abi.encodeWithSelector(Ownable.OwnableUnauthorizedAccount.selector, others[i]), "another reason"
            );
        }
    }
}

/// @notice Fields that share a slot with others: a new value replaces the old one whole, and each is read from its own bits.
contract SharedSlotsTest is Base {
    function test_TimeOfADebitReplacesTheOneBefore() public {
        uint32 account = _fund(alice, aliceKey, 1_000, 500, 50);
        uint32 operator = _register(opal);
        // All low bits set, then none of them: what is not cleared would stay.
        vm.warp(START | 0xFFFF);
        _settle(_rows(operator, account, 10));
        assertEq(_view(account).lastSettledAt, START | 0xFFFF, "first");

        vm.warp((START | 0xFFFF) + 1);
        vm.warp(_now() + VELOCITY_WINDOW);
        _settle(_rows(operator, account, 20));

        assertEq(_view(account).lastSettledAt, _now(), "second");
        assertEq(_view(account).settled, 20, "settled");
    }

    function test_PayoutAddressMayEndInZeros() public {
        address payout = address(uint160(1) << 159);
        vm.prank(opal);
        uint32 operator = registry.register(payout, bytes32(0));
        uint32 account = _fund(alice, aliceKey, 1_000, 500, 50);

        _settle(_rows(operator, account, 10));

        assertEq(vault.operators(_ids(operator))[0].payout, payout, "payout");
        assertEq(_claimable(operator), 9, "claimable");
    }

    function test_EachPaymentOfAListIsAnEvent() public {
        uint32 account = _fund(alice, aliceKey, 1_000, 500, 50);
        uint32 opals = _register(opal);
        uint32 ottos = _register(otto);
        _settle(abi.encodePacked(opals, uint16(1), account, uint64(10), ottos, uint16(1), account, uint64(20)));
        uint32[] memory ids = new uint32[](2);
        (ids[0], ids[1]) = (opals, ottos);

        vm.expectEmit(true, true, true, true, address(vault));
        emit IParalleliXAICredits.Claimed(opals, opal, 9);
        vm.expectEmit(true, true, true, true, address(vault));
        emit IParalleliXAICredits.Claimed(ottos, otto, 9);
        vault.claimMany(ids);

        assertEq(_claimable(opals) + _claimable(ottos), 0, "nothing left");
    }
}
