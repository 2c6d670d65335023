// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ownable, Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

import {IOperatorRegistry} from "./interfaces/IOperatorRegistry.sol";
import {IParalleliXAICredits} from "./interfaces/IParalleliXAICredits.sol";
import {CreditTransfer} from "./libraries/CreditTransfer.sol";
import {Proposal} from "./libraries/Proposal.sol";
import {Signatures} from "./libraries/Signatures.sol";
import {TypedData} from "./libraries/TypedData.sol";

/// @title OperatorRegistry
/// @notice Who the operators are, which node keys sign for them, and what they have at stake.
/// @dev Documentation: `IOperatorRegistry`. Payout addresses are stored in the vault alone.
contract OperatorRegistry is IOperatorRegistry, Ownable2Step, EIP712, ReentrancyGuardTransient {
    using CreditTransfer for IERC20;
    using Signatures for address;

    struct NodeKey {
        uint32 operator;
        uint40 since;
        uint40 until;
    }

    struct PayoutProposal {
        address payout;
        uint40 readyAt;
    }

    struct Stake {
        uint64 staked;
        uint64 unbonding;
        uint40 releaseAt;
        uint40 slashableFrom;
    }

    /// @notice How long a change of payout address waits, so that a stolen owner key can't divert the next claim unseen.
    uint40 public constant PAYOUT_DELAY = 24 hours;
    /// @notice How long stake stays slashable after `unstake`; longer than any dispute takes.
    uint40 public constant UNBONDING_PERIOD = 7 days;
    /// @notice The least time between two slashes of one operator.
    uint40 public constant SLASH_INTERVAL = 24 hours;
    /// @notice How long another disputer waits: who dislikes it unbonds all stake and withdraws it before.
    uint40 public constant DISPUTER_DELAY = 2 * UNBONDING_PERIOD;

    IParalleliXAICredits private immutable _vault;
    IERC20 private immutable _token;
    /// @inheritdoc IOperatorRegistry
    uint64 public immutable incidentCap;

    /// @inheritdoc IOperatorRegistry
    uint32 public operatorCount;
    /// @inheritdoc IOperatorRegistry
    uint64 public slashedCredits;
    /// @inheritdoc IOperatorRegistry
    address public disputer;
    address private _proposedDisputer;
    uint40 private _disputerReadyAt;
    /// @inheritdoc IOperatorRegistry
    mapping(address owner => uint32 operator) public operatorOf;
    /// @inheritdoc IOperatorRegistry
    mapping(uint32 operator => address owner) public ownerOfOperator;
    /// @inheritdoc IOperatorRegistry
    mapping(address key => NodeKey) public operatorOfNode;
    /// @inheritdoc IOperatorRegistry
    mapping(uint32 operator => PayoutProposal) public proposedPayout;
    mapping(uint32 operator => Stake) private _stakes;
    /// @notice Whether an incident was used.
    mapping(bytes32 incident => bool) public incidentUsed;

    constructor(IParalleliXAICredits vault_, address owner_, address disputer_, uint64 incidentCap_)
        Ownable(owner_)
        EIP712("OperatorRegistry", "1")
    {
        require(disputer_ != address(0), ZeroAddress());

        _vault = vault_;
        _token = IERC20(vault_.token());
        disputer = disputer_;
        incidentCap = incidentCap_;
    }

    // Operators

    /// @inheritdoc IOperatorRegistry
    function register(address payout, bytes32 metadataHash) external returns (uint32 operator) {
        uint32 existing = operatorOf[msg.sender];
        require(existing == 0, AlreadyRegistered(msg.sender, existing));

        operator = ++operatorCount;
        operatorOf[msg.sender] = operator;
        ownerOfOperator[operator] = msg.sender;

        emit OperatorRegistered(operator, msg.sender, payout, metadataHash);

        _vault.setOperatorPayout(operator, payout);
    }

    /// @inheritdoc IOperatorRegistry
    function addNodeKey(address key, bytes calldata proof) external {
        uint32 operator = _callersOperator();
        uint32 taken = operatorOfNode[key].operator;
        require(taken == 0, NodeKeyTaken(key, taken));
        bytes32 digest = _hashTypedDataV4(TypedData.hashNodeKey(operator, key));
        require(key.isKeySignature(digest, proof), InvalidSignature(key, digest));

        operatorOfNode[key] = NodeKey({operator: operator, since: uint40(block.timestamp), until: 0});

        emit NodeKeyAdded(operator, key);
    }

    /// @inheritdoc IOperatorRegistry
    function removeNodeKey(address key) external {
        uint32 operator = _callersOperator();
        NodeKey storage nodeKey = operatorOfNode[key];
        require(nodeKey.operator == operator && nodeKey.until == 0, NodeKeyNotActive(key, operator));

        nodeKey.until = uint40(block.timestamp);

        emit NodeKeyRemoved(operator, key);
    }

    // Payout address

    /// @inheritdoc IOperatorRegistry
    function proposePayout(address payout) external {
        uint32 operator = _callersOperator();
        require(payout != address(0), ZeroAddress());
        uint40 readyAt = Proposal.readyAfter(PAYOUT_DELAY);

        proposedPayout[operator] = PayoutProposal({payout: payout, readyAt: readyAt});

        emit PayoutProposed(operator, payout, readyAt);
    }

    /// @inheritdoc IOperatorRegistry
    function acceptPayout() external {
        uint32 operator = _callersOperator();
        PayoutProposal memory proposal = proposedPayout[operator];
        Proposal.requireReady(proposal.readyAt);

        delete proposedPayout[operator];

        emit PayoutChanged(operator, proposal.payout);

        _vault.setOperatorPayout(operator, proposal.payout);
    }

    // Stake

    /// @inheritdoc IOperatorRegistry
    function stake(uint64 amount) external nonReentrant {
        uint32 operator = _callersOperator();
        require(amount != 0, ZeroAmount());

        uint64 staked = _stakes[operator].staked + amount;
        _stakes[operator].staked = staked;

        emit Staked(operator, amount, staked);

        _token.pull(msg.sender, amount);
    }

    /// @inheritdoc IOperatorRegistry
    function unstake(uint64 amount) external {
        uint32 operator = _callersOperator();
        Stake storage held = _stakes[operator];
        require(amount != 0, ZeroAmount());
        require(amount <= held.staked, InsufficientStake(held.staked, amount));

        uint40 releaseAt = uint40(block.timestamp) + UNBONDING_PERIOD;
        held.staked -= amount;
        held.unbonding += amount;
        held.releaseAt = releaseAt;

        emit UnstakeStarted(operator, amount, releaseAt);
    }

    /// @inheritdoc IOperatorRegistry
    function withdrawStake() external nonReentrant {
        uint32 operator = _callersOperator();
        Stake storage held = _stakes[operator];
        uint64 amount = held.unbonding;
        require(amount != 0, ZeroAmount());
        require(block.timestamp >= held.releaseAt, StillUnbonding(held.releaseAt, block.timestamp));

        held.unbonding = 0;

        emit StakeWithdrawn(operator, msg.sender, amount);

        _token.push(msg.sender, amount);
    }

    /// @inheritdoc IOperatorRegistry
    function slash(uint32 operator, uint64 amount, bytes32 incident) external {
        require(msg.sender == disputer, UnauthorizedCaller(msg.sender, disputer));
        require(ownerOfOperator[operator] != address(0), OperatorUnknown(operator));
        require(amount != 0, ZeroAmount());
        require(amount <= incidentCap, IncidentCapExceeded(amount, incidentCap));
        require(!incidentUsed[incident], IncidentUsed(incident));
        Stake storage held = _stakes[operator];
        require(block.timestamp >= held.slashableFrom, SlashedRecently(held.slashableFrom, block.timestamp));
        uint64 fromStaked = amount < held.staked ? amount : held.staked;
        uint64 fromUnbonding = amount - fromStaked;
        require(fromUnbonding <= held.unbonding, InsufficientStake(held.staked + held.unbonding, amount));

        incidentUsed[incident] = true;
        held.staked -= fromStaked;
        held.unbonding -= fromUnbonding;
        held.slashableFrom = uint40(block.timestamp) + SLASH_INTERVAL;
        slashedCredits += amount;

        emit Slashed(operator, incident, amount);
    }

    /// @inheritdoc IOperatorRegistry
    function sweepSlashed(address to) external onlyOwner nonReentrant {
        require(to != address(0), ZeroAddress());
        uint64 amount = slashedCredits;
        if (amount == 0) return;

        slashedCredits = 0;

        emit SlashedSwept(to, amount);

        _token.push(to, amount);
    }

    // Disputer

    /// @inheritdoc IOperatorRegistry
    function proposeDisputer(address disputer_) external onlyOwner {
        uint40 readyAt = disputer_ == address(0) ? 0 : Proposal.readyAfter(DISPUTER_DELAY);

        _proposedDisputer = disputer_;
        _disputerReadyAt = readyAt;

        emit DisputerProposed(disputer_, readyAt);
    }

    /// @inheritdoc IOperatorRegistry
    function acceptDisputer() external onlyOwner {
        Proposal.requireReady(_disputerReadyAt);

        address disputer_ = _proposedDisputer;
        disputer = disputer_;
        delete _proposedDisputer;
        delete _disputerReadyAt;

        emit DisputerChanged(disputer_);
    }

    /// @inheritdoc IOperatorRegistry
    function dismissDisputer() external onlyOwner {
        delete disputer;

        emit DisputerChanged(address(0));
    }

    // Views

    /// @inheritdoc IOperatorRegistry
    function vault() external view returns (address) {
        return address(_vault);
    }

    /// @inheritdoc IOperatorRegistry
    function token() external view returns (address) {
        return address(_token);
    }

    /// @inheritdoc IOperatorRegistry
    function proposedDisputer() external view returns (address proposed, uint40 readyAt) {
        return (_proposedDisputer, _disputerReadyAt);
    }

    /// @inheritdoc IOperatorRegistry
    function payoutOf(uint32 operator) external view returns (address) {
        uint32[] memory ids = new uint32[](1);
        ids[0] = operator;
        return _vault.operators(ids)[0].payout;
    }

    /// @inheritdoc IOperatorRegistry
    function stakeOf(uint32 operator) external view returns (uint64 staked, uint64 unbonding, uint40 releaseAt) {
        Stake storage held = _stakes[operator];
        return (held.staked, held.unbonding, held.releaseAt);
    }

    /// @inheritdoc IOperatorRegistry
    function DOMAIN_SEPARATOR() external view returns (bytes32) {
        return _domainSeparatorV4();
    }

    function _callersOperator() private view returns (uint32 operator) {
        operator = operatorOf[msg.sender];
        require(operator != 0, NotRegistered(msg.sender));
    }
}
