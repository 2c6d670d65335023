//! What the operator's commands ask of the chain and send to it. The serving node needs none of it.

use std::time::Duration;

use alloy::network::EthereumWallet;
use alloy::primitives::U256;
use alloy::providers::{DynProvider, Provider, ProviderBuilder};
use alloy::rpc::client::RpcClient;
use alloy::rpc::types::TransactionRequest;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::SolCall;
use alloy::transports::http::Http;
use alloy::transports::{RpcError, TransportErrorKind};
use thiserror::Error;
use tokio::time::{Instant, sleep};
use wire::contracts::Registry;
use wire::deployment::Deployment;
use wire::{Address, B256, Bytes, OperatorId};

use crate::config::{ChainConfig, Config};

/// Between two looks for a transaction's receipt.
const RECEIPT_PERIOD: Duration = Duration::from_millis(250);

/// One JSON-RPC endpoint, checked to be the deployment's chain.
pub(super) struct Chain {
    provider: DynProvider,
    registry: Address,
}

/// Whose a node key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NodeKeyOwner {
    pub(super) operator: OperatorId,
    /// Seconds since the epoch; `None` while the key is active.
    pub(super) until: Option<u64>,
}

/// A call that would be sent, and what it would cost.
pub(super) struct Estimate {
    pub(super) gas: u64,
    pub(super) gas_price_wei: u128,
    pub(super) balance_wei: U256,
}

impl Estimate {
    /// At the price of now.
    pub(super) fn cost_wei(&self) -> U256 {
        U256::from(self.gas) * U256::from(self.gas_price_wei)
    }
}

impl Chain {
    /// Opens the endpoint of `config`. With `signer`, transactions can be sent from it.
    /// Errors when nobody answers, or for another chain than the deployment's.
    pub(super) async fn open(config: &ChainConfig, deployment: &Deployment, signer: Option<PrivateKeySigner>) -> Result<Self, ChainError> {
        let timeout = Duration::from_millis(config.timeout_ms);
        let http = reqwest::Client::builder().timeout(timeout).connect_timeout(timeout).redirect(reqwest::redirect::Policy::none());
        let http =
            Http::with_client(http.build().map_err(|error| ChainError::Client { error: error.to_string() })?, config.rpc_url.clone());
        let client = RpcClient::new(http, false);
        let provider = match signer {
            Some(signer) => ProviderBuilder::new().wallet(EthereumWallet::from(signer)).connect_client(client).erased(),
            None => ProviderBuilder::new().connect_client(client).erased(),
        };
        let chain = Self { provider, registry: deployment.registry };
        let chain_id = chain.provider.get_chain_id().await.map_err(failed("eth_chainId"))?;
        if chain_id != deployment.chain_id {
            return Err(ChainError::OtherChain { found: chain_id, expected: deployment.chain_id });
        }
        Ok(chain)
    }

    /// Whose `key` is; `None` when no operator ever had it.
    pub(super) async fn node_key_owner(&self, key: Address) -> Result<Option<NodeKeyOwner>, ChainError> {
        let owner = self.view(Registry::operatorOfNodeCall { key }).await?;
        let until = owner.until.to::<u64>();
        Ok((owner.operator != 0).then(|| NodeKeyOwner { operator: OperatorId(owner.operator), until: (until != 0).then_some(until) }))
    }

    /// The operator that `owner` registered, if any.
    pub(super) async fn operator_of(&self, owner: Address) -> Result<Option<OperatorId>, ChainError> {
        let operator = self.view(Registry::operatorOfCall { owner }).await?;
        Ok((operator != 0).then_some(OperatorId(operator)))
    }

    /// Where `operator` is paid.
    pub(super) async fn payout_of(&self, operator: OperatorId) -> Result<Address, ChainError> {
        self.view(Registry::payoutOfCall { operator: operator.0 }).await
    }

    /// What a registry call from `from` would cost. Errors when it would revert.
    pub(super) async fn estimate(&self, from: Address, data: &Bytes) -> Result<Estimate, ChainError> {
        let gas = self.provider.estimate_gas(self.call(data).from(from)).await.map_err(failed("eth_estimateGas"))?;
        let gas_price_wei = self.provider.get_gas_price().await.map_err(failed("eth_gasPrice"))?;
        let balance_wei = self.provider.get_balance(from).await.map_err(failed("eth_getBalance"))?;
        Ok(Estimate { gas, gas_price_wei, balance_wei })
    }

