// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Metadata} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Metadata.sol";

import {OperatorRegistry} from "../contracts/OperatorRegistry.sol";
import {ParalleliXAICredits} from "../contracts/ParalleliXAICredits.sol";
import {ParalleliXSettlement} from "../contracts/ParalleliXSettlement.sol";
import {vm} from "../test/utils/Vm.sol";
import {PRLX} from "./PRLX.sol";

/// @title Deploy
/// @notice Deploys vault, registry and settlement from a JSON file, checks them, and writes their addresses as JSON.
/// @dev The file is named by `DEPLOY_CONFIG` (default `script/config/local.json`) and is documented in
/// docs/protocol.md, section 10. A second run finds the first one's contracts, checks them, and deploys nothing.
///
///     forge script script/Deploy.s.sol --rpc-url $RPC --broadcast --account deployer
contract Deploy {
    struct Config {
        uint256 chainId;
        /// The token to hold; zero: deploy the test token.
        address token;
        address[] holders;
        uint256 amountWei;
        address owner;
        address guardian;
        address disputer;
        address settler;
        uint40 exitDelay;
        uint40 velocityWindow;
        uint16 feeBps;
        uint64 incidentCap;
        string output;
    }

    struct Deployment {
        uint256 deployBlock;
        address prlx;
        ParalleliXAICredits credits;
        OperatorRegistry registry;
        ParalleliXSettlement settlement;
    }

    /// @notice Thrown when the chain is not the one that the file is for.
    error WrongChain(uint256 actual, uint256 configured);
    /// @notice Thrown when an address that must be set is missing from the file.
    error MissingAddress(string key);
    /// @notice Thrown when the token of the file is no contract, or counts in other decimals than PRLX's 18.
    error NotThePrlxToken(address token, uint256 decimals);
    /// @notice Thrown when a deployed contract does not say what it was told.
    error DeployedOtherwise(string what);

    bool public constant IS_SCRIPT = true;

    function run() external returns (Deployment memory deployment) {
        Config memory config = _read(vm.envOr("DEPLOY_CONFIG", "script/config/local.json"));
        require(block.chainid == config.chainId, WrongChain(block.chainid, config.chainId));

        bool standing;
        (standing, deployment) = _standing(config);
        if (!standing) deployment = _deploy(config);
        _check(config, deployment, standing);
        if (!standing) _write(config, deployment);
    }

    function _deploy(Config memory config) private returns (Deployment memory deployment) {
        deployment.deployBlock = block.number;

        if (config.token != address(0)) _requirePrlx(config.token);

        vm.startBroadcast();
        (, address deployer,) = vm.readCallers();
        deployment.prlx = config.token == address(0) ? _deployTestToken(config) : config.token;
        deployment.credits =
            new ParalleliXAICredits(IERC20(deployment.prlx), deployer, config.exitDelay, config.velocityWindow);
        deployment.registry =
            new OperatorRegistry(deployment.credits, config.owner, config.disputer, config.incidentCap);
        deployment.settlement = new ParalleliXSettlement(
            deployment.credits, deployment.registry, config.owner, config.settler, config.guardian, config.feeBps
        );
        deployment.credits.initialize(address(deployment.settlement), address(deployment.registry), config.guardian);
        // The owner completes this with `acceptOwnership`.
        if (deployer != config.owner) deployment.credits.transferOwnership(config.owner);
        vm.stopBroadcast();
    }

    /// @dev A credit is 10^9 wei of a token with 18 decimals.
    function _requirePrlx(address token) private view {
        require(token.code.length != 0, NotThePrlxToken(token, 0));
        uint8 decimals = IERC20Metadata(token).decimals();
        require(decimals == 18, NotThePrlxToken(token, decimals));
    }

    function _deployTestToken(Config memory config) private returns (address) {
        uint256[] memory amounts = new uint256[](config.holders.length);
        for (uint256 i = 0; i < amounts.length; ++i) {
            amounts[i] = config.amountWei;
        }
        return address(new PRLX(config.holders, amounts));
    }

    /// @dev Settler, fee, guardian, disputer and owner may have changed since, in the ways the contracts allow; so only a new
    /// deployment is held to the file in these.
    function _check(Config memory config, Deployment memory deployment, bool standing) private view {
        ParalleliXAICredits credits = deployment.credits;
        ParalleliXSettlement settlement = deployment.settlement;
        OperatorRegistry registry = deployment.registry;

        require(credits.token() == deployment.prlx, DeployedOtherwise("credits.token"));
        require(credits.exitDelay() == config.exitDelay, DeployedOtherwise("credits.exitDelay"));
        require(credits.velocityWindow() == config.velocityWindow, DeployedOtherwise("credits.velocityWindow"));
        require(credits.registry() == address(registry), DeployedOtherwise("credits.registry"));
        require(settlement.vault() == address(credits), DeployedOtherwise("settlement.vault"));
        require(settlement.registry() == address(registry), DeployedOtherwise("settlement.registry"));
        require(registry.vault() == address(credits), DeployedOtherwise("registry.vault"));
        require(registry.token() == deployment.prlx, DeployedOtherwise("registry.token"));
        require(registry.incidentCap() == config.incidentCap, DeployedOtherwise("registry.incidentCap"));
        if (standing) return;

        bool owned = credits.owner() == config.owner || credits.pendingOwner() == config.owner;
        require(owned, DeployedOtherwise("credits.owner"));
        require(credits.settlement() == address(settlement), DeployedOtherwise("credits.settlement"));
        require(credits.guardian() == config.guardian, DeployedOtherwise("credits.guardian"));
        require(settlement.owner() == config.owner, DeployedOtherwise("settlement.owner"));
        require(settlement.settler() == config.settler, DeployedOtherwise("settlement.settler"));
        require(settlement.guardian() == config.guardian, DeployedOtherwise("settlement.guardian"));
        require(settlement.feeBps() == config.feeBps, DeployedOtherwise("settlement.feeBps"));
        require(registry.owner() == config.owner, DeployedOtherwise("registry.owner"));
        require(registry.disputer() == config.disputer, DeployedOtherwise("registry.disputer"));
    }

    // Files

    function _read(string memory path) private view returns (Config memory config) {
        string memory json = vm.readFile(path);
        config.chainId = vm.parseJsonUint(json, ".chainId");
        if (vm.keyExistsJson(json, ".testToken")) {
            config.holders = vm.parseJsonAddressArray(json, ".testToken.holders");
            config.amountWei = vm.parseJsonUint(json, ".testToken.amountPrlx") * 1 ether;
        } else {
            config.token = _address(json, "token");
        }
        config.owner = _address(json, "owner");
        config.guardian = _address(json, "guardian");
        config.disputer = _address(json, "disputer");
        config.settler = _address(json, "settler");
        config.exitDelay = uint40(vm.parseJsonUint(json, ".exitDelay"));
        config.velocityWindow = uint40(vm.parseJsonUint(json, ".velocityWindow"));
        config.feeBps = uint16(vm.parseJsonUint(json, ".feeBps"));
        config.incidentCap = uint64(vm.parseJsonUint(json, ".incidentCap"));
        config.output = vm.parseJsonString(json, ".output");
    }

    function _address(string memory json, string memory key) private pure returns (address value) {
        value = vm.parseJsonAddress(json, string.concat(".", key));
        require(value != address(0), MissingAddress(key));
    }

    /// @dev What an earlier run wrote counts only if its contracts stand on this chain, and were wired: forge writes the file
    /// before it sends anything, so a run that broke off in between left a vault that nobody ever used.
    function _standing(Config memory config) private view returns (bool, Deployment memory deployment) {
        if (!vm.exists(config.output)) return (false, deployment);

        string memory json = vm.readFile(config.output);
        deployment.deployBlock = vm.parseJsonUint(json, ".deployBlock");
        deployment.prlx = vm.parseJsonAddress(json, ".prlx");
        deployment.credits = ParalleliXAICredits(vm.parseJsonAddress(json, ".credits"));
        deployment.registry = OperatorRegistry(vm.parseJsonAddress(json, ".registry"));
        deployment.settlement = ParalleliXSettlement(vm.parseJsonAddress(json, ".settlement"));
        bool standing = vm.parseJsonUint(json, ".chainId") == config.chainId
            && address(deployment.credits).code.length != 0 && address(deployment.registry).code.length != 0
            && address(deployment.settlement).code.length != 0 && deployment.credits.settlement() != address(0);
        return (standing, deployment);
    }

    function _write(Config memory config, Deployment memory deployment) private {
        string memory object = "deployment";
        vm.serializeUint(object, "chainId", config.chainId);
        vm.serializeUint(object, "deployBlock", deployment.deployBlock);
        vm.serializeAddress(object, "prlx", deployment.prlx);
        vm.serializeAddress(object, "credits", address(deployment.credits));
        vm.serializeAddress(object, "settlement", address(deployment.settlement));
        vm.serializeAddress(object, "registry", address(deployment.registry));
        vm.serializeUint(object, "exitDelay", config.exitDelay);
        vm.serializeUint(object, "velocityWindow", config.velocityWindow);
        vm.serializeUint(object, "feeBps", config.feeBps);
        string memory json = vm.serializeAddress(object, "settler", config.settler);
        vm.writeJson(json, config.output);
    }
}
