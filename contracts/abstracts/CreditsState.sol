// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ownable, Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";

import {IParalleliXAICredits} from "../interfaces/IParalleliXAICredits.sol";
import {DebitSlot} from "../libraries/DebitSlot.sol";
import {OperatorSlot} from "../libraries/OperatorSlot.sol";
import {Signatures} from "../libraries/Signatures.sol";

/// @title CreditsState
/// @notice What the vault stores, how it is read, and the checks that several rooms share.
/// @dev Documentation: `IParalleliXAICredits`.
abstract contract CreditsState is IParalleliXAICredits, Ownable2Step, EIP712 {
    using Signatures for address;

    struct Account {
        // slot 0, the only one that a debit touches
        DebitSlot slot;
        // slot 1
        address owner;
        uint32 authNonce;
        // `netDeposited - authorizedCum`. The lower of both is the limit in slot 0, so that the two slots hold both.
        int64 surplus;
    }

    /// @dev One slot.
    struct Head {
        uint64 liabilities;
        uint32 accountCount;
        uint40 depositsSuspendedUntil;
        uint40 depositsSuspendableFrom;
    }

    /// @dev The most that an account's `netDeposited`, and the vault's liabilities, may be: the ledger is signed 64-bit.
    uint64 internal constant MAX_CREDITS = uint64(type(int64).max);
    /// @dev The highest fee that any settlement contract can take, in basis points.
    uint16 internal constant MAX_FEE_BPS = 3_000;
    /// @dev Upper bound of `exitDelay`.
    uint40 internal constant MAX_EXIT_DELAY = 24 hours;
    /// @dev Upper bound of `velocityWindow`.
    uint40 internal constant MAX_VELOCITY_WINDOW = 1 hours;

    IERC20 internal immutable _token;
    /// @inheritdoc IParalleliXAICredits
    uint40 public immutable exitDelay;
    /// @inheritdoc IParalleliXAICredits
    uint40 public immutable velocityWindow;

    // One slot, with what a batch reads and writes beside accounts and operators.
    /// @inheritdoc IParalleliXAICredits
    address public settlement;
    uint64 internal _fees;
    Head internal _head;
    // By id. An array of all ids, rather than a mapping, saves a debit the hash of its slot.
    Account[2 ** 32] internal _accounts;
    OperatorSlot[2 ** 32] internal _operators;
    /// @inheritdoc IParalleliXAICredits
    mapping(address owner => uint32 id) public accountOf;
    /// @inheritdoc IParalleliXAICredits
    address public registry;
    /// @inheritdoc IParalleliXAICredits
    address public guardian;
    address internal _proposedSettlement;
    uint40 internal _settlementReadyAt;

    constructor(IERC20 token_, address owner_, uint40 exitDelay_, uint40 velocityWindow_)
        Ownable(owner_)
        EIP712("ParalleliXAICredits", "1")
    {
        require(address(token_) != address(0), InvalidAddress(address(0)));
        require(exitDelay_ >= 1 && exitDelay_ <= MAX_EXIT_DELAY, ParameterOutOfRange(exitDelay_, 1, MAX_EXIT_DELAY));
        require(
            velocityWindow_ >= 1 && velocityWindow_ <= MAX_VELOCITY_WINDOW,
            ParameterOutOfRange(velocityWindow_, 1, MAX_VELOCITY_WINDOW)
        );

        _token = token_;
        exitDelay = exitDelay_;
        velocityWindow = velocityWindow_;
    }

    modifier onlyCaller(address expected) {
        require(msg.sender == expected, UnauthorizedCaller(msg.sender, expected));
        _;
    }

    // Views

    /// @inheritdoc IParalleliXAICredits
    function token() external view returns (address) {
        return address(_token);
    }

    /// @inheritdoc IParalleliXAICredits
    function proposedSettlement() external view returns (address proposed, uint40 readyAt) {
        return (_proposedSettlement, _settlementReadyAt);
    }

    /// @inheritdoc IParalleliXAICredits
    function depositSuspension() external view returns (uint40 until, uint40 nextFrom) {
        return (_head.depositsSuspendedUntil, _head.depositsSuspendableFrom);
    }

    /// @inheritdoc IParalleliXAICredits
    function accountCount() external view returns (uint32) {
        return _head.accountCount;
    }

    /// @inheritdoc IParalleliXAICredits
    function ownerOf(uint32 account) external view returns (address) {
        return _accounts[account].owner;
    }

    // `memory` in both: with `claimMany` as the only reader of ids in calldata, the compiler inlines the read, 80 gas a claim.

    /// @inheritdoc IParalleliXAICredits
    function accounts(uint32[] memory ids) public view returns (AccountView[] memory views) {
        views = new AccountView[](ids.length);
        for (uint256 i = 0; i < ids.length; ++i) {
            Account storage account = _accounts[ids[i]];
            DebitSlot slot = account.slot;
            views[i] = AccountView({
                owner: account.owner,
                settled: slot.settled(),
                limit: slot.limit(),
                exposure: slot.exposure(),
                lastSettledAt: slot.lastSettledAt(),
                settleDeadline: slot.settleDeadline(),
                netDeposited: _netDeposited(account),
                authorizedCum: _authorizedCum(account),
                authNonce: account.authNonce
            });
        }
    }

    /// @inheritdoc IParalleliXAICredits
    function operators(uint32[] memory ids) public view returns (OperatorView[] memory views) {
        views = new OperatorView[](ids.length);
        for (uint256 i = 0; i < ids.length; ++i) {
            OperatorSlot slot = _operators[ids[i]];
            views[i] = OperatorView({payout: slot.payout(), claimable: slot.claimable()});
        }
    }

    /// @inheritdoc IParalleliXAICredits
    function balance(uint32 account) external view returns (uint64) {
        return _netDeposited(_accounts[account]) - _accounts[account].slot.settled();
    }

    /// @inheritdoc IParalleliXAICredits
    function locked(uint32 account) external view returns (uint64) {
        return _accounts[account].slot.locked();
    }

    /// @inheritdoc IParalleliXAICredits
    function free(uint32 account) external view returns (uint64) {
        return _free(_accounts[account]);
    }

    /// @inheritdoc IParalleliXAICredits
    function liabilities() external view returns (uint64) {
        return _head.liabilities;
    }

    /// @inheritdoc IParalleliXAICredits
    function fees() external view returns (uint64) {
        return _fees;
    }

    /// @inheritdoc IParalleliXAICredits
    function DOMAIN_SEPARATOR() external view returns (bytes32) {
        return _domainSeparatorV4();
    }

    function _free(Account storage account) internal view returns (uint64) {
        DebitSlot slot = account.slot;
        return _netDeposited(account) - slot.settled() - slot.locked();
    }

    function _netDeposited(Account storage account) internal view returns (uint64) {
        int64 surplus = account.surplus;
        uint64 limit = account.slot.limit();
        return surplus > 0 ? limit + uint64(surplus) : limit;
    }

    function _authorizedCum(Account storage account) internal view returns (uint64) {
        int64 surplus = account.surplus;
        uint64 limit = account.slot.limit();
        return surplus < 0 ? limit + uint64(-surplus) : limit;
    }

    /// @dev Stores both ceilings, and with them the limit, into `slot`. Both are at most `MAX_CREDITS`, so that neither
    /// cast nor difference leaves 64 signed bits.
    function _storeCeilings(Account storage account, DebitSlot slot, uint64 netDeposited, uint64 authorizedCum)
        internal
    {
        account.surplus = int64(netDeposited) - int64(authorizedCum);
        account.slot = slot.withLimit(netDeposited < authorizedCum ? netDeposited : authorizedCum);
    }

    function _existingAccount(address owner_) internal view returns (uint32 id) {
        id = accountOf[owner_];
        require(id != 0, AccountNotOpened(owner_));
    }

    function _requireUnexpired(uint40 deadline) internal view {
        require(block.timestamp <= deadline, SignatureExpired(deadline, block.timestamp));
    }

    function _requireNonce(uint32 given, uint32 expected) internal pure {
        require(given == expected, NonceMismatch(given, expected));
    }

    function _requireSigned(address signer, bytes32 structHash, bytes calldata signature) internal view {
        bytes32 digest = _hashTypedDataV4(structHash);
        require(signer.isValid(digest, signature), InvalidSignature(signer, digest));
    }

    /// @dev Credits sent to the zero address are lost, and credits sent to the vault would be owed to nobody.
    function _requirePayable(address to) internal view {
        require(to != address(0) && to != address(this), InvalidAddress(to));
    }
}
