// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";

import {IParalleliXAICredits} from "../contracts/interfaces/IParalleliXAICredits.sol";
import {IParalleliXSettlement} from "../contracts/interfaces/IParalleliXSettlement.sol";
import {TypedData} from "../contracts/libraries/TypedData.sol";
import {RowsHarness} from "./mocks/RowsHarness.sol";
import {ReferenceRows, Row} from "./utils/ReferenceRows.sol";
import {Test} from "./utils/Test.sol";
import {vm} from "./utils/Vm.sol";

/// @notice Calls the contracts' own struct hashes.
contract TypedDataHarness {
    function authorization(IParalleliXAICredits.SpendAuthorization calldata value) external pure returns (bytes32) {
        return TypedData.hash(value);
    }

    function revocation(IParalleliXAICredits.Revocation calldata value) external pure returns (bytes32) {
        return TypedData.hash(value);
    }

    function clearance(IParalleliXAICredits.ClosureClearance calldata value) external pure returns (bytes32) {
        return TypedData.hash(value);
    }

    function batch(IParalleliXSettlement.SettlementBatch calldata value) external pure returns (bytes32) {
        return TypedData.hash(value);
    }

    function receipt(IParalleliXSettlement.ServiceReceipt calldata value) external pure returns (bytes32) {
        return TypedData.hash(value);
    }

    function nodeKey(uint32 operator, address key) external pure returns (bytes32) {
        return TypedData.hashNodeKey(operator, key);
    }
}

