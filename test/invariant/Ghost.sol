// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IParalleliXAICredits} from "../../contracts/interfaces/IParalleliXAICredits.sol";

/// @notice What the invariants need to know and the contracts do not keep: totals, what was signed and asked for, what was
/// seen last, and the first rule that broke. Written by the handlers alone.
contract Ghost {
    struct Seen {
        address owner;
        uint64 settled;
        uint32 authNonce;
        uint256 everDeposited;
    }

    struct Proposed {
        uint256 value;
        uint256 at;
    }

    /// @dev A cheat code's time ends with the call that set it, so that handlers set it anew from here.
    uint256 public time;
    /// @notice The first rule that broke, empty while none did.
    string public broken;

    mapping(bytes32 total => uint256) public totals;
    mapping(bytes32 action => uint256) public calls;
    // By account
    mapping(uint32 account => uint256) public signedCaps;
    mapping(uint32 account => uint256) public signatures;
    mapping(uint32 account => uint256) public requested;
    mapping(uint32 account => uint256) public withdrawnBy;
    mapping(uint32 account => uint256) public metered;
    mapping(uint32 account => uint256) public debitedAt;
    mapping(uint32 account => Seen) public seen;
    // By "what of which contract"
    mapping(bytes32 change => Proposed) public proposed;
    mapping(bytes32 value => uint256) public inForce;
    mapping(bytes32 suspension => uint256) public suspendableFrom;
    mapping(address settlement => uint256) public lastSeq;
    uint256 public accountCount;

    constructor(uint256 time_) {
        time = time_;
    }

    function pass(uint256 duration) external {
        time += duration;
    }

    function count(bytes32 action) external {
        ++calls[action];
    }

    function add(bytes32 total, uint256 amount) external {
        totals[total] += amount;
    }

    function check(bool holds, string calldata rule) external {
        if (!holds && bytes(broken).length == 0) broken = rule;
    }

    // Accounts

    function sign(uint32 account, uint256 cap) external {
        signedCaps[account] += cap;
        ++signatures[account];
    }

    function signRevocation(uint32 account) external {
        ++signatures[account];
    }

    function request(uint32 account, uint256 cumulative) external {
        if (cumulative > requested[account]) requested[account] = cumulative;
    }

    function withdraw(uint32 account, uint256 amount) external {
        withdrawnBy[account] += amount;
        totals["withdrawn"] += amount;
    }

    function meter(uint32 account, uint256 cumulative) external {
        metered[account] = cumulative;
    }

    function debit(uint32 account, uint256 at) external {
        debitedAt[account] = at;
    }

    /// @dev What is seen now becomes what was seen last. What nobody can debit any more is not metered any more either.
    function see(uint32 account, IParalleliXAICredits.AccountView calldata state) external {
        uint256 everDeposited = state.netDeposited + withdrawnBy[account];
        seen[account] = Seen(state.owner, state.settled, state.authNonce, everDeposited);
        bool live = time <= state.settleDeadline;
        if (!live || state.settled > metered[account]) metered[account] = state.settled;
    }

    function seeSeq(address settlement, uint256 seq) external {
        lastSeq[settlement] = seq;
    }

    function seeAccounts(uint256 number) external {
        accountCount = number;
    }

    // Governance

    function propose(bytes32 change, uint256 value) external {
        proposed[change] = Proposed(value, time);
    }

    function setInForce(bytes32 value, uint256 to) external {
        inForce[value] = to;
    }

    function rest(bytes32 suspension, uint256 from) external {
        suspendableFrom[suspension] = from;
    }
}
