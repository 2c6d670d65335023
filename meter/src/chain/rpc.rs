//! The endpoint, which is believed only as far as its answers fit together: bounded requests, bounded answers, every one checked for
//! being about what was asked. An error means that nothing is known, never that something isn't so.

use std::collections::BTreeSet;
use std::task::{Context, Poll};
use std::time::Duration;

use alloy::primitives::{Address, B256, Bytes, U64};
use alloy::rpc::client::RpcClient;
use alloy::rpc::json_rpc::{RequestPacket, ResponsePacket};
use alloy::rpc::types::Log;
use alloy::transports::http::reqwest;
use alloy::transports::{TransportError, TransportErrorKind, TransportFut};
use serde::Deserialize;
use serde_json::json;
use tower::Service;

use super::MirrorError;

/// Largest answer, bytes.
const ANSWER_BYTES_MAX: usize = 32 << 20;
/// Most logs in one answer.
const LOGS_MAX: usize = 20_000;
/// Headers asked for at once.
const HEADERS_AT_ONCE: usize = 16;

/// What we read of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Header {
    number: U64,
    pub(super) hash: B256,
    pub(super) parent_hash: B256,
    timestamp: U64,
}

impl Header {
    pub(super) fn number(&self) -> u64 {
        self.number.to()
    }

    pub(super) fn timestamp(&self) -> u64 {
        self.timestamp.to()
    }
}

/// A log whose place in the chain is stated.
#[derive(Clone, Debug)]
pub(super) struct PlacedLog {
    pub(super) block_number: u64,
    pub(super) block_hash: B256,
    pub(super) transaction: B256,
    pub(super) log_index: u64,
    pub(super) log: alloy::primitives::Log,
}

/// One JSON-RPC endpoint.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    client: RpcClient,
}

impl Endpoint {
    /// Connects nothing yet. Errors on a malformed URL.
    pub(super) fn new(url: &str, timeout: Duration) -> Result<Self, MirrorError> {
        daemon::install_tls();
        let malformed = |reason: String| MirrorError::Url { reason };
        let url: reqwest::Url = url.parse().map_err(|error| malformed(format!("{error}")))?;
        let client = reqwest::Client::builder().timeout(timeout).build().map_err(|error| malformed(error.to_string()))?;
        Ok(Self { client: RpcClient::new(BoundedHttp { client, url }, false) })
    }

    pub(super) async fn chain_id(&self) -> Result<u64, MirrorError> {
        let id: U64 = self.client.request_noparams("eth_chainId").await?;
        Ok(id.to())
    }

    /// The newest block, or the newest finalized one.
    pub(super) async fn tagged(&self, tag: &'static str) -> Result<Header, MirrorError> {
        let header: Option<Header> = self.client.request("eth_getBlockByNumber", (tag, false)).await?;
        header.ok_or(MirrorError::NoBlock { block: tag.to_owned() })
    }

    /// The block of a height. `None` while the endpoint doesn't have it.
    pub(super) async fn header(&self, number: u64) -> Result<Option<Header>, MirrorError> {
        let header: Option<Header> = self.client.request("eth_getBlockByNumber", (U64::from(number), false)).await?;
        match header {
            Some(header) if header.number() != number => Err(MirrorError::OtherBlock { asked: number, given: header.number() }),
            header => Ok(header),
        }
    }

    /// The blocks of these heights, in that order. Errors when one is missing.
    pub(super) async fn headers(&self, numbers: &BTreeSet<u64>) -> Result<Vec<Header>, MirrorError> {
        let numbers: Vec<u64> = numbers.iter().copied().collect();
        let mut headers = Vec::with_capacity(numbers.len());
        for chunk in numbers.chunks(HEADERS_AT_ONCE) {
            let found = futures_util::future::try_join_all(chunk.iter().map(|number| self.header(*number))).await?;
            for (header, number) in found.into_iter().zip(chunk) {
                headers.push(header.ok_or(MirrorError::NoBlock { block: number.to_string() })?);
            }
        }
        Ok(headers)
    }

    /// Logs of `addresses` in the blocks `from` to `to`, in the chain's order. Errors on logs of other contracts or other blocks, on logs
    /// without a place, on the same place twice, and on too many.
    pub(super) async fn logs(&self, from: u64, to: u64, addresses: &[Address]) -> Result<Vec<PlacedLog>, MirrorError> {
        let filter = json!({ "fromBlock": U64::from(from), "toBlock": U64::from(to), "address": addresses });
        let logs: Vec<Log> = self.client.request("eth_getLogs", (filter,)).await?;
        if logs.len() > LOGS_MAX {
            return Err(MirrorError::TooManyLogs { logs: logs.len(), max: LOGS_MAX });
        }
        let mut placed = logs.into_iter().map(placed).collect::<Result<Vec<_>, _>>()?;
        for log in &placed {
            if !addresses.contains(&log.log.address) || log.block_number < from || log.block_number > to {
                return Err(MirrorError::ForgedLog { address: log.log.address, block: log.block_number });
            }
        }
        placed.sort_by_key(|log| (log.block_number, log.log_index));
        let twice = placed.windows(2).any(|pair| (pair[0].block_number, pair[0].log_index) == (pair[1].block_number, pair[1].log_index));
        if twice { Err(MirrorError::Inconsistent { what: "a log came twice" }) } else { Ok(placed) }
    }

    /// Any question and its whole answer, as the endpoint gave it.
    pub(super) async fn ask(&self, method: &'static str, params: serde_json::Value) -> Result<serde_json::Value, TransportError> {
        self.client.request(method, params).await
    }

    /// Calls a view at a block.
    pub(super) async fn call(&self, to: Address, input: Bytes, block: u64) -> Result<Bytes, MirrorError> {
        let call = json!({ "to": to, "input": input });
        Ok(self.client.request("eth_call", (call, U64::from(block))).await?)
    }
}

fn placed(log: Log) -> Result<PlacedLog, MirrorError> {
    let place = (log.block_number, log.block_hash, log.transaction_hash, log.log_index);
    let (Some(block_number), Some(block_hash), Some(transaction), Some(log_index), false) =
        (place.0, place.1, place.2, place.3, log.removed)
    else {
        return Err(MirrorError::Inconsistent { what: "a log has no place in the chain" });
    };
    Ok(PlacedLog { block_number, block_hash, transaction, log_index, log: log.inner })
}

/// HTTP that reads no more than [`ANSWER_BYTES_MAX`].
#[derive(Clone, Debug)]
struct BoundedHttp {
    client: reqwest::Client,
    url: reqwest::Url,
}

impl BoundedHttp {
    async fn send(self, request: RequestPacket) -> Result<ResponsePacket, TransportError> {
        let response = self.client.post(self.url).json(&request).send().await;
        // The URL may hold a key.
        let mut response = response.map_err(|error| TransportErrorKind::custom(error.without_url()))?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| TransportErrorKind::custom(error.without_url()))? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(TransportErrorKind::custom_str("the answer is too long"));
            }
            body.extend_from_slice(&chunk);
        }
        let text = String::from_utf8_lossy(&body);
        if !status.is_success() {
            return Err(TransportErrorKind::http_error(status.as_u16(), text.chars().take(200).collect()));
        }
        serde_json::from_str(&text).map_err(|error| TransportError::deser_err(error, text.chars().take(200).collect::<String>()))
    }
}

impl Service<RequestPacket> for BoundedHttp {
    type Response = ResponsePacket;
    type Error = TransportError;
    type Future = TransportFut<'static>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: RequestPacket) -> Self::Future {
        Box::pin(self.clone().send(request))
    }
}
