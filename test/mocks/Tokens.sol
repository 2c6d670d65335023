// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

/// @notice A token with a switch for each way in which tokens misbehave.
contract HostileToken is ERC20 {
    enum Mode {
        Honest,
        TakesFee,
        TakesExtra,
        MovesNothing,
        ReturnsFalse,
        ReturnsNothing,
        Reenters
    }

    Mode public mode;
    mapping(address => bool) public refused;
    address public target;
    bytes public payload;
    bool public reentryFailed;
    bool public reentryPassed;

    constructor(address holder, uint256 amountWei) ERC20("Hostile", "HOST") {
        _mint(holder, amountWei);
    }

    function setMode(Mode mode_) external {
        mode = mode_;
    }

    function refuse(address payee, bool refused_) external {
        refused[payee] = refused_;
    }

    function setReentry(address target_, bytes calldata payload_) external {
        (mode, target, payload) = (Mode.Reenters, target_, payload_);
    }

    function transfer(address to, uint256 value) public override returns (bool) {
        require(!refused[to], "refused");
        if (mode == Mode.MovesNothing) return true;
        return _answer(_misbehave(msg.sender) && super.transfer(to, value));
    }

    function transferFrom(address from, address to, uint256 value) public override returns (bool) {
        if (mode == Mode.MovesNothing) return true;
        return _answer(_misbehave(from) && super.transferFrom(from, to, value));
    }

    /// @dev Ends the call without any return data, as some old tokens do.
    function _answer(bool done) private view returns (bool) {
        if (mode == Mode.ReturnsNothing) {
            assembly ("memory-safe") {
                return(0, 0)
            }
        }
        return done;
    }

    function _misbehave(address from) private returns (bool) {
        if (mode == Mode.ReturnsFalse) return false;
        if (mode == Mode.TakesExtra) _burn(from, 1);
        // Only the contract that is calling is reentered: to any other this would be an ordinary call.
        if (mode == Mode.Reenters && msg.sender == target) {
            (bool done,) = target.call(payload);
            if (done) reentryPassed = true;
            else reentryFailed = true;
        }
        return true;
    }

    function _update(address from, address to, uint256 value) internal override {
        super._update(from, to, value);
        if (mode == Mode.TakesFee && from != address(0) && to != address(0)) {
            super._update(to, address(0), value / 100);
        }
    }
}

/// @notice Has a fallback that accepts everything, so that `permit` seems to work; otherwise an ordinary token.
contract PhantomPermitToken is ERC20 {
    constructor(address holder, uint256 amountWei) ERC20("Phantom", "PHAN") {
        _mint(holder, amountWei);
    }

    fallback() external {}
}
