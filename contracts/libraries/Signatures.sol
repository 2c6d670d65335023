// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";

/// @title Signatures
/// @notice Checks a signature by ECDSA first and by EIP-1271 second.
/// @dev Asking for code first, as OpenZeppelin's `SignatureChecker` does, would let an account that gains code (EIP-7702)
/// refuse what its key signed. High `s`, 64-byte and zero-address signatures are refused by `ECDSA`.
library Signatures {
    /// @notice Whether `signature` over `digest` is `signer`'s. Never reverts.
    function isValid(address signer, bytes32 digest, bytes calldata signature) internal view returns (bool) {
        if (isKeySignature(signer, digest, signature)) return true;

        return signer.code.length != 0 && SignatureChecker.isValidERC1271SignatureNowCalldata(signer, digest, signature);
    }

    /// @notice Whether `signature` over `digest` is by `signer`'s key; contracts are not asked.
    function isKeySignature(address signer, bytes32 digest, bytes calldata signature) internal pure returns (bool) {
        (address recovered, ECDSA.RecoverError error,) = ECDSA.tryRecoverCalldata(digest, signature);
        return error == ECDSA.RecoverError.NoError && recovered == signer;
    }
}
