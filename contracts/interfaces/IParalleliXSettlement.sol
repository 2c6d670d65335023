// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// @title IParalleliXSettlement
/// @notice Authenticates settlement batches, hands their rows to the vault, and keeps each batch's receipts root.
/// @dev The file imports nothing, so that other languages can read it alone.
interface IParalleliXSettlement {
    /// @notice What an operator's node signs for each request it served. Field meanings: docs/protocol.md, section 5.
    struct ServiceReceipt {
        bytes32 requestId;
        uint32 account;
        uint32 operator;
        bytes32 modelRoot;
        bytes32 engine;
        uint32 promptTokens;
        uint32 completionTokens;
        /// Credits per 1,000,000 tokens.
        uint64 modelRate;
        /// Credits, rounded up.
        uint64 amount;
        bytes32 promptHash;
        bytes32 completionHash;
        bytes32 paramsHash;
        bytes32 proofRoot;
        uint40 startedAt;
        uint40 servedAt;
    }

    /// @notice What the settler signs for each batch.
    struct SettlementBatch {
        uint64 seq;
        bytes32 receiptsRoot;
        bytes32 rowsHash;
        uint40 deadline;
    }

    /// @notice Thrown when the caller is not the one address that may call.
    error UnauthorizedCaller(address caller, address expected);
    /// @notice Thrown when an address is zero.
    error ZeroAddress();
    /// @notice Thrown when a fee is above the ceiling.
    error FeeTooHigh(uint16 given, uint16 max);
    /// @notice Thrown when nothing is proposed.
    error NothingProposed();
    /// @notice Thrown when a proposal is accepted before `readyAt` or after `lapsesAt`.
    error ProposalNotReady(uint40 readyAt, uint40 lapsesAt);
    /// @notice Thrown while the guardian's suspension lasts.
    error SettlerIsSuspended(uint40 until);
    /// @notice Thrown when the guardian suspends again before the cool-down is over.
    error SuspensionCoolingDown(uint40 from);
    /// @notice Thrown when a suspension is lifted that is not in force.
    error NotSuspended();
    /// @notice Thrown when a batch is not the next one.
    error SeqMismatch(uint64 given, uint64 expected);
    /// @notice Thrown when a batch has no receipts root.
    error ZeroReceiptsRoot();
    /// @notice Thrown when a batch's signature is past its deadline.
    error SignatureExpired(uint40 deadline, uint256 timestamp);
    /// @notice Thrown when a signature is not the settler's, by ECDSA or by EIP-1271.
    error InvalidSignature(address signer, bytes32 digest);

    /// @notice Emitted when the owner names another guardian.
    event GuardianChanged(address guardian);
    /// @notice Emitted when another settler is proposed; zero withdraws a proposal.
    event SettlerProposed(address indexed settler, uint40 readyAt);
    /// @notice Emitted when another settler takes over.
    event SettlerChanged(address indexed settler);
    /// @notice Emitted when another fee, in basis points, is proposed.
    event FeeProposed(uint16 feeBps, uint40 readyAt);
    /// @notice Emitted when another fee, in basis points, takes effect.
    event FeeChanged(uint16 feeBps);
    /// @notice Emitted when settlement stops, at the latest until `until`.
    event SettlerSuspended(uint40 until);
    /// @notice Emitted when the guardian lifts a suspension early.
    event SettlerResumed();
    /// @param debited Credits taken from accounts by the batch.
    /// @param fee The part of `debited` that went to fees.
    event Settled(uint64 indexed seq, bytes32 receiptsRoot, bytes32 rowsHash, uint64 debited, uint64 fee);

    /// @notice Names another guardian.
    /// @dev Requirements:
    /// - the caller is the owner;
    /// - `guardian` is not zero.
    function setGuardian(address guardian) external;

    /// @notice Proposes another settler; it can be accepted after `2 * exitDelay`, for seven days. Zero withdraws the
    /// proposal.
    /// @dev Requirements:
    /// - the caller is the owner.
    function proposeSettler(address settler) external;

    /// @notice Puts the proposed settler in charge; signatures of the former one are worth nothing from here on.
    /// @dev Requirements:
    /// - the caller is the owner;
    /// - a proposal stands, is ready, and has not lapsed.
    function acceptSettler() external;

    /// @notice Proposes another fee; it can be accepted after `2 * exitDelay`, for seven days.
    /// @dev Requirements:
    /// - the caller is the owner;
    /// - `feeBps` is at most `MAX_FEE_BPS`.
    function proposeFee(uint16 feeBps) external;

    /// @notice Puts the proposed fee in force.
    /// @dev Requirements:
    /// - the caller is the owner;
    /// - a proposal stands, is ready, and has not lapsed.
    function acceptFee() external;

    /// @notice Stops settlement and closures by clearance for at most 72 hours, or lifts the stop.
    /// @dev Requirements:
    /// - the caller is the guardian;
    /// - to suspend: 72 hours have passed since the last suspension ended;
    /// - to lift: a suspension is in force.
    function suspendSettler(bool suspended) external;

    /// @notice Settles one batch; anyone may relay it. Bad rows are short, they never stop the others.
    /// @dev Requirements:
    /// - the settler is not suspended;
    /// - `seq` is `lastSeq + 1`;
    /// - `receiptsRoot` is not zero;
    /// - `deadline` has not passed;
    /// - the signature over `SettlementBatch` is the settler's (ECDSA, then EIP-1271);
    /// - the vault accepts the rows.
    /// @param rows Packed rows (docs/protocol.md, section 3.1).
    function settle(uint64 seq, bytes32 receiptsRoot, bytes calldata rows, uint40 deadline, bytes calldata signature)
        external;

    /// @notice Whether a receipt was part of a settled batch and was signed by a node key of its operator.
    /// @dev False, not an error, for an unknown batch, a wrong proof, a wrong signature, or a key that was removed before
    /// `servedAt`.
    function verifyReceipt(
        uint64 seq,
        ServiceReceipt calldata receipt,
        bytes calldata signature,
        bytes32[] calldata proof
    ) external view returns (bool);

    /// @notice The highest fee that can be set, in basis points.
    function MAX_FEE_BPS() external view returns (uint16);
    /// @notice The vault that this contract settles.
    function vault() external view returns (address);
    /// @notice The registry of node keys.
    function registry() external view returns (address);
    /// @notice The signer of batches and clearances.
    function settler() external view returns (address);
    /// @notice The address that may suspend the settler.
    function guardian() external view returns (address);
    /// @notice The fee in force, in basis points.
    function feeBps() external view returns (uint16);
    /// @notice The number of the last settled batch; zero before the first.
    function lastSeq() external view returns (uint64);
    /// @notice The receipts root of a settled batch, zero for others.
    function receiptsRoot(uint64 seq) external view returns (bytes32);
    /// @notice The settler that is proposed, and when it can be accepted; zeros when none is.
    function proposedSettler() external view returns (address proposed, uint40 readyAt);
    /// @notice The fee that is proposed, and when it can be accepted; `readyAt` is zero when none is.
    function proposedFee() external view returns (uint16 proposed, uint40 readyAt);
    /// @notice When the suspension of the settler ends, and when the next one may start.
    function settlerSuspension() external view returns (uint40 until, uint40 nextFrom);
    /// @notice The EIP-712 digest of a receipt, which is what the node signs; its leaf is keccak256 of it.
    function receiptDigest(ServiceReceipt calldata receipt) external view returns (bytes32);
    /// @notice The EIP-712 domain separator.
    function DOMAIN_SEPARATOR() external view returns (bytes32);
}
