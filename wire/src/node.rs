//! Messages between meter and node, JSON text frames (`docs/protocol.md`, section 6).

use alloy::primitives::{Address, B256, Bytes, keccak256};
use serde::{Deserialize, Serialize};

use crate::proof::Window;
use crate::receipt::ServiceReceipt;
use crate::typed;
use crate::{AccountId, ModelRate, OperatorId};

pub use crate::params::{AnswerFormat, LOGIT_BIASES_MAX, ParamsError, SCHEMA_BYTES_MAX, SamplingParams, TOP_LOGPROBS_MAX};

/// Version of these messages; both sides must name the same.
pub const PROTOCOL: u32 = 3;
/// WebSocket sub-protocol of the link.
pub const SUBPROTOCOL: &str = "parallelix.node.1";
/// Path of the link on the meter.
pub const LINK_PATH: &str = "/v1/node/link";
/// Largest frame, bytes.
pub const FRAME_BYTES_MAX: usize = 1 << 20;
/// Ping period, seconds.
pub const PING_SECONDS: u64 = 10;
/// A link silent for so long is dead, seconds.
pub const SILENCE_SECONDS_MAX: u64 = 25;

/// What the meter says to a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum FromMeter {
    /// First frame: what the node must sign.
    Challenge {
        /// [`PROTOCOL`] of the meter.
        protocol: u32,
        /// 32 random bytes for this connection.
        challenge: B256,
        /// Chain of the contracts.
        chain_id: u64,
        /// Settlement contract, whose EIP-712 domain is signed under.
        settlement: Address,
    },
    /// The node is in.
    Welcome {
        /// Period of [`FromNode::Status`], milliseconds.
        heartbeat_ms: u64,
        /// Whether this node counts as project fallback hardware.
        fallback: bool,
    },
    /// The node is not let in; the link closes.
    Refused {
        /// `protocol`, `signature`, `not_registered`, `no_model` or `full`.
        code: String,
        /// What was wrong and what to do.
        message: String,
    },
    /// One whole request.
    Job(Job),
    /// Stop generating; answer with `finished`.
    Cancel {
        /// Which request.
        request_id: B256,
    },
    /// Sign this receipt, which is not above what was served.
    SignReceipt {
        /// What to sign.
        receipt: ServiceReceipt,
    },
    /// The receipt arrived and need not be kept.
    ReceiptAck {
        /// Which request.
        request_id: B256,
        /// What became of it.
        outcome: ReceiptOutcome,
    },
    /// Send the windows under a receipt's proof root; answered with `proof`.
    ProofRequest {
        /// Which request.
        request_id: B256,
    },
    /// Compute somebody else's answer again; answered with `audit_result`. Only to fallback hardware.
    Audit(AuditJob),
}

/// An answer to be computed again. The auditor is not told what it should find.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditJob {
    /// Names this audit on this link; random, and not the request's id.
    pub audit_id: B256,
    /// Which of the node's models.
    pub model: String,
    /// Token ids of the rendered prompt.
    pub prompt: Vec<u32>,
    /// Token ids of the answer as they arrived.
    pub completion: Vec<u32>,
    /// How they should have been sampled.
    pub params: SamplingParams,
}

/// What an auditor found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case", deny_unknown_fields)]
pub enum AuditOutcome {
    /// The whole sequence was computed.
    Computed {
        /// As the auditor computed them; the meter compares their root.
        windows: Vec<Window>,
        /// The first token that the parameters do not draw here; none when all are.
        first_wrong: Option<WrongToken>,
    },
    /// Nothing was computed.
    Refused {
        /// Why; shown to nobody but operators.
        message: String,
    },
}

/// A token that the sampler does not draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrongToken {
    /// Index in the answer.
    pub index: u32,
    /// In the answer.
    pub found: u32,
    /// What is drawn there; none when nothing can be, or the answer had ended before.
    pub drawn: Option<u32>,
}

/// What the meter did with a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReceiptOutcome {
    /// Charged; it will be settled.
    Captured,
    /// Nothing was charged, because nothing arrived.
    Released,
    /// The meter knows no such request, or it was settled otherwise.
    Unknown,
}

/// One request, to be served whole by one node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// Minted by the meter.
    pub request_id: B256,
    /// Who pays.
    pub account: AccountId,
    /// Who is asked to serve.
    pub operator: OperatorId,
    /// Which of the node's models.
    pub model: String,
    /// Token ids of the rendered prompt.
    pub prompt: Vec<u32>,
    /// How to sample, when to stop.
    pub params: SamplingParams,
    /// Rate in force, credits per 1,000,000 tokens.
    pub model_rate: ModelRate,
    /// Seconds since the epoch, the meter's clock.
    pub started_at: u64,
}

/// What a node says to a meter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum FromNode {
    /// Answer to the challenge.
    Hello(Hello),
    /// Generated token ids, in order.
    Tokens {
        /// Which request.
        request_id: B256,
        /// Index of the first token of this frame in the answer.
        first: u32,
        /// The ids.
        tokens: Vec<u32>,
        /// One for each token when the job asks for them, else absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        logprobs: Option<Vec<TokenLogprobs>>,
    },
    /// The answer is over.
    Finished {
        /// Which request.
        request_id: B256,
        /// Why it ended.
        finish_reason: FinishReason,
        /// The node's statement of what it served.
        receipt: ServiceReceipt,
        /// By the node key.
        signature: Bytes,
    },
    /// The request can't be served, or can't be finished.
    Failed {
        /// Which request.
        request_id: B256,
        /// What kind of failure.
        code: FailureCode,
        /// What was wrong; shown to nobody but operators.
        message: String,
    },
    /// Answer to `sign_receipt`, or one that was never acknowledged.
    Receipt {
        /// What was signed.
        receipt: ServiceReceipt,
        /// By the node key.
        signature: Bytes,
    },
    /// The node does not sign what it was asked to sign.
    ReceiptDeclined {
        /// Which request.
        request_id: B256,
        /// Why.
        message: String,
    },
    /// How the node is doing.
    Status(NodeStatus),
    /// Answer to `proof_request`.
    Proof {
        /// Which request.
        request_id: B256,
        /// All windows in order; none when the node does not keep them any more.
        windows: Option<Vec<Window>>,
    },
    /// Answer to `audit`.
    AuditResult {
        /// Which audit.
        audit_id: B256,
        /// What was found.
        result: AuditOutcome,
    },
}

