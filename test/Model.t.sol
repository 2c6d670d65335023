// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IParalleliXAICredits} from "../contracts/interfaces/IParalleliXAICredits.sol";
import {Base} from "./Base.sol";
import {Bundler} from "./mocks/Wallets.sol";
import {ReferenceRows, Row} from "./utils/ReferenceRows.sol";
import {System} from "./utils/System.sol";
import {vm} from "./utils/Vm.sol";

/// @notice The contracts do what the Rust model (`test/model`) says, operation by operation, refusals included.
/// @dev `MODEL_STREAMS=FOLDER` and `MODEL_COUNT=N` replay more streams than the committed one.
contract ModelTest is Base {
    uint256 private constant PAYERS = 4;
    uint256 private constant OPERATORS = 3;
    uint256 private constant MODEL_FUNDS = 10_000_000;
    /// @dev 64-bit words of a record, and where the outcome stands in it (`test/model/src/stream.rs`).
    uint256 private constant RECORD_WORDS = 85;
    uint256 private constant ROWS_AT = 8;
    uint256 private constant OUTCOME_AT = 20;

    struct Operation {
        uint256 kind;
        uint256 a;
        uint256 b;
        uint256 c;
        uint256 d;
        uint256 e;
        Row[] rows;
    }

    /// @dev `place` counts the words of the state, in the order of `_state`.
    error StateDiffers(uint256 operation, uint256 kind, uint256 place, uint256 contracts, uint256 model);
    error OutcomeDiffers(uint256 operation, uint256 kind, bool contracts, bool model);

    address[4] private payers;
    uint256[4] private keys;
    address[3] private operators;
    address private treasury;
    Bundler private bundler;

    function _setUpWorld() private {
        vm.warp(START);
        address[] memory holders = new address[](PAYERS + OPERATORS);
        uint256[] memory amounts = new uint256[](PAYERS + OPERATORS);
        for (uint256 i = 0; i < PAYERS; ++i) {
            (payers[i], keys[i]) = makeActor(string.concat("payer ", vm.toString(i)));
            (holders[i], amounts[i]) = (payers[i], MODEL_FUNDS * WEI_PER_CREDIT);
        }
        for (uint256 i = 0; i < OPERATORS; ++i) {
            (operators[i],) = makeActor(string.concat("operator ", vm.toString(i)));
            (holders[PAYERS + i], amounts[PAYERS + i]) = (operators[i], MODEL_FUNDS * WEI_PER_CREDIT);
        }
        (treasury,) = makeActor("treasury");
        bundler = new Bundler();
        prlx = System.prlx(holders, amounts);
        _deploy(address(prlx));
        for (uint256 i = 0; i < holders.length; ++i) {
            vm.startPrank(holders[i]);
            prlx.approve(address(vault), type(uint256).max);
            prlx.approve(address(registry), type(uint256).max);
            if (i >= PAYERS) registry.register(holders[i], 0);
            vm.stopPrank();
        }
    }

    function test_ContractsFollowTheModel() public {
        _replay("test/vectors/model.bin");
        string memory folder = vm.envOr("MODEL_STREAMS", string(""));
        uint256 count = vm.envOr("MODEL_COUNT", uint256(0));
        for (uint256 i = 0; i < count; ++i) {
            _replay(string.concat(folder, "/", vm.toString(i), ".bin"));
        }
    }

    /// @dev Internal: a call of its own would make one transaction of the whole stream, and transient storage lasts for one.
    function _replay(string memory path) private {
        uint256 free;
        assembly ("memory-safe") {
            free := mload(64)
        }
        uint256 snapshot = vm.snapshotState();
        _setUpWorld();
        bytes memory stream = vm.readFileBinary(path);
        uint256 count = stream.length / (RECORD_WORDS * 8);
        assertTrue(count > 0 && count * RECORD_WORDS * 8 == stream.length, "whole records");
        for (uint256 i = 0; i < count; ++i) {
            uint256 at = i * RECORD_WORDS;
            Operation memory operation = _read(stream, at);
            _skip(_word(stream, at + 1));
            bool done = _do(operation);
            bool expected = _word(stream, at + OUTCOME_AT) == 1;
            require(done == expected, OutcomeDiffers(i, operation.kind, done, expected));
            uint256[64] memory state = _state();
            for (uint256 place = 0; place < 64; ++place) {
                uint256 word = _word(stream, at + OUTCOME_AT + 1 + place);
                require(state[place] == word, StateDiffers(i, operation.kind, place, state[place], word));
            }
        }
        // Nothing of this stream is needed any more, and a hundred of them would not fit into memory.
        assertTrue(vm.revertToState(snapshot), "as before the stream");
        assembly {
            mstore(64, free)
        }
    }

    function _word(bytes memory stream, uint256 index) private pure returns (uint256 word) {
        assembly ("memory-safe") {
            word := shr(192, mload(add(add(stream, 32), mul(index, 8))))
        }
    }

    function _read(bytes memory stream, uint256 at) private pure returns (Operation memory operation) {
        operation.kind = _word(stream, at);
        operation.a = _word(stream, at + 2);
        operation.b = _word(stream, at + 3);
        operation.c = _word(stream, at + 4);
        operation.d = _word(stream, at + 5);
        operation.e = _word(stream, at + 6);
        operation.rows = new Row[](_word(stream, at + 7));
        for (uint256 i = 0; i < operation.rows.length; ++i) {
            uint256 row = at + ROWS_AT + 3 * i;
            operation.rows[i] = Row({
                account: uint32(_word(stream, row)),
                operator: uint32(_word(stream, row + 1)),
                cumulative: uint64(_word(stream, row + 2))
            });
        }
    }

    function _try(address sender, address target, bytes memory call) private returns (bool done) {
        vm.prank(sender);
        (done,) = target.call(call);
    }

    function _do(Operation memory o) private returns (bool) {
        address v = address(vault);
        if (o.kind == 0) return _try(payers[o.a], v, abi.encodeCall(vault.depositFor, (payers[o.b], uint64(o.c))));
        if (o.kind == 1) return _authorizeAs(o);
        if (o.kind == 2) return _revokeAs(o);
        if (o.kind == 3) return _closeAs(o);
        if (o.kind == 4) return _try(payers[o.a], v, abi.encodeCall(vault.withdraw, (uint64(o.b), payers[o.a])));
        if (o.kind == 5) return _settleAs(o);
        if (o.kind == 6) return _try(relayer, v, abi.encodeCall(vault.claim, (uint32(o.a + 1))));
        if (o.kind == 7) return _try(relayer, v, abi.encodeCall(vault.claimMany, (_operatorIds())));
        if (o.kind == 8) return _try(owner, v, abi.encodeCall(vault.sweepFees, (treasury)));
        if (o.kind == 14) return _try(guardian, v, abi.encodeCall(vault.suspendDeposits, (o.a == 1)));

        address r = address(registry);
        if (o.kind == 9) return _try(owner, r, abi.encodeCall(registry.sweepSlashed, (treasury)));
        if (o.kind == 10) return _try(operators[o.a], r, abi.encodeCall(registry.stake, (uint64(o.b))));
        if (o.kind == 11) return _try(operators[o.a], r, abi.encodeCall(registry.unstake, (uint64(o.b))));
        if (o.kind == 12) return _try(operators[o.a], r, abi.encodeCall(registry.withdrawStake, ()));
        bytes memory slash = abi.encodeCall(registry.slash, (uint32(o.a + 1), uint64(o.b), bytes32(o.c)));
        if (o.kind == 13) return _try(disputer, r, slash);

        address s = address(settlement);
        if (o.kind == 15) return _try(guardian, s, abi.encodeCall(settlement.suspendSettler, (o.a == 1)));
        if (o.kind == 16) return _try(owner, s, abi.encodeCall(settlement.proposeFee, (uint16(o.a))));
        assertEq(o.kind, 17, "kind of operation");
        return _try(owner, s, abi.encodeCall(settlement.acceptFee, ()));
    }

    function _authorizeAs(Operation memory o) private returns (bool) {
        IParalleliXAICredits.SpendAuthorization memory authorization = IParalleliXAICredits.SpendAuthorization({
            owner: payers[o.a],
            cap: uint64(o.b),
            exposure: uint48(o.c),
            validUntil: uint40(o.d),
            challenge: keccak256("model"),
            nonce: uint32(o.e),
            signDeadline: _now()
        });
        bytes memory signature = _signAuthorization(keys[o.a], authorization);
        return _try(relayer, address(vault), abi.encodeCall(vault.authorize, (authorization, signature)));
    }

    function _revokeAs(Operation memory o) private returns (bool) {
        address payer = payers[o.a];
        if (o.b == 0) return _try(payer, address(vault), abi.encodeCall(vault.revoke, ()));
        uint32 nonce = _view(vault.accountOf(payer)).authNonce;
        IParalleliXAICredits.Revocation memory revocation =
            IParalleliXAICredits.Revocation({owner: payer, nonce: nonce, signDeadline: _now()});
        bytes memory signature = _signRevocation(keys[o.a], revocation);
        return _try(relayer, address(vault), abi.encodeCall(vault.revokeBySig, (revocation, signature)));
    }

    function _closeAs(Operation memory o) private returns (bool) {
        IParalleliXAICredits.ClosureClearance memory clearance = IParalleliXAICredits.ClosureClearance({
            account: vault.accountOf(payers[o.a]), settled: uint64(o.b), authNonce: uint32(o.c), deadline: _now()
        });
        bytes memory signature = _signClearance(settlerKey, clearance);
        return _try(payers[o.a], address(vault), abi.encodeCall(vault.closeWithClearance, (clearance, signature)));
    }

    /// @dev The first `a` rows are one batch, the others a second one of the same transaction.
    function _settleAs(Operation memory o) private returns (bool) {
        uint256 batches = o.a < o.rows.length ? 2 : 1;
        bytes[] memory calls = new bytes[](batches);
        uint256 start = 0;
        for (uint256 i = 0; i < batches; ++i) {
            uint256 end = i == 0 ? o.a : o.rows.length;
            Row[] memory part = new Row[](end - start);
            for (uint256 j = start; j < end; ++j) {
                part[j - start] = o.rows[j];
            }
            start = end;
            bytes memory rows = ReferenceRows.encode(part);
            uint64 seq = settlement.lastSeq() + 1 + uint64(i);
            bytes memory signature = _signBatch(settlerKey, seq, "root", rows, _now());
            calls[i] = abi.encodeCall(settlement.settle, (seq, "root", rows, _now(), signature));
        }
        return _try(relayer, address(bundler), abi.encodeCall(bundler.callAll, (address(settlement), calls)));
    }

    function _operatorIds() private pure returns (uint32[] memory ids) {
        ids = new uint32[](OPERATORS);
        for (uint32 i = 0; i < OPERATORS; ++i) {
            ids[i] = i + 1;
        }
    }

    /// @dev The words of the model's `state`, in its order.
    function _state() private view returns (uint256[64] memory words) {
        uint256 at = 0;
        uint32[] memory ids = new uint32[](PAYERS);
        for (uint256 i = 0; i < PAYERS; ++i) {
            ids[i] = vault.accountOf(payers[i]);
        }
        IParalleliXAICredits.AccountView[] memory accounts = vault.accounts(ids);
        for (uint256 i = 0; i < PAYERS; ++i) {
            IParalleliXAICredits.AccountView memory account = accounts[i];
            words[at++] = ids[i];
            words[at++] = account.settled;
            words[at++] = account.limit;
            words[at++] = account.exposure;
            words[at++] = account.lastSettledAt;
            words[at++] = account.settleDeadline;
            words[at++] = account.netDeposited;
            words[at++] = account.authorizedCum;
            words[at++] = account.authNonce;
            words[at++] = prlx.balanceOf(payers[i]) / WEI_PER_CREDIT;
        }
        for (uint32 i = 0; i < OPERATORS; ++i) {
            (uint64 staked, uint64 unbonding, uint40 releaseAt) = registry.stakeOf(i + 1);
            words[at++] = _claimable(i + 1);
            words[at++] = staked;
            words[at++] = unbonding;
            words[at++] = releaseAt;
            words[at++] = prlx.balanceOf(operators[i]) / WEI_PER_CREDIT;
        }
        words[at++] = vault.accountCount();
        words[at++] = vault.fees();
        words[at++] = settlement.feeBps();
        words[at++] = settlement.lastSeq();
        words[at++] = registry.slashedCredits();
        words[at++] = prlx.balanceOf(treasury) / WEI_PER_CREDIT;
        words[at++] = vault.liabilities();
        (words[at++],) = vault.depositSuspension();
        (words[at++],) = settlement.settlerSuspension();
        assertEq(at, 64, "words of the state");
        assertEq(prlx.balanceOf(address(vault)), vault.liabilities() * WEI_PER_CREDIT, "I1 in the replay");
    }
}
