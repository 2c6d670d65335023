// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";

import {IParalleliXAICredits} from "../interfaces/IParalleliXAICredits.sol";

/// @title CreditTransfer
/// @notice Moves whole credits of the token in and out, and insists that exactly that much moved.
library CreditTransfer {
    using SafeERC20 for IERC20;

    /// @notice PRLX wei in one credit.
    uint256 internal constant WEI_PER_CREDIT = 1e9;

    /// @notice Takes `credits` from `from`, who must have allowed it.
    function pull(IERC20 token, address from, uint64 credits) internal {
        uint256 expectedWei = toWei(credits);
        uint256 beforeWei = token.balanceOf(address(this));

        token.safeTransferFrom(from, address(this), expectedWei);

        uint256 afterWei = token.balanceOf(address(this));
        uint256 movedWei = afterWei > beforeWei ? afterWei - beforeWei : 0;
        require(movedWei == expectedWei, IParalleliXAICredits.TransferMismatch(movedWei, expectedWei));
    }

    /// @notice Pays `credits` to `to`.
    function push(IERC20 token, address to, uint64 credits) internal {
        uint256 beforeWei = token.balanceOf(address(this));

        token.safeTransfer(to, toWei(credits));

        requirePaid({token: token, beforeWei: beforeWei, expectedWei: toWei(credits)});
    }

    /// @notice Checks that exactly `expectedWei` left since this contract held `beforeWei`.
    function requirePaid(IERC20 token, uint256 beforeWei, uint256 expectedWei) internal view {
        uint256 afterWei = token.balanceOf(address(this));
        uint256 movedWei = beforeWei > afterWei ? beforeWei - afterWei : 0;
        require(movedWei == expectedWei, IParalleliXAICredits.TransferMismatch(movedWei, expectedWei));
    }

    function toWei(uint64 credits) internal pure returns (uint256) {
        // 64 bits by 30 bits.
        unchecked {
            return uint256(credits) * WEI_PER_CREDIT;
        }
    }
}
