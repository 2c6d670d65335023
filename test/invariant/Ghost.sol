// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @notice What the invariants need to know and the contracts do not keep. Written by the handlers.
contract Ghost {
    /// @dev A cheat code's time ends with the call that set it, so that handlers set it anew from here.
    uint256 public time;
    uint256 public deposited;
    uint256 public withdrawn;
    uint256 public claimed;
    uint256 public swept;
    uint256 public donatedWei;
    uint256 public conservationBreaks;
    uint256 public replayMoves;
    mapping(uint32 account => uint256) public signedCaps;
    mapping(uint32 account => uint256) public requested;
    mapping(bytes32 action => uint256) public calls;

    constructor(uint256 time_) {
        time = time_;
    }

    function pass(uint256 duration) external {
        time += duration;
    }

    function count(bytes32 action) external {
        ++calls[action];
    }

    function addDeposited(uint256 amount) external {
        deposited += amount;
    }

    function addWithdrawn(uint256 amount) external {
        withdrawn += amount;
    }

    function addClaimed(uint256 amount) external {
        claimed += amount;
    }

    function addSwept(uint256 amount) external {
        swept += amount;
    }

    function addDonatedWei(uint256 amountWei) external {
        donatedWei += amountWei;
    }

    function addSignedCap(uint32 account, uint256 cap) external {
        signedCaps[account] += cap;
    }

    function request(uint32 account, uint256 cumulative) external {
        if (cumulative > requested[account]) requested[account] = cumulative;
    }

    function breakConservation() external {
        ++conservationBreaks;
    }

    function moveOnReplay() external {
        ++replayMoves;
    }
}
