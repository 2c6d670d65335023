// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// @title IParalleliXAICredits
/// @notice The vault: holds PRLX, accounts, spend authorizations and operators' claimable credits.
/// @dev Amounts are in credits (1 credit = 10^9 wei of PRLX) unless a name ends in `Wei`; times are in seconds since the
/// Unix epoch. The file imports nothing, so that other languages can read it alone.
///
/// Safety rests on these assumptions about the token, fixed at construction:
/// - `transfer` and `transferFrom` move exactly the amount asked for, or fail (checked on every call);
/// - balances change by transfers alone (no rebasing).
/// A token that stops a transfer costs liveness only, and only of the party whose transfer it stops.
interface IParalleliXAICredits {
    /// @notice What a payer signs once to allow metered spending.
    struct SpendAuthorization {
        /// The account's owner and signer.
        address owner;
        /// The most that may be debited under this authorization, in credits, counted from `settled` when it takes effect.
        uint64 cap;
        /// The most that may be metered and unsettled at any moment, in credits; also what the vault keeps back.
        uint48 exposure;
        /// The last moment at which new spending may be metered; debits stop `exitDelay` later.
        uint40 validUntil;
        /// keccak256 of the secret of an off-chain session, or zero; hashed here, otherwise ignored.
        bytes32 challenge;
        /// The account's `authNonce`.
        uint32 nonce;
        /// The last moment at which the signature may be relayed.
        uint40 signDeadline;
    }

    /// @notice What a payer signs to end the authorization through a relayer.
    struct Revocation {
        address owner;
        uint32 nonce;
        uint40 signDeadline;
    }

    /// @notice What the settler signs to attest that an account has nothing outstanding.
    struct ClosureClearance {
        uint32 account;
        /// The account's `settled`, exactly.
        uint64 settled;
        /// The account's `authNonce`, exactly.
        uint32 authNonce;
        uint40 deadline;
    }

    /// @notice Everything the vault knows of one account.
    struct AccountView {
        address owner;
        /// Cumulative credits ever debited.
        uint64 settled;
        /// Cumulative ceiling of `settled`: the lower of `netDeposited` and `authorizedCum`.
        uint64 limit;
        uint48 exposure;
        /// When the account was last debited.
        uint40 lastSettledAt;
        /// After this moment no debit is possible.
        uint40 settleDeadline;
        /// Deposits minus withdrawals; the balance is `netDeposited - settled`.
        uint64 netDeposited;
        /// Cumulative ceiling that the owner signed for.
        uint64 authorizedCum;
        uint32 authNonce;
    }

    /// @notice Everything the vault knows of one operator.
    struct OperatorView {
        address payout;
        uint64 claimable;
    }

    /// @notice Thrown when the caller is not the one address that may call.
    error UnauthorizedCaller(address caller, address expected);
    /// @notice Thrown when an amount is zero.
    error ZeroAmount();
    /// @notice Thrown when an address is zero, or the vault itself where credits would go in a circle.
    error InvalidAddress(address given);
    /// @notice Thrown when an immutable's value lies outside its bounds.
    error ParameterOutOfRange(uint256 given, uint256 min, uint256 max);
    /// @notice Thrown when the vault already has its settlement contract and registry.
    error AlreadyInitialized(address settlement, address registry);
    /// @notice Thrown when a proposed settlement contract serves another vault.
    error ForeignSettlement(address settlement, address itsVault);
    /// @notice Thrown when nothing is proposed.
    error NothingProposed();
    /// @notice Thrown when a proposal is accepted before `readyAt` or after `lapsesAt`.
    error ProposalNotReady(uint40 readyAt, uint40 lapsesAt);
    /// @notice Thrown while the guardian's suspension lasts.
    error DepositsAreSuspended(uint40 until);
    /// @notice Thrown when the guardian suspends again before the cool-down is over.
    error SuspensionCoolingDown(uint40 from);
    /// @notice Thrown when a suspension is lifted that is not in force.
    error NotSuspended();
    /// @notice Thrown when an address has no account.
    error AccountNotOpened(address owner);
    /// @notice Thrown when an amount would pass the largest that account or vault may hold.
    error CreditsOverflow(uint256 given, uint256 max);
    /// @notice Thrown when a token transfer moved another amount than it was asked to.
    error TransferMismatch(uint256 movedWei, uint256 expectedWei);
    /// @notice Thrown when a signature's own deadline has passed.
    error SignatureExpired(uint40 deadline, uint256 timestamp);
    /// @notice Thrown when a signature carries another nonce than the account's.
    error NonceMismatch(uint32 given, uint32 expected);
    /// @notice Thrown when a signature is not the signer's, by ECDSA or by EIP-1271.
    error InvalidSignature(address signer, bytes32 digest);
    /// @notice Thrown when `validUntil` has passed, or is too late to be stored.
    error ValidUntilOutOfRange(uint40 given, uint256 min, uint256 max);
    /// @notice Thrown when a live authorization would lose exposure.
    error ExposureLowered(uint48 given, uint48 current);
    /// @notice Thrown when a live authorization would end sooner.
    error SettleDeadlineLowered(uint40 given, uint40 current);
    /// @notice Thrown when a live authorization would lose cap.
    error AuthorizedLowered(uint64 given, uint64 current);
    /// @notice Thrown when more is asked for than is free.
    error InsufficientFreeCredits(uint64 free, uint64 requested);
    /// @notice Thrown when a clearance is not for the account's present state.
    error ClearanceOutdated(uint64 settled, uint64 currentSettled, uint32 authNonce, uint32 currentNonce);
    /// @notice Thrown when the settler that signed a clearance is suspended.
    error SettlerIsSuspended(uint40 until);
    /// @notice Thrown when a fee is above the vault's own ceiling.
    error FeeTooHigh(uint16 given, uint16 max);
    /// @notice Thrown when an operator id is not registered.
    error OperatorUnknown(uint32 operator);
    /// @notice Thrown when a batch has no rows at all.
    error EmptyRows();
    /// @notice Thrown when fewer bytes are left than a group's header takes.
    error TruncatedHeader(uint256 offset, uint256 length);
    /// @notice Thrown when a group says that it has no rows.
    error EmptyGroup(uint256 offset);
    /// @notice Thrown when a group's rows would pass the end.
    error TruncatedGroup(uint256 offset, uint256 end, uint256 length);

