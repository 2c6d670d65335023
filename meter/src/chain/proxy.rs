//! The page's view of the chain: a few read-only questions, passed on to the meter's own endpoint. Everything that is passed on is built
//! anew from what was understood, so nothing else of a request reaches the endpoint.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use alloy::primitives::{Address, B256, Bytes, U64};
use alloy::sol_types::SolCall;
use alloy::transports::TransportError;
use serde_json::{Value, json};
use thiserror::Error;
use tokio::sync::Semaphore;
use wire::deployment::Deployment;

use super::MirrorError;
use super::rpc::Endpoint;

/// Questions at once.
const AT_ONCE_MAX: usize = 16;
/// Questions a second over time, and at once after a rest; for everybody together.
const PER_SECOND: f64 = 50.0;
const BURST: f64 = 200.0;
/// Most gas of a call; reading an account takes a thousandth.
const CALL_GAS: u64 = 5_000_000;
/// Longest call data, bytes.
const CALL_BYTES_MAX: usize = 8 << 10;
/// Longest answer, bytes of JSON.
const ANSWER_BYTES_MAX: usize = 256 << 10;
/// Longest wait for the endpoint.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Passes questions on.
#[derive(Clone)]
pub struct ChainProxy {
    endpoint: Endpoint,
    contracts: [Address; 4],
    places: Arc<Semaphore>,
    bucket: Arc<Mutex<Bucket>>,
}

struct Bucket {
    left: f64,
    filled: Instant,
}

/// What the endpoint said.
#[derive(Clone, Debug, PartialEq)]
pub enum ChainAnswer {
    /// A result.
    Result(Value),
    /// An error of JSON-RPC, such as a reverted call.
    Error(Value),
}

/// Why a question was not passed on, or has no answer.
#[derive(Debug, Error)]
pub enum ProxyError {
    /// Not among those that are.
    #[error(
        "{what} is not answered here; ask eth_chainId, eth_blockNumber, eth_getBlockByNumber (without transactions), eth_getTransactionReceipt, eth_getTransactionByHash, or eth_call of the deployment's contracts"
    )]
    NotAllowed {
        /// What was asked.
        what: String,
    },
    /// Too much at once.
    #[error("the chain is asked too much at once; try again in a second")]
    Busy,
    /// The endpoint failed; its words are for the log.
    #[error("the chain can't be asked now; try again in a moment")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl ChainProxy {
    /// Asks `rpc_url` about the contracts of `deployment`. Errors on a malformed URL.
    pub fn new(rpc_url: &str, deployment: &Deployment) -> Result<Self, MirrorError> {
        Ok(Self {
            endpoint: Endpoint::new(rpc_url, TIMEOUT)?,
            contracts: [deployment.prlx, deployment.credits, deployment.settlement, deployment.registry],
            places: Arc::new(Semaphore::new(AT_ONCE_MAX)),
            bucket: Arc::new(Mutex::new(Bucket { left: BURST, filled: Instant::now() })),
        })
    }

    /// Asks one question. A block comes with its number, hash, parent and time only.
    pub async fn ask(&self, method: &str, params: &Value) -> Result<ChainAnswer, ProxyError> {
        let (method, params) = self.understood(method, params)?;
        let _place = self.places.try_acquire().map_err(|_| ProxyError::Busy)?;
        self.take_token()?;
        match self.endpoint.ask(method, params).await {
            Ok(result) if method == "eth_getBlockByNumber" && result.is_object() => {
                let fields = ["number", "hash", "parentHash", "timestamp"];
                Ok(ChainAnswer::Result(fields.into_iter().map(|field| (field.to_owned(), result[field].clone())).collect()))
            }
            Ok(result) if result.to_string().len() > ANSWER_BYTES_MAX => Err(ProxyError::Unavailable("the answer is too long".into())),
            Ok(result) => Ok(ChainAnswer::Result(result)),
            Err(TransportError::ErrorResp(error)) => {
                let message: String = error.message.chars().take(500).collect();
                let data = error.data.and_then(|data| serde_json::from_str::<Value>(data.get()).ok());
                let data = data.filter(|data| data.to_string().len() <= ANSWER_BYTES_MAX);
                Ok(ChainAnswer::Error(json!({ "code": error.code, "message": message, "data": data })))
            }
            Err(error) => Err(ProxyError::Unavailable(Box::new(error))),
        }
    }

    /// Asks a view of one of the deployment's contracts at the newest block. Errors also when the call reverts or its answer can't be read.
    pub(super) async fn view<C: SolCall>(&self, contract: Address, call: &C) -> Result<C::Return, ProxyError> {
        let question = json!([{ "to": contract, "input": Bytes::from(call.abi_encode()) }, "latest"]);
        let unreadable = || ProxyError::Unavailable(format!("{} can't be read", C::SIGNATURE).into());
        let ChainAnswer::Result(answer) = self.ask("eth_call", &question).await? else { return Err(unreadable()) };
        let output: Bytes = read(&answer).ok_or_else(unreadable)?;
        C::abi_decode_returns(&output).map_err(|_| unreadable())
    }

    /// The question as it is passed on.
    fn understood(&self, method: &str, params: &Value) -> Result<(&'static str, Value), ProxyError> {
        let none = Vec::new();
        let params = params.as_array().unwrap_or(&none);
        match (method, params.as_slice()) {
            ("eth_chainId", []) => Ok(("eth_chainId", json!([]))),
            ("eth_blockNumber", []) => Ok(("eth_blockNumber", json!([]))),
            ("eth_getBlockByNumber", [block, Value::Bool(false)]) => Ok(("eth_getBlockByNumber", json!([self::block(block)?, false]))),
            ("eth_getTransactionReceipt", [hash]) => Ok(("eth_getTransactionReceipt", json!([transaction(hash)?]))),
            ("eth_getTransactionByHash", [hash]) => Ok(("eth_getTransactionByHash", json!([transaction(hash)?]))),
            ("eth_call", [call]) => Ok(("eth_call", json!([self.call(call)?, "latest"]))),
            ("eth_call", [call, block]) => Ok(("eth_call", json!([self.call(call)?, self::block(block)?]))),
            (
                "eth_chainId"
                | "eth_blockNumber"
                | "eth_getBlockByNumber"
                | "eth_getTransactionReceipt"
                | "eth_getTransactionByHash"
                | "eth_call",
                _,
            ) => Err(not_allowed(&format!("{method} with these parameters"))),
            _ => Err(not_allowed(&method.chars().take(64).collect::<String>())),
        }
    }

    fn call(&self, call: &Value) -> Result<Value, ProxyError> {
        let to: Option<Address> = read(&call["to"]);
        let to = to.filter(|to| self.contracts.contains(to)).ok_or_else(|| not_allowed("a call of another contract"))?;
        let input = if call["input"].is_null() { &call["data"] } else { &call["input"] };
        let input: Bytes =
            read(input).filter(|input: &Bytes| input.len() <= CALL_BYTES_MAX).ok_or_else(|| not_allowed("this call data"))?;
        let mut passed = json!({ "to": to, "input": input, "gas": U64::from(CALL_GAS) });
        if let Some(from) = read::<Address>(&call["from"]) {
            passed["from"] = json!(from);
        }
        Ok(passed)
    }

    fn take_token(&self) -> Result<(), ProxyError> {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        bucket.left = (bucket.left + (now - bucket.filled).as_secs_f64() * PER_SECOND).min(BURST);
        bucket.filled = now;
        if bucket.left < 1.0 {
            return Err(ProxyError::Busy);
        }
        bucket.left -= 1.0;
        Ok(())
    }
}

