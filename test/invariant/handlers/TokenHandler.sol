// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {HostileToken} from "../../mocks/Tokens.sol";
import {vm} from "../../utils/Vm.sol";
import {Handler, World} from "./Handler.sol";

/// @notice A token that turns hostile and honest again: fee-on-transfer, takes extra, moves nothing, returns false or
/// nothing, reenters, refuses a payee.
contract TokenHandler is Handler {
    constructor(World memory world) Handler(world) {}

    function _token() private view returns (HostileToken) {
        return HostileToken(address(prlx));
    }

    function turnHostile(uint8 mode) external action("turnHostile") {
        _token().setMode(HostileToken.Mode(mode % 7));
    }

    function turnHonest() external action("turnHonest") {
        _token().setMode(HostileToken.Mode.Honest);
    }

    function reenter(uint256 what, uint64 amount) external action("reenter") {
        (address payer,,) = _payer(what);
        bytes[5] memory calls = [
            abi.encodeCall(vault.depositFor, (payer, uint64(bound(amount, 1, 100)))),
            abi.encodeCall(vault.withdraw, (1, payer)),
            abi.encodeCall(vault.claim, (1)),
            abi.encodeCall(vault.claimMany, (_range(OPERATORS))),
            abi.encodeCall(vault.skimSurplus, (payer))
        ];
        _token().setReentry(address(vault), calls[what % 5]);
    }

    function refuse(uint256 payee, bool refused) external action("refuse") {
        (address payer,,) = _payer(payee);
        (address operatorOwner,) = _operatorOwner(payee);
        _token().refuse(payee % 2 == 0 ? payer : operatorOwner, refused);
    }
}