    /// @notice Emitted once, when the vault is wired.
    event Initialized(address settlement, address registry, address guardian);
    /// @notice Emitted when the owner names another guardian.
    event GuardianChanged(address guardian);
    /// @notice Emitted when another settlement contract is proposed; zero withdraws a proposal.
    event SettlementProposed(address indexed settlement, uint40 readyAt);
    /// @notice Emitted when another settlement contract takes over.
    event SettlementChanged(address indexed settlement);
    /// @notice Emitted when deposits and authorizations stop, at the latest until `until`.
    event DepositsSuspended(uint40 until);
    /// @notice Emitted when the guardian lifts a suspension early.
    event DepositsResumed();
    /// @notice Emitted when an address gets its account id.
    event AccountOpened(uint32 indexed account, address indexed owner);
    /// @param from Who paid.
    /// @param amount Credits added.
    /// @param netDeposited The account's value after it.
    event Deposited(uint32 indexed account, address indexed from, uint64 amount, uint64 netDeposited);
    /// @param authorizedCum The account's cumulative ceiling after it, in credits.
    /// @param exposure In credits.
    /// @param nonce The one that was used.
    event Authorized(
        uint32 indexed account,
        uint64 authorizedCum,
        uint48 exposure,
        uint40 settleDeadline,
        uint40 validUntil,
        uint32 nonce,
        bytes32 challenge
    );
    /// @param nonce The one that was used.
    event Revoked(uint32 indexed account, uint64 authorizedCum, uint40 settleDeadline, uint32 nonce);
    /// @param netDeposited The account's value after it, in credits.
    event Withdrawn(uint32 indexed account, address indexed to, uint64 amount, uint64 netDeposited);
    /// @notice Emitted when a clearance ended an account's authorization at once.
    event Closed(uint32 indexed account, uint64 settled);
    /// @param debited Credits taken from accounts by the batch.
    /// @param fee The part of `debited` that went to fees; the rest went to operators.
    event BatchDebited(uint64 indexed seq, uint64 debited, uint64 fee);
    /// @notice Emitted when a row debits less than it asked for.
    /// @param requested `cumulative - settled` before the row, in credits; zero when the row was stale.
    /// @param applied What was debited, in credits.
    event RowShort(
        uint64 indexed seq, uint32 indexed account, uint32 indexed operator, uint64 requested, uint64 applied
    );
    /// @notice Emitted when the registry sets where an operator is paid.
    event OperatorPayoutSet(uint32 indexed operator, address indexed payout);
    /// @param amount Credits paid out.
    event Claimed(uint32 indexed operator, address indexed payout, uint64 amount);
    /// @notice Emitted when a payee could not be paid; its credits stay claimable.
    event ClaimFailed(uint32 indexed operator);
    /// @param amount Credits paid out.
    event FeesSwept(address indexed to, uint64 amount);
    /// @param amountWei PRLX wei that nobody was owed.
    event SurplusSkimmed(address indexed to, uint256 amountWei);

