//! Wallets that are contracts (EIP-1271): asked only after plain recovery has failed, with bounded time, gas and bytes.

use std::time::Duration;

use alloy::network::TransactionBuilder;
use alloy::providers::{DynProvider, Provider};
use alloy::rpc::types::TransactionRequest;
use alloy::sol_types::SolCall;
use async_trait::async_trait;
use thiserror::Error;
use wire::{Address, B256};

/// Longest wait for the chain, both questions together.
const TIME_MAX: Duration = Duration::from_secs(3);
/// Most gas that a wallet may burn in the node that we ask.
const GAS_MAX: u64 = 500_000;
/// Longest signature that is passed on, bytes; a Safe with 50 owners needs 3,250.
const SIGNATURE_MAX_BYTES: usize = 8_192;
/// `isValidSignature(bytes32,bytes)`, the value that means yes.
const MAGIC: [u8; 4] = [0x16, 0x26, 0xba, 0x7e];

alloy::sol! {
    function isValidSignature(bytes32 hash, bytes signature) external view returns (bytes4);
}

/// What a contract wallet says of a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is no code at the address.
    NotAContract,
    /// The contract accepts it.
    Accepted,
    /// The contract does not, or answered something else.
    Refused,
}

/// Asks contract wallets.
#[async_trait]
pub trait ContractWallets: Send + Sync {
    /// Whether the contract at `wallet` accepts `signature` of `digest`. Errors when the chain can't be asked: that is "unknown", never "no".
    async fn accepts(&self, wallet: Address, digest: B256, signature: &[u8]) -> Result<Verdict, ContractWalletError>;
}

/// Asks over JSON-RPC, at the latest block.
pub struct RpcContractWallets {
    provider: DynProvider,
}

impl RpcContractWallets {
    /// Asks through `provider`.
    pub fn new(provider: DynProvider) -> Self {
        Self { provider }
    }

    async fn ask(&self, wallet: Address, digest: B256, signature: &[u8]) -> Result<Verdict, ContractWalletError> {
        let code = self.provider.get_code_at(wallet).await.map_err(|error| ContractWalletError::Rpc(Box::new(error)))?;
        if code.is_empty() {
            return Ok(Verdict::NotAContract);
        }
        let call = isValidSignatureCall { hash: digest, signature: signature.to_vec().into() };
        let request = TransactionRequest::default().with_to(wallet).with_gas_limit(GAS_MAX).with_input(call.abi_encode());
        match self.provider.call(request).await {
            Ok(answer) if answer.len() == 32 && answer[..4] == MAGIC => Ok(Verdict::Accepted),
            Ok(_) => Ok(Verdict::Refused),
            // A revert is the contract's no; anything else is the node's trouble.
            Err(error) if error.as_error_resp().is_some() => Ok(Verdict::Refused),
            Err(error) => Err(ContractWalletError::Rpc(Box::new(error))),
        }
    }
}

#[async_trait]
impl ContractWallets for RpcContractWallets {
    async fn accepts(&self, wallet: Address, digest: B256, signature: &[u8]) -> Result<Verdict, ContractWalletError> {
        if signature.len() > SIGNATURE_MAX_BYTES {
            return Ok(Verdict::Refused);
        }
        let asked = tokio::time::timeout(TIME_MAX, self.ask(wallet, digest, signature)).await;
        asked.unwrap_or(Err(ContractWalletError::Timeout { limit: TIME_MAX }))
    }
}

/// Why a contract wallet could not be asked.
#[derive(Debug, Error)]
pub enum ContractWalletError {
    /// The node failed.
    #[error("the chain's node failed: {0}")]
    Rpc(Box<dyn std::error::Error + Send + Sync>),
    /// The node was slow.
    #[error("the chain's node did not answer in {limit:?}")]
    Timeout {
        /// The limit.
        limit: Duration,
    },
}
