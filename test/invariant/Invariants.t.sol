// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IParalleliXAICredits} from "../../contracts/interfaces/IParalleliXAICredits.sol";
import {HostileToken} from "../mocks/Tokens.sol";
import {Prlx, System} from "../utils/System.sol";
import {vm} from "../utils/Vm.sol";
import {Ghost} from "./Ghost.sol";
import {InvariantRules} from "./InvariantRules.sol";
import {AuthorityHandler} from "./handlers/AuthorityHandler.sol";
import {World} from "./handlers/Handler.sol";
import {OperatorHandler} from "./handlers/OperatorHandler.sol";
import {PayerHandler} from "./handlers/PayerHandler.sol";
import {SettlerHandler} from "./handlers/SettlerHandler.sol";
import {TokenHandler} from "./handlers/TokenHandler.sol";

/// @notice All formulas of `README.md` in this folder after every call of a random sequence by hostile actors.
/// @dev One campaign checks all twelve: twelve campaigns would check each sequence for one of them, in twelve times the time.
abstract contract InvariantsTest is InvariantRules {
    struct FuzzSelector {
        address addr;
        bytes4[] selectors;
    }

    FuzzSelector[] private targets;

    /// @dev The token, whole supply with this contract.
    function _newToken(uint256 supplyWei) internal virtual returns (Prlx);

    function setUp() public virtual override {
        super.setUp();
        prlx = _newToken(1e40);
        _deploy(address(prlx));
        (address settler2,) = makeActor("settler 2");
        second = System.settlement(vault, registry, owner, settler2, guardian, 2_000);
        first = settlement;
        address[3] memory operators = [opal, opal, otto];
        ghost = new Ghost(START);
        for (uint256 i = 0; i < PAYERS; ++i) {
            (address payer, uint256 key) = makeActor(string.concat("payer ", vm.toString(i)));
            prlx.transfer(payer, FUNDS * WEI_PER_CREDIT);
            uint32 account = _fund(payer, key, 5_000, 5_000, 500);
            ghost.add("deposited", 5_000);
            ghost.sign(account, 5_000);
            if (i == 0) operators[0] = payer;
            _register(operators[i]);
        }
        prlx.transfer(opal, FUNDS * WEI_PER_CREDIT);
        prlx.transfer(otto, FUNDS * WEI_PER_CREDIT);
        ghost.setInForce("settlement", uint160(address(first)));
        ghost.setInForce("disputer", uint160(disputer));
        ghost.setInForce(keccak256(abi.encode(bytes32("fee"), first)), FEE_BPS);
        ghost.setInForce(keccak256(abi.encode(bytes32("fee"), second)), 2_000);
        ghost.setInForce(keccak256(abi.encode(bytes32("settler"), first)), uint160(settler));
        ghost.setInForce(keccak256(abi.encode(bytes32("settler"), second)), uint160(settler2));
        _target(World(prlx, vault, first, second, registry, ghost));
    }

    function _target(World memory world) internal virtual {
        PayerHandler payers = new PayerHandler(world);
        bytes4[9] memory ofPayers = [
            payers.depositFor.selector,
            payers.authorize.selector,
            payers.replay.selector,
            payers.revoke.selector,
            payers.close.selector,
            payers.withdraw.selector,
            payers.donate.selector,
            payers.serve.selector,
            payers.pass.selector
        ];
        FuzzSelector storage target = _targetOf(address(payers));
        for (uint256 i = 0; i < 9; ++i) {
            target.selectors.push(ofPayers[i]);
        }
        SettlerHandler settlers = new SettlerHandler(world);
        bytes4[5] memory ofSettlers = [
            settlers.settle.selector,
            settlers.bundle.selector,
            settlers.settleMetered.selector,
            settlers.replay.selector,
            settlers.forge.selector
        ];
        target = _targetOf(address(settlers));
        for (uint256 i = 0; i < 5; ++i) {
            target.selectors.push(ofSettlers[i]);
        }
        _targetOperators(new OperatorHandler(world));
        _targetAuthority(new AuthorityHandler(world));
    }

    function _targetOperators(OperatorHandler operators) private {
        bytes4[10] memory selectors = [
            operators.claim.selector,
            operators.claimMany.selector,
            operators.changePayout.selector,
            operators.acceptPayout.selector,
            operators.stake.selector,
            operators.unstake.selector,
            operators.withdrawStake.selector,
            operators.slash.selector,
            operators.sweepSlashed.selector,
            operators.passDays.selector
        ];
        FuzzSelector storage target = _targetOf(address(operators));
        for (uint256 i = 0; i < 10; ++i) {
            target.selectors.push(selectors[i]);
        }
    }

    function _targetAuthority(AuthorityHandler authority) private {
        bytes4[15] memory selectors = [
            authority.proposeFee.selector,
            authority.acceptFee.selector,
            authority.proposeSettler.selector,
            authority.acceptSettler.selector,
            authority.proposeSettlement.selector,
            authority.acceptSettlement.selector,
            authority.proposeDisputer.selector,
            authority.acceptDisputer.selector,
            authority.dismissDisputer.selector,
            authority.sweepFees.selector,
            authority.skimSurplus.selector,
            authority.suspendDeposits.selector,
            authority.suspendSettler.selector,
            authority.attack.selector,
            authority.usurp.selector
        ];
        FuzzSelector storage target = _targetOf(address(authority));
        for (uint256 i = 0; i < 15; ++i) {
            target.selectors.push(selectors[i]);
        }
    }

    function _targetOf(address handler) internal returns (FuzzSelector storage target) {
        target = targets.push();
        target.addr = handler;
    }

    function targetContracts() public view returns (address[] memory addresses) {
        addresses = new address[](targets.length);
        for (uint256 i = 0; i < targets.length; ++i) {
            addresses[i] = targets[i].addr;
        }
    }

    function targetSelectors() public view returns (FuzzSelector[] memory) {
        return targets;
    }

    function invariant_I1_to_I12() public {
        vm.warp(ghost.time());
        assertTrue(bytes(ghost.broken()).length == 0, ghost.broken());
        _checkSolvency();
        for (uint32 id = 1; id <= PAYERS; ++id) {
            _checkAccount(id);
        }
        _checkAuthority();
        uint32 chosen = uint32(1 + (ghost.time() / 7) % PAYERS);
        if (ghost.time() % 4 == 0) _checkExit(chosen);
        if (ghost.time() % 4 == 1) _checkCoverage(chosen);
    }
}

