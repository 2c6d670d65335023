// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IParalleliXAICredits} from "../../contracts/interfaces/IParalleliXAICredits.sol";
import {Base} from "../Base.sol";
import {vm} from "../utils/Vm.sol";

contract SettleFuzzTest is Base {
    function test_FeesAgreeWithTheVectors() public {
        string memory json = vm.readFile("test/vectors/cost.json");
        uint256 index = 0;
        for (; vm.keyExistsJson(json, string.concat(".fees[", vm.toString(index), "].total")); ++index) {
            string memory at = string.concat(".fees[", vm.toString(index), "].");
            uint256 total = vm.parseJsonUint(json, string.concat(at, "total"));
            if (total == 0 || total > 1e12) continue;
            super.setUp();
            uint32 account = _fund(alice, aliceKey, 1e12, 1e12, 1e12);
            uint32 operator = _register(opal);
            vm.prank(address(settlement));
            vault.debitBatch(
                1, _rows(operator, account, uint64(total)), uint16(vm.parseJsonUint(json, string.concat(at, "feeBps")))
            );
            assertEq(vault.fees(), vm.parseJsonUint(json, string.concat(at, "fee")), "fee");
            assertEq(_claimable(operator), vm.parseJsonUint(json, string.concat(at, "operatorShare")), "share");
        }
        assertEq(index, 9, "number of fees");
    }

    function testFuzz_FeeIsRoundedDownAndNothingIsLost(uint64 first, uint64 second, uint16 feeBps) public {
        first = uint64(bound(first, 1, 1e14));
        second = uint64(bound(second, 1, 1e14));
        feeBps = uint16(bound(feeBps, 0, 3_000));
        uint32 a = _fund(alice, aliceKey, 1e15, 1e15, 1e14);
        uint32 b = _fund(bob, bobKey, 1e15, 1e15, 1e14);
        uint32 opals = _register(opal);
        uint32 ottos = _register(otto);

        bytes memory rows = bytes.concat(_rows(opals, a, first), _rows(ottos, b, second));
        vm.prank(address(settlement));
        (uint64 debited, uint64 fee) = vault.debitBatch(1, rows, feeBps);

        assertEq(debited, uint256(first) + second, "debited");
        uint256 feeOfFirst = uint256(first) * feeBps / 10_000;
        uint256 feeOfSecond = uint256(second) * feeBps / 10_000;
        assertEq(fee, feeOfFirst + feeOfSecond, "fee of each group rounded down");
        assertEq(_claimable(opals), first - feeOfFirst, "the remainder is the operator's");
        assertEq(uint256(_claimable(opals)) + _claimable(ottos) + fee, debited, "conservation");
    }

    /// @dev Any order of deposits, withdrawals, authorizations, revocations and debits keeps the account consistent, and
    /// never lowers what is locked for usage while an authorization is live.
    function testFuzz_SequencesKeepTheAccountConsistent(uint256[12] calldata steps) public {
        uint32 operator = _register(opal);
        uint32 account = _fund(alice, aliceKey, 1_000, 500, 50);
        for (uint256 i = 0; i < steps.length; ++i) {
            IParalleliXAICredits.AccountView memory before = _view(account);
            uint64 lockedBefore = vault.locked(account);
            uint256 action = steps[i] % 6;
            uint64 amount = uint64((steps[i] >> 8) % 400) + 1;
            _step(action, amount, account, operator);

            IParalleliXAICredits.AccountView memory got = _view(account);
            uint64 expected = got.netDeposited < got.authorizedCum ? got.netDeposited : got.authorizedCum;
            assertEq(got.limit, expected, "limit is the lower of both");
            assertLe(got.settled, got.limit, "settled within the limit");
            assertTrue(got.settled >= before.settled, "settled never falls");
            assertTrue(got.authNonce >= before.authNonce, "authNonce never falls");
            assertEq(vault.free(account) + vault.locked(account), vault.balance(account), "free and locked");
            bool live = _now() <= before.settleDeadline;
            uint256 debited = got.settled - before.settled;
            if (live && action != 4) {
                assertTrue(vault.locked(account) + debited >= lockedBefore, "the lock covers what it covered");
            }
        }
    }

    function _step(uint256 action, uint64 amount, uint32 account, uint32 operator) private {
        if (action == 0) {
            _deposit(alice, amount);
        } else if (action == 1 && vault.free(account) != 0) {
            uint64 free = vault.free(account);
            vm.prank(alice);
            vault.withdraw(amount < free ? amount : free, alice);
        } else if (action == 2) {
            IParalleliXAICredits.SpendAuthorization memory authorization =
                _authorization(alice, amount * 2, uint48(amount));
            bytes memory signature = _signAuthorization(aliceKey, authorization);
            try vault.authorize(authorization, signature) {} catch {}
        } else if (action == 3) {
            vm.prank(alice);
            vault.revoke();
        } else if (action == 4) {
            _skip(amount * 100);
        } else if (action == 5) {
            _settle(_rows(operator, account, _view(account).settled + amount));
        }
    }
}
