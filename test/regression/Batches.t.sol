// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IParalleliXAICredits} from "../../contracts/interfaces/IParalleliXAICredits.sol";
import {IParalleliXSettlement} from "../../contracts/interfaces/IParalleliXSettlement.sol";
import {Base} from "../Base.sol";
import {Bundler} from "../mocks/Wallets.sol";
import {vm} from "../utils/Vm.sol";

/// @notice Bug classes 24 to 28 of the settlement note: batches, decoding, Merkle proofs.
contract BatchRegressionTest is Base {
    bytes32 private constant ROOT = keccak256("root");

    uint32 private a;
    uint32 private b;
    uint32 private opals;
    uint32 private ottos;

    function setUp() public override {
        super.setUp();
        a = _fund(alice, aliceKey, 1_000, 500, 50);
        b = _fund(bob, bobKey, 1_000, 500, 50);
        opals = _register(opal);
        ottos = _register(otto);
    }

    function _refuse(bytes memory rows, bytes memory reason) private {
        vm.prank(address(settlement));
        vm.expectRevert(reason);
        vault.debitBatch(1, rows, 0);
    }

    /// @dev `BatchRowsFuzzTest` compares every truncation, count, overlap and trailing byte with the reference decoder.
    function test_Class24_HandRolledParsingWithHostileLengths() public {
        bytes memory row = abi.encodePacked(a, uint64(10));
        _refuse("", abi.encodeWithSelector(IParalleliXAICredits.EmptyRows.selector));
        _refuse(hex"00000001", abi.encodeWithSelector(IParalleliXAICredits.TruncatedHeader.selector, 0, 4));
        _refuse(abi.encodePacked(opals, uint16(0)), abi.encodeWithSelector(IParalleliXAICredits.EmptyGroup.selector, 0));
        _refuse(
            abi.encodePacked(opals, type(uint16).max, row),
            abi.encodeWithSelector(IParalleliXAICredits.TruncatedGroup.selector, 0, 6 + 65_535 * 12, 18)
        );
        _refuse(
            abi.encodePacked(opals, uint16(1), row, uint8(0)),
            abi.encodeWithSelector(IParalleliXAICredits.TruncatedHeader.selector, 18, 19)
        );
        _refuse(
            abi.encodePacked(opals, uint16(1), row, ottos, uint16(2), row),
            abi.encodeWithSelector(IParalleliXAICredits.TruncatedGroup.selector, 18, 48, 36)
        );
        _refuse(
            abi.encodePacked(opals, uint16(1), row, ottos, uint16(0)),
            abi.encodeWithSelector(IParalleliXAICredits.EmptyGroup.selector, 18)
        );
        assertEq(_view(a).settled, 0, "what stood before the fault moved nothing");
    }

    /// @dev The declared length of the calldata itself is the attacker's.
    function test_Class24_CalldataThatEndsBeforeItsDeclaredLength() public {
        bytes memory call = abi.encodeCall(vault.debitBatch, (1, _rows(opals, a, 10), 0));
        for (uint256 cut = 1; cut <= 64; ++cut) {
            bytes memory shorter = new bytes(call.length - cut);
            for (uint256 i = 0; i < shorter.length; ++i) {
                shorter[i] = call[i];
            }
            vm.prank(address(settlement));
            (bool done,) = address(vault).call(shorter);
            // Up to the padding nothing of the rows is missing.
            assertTrue(done == (cut <= 14), "only the padding may be missing");
        }
    }

    function test_Class25_OneBadRowPoisonsTheBatch() public {
        bytes memory rows = abi.encodePacked(
            opals, uint16(3), uint32(99), uint64(10), a, type(uint64).max, uint32(0), uint64(1), ottos, uint16(2)
        );
        rows = bytes.concat(rows, abi.encodePacked(b, uint64(20), a, uint64(1)));
        _settle(rows);
        assertEq(_view(a).settled, 50, "the greedy row is clamped");
        assertEq(_view(b).settled, 20, "the good row is paid");
        assertEq(_claimable(opals), 45, "opal");
        assertEq(_claimable(ottos), 18, "otto");
    }

    function test_Class25_GasOfAShortRowIsBounded() public {
        bytes memory group = abi.encodePacked(opals, uint16(100));
        for (uint32 i = 0; i < 100; ++i) {
            group = bytes.concat(group, abi.encodePacked(uint32(1_000 + i), uint64(1)));
        }
        uint256 gasBefore = gasleft();
        _settle(group);
        assertLe(gasBefore - gasleft(), 900_000, "a hundred rows of unknown accounts");
    }

    /// @dev With too little gas nothing at all happens: no inner call is caught.
    function test_Class25_StarvedInnerCallSettlesNothing() public {
        bytes memory rows = abi.encodePacked(opals, uint16(2), a, uint64(10), b, uint64(10));
        bytes memory signature = _signBatch(settlerKey, 1, ROOT, rows, _now());
        bytes memory call = abi.encodeCall(settlement.settle, (1, ROOT, rows, _now(), signature));
        Bundler bundler = new Bundler();
        uint256 failures = 0;
        for (uint256 gas = 10_000; gas < 220_000; gas += 10_000) {
            if (bundler.tryCall(address(settlement), call, gas)) break;
            ++failures;
            assertEq(settlement.lastSeq(), 0, "nothing settled");
            assertEq(_view(a).settled, 0, "nothing debited");
        }
        assertTrue(failures > 5, "the loop starved it");
        assertEq(_view(b).settled, 10, "with enough gas all of it happens");
    }

    function test_Class26_ZeroRootAndUnknownSeq() public {
        bytes memory rows = _rows(opals, a, 10);
        bytes memory signature = _signBatch(settlerKey, 1, 0, rows, _now());
        vm.expectRevert(IParalleliXSettlement.ZeroReceiptsRoot.selector);
        settlement.settle(1, 0, rows, _now(), signature);
        IParalleliXSettlement.ServiceReceipt memory receipt;
        assertTrue(!settlement.verifyReceipt(1, receipt, "", new bytes32[](0)), "no root, no proof");
        assertTrue(!settlement.verifyReceipt(type(uint64).max, receipt, "", new bytes32[](0)), "unknown seq");
    }

    function test_Class27_LeafAndInnerNodeConfusion() public {
        (, uint256 nodeKey) = _addNode();
        IParalleliXSettlement.ServiceReceipt memory receipt;
        (receipt.operator, receipt.account) = (opals, a);
        bytes32 digest = settlement.receiptDigest(receipt);
        bytes memory signature = _sign(nodeKey, digest);
        bytes32 leaf = keccak256(bytes.concat(digest));
        bytes memory rows = _rows(opals, a, 10);

        // The digest itself as a leaf, that is one hash too few.
        settlement.settle(1, digest, rows, _now(), _signBatch(settlerKey, 1, digest, rows, _now()));
        assertTrue(!settlement.verifyReceipt(1, receipt, signature, new bytes32[](0)), "a leaf is hashed twice");
        // An odd last leaf moves up; it is not paired with itself.
        bytes32 root = keccak256(abi.encode(leaf, leaf));
        settlement.settle(2, root, rows, _now(), _signBatch(settlerKey, 2, root, rows, _now()));
        bytes32[] memory proof = new bytes32[](1);
        proof[0] = leaf;
        assertTrue(settlement.verifyReceipt(2, receipt, signature, proof), "two equal leaves prove one receipt");
        proof = new bytes32[](2);
        (proof[0], proof[1]) = (leaf, leaf);
        assertTrue(!settlement.verifyReceipt(2, receipt, signature, proof), "a longer path proves nothing");
        assertTrue(!settlement.verifyReceipt(2, receipt, signature, new bytes32[](0)), "nor a shorter one");
    }

    function _addNode() private returns (address node, uint256 key) {
        (node, key) = makeActor("node");
        bytes32 structHash = keccak256(abi.encode(keccak256("NodeKey(uint32 operator,address key)"), opals, node));
        bytes memory proof = _sign(key, _digest(registry.DOMAIN_SEPARATOR(), structHash));
        vm.prank(opal);
        registry.addNodeKey(node, proof);
    }

    function _settleAt(uint64 seq, bytes memory rows, bytes memory reason) private {
        bytes memory signature = _signBatch(settlerKey, seq, ROOT, rows, _now());
        if (reason.length != 0) vm.expectRevert(reason);
        settlement.settle(seq, ROOT, rows, _now(), signature);
    }

    function test_Class28_ReplayGapReorderAndTwoKeepers() public {
        bytes memory first = _rows(opals, a, 10);
        bytes memory second = _rows(opals, a, 20);
        _settleAt(2, second, abi.encodeWithSelector(IParalleliXSettlement.SeqMismatch.selector, 2, 1));
        _settleAt(1, first, "");
        _settleAt(1, first, abi.encodeWithSelector(IParalleliXSettlement.SeqMismatch.selector, 1, 2));
        _settleAt(1, second, abi.encodeWithSelector(IParalleliXSettlement.SeqMismatch.selector, 1, 2));
        _settleAt(0, second, abi.encodeWithSelector(IParalleliXSettlement.SeqMismatch.selector, 0, 2));
        _skip(VELOCITY_WINDOW);
        _settleAt(2, second, "");
        _settleAt(3, first, "");
        assertEq(_view(a).settled, 20, "the older rows under a new number move nothing");
        assertEq(_claimable(opals), 18, "and credit nothing");
    }

    function test_Class28_SeqOverflow() public {
        // `lastSeq` lies in bits 160 to 199 of the settler's slot.
        bytes32 slot = bytes32(uint256(4));
        uint256 word = uint256(vm.load(address(settlement), slot));
        vm.store(address(settlement), slot, bytes32(word | uint256(type(uint40).max) << 160));
        assertEq(settlement.lastSeq(), type(uint40).max, "the last number there is");
        uint64[3] memory seqs = [uint64(0), 1, uint64(type(uint40).max) + 1];
        for (uint256 i = 0; i < 3; ++i) {
            bytes memory rows = _rows(opals, a, 10);
            bytes memory signature = _signBatch(settlerKey, seqs[i], ROOT, rows, _now());
            vm.expectRevert();
            settlement.settle(seqs[i], ROOT, rows, _now(), signature);
        }
    }
}
