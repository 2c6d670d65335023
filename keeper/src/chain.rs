//! What the keeper asks of the chain. An answer that fails or does not fit is an error, which the loop takes for "unknown".
//!
//! Invariant of absence: nothing here signs, waits or retries.

use std::collections::BTreeMap;
use std::time::Duration;

use alloy::consensus::BlockHeader as _;
use alloy::eips::{BlockId, BlockNumberOrTag};
use alloy::network::TransactionBuilder as _;
use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::providers::{Provider, RootProvider};
use alloy::rpc::client::RpcClient;
use alloy::rpc::types::{BlockOverrides, Log, TransactionReceipt, TransactionRequest};
use alloy::sol_types::{SolCall, SolEvent, SolInterface};
use alloy::transports::http::Http;
use alloy::transports::{RpcError, TransportError};
use thiserror::Error;
use wire::contracts::Credits::IParalleliXAICreditsErrors as VaultErrors;
use wire::contracts::Settlement::IParalleliXSettlementErrors as SettleErrors;
use wire::contracts::{Credits as Vault, Registry, Settlement};
use wire::deployment::Deployment;
use wire::settlement::SignedBatch;
use wire::{AccountId, OperatorId, rows};

use crate::batch::AccountState;
use crate::verify::NodeOwner;

/// Ids in one `accounts` or `operators` call: about 300 kB of answer.
const IDS_PER_CALL: usize = 1_000;
/// JSON-RPC codes with which nodes refuse parameters that they do not know.
const PARAMETERS_REFUSED: [i64; 3] = [-32_602, -32_601, -32_600];

/// Reads over one JSON-RPC endpoint.
#[derive(Clone, Debug)]
pub struct Chain {
    provider: RootProvider,
    deployment: Deployment,
}

/// The newest block, and the settlement contract at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Height.
    pub number: u64,
    /// Hash.
    pub hash: B256,
    /// Seconds since the epoch.
    pub timestamp: u64,
    /// Wei per gas.
    pub base_fee_wei: u64,
    /// Sequence number of the last settled batch.
    pub last_seq: u64,
}

/// What a call would do.
#[derive(Debug)]
pub enum Simulated<T> {
    /// It would pass.
    Passes(T),
    /// It would revert.
    Reverts(Revert),
}

/// Why a call would revert, as far as the keeper acts on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revert {
    /// The batch is settled already, or is not the next one.
    Seq {
        /// What the contract expects.
        expected: u64,
    },
    /// Its deadline is over, or the settler is another one: a fresh signature is needed.
    Signature,
    /// Anything else, as text for a person.
    Other(String),
}

/// What a node says of a mined transaction.
#[derive(Clone, Debug)]
pub struct Mined {
    /// Which one.
    pub tx_hash: B256,
    /// Its block.
    pub block_hash: B256,
    /// Height of its block.
    pub block_number: u64,
    /// False when it reverted.
    pub success: bool,
    /// Gas.
    pub gas_used: u64,
    /// Wei per gas.
    pub gas_price_wei: u64,
    logs: Vec<Log>,
}

/// A settlement as its events tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Root that was stored.
    pub receipts_root: B256,
    /// Hash of the rows that were applied.
    pub rows_hash: B256,
    /// Credits debited.
    pub debited: u64,
    /// Credits of it kept as fee.
    pub fee: u64,
    /// Credits per operator that were asked for and not debited.
    pub short: BTreeMap<OperatorId, u64>,
}

impl Chain {
    /// Reads at `rpc_url`; each call may take `timeout`. Errors when the HTTP client can't be made.
    pub fn new(rpc_url: reqwest::Url, timeout: Duration, deployment: Deployment) -> Result<Self, ChainError> {
        let client = reqwest::Client::builder().timeout(timeout).connect_timeout(timeout).redirect(reqwest::redirect::Policy::none());
        let client = client.build().map_err(|error| ChainError::Client { error })?;
        let provider = RootProvider::new(RpcClient::new(Http::with_client(client, rpc_url), false));
        Ok(Self { provider, deployment })
    }

    /// Where the contracts are.
    pub fn deployment(&self) -> &Deployment {
        &self.deployment
    }

    /// The newest block. Errors on another chain than the deployment's.
    pub async fn head(&self) -> Result<Head, ChainError> {
        let chain_id = self.provider.get_chain_id().await.map_err(rpc("eth_chainId"))?;
        if chain_id != self.deployment.chain_id {
            return Err(ChainError::WrongChain { actual: chain_id, expected: self.deployment.chain_id });
        }
        let block = self.provider.get_block_by_number(BlockNumberOrTag::Latest).await.map_err(rpc("eth_getBlockByNumber"))?;
        let header = block.ok_or(ChainError::Missing { what: "the latest block" })?.header;
        let settlement = Settlement::new(self.deployment.settlement, &self.provider);
        let last_seq = settlement.lastSeq().block(header.number.into()).call().await.map_err(contract("lastSeq"))?;
        Ok(Head {
            number: header.number,
            hash: header.hash,
            timestamp: header.timestamp,
            base_fee_wei: header.base_fee_per_gas().unwrap_or(0),
            last_seq,
        })
    }

