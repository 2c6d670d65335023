// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {Base} from "../Base.sol";
import {Prlx, Registry, Settlement, Vault} from "../utils/System.sol";
import {vm} from "../utils/Vm.sol";

interface DeployScript {
    error WrongChain(uint256 actual, uint256 configured);
    error MissingAddress(string key);
    error NotThePrlxToken(address token, uint256 decimals);
    error DeployedOtherwise(string what);

    struct Deployment {
        uint256 deployBlock;
        Prlx prlx;
        Vault credits;
        Registry registry;
        Settlement settlement;
    }

    function run() external returns (Deployment memory);
}

/// @notice The deploy script as an operator of a real chain meets it. One test, because a process has one environment.
contract DeployTest is Base {
    string private constant FOLDER = ".parallelix/test-deploy/";
    string private constant CONFIG = ".parallelix/test-deploy/config.json";
    string private constant OUTPUT = ".parallelix/test-deploy/deployment.json";

    DeployScript private script;

    function _configure(uint256 chainId, address token, uint256 exitDelay) private {
        string memory json = string.concat('{"chainId": ', vm.toString(chainId), ', "token": "', vm.toString(token));
        json = string.concat(json, '", "owner": "', vm.toString(owner), '", "guardian": "', vm.toString(guardian));
        json = string.concat(json, '", "disputer": "', vm.toString(disputer), '", "settler": "', vm.toString(settler));
        json = string.concat(json, '", "exitDelay": ', vm.toString(exitDelay), ', "velocityWindow": 60, "feeBps": 1000');
        json = string.concat(json, ', "incidentCap": "1000000", "output": "', OUTPUT, '"}');
        vm.writeFile(CONFIG, json);
    }

    function test_DeploysChecksAndRunsTwiceWithoutHarm() public {
        vm.createDir(FOLDER, true);
        if (vm.exists(OUTPUT)) vm.removeFile(OUTPUT);
        vm.setEnv("DEPLOY_CONFIG", CONFIG);
        bytes memory code = vm.getCode("Deploy.s.sol:Deploy");
        address created;
        assembly ("memory-safe") {
            created := create(0, add(code, 32), mload(code))
        }
        script = DeployScript(created);
        vm.chainId(10);

        _configure(1, address(prlx), 3_600);
        vm.expectRevert(abi.encodeWithSelector(DeployScript.WrongChain.selector, 10, 1));
        script.run();
        _configure(10, address(0), 3_600);
        vm.expectRevert(abi.encodeWithSelector(DeployScript.MissingAddress.selector, "token"));
        script.run();
        _configure(10, stranger, 3_600);
        vm.expectRevert(abi.encodeWithSelector(DeployScript.NotThePrlxToken.selector, stranger, 0));
        script.run();
        assertTrue(!vm.exists(OUTPUT), "a refused run writes nothing");

        _configure(10, address(prlx), 3_600);
        DeployScript.Deployment memory deployment = script.run();
        _assertDeployed(deployment);
        DeployScript.Deployment memory again = script.run();
        assertEq(address(again.credits), address(deployment.credits), "the second run finds the first one's vault");
        assertEq(address(again.settlement), address(deployment.settlement), "and its settlement contract");
        assertEq(again.deployBlock, deployment.deployBlock, "and block");

        _configure(10, address(prlx), 7_200);
        vm.expectRevert(abi.encodeWithSelector(DeployScript.DeployedOtherwise.selector, "credits.exitDelay"));
        script.run();
        // Broken off before it was wired: nobody used it, so another one is deployed.
        _configure(10, address(prlx), 3_600);
        vm.store(address(deployment.credits), bytes32(uint256(4)), bytes32(0));
        again = script.run();
        assertTrue(address(again.credits) != address(deployment.credits), "a new vault");
        vm.removeFile(OUTPUT);
        vm.removeFile(CONFIG);
    }

    function _assertDeployed(DeployScript.Deployment memory deployment) private view {
        assertEq(address(deployment.prlx), address(prlx), "the token of the file");
        assertEq(deployment.credits.token(), address(prlx), "vault's token");
        assertEq(deployment.credits.settlement(), address(deployment.settlement), "wired");
        assertEq(deployment.credits.guardian(), guardian, "guardian");
        assertEq(deployment.settlement.settler(), settler, "settler");
        assertEq(deployment.settlement.owner(), owner, "owner");
        string memory json = vm.readFile(OUTPUT);
        assertEq(vm.parseJsonUint(json, ".chainId"), 10, "chainId");
        assertEq(vm.parseJsonAddress(json, ".prlx"), address(prlx), "prlx");
        assertEq(vm.parseJsonAddress(json, ".credits"), address(deployment.credits), "credits");
        assertEq(vm.parseJsonAddress(json, ".settlement"), address(deployment.settlement), "settlement");
        assertEq(vm.parseJsonAddress(json, ".registry"), address(deployment.registry), "registry");
        assertEq(vm.parseJsonAddress(json, ".settler"), settler, "settler");
        assertEq(vm.parseJsonUint(json, ".exitDelay"), 3_600, "exitDelay");
        assertEq(vm.parseJsonUint(json, ".velocityWindow"), 60, "velocityWindow");
        assertEq(vm.parseJsonUint(json, ".feeBps"), 1_000, "feeBps");
    }
}
