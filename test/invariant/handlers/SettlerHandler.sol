// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IParalleliXAICredits} from "../../../contracts/interfaces/IParalleliXAICredits.sol";
import {Bundler} from "../../mocks/Wallets.sol";
import {ReferenceRows, Row} from "../../utils/ReferenceRows.sol";
import {vm} from "../../utils/Vm.sol";
import {Handler, World} from "./Handler.sol";

/// @notice A hostile settler: it signs any rows, in any order, several batches a transaction, and the same again.
contract SettlerHandler is Handler {
    struct Totals {
        uint256 settled;
        uint256 claimable;
        uint256 fees;
    }

    Bundler private immutable bundler = new Bundler();
    Row[] private lastRows;

    constructor(World memory world) Handler(world) {}

    /// @dev One to eight rows of any accounts (an unknown one too) and operators, in any order, stale or far above.
    function settle(uint256 seed) external action("settle") {
        _settleChecked(_randomRows(seed, 1 + seed % 8), 1);
    }

    /// @dev Two batches in one transaction, with the same accounts.
    function bundle(uint256 seed) external action("bundle") {
        _settleChecked(_randomRows(seed, 2 + 2 * (seed % 4)), 2);
    }

    /// @dev Each payer's metered usage, as an honest keeper would settle it.
    function settleMetered(uint256 operator) external action("settleMetered") {
        Row[] memory rows = new Row[](PAYERS);
        for (uint32 id = 1; id <= PAYERS; ++id) {
            rows[id - 1] = Row(uint32(1 + operator % OPERATORS), id, uint64(ghost.metered(id)));
        }
        _settleChecked(rows, 1);
    }

    /// @dev The last rows again, whole and then one by one, at once once more. What was short may move the first time.
    function replay(bool split) external action("replay") {
        if (lastRows.length == 0) return;
        Row[] memory rows = lastRows;
        _settleChecked(rows, 1);
        if (!split) {
            _check(_settleChecked(rows, 1) == 0, "I5: a batch that comes again at once moves nothing");
            return;
        }
        for (uint256 i = rows.length; i > 0; --i) {
            Row[] memory one = new Row[](1);
            one[0] = rows[i - 1];
            _check(_settleChecked(one, 1) == 0, "I5: split and reversed it moves nothing either");
        }
        _remember(rows);
    }

    /// @dev Somebody else's signature over a good batch.
    function forge(uint256 seed) external action("forge") {
        bytes memory rows = ReferenceRows.encode(_randomRows(seed, 1));
        uint64 seq = settlement.lastSeq() + 1;
        (, uint256 key) = makeActor("stranger");
        bytes memory signature = _signBatch(key, seq, "root", rows, _now());
        try settlement.settle(seq, "root", rows, _now(), signature) {
            _check(false, "I11: only the settler's batches count");
        } catch {}
    }

    function _randomRows(uint256 seed, uint256 length) private view returns (Row[] memory rows) {
        rows = new Row[](length);
        for (uint256 i = 0; i < length; ++i) {
            uint256 word = uint256(keccak256(abi.encode(seed, i)));
            uint32 account = uint32(1 + word % (PAYERS + 1));
            uint64 cumulative = _view(account).settled + uint64((word >> 64) % 3_000);
            if (word >> 255 == 1 && cumulative > 100) cumulative -= 100;
            if ((word >> 128) % 16 == 0) cumulative = type(uint64).max;
            rows[i] = Row(uint32(1 + (word >> 32) % OPERATORS), account, cumulative);
        }
    }

    function _remember(Row[] memory rows) private {
        delete lastRows;
        for (uint256 i = 0; i < rows.length; ++i) {
            lastRows.push(rows[i]);
            ghost.request(rows[i].account, rows[i].cumulative);
        }
    }

    /// @dev Settles `rows` in `batches` parts of one transaction, and checks I4, I5, I9, I10 and I12 for it.
    function _settleChecked(Row[] memory rows, uint256 batches) private returns (uint256 moved) {
        _remember(rows);
        IParalleliXAICredits.AccountView[] memory accounts = _allAccounts();
        IParalleliXAICredits.OperatorView[] memory operators = vault.operators(_range(OPERATORS));
        Totals memory before = _totals();

        bool done = _send(rows, batches);
        (uint40 suspendedUntil,) = settlement.settlerSuspension();
        _check(done == (_now() >= suspendedUntil), "I10: no row stops a batch, a suspension does");
        Totals memory got = _totals();
        moved = got.settled - before.settled;
        uint256 credited = got.claimable - before.claimable;
        uint256 fee = got.fees - before.fees;
        _check(moved == credited + fee, "I4: debited = credited + fee");
        uint256 exactFee = moved * settlement.feeBps();
        _check(fee * 10_000 <= exactFee, "I12: the fee is rounded down");
        _check(exactFee < (fee + rows.length) * 10_000, "I12: by less than a credit a group");
        for (uint32 id = 1; id <= PAYERS; ++id) {
            _checkAccount(id, accounts[id - 1], rows);
        }
        for (uint32 id = 1; id <= OPERATORS; ++id) {
            _checkOperator(id, operators[id - 1], rows);
        }
    }

    function _send(Row[] memory rows, uint256 batches) private returns (bool done) {
        bytes[] memory calls = new bytes[](batches);
        for (uint256 i = 0; i < batches; ++i) {
            Row[] memory part = new Row[](rows.length / batches);
            for (uint256 j = 0; j < part.length; ++j) {
                part[j] = rows[i * part.length + j];
            }
            bytes memory encoded = ReferenceRows.encode(part);
            uint64 seq = settlement.lastSeq() + 1 + uint64(i);
            bytes32 root = keccak256(abi.encode("root", seq));
            bytes memory signature = _signBatch(settlerKey, seq, root, encoded, _now());
            calls[i] = abi.encodeCall(settlement.settle, (seq, root, encoded, _now(), signature));
        }
        vm.prank(relayer);
        try bundler.callAll(address(settlement), calls) {
            done = true;
        } catch {}
    }

    /// @dev I9: what one transaction debits is at most one exposure, and the next one that debits anything waits a window.
    function _checkAccount(uint32 id, IParalleliXAICredits.AccountView memory before, Row[] memory rows) private {
        IParalleliXAICredits.AccountView memory got = _view(id);
        bool named = false;
        for (uint256 i = 0; i < rows.length; ++i) {
            named = named || rows[i].account == id;
        }
        bool same = keccak256(abi.encode(got)) == keccak256(abi.encode(before));
        _check(named || same, "I10: a row of one account changes no other");
        if (got.settled == before.settled) return;

        _check(got.settled - before.settled <= before.exposure, "I9: one exposure a transaction");
        _check(
            ghost.debitedAt(id) == 0 || _now() >= ghost.debitedAt(id) + VELOCITY_WINDOW, "I9: one transaction a window"
        );
        _check(_now() <= before.settleDeadline, "I7: no debit after the deadline");
        ghost.debit(id, _now());
    }

    function _checkOperator(uint32 id, IParalleliXAICredits.OperatorView memory before, Row[] memory rows) private {
        IParalleliXAICredits.OperatorView memory got = vault.operators(_ids(id))[0];
        bool named = false;
        for (uint256 i = 0; i < rows.length; ++i) {
            named = named || rows[i].operator == id;
        }
        _check(named || got.claimable == before.claimable, "I10: a group of one operator credits no other");
        _check(got.payout == before.payout, "I11: a batch moves no payout address");
    }

    function _totals() private view returns (Totals memory totals) {
        for (uint32 account = 1; account <= PAYERS; ++account) {
            totals.settled += _view(account).settled;
        }
        for (uint32 operator = 1; operator <= OPERATORS; ++operator) {
            totals.claimable += _claimable(operator);
        }
        totals.fees = vault.fees();
    }
}
