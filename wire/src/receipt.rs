//! The service receipt: what was served, for whom, at what price (`docs/protocol.md`, section 5).

use alloy::primitives::{Address, B256, keccak256};
use alloy::sol_types::Eip712Domain;
use serde::{Deserialize, Serialize};

use crate::typed::{self, TypedError};
use crate::{AccountId, AmountError, Credits, ModelRate, OperatorId, message_cost_up};

/// One served request as both sides state it; the operator's node signs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceReceipt {
    /// Minted by the meter.
    pub request_id: B256,
    /// Who pays.
    pub account: AccountId,
    /// Who served.
    pub operator: OperatorId,
    /// Digest of the weights.
    pub model_root: B256,
    /// Digest of numeric contract, tokenizer and chat template.
    pub engine: B256,
    /// Tokens of the rendered prompt.
    pub prompt_tokens: u32,
    /// Tokens of the answer.
    pub completion_tokens: u32,
    /// Rate in force when the hold was made, credits per 1,000,000 tokens.
    pub model_rate: ModelRate,
    /// The charge: `message_cost_up(model_rate, prompt_tokens + completion_tokens)`.
    pub amount: Credits,
    /// Hash of the prompt's token ids.
    pub prompt_hash: B256,
    /// Hash of the answer's token ids.
    pub completion_hash: B256,
    /// Hash of the canonical sampling parameters.
    pub params_hash: B256,
    /// Root over the proof windows; zero when the node lost its state.
    pub proof_root: B256,
    /// When the job was sent, seconds since the epoch, the meter's clock.
    pub started_at: u64,
    /// When the answer ended, seconds since the epoch, the node's clock.
    pub served_at: u64,
}

impl ServiceReceipt {
    /// The struct that is hashed and signed. Times are cut to 40 bits, as the type has them.
    pub fn typed(&self) -> typed::ServiceReceipt {
        typed::ServiceReceipt {
            requestId: self.request_id,
            account: self.account.0,
            operator: self.operator.0,
            modelRoot: self.model_root,
            engine: self.engine,
            promptTokens: self.prompt_tokens,
            completionTokens: self.completion_tokens,
            modelRate: self.model_rate.0,
            amount: self.amount.get(),
            promptHash: self.prompt_hash,
            completionHash: self.completion_hash,
            paramsHash: self.params_hash,
            proofRoot: self.proof_root,
            startedAt: seconds_u40(self.started_at),
            servedAt: seconds_u40(self.served_at),
        }
    }

    /// The 32 bytes that the node signs; `domain` is the settlement contract's.
    pub fn digest(&self, domain: &Eip712Domain) -> B256 {
        typed::digest(&self.typed(), domain)
    }

    /// The node key that signed this receipt. Errors as [`typed::recover`].
    pub fn signer(&self, domain: &Eip712Domain, signature: &[u8]) -> Result<Address, TypedError> {
        typed::recover_digest(self.digest(domain), signature)
    }

    /// What the counts cost at the rate, which `amount` must equal. Errors above [`Credits::MAX`].
    pub fn cost_up(&self) -> Result<Credits, AmountError> {
        message_cost_up(self.model_rate, u64::from(self.prompt_tokens) + u64::from(self.completion_tokens))
    }

    /// This receipt for the first `completion_tokens` of the answer: fewer tokens, their hash, the lower amount, no proof.
    /// Errors above [`Credits::MAX`], which a lower count than a valid receipt's never is.
    pub fn for_fewer(&self, completion_tokens: u32, completion_hash: B256) -> Result<Self, AmountError> {
        let fewer = Self { completion_tokens, completion_hash, proof_root: B256::ZERO, ..self.clone() };
        Ok(Self { amount: fewer.cost_up()?, ..fewer })
    }
}

/// Hash of token ids: each as four bytes little-endian.
pub fn tokens_hash(tokens: &[u32]) -> B256 {
    let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
    keccak256(bytes)
}

/// Digest of what turns text into tokens and tokens into numbers: numeric contract name, `tokenizer.json`, chat template.
pub fn engine_id(numeric_contract: &str, tokenizer_json: B256, chat_template: B256) -> B256 {
    keccak256(format!("{numeric_contract}\n{tokenizer_json:x}\n{chat_template:x}"))
}

/// Seconds as a `uint40` takes them: enough for 34,000 years.
pub fn seconds_u40(seconds: u64) -> alloy::primitives::aliases::U40 {
    alloy::primitives::aliases::U40::saturating_from(seconds)
}
