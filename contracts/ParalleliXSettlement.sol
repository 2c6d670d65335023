// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Ownable, Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";

import {IOperatorRegistry} from "./interfaces/IOperatorRegistry.sol";
import {IParalleliXAICredits} from "./interfaces/IParalleliXAICredits.sol";
import {IParalleliXSettlement} from "./interfaces/IParalleliXSettlement.sol";
import {Proposal} from "./libraries/Proposal.sol";
import {Signatures} from "./libraries/Signatures.sol";
import {Suspension} from "./libraries/Suspension.sol";
import {TypedData} from "./libraries/TypedData.sol";

/// @title ParalleliXSettlement
/// @notice Says which batches are authentic. Holds no money: the vault moves credits, within what payers authorized.
/// @dev Documentation: `IParalleliXSettlement`.
contract ParalleliXSettlement is IParalleliXSettlement, Ownable2Step, EIP712 {
    using Signatures for address;
    using TypedData for ServiceReceipt;
    using TypedData for SettlementBatch;

    /// @inheritdoc IParalleliXSettlement
    uint16 public constant MAX_FEE_BPS = 3_000;

    /// @inheritdoc IParalleliXSettlement
    address public immutable vault;
    /// @inheritdoc IParalleliXSettlement
    address public immutable registry;
    /// @dev How long changes of settler and fee wait.
    uint40 private immutable _changeDelay;

    // One slot, with all that `settle` reads and writes here beside the root. 40 bits of batches last for 30,000 years.
    /// @inheritdoc IParalleliXSettlement
    address public settler;
    uint40 private _lastSeq;
    uint40 private _suspendedUntil;
    /// @inheritdoc IParalleliXSettlement
    uint16 public feeBps;

    uint40 private _suspendableFrom;
    uint16 private _proposedFeeBps;
    uint40 private _feeReadyAt;
    uint40 private _settlerReadyAt;
    address private _proposedSettler;
    /// @inheritdoc IParalleliXSettlement
    address public guardian;
    /// @inheritdoc IParalleliXSettlement
    mapping(uint64 seq => bytes32) public receiptsRoot;

    constructor(
        IParalleliXAICredits vault_,
        IOperatorRegistry registry_,
        address owner_,
        address settler_,
        address guardian_,
        uint16 feeBps_
    ) Ownable(owner_) EIP712("ParalleliXSettlement", "1") {
        require(address(registry_) != address(0), ZeroAddress());
        require(settler_ != address(0) && guardian_ != address(0), ZeroAddress());
        require(feeBps_ <= MAX_FEE_BPS, FeeTooHigh(feeBps_, MAX_FEE_BPS));

        vault = address(vault_);
        registry = address(registry_);
        _changeDelay = 2 * vault_.exitDelay();
        settler = settler_;
        guardian = guardian_;
        feeBps = feeBps_;
    }

    modifier onlyGuardian() {
        require(msg.sender == guardian, UnauthorizedCaller(msg.sender, guardian));
        _;
    }

    // Wiring

    /// @inheritdoc IParalleliXSettlement
    function setGuardian(address guardian_) external onlyOwner {
        require(guardian_ != address(0), ZeroAddress());

        guardian = guardian_;

        emit GuardianChanged(guardian_);
    }

    /// @inheritdoc IParalleliXSettlement
    function proposeSettler(address settler_) external onlyOwner {
        uint40 readyAt = settler_ == address(0) ? 0 : Proposal.readyAfter(_changeDelay);

        _proposedSettler = settler_;
        _settlerReadyAt = readyAt;

        emit SettlerProposed(settler_, readyAt);
    }

    /// @inheritdoc IParalleliXSettlement
    function acceptSettler() external onlyOwner {
        Proposal.requireReady(_settlerReadyAt);

        address settler_ = _proposedSettler;
        settler = settler_;
        delete _proposedSettler;
        delete _settlerReadyAt;

        emit SettlerChanged(settler_);
    }

    /// @inheritdoc IParalleliXSettlement
    function proposeFee(uint16 feeBps_) external onlyOwner {
        require(feeBps_ <= MAX_FEE_BPS, FeeTooHigh(feeBps_, MAX_FEE_BPS));
        uint40 readyAt = Proposal.readyAfter(_changeDelay);

        _proposedFeeBps = feeBps_;
        _feeReadyAt = readyAt;

        emit FeeProposed(feeBps_, readyAt);
    }

    /// @inheritdoc IParalleliXSettlement
    function acceptFee() external onlyOwner {
        Proposal.requireReady(_feeReadyAt);

        uint16 feeBps_ = _proposedFeeBps;
        feeBps = feeBps_;
        delete _proposedFeeBps;
        delete _feeReadyAt;

        emit FeeChanged(feeBps_);
    }

    /// @inheritdoc IParalleliXSettlement
    function suspendSettler(bool suspended) external onlyGuardian {
        (uint40 until, uint40 nextFrom) =
            suspended ? Suspension.start(_suspendableFrom) : Suspension.lift(_suspendedUntil);

        _suspendedUntil = until;
        _suspendableFrom = nextFrom;

        if (suspended) emit SettlerSuspended(until);
        else emit SettlerResumed();
    }

    // Settlement

    /// @inheritdoc IParalleliXSettlement
    function settle(uint64 seq, bytes32 root, bytes calldata rows, uint40 deadline, bytes calldata signature) external {
        require(!Suspension.inForce(_suspendedUntil), SettlerIsSuspended(_suspendedUntil));
        require(seq == _lastSeq + 1, SeqMismatch(seq, _lastSeq + 1));
        require(root != 0, ZeroReceiptsRoot());
        require(block.timestamp <= deadline, SignatureExpired(deadline, block.timestamp));
        bytes32 rowsHash = keccak256(rows);
        _requireSettlerSigned(SettlementBatch(seq, root, rowsHash, deadline), signature);

        _lastSeq = uint40(seq);
        receiptsRoot[seq] = root;

        (uint64 debited, uint64 fee) = IParalleliXAICredits(vault).debitBatch(seq, rows, feeBps);

        emit Settled(seq, root, rowsHash, debited, fee);
    }

    function _requireSettlerSigned(SettlementBatch memory batch, bytes calldata signature) private view {
        bytes32 digest = _hashTypedDataV4(batch.hash());
        require(settler.isValid(digest, signature), InvalidSignature(settler, digest));
    }

    // Proof

    /// @inheritdoc IParalleliXSettlement
    function verifyReceipt(
        uint64 seq,
        ServiceReceipt calldata receipt,
        bytes calldata signature,
        bytes32[] calldata proof
    ) external view returns (bool) {
        bytes32 root = receiptsRoot[seq];
        if (root == 0) return false;
        bytes32 digest = receiptDigest(receipt);
        bytes32 leaf = keccak256(bytes.concat(digest));
        if (!MerkleProof.verifyCalldata(proof, root, leaf)) return false;

        (address key, ECDSA.RecoverError error,) = ECDSA.tryRecoverCalldata(digest, signature);
        if (error != ECDSA.RecoverError.NoError) return false;
        (uint32 operator,, uint40 until) = IOperatorRegistry(registry).operatorOfNode(key);
        return operator != 0 && operator == receipt.operator && (until == 0 || receipt.servedAt <= until);
    }

    /// @inheritdoc IParalleliXSettlement
    function receiptDigest(ServiceReceipt calldata receipt) public view returns (bytes32) {
        return _hashTypedDataV4(receipt.hash());
    }

    // Views

    /// @inheritdoc IParalleliXSettlement
    function lastSeq() external view returns (uint64) {
        return _lastSeq;
    }

    /// @inheritdoc IParalleliXSettlement
    function proposedSettler() external view returns (address proposed, uint40 readyAt) {
        return (_proposedSettler, _settlerReadyAt);
    }

    /// @inheritdoc IParalleliXSettlement
    function proposedFee() external view returns (uint16 proposed, uint40 readyAt) {
        return (_proposedFeeBps, _feeReadyAt);
    }

    /// @inheritdoc IParalleliXSettlement
    function settlerSuspension() external view returns (uint40 until, uint40 nextFrom) {
        return (_suspendedUntil, _suspendableFrom);
    }

    /// @inheritdoc IParalleliXSettlement
    function DOMAIN_SEPARATOR() external view returns (bytes32) {
        return _domainSeparatorV4();
    }
}