    /// Hash of the block at `number`, if the node has one.
    pub async fn block_hash(&self, number: u64) -> Result<Option<B256>, ChainError> {
        let block = self.provider.get_block_by_number(number.into()).await.map_err(rpc("eth_getBlockByNumber"))?;
        Ok(block.map(|block| block.header.hash))
    }

    /// The accounts as the vault has them at `block`.
    pub async fn accounts(&self, ids: &[AccountId], block: u64) -> Result<BTreeMap<AccountId, AccountState>, ChainError> {
        let vault = Vault::new(self.deployment.credits, &self.provider);
        let mut states = BTreeMap::new();
        for ids in ids.chunks(IDS_PER_CALL) {
            let asked = ids.iter().map(|id| id.0).collect();
            let views = vault.accounts(asked).block(block.into()).call().await.map_err(contract("accounts"))?;
            if views.len() != ids.len() {
                return Err(ChainError::Count { call: "accounts", actual: views.len(), expected: ids.len() });
            }
            states.extend(ids.iter().zip(views).map(|(id, view)| {
                let state = AccountState {
                    settled: view.settled,
                    limit: view.limit,
                    exposure: view.exposure.to(),
                    last_settled_at: view.lastSettledAt.to(),
                    settle_deadline: view.settleDeadline.to(),
                };
                (*id, state)
            }));
        }
        Ok(states)
    }

    /// What each operator can claim, credits; operators without a payout address are left out.
    pub async fn claimable(&self, ids: &[OperatorId], block: u64) -> Result<BTreeMap<OperatorId, u64>, ChainError> {
        let vault = Vault::new(self.deployment.credits, &self.provider);
        let mut claimable = BTreeMap::new();
        for ids in ids.chunks(IDS_PER_CALL) {
            let asked = ids.iter().map(|id| id.0).collect();
            let views = vault.operators(asked).block(block.into()).call().await.map_err(contract("operators"))?;
            if views.len() != ids.len() {
                return Err(ChainError::Count { call: "operators", actual: views.len(), expected: ids.len() });
            }
            let known = ids.iter().zip(views).filter(|(_, view)| view.payout != Address::ZERO);
            claimable.extend(known.map(|(id, view)| (*id, view.claimable)));
        }
        Ok(claimable)
    }

    /// Whose a node key is; `None` for nobody's.
    pub async fn node_owner(&self, key: Address, block: u64) -> Result<Option<NodeOwner>, ChainError> {
        let registry = Registry::new(self.deployment.registry, &self.provider);
        let owner = registry.operatorOfNode(key).block(block.into()).call().await.map_err(contract("operatorOfNode"))?;
        let known = owner.operator != 0;
        Ok(known.then(|| NodeOwner { operator: OperatorId(owner.operator), until: owner.until.to() }))
    }

    /// Credits that the vault would debit for `rows` in a block at `now`, asked as the settlement contract, so before anybody signed.
    pub async fn preflight(&self, seq: u64, rows: &Bytes, now: u64) -> Result<Simulated<u64>, ChainError> {
        let call = Vault::debitBatchCall { seq, rows: rows.clone(), feeBps: self.deployment.fee_bps };
        let request = TransactionRequest::default()
            .with_from(self.deployment.settlement)
            .with_to(self.deployment.credits)
            .with_input(call.abi_encode());
        Ok(match self.call_at("debitBatch", request, now).await? {
            Simulated::Reverts(revert) => Simulated::Reverts(revert),
            Simulated::Passes(answer) => {
                let returns = Vault::debitBatchCall::abi_decode_returns(&answer);
                Simulated::Passes(returns.map_err(|_| ChainError::Malformed { call: "debitBatch" })?.debited)
            }
        })
    }

    /// Whether `settle` with exactly this batch would pass in a block at `now`, and the gas that the node estimates for it.
    pub async fn simulate_settle(&self, from: Address, batch: &SignedBatch, now: u64) -> Result<Simulated<Option<u64>>, ChainError> {
        let request = TransactionRequest::default().with_from(from).with_to(self.deployment.settlement).with_input(settle_input(batch));
        Ok(match self.call_at("settle", request.clone(), now).await? {
            Simulated::Reverts(revert) => Simulated::Reverts(revert),
            // An estimate may fail where the call passes: it runs at the last block's time. The caller has a formula.
            Simulated::Passes(_) => Simulated::Passes(self.provider.estimate_gas(request).block(BlockId::latest()).await.ok()),
        })
    }

