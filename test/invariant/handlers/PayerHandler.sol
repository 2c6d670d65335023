// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IParalleliXAICredits} from "../../../contracts/interfaces/IParalleliXAICredits.sol";
import {vm} from "../../utils/Vm.sol";
import {Handler, World} from "./Handler.sol";

/// @notice Payers and relayers: everything that an owner, or a third party in an owner's name, can do.
contract PayerHandler is Handler {
    IParalleliXAICredits.SpendAuthorization private lastAuthorization;
    bytes private lastSignature;

    constructor(World memory world) Handler(world) {}

    function depositFor(uint256 from, uint256 to, uint64 amount) external action("depositFor") {
        (address giver,,) = _payer(from);
        (address payer,, uint32 account) = _payer(to);
        amount = uint64(bound(amount, 1, 10_000));
        vm.prank(giver);
        prlx.approve(address(vault), amount * WEI_PER_CREDIT);
        uint40 deadline = _view(account).settleDeadline;
        vm.prank(giver);
        try vault.depositFor(payer, amount) {
            ghost.add("deposited", amount);
        } catch {}
        _check(_view(account).settleDeadline == deadline, "I7: a deposit moves no deadline");
    }

    function authorize(uint256 seed, uint64 cap, uint48 exposure, uint40 duration) external action("authorize") {
        (address payer, uint256 key, uint32 account) = _payer(seed);
        IParalleliXAICredits.SpendAuthorization memory authorization =
            _authorization(payer, uint64(bound(cap, 0, 20_000)), uint48(bound(exposure, 0, 2_000)));
        authorization.validUntil = _now() + uint40(bound(duration, 1, 6 hours));
        bytes memory signature = _signAuthorization(key, authorization);
        uint64 lockedBefore = vault.locked(account);
        vm.prank(relayer);
        try vault.authorize(authorization, signature) {
            ghost.sign(account, authorization.cap);
            lastAuthorization = authorization;
            lastSignature = signature;
        } catch {}
        _check(vault.locked(account) >= lockedBefore, "I8b: a signature lowers no lock");
    }

    /// @dev Whoever saw a signature tries it again, or with one field changed.
    function replay(uint256 field) external action("replay") {
        if (lastSignature.length == 0) return;
        IParalleliXAICredits.SpendAuthorization memory authorization = lastAuthorization;
        if (field % 4 == 1) authorization.nonce += 1;
        if (field % 4 == 2) authorization.cap += 1;
        if (field % 4 == 3) authorization.owner = relayer;
        vm.prank(relayer);
        try vault.authorize(authorization, lastSignature) {
            _check(false, "I2: a signature counts once");
        } catch {}
    }

    function revoke(uint256 seed, bool relayed) external action("revoke") {
        (address payer, uint256 key, uint32 account) = _payer(seed);
        uint64 lockedBefore = vault.locked(account);
        if (relayed) {
            IParalleliXAICredits.Revocation memory revocation =
                IParalleliXAICredits.Revocation({owner: payer, nonce: _view(account).authNonce, signDeadline: _now()});
            bytes memory signature = _signRevocation(key, revocation);
            vm.prank(relayer);
            vault.revokeBySig(revocation, signature);
        } else {
            vm.prank(payer);
            vault.revoke();
        }
        ghost.signRevocation(account);
        _check(vault.locked(account) == lockedBefore, "I8b: a revocation leaves the lock");
    }

    /// @dev The settler attests whatever it is asked to.
    function close(uint256 seed) external action("close") {
        (address payer,, uint32 account) = _payer(seed);
        IParalleliXAICredits.AccountView memory state = _view(account);
        IParalleliXAICredits.ClosureClearance memory clearance = IParalleliXAICredits.ClosureClearance({
            account: account, settled: state.settled, authNonce: state.authNonce, deadline: _now()
        });
        bytes memory signature = _signClearance(settlerKey, clearance);
        vm.prank(payer);
        try vault.closeWithClearance(clearance, signature) {
            _check(vault.locked(account) == 0, "I7: a clearance unlocks everything");
        } catch {}
    }

    /// @dev Asks for more than is free as often as not.
    function withdraw(uint256 seed, uint64 amount) external action("withdraw") {
        (address payer,, uint32 account) = _payer(seed);
        if (vault.balance(account) == 0) return;
        amount = uint64(bound(amount, 1, 2 * uint256(vault.balance(account))));
        uint64 free = vault.free(account);
        uint64 lockedBefore = vault.locked(account);
        vm.prank(payer);
        try vault.withdraw(amount, payer) {
            ghost.withdraw(account, amount);
            _check(amount <= free, "I8: nothing above the free credits leaves");
        } catch {}
        _check(vault.locked(account) == lockedBefore, "I8b: a withdrawal leaves the lock");
    }

    function donate(uint256 seed, uint64 amountWei) external action("donate") {
        (address payer,,) = _payer(seed);
        uint256 beforeWei = prlx.balanceOf(address(vault));
        vm.prank(payer);
        // A low-level call: the token may answer anything.
        (bool done,) = address(prlx).call(abi.encodeCall(prlx.transfer, (address(vault), amountWei % 1e12)));
        if (done) ghost.add("donatedWei", prlx.balanceOf(address(vault)) - beforeWei);
    }

    /// @dev The gateway's rule: a request is served only if all that is metered and unsettled stays within the lock.
    function serve(uint256 seed, uint64 cost) external action("serve") {
        (,, uint32 account) = _payer(seed);
        IParalleliXAICredits.AccountView memory state = _view(account);
        uint256 metered = ghost.metered(account) + bound(cost, 1, 500);
        bool open = _now() + EXIT_DELAY <= state.settleDeadline;
        if (open && metered - state.settled <= vault.locked(account)) ghost.meter(account, metered);
    }

    function pass(uint256 duration) external action("pass") {
        ghost.pass(bound(duration, 1, 2 hours));
    }
}