/// @notice The contracts agree with the vectors that `test/vectors/generate.mjs` made with viem.
contract VectorsTest is Test {
    TypedDataHarness private hashes = new TypedDataHarness();
    RowsHarness private rows = new RowsHarness();
    string private json;

    function _at(string memory list, uint256 index, string memory key) private pure returns (string memory) {
        return string.concat(".", list, "[", vm.toString(index), "].", key);
    }

    // EIP-712

    function test_SignaturesAndDigestsAgree() public {
        json = vm.readFile("test/vectors/eip712.json");
        uint256 index = 0;
        for (; vm.keyExistsJson(json, _at("vectors", index, "type")); ++index) {
            bytes32 typeHash = keccak256(bytes(vm.parseJsonString(json, _at("vectors", index, "type"))));
            assertEq(typeHash, _bytes32(index, "typeHash"), "type hash");
            assertEq(_domainSeparator(index), _bytes32(index, "domainSeparator"), "domain separator");
            bytes32 digest = keccak256(
                abi.encodePacked("\x19\x01", _bytes32(index, "domainSeparator"), _bytes32(index, "structHash"))
            );
            assertEq(digest, _bytes32(index, "digest"), "digest");
            bytes memory signature = vm.parseJsonBytes(json, _at("vectors", index, "signature"));
            address signer = vm.parseJsonAddress(json, _at("vectors", index, "signer"));
            assertEq(ECDSA.recover(digest, signature), signer, "signer");
            assertEq(vm.addr(vm.parseJsonUint(json, _at("vectors", index, "signerKey"))), signer, "signer's key");
        }
        assertEq(index, 10, "number of vectors");
    }

    function test_StructHashesAgree() public {
        json = vm.readFile("test/vectors/eip712.json");
        for (uint256 index = 0; index < 2; ++index) {
            assertEq(hashes.authorization(_authorization(index)), _bytes32(index, "structHash"), "SpendAuthorization");
        }
        assertEq(
            hashes.revocation(
                IParalleliXAICredits.Revocation(
                    _address(2, "owner"), uint32(_uint(2, "nonce")), _time(2, "signDeadline")
                )
            ),
            _bytes32(2, "structHash"),
            "Revocation"
        );
        assertEq(hashes.clearance(_clearance(4)), _bytes32(4, "structHash"), "ClosureClearance");
        assertEq(hashes.batch(_batch(5)), _bytes32(5, "structHash"), "SettlementBatch");
        assertEq(hashes.receipt(_receipt(6)), _bytes32(6, "structHash"), "ServiceReceipt");
        assertEq(hashes.nodeKey(uint32(_uint(9, "operator")), _address(9, "key")), _bytes32(9, "structHash"), "NodeKey");
    }

    function _domainSeparator(uint256 index) private view returns (bytes32) {
        return keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256(bytes(vm.parseJsonString(json, _at("vectors", index, "domain.name")))),
                keccak256(bytes(vm.parseJsonString(json, _at("vectors", index, "domain.version")))),
                vm.parseJsonUint(json, _at("vectors", index, "domain.chainId")),
                vm.parseJsonAddress(json, _at("vectors", index, "domain.verifyingContract"))
            )
        );
    }

    function _authorization(uint256 index) private view returns (IParalleliXAICredits.SpendAuthorization memory) {
        return IParalleliXAICredits.SpendAuthorization({
            owner: _address(index, "owner"),
            cap: uint64(_uint(index, "cap")),
            exposure: uint48(_uint(index, "exposure")),
            validUntil: _time(index, "validUntil"),
            challenge: _word(index, "challenge"),
            nonce: uint32(_uint(index, "nonce")),
            signDeadline: _time(index, "signDeadline")
        });
    }

    function _clearance(uint256 index) private view returns (IParalleliXAICredits.ClosureClearance memory) {
        return IParalleliXAICredits.ClosureClearance({
            account: uint32(_uint(index, "account")),
            settled: uint64(_uint(index, "settled")),
            authNonce: uint32(_uint(index, "authNonce")),
            deadline: _time(index, "deadline")
        });
    }

    function _batch(uint256 index) private view returns (IParalleliXSettlement.SettlementBatch memory) {
        return IParalleliXSettlement.SettlementBatch({
            seq: uint64(_uint(index, "seq")),
            receiptsRoot: _word(index, "receiptsRoot"),
            rowsHash: _word(index, "rowsHash"),
            deadline: _time(index, "deadline")
        });
    }

    function _receipt(uint256 index) private view returns (IParalleliXSettlement.ServiceReceipt memory) {
        return IParalleliXSettlement.ServiceReceipt({
            requestId: _word(index, "requestId"),
            account: uint32(_uint(index, "account")),
            operator: uint32(_uint(index, "operator")),
            modelRoot: _word(index, "modelRoot"),
            engine: _word(index, "engine"),
            promptTokens: uint32(_uint(index, "promptTokens")),
            completionTokens: uint32(_uint(index, "completionTokens")),
            modelRate: uint64(_uint(index, "modelRate")),
            amount: uint64(_uint(index, "amount")),
            promptHash: _word(index, "promptHash"),
            completionHash: _word(index, "completionHash"),
            paramsHash: _word(index, "paramsHash"),
            proofRoot: _word(index, "proofRoot"),
            startedAt: _time(index, "startedAt"),
            servedAt: _time(index, "servedAt")
        });
    }

    function _bytes32(uint256 index, string memory key) private view returns (bytes32) {
        return vm.parseJsonBytes32(json, _at("vectors", index, key));
    }

    function _word(uint256 index, string memory field) private view returns (bytes32) {
        return _bytes32(index, string.concat("fields.", field));
    }

    function _uint(uint256 index, string memory field) private view returns (uint256) {
        return vm.parseJsonUint(json, _at("vectors", index, string.concat("fields.", field)));
    }

    function _time(uint256 index, string memory field) private view returns (uint40) {
        return uint40(_uint(index, field));
    }

    function _address(uint256 index, string memory field) private view returns (address) {
        return vm.parseJsonAddress(json, _at("vectors", index, string.concat("fields.", field)));
    }

    // Merkle trees

    function test_MerkleProofsAgree() public {
        json = vm.readFile("test/vectors/merkle.json");
        uint256 tree = 0;
        for (; vm.keyExistsJson(json, _at("trees", tree, "root")); ++tree) {
            bytes32 root = vm.parseJsonBytes32(json, _at("trees", tree, "root"));
            bytes32[] memory digests = vm.parseJsonBytes32Array(json, _at("trees", tree, "digests"));
            bytes32[] memory leaves = vm.parseJsonBytes32Array(json, _at("trees", tree, "leaves"));
            assertEq(leaves.length, vm.parseJsonUint(json, _at("trees", tree, "count")), "number of leaves");
            for (uint256 i = 0; i < leaves.length; ++i) {
                assertEq(keccak256(bytes.concat(digests[i])), leaves[i], "leaf");
                bytes32[] memory proof = _proof(tree, i);
                assertTrue(MerkleProof.verify(proof, root, leaves[i]), "leaf is under the root");
                assertTrue(!MerkleProof.verify(proof, root, digests[i]), "a digest is no leaf");
            }
        }
        assertEq(tree, 5, "number of trees");
    }

    function _proof(uint256 tree, uint256 leaf) private view returns (bytes32[] memory) {
        string memory key = string.concat("proofs[", vm.toString(leaf), "]");
        return vm.parseJsonBytes32Array(json, _at("trees", tree, key));
    }

    // Rows

    function test_RowsAgree() public {
        json = vm.readFile("test/vectors/rows.json");
        uint256 batch = 0;
        for (; vm.keyExistsJson(json, _at("batches", batch, "encoded")); ++batch) {
            bytes memory encoded = vm.parseJsonBytes(json, _at("batches", batch, "encoded"));
            assertEq(keccak256(encoded), vm.parseJsonBytes32(json, _at("batches", batch, "rowsHash")), "rows hash");
            Row[] memory decoded = rows.decode(encoded);
            assertEq(ReferenceRows.encode(decoded), encoded, "encoded again");
            uint256 next = 0;
            for (uint256 group = 0; vm.keyExistsJson(json, _group(batch, group, "operator")); ++group) {
                for (uint256 row = 0; vm.keyExistsJson(json, _row(batch, group, row, "account")); ++row) {
                    Row memory found = decoded[next++];
                    assertEq(found.operator, vm.parseJsonUint(json, _group(batch, group, "operator")), "operator");
                    assertEq(found.account, vm.parseJsonUint(json, _row(batch, group, row, "account")), "account");
                    assertEq(
                        found.cumulative, vm.parseJsonUint(json, _row(batch, group, row, "cumulative")), "cumulative"
                    );
                }
            }
            assertEq(next, decoded.length, "number of rows");
        }
        assertEq(batch, 4, "number of batches");
    }

    function test_MalformedRowsAreRefused() public {
        json = vm.readFile("test/vectors/rows.json");
        uint256 index = 0;
        for (; vm.keyExistsJson(json, _at("malformed", index, "reason")); ++index) {
            bytes memory encoded = vm.parseJsonBytes(json, _at("malformed", index, "encoded"));
            try rows.decode(encoded) {
                revert AssertionFailed(vm.parseJsonString(json, _at("malformed", index, "reason")));
            } catch {}
        }
        assertEq(index, 6, "number of malformed batches");
    }

    function _group(uint256 batch, uint256 group, string memory key) private pure returns (string memory) {
        return string.concat(_at("batches", batch, "groups["), vm.toString(group), "].", key);
    }

    function _row(uint256 batch, uint256 group, uint256 row, string memory key) private pure returns (string memory) {
        return string.concat(_group(batch, group, "rows["), vm.toString(row), "].", key);
    }
}
