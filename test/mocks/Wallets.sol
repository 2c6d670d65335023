// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

/// @notice An EIP-1271 wallet of one key, with a switch for each way in which wallets misbehave.
contract Wallet {
    enum Mode {
        Honest,
        Reverts,
        WrongMagic,
        BurnsGas,
        ReturnsBomb,
        Reenters
    }

    address public signer;
    Mode public mode;
    address private reentered;
    bytes private payload;

    constructor(address signer_) {
        signer = signer_;
    }

    function setSigner(address signer_) external {
        signer = signer_;
    }

    function setReentry(address target_, bytes calldata payload_) external {
        (mode, reentered, payload) = (Mode.Reenters, target_, payload_);
    }

    function setMode(Mode mode_) external {
        mode = mode_;
    }

    /// @dev Not `view`, so that it can try to reenter; whoever asks asks by a static call.
    function isValidSignature(bytes32 digest, bytes calldata signature) external returns (bytes4) {
        require(mode != Mode.Reverts, "refused");
        if (mode == Mode.WrongMagic) return 0xffffffff;
        if (mode == Mode.BurnsGas) while (true) {}
        if (mode == Mode.ReturnsBomb) {
            assembly ("memory-safe") {
                return(0, 1000000)
            }
        }
        if (mode == Mode.Reenters) {
            (bool done,) = reentered.call(payload);
            require(!done, "reentered");
        }
        return ECDSA.recover(digest, signature) == signer ? this.isValidSignature.selector : bytes4(0xffffffff);
    }

    function execute(address target, bytes calldata call) external returns (bytes memory result) {
        bool done;
        (done, result) = target.call(call);
        require(done, "failed");
    }
}

/// @notice Calls several times in one transaction.
contract Bundler {
    function callAll(address target, bytes[] calldata calls) external {
        for (uint256 i = 0; i < calls.length; ++i) {
            (bool done, bytes memory result) = target.call(calls[i]);
            if (!done) {
                assembly ("memory-safe") {
                    revert(add(result, 32), mload(result))
                }
            }
        }
    }

    /// @dev Within a transaction of its own, so that `gasLimit` is what the call gets.
    function tryCall(address target, bytes calldata call, uint256 gasLimit) external returns (bool done) {
        (done,) = target.call{gas: gasLimit}(call);
    }
}
