// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IParalleliXAICredits} from "../interfaces/IParalleliXAICredits.sol";
import {IParalleliXSettlement} from "../interfaces/IParalleliXSettlement.sol";

/// @title TypedData
/// @notice EIP-712 struct hashes of every type that a contract checks (docs/protocol.md, section 2).
/// @dev Every field of every type is a value type, so `abi.encode(TYPEHASH, struct)` is EIP-712's `encodeData`.
library TypedData {
    bytes32 internal constant SPEND_AUTHORIZATION_TYPEHASH = keccak256(
        "SpendAuthorization(address owner,uint64 cap,uint48 exposure,uint40 validUntil,bytes32 challenge,uint32 nonce,uint40 signDeadline)"
    );
    bytes32 internal constant REVOCATION_TYPEHASH =
        keccak256("Revocation(address owner,uint32 nonce,uint40 signDeadline)");
    bytes32 internal constant CLOSURE_CLEARANCE_TYPEHASH =
        keccak256("ClosureClearance(uint32 account,uint64 settled,uint32 authNonce,uint40 deadline)");
    bytes32 internal constant SETTLEMENT_BATCH_TYPEHASH =
        keccak256("SettlementBatch(uint64 seq,bytes32 receiptsRoot,bytes32 rowsHash,uint40 deadline)");
    bytes32 internal constant SERVICE_RECEIPT_TYPEHASH = keccak256(
        "ServiceReceipt(bytes32 requestId,uint32 account,uint32 operator,bytes32 modelRoot,bytes32 engine,uint32 promptTokens,uint32 completionTokens,uint64 modelRate,uint64 amount,bytes32 promptHash,bytes32 completionHash,bytes32 paramsHash,bytes32 proofRoot,uint40 startedAt,uint40 servedAt)"
    );
    bytes32 internal constant NODE_KEY_TYPEHASH = keccak256("NodeKey(uint32 operator,address key)");

    function hash(IParalleliXAICredits.SpendAuthorization calldata authorization) internal pure returns (bytes32) {
        return keccak256(abi.encode(SPEND_AUTHORIZATION_TYPEHASH, authorization));
    }

    function hash(IParalleliXAICredits.Revocation calldata revocation) internal pure returns (bytes32) {
        return keccak256(abi.encode(REVOCATION_TYPEHASH, revocation));
    }

    function hash(IParalleliXAICredits.ClosureClearance calldata clearance) internal pure returns (bytes32) {
        return keccak256(abi.encode(CLOSURE_CLEARANCE_TYPEHASH, clearance));
    }

    function hash(IParalleliXSettlement.SettlementBatch memory batch) internal pure returns (bytes32) {
        return keccak256(abi.encode(SETTLEMENT_BATCH_TYPEHASH, batch));
    }

    function hash(IParalleliXSettlement.ServiceReceipt calldata receipt) internal pure returns (bytes32) {
        return keccak256(abi.encode(SERVICE_RECEIPT_TYPEHASH, receipt));
    }

    function hashNodeKey(uint32 operator, address key) internal pure returns (bytes32) {
        return keccak256(abi.encode(NODE_KEY_TYPEHASH, operator, key));
    }
}
