// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IParalleliXAICredits} from "../interfaces/IParalleliXAICredits.sol";
import {IParalleliXSettlement} from "../interfaces/IParalleliXSettlement.sol";
import {Proposal} from "../libraries/Proposal.sol";
import {Suspension} from "../libraries/Suspension.sol";
import {CreditsState} from "./CreditsState.sol";

/// @title CreditsWiring
/// @notice What owner, guardian and registry may change: never a balance, never the way out.
/// @dev Documentation: `IParalleliXAICredits`.
abstract contract CreditsWiring is CreditsState {
    /// @inheritdoc IParalleliXAICredits
    function initialize(address settlement_, address registry_, address guardian_) external onlyOwner {
        require(settlement == address(0), AlreadyInitialized(settlement, registry));
        require(registry_ != address(0) && guardian_ != address(0), InvalidAddress(address(0)));
        _requireOwnSettlement(settlement_);

        settlement = settlement_;
        registry = registry_;
        guardian = guardian_;

        emit Initialized(settlement_, registry_, guardian_);
    }

    /// @inheritdoc IParalleliXAICredits
    function setGuardian(address guardian_) external onlyOwner {
        require(guardian_ != address(0), InvalidAddress(guardian_));

        guardian = guardian_;

        emit GuardianChanged(guardian_);
    }

    /// @inheritdoc IParalleliXAICredits
    function proposeSettlement(address settlement_) external onlyOwner {
        bool withdrawn = settlement_ == address(0);
        if (!withdrawn) _requireOwnSettlement(settlement_);
        uint40 readyAt = withdrawn ? 0 : Proposal.readyAfter(2 * exitDelay);

        _proposedSettlement = settlement_;
        _settlementReadyAt = readyAt;

        emit SettlementProposed(settlement_, readyAt);
    }

    /// @inheritdoc IParalleliXAICredits
    function acceptSettlement() external onlyOwner {
        Proposal.requireReady(_settlementReadyAt);

        address settlement_ = _proposedSettlement;
        settlement = settlement_;
        delete _proposedSettlement;
        delete _settlementReadyAt;

        emit SettlementChanged(settlement_);
    }

    /// @inheritdoc IParalleliXAICredits
    function suspendDeposits(bool suspended) external onlyCaller(guardian) {
        Head storage head = _head;

        (uint40 until, uint40 nextFrom) =
            suspended ? Suspension.start(head.depositsSuspendableFrom) : Suspension.lift(head.depositsSuspendedUntil);
        head.depositsSuspendedUntil = until;
        head.depositsSuspendableFrom = nextFrom;

        if (suspended) emit DepositsSuspended(until);
        else emit DepositsResumed();
    }

    /// @inheritdoc IParalleliXAICredits
    function setOperatorPayout(uint32 operator, address payout) external onlyCaller(registry) {
        _requirePayable(payout);

        _operators[operator] = _operators[operator].withPayout(payout);

        emit OperatorPayoutSet(operator, payout);
    }

    function _requireOwnSettlement(address settlement_) private view {
        require(settlement_ != address(0), InvalidAddress(settlement_));
        address itsVault = IParalleliXSettlement(settlement_).vault();
        require(itsVault == address(this), ForeignSettlement(settlement_, itsVault));
    }
}