/// Natural logarithms of probabilities at one token of an answer, before penalties, bias and temperature. None is below
/// [`TokenLogprobs::LEAST`], none above 0.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenLogprobs {
    /// Of the token itself.
    pub logprob: f32,
    /// The likeliest tokens, in descending order, ties by ascending id; as many as the job asks for.
    pub top: Vec<(u32, f32)>,
}

impl TokenLogprobs {
    /// What stands for anything less likely, as in OpenAI's API.
    pub const LEAST: f32 = -9999.0;
}

/// Who a node is and what it serves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// [`PROTOCOL`] of the node.
    pub protocol: u32,
    /// The operator that registered the key.
    pub operator: OperatorId,
    /// Address of the node's signing key.
    pub node: Address,
    /// At least one.
    pub models: Vec<ServedModel>,
    /// Most requests at once.
    pub capacity: u32,
    /// Declared, not measured.
    pub device: Device,
    /// Version of the program.
    pub version: String,
    /// Where it stands, in its operator's words. Left out when not said, so that meters which do not know it still link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Signature of `NodeHello` by the node key.
    pub signature: Bytes,
}

/// A model as a node serves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServedModel {
    /// Id as in `/v1/models`.
    pub model: String,
    /// Digest of the weights.
    pub model_root: B256,
    /// Digest of numeric contract, tokenizer and template.
    pub engine: B256,
    /// Most tokens of prompt and answer together.
    pub context_tokens: u32,
}

/// Hardware as its operator declares it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// `cpu` or `cuda`.
    pub kind: String,
    /// Name of the processor.
    pub name: String,
    /// Memory of the device.
    pub memory_bytes: u64,
    /// Threads or multiprocessors in use.
    pub parallelism: u32,
}

/// Load and speed of a node, as it measures itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeStatus {
    /// Requests being served.
    pub active: u32,
    /// Requests accepted and waiting.
    pub queued: u32,
    /// Most requests at once.
    pub capacity: u32,
    /// All requests together, over the last seconds of work; 0 before any.
    pub decode_tokens_per_s: f32,
    /// As above, for prompts.
    pub prefill_tokens_per_s: f32,
    /// Of the KV cache and weights.
    pub memory_used_bytes: u64,
    /// Share of the last seconds in which an engine computed, 0 to 100; of several engines the busiest one's.
    pub utilization_percent: f32,
    /// Most multiplications and additions of model weights in any second of work so far, in 10^12; 0 before any.
    pub tflops: f32,
    /// Takes no new jobs.
    pub draining: bool,
    /// Why a device of the node computes nothing any more; it drains then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_error: Option<String>,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// End of turn, stop token or stop string.
    Stop,
    /// `max_tokens` reached.
    Length,
    /// The meter asked for it.
    Cancelled,
}

/// Why a node could not serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureCode {
    /// Queue or memory is full; another node may have room.
    Busy,
    /// Prompt and `max_tokens` do not fit the context.
    TooLong,
    /// The node does not serve that model.
    UnknownModel,
    /// Parameters outside their range.
    BadParams,
    /// The engine failed.
    Engine,
}

impl Hello {
    /// What the node signs in answer to `challenge`.
    pub fn typed(&self, challenge: B256) -> typed::NodeHello {
        typed::NodeHello { challenge, operator: self.operator.0, node: self.node, modelsHash: models_hash(&self.models) }
    }
}

/// Commitment to the served models, in order.
pub fn models_hash(models: &[ServedModel]) -> B256 {
    let mut bytes = Vec::with_capacity(models.len() * 100);
    for model in models {
        bytes.extend(keccak256(model.model.as_bytes()).0);
        bytes.extend(model.model_root.0);
        bytes.extend(model.engine.0);
        bytes.extend(model.context_tokens.to_be_bytes());
    }
    keccak256(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_read_back_and_unknown_ones_are_refused() {
        let cancel = FromMeter::Cancel { request_id: B256::repeat_byte(7) };
        let text = serde_json::to_string(&cancel).unwrap();
        assert!(text.starts_with(r#"{"type":"cancel","request_id":"0x0707"#), "{text}");
        assert_eq!(serde_json::from_str::<FromMeter>(&text).unwrap(), cancel);
        assert!(serde_json::from_str::<FromMeter>(r#"{"type":"reboot"}"#).is_err());
        assert!(serde_json::from_str::<FromNode>(r#"{"type":"tokens","request_id":"0x00","first":0,"tokens":[]}"#).is_err());
    }

    #[test]
    fn an_unknown_field_is_refused() {
        let mut value = serde_json::to_value(FromNode::Status(NodeStatus::default())).unwrap();
        assert!(serde_json::from_value::<FromNode>(value.clone()).is_ok());
        value["temperature_celsius"] = 90.into();
        assert!(serde_json::from_value::<FromNode>(value).is_err());
    }
}