    async fn call_at(&self, name: &'static str, request: TransactionRequest, now: u64) -> Result<Simulated<Bytes>, ChainError> {
        // On a quiet chain the last block is old, and windows that are over by now would seem open.
        let time = BlockOverrides { time: Some(now), ..BlockOverrides::default() };
        // Latest and not pending: what waits in a pool, our own earlier bid too, decides nothing.
        let answer = match self.provider.call(request.clone()).block(BlockId::latest()).with_block_overrides(time).await {
            Err(error) if refuses_parameters(&error) => self.provider.call(request).block(BlockId::latest()).await,
            answer => answer,
        };
        match answer {
            Ok(bytes) => Ok(Simulated::Passes(bytes)),
            Err(error) => match error.as_error_resp().and_then(|payload| payload.as_revert_data()) {
                Some(data) => Ok(Simulated::Reverts(revert(&data))),
                None => Err(ChainError::Rpc { call: name, error: Box::new(error) }),
            },
        }
    }

    /// Gas that the node estimates for a call. Errors when it would revert.
    pub async fn estimate(&self, from: Address, to: Address, input: &Bytes) -> Result<u64, ChainError> {
        let request = TransactionRequest::default().with_from(from).with_to(to).with_input(input.clone());
        self.provider.estimate_gas(request).block(BlockId::latest()).await.map_err(rpc("eth_estimateGas"))
    }

    /// What the node says of a mined transaction; `None` when it is not mined, or not known.
    pub async fn mined(&self, tx_hash: B256) -> Result<Option<Mined>, ChainError> {
        let receipt = self.provider.get_transaction_receipt(tx_hash).await.map_err(rpc("eth_getTransactionReceipt"))?;
        receipt.map(|receipt| read_mined(tx_hash, receipt)).transpose()
    }

    /// Whether the node knows the transaction, mined or waiting.
    pub async fn knows(&self, tx_hash: B256) -> Result<bool, ChainError> {
        let found = self.provider.get_transaction_by_hash(tx_hash).await.map_err(rpc("eth_getTransactionByHash"))?;
        Ok(found.is_some())
    }

    /// Transaction that settled `seq` in blocks `from..=to`, whoever sent it.
    pub async fn settlement_of(&self, seq: u64, from: u64, to: u64) -> Result<Option<B256>, ChainError> {
        let settlement = Settlement::new(self.deployment.settlement, &self.provider);
        let filter = settlement.Settled_filter().topic1(U256::from(seq)).from_block(from).to_block(to);
        let found = filter.query().await.map_err(contract("Settled"))?;
        Ok(found.last().and_then(|(_, log)| log.transaction_hash))
    }

    /// Reads the events of `seq` in a mined transaction; `None` when it did not settle `seq`.
    pub fn settled(&self, seq: u64, mined: &Mined) -> Option<Settled> {
        let of = |address: Address| mined.logs.iter().filter(move |log| log.address() == address);
        let settled = of(self.deployment.settlement).filter_map(|log| Settlement::Settled::decode_log(&log.inner).ok());
        let settled = settled.filter(|event| event.seq == seq).last()?;
        let shorts = of(self.deployment.credits).filter_map(|log| Vault::RowShort::decode_log(&log.inner).ok());
        let mut short = BTreeMap::new();
        for event in shorts.filter(|event| event.seq == seq) {
            let sum: &mut u64 = short.entry(OperatorId(event.operator)).or_default();
            *sum = sum.saturating_add(event.requested.saturating_sub(event.applied));
        }
        Some(Settled {
            receipts_root: settled.receiptsRoot,
            rows_hash: settled.rowsHash,
            debited: settled.debited,
            fee: settled.fee,
            short,
        })
    }

    /// Transactions of `address` in the newest block's state: the first nonce that is free.
    pub async fn nonce(&self, address: Address) -> Result<u64, ChainError> {
        self.provider.get_transaction_count(address).latest().await.map_err(rpc("eth_getTransactionCount"))
    }

    /// Wei that `address` holds.
    pub async fn balance_wei(&self, address: Address) -> Result<U256, ChainError> {
        self.provider.get_balance(address).await.map_err(rpc("eth_getBalance"))
    }

    /// Tip that the node suggests, wei per gas; `None` where it suggests none.
    pub async fn priority_fee_wei(&self) -> Option<u64> {
        // Not every node has the call, and the config's floor stands in.
        self.provider.get_max_priority_fee_per_gas().await.ok().and_then(|wei| u64::try_from(wei).ok())
    }

    /// Hands a signed transaction to the node. Errors never tell whether it was taken; look the hash up.
    pub async fn broadcast(&self, raw: &[u8]) -> Result<(), ChainError> {
        self.provider.send_raw_transaction(raw).await.map(|_| ()).map_err(rpc("eth_sendRawTransaction"))
    }
}