    // Wiring

    /// @notice Sets the settlement contract, the registry and the guardian, once.
    /// @dev Requirements:
    /// - the caller is the owner;
    /// - the vault is not initialized;
    /// - no address is zero;
    /// - the settlement contract names this vault as its own.
    function initialize(address settlement, address registry, address guardian) external;

    /// @notice Names another guardian.
    /// @dev Requirements:
    /// - the caller is the owner;
    /// - `guardian` is not zero.
    function setGuardian(address guardian) external;

    /// @notice Proposes another settlement contract; it can be accepted after `2 * exitDelay`, for seven days. Zero
    /// withdraws the proposal.
    /// @dev Requirements:
    /// - the caller is the owner;
    /// - `settlement` is zero, or names this vault as its own.
    function proposeSettlement(address settlement) external;

    /// @notice Puts the proposed settlement contract in charge.
    /// @dev Requirements:
    /// - the caller is the owner;
    /// - a proposal stands, is ready, and has not lapsed.
    function acceptSettlement() external;

    /// @notice Stops deposits and authorizations for at most 72 hours, or lifts the stop. Withdrawals, revocations,
    /// closures, debits and claims go on.
    /// @dev Requirements:
    /// - the caller is the guardian;
    /// - to suspend: 72 hours have passed since the last suspension ended;
    /// - to lift: a suspension is in force.
    function suspendDeposits(bool suspended) external;

    /// @notice Sets where an operator is paid; the first call for an id makes the operator known.
    /// @dev Requirements:
    /// - the caller is the registry;
    /// - `payout` is neither zero nor the vault.
    function setOperatorPayout(uint32 operator, address payout) external;

    // Deposit

    /// @notice Deposits the caller's PRLX to the caller's account, and opens the account if there is none.
    /// @dev Requirements:
    /// - deposits are not suspended;
    /// - `amount` is not zero;
    /// - neither the account's `netDeposited` nor the vault's liabilities pass 2^63 - 1;
    /// - the token moves exactly `amount * 10^9` wei.
    /// @param amount In credits.
    function deposit(uint64 amount) external;

    /// @notice Deposits the caller's PRLX to somebody's account; its authorization and deadline stay as they are.
    /// @dev Requirements: those of `deposit`, and
    /// - `owner` is neither zero nor the vault.
    function depositFor(address owner, uint64 amount) external;

    /// @notice Deposits with an EIP-2612 permit of the caller for exactly `amount * 10^9` wei.
    /// @dev A permit that fails (because somebody relayed it first, say) is no error when the allowance is there.
    /// Requirements: those of `deposit`.
    function depositWithPermit(uint64 amount, uint256 permitDeadline, uint8 v, bytes32 r, bytes32 s) external;

    /// @notice Deposits the caller's PRLX to the authorization's owner, with a permit, and authorizes.
    /// @dev An authorization that is in force already, because somebody relayed it first, is no error.
    /// Requirements: those of `depositFor` and of `authorize`.
    function depositAndAuthorize(
        uint64 amount,
        uint256 permitDeadline,
        uint8 v,
        bytes32 r,
        bytes32 s,
        SpendAuthorization calldata authorization,
        bytes calldata signature
    ) external;

    // Authorization

    /// @notice Puts a signed authorization in force; anyone may relay it. Opens the account if there is none.
    /// @dev `authorizedCum` becomes `settled + cap`, at most 2^63 - 1. Requirements:
    /// - deposits are not suspended;
    /// - `owner` is neither zero nor the vault;
    /// - `signDeadline` has not passed, `validUntil` lies ahead and fits with `exitDelay` into 40 bits;
    /// - `nonce` is the account's;
    /// - the signature is the owner's (ECDSA, then EIP-1271);
    /// - while the present authorization is live: `exposure`, the settle deadline and `authorizedCum` are not lowered.
    function authorize(SpendAuthorization calldata authorization, bytes calldata signature) external;

    /// @notice Ends the caller's authorization: at most `exposure` more can be debited, and nothing after `exitDelay`.
    /// @dev Calling again changes nothing but the nonce. Requirements:
    /// - the caller has an account.
    function revoke() external;

    /// @notice Ends an authorization by its owner's signature; anyone may relay it.
    /// @dev Requirements:
    /// - `signDeadline` has not passed;
    /// - the owner has an account and `nonce` is its own;
    /// - the signature is the owner's (ECDSA, then EIP-1271).
    function revokeBySig(Revocation calldata revocation, bytes calldata signature) external;

    // Withdrawal

