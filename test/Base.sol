// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IParalleliXAICredits} from "../contracts/interfaces/IParalleliXAICredits.sol";
import {ReferenceRows, Row} from "./utils/ReferenceRows.sol";
import {Prlx, Registry, Settlement, System, Vault} from "./utils/System.sol";
import {Test} from "./utils/Test.sol";
import {vm} from "./utils/Vm.sol";

/// @notice Actors, deployment, and the signed messages of every test. Asserts nothing.
abstract contract Base is Test {
    uint40 internal constant EXIT_DELAY = 1 hours;
    uint40 internal constant VELOCITY_WINDOW = 60;
    uint16 internal constant FEE_BPS = 1_000;
    uint64 internal constant INCIDENT_CAP = 1_000_000;
    uint64 internal constant FUNDS = 1e15;
    uint256 internal constant WEI_PER_CREDIT = 1e9;
    uint40 internal constant START = 1_800_000_000;
    uint256 internal constant CURVE_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;

    address internal owner;
    address internal guardian;
    address internal relayer;
    address internal stranger;
    address internal disputer;
    address internal settler;
    uint256 internal settlerKey;
    address internal alice;
    uint256 internal aliceKey;
    address internal bob;
    uint256 internal bobKey;
    address internal opal;
    address internal otto;

    Prlx internal prlx;
    Vault internal vault;
    Settlement internal settlement;
    Registry internal registry;

    function setUp() public virtual {
        vm.warp(START);
        (owner,) = makeActor("owner");
        (guardian,) = makeActor("guardian");
        (relayer,) = makeActor("relayer");
        (stranger,) = makeActor("stranger");
        (disputer,) = makeActor("disputer");
        (settler, settlerKey) = makeActor("settler");
        (alice, aliceKey) = makeActor("alice");
        (bob, bobKey) = makeActor("bob");
        (opal,) = makeActor("opal");
        (otto,) = makeActor("otto");

        prlx = System.prlx(_pair(alice, bob), _pairOf(FUNDS * WEI_PER_CREDIT));
        _deploy(address(prlx));
    }

    function _deploy(address token) internal {
        vault = System.vault(token, owner, EXIT_DELAY, VELOCITY_WINDOW);
        registry = System.registry(vault, owner, disputer, INCIDENT_CAP);
        settlement = System.settlement(vault, registry, owner, settler, guardian, FEE_BPS);
        vm.prank(owner);
        vault.initialize(address(settlement), address(registry), guardian);
    }

    /// @dev The compiler takes `block.timestamp` to be the same within a function, which `vm.warp` breaks; this is read anew.
    function _now() internal view returns (uint40) {
        return uint40(vm.getBlockTimestamp());
    }

    function _skip(uint256 duration) internal {
        vm.warp(_now() + duration);
    }

    // Accounts

    function _deposit(address payer, uint64 amount) internal returns (uint32) {
        vm.prank(payer);
        prlx.approve(address(vault), amount * WEI_PER_CREDIT);
        vm.prank(payer);
        vault.deposit(amount);
        return vault.accountOf(payer);
    }

    function _authorize(address payer, uint256 key, uint64 cap, uint48 exposure) internal {
        IParalleliXAICredits.SpendAuthorization memory authorization = _authorization(payer, cap, exposure);
        vault.authorize(authorization, _signAuthorization(key, authorization));
    }

    /// @dev Deposits and authorizes generously.
    function _fund(address payer, uint256 key, uint64 amount, uint64 cap, uint48 exposure) internal returns (uint32) {
        uint32 account = _deposit(payer, amount);
        _authorize(payer, key, cap, exposure);
        return account;
    }

    function _authorization(address payer, uint64 cap, uint48 exposure)
        internal
        view
        returns (IParalleliXAICredits.SpendAuthorization memory)
    {
        return IParalleliXAICredits.SpendAuthorization({
            owner: payer,
            cap: cap,
            exposure: exposure,
            validUntil: _now() + 30 days,
            challenge: keccak256("session"),
            nonce: _view(vault.accountOf(payer)).authNonce,
            signDeadline: _now() + 10 minutes
        });
    }

    function _view(uint32 account) internal view returns (IParalleliXAICredits.AccountView memory) {
        return vault.accounts(_ids(account))[0];
    }

    // Operators

    function _register(address operatorOwner) internal returns (uint32 operator) {
        vm.prank(operatorOwner);
        operator = registry.register(operatorOwner, bytes32(0));
    }

    function _claimable(uint32 operator) internal view returns (uint64) {
        return vault.operators(_ids(operator))[0].claimable;
    }

    // Batches

    function _rows(uint32 operator, uint32 account, uint64 cumulative) internal pure returns (bytes memory) {
        return abi.encodePacked(operator, uint16(1), account, cumulative);
    }

    function _settle(bytes memory rows) internal {
        uint64 seq = settlement.lastSeq() + 1;
        bytes32 root = keccak256(abi.encode("root", seq));
        uint40 deadline = _now() + 15 minutes;
        bytes memory signature = _signBatch(settlerKey, seq, root, rows, deadline);
        vm.prank(relayer);
        settlement.settle(seq, root, rows, deadline, signature);
    }

    // Signatures; type strings are written out again here, so that a typo in the contracts is found

    function _signAuthorization(uint256 key, IParalleliXAICredits.SpendAuthorization memory a)
        internal
        view
        returns (bytes memory)
    {
        bytes32 typeHash = keccak256(
            "SpendAuthorization(address owner,uint64 cap,uint48 exposure,uint40 validUntil,bytes32 challenge,uint32 nonce,uint40 signDeadline)"
        );
        bytes32 structHash = keccak256(
            abi.encode(typeHash, a.owner, a.cap, a.exposure, a.validUntil, a.challenge, a.nonce, a.signDeadline)
        );
        return _sign(key, _digest(vault.DOMAIN_SEPARATOR(), structHash));
    }

    function _signRevocation(uint256 key, IParalleliXAICredits.Revocation memory r)
        internal
        view
        returns (bytes memory)
    {
        bytes32 typeHash = keccak256("Revocation(address owner,uint32 nonce,uint40 signDeadline)");
        bytes32 structHash = keccak256(abi.encode(typeHash, r.owner, r.nonce, r.signDeadline));
        return _sign(key, _digest(vault.DOMAIN_SEPARATOR(), structHash));
    }

    function _signClearance(uint256 key, IParalleliXAICredits.ClosureClearance memory c)
        internal
        view
        returns (bytes memory)
    {
        bytes32 typeHash = keccak256("ClosureClearance(uint32 account,uint64 settled,uint32 authNonce,uint40 deadline)");
        bytes32 structHash = keccak256(abi.encode(typeHash, c.account, c.settled, c.authNonce, c.deadline));
        return _sign(key, _digest(vault.DOMAIN_SEPARATOR(), structHash));
    }

    function _signBatch(uint256 key, uint64 seq, bytes32 root, bytes memory rows, uint40 deadline)
        internal
        view
        returns (bytes memory)
    {
        return _sign(key, _batchDigest(seq, root, rows, deadline));
    }

    function _batchDigest(uint64 seq, bytes32 root, bytes memory rows, uint40 deadline)
        internal
        view
        returns (bytes32)
    {
        bytes32 typeHash = keccak256(
            "SettlementBatch(uint64 seq,bytes32 receiptsRoot,bytes32 rowsHash,uint40 deadline)"
        );
        bytes32 structHash = keccak256(abi.encode(typeHash, seq, root, keccak256(rows), deadline));
        return _digest(settlement.DOMAIN_SEPARATOR(), structHash);
    }

    function _signPermit(uint256 key, address payer, uint64 amount, uint256 deadline)
        internal
        view
        returns (uint8 v, bytes32 r, bytes32 s)
    {
        bytes32 typeHash =
            keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");
        bytes32 structHash = keccak256(
            abi.encode(typeHash, payer, address(vault), amount * WEI_PER_CREDIT, prlx.nonces(payer), deadline)
        );
        return vm.sign(key, _digest(prlx.DOMAIN_SEPARATOR(), structHash));
    }

    function _digest(bytes32 domain, bytes32 structHash) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked("\x19\x01", domain, structHash));
    }

    function _sign(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }

    // Arrays

    function _ids(uint32 id) internal pure returns (uint32[] memory ids) {
        ids = new uint32[](1);
        ids[0] = id;
    }

    function _ids(uint32 first, uint32 second) internal pure returns (uint32[] memory ids) {
        ids = new uint32[](2);
        (ids[0], ids[1]) = (first, second);
    }

    function _pair(address first, address second) internal pure returns (address[] memory pair) {
        pair = new address[](2);
        (pair[0], pair[1]) = (first, second);
    }

    function _pairOf(uint256 value) internal pure returns (uint256[] memory pair) {
        pair = new uint256[](2);
        (pair[0], pair[1]) = (value, value);
    }
}