/// Call data of `settle` for a countersigned batch.
pub fn settle_input(batch: &SignedBatch) -> Bytes {
    let proposal = &batch.proposal;
    let call = Settlement::settleCall {
        seq: proposal.seq,
        receiptsRoot: proposal.receipts_root,
        rows: proposal.rows.clone(),
        deadline: wire::receipt::seconds_u40(proposal.deadline),
        signature: batch.signature.clone(),
    };
    call.abi_encode().into()
}

/// Call data of `claimMany`.
pub fn claim_input(operators: &[OperatorId]) -> Bytes {
    Vault::claimManyCall { operatorIds: operators.iter().map(|operator| operator.0).collect() }.abi_encode().into()
}

/// Gas that `settle` surely stays below, from what each row, group and byte can cost at worst (EIP-2929, EIP-2200, EIP-2028):
/// an estimate at the last block's time misses rows whose window opens meanwhile.
pub fn settle_gas_up(groups: &[rows::Group]) -> u64 {
    let rows: u64 = groups.iter().map(|group| group.rows.len() as u64).sum();
    200_000 + 8_000 * groups.len() as u64 + 9_000 * rows
}

fn read_mined(tx_hash: B256, receipt: TransactionReceipt) -> Result<Mined, ChainError> {
    let missing = ChainError::Missing { what: "the block of a receipt" };
    let (Some(block_hash), Some(block_number)) = (receipt.block_hash, receipt.block_number) else { return Err(missing) };
    if receipt.transaction_hash != tx_hash {
        return Err(ChainError::Malformed { call: "eth_getTransactionReceipt" });
    }
    Ok(Mined {
        tx_hash,
        block_hash,
        block_number,
        success: receipt.status(),
        gas_used: receipt.gas_used,
        gas_price_wei: u64::try_from(receipt.effective_gas_price).unwrap_or(u64::MAX),
        logs: receipt.inner.logs().to_vec(),
    })
}

fn revert(data: &[u8]) -> Revert {
    match SettleErrors::abi_decode(data) {
        Ok(SettleErrors::SeqMismatch(mismatch)) => Revert::Seq { expected: mismatch.expected },
        Ok(SettleErrors::SignatureExpired(_) | SettleErrors::InvalidSignature(_)) => Revert::Signature,
        Ok(other) => Revert::Other(format!("{other:?}")),
        Err(_) => Revert::Other(match VaultErrors::abi_decode(data) {
            Ok(error) => format!("{error:?}"),
            Err(_) => format!("0x{}", alloy::hex::encode(&data[..data.len().min(132)])),
        }),
    }
}

fn refuses_parameters(error: &TransportError) -> bool {
    error.as_error_resp().is_some_and(|payload| PARAMETERS_REFUSED.contains(&payload.code))
}

fn rpc(call: &'static str) -> impl FnOnce(TransportError) -> ChainError {
    move |error| ChainError::Rpc { call, error: Box::new(error) }
}

fn contract(call: &'static str) -> impl FnOnce(alloy::contract::Error) -> ChainError {
    move |error| match error {
        alloy::contract::Error::TransportError(error) => ChainError::Rpc { call, error: Box::new(error) },
        error => ChainError::Contract { call, error: Box::new(error) },
    }
}

/// Why nothing is known of the chain.
#[derive(Debug, Error)]
pub enum ChainError {
    /// The HTTP client can't be made.
    #[error("HTTP client for the chain: {error}")]
    Client {
        /// What the library said.
        error: reqwest::Error,
    },
    /// The endpoint did not answer, or answered with an error.
    #[error("{call}: {error}; nothing is concluded from it, the next round asks again")]
    Rpc {
        /// Which call.
        call: &'static str,
        /// What came back.
        error: Box<RpcError<alloy::transports::TransportErrorKind>>,
    },
    /// A contract did not answer as the deployment file says it should.
    #[error("{call}: {error}; check the addresses in the deployment file")]
    Contract {
        /// Which function.
        call: &'static str,
        /// What came back.
        error: Box<alloy::contract::Error>,
    },
    /// The endpoint is another chain's.
    #[error("chain.rpc_url is chain {actual}, the deployment file is of chain {expected}")]
    WrongChain {
        /// What the endpoint says.
        actual: u64,
        /// What the file says.
        expected: u64,
    },
    /// Something that every node has was not there.
    #[error("the node has no answer for {what}")]
    Missing {
        /// What was asked for.
        what: &'static str,
    },
    /// An answer that does not fit its question.
    #[error("{call}: the answer does not fit the question")]
    Malformed {
        /// Which call.
        call: &'static str,
    },
    /// More or fewer answers than questions.
    #[error("{call}: {actual} answers to {expected} questions")]
    Count {
        /// Which call.
        call: &'static str,
        /// How many came.
        actual: usize,
        /// How many were asked.
        expected: usize,
    },
}
