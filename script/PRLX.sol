// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";

/// @title PRLX
/// @notice Test token for local chains: ERC-20 with EIP-2612 permit, 18 decimals, whole supply minted at construction.
contract PRLX is ERC20Permit {
    /// @param holders Who gets PRLX.
    /// @param amountsWei How much each gets, in the same order.
    constructor(address[] memory holders, uint256[] memory amountsWei) ERC20("PRLX", "PRLX") ERC20Permit("PRLX") {
        for (uint256 i = 0; i < holders.length; ++i) {
            _mint(holders[i], amountsWei[i]);
        }
    }
}
