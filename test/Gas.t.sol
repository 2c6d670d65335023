// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IParalleliXAICredits} from "../contracts/interfaces/IParalleliXAICredits.sol";
import {Base} from "./Base.sol";
import {System} from "./utils/System.sol";
import {vm} from "./utils/Vm.sol";

/// @notice Whole-transaction gas, calldata included, in the steady state: every slot that a batch touches was touched by an
/// earlier batch. The figures are written to `snapshots/Gas.json`; the ceilings are asserted.
contract GasTest is Base {
    uint32 private constant MANY_ACCOUNTS = 1_000;
    uint32 private constant MANY_OPERATORS = 20;

    /// @dev Funds accounts 1 to `count` and settles each once.
    function _warmUp(uint32 count, uint32 operators) private {
        uint256 supplyWei = uint256(count) * 1e6 * WEI_PER_CREDIT;
        address[] memory holders = new address[](1);
        uint256[] memory amounts = new uint256[](1);
        (holders[0], amounts[0]) = (address(this), supplyWei);
        prlx = System.prlx(holders, amounts);
        _deploy(address(prlx));
        prlx.approve(address(vault), supplyWei);

        for (uint32 i = 1; i <= count; ++i) {
            uint256 key = uint256(keccak256(abi.encode("payer", i)));
            vault.depositFor(vm.addr(key), 1e6);
            _authorize(vm.addr(key), key, 1e6, 1e5);
        }
        for (uint32 i = 1; i <= operators; ++i) {
            _register(address(uint160(0x1000 + i)));
        }
        _settle(_batch(count, operators, 1_000));
        vault.claimMany(_range(operators));
        _skip(1 days);
        _settle(_batch(count, operators, 2_000));
        _skip(1 days);
    }

    function _batch(uint32 count, uint32 operators, uint64 cumulative) private pure returns (bytes memory rows) {
        uint32 share = count / operators;
        uint32 account = 1;
        for (uint32 operator = 1; operator <= operators; ++operator) {
            bytes memory group = abi.encodePacked(operator, uint16(share));
            for (uint32 i = 0; i < share; ++i) {
                group = bytes.concat(group, abi.encodePacked(account++, cumulative));
            }
            rows = bytes.concat(rows, group);
        }
    }

    function _range(uint32 count) private pure returns (uint32[] memory ids) {
        ids = new uint32[](count);
        for (uint32 i = 0; i < count; ++i) {
            ids[i] = i + 1;
        }
    }

    function _settleGas(uint32 count, uint32 operators) private returns (uint256) {
        _warmUp(count, operators);
        bytes memory rows = _batch(count, operators, 3_000);
        uint64 seq = settlement.lastSeq() + 1;
        uint40 deadline = _now();
        bytes memory signature = _signBatch(settlerKey, seq, keccak256("root"), rows, deadline);

        settlement.settle(seq, keccak256("root"), rows, deadline, signature);

        return vm.snapshotGasLastCall(
            "Gas", string.concat("settle ", vm.toString(count), " users, ", vm.toString(operators), " operators")
        );
    }

    function test_SettleAHundredUsers() public {
        uint256 hundred = _settleGas(100, 10);
        uint256 twoHundred = _settleGas(200, 10);
        uint256 marginal = (twoHundred - hundred) / 100;

        vm.snapshotValue("Gas", "gas_marginal_per_user", marginal);
        vm.snapshotValue("Gas", "gas_all_in_per_user", hundred / 100);
        vm.snapshotValue("Gas", "gas_per_request", hundred / 1_000);
        assertLe(marginal, 5_800, "marginal gas of a debited user");
        assertLe(hundred, 690_000, "gas of a batch of a hundred users, 6,900 each");
        assertLe(hundred, 700_000, "gas of a thousand requests, 700 each");
    }

    function test_SettleAThousandUsers() public {
        uint256 gas = _settleGas(MANY_ACCOUNTS, MANY_OPERATORS);

        vm.snapshotValue("Gas", "gas_settle_1000_users", gas);
        assertLe(gas, 6_000_000, "gas of a batch of a thousand users");
    }

    function test_ClaimMany() public {
        _warmUp(100, 10);

        vault.claimMany(_range(10));
        uint256 gas = vm.snapshotGasLastCall("Gas", "claimMany 10 operators");

        vm.snapshotValue("Gas", "gas_claim_per_operator", gas / 10);
        assertLe(gas, 190_000, "gas of a claim by ten operators, 19,000 each");
    }

    function test_Onboarding() public {
        _deposit(bob, 1);
        uint64 amount = 1_000_000;
        (uint8 v, bytes32 r, bytes32 s) = _signPermit(aliceKey, alice, amount, _now());
        IParalleliXAICredits.SpendAuthorization memory authorization = _authorization(alice, amount, 1_000);
        bytes memory signature = _signAuthorization(aliceKey, authorization);

        vm.prank(alice);
        vault.depositAndAuthorize(amount, _now(), v, r, s, authorization, signature);
        uint256 gas = vm.snapshotGasLastCall("Gas", "depositAndAuthorize");

        vm.snapshotValue("Gas", "gas_onboarding", gas);
        assertLe(gas, 180_000, "gas of deposit with permit and authorization");
    }

    function test_Exit() public {
        uint32 account = _fund(alice, aliceKey, 1_000_000, 1_000_000, 1_000);
        IParalleliXAICredits.ClosureClearance memory clearance =
            IParalleliXAICredits.ClosureClearance({account: account, settled: 0, authNonce: 1, deadline: _now()});
        bytes memory signature = _signClearance(settlerKey, clearance);
        bytes[] memory calls = new bytes[](2);
        calls[0] = abi.encodeCall(vault.closeWithClearance, (clearance, signature));
        calls[1] = abi.encodeCall(vault.withdraw, (500_000, alice));

        vm.prank(alice);
        vault.withdraw(500_000, alice);
        vm.snapshotGasLastCall("Gas", "withdraw");
        vm.prank(alice);
        vault.multicall(calls);
        vm.snapshotGasLastCall("Gas", "closeWithClearance and withdraw");
    }
}