    /// Sends a registry call and waits until it is mined, at most `wait`. Errors when it reverted; a transaction that is not
    /// mined in time may still be, so the caller looks at the chain before it sends again.
    pub(super) async fn send(&self, data: &Bytes, wait: Duration) -> Result<B256, ChainError> {
        let pending = self.provider.send_transaction(self.call(data)).await.map_err(failed("eth_sendRawTransaction"))?;
        let hash = *pending.tx_hash();
        let until = Instant::now() + wait;
        loop {
            // A call that fails here says nothing about the transaction; the next one may succeed.
            if let Ok(Some(receipt)) = self.provider.get_transaction_receipt(hash).await {
                return if receipt.status() { Ok(hash) } else { Err(ChainError::Reverted { hash }) };
            }
            if Instant::now() >= until {
                return Err(ChainError::NotMined { hash, wait_s: wait.as_secs() });
            }
            sleep(RECEIPT_PERIOD).await;
        }
    }

    /// Time of the newest block, seconds since the epoch.
    pub(super) async fn head_timestamp(&self) -> Result<u64, ChainError> {
        let block =
            self.provider.get_block_by_number(alloy::eips::BlockNumberOrTag::Latest).await.map_err(failed("eth_getBlockByNumber"))?;
        Ok(block.map_or(0, |block| block.header.timestamp))
    }

    fn call(&self, data: &Bytes) -> TransactionRequest {
        TransactionRequest::default().to(self.registry).input(data.clone().into())
    }

    async fn view<C: SolCall>(&self, call: C) -> Result<C::Return, ChainError> {
        let data = Bytes::from(call.abi_encode());
        let returned = self.provider.call(self.call(&data)).await.map_err(failed("eth_call"))?;
        C::abi_decode_returns(&returned).map_err(|_| ChainError::NoRegistry { registry: self.registry })
    }
}

/// The operator of this node: as the config says, else as the registry does. Errors when the key is not registered.
pub(super) async fn operator_of_node(config: &Config, deployment: &Deployment, node: Address) -> anyhow::Result<OperatorId> {
    if let Some(operator) = config.operator {
        return Ok(operator);
    }
    let unavailable =
        |error: ChainError| super::Problem::Unavailable(format!("{error}; or set `operator` in the config to start without a chain"));
    let chain = Chain::open(&config.chain, deployment, None).await.map_err(unavailable)?;
    let needs = |what: String| super::Problem::NeedsAction(format!("{what}; run `gpu-node register`"));
    match chain.node_key_owner(node).await.map_err(unavailable)? {
        None => Err(needs(format!("node key {node} belongs to no operator")).into()),
        Some(NodeKeyOwner { operator, until: Some(_) }) => {
            Err(needs(format!("node key {node} of operator {operator} was removed, make a new one")).into())
        }
        Some(owner) => Ok(owner.operator),
    }
}

fn failed(method: &'static str) -> impl Fn(RpcError<TransportErrorKind>) -> ChainError {
    move |error| match error {
        RpcError::ErrorResp(answer) => ChainError::Refused { method, message: answer.message.chars().take(300).collect() },
        // Without the endpoint's address, which may hold a key of the RPC service.
        RpcError::Transport(_) => ChainError::Unreachable { method },
        other => ChainError::Refused { method, message: other.to_string().chars().take(300).collect() },
    }
}

/// Why the chain did not answer as needed.
#[derive(Debug, Error)]
pub(super) enum ChainError {
    #[error("HTTP client: {error}")]
    Client { error: String },
    #[error("the RPC endpoint in `chain.rpc_url` does not answer ({method}); check the address and that it runs")]
    Unreachable { method: &'static str },
    #[error("the RPC endpoint refuses {method}: {message}")]
    Refused { method: &'static str, message: String },
    #[error("the RPC endpoint is on chain {found}, the deployment on chain {expected}; correct `chain.rpc_url` or `chain.deployment`")]
    OtherChain { found: u64, expected: u64 },
    #[error("{registry} is no operator registry; check `chain.deployment`")]
    NoRegistry { registry: Address },
    #[error("transaction {hash} reverted")]
    Reverted { hash: B256 },
    #[error("transaction {hash} was not mined within {wait_s} s; it may still be: run the command again, it does only what is missing")]
    NotMined { hash: B256, wait_s: u64 },
}
