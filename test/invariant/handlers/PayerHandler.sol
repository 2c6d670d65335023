// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IParalleliXAICredits} from "../../../contracts/interfaces/IParalleliXAICredits.sol";
import {vm} from "../../utils/Vm.sol";
import {Handler, World} from "./Handler.sol";

/// @notice Payers: everything that an owner, or a third party in an owner's name, can do.
contract PayerHandler is Handler {
    constructor(World memory world) Handler(world) {}

    function depositFor(uint256 from, uint256 to, uint64 amount) external action("depositFor") {
        (address giver,,) = _payer(from);
        (address payer,,) = _payer(to);
        amount = uint64(bound(amount, 1, 10_000));
        vm.prank(giver);
        prlx.approve(address(vault), amount * WEI_PER_CREDIT);
        vm.prank(giver);
        vault.depositFor(payer, amount);
        ghost.addDeposited(amount);
    }

    function authorize(uint256 seed, uint64 cap, uint48 exposure, uint40 duration) external action("authorize") {
        (address payer, uint256 key,) = _payer(seed);
        IParalleliXAICredits.SpendAuthorization memory authorization =
            _authorization(payer, uint64(bound(cap, 0, 20_000)), uint48(bound(exposure, 0, 2_000)));
        authorization.validUntil = _now() + uint40(bound(duration, 1, 6 hours));
        bytes memory signature = _signAuthorization(key, authorization);
        try vault.authorize(authorization, signature) {
            ghost.addSignedCap(vault.accountOf(payer), authorization.cap);
        } catch {}
    }

    function revoke(uint256 seed) external action("revoke") {
        (address payer,, uint32 account) = _payer(seed);
        if (account == 0) return;
        vm.prank(payer);
        vault.revoke();
    }

    function close(uint256 seed) external action("close") {
        (address payer,, uint32 account) = _payer(seed);
        if (account == 0) return;
        IParalleliXAICredits.AccountView memory state = _view(account);
        IParalleliXAICredits.ClosureClearance memory clearance = IParalleliXAICredits.ClosureClearance({
            account: account, settled: state.settled, authNonce: state.authNonce, deadline: _now()
        });
        bytes memory signature = _signClearance(settlerKey, clearance);
        vm.prank(payer);
        vault.closeWithClearance(clearance, signature);
    }

    /// @dev Asks for more than is free as often as not.
    function withdraw(uint256 seed, uint64 amount) external action("withdraw") {
        (address payer,, uint32 account) = _payer(seed);
        if (account == 0 || vault.balance(account) == 0) return;
        amount = uint64(bound(amount, 1, 2 * uint256(vault.balance(account))));
        vm.prank(payer);
        try vault.withdraw(amount, payer) {
            ghost.addWithdrawn(amount);
        } catch {}
    }

    function donate(uint256 seed, uint64 amountWei) external action("donate") {
        (address payer,,) = _payer(seed);
        vm.prank(payer);
        prlx.transfer(address(vault), amountWei % 1e12);
        ghost.addDonatedWei(amountWei % 1e12);
    }

    function pass(uint256 duration) external action("pass") {
        ghost.pass(bound(duration, 1, 2 hours));
    }
}
