//! Bindings of the contracts (`docs/protocol.md`, section 3).

pub use credits::IParalleliXAICredits as Credits;
pub use registry::IOperatorRegistry as Registry;
pub use settlement::IParalleliXSettlement as Settlement;

#[allow(missing_docs, clippy::too_many_arguments)]
mod credits {
    alloy::sol! {
        #[derive(Debug, PartialEq, Eq)]
        #[sol(rpc)]
        interface IParalleliXAICredits {
            struct SpendAuthorization { address owner; uint64 cap; uint48 exposure; uint40 validUntil; bytes32 challenge; uint32 nonce; uint40 signDeadline; }
            struct ClosureClearance { uint32 account; uint64 settled; uint32 authNonce; uint40 deadline; }
            struct AccountView { address owner; uint64 settled; uint64 limit; uint48 exposure; uint40 lastSettledAt; uint40 settleDeadline; uint64 netDeposited; uint64 authorizedCum; uint32 authNonce; }
            struct OperatorView { address payout; uint96 claimable; }
            event AccountOpened(uint32 indexed account, address indexed owner);
            event Deposited(uint32 indexed account, address indexed from, uint64 amount, uint64 netDeposited);
            event Authorized(uint32 indexed account, uint64 authorizedCum, uint48 exposure, uint40 settleDeadline, uint40 validUntil, uint32 nonce, bytes32 challenge);
            event Revoked(uint32 indexed account, uint64 authorizedCum, uint40 settleDeadline, uint32 nonce);
            event Withdrawn(uint32 indexed account, address indexed to, uint64 amount, uint64 netDeposited);
            event Closed(uint32 indexed account, uint64 settled);
            event BatchDebited(uint64 indexed seq, uint64 debited, uint64 fee);
            event RowShort(uint64 indexed seq, uint32 indexed account, uint32 indexed operator, uint64 requested, uint64 applied);
            event Claimed(uint32 indexed operator, address indexed payout, uint64 amount);
            function deposit(uint64 amount) external;
            function depositWithPermit(uint64 amount, uint256 permitDeadline, uint8 v, bytes32 r, bytes32 s) external;
            function depositAndAuthorize(uint64 amount, uint256 permitDeadline, uint8 v, bytes32 r, bytes32 s, SpendAuthorization auth, bytes authSig) external;
            function authorize(SpendAuthorization auth, bytes sig) external;
            function revoke() external;
            function withdraw(uint64 amount, address to) external;
            function closeWithClearance(ClosureClearance c, bytes sig) external;
            function claim(uint32 operator) external;
            function claimMany(uint32[] operators) external;
            function accountOf(address owner) external view returns (uint32);
            function accounts(uint32[] ids) external view returns (AccountView[]);
            function operators(uint32[] ids) external view returns (OperatorView[]);
            function balance(uint32 account) external view returns (uint64);
            function locked(uint32 account) external view returns (uint64);
            function free(uint32 account) external view returns (uint64);
        }
    }
}

#[allow(missing_docs, clippy::too_many_arguments)]
mod settlement {
    alloy::sol! {
        #[derive(Debug, PartialEq, Eq)]
        #[sol(rpc)]
        interface IParalleliXSettlement {
            struct ServiceReceipt { bytes32 requestId; uint32 account; uint32 operator; bytes32 modelRoot; bytes32 engine; uint32 promptTokens; uint32 completionTokens; uint64 modelRate; uint64 amount; bytes32 promptHash; bytes32 completionHash; bytes32 paramsHash; bytes32 proofRoot; uint40 startedAt; uint40 servedAt; }
            event Settled(uint64 indexed seq, bytes32 receiptsRoot, bytes32 rowsHash, uint64 debited, uint64 fee);
            function settle(uint64 seq, bytes32 receiptsRoot, bytes rows, uint40 deadline, bytes sig) external;
            function verifyReceipt(uint64 seq, ServiceReceipt receipt, bytes signature, bytes32[] proof) external view returns (bool);
            function lastSeq() external view returns (uint64);
            function receiptsRoot(uint64 seq) external view returns (bytes32);
            function settler() external view returns (address);
            function feeBps() external view returns (uint16);
        }
    }
}

#[allow(missing_docs, clippy::too_many_arguments)]
mod registry {
    alloy::sol! {
        #[derive(Debug, PartialEq, Eq)]
        #[sol(rpc)]
        interface IOperatorRegistry {
            event OperatorRegistered(uint32 indexed operator, address indexed owner, address payout, bytes32 metadataHash);
            event NodeKeyAdded(uint32 indexed operator, address indexed key);
            event NodeKeyRemoved(uint32 indexed operator, address indexed key);
            function register(address payout, bytes32 metadataHash) external returns (uint32 operator);
            function addNodeKey(address key, bytes proof) external;
            function removeNodeKey(address key) external;
            function operatorOf(address owner) external view returns (uint32);
            function operatorOfNode(address key) external view returns (uint32 operator, uint40 since, uint40 until);
            function payoutOf(uint32 operator) external view returns (address);
        }
    }
}
