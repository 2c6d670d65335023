//! The chain as a client sees it: `cast` for calls and transactions, JSON-RPC for what only a development chain has.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::command;
use crate::http::Api;
use crate::stop::{Stop, wait_until};

const CALL_LIMIT: Duration = Duration::from_secs(60);
const RECEIPT_LIMIT: Duration = Duration::from_secs(120);

/// An encrypted key and the file with its password.
#[derive(Clone, Debug)]
pub struct Key {
    /// Address of the key, checksummed or not.
    pub address: String,
    /// Web3 Secret Storage file.
    pub keystore: PathBuf,
    /// Mode 0600.
    pub password_file: PathBuf,
}

/// A chain endpoint.
#[derive(Clone, Debug)]
pub struct Chain {
    cast: PathBuf,
    rpc_url: String,
    rpc: Api,
    stop: Stop,
}

/// Who pays for and signs a transaction.
#[derive(Clone, Copy, Debug)]
pub enum Sender<'a> {
    /// An account whose key the development chain itself holds.
    Unlocked(&'a str),
    /// A keystore of ours.
    Keystore(&'a Key),
}

impl Chain {
    /// The chain at `rpc_url`, reached with the pinned `cast`.
    pub fn new(cast: &Path, rpc_url: &str, stop: &Stop) -> Self {
        Self { cast: cast.to_owned(), rpc_url: rpc_url.to_owned(), rpc: Api::new(rpc_url), stop: stop.clone() }
    }

    /// Where the chain is reached.
    pub fn rpc_url(&self) -> &str {
        &self.rpc_url
    }

    /// One JSON-RPC call. Errors with the chain's own message.
    pub fn rpc(&self, method: &str, params: Value) -> Result<Value> {
        let reply = self.rpc.post("", &json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))?;
        let mut body = reply.ok(method)?;
        if let Some(error) = body.get("error") {
            bail!("{method}: {}", error["message"].as_str().map_or_else(|| error.to_string(), str::to_owned));
        }
        Ok(body["result"].take())
    }

    /// Number of the newest block.
    pub fn block_number(&self) -> Result<u64> {
        hex_number(&self.rpc("eth_blockNumber", json!([]))?)
    }

    /// Timestamp of the newest block, seconds since the epoch.
    pub fn timestamp(&self) -> Result<u64> {
        hex_number(&self.rpc("eth_getBlockByNumber", json!(["latest", false]))?["timestamp"])
    }

    /// Gives `address` an ETH balance, for gas; a development chain's own call.
    pub fn set_balance(&self, address: &str, eth: u64) -> Result<()> {
        self.rpc("anvil_setBalance", json!([address, format!("{:#x}", u128::from(eth) * 1_000_000_000_000_000_000)])).map(drop)
    }

    /// A view call; `signature` as `name(inputs)(outputs)`. One value for each output: lists and tuples as arrays, whole
    /// numbers above 64 bits as strings.
    pub fn call(&self, to: &str, signature: &str, arguments: &[&str]) -> Result<Vec<Value>> {
        let mut cast = Command::new(&self.cast);
        cast.args(["call", "--json", "--rpc-url", &self.rpc_url, to, signature]).args(arguments);
        let said = command::capture(&mut cast, CALL_LIMIT, &self.stop)?;
        serde_json::from_str(&said).with_context(|| format!("`cast call {signature}` printed no JSON: {said}"))
    }

    /// A view call with one output.
    pub fn call_one(&self, to: &str, signature: &str, arguments: &[&str]) -> Result<Value> {
        self.call(to, signature, arguments)?.into_iter().next().with_context(|| format!("{signature} returned nothing"))
    }

    /// A view call with one unsigned number.
    pub fn call_number(&self, to: &str, signature: &str, arguments: &[&str]) -> Result<u128> {
        let value = self.call_one(to, signature, arguments)?;
        plain(&value).parse().with_context(|| format!("{signature} returned `{value}`, which is no number"))
    }

    /// Sends a transaction, waits until it is mined, and returns its hash. Errors when it reverts.
    pub fn send(&self, sender: Sender<'_>, to: &str, signature: &str, arguments: &[&str]) -> Result<String> {
        let mut cast = Command::new(&self.cast);
        cast.args(["send", "--json", "--rpc-url", &self.rpc_url, "--timeout", "90"]);
        match sender {
            Sender::Unlocked(address) => cast.args(["--unlocked", "--from", address]),
            Sender::Keystore(key) => cast.arg("--keystore").arg(&key.keystore).arg("--password-file").arg(&key.password_file),
        };
        cast.args([to, signature]).args(arguments);
        let said = command::capture(&mut cast, RECEIPT_LIMIT, &self.stop)?;
        let receipt: Value = serde_json::from_str(&said).with_context(|| format!("`cast send {signature}` printed no receipt: {said}"))?;
        let hash = receipt["transactionHash"].as_str().unwrap_or_default().to_owned();
        ensure!(receipt["status"] == "0x1", "transaction {hash} ({signature}) reverted");
        Ok(hash)
    }

    /// Signs EIP-712 typed data; 65 bytes as `0x…`.
    pub fn sign_typed(&self, key: &Key, typed_data: &Value) -> Result<String> {
        let mut cast = Command::new(&self.cast);
        cast.args(["wallet", "sign", "--keystore"]).arg(&key.keystore).arg("--password-file").arg(&key.password_file);
        cast.args(["--data", &typed_data.to_string()]);
        Ok(command::capture(&mut cast, CALL_LIMIT, &self.stop)?.trim().to_owned())
    }

    /// Waits until the chain answers.
    pub fn await_answer(&self, limit: Duration) -> Result<u64> {
        wait_until(&format!("the chain at {}", self.rpc_url), limit, &self.stop, || Ok(self.block_number().ok()))
    }
}

fn hex_number(value: &Value) -> Result<u64> {
    let text = value.as_str().with_context(|| format!("expected a number from the chain, got {value}"))?;
    u64::from_str_radix(text.trim_start_matches("0x"), 16).with_context(|| format!("`{text}` is no number"))
}

/// A JSON value as `cast` takes it: a string without quotes, anything else as it is written.
pub fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_from_the_chain_and_written_for_cast() {
        assert_eq!(hex_number(&json!("0x1f")).unwrap(), 31);
        assert!(hex_number(&json!(null)).is_err());
        assert_eq!(plain(&json!("100000000000000000000")), "100000000000000000000");
        assert_eq!(plain(&json!(true)), "true");
    }
}