fn transaction(hash: &Value) -> Result<B256, ProxyError> {
    read(hash).ok_or_else(|| not_allowed("this transaction hash"))
}

fn block(block: &Value) -> Result<Value, ProxyError> {
    match block.as_str() {
        Some("latest" | "finalized" | "safe") => Ok(block.clone()),
        _ => read::<U64>(block)
            .map(|number| json!(number))
            .ok_or_else(|| not_allowed("this block; name latest, safe, finalized or a number")),
    }
}

fn read<T: serde::de::DeserializeOwned>(value: &Value) -> Option<T> {
    serde_json::from_value(value.clone()).ok()
}

fn not_allowed(what: &str) -> ProxyError {
    ProxyError::NotAllowed { what: what.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy() -> ChainProxy {
        let contract = Address::repeat_byte;
        let deployment = Deployment {
            chain_id: 1,
            deploy_block: 0,
            prlx: contract(1),
            credits: contract(2),
            settlement: contract(3),
            registry: contract(4),
            exit_delay: 1,
            velocity_window: 1,
            fee_bps: 0,
            settler: contract(5),
        };
        ChainProxy::new("http://127.0.0.1:1", &deployment).unwrap()
    }

    #[test]
    fn only_a_few_reads_are_passed_on_and_nothing_else_of_them() {
        let proxy = proxy();
        let to = Address::repeat_byte(2);
        let call = json!({ "to": to, "data": "0x01", "gas": "0xffffffffff", "value": "0x1", "gasPrice": "0x1" });
        let (_, passed) = proxy.understood("eth_call", &json!([call, "latest"])).unwrap();
        assert_eq!(passed, json!([{ "to": to, "input": "0x01", "gas": "0x4c4b40" }, "latest"]));
        assert_eq!(proxy.understood("eth_getBlockByNumber", &json!(["0x1", false])).unwrap().1, json!(["0x1", false]));

        let hash = json!([B256::repeat_byte(7)]);
        assert_eq!(proxy.understood("eth_getTransactionByHash", &hash).unwrap(), ("eth_getTransactionByHash", hash));

        let long = format!("0x{}", "00".repeat(CALL_BYTES_MAX + 1));
        let refused = [
            ("eth_sendRawTransaction", json!(["0x"])),
            ("eth_getLogs", json!([{}])),
            ("debug_traceCall", json!([])),
            ("eth_chainId", json!([1])),
            ("eth_getBlockByNumber", json!(["latest", true])),
            ("eth_getBlockByNumber", json!(["pending", false])),
            ("eth_getBlockByNumber", json!([{ "blockHash": "0x" }, false])),
            ("eth_getTransactionReceipt", json!(["0x12"])),
            ("eth_getTransactionByHash", json!(["0x12"])),
            ("eth_call", json!([{ "to": Address::repeat_byte(9), "data": "0x" }, "latest"])),
            ("eth_call", json!([{ "data": "0x6000" }, "latest"])),
            ("eth_call", json!([{ "to": to, "data": long }, "latest"])),
            ("eth_call", json!([{ "to": to, "data": "0x" }, "latest", { to.to_string(): { "code": "0x" } }])),
            ("eth_call", json!({ "to": to })),
        ];
        for (method, params) in refused {
            assert!(matches!(proxy.understood(method, &params), Err(ProxyError::NotAllowed { .. })), "{method} {params}");
        }
    }

    #[test]
    fn questions_are_limited() {
        let proxy = proxy();
        let passed = (0..2 * BURST as usize).filter(|_| proxy.take_token().is_ok()).count();
        assert!((BURST as usize..2 * BURST as usize).contains(&passed), "{passed}");
    }
}
