// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IParalleliXAICredits} from "../../contracts/interfaces/IParalleliXAICredits.sol";
import {Base} from "../Base.sol";
import {System} from "../utils/System.sol";
import {Ghost} from "./Ghost.sol";
import {World} from "./handlers/Handler.sol";
import {KeeperHandler} from "./handlers/KeeperHandler.sol";
import {PayerHandler} from "./handlers/PayerHandler.sol";

/// @notice The formulas of `README.md` in this folder, after every call of a random sequence.
contract InvariantsTest is Base {
    struct FuzzSelector {
        address addr;
        bytes4[] selectors;
    }

    uint32 private constant PAYERS = 3;
    uint32 private constant OPERATORS = 3;

    Ghost private ghost;
    PayerHandler private payers;
    KeeperHandler private keeper;

    function setUp() public override {
        super.setUp();
        address[] memory holders = new address[](PAYERS);
        uint256[] memory amounts = new uint256[](PAYERS);
        uint256[] memory keys = new uint256[](PAYERS);
        string[3] memory names = ["payer 0", "payer 1", "payer 2"];
        for (uint256 i = 0; i < PAYERS; ++i) {
            (holders[i], keys[i]) = makeActor(names[i]);
            amounts[i] = FUNDS * WEI_PER_CREDIT;
        }
        prlx = System.prlx(holders, amounts);
        _deploy(address(prlx));
        _register(holders[0]);
        _register(opal);
        _register(otto);

        ghost = new Ghost(START);
        for (uint256 i = 0; i < PAYERS; ++i) {
            uint32 account = _fund(holders[i], keys[i], 5_000, 5_000, 500);
            ghost.addDeposited(5_000);
            ghost.addSignedCap(account, 5_000);
        }
        World memory world = World(prlx, vault, settlement, registry, ghost);
        payers = new PayerHandler(world);
        keeper = new KeeperHandler(world);
    }

    function targetContracts() public view returns (address[] memory) {
        return _pair(address(payers), address(keeper));
    }

    function targetSelectors() public view returns (FuzzSelector[] memory targets) {
        targets = new FuzzSelector[](2);
        targets[0] = FuzzSelector(address(payers), new bytes4[](7));
        targets[0].selectors[0] = payers.depositFor.selector;
        targets[0].selectors[1] = payers.authorize.selector;
        targets[0].selectors[2] = payers.revoke.selector;
        targets[0].selectors[3] = payers.close.selector;
        targets[0].selectors[4] = payers.withdraw.selector;
        targets[0].selectors[5] = payers.donate.selector;
        targets[0].selectors[6] = payers.pass.selector;
        targets[1] = FuzzSelector(address(keeper), new bytes4[](5));
        targets[1].selectors[0] = keeper.settle.selector;
        targets[1].selectors[1] = keeper.replay.selector;
        targets[1].selectors[2] = keeper.claim.selector;
        targets[1].selectors[3] = keeper.claimMany.selector;
        targets[1].selectors[4] = keeper.sweepFees.selector;
    }

    function _sums() private view returns (uint256 balances, uint256 settled, uint256 claimable) {
        for (uint32 account = 1; account <= vault.accountCount(); ++account) {
            balances += vault.balance(account);
            settled += _view(account).settled;
        }
        for (uint32 operator = 1; operator <= OPERATORS; ++operator) {
            claimable += _claimable(operator);
        }
    }

    function invariant_I1_Solvency() public view {
        (uint256 balances,, uint256 claimable) = _sums();
        uint256 owed = balances + claimable + vault.fees();
        assertEq(vault.liabilities(), owed, "liabilities = balances + claimable + fees");
        assertEq(
            prlx.balanceOf(address(vault)),
            owed * WEI_PER_CREDIT + ghost.donatedWei(),
            "PRLX = 1e9 * (balances + claimable + fees) + donations"
        );
        assertEq(
            owed,
            ghost.deposited() - ghost.withdrawn() - ghost.claimed() - ghost.swept(),
            "owed = deposited - withdrawn - claimed - swept"
        );
    }

    function invariant_I2_Consent() public view {
        for (uint32 id = 1; id <= vault.accountCount(); ++id) {
            IParalleliXAICredits.AccountView memory account = _view(id);
            assertLe(account.settled, account.authorizedCum, "settled <= authorizedCum");
            assertLe(account.settled, ghost.signedCaps(id), "settled <= sum of the caps signed");
        }
    }

    function invariant_I3_Funds() public view {
        for (uint32 id = 1; id <= vault.accountCount(); ++id) {
            IParalleliXAICredits.AccountView memory account = _view(id);
            uint64 lower = account.netDeposited < account.authorizedCum ? account.netDeposited : account.authorizedCum;
            assertEq(account.limit, lower, "limit = min(netDeposited, authorizedCum)");
            assertLe(account.settled, account.limit, "settled <= limit");
        }
    }

    function invariant_I4_Conservation() public view {
        (, uint256 settled, uint256 claimable) = _sums();
        assertEq(ghost.conservationBreaks(), 0, "in each batch: debited = credited + fee");
        assertEq(
            settled,
            claimable + ghost.claimed() + vault.fees() + ghost.swept(),
            "settled = claimable + claimed + fees + swept"
        );
    }

    function invariant_I5_Idempotence() public view {
        assertEq(ghost.replayMoves(), 0, "a batch that comes again at once moves nothing");
        for (uint32 id = 1; id <= vault.accountCount(); ++id) {
            assertLe(_view(id).settled, ghost.requested(id), "settled <= highest cumulative asked for");
        }
    }
}
