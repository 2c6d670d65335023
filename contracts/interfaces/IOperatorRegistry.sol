// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

/// @title IOperatorRegistry
/// @notice Operators: ids, node signing keys, payout addresses, stake.
/// @dev Stake is held here, never in the vault. The file imports nothing, so that other languages can read it alone.
interface IOperatorRegistry {
    /// @notice Thrown when the caller is not the one address that may call.
    error UnauthorizedCaller(address caller, address expected);
    /// @notice Thrown when an address is zero.
    error ZeroAddress();
    /// @notice Thrown when an amount is zero.
    error ZeroAmount();
    /// @notice Thrown when an owner registers a second time.
    error AlreadyRegistered(address owner, uint32 operator);
    /// @notice Thrown when the caller owns no operator.
    error NotRegistered(address caller);
    /// @notice Thrown when an operator id is not registered.
    error OperatorUnknown(uint32 operator);
    /// @notice Thrown when a key belongs, or ever belonged, to an operator.
    error NodeKeyTaken(address key, uint32 operator);
    /// @notice Thrown when a key is not an active key of the caller's operator.
    error NodeKeyNotActive(address key, uint32 operator);
    /// @notice Thrown when a proof is not the key's own signature.
    error InvalidSignature(address signer, bytes32 digest);
    /// @notice Thrown when nothing is proposed.
    error NothingProposed();
    /// @notice Thrown when a proposal is accepted too early or too late.
    error ProposalNotReady(uint40 readyAt, uint40 lapsesAt);
    /// @notice Thrown when more stake is asked for than there is.
    error InsufficientStake(uint64 available, uint64 requested);
    /// @notice Thrown when stake is withdrawn before its unbonding is over.
    error StillUnbonding(uint40 releaseAt, uint256 timestamp);
    /// @notice Thrown when a slash is above the cap of one incident.
    error IncidentCapExceeded(uint64 given, uint64 cap);
    /// @notice Thrown when an incident was used already.
    error IncidentUsed(bytes32 incident);
    /// @notice Thrown when an operator was slashed less than a day ago.
    error SlashedRecently(uint40 nextFrom, uint256 timestamp);
    /// @notice Thrown when a token transfer moved another amount than it was asked to.
    error TransferMismatch(uint256 movedWei, uint256 expectedWei);

    /// @notice Emitted when an operator gets its id.
    event OperatorRegistered(uint32 indexed operator, address indexed owner, address payout, bytes32 metadataHash);
    /// @notice Emitted when a node may sign for an operator.
    event NodeKeyAdded(uint32 indexed operator, address indexed key);
    /// @notice Emitted when a node may sign no longer.
    event NodeKeyRemoved(uint32 indexed operator, address indexed key);
    /// @notice Emitted when another payout address is proposed.
    event PayoutProposed(uint32 indexed operator, address indexed payout, uint40 readyAt);
    /// @notice Emitted when another payout address takes effect.
    event PayoutChanged(uint32 indexed operator, address indexed payout);
    /// @param amount Credits added.
    /// @param staked The operator's stake after it, in credits, without what is unbonding.
    event Staked(uint32 indexed operator, uint64 amount, uint64 staked);
    /// @param amount Credits that started to unbond.
    /// @param releaseAt When everything that is unbonding can be withdrawn.
    event UnstakeStarted(uint32 indexed operator, uint64 amount, uint40 releaseAt);
    /// @param amount Credits paid to the operator's owner.
    event StakeWithdrawn(uint32 indexed operator, address indexed to, uint64 amount);
    /// @param amount Credits taken.
    event Slashed(uint32 indexed operator, bytes32 indexed incident, uint64 amount);
    /// @notice Emitted when another disputer is proposed; zeros when the proposal is withdrawn.
    event DisputerProposed(address disputer, uint40 readyAt);
    /// @notice Emitted when another disputer takes effect; zero when the last one was dismissed.
    event DisputerChanged(address disputer);
    /// @param amount Slashed credits paid out.
    event SlashedSwept(address indexed to, uint64 amount);

    /// @notice Registers the caller as an operator and tells the vault where to pay it.
    /// @dev Requirements:
    /// - the caller is not registered;
    /// - the vault accepts `payout` (neither zero nor the vault).
    /// @param metadataHash keccak256 of the operator's published description; zero when there is none.
    /// @return operator The id, at least 1, never reused.
    function register(address payout, bytes32 metadataHash) external returns (uint32 operator);

    /// @notice Lets a node key sign for the caller's operator.
    /// @dev Requirements:
    /// - the caller is registered;
    /// - no operator ever had the key;
    /// - `proof` is the key's own signature of `NodeKey(operator, key)`.
    function addNodeKey(address key, bytes calldata proof) external;

