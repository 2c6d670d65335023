// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IParalleliXAICredits} from "../../contracts/interfaces/IParalleliXAICredits.sol";
import {Base} from "../Base.sol";
import {vm} from "../utils/Vm.sol";

/// @notice Where the vault keeps what: two slots an account, one an operator. The proofs write there.
contract LayoutTest is Base {
    uint256 private constant ACCOUNTS = 6;
    uint256 private constant OPERATORS = ACCOUNTS + 2 * 2 ** 32;

    function _slot(uint256 at) private view returns (uint256) {
        return uint256(vm.load(address(vault), bytes32(at)));
    }

    function test_TheLayoutIsTheOneAssumed() public {
        uint32 account = _fund(alice, aliceKey, 1_000, 700, 100);
        uint32 operator = _register(opal);
        _settle(_rows(operator, account, 60));
        IParalleliXAICredits.AccountView memory got = _view(account);
        uint256 hot = uint256(got.settled) | uint256(got.limit) << 64 | uint256(got.exposure) << 128
            | uint256(got.lastSettledAt) << 176 | uint256(got.settleDeadline) << 216;
        assertEq(_slot(ACCOUNTS + 2 * account), hot, "hot slot");
        uint256 cold = uint256(uint160(alice)) | uint256(1) << 160 | uint256(300) << 192;
        assertEq(_slot(ACCOUNTS + 2 * account + 1), cold, "cold slot, a surplus of 300");
        assertEq(_slot(OPERATORS + operator), 54 | uint256(uint160(opal)) << 64, "operator");
        assertEq(_slot(4), uint256(uint160(address(settlement))) | uint256(6) << 160, "settlement contract and fees");
        assertEq(_slot(5), uint256(1_000) | uint256(1) << 64, "liabilities and number of accounts");
        assertEq(
            uint256(vm.load(address(vault), keccak256(abi.encode(alice, OPERATORS + 2 ** 32)))), account, "accountOf"
        );
    }

    function test_ANegativeSurplusIsKeptToo() public {
        uint32 account = _fund(alice, aliceKey, 100, 700, 100);
        assertEq(_slot(ACCOUNTS + 2 * account + 1) >> 192, type(uint64).max - 599, "-600");
        assertEq(_view(account).netDeposited, 100, "netDeposited");
        assertEq(_view(account).authorizedCum, 700, "authorizedCum");
        assertEq(_view(account).limit, 100, "limit");
    }

    function test_TheSmallestSurplusesCount() public {
        uint32 account = _fund(alice, aliceKey, 701, 700, 100);
        assertEq(_view(account).netDeposited, 701, "one more deposited");
        assertEq(_view(account).authorizedCum, 700, "than authorized");
        account = _fund(bob, bobKey, 699, 700, 100);
        assertEq(_view(account).netDeposited, 699, "one less deposited");
        assertEq(_view(account).authorizedCum, 700, "than authorized");
        account = _deposit(bob, 1);
        assertEq(_view(account).netDeposited, 700, "as much deposited");
        assertEq(_view(account).authorizedCum, 700, "as authorized");
    }

    /// @dev Decades of deposits and debits: the account's total meets its end before the vault's liabilities do.
    function test_RevertWhen_AnAccountsTotalPassesTheLedger() public {
        uint32 account = _deposit(alice, 1_000);
        uint256 max = uint64(type(int64).max);
        vm.store(address(vault), bytes32(ACCOUNTS + 2 * account), bytes32((max - 10) | (max - 10) << 64));
        vm.store(address(vault), bytes32(ACCOUNTS + 2 * account + 1), bytes32(uint256(uint160(alice))));
        assertEq(_view(account).netDeposited, max - 10, "netDeposited");
        vm.prank(alice);
        prlx.approve(address(vault), 11 * WEI_PER_CREDIT);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.CreditsOverflow.selector, max + 1, max));
        vault.deposit(11);
        vm.prank(alice);
        vault.deposit(10);
        assertEq(_view(account).netDeposited, max, "exactly its end");
    }
}
