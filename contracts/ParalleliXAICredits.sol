// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {Multicall} from "@openzeppelin/contracts/utils/Multicall.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {TransientSlot} from "@openzeppelin/contracts/utils/TransientSlot.sol";

import {CreditsState} from "./abstracts/CreditsState.sol";
import {CreditsWiring} from "./abstracts/CreditsWiring.sol";
import {IParalleliXAICredits} from "./interfaces/IParalleliXAICredits.sol";
import {IParalleliXSettlement} from "./interfaces/IParalleliXSettlement.sol";
import {BatchRows} from "./libraries/BatchRows.sol";
import {CreditTransfer} from "./libraries/CreditTransfer.sol";
import {DebitSlot} from "./libraries/DebitSlot.sol";
import {OperatorSlot} from "./libraries/OperatorSlot.sol";
import {Suspension} from "./libraries/Suspension.sol";
import {TypedData} from "./libraries/TypedData.sol";

/// @title ParalleliXAICredits
/// @notice The vault. It locks what a payer authorized to be at risk, and nothing else.
/// @dev Not upgradeable. Documentation: `IParalleliXAICredits`. Invariants: `test/invariant/README.md`.
contract ParalleliXAICredits is CreditsWiring, Multicall, ReentrancyGuardTransient {
    using BatchRows for bytes;
    using CreditTransfer for IERC20;
    using SafeERC20 for IERC20;
    using TransientSlot for bytes32;
    using TransientSlot for TransientSlot.Uint256Slot;
    using TypedData for ClosureClearance;
    using TypedData for Revocation;
    using TypedData for SpendAuthorization;

    uint256 private constant BPS = 10_000;
    /// @dev Accounts' velocity marks lie in transient storage at this slot with the account id in its 32 low, zero bits.
    bytes32 private constant VELOCITY_MARK_SLOT =
        keccak256("ParalleliXAICredits.velocityMark") & ~bytes32(uint256(type(uint32).max));

    constructor(IERC20 token_, address owner_, uint40 exitDelay_, uint40 velocityWindow_)
        CreditsState(token_, owner_, exitDelay_, velocityWindow_)
    {}

    modifier whenDepositsOpen() {
        uint40 until = _head.depositsSuspendedUntil;
        require(!Suspension.inForce(until), DepositsAreSuspended(until));
        _;
    }

    // Deposit

    /// @inheritdoc IParalleliXAICredits
    function deposit(uint64 amount) external nonReentrant {
        _deposit({owner_: msg.sender, amount: amount});
    }

    /// @inheritdoc IParalleliXAICredits
    function depositFor(address owner_, uint64 amount) external nonReentrant {
        _deposit(owner_, amount);
    }

    /// @inheritdoc IParalleliXAICredits
    function depositWithPermit(uint64 amount, uint256 permitDeadline, uint8 v, bytes32 r, bytes32 s)
        external
        nonReentrant
    {
        _tryPermit(amount, permitDeadline, v, r, s);
        _deposit({owner_: msg.sender, amount: amount});
    }

    /// @inheritdoc IParalleliXAICredits
    function depositAndAuthorize(
        uint64 amount,
        uint256 permitDeadline,
        uint8 v,
        bytes32 r,
        bytes32 s,
        SpendAuthorization calldata authorization,
        bytes calldata signature
    ) external nonReentrant {
        _tryPermit(amount, permitDeadline, v, r, s);
        _deposit({owner_: authorization.owner, amount: amount});
        if (!_isInForce(authorization)) _authorize(authorization, signature);
    }

    /// @dev Takes PRLX from the caller only: a token whose `permit` does nothing must not expose anybody's allowance.
    function _deposit(address owner_, uint64 amount) private whenDepositsOpen {
        require(amount != 0, ZeroAmount());
        uint256 liabilities_ = uint256(_head.liabilities) + amount;
        require(liabilities_ <= MAX_CREDITS, CreditsOverflow(liabilities_, MAX_CREDITS));
        uint32 id = _openedAccount(owner_);
        Account storage account = _accounts[id];
        uint256 netDeposited = uint256(_netDeposited(account)) + amount;
        require(netDeposited <= MAX_CREDITS, CreditsOverflow(netDeposited, MAX_CREDITS));

        _head.liabilities = uint64(liabilities_);
        _storeCeilings(account, account.slot, uint64(netDeposited), _authorizedCum(account));

        emit Deposited(id, msg.sender, amount, uint64(netDeposited));

        _token.pull(msg.sender, amount);
    }

    /// @dev A permit that somebody relayed first fails here, and its allowance is there all the same.
    function _tryPermit(uint64 amount, uint256 permitDeadline, uint8 v, bytes32 r, bytes32 s) private {
        uint256 valueWei = CreditTransfer.toWei(amount);
        try IERC20Permit(address(_token)).permit(msg.sender, address(this), valueWei, permitDeadline, v, r, s) {}
            catch {}
    }

    function _openedAccount(address owner_) private returns (uint32 id) {
        id = accountOf[owner_];
        if (id != 0) return id;

        _requirePayable(owner_);
        id = ++_head.accountCount;
        accountOf[owner_] = id;
        _accounts[id].owner = owner_;

        emit AccountOpened(id, owner_);
    }

    // Authorization

    /// @inheritdoc IParalleliXAICredits
    function authorize(SpendAuthorization calldata authorization, bytes calldata signature) external nonReentrant {
        _authorize(authorization, signature);
    }

    /// @inheritdoc IParalleliXAICredits
    function revoke() external {
        _revoke(_existingAccount(msg.sender));
    }

    /// @inheritdoc IParalleliXAICredits
    function revokeBySig(Revocation calldata revocation, bytes calldata signature) external {
        uint32 id = _existingAccount(revocation.owner);
        _requireUnexpired(revocation.signDeadline);
        _requireNonce(revocation.nonce, _accounts[id].authNonce);
        _requireSigned(revocation.owner, revocation.hash(), signature);

        _revoke(id);
    }

    function _authorize(SpendAuthorization calldata authorization, bytes calldata signature) private whenDepositsOpen {
        _requireUnexpired(authorization.signDeadline);
        _requireValidUntil(authorization.validUntil);
        uint32 id = _openedAccount(authorization.owner);
        Account storage account = _accounts[id];
        _requireNonce(authorization.nonce, account.authNonce);
        _requireSigned(authorization.owner, authorization.hash(), signature);

        uint40 deadline = authorization.validUntil + exitDelay;
        DebitSlot slot = account.slot;
        uint64 cumulative = uint64(Math.min(uint256(slot.settled()) + authorization.cap, MAX_CREDITS));
        if (slot.isLive()) {
            _requireGrowth(slot, _authorizedCum(account), cumulative, authorization.exposure, deadline);
        }

        account.authNonce = authorization.nonce + 1;
        slot = slot.withExposure(authorization.exposure).withDeadline(deadline);
        _storeCeilings(account, slot, _netDeposited(account), cumulative);

        emit Authorized({
            account: id,
            authorizedCum: cumulative,
            exposure: authorization.exposure,
            settleDeadline: deadline,
            validUntil: authorization.validUntil,
            nonce: authorization.nonce,
            challenge: authorization.challenge
        });
    }

    function _revoke(uint32 id) private {
        Account storage account = _accounts[id];
        uint32 nonce = account.authNonce;
        DebitSlot slot = account.slot;
        uint64 cumulative = uint64(Math.min(_authorizedCum(account), uint256(slot.settled()) + slot.exposure()));
        uint40 deadline = uint40(Math.min(slot.settleDeadline(), block.timestamp + exitDelay));

        account.authNonce = nonce + 1;
        _storeCeilings(account, slot.withDeadline(deadline), _netDeposited(account), cumulative);

        emit Revoked(id, cumulative, deadline, nonce);
    }

    /// @dev Whether exactly this nonce was used last, for the same exposure and deadline. `cap` can't be compared, because
    /// `settled` may have moved since; whoever signs two authorizations with one nonce gets either of them.
    function _isInForce(SpendAuthorization calldata authorization) private view returns (bool) {
        Account storage account = _accounts[accountOf[authorization.owner]];
        return account.authNonce == uint256(authorization.nonce) + 1
            && account.slot.exposure() == authorization.exposure
            && account.slot.settleDeadline() == uint256(authorization.validUntil) + exitDelay;
    }

    /// @dev What is metered off-chain relies on a live authorization: a new one may only add to it.
    function _requireGrowth(DebitSlot slot, uint64 current, uint64 cumulative, uint48 exposure, uint40 deadline)
        private
        pure
    {
        require(exposure >= slot.exposure(), ExposureLowered(exposure, slot.exposure()));
        require(deadline >= slot.settleDeadline(), SettleDeadlineLowered(deadline, slot.settleDeadline()));
        require(cumulative >= current, AuthorizedLowered(cumulative, current));
    }

    function _requireValidUntil(uint40 validUntil) private view {
        uint256 max = type(uint40).max - exitDelay;
        require(
            validUntil > block.timestamp && validUntil <= max,
            ValidUntilOutOfRange(validUntil, block.timestamp + 1, max)
        );
    }

    // Withdrawal

    /// @inheritdoc IParalleliXAICredits
    function withdraw(uint64 amount, address to) external nonReentrant {
        uint32 id = _existingAccount(msg.sender);
        Account storage account = _accounts[id];
        require(amount != 0, ZeroAmount());
        _requirePayable(to);
        uint64 free_ = _free(account);
        require(amount <= free_, InsufficientFreeCredits(free_, amount));

        uint64 netDeposited = _netDeposited(account) - amount;
        _storeCeilings(account, account.slot, netDeposited, _authorizedCum(account));
        _head.liabilities -= amount;

        emit Withdrawn(id, to, amount, netDeposited);

        _token.push(to, amount);
    }

    /// @inheritdoc IParalleliXAICredits
    function closeWithClearance(ClosureClearance calldata clearance, bytes calldata signature) external {
        Account storage account = _accounts[clearance.account];
        require(msg.sender == account.owner, UnauthorizedCaller(msg.sender, account.owner));
        _requireUnexpired(clearance.deadline);
        DebitSlot slot = account.slot;
        require(
            clearance.settled == slot.settled() && clearance.authNonce == account.authNonce,
            ClearanceOutdated(clearance.settled, slot.settled(), clearance.authNonce, account.authNonce)
        );
        (uint40 suspendedUntil,) = IParalleliXSettlement(settlement).settlerSuspension();
        require(!Suspension.inForce(suspendedUntil), SettlerIsSuspended(suspendedUntil));
        _requireSigned(IParalleliXSettlement(settlement).settler(), clearance.hash(), signature);

        if (slot.isLive()) account.slot = slot.withDeadline(uint40(block.timestamp) - 1);

        emit Closed(clearance.account, clearance.settled);
    }

    // Settlement

    /// @inheritdoc IParalleliXAICredits
    function debitBatch(uint64 seq, bytes calldata rows, uint16 feeBps)
        external
        onlyCaller(settlement)
        nonReentrant
        returns (uint64 debited, uint64 fee)
    {
        require(feeBps <= MAX_FEE_BPS, FeeTooHigh(feeBps, MAX_FEE_BPS));
        require(rows.length != 0, EmptyRows());

        uint256 total = 0;
        uint256 fees_ = 0;
        // Both stay below the liabilities, which fit 63 bits.
        unchecked {
            for (uint256 offset = 0; offset < rows.length;) {
                (uint256 operator, uint256 rowsStart, uint256 rowsEnd) = rows.header(offset);
                uint256 groupTotal = _debitGroup(seq, operator, rows, rowsStart, rowsEnd);
                uint256 groupFee = _feeDown(groupTotal, feeBps);
                _creditOperator(operator, groupTotal - groupFee);

                total += groupTotal;
                fees_ += groupFee;
                offset = rowsEnd;
            }
        }
        (debited, fee) = (uint64(total), uint64(fees_));
        _fees += fee;

        emit BatchDebited(seq, debited, fee);
    }

    function _debitGroup(uint64 seq, uint256 operator, bytes calldata rows, uint256 offset, uint256 end)
        private
        returns (uint256 total)
    {
        // Offsets stay below the calldata's length, and the total below the liabilities, which fit 63 bits.
        unchecked {
            for (; offset < end; offset += BatchRows.ROW_SIZE) {
                (uint256 id, uint256 cumulative) = rows.row(offset);
                Account storage account = _accounts[id];
                DebitSlot slot = account.slot;
                uint256 settled = slot.settled();

                if (cumulative <= settled) {
                    emit RowShort(seq, uint32(id), uint32(operator), 0, 0);
                    continue;
                }
                uint256 ceiling = _ceiling(id, slot);
                if (cumulative > ceiling) {
                    uint256 reached = ceiling > settled ? ceiling : settled;
                    emit RowShort(
                        seq, uint32(id), uint32(operator), uint64(cumulative - settled), uint64(reached - settled)
                    );
                    if (reached == settled) continue;
                    cumulative = reached;
                }
                account.slot = slot.withDebit(cumulative, block.timestamp);
                total += cumulative - settled;
            }
        }
    }

    /// @dev How far the account may be debited now: to its limit, and to one exposure above what `settled` was when this
    /// transaction first came to it. That mark is kept in transient storage: going by the time alone, a second transaction
    /// of one block would get through, or a second row of one batch would not. The mark is zero when another transaction
    /// debited the account within the window. Unknown accounts have no deadline ahead.
    function _ceiling(uint256 id, DebitSlot slot) private returns (uint256 ceiling) {
        TransientSlot.Uint256Slot mark = (VELOCITY_MARK_SLOT | bytes32(id)).asUint256();
        // No sum passes 65 bits, and no debit lies in the future.
        unchecked {
            ceiling = uint256(slot.settled()) + slot.exposure();
            if (block.timestamp - slot.lastSettledAt() < velocityWindow) {
                uint256 marked = mark.tload();
                if (marked < ceiling) ceiling = marked;
            } else {
                mark.tstore(ceiling);
            }
            if (ceiling > slot.limit()) ceiling = slot.limit();
            if (block.timestamp > slot.settleDeadline()) ceiling = 0;
        }
    }

    /// @param amount At most 63 bits.
    function _creditOperator(uint256 id, uint256 amount) private {
        OperatorSlot slot = _operators[id];
        require(slot.isKnown(), OperatorUnknown(uint32(id)));
        if (amount == 0) return;

        _operators[id] = slot.withClaimable(slot.claimable() + uint64(amount));
    }

    /// @param total At most 63 bits.
    function _feeDown(uint256 total, uint256 feeBps) private pure returns (uint256) {
        unchecked {
            return total * feeBps / BPS;
        }
    }

    // Payout

    /// @inheritdoc IParalleliXAICredits
    function claim(uint32 operatorId) external nonReentrant {
        OperatorSlot slot = _operators[operatorId];
        require(slot.isKnown(), OperatorUnknown(operatorId));
        uint64 amount = slot.claimable();
        if (amount == 0) return;

        _operators[operatorId] = slot.withClaimable(0);
        _head.liabilities -= amount;

        emit Claimed(operatorId, slot.payout(), amount);

        _token.push(slot.payout(), amount);
    }

    /// @inheritdoc IParalleliXAICredits
    function claimMany(uint32[] calldata operatorIds) external nonReentrant {
        uint256 beforeWei = _token.balanceOf(address(this));
        uint256 paid = 0;

        for (uint256 i = 0; i < operatorIds.length; ++i) {
            uint32 operatorId = operatorIds[i];
            OperatorSlot slot = _operators[operatorId];
            uint64 amount = slot.claimable();
            if (amount == 0) continue;

            // The credits are gone before the transfer, and come back if it fails.
            _operators[operatorId] = slot.withClaimable(0);
            if (!_token.trySafeTransfer(slot.payout(), CreditTransfer.toWei(amount))) {
                _operators[operatorId] = slot;
                emit ClaimFailed(operatorId);
                continue;
            }
            // At most the liabilities, which fit 63 bits.
            unchecked {
                paid += amount;
            }

            emit Claimed(operatorId, slot.payout(), amount);
        }
        _head.liabilities -= uint64(paid);

        _token.requirePaid(beforeWei, CreditTransfer.toWei(uint64(paid)));
    }

    /// @inheritdoc IParalleliXAICredits
    function sweepFees(address to) external onlyOwner nonReentrant {
        _requirePayable(to);
        uint64 amount = _fees;
        if (amount == 0) return;

        _fees = 0;
        _head.liabilities -= amount;

        emit FeesSwept(to, amount);

        _token.push(to, amount);
    }

    /// @inheritdoc IParalleliXAICredits
    function skimSurplus(address to) external onlyOwner nonReentrant {
        _requirePayable(to);
        uint256 heldWei = _token.balanceOf(address(this));
        uint256 surplusWei = heldWei - CreditTransfer.toWei(_head.liabilities);

        emit SurplusSkimmed(to, surplusWei);

        _token.safeTransfer(to, surplusWei);
        _token.requirePaid(heldWei, surplusWei);
    }
}
