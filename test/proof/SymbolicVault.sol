// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";

import {IParalleliXAICredits} from "../../contracts/interfaces/IParalleliXAICredits.sol";
import {Prlx, System, Vault} from "../utils/System.sol";
import {Test} from "../utils/Test.sol";
import {vm} from "../utils/Vm.sol";

/// @notice What the solver leaves open: any value of the type, one for each call.
interface Symbolic {
    function createUint(uint256 bits, string calldata name) external returns (uint256);
    function createBytes(uint256 size, string calldata name) external returns (bytes memory);
    function createAddress(string calldata name) external returns (address);
}

Symbolic constant svm = Symbolic(address(uint160(uint256(keccak256("svm cheat code")))));

/// @notice The deployed vault in **any** state that the rules allow: a proof about one call from there is one step of an
/// induction, and so holds after any number of calls.
/// @dev The layout is that of `forge inspect ParalleliXAICredits storageLayout`; `test_TheLayoutIsTheOneAssumed` in
/// `test/unit/Layout.t.sol` fails when it is another one.
abstract contract SymbolicVault is Test {
    uint256 internal constant FEES_SLOT = 4;
    uint256 internal constant HEAD_SLOT = 5;
    uint256 internal constant ACCOUNTS_SLOT = 6;
    uint256 internal constant OPERATORS_SLOT = 6 + 2 * 2 ** 32;
    uint256 internal constant MAX_CREDITS = uint64(type(int64).max);
    uint40 internal constant EXIT_DELAY = 1 hours;
    uint40 internal constant VELOCITY_WINDOW = 60;
    uint256 internal constant SUPPLY_WEI = uint256(type(uint64).max) * 1e9;

    struct State {
        uint256 settled;
        uint256 limit;
        uint256 exposure;
        uint256 lastSettledAt;
        uint256 settleDeadline;
        uint256 netDeposited;
        uint256 authorizedCum;
        uint256 authNonce;
        address owner;
    }

    Prlx internal prlx;
    Vault internal vault;
    address internal constant SETTLEMENT = address(0x5e771e);
    address internal constant ALICE = address(0xa11ce);
    address internal constant BOB = address(0xb0b);

    function setUp() public {
        vm.warp(1_800_000_000);
        address[] memory holders = new address[](2);
        uint256[] memory amounts = new uint256[](2);
        (holders[0], amounts[0]) = (ALICE, SUPPLY_WEI);
        (holders[1], amounts[1]) = (address(this), SUPPLY_WEI);
        prlx = System.prlx(holders, amounts);
        vault = System.vault(address(prlx), address(0xaced), EXIT_DELAY, VELOCITY_WINDOW);
        prlx.transfer(address(vault), SUPPLY_WEI);
        vm.prank(ALICE);
        prlx.approve(address(vault), type(uint256).max);
        vm.store(address(vault), bytes32(FEES_SLOT), bytes32(uint256(uint160(SETTLEMENT))));
        // Credits owed: as many as the vault holds, at most.
        vm.store(address(vault), bytes32(HEAD_SLOT), bytes32(MAX_CREDITS | uint256(2) << 64));
        _storeOwner(1, ALICE);
        _storeOwner(2, BOB);
        for (uint256 operator = 1; operator <= 2; ++operator) {
            vm.store(address(vault), bytes32(OPERATORS_SLOT + operator), bytes32((0xf00d + operator) << 64));
        }
    }

    function _storeOwner(uint256 id, address owner) private {
        bytes32 slot = keccak256(abi.encode(owner, OPERATORS_SLOT + 2 ** 32));
        vm.store(address(vault), slot, bytes32(id));
    }

    /// @dev Any state of account `id` that satisfies I2 and I3: `settled <= limit`, neither total beyond the ledger's end.
    function _anyState(uint256 id, address owner) internal returns (State memory state) {
        uint256 hot = svm.createUint(256, "hot slot");
        uint256 surplus = svm.createUint(64, "surplus");
        uint256 nonce = svm.createUint(31, "authNonce");
        vm.store(address(vault), bytes32(ACCOUNTS_SLOT + 2 * id), bytes32(hot));
        uint256 cold = uint256(uint160(owner)) | nonce << 160 | surplus << 192;
        vm.store(address(vault), bytes32(ACCOUNTS_SLOT + 2 * id + 1), bytes32(cold));
        state = _state(id);
        vm.assume(surplus != 1 << 63);
        vm.assume(state.netDeposited <= MAX_CREDITS);
        vm.assume(state.authorizedCum <= MAX_CREDITS);
        vm.assume(state.settled <= state.limit);
        vm.assume(state.lastSettledAt <= block.timestamp);
    }

    /// @dev Read from the slots, and without a branch: each would double what the solver has to look at.
    function _state(uint256 id) internal view returns (State memory state) {
        uint256 hot = uint256(vm.load(address(vault), bytes32(ACCOUNTS_SLOT + 2 * id)));
        uint256 cold = uint256(vm.load(address(vault), bytes32(ACCOUNTS_SLOT + 2 * id + 1)));
        state.settled = uint64(hot);
        state.limit = uint64(hot >> 64);
        state.exposure = uint48(hot >> 128);
        state.lastSettledAt = uint40(hot >> 176);
        state.settleDeadline = hot >> 216;
        state.owner = address(uint160(cold));
        state.authNonce = uint32(cold >> 160);
        unchecked {
            uint256 surplus = cold >> 192;
            uint256 negative = surplus >> 63;
            uint256 size = uint64((surplus ^ (0 - negative)) + negative);
            state.netDeposited = state.limit + (size & (negative - 1));
            state.authorizedCum = state.limit + (size & (0 - negative));
        }
    }

    function _claimable(uint256 id) internal view returns (uint256) {
        return uint64(uint256(vm.load(address(vault), bytes32(OPERATORS_SLOT + id))));
    }

    function _fees() internal view returns (uint256) {
        return uint64(uint256(vm.load(address(vault), bytes32(FEES_SLOT))) >> 160);
    }

    // `&&` and `||` branch; these do not

    function _and(bool left, bool right) internal pure returns (bool both) {
        assembly ("memory-safe") {
            both := and(left, right)
        }
    }

    function _or(bool left, bool right) internal pure returns (bool either) {
        assembly ("memory-safe") {
            either := or(left, right)
        }
    }

    /// @dev `condition` implies `consequence`.
    function _if(bool condition, bool consequence) internal pure returns (bool) {
        return _or(!condition, consequence);
    }

    function _min(uint256 left, uint256 right) internal pure returns (uint256) {
        unchecked {
            uint256 less;
            assembly ("memory-safe") {
                less := lt(left, right)
            }
            return right ^ ((left ^ right) & (0 - less));
        }
    }

    /// @dev The lock as `docs/protocol.md` defines it.
    function _locked(State memory state) internal view returns (uint256) {
        uint256 live;
        uint256 deadline = state.settleDeadline;
        assembly ("memory-safe") {
            live := iszero(gt(timestamp(), deadline))
        }
        unchecked {
            return _min(state.exposure, state.limit - state.settled) & (0 - live);
        }
    }

    /// @dev I2 and I3. That `limit` is the lower of both totals is in how `_state` reads them.
    function _rules(State memory state) internal pure returns (bool ok) {
        ok = _and(state.settled <= state.authorizedCum, state.settled <= state.netDeposited);
        ok = _and(ok, state.netDeposited <= MAX_CREDITS);
        ok = _and(ok, state.authorizedCum <= MAX_CREDITS);
    }
}
