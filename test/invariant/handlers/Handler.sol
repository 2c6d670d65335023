// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Base} from "../../Base.sol";
import {Prlx, Registry, Settlement, Vault} from "../../utils/System.sol";
import {vm} from "../../utils/Vm.sol";
import {Ghost} from "../Ghost.sol";

/// @notice The system under test, and the actors: three payers, three operators, the first of whom is the first payer.
struct World {
    Prlx prlx;
    Vault vault;
    Settlement settlement;
    Registry registry;
    Ghost ghost;
}

abstract contract Handler is Base {
    uint32 internal constant PAYERS = 3;
    uint32 internal constant OPERATORS = 3;

    Ghost internal ghost;

    constructor(World memory world) {
        (prlx, vault, settlement, registry) = (world.prlx, world.vault, world.settlement, world.registry);
        ghost = world.ghost;
        (owner,) = makeActor("owner");
        (relayer,) = makeActor("relayer");
        (settler, settlerKey) = makeActor("settler");
    }

    modifier action(bytes32 name) {
        vm.warp(ghost.time());
        ghost.count(name);
        _;
    }

    function _payer(uint256 seed) internal returns (address payer, uint256 key, uint32 account) {
        (payer, key) = makeActor(string.concat("payer ", vm.toString(seed % PAYERS)));
        account = vault.accountOf(payer);
    }
}
