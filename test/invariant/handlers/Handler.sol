// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IParalleliXAICredits} from "../../../contracts/interfaces/IParalleliXAICredits.sol";
import {Base} from "../../Base.sol";
import {Prlx, Registry, Settlement, Vault} from "../../utils/System.sol";
import {vm} from "../../utils/Vm.sol";
import {Ghost} from "../Ghost.sol";

/// @notice The system under test, and the actors: three payers, three operators, the first of whom is the first payer, and
/// two settlement contracts with two settlers that take turns.
struct World {
    Prlx prlx;
    Vault vault;
    Settlement first;
    Settlement second;
    Registry registry;
    Ghost ghost;
}

abstract contract Handler is Base {
    uint32 internal constant PAYERS = 3;
    uint32 internal constant OPERATORS = 3;

    Ghost internal ghost;
    Settlement internal first;
    Settlement internal second;

    constructor(World memory world) {
        (prlx, vault, registry, ghost) = (world.prlx, world.vault, world.registry, world.ghost);
        (first, second) = (world.first, world.second);
        (owner,) = makeActor("owner");
        (guardian,) = makeActor("guardian");
        (relayer,) = makeActor("relayer");
        (stranger,) = makeActor("stranger");
        (disputer,) = makeActor("disputer");
        (opal,) = makeActor("opal");
        (otto,) = makeActor("otto");
    }

    /// @dev Rules that must hold after every action, whatever it was, are checked by `_watch`.
    modifier action(bytes32 name) {
        vm.warp(ghost.time());
        settlement = Settlement(vault.settlement());
        settler = settlement.settler();
        (address other, uint256 otherKey) = makeActor("settler 2");
        (, settlerKey) = makeActor("settler");
        if (settler == other) settlerKey = otherKey;
        ghost.count(name);
        _watch();
        _;
        _watch();
    }

    function _payer(uint256 seed) internal returns (address payer, uint256 key, uint32 account) {
        (payer, key) = makeActor(string.concat("payer ", vm.toString(seed % PAYERS)));
        account = vault.accountOf(payer);
    }

    function _operatorOwner(uint256 seed) internal returns (address operatorOwner, uint32 operator) {
        operator = uint32(1 + seed % OPERATORS);
        if (operator == 1) (operatorOwner,) = makeActor("payer 0");
        else operatorOwner = operator == 2 ? opal : otto;
    }

    function _allAccounts() internal view returns (IParalleliXAICredits.AccountView[] memory) {
        return vault.accounts(_range(PAYERS));
    }

    function _range(uint32 count) internal pure returns (uint32[] memory ids) {
        ids = new uint32[](count);
        for (uint32 i = 0; i < count; ++i) {
            ids[i] = i + 1;
        }
    }

    /// @dev A call of its own is a transaction of its own, so the ghost hears of breaks alone.
    function _check(bool holds, string memory rule) internal {
        if (!holds) ghost.breakRule(rule);
    }

    /// @dev I6, and that nothing which a timelock guards changed without one.
    function _watch() private {
        IParalleliXAICredits.AccountView[] memory accounts = _allAccounts();
        Ghost.Seen[] memory seen = ghost.allSeen(PAYERS);
        for (uint32 i = 0; i < PAYERS; ++i) {
            IParalleliXAICredits.AccountView memory state = accounts[i];
            _check(state.settled >= seen[i].settled, "I6: settled never falls");
            _check(state.authNonce >= seen[i].authNonce, "I6: authNonce never falls");
            uint256 everDeposited = state.netDeposited + seen[i].withdrawn;
            _check(everDeposited >= seen[i].everDeposited, "I6: deposited + withdrawn never falls");
            _check(seen[i].owner == address(0) || seen[i].owner == state.owner, "I6: an id keeps its owner");
        }
        _check(vault.accountCount() >= ghost.accountCount(), "I6: ids are never given back");
        _check(first.lastSeq() >= ghost.lastSeq(address(first)), "I6: seq never falls");
        _check(second.lastSeq() >= ghost.lastSeq(address(second)), "I6: seq never falls");
        _checkInForce(first);
        _checkInForce(second);
        bool announced = uint160(vault.settlement()) == ghost.inForce("settlement");
        _check(announced, "I11: the settlement contract changed unannounced");
        announced = uint160(registry.disputer()) == ghost.inForce("disputer");
        _check(announced, "I11: the disputer changed unannounced");
        uint64[2] memory seqs = [first.lastSeq(), second.lastSeq()];
        ghost.see(accounts, vault.accountCount(), [address(first), address(second)], seqs);
    }

    function _checkInForce(Settlement which) private {
        _check(which.feeBps() == ghost.inForce(_of("fee", which)), "I12: the fee changed unannounced");
        bool announced = uint160(which.settler()) == ghost.inForce(_of("settler", which));
        _check(announced, "I11: the settler changed unannounced");
    }

    /// @dev The key of a value of one of the settlement contracts.
    function _of(bytes32 what, Settlement which) internal pure returns (bytes32) {
        return keccak256(abi.encode(what, which));
    }
}