    /// @notice Pays credits that are not locked to `to`. Nobody can suspend this.
    /// @dev Requirements:
    /// - the caller has an account;
    /// - `amount` is not zero and at most the account's free credits;
    /// - `to` is neither zero nor the vault;
    /// - the token moves exactly `amount * 10^9` wei.
    /// @param amount In credits.
    function withdraw(uint64 amount, address to) external;

    /// @notice Ends the caller's authorization at once, because the settler attests that nothing is outstanding.
    /// @dev Requirements:
    /// - the caller owns the account;
    /// - the clearance's deadline has not passed, and its `settled` and `authNonce` are the account's;
    /// - the settler is not suspended and the signature is the settler's.
    function closeWithClearance(ClosureClearance calldata clearance, bytes calldata signature) external;

    // Settlement

    /// @notice Debits the rows' accounts and credits their operators, less the fee.
    /// @dev A row is skipped when stale, past the account's deadline, or within the velocity window of an earlier
    /// transaction; it is clamped to the account's limit and to one exposure a transaction. Each short row emits
    /// `RowShort`. The fee is rounded down for each operator's group. Requirements:
    /// - the caller is the settlement contract;
    /// - `feeBps` is at most 3,000;
    /// - `rows` is well formed (docs/protocol.md, section 3.1) and names known operators only.
    /// @param rows Packed rows.
    /// @param feeBps Fee in basis points.
    /// @return debited Credits taken from accounts.
    /// @return fee The part of `debited` that went to fees.
    function debitBatch(uint64 seq, bytes calldata rows, uint16 feeBps) external returns (uint64 debited, uint64 fee);

    // Payout

    /// @notice Pays an operator's claimable credits to its payout address; does nothing when there are none.
    /// @dev Requirements:
    /// - the operator is known;
    /// - the transfer succeeds and moves exactly that amount.
    function claim(uint32 operator) external;

    /// @notice Pays many operators; one whose transfer fails keeps its credits and stops nobody.
    /// @dev Unknown operators and those with nothing to claim are passed over. Requirements:
    /// - the transfers that succeed move exactly their amounts.
    function claimMany(uint32[] calldata operatorIds) external;

    /// @notice Pays all fees to `to`; does nothing when there are none.
    /// @dev Requirements:
    /// - the caller is the owner;
    /// - `to` is neither zero nor the vault.
    function sweepFees(address to) external;

    /// @notice Pays PRLX above the vault's liabilities (donations) to `to`.
    /// @dev Requirements:
    /// - the caller is the owner;
    /// - `to` is neither zero nor the vault.
    function skimSurplus(address to) external;

    // Views

    /// @notice The ERC-20 that is held.
    function token() external view returns (address);
    /// @notice Seconds between a revocation and the last possible debit.
    function exitDelay() external view returns (uint40);
    /// @notice Seconds in which one account can be debited by one transaction only.
    function velocityWindow() external view returns (uint40);
    /// @notice The contract that may call `debitBatch`.
    function settlement() external view returns (address);
    /// @notice The contract that may call `setOperatorPayout`.
    function registry() external view returns (address);
    /// @notice The address that may suspend deposits and authorizations.
    function guardian() external view returns (address);
    /// @notice The settlement contract that is proposed, and when it can be accepted; zeros when none is.
    function proposedSettlement() external view returns (address proposed, uint40 readyAt);
    /// @notice When the suspension of deposits ends, and when the next one may start.
    function depositSuspension() external view returns (uint40 until, uint40 nextFrom);
    /// @notice The number of accounts; ids run from 1 to it.
    function accountCount() external view returns (uint32);
    /// @notice An owner's account id, zero when there is none.
    function accountOf(address owner) external view returns (uint32);
    /// @notice An account's owner, zero when there is none.
    function ownerOf(uint32 account) external view returns (address);
    /// @notice The accounts' states, in the order asked; zeros for unknown ids.
    function accounts(uint32[] calldata ids) external view returns (AccountView[] memory);
    /// @notice The operators' states, in the order asked; zeros for unknown ids.
    function operators(uint32[] calldata ids) external view returns (OperatorView[] memory);
    /// @notice Credits that belong to the account: `netDeposited - settled`.
    function balance(uint32 account) external view returns (uint64);
    /// @notice Credits kept back for unsettled usage: zero after the deadline, else `min(exposure, limit - settled)`.
    function locked(uint32 account) external view returns (uint64);
    /// @notice Credits that can be withdrawn now: `balance - locked`.
    function free(uint32 account) external view returns (uint64);
    /// @notice Credits owed to accounts, operators and fees together.
    function liabilities() external view returns (uint64);
    /// @notice Credits in fees, not swept yet.
    function fees() external view returns (uint64);
    /// @notice The EIP-712 domain separator.
    function DOMAIN_SEPARATOR() external view returns (bytes32);
}