contract HonestTokenInvariantsTest is InvariantsTest {
    function _newToken(uint256 supplyWei) internal override returns (Prlx) {
        address[] memory holders = new address[](1);
        uint256[] memory amounts = new uint256[](1);
        (holders[0], amounts[0]) = (address(this), supplyWei);
        return System.prlx(holders, amounts);
    }
}

contract HostileTokenInvariantsTest is InvariantsTest {
    function _newToken(uint256 supplyWei) internal override returns (Prlx) {
        return Prlx(address(new HostileToken(address(this), supplyWei)));
    }

    function _target(World memory world) internal override {
        super._target(world);
        TokenHandler token = new TokenHandler(world);
        FuzzSelector storage target = _targetOf(address(token));
        target.selectors.push(token.turnHostile.selector);
        target.selectors.push(token.turnHonest.selector);
        target.selectors.push(token.reenter.selector);
        target.selectors.push(token.refuse.selector);
    }

    /// @dev The way out needs a token that transfers; a payee that it refuses is replaced by another one.
    function _beforeExit() internal override {
        HostileToken(address(prlx)).setMode(HostileToken.Mode.Honest);
    }

    function _checkAuthority() internal view override {
        super._checkAuthority();
        assertTrue(!HostileToken(address(prlx)).reentryPassed(), "I11: no reentry succeeds");
    }
}
