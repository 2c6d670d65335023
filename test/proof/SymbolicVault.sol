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

    /// @dev Any state of account `id` that satisfies I2 and I3.
    function _anyState(uint256 id, address owner) internal returns (State memory state) {
        state.owner = owner;
        state.settled = svm.createUint(64, "settled");
        state.netDeposited = svm.createUint(64, "netDeposited");
        state.authorizedCum = svm.createUint(64, "authorizedCum");
        state.exposure = svm.createUint(48, "exposure");
        state.lastSettledAt = svm.createUint(40, "lastSettledAt");
        state.settleDeadline = svm.createUint(40, "settleDeadline");
        state.authNonce = svm.createUint(31, "authNonce");
        vm.assume(state.netDeposited <= MAX_CREDITS && state.authorizedCum <= MAX_CREDITS);
        state.limit = state.netDeposited < state.authorizedCum ? state.netDeposited : state.authorizedCum;
        vm.assume(state.settled <= state.limit);
        vm.assume(state.lastSettledAt <= block.timestamp);

        uint256 hot = state.settled | state.limit << 64 | state.exposure << 128 | state.lastSettledAt << 176
            | state.settleDeadline << 216;
        uint256 surplus = uint64(int64(uint64(state.netDeposited)) - int64(uint64(state.authorizedCum)));
        uint256 cold = uint256(uint160(owner)) | state.authNonce << 160 | surplus << 192;
        vm.store(address(vault), bytes32(ACCOUNTS_SLOT + 2 * id), bytes32(hot));
        vm.store(address(vault), bytes32(ACCOUNTS_SLOT + 2 * id + 1), bytes32(cold));
    }

    function _state(uint32 id) internal view returns (State memory) {
        uint32[] memory ids = new uint32[](1);
        ids[0] = id;
        IParalleliXAICredits.AccountView memory account = vault.accounts(ids)[0];
        return State({
            settled: account.settled,
            limit: account.limit,
            exposure: account.exposure,
            lastSettledAt: account.lastSettledAt,
            settleDeadline: account.settleDeadline,
            netDeposited: account.netDeposited,
            authorizedCum: account.authorizedCum,
            authNonce: account.authNonce,
            owner: account.owner
        });
    }

    function _claimable(uint32 id) internal view returns (uint256) {
        uint32[] memory ids = new uint32[](1);
        ids[0] = id;
        return vault.operators(ids)[0].claimable;
    }

    /// @dev I2 and I3.
    function _assertRules(State memory state) internal pure {
        assert(state.settled <= state.authorizedCum);
        assert(state.settled <= state.netDeposited);
        assert(state.limit == (state.netDeposited < state.authorizedCum ? state.netDeposited : state.authorizedCum));
        assert(state.netDeposited <= MAX_CREDITS && state.authorizedCum <= MAX_CREDITS);
    }
}