    /// @notice Ends a node key; what it signed before still counts. It can never be added again.
    /// @dev Requirements:
    /// - the key is an active key of the caller's operator.
    function removeNodeKey(address key) external;

    /// @notice Proposes another payout address; it can be accepted after 24 hours, for seven days.
    /// @dev Requirements:
    /// - the caller is registered;
    /// - `payout` is not zero.
    function proposePayout(address payout) external;

    /// @notice Puts the proposed payout address in force.
    /// @dev Requirements:
    /// - the caller is registered;
    /// - a proposal stands, is ready, and has not lapsed;
    /// - the vault accepts the address.
    function acceptPayout() external;

    /// @notice Adds the caller's PRLX to its operator's stake.
    /// @dev Requirements:
    /// - the caller is registered;
    /// - `amount` is not zero;
    /// - the token moves exactly `amount * 10^9` wei.
    /// @param amount In credits.
    function stake(uint64 amount) external;

    /// @notice Starts to unbond stake. Everything that is unbonding is released seven days after the last call, and can
    /// be slashed until it is withdrawn.
    /// @dev Requirements:
    /// - the caller is registered;
    /// - `amount` is not zero and at most the stake.
    /// @param amount In credits.
    function unstake(uint64 amount) external;

    /// @notice Pays unbonded stake to the caller.
    /// @dev Requirements:
    /// - the caller is registered;
    /// - something is unbonding and its time is over.
    function withdrawStake() external;

    /// @notice Takes stake for a proven misdeed, first from what is staked, then from what is unbonding.
    /// @dev Requirements:
    /// - the caller is the disputer;
    /// - the operator is known and was not slashed in the last 24 hours;
    /// - the incident was not used;
    /// - `amount` is not zero, at most the cap of one incident, and at most what the operator has.
    /// @param amount In credits.
    /// @param incident Digest of the published evidence.
    function slash(uint32 operator, uint64 amount, bytes32 incident) external;

    /// @notice Pays all slashed credits to `to`; does nothing when there are none.
    /// @dev Requirements:
    /// - the caller is the owner;
    /// - `to` is not zero.
    function sweepSlashed(address to) external;

    /// @notice Proposes another disputer; it can be accepted after 14 days, for seven days. Unbonding takes seven, so an
    /// operator who dislikes it has withdrawn its stake before. Zero withdraws the proposal.
    /// @dev Requirements:
    /// - the caller is the owner.
    function proposeDisputer(address disputer) external;

    /// @notice Puts the proposed disputer in force.
    /// @dev Requirements:
    /// - the caller is the owner;
    /// - a proposal stands, is ready, and has not lapsed.
    function acceptDisputer() external;

    /// @notice Takes the present disputer's power at once, so that nobody can slash. What is proposed stays proposed.
    /// @dev Requirements:
    /// - the caller is the owner.
    function dismissDisputer() external;

    /// @notice The vault that pays the operators.
    function vault() external view returns (address);
    /// @notice The ERC-20 that is staked.
    function token() external view returns (address);
    /// @notice The address that may slash, zero when it was dismissed.
    function disputer() external view returns (address);
    /// @notice The disputer that is proposed, and when it can be accepted; zeros when none is.
    function proposedDisputer() external view returns (address proposed, uint40 readyAt);
    /// @notice The most that one incident can take, in credits.
    function incidentCap() external view returns (uint64);
    /// @notice Slashed credits, not swept yet.
    function slashedCredits() external view returns (uint64);
    /// @notice The number of operators; ids run from 1 to it.
    function operatorCount() external view returns (uint32);
    /// @notice An owner's operator id, zero when there is none.
    function operatorOf(address owner) external view returns (uint32);
    /// @notice An operator's owner, zero when there is none.
    function ownerOfOperator(uint32 operator) external view returns (address);
    /// @notice Whose a node key is, and since and until when; `until` is zero while it is active.
    function operatorOfNode(address key) external view returns (uint32 operator, uint40 since, uint40 until);
    /// @notice Where an operator is paid, zero for unknown ids.
    function payoutOf(uint32 operator) external view returns (address);
    /// @notice The payout address that is proposed, and when it can be accepted; zeros when none is.
    function proposedPayout(uint32 operator) external view returns (address proposed, uint40 readyAt);
    /// @notice An operator's stake in credits: bonded, unbonding, and when the latter is released.
    function stakeOf(uint32 operator) external view returns (uint64 staked, uint64 unbonding, uint40 releaseAt);
    /// @notice The EIP-712 domain separator.
    function DOMAIN_SEPARATOR() external view returns (bytes32);
}
