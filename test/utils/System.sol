// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";

import {IOperatorRegistry} from "../../contracts/interfaces/IOperatorRegistry.sol";
import {IParalleliXAICredits} from "../../contracts/interfaces/IParalleliXAICredits.sol";
import {IParalleliXSettlement} from "../../contracts/interfaces/IParalleliXSettlement.sol";
import {PRLX} from "../../script/PRLX.sol";
import {vm} from "./Vm.sol";

interface Prlx is IERC20, IERC20Permit {}

interface Vault is IParalleliXAICredits {
    function owner() external view returns (address);
    function multicall(bytes[] calldata calls) external returns (bytes[] memory);
}

interface Settlement is IParalleliXSettlement {
    function owner() external view returns (address);
}

interface Registry is IOperatorRegistry {
    function owner() external view returns (address);
}

/// @notice Deploys the contracts from their build artifacts. Tests know the interfaces alone, so that only the contracts
/// themselves go through the slow compiler pipeline, and changing one recompiles no test.
library System {
    function prlx(address[] memory holders, uint256[] memory amountsWei) internal returns (Prlx) {
        return Prlx(address(new PRLX(holders, amountsWei)));
    }

    function vault(address token, address owner, uint40 exitDelay, uint40 velocityWindow) internal returns (Vault) {
        return Vault(_create("ParalleliXAICredits", abi.encode(token, owner, exitDelay, velocityWindow)));
    }

    function registry(Vault vault_, address owner, address disputer, uint64 incidentCap) internal returns (Registry) {
        return Registry(_create("OperatorRegistry", abi.encode(vault_, owner, disputer, incidentCap)));
    }

    function settlement(
        Vault vault_,
        Registry registry_,
        address owner,
        address settler,
        address guardian,
        uint16 feeBps
    ) internal returns (Settlement) {
        bytes memory arguments = abi.encode(vault_, registry_, owner, settler, guardian, feeBps);
        return Settlement(_create("ParalleliXSettlement", arguments));
    }

    function _create(string memory name, bytes memory arguments) private returns (address created) {
        bytes memory code = bytes.concat(vm.getCode(string.concat(name, ".sol:", name)), arguments);
        assembly ("memory-safe") {
            created := create(0, add(code, 32), mload(code))
            if iszero(created) {
                returndatacopy(mload(64), 0, returndatasize())
                revert(mload(64), returndatasize())
            }
        }
    }
}
