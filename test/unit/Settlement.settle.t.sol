// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IParalleliXAICredits} from "../../contracts/interfaces/IParalleliXAICredits.sol";
import {IParalleliXSettlement} from "../../contracts/interfaces/IParalleliXSettlement.sol";
import {Base} from "../Base.sol";
import {Bundler, Wallet} from "../mocks/Wallets.sol";
import {vm} from "../utils/Vm.sol";

contract SettleTest is Base {
    bytes32 private constant ROOT = keccak256("root");

    uint32 private a;
    uint32 private b;
    uint32 private opals;
    uint32 private ottos;

    function setUp() public override {
        super.setUp();
        a = _fund(alice, aliceKey, 1_000, 800, 100);
        b = _fund(bob, bobKey, 1_000, 800, 100);
        opals = _register(opal);
        ottos = _register(otto);
    }

    function _expectShort(uint64 seq, uint32 account, uint32 operator, uint64 requested, uint64 applied) private {
        vm.expectEmit(true, true, true, true, address(vault));
        emit IParalleliXAICredits.RowShort(seq, account, operator, requested, applied);
    }

    function _call(uint64 seq, bytes memory rows) private view returns (bytes memory) {
        bytes memory signature = _signBatch(settlerKey, seq, ROOT, rows, _now());
        return abi.encodeCall(settlement.settle, (seq, ROOT, rows, _now(), signature));
    }

    // Refused

    function test_RevertWhen_SeqIsNotTheNext() public {
        bytes memory rows = _rows(opals, a, 10);
        for (uint64 seq = 0; seq <= 2; seq += 2) {
            bytes memory signature = _signBatch(settlerKey, seq, ROOT, rows, _now());
            vm.expectRevert(abi.encodeWithSelector(IParalleliXSettlement.SeqMismatch.selector, seq, 1));
            settlement.settle(seq, ROOT, rows, _now(), signature);
        }
    }

    function test_RevertWhen_BatchIsReplayed() public {
        bytes memory rows = _rows(opals, a, 10);
        bytes memory signature = _signBatch(settlerKey, 1, ROOT, rows, _now());
        settlement.settle(1, ROOT, rows, _now(), signature);

        vm.expectRevert(abi.encodeWithSelector(IParalleliXSettlement.SeqMismatch.selector, 1, 2));
        settlement.settle(1, ROOT, rows, _now(), signature);
    }

    function test_RevertWhen_RootIsZero() public {
        bytes memory rows = _rows(opals, a, 10);
        bytes memory signature = _signBatch(settlerKey, 1, 0, rows, _now());
        vm.expectRevert(IParalleliXSettlement.ZeroReceiptsRoot.selector);
        settlement.settle(1, 0, rows, _now(), signature);
    }

    function test_RevertWhen_DeadlinePassed() public {
        bytes memory rows = _rows(opals, a, 10);
        bytes memory signature = _signBatch(settlerKey, 1, ROOT, rows, START);
        _skip(1);
        vm.expectRevert(abi.encodeWithSelector(IParalleliXSettlement.SignatureExpired.selector, START, START + 1));
        settlement.settle(1, ROOT, rows, START, signature);
    }

    function test_RevertWhen_AnyFieldIsMutated() public {
        bytes memory rows = _rows(opals, a, 10);
        bytes memory signature = _signBatch(settlerKey, 1, ROOT, rows, _now());
        vm.expectPartialRevert(IParalleliXSettlement.InvalidSignature.selector);
        settlement.settle(1, ROOT ^ bytes32(uint256(1)), rows, _now(), signature);
        vm.expectPartialRevert(IParalleliXSettlement.InvalidSignature.selector);
        settlement.settle(1, ROOT, _rows(opals, a, 11), _now(), signature);
        vm.expectPartialRevert(IParalleliXSettlement.InvalidSignature.selector);
        settlement.settle(1, ROOT, rows, _now() + 1, signature);
        signature = _signBatch(aliceKey, 1, ROOT, rows, _now());
        vm.expectPartialRevert(IParalleliXSettlement.InvalidSignature.selector);
        settlement.settle(1, ROOT, rows, _now(), signature);
    }

    function test_RevertWhen_SignedForAnotherChain() public {
        bytes memory rows = _rows(opals, a, 10);
        bytes memory signature = _signBatch(settlerKey, 1, ROOT, rows, _now());
        vm.chainId(1);
        vm.expectPartialRevert(IParalleliXSettlement.InvalidSignature.selector);
        settlement.settle(1, ROOT, rows, _now(), signature);
    }

    function test_RevertWhen_SettlerSuspended() public {
        vm.prank(guardian);
        settlement.suspendSettler(true);
        bytes memory rows = _rows(opals, a, 10);
        bytes memory signature = _signBatch(settlerKey, 1, ROOT, rows, _now());
        vm.expectRevert(abi.encodeWithSelector(IParalleliXSettlement.SettlerIsSuspended.selector, _now() + 72 hours));
        settlement.settle(1, ROOT, rows, _now(), signature);
    }

    function test_RevertWhen_RowsAreMalformed() public {
        bytes[6] memory malformed = [
            bytes(""),
            hex"0000000100",
            abi.encodePacked(opals, uint16(0)),
            abi.encodePacked(opals, uint16(2), a, uint64(1)),
            abi.encodePacked(opals, uint16(1), a, uint56(1)),
            abi.encodePacked(opals, uint16(1), a, uint64(1), uint8(0))
        ];
        bytes4[6] memory errors = [
            IParalleliXAICredits.EmptyRows.selector,
            IParalleliXAICredits.TruncatedHeader.selector,
            IParalleliXAICredits.EmptyGroup.selector,
            IParalleliXAICredits.TruncatedGroup.selector,
            IParalleliXAICredits.TruncatedGroup.selector,
            IParalleliXAICredits.TruncatedHeader.selector
        ];
        for (uint256 i = 0; i < malformed.length; ++i) {
            bytes memory signature = _signBatch(settlerKey, 1, ROOT, malformed[i], _now());
            vm.expectPartialRevert(errors[i]);
            settlement.settle(1, ROOT, malformed[i], _now(), signature);
        }
        assertEq(settlement.lastSeq(), 0, "nothing settled");
    }

    function test_RevertWhen_OperatorUnknown() public {
        bytes memory rows = _rows(99, a, 10);
        bytes memory signature = _signBatch(settlerKey, 1, ROOT, rows, _now());
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.OperatorUnknown.selector, 99));
        settlement.settle(1, ROOT, rows, _now(), signature);
    }

    function test_RevertWhen_DebitBatchIsCalledByAnother() public {
        vm.prank(settler);
        vm.expectRevert(
            abi.encodeWithSelector(IParalleliXAICredits.UnauthorizedCaller.selector, settler, address(settlement))
        );
        vault.debitBatch(1, _rows(opals, a, 10), 0);
    }

    function test_RevertWhen_SettlementAsksForTooHighAFee() public {
        vm.prank(address(settlement));
        vm.expectRevert(abi.encodeWithSelector(IParalleliXAICredits.FeeTooHigh.selector, 3_001, 3_000));
        vault.debitBatch(1, _rows(opals, a, 10), 3_001);
    }

    // Effects

    function test_DebitsPayersAndCreditsOperators() public {
        bytes memory rows =
            abi.encodePacked(opals, uint16(2), a, uint64(35), b, uint64(20), ottos, uint16(1), a, uint64(44));
        bytes memory signature = _signBatch(settlerKey, 1, ROOT, rows, _now());

        vm.expectEmit(true, true, true, true, address(vault));
        emit IParalleliXAICredits.BatchDebited(1, 64, 5);
        vm.expectEmit(true, true, true, true, address(settlement));
        emit IParalleliXSettlement.Settled(1, ROOT, keccak256(rows), 64, 5);
        vm.prank(stranger);
        settlement.settle(1, ROOT, rows, _now(), signature);

        assertEq(_view(a).settled, 44, "alice's settled");
        assertEq(_view(a).lastSettledAt, _now(), "alice's lastSettledAt");
        assertEq(_view(a).limit, 800, "alice's limit");
        assertEq(_view(a).netDeposited, 1_000, "alice's netDeposited");
        assertEq(_view(b).settled, 20, "bob's settled");
        assertEq(_claimable(opals), 50, "opal: 55 less a fee of 5.5 rounded down");
        assertEq(_claimable(ottos), 9, "otto: 9 less a fee of 0.9 rounded down");
        assertEq(vault.fees(), 5, "fees");
        assertEq(vault.liabilities(), 2_000, "liabilities stay");
        assertEq(settlement.lastSeq(), 1, "lastSeq");
        assertEq(settlement.receiptsRoot(1), ROOT, "receipts root");
        assertEq(settlement.receiptsRoot(2), bytes32(0), "no other root");
    }

    function test_StaleRowsMoveNothing() public {
        bytes memory rows = _rows(opals, a, 10);
        _settle(rows);
        _skip(1 days);

        _expectShort(2, a, opals, 0, 0);
        _settle(rows);

        assertEq(_view(a).settled, 10, "settled");
        assertEq(_view(a).lastSettledAt, START, "lastSettledAt stays");
        assertEq(_claimable(opals), 9, "claimable");
        assertEq(settlement.lastSeq(), 2, "lastSeq");
    }

    function test_UnknownAccountIsShort() public {
        _expectShort(1, 77, opals, 10, 0);
        _settle(_rows(opals, 77, 10));
        assertEq(_claimable(opals), 0, "claimable");
    }

    function test_ExpiredAccountIsShort() public {
        vm.warp(_view(a).settleDeadline);
        _settle(_rows(opals, a, 10));
        assertEq(_view(a).settled, 10, "debited in the last live second");
        _skip(VELOCITY_WINDOW);

        _expectShort(2, a, opals, 5, 0);
        _settle(_rows(opals, a, 15));
        assertEq(_view(a).settled, 10, "not after it");
    }

    function test_ClampedRowShortsExactlyItsOperator() public {
        bytes memory rows =
            abi.encodePacked(opals, uint16(1), a, uint64(70), ottos, uint16(2), a, uint64(130), b, uint64(50));

        _expectShort(1, a, ottos, 60, 30);
        _settle(rows);

        assertEq(_view(a).settled, 100, "one exposure");
        assertEq(_claimable(opals), 63, "opal has all of 70 less its fee");
        assertEq(_claimable(ottos), 72, "otto has 30 + 50 less its fee");
        assertEq(vault.fees(), 15, "fees");
    }

    function test_RowsExactlyAtACeilingAreNotShort() public {
        vm.recordLogs();
        _settle(abi.encodePacked(opals, uint16(2), a, uint64(100), b, uint64(1)));
        assertEq(vm.getRecordedLogs().length, 2, "the two events of a batch, and none of a short row");
        assertEq(_view(a).settled, 100, "exactly one exposure");
        uint64 free = vault.free(b);
        vm.prank(bob);
        vault.withdraw(free, bob);
        _skip(VELOCITY_WINDOW);
        vm.recordLogs();
        _settle(_rows(opals, b, 101));
        assertEq(vm.getRecordedLogs().length, 2, "exactly one exposure again");
        _skip(VELOCITY_WINDOW);
        vm.recordLogs();
        _settle(_rows(opals, a, 101));
        assertEq(vm.getRecordedLogs().length, 2, "well below it");
    }

    function test_LimitClampsToWhatIsDeposited() public {
        vm.prank(alice);
        vault.revoke();
        vm.warp(_view(a).settleDeadline + 1);
        vm.prank(alice);
        vault.withdraw(970, alice);
        _authorize(alice, aliceKey, 800, 100);

        _expectShort(1, a, opals, 90, 30);
        _settle(_rows(opals, a, 90));

        assertEq(_view(a).settled, 30, "settled");
        assertEq(vault.balance(a), 0, "balance");
        _deposit(alice, 500);
        _skip(VELOCITY_WINDOW);
        _settle(_rows(opals, a, 90));
        assertEq(_view(a).settled, 90, "the rest follows after a deposit");
    }

    function test_SelfDealingPaysOnlyWhatWasDebited() public {
        vm.prank(alice);
        uint32 alices = registry.register(alice, 0);

        _settle(_rows(alices, a, 1_000));
        vault.claim(alices);

        assertEq(vault.balance(a), 900, "alice paid one exposure");
        assertEq(prlx.balanceOf(alice), (FUNDS - 1_000 + 90) * WEI_PER_CREDIT, "and got it back less the fee");
        assertEq(vault.fees(), 10, "fees");
        assertEq(vault.liabilities(), 1_910, "liabilities");
    }

    // Velocity: one exposure per account and window

    function test_SecondTransactionOfOneBlockIsShort() public {
        _settle(_rows(opals, a, 60));

        _expectShort(2, a, opals, 30, 0);
        _settle(_rows(opals, a, 90));

        assertEq(_view(a).settled, 60, "settled");
    }

    function test_WindowIsCountedFromTheLastDebit() public {
        _settle(_rows(opals, a, 100));
        _skip(VELOCITY_WINDOW - 1);
        _expectShort(2, a, opals, 50, 0);
        _settle(_rows(opals, a, 150));
        _skip(1);

        _settle(_rows(opals, a, 150));

        assertEq(_view(a).settled, 150, "settled");
    }

    function test_TwoRowsOfOneBatchShareOneExposure() public {
        _settle(abi.encodePacked(opals, uint16(2), a, uint64(60), a, uint64(160)));
        assertEq(_view(a).settled, 100, "settled");
    }

    function test_TwoBatchesOfOneTransactionShareOneExposure() public {
        Bundler bundler = new Bundler();
        bytes[] memory calls = new bytes[](2);
        calls[0] = _call(1, _rows(opals, a, 60));
        calls[1] = _call(2, _rows(ottos, a, 160));

        bundler.callAll(address(settlement), calls);

        assertEq(_view(a).settled, 100, "settled");
        assertEq(_claimable(opals), 54, "opal's 60 less the fee");
        assertEq(_claimable(ottos), 36, "otto's 40 less the fee");
    }

    function test_AShortRowDoesNotOpenTheWindowAgain() public {
        _settle(_rows(opals, a, 100));
        Bundler bundler = new Bundler();
        bytes[] memory calls = new bytes[](2);
        calls[0] = _call(2, _rows(opals, a, 200));
        calls[1] = _call(3, _rows(opals, a, 200));

        bundler.callAll(address(settlement), calls);

        assertEq(_view(a).settled, 100, "settled");
    }

    /// @dev Each account has a mark of its own: a richer account's rows in between widen nobody's window.
    function test_MarksOfManyAccountsDoNotMix() public {
        uint32[8] memory accounts;
        (accounts[0], accounts[1]) = (a, b);
        for (uint256 i = 2; i < 8; ++i) {
            (address payer, uint256 key) = makeActor(string.concat("payer ", vm.toString(i)));
            vm.prank(alice);
            prlx.transfer(payer, 10_000 * WEI_PER_CREDIT);
            accounts[i] = _fund(payer, key, 10_000, 10_000, uint48(100 * (i + 1)));
        }
        bytes memory rows = abi.encodePacked(opals, uint16(16));
        for (uint256 pass = 1; pass <= 2; ++pass) {
            for (uint256 i = 0; i < 8; ++i) {
                rows = bytes.concat(rows, abi.encodePacked(accounts[i], uint64(pass == 1 ? 50 : 9_000)));
            }
        }

        _settle(rows);

        for (uint256 i = 0; i < 8; ++i) {
            assertEq(_view(accounts[i]).settled, i < 2 ? 100 : 100 * (i + 1), "one exposure each");
        }
    }

    function test_ContractSettlerSigns() public {
        Wallet wallet = new Wallet(settler);
        vm.prank(owner);
        settlement.proposeSettler(address(wallet));
        _skip(2 * EXIT_DELAY);
        vm.prank(owner);
        settlement.acceptSettler();

        _settle(_rows(opals, a, 10));

        assertEq(_view(a).settled, 10, "settled");
    }
}
