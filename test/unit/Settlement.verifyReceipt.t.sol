// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IParalleliXSettlement} from "../../contracts/interfaces/IParalleliXSettlement.sol";
import {Base} from "../Base.sol";
import {vm} from "../utils/Vm.sol";

contract VerifyReceiptTest is Base {
    uint32 private account;
    uint32 private operator;
    address private node;
    uint256 private nodeKey;
    IParalleliXSettlement.ServiceReceipt private receipt;
    bytes private signature;
    bytes32[] private proof;

    function setUp() public override {
        super.setUp();
        account = _fund(alice, aliceKey, 1_000, 500, 50);
        operator = _register(opal);
        (node, nodeKey) = makeActor("node");
        _addNodeKey();
        receipt.requestId = keccak256("request");
        (receipt.account, receipt.operator, receipt.amount) = (account, operator, 10);
        (receipt.startedAt, receipt.servedAt) = (_now(), _now() + 5);
        bytes32 digest = settlement.receiptDigest(receipt);
        signature = _sign(nodeKey, digest);
        proof.push(keccak256("another leaf"));
        _settleUnder(_parent(keccak256(bytes.concat(digest)), proof[0]));
    }

    function _addNodeKey() private {
        bytes32 structHash = keccak256(abi.encode(keccak256("NodeKey(uint32 operator,address key)"), operator, node));
        bytes memory keyProof = _sign(nodeKey, _digest(registry.DOMAIN_SEPARATOR(), structHash));
        vm.prank(opal);
        registry.addNodeKey(node, keyProof);
    }

    function _settleUnder(bytes32 root) private {
        bytes memory rows = _rows(operator, account, 10);
        settlement.settle(1, root, rows, _now(), _signBatch(settlerKey, 1, root, rows, _now()));
    }

    function _parent(bytes32 left, bytes32 right) private pure returns (bytes32) {
        return left < right ? keccak256(abi.encode(left, right)) : keccak256(abi.encode(right, left));
    }

    function _verify() private view returns (bool) {
        return settlement.verifyReceipt(1, receipt, signature, proof);
    }

    function test_True() public view {
        assertTrue(_verify(), "receipt");
    }

    function test_FalseForAnotherBatch() public view {
        assertTrue(!settlement.verifyReceipt(2, receipt, signature, proof), "unknown seq");
        assertTrue(!settlement.verifyReceipt(0, receipt, signature, proof), "seq zero");
    }

    function test_FalseWhenAnyByteChanges() public {
        receipt.amount += 1;
        assertTrue(!_verify(), "amount");
        receipt.amount -= 1;
        receipt.servedAt += 1;
        assertTrue(!_verify(), "servedAt");
        receipt.servedAt -= 1;
        proof[0] ^= bytes32(uint256(1));
        assertTrue(!_verify(), "proof");
        proof[0] ^= bytes32(uint256(1));
        assertTrue(_verify(), "as it was");
    }

    function test_FalseForAnInnerNodeAsLeaf() public view {
        bytes32[] memory none = new bytes32[](0);
        assertTrue(!settlement.verifyReceipt(1, receipt, signature, none), "no proof");
    }

    function test_FalseForSomebodyElsesOrNoSignature() public {
        bytes32 digest = settlement.receiptDigest(receipt);
        signature = _sign(aliceKey, digest);
        assertTrue(!_verify(), "not a node key");
        signature = "";
        assertTrue(!_verify(), "no signature");
    }

    function test_KeyOfAnotherOperatorDoesNotCount() public {
        uint32 ottos = _register(otto);
        receipt.operator = ottos;
        bytes32 digest = settlement.receiptDigest(receipt);
        signature = _sign(nodeKey, digest);
        bytes32 root = keccak256(bytes.concat(digest));
        bytes memory rows = _rows(ottos, account, 11);
        settlement.settle(2, root, rows, _now(), _signBatch(settlerKey, 2, root, rows, _now()));

        assertTrue(!settlement.verifyReceipt(2, receipt, signature, new bytes32[](0)), "opal's key for otto");
    }

    function test_RemovedKeyCountsForWhatItServedBefore() public {
        vm.warp(receipt.servedAt);
        vm.prank(opal);
        registry.removeNodeKey(node);
        assertTrue(_verify(), "served in the key's last second");
    }

    function test_RemovedKeyDoesNotCountForLaterService() public {
        vm.warp(receipt.servedAt - 1);
        vm.prank(opal);
        registry.removeNodeKey(node);
        assertTrue(!_verify(), "served after the key was removed");
    }
}
