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
        uint256 withdrawn;
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
    mapping(uint32 account => uint256) public metered;
    mapping(uint32 account => uint256) public debitedAt;
    mapping(uint32 account => Seen) private seen;
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

    function breakRule(string calldata rule) external {
        if (bytes(broken).length == 0) broken = rule;
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
        seen[account].withdrawn += amount;
        totals["withdrawn"] += amount;
    }

    function meter(uint32 account, uint256 cumulative) external {
        metered[account] = cumulative;
    }

    function debit(uint32 account, uint256 at) external {
        debitedAt[account] = at;
    }

    function allSeen(uint32 number) external view returns (Seen[] memory all) {
        all = new Seen[](number);
        for (uint32 i = 0; i < number; ++i) {
            all[i] = seen[i + 1];
        }
    }

    /// @dev What is seen now becomes what was seen last. What nobody can debit any more is not metered any more either.
    function see(
        IParalleliXAICredits.AccountView[] calldata states,
        uint256 accountCount_,
        address[2] calldata settlements,
        uint64[2] calldata seqs
    ) external {
        for (uint32 id = 1; id <= states.length; ++id) {
            IParalleliXAICredits.AccountView calldata state = states[id - 1];
            uint256 withdrawn = seen[id].withdrawn;
            seen[id] =
                Seen(state.owner, state.settled, state.authNonce, uint256(state.netDeposited) + withdrawn, withdrawn);
            bool live = time <= state.settleDeadline;
            if (!live || state.settled > metered[id]) metered[id] = state.settled;
        }
        accountCount = accountCount_;
        (lastSeq[settlements[0]], lastSeq[settlements[1]]) = (seqs[0], seqs[1]);
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
