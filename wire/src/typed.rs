//! The signed types (EIP-712; `docs/protocol.md`, section 2): domains, digests, signing, recovering.

use alloy::primitives::{Address, B256, Signature, SignatureError, U256, eip191_hash_message};
use alloy::signers::SignerSync;
use alloy::sol_types::{Eip712Domain, SolStruct};
use thiserror::Error;

alloy::sol! {
    /// Permission to debit, signed once by the payer.
    #[derive(Debug, PartialEq, Eq)]
    struct SpendAuthorization {
        address owner;
        uint64 cap;
        uint48 exposure;
        uint40 validUntil;
        bytes32 challenge;
        uint32 nonce;
        uint40 signDeadline;
    }

    /// Withdrawal of a permission, signed by the payer, relayed by anyone.
    #[derive(Debug, PartialEq, Eq)]
    struct Revocation {
        address owner;
        uint32 nonce;
        uint40 signDeadline;
    }

    /// Opens a session at the meter without touching the authorization.
    #[derive(Debug, PartialEq, Eq)]
    struct SignIn {
        address owner;
        bytes32 challenge;
        uint40 signDeadline;
    }

    /// The settler's word that nothing is outstanding for an account.
    #[derive(Debug, PartialEq, Eq)]
    struct ClosureClearance {
        uint32 account;
        uint64 settled;
        uint32 authNonce;
        uint40 deadline;
    }

    /// One batch of debits, signed by the settler.
    #[derive(Debug, PartialEq, Eq)]
    struct SettlementBatch {
        uint64 seq;
        bytes32 receiptsRoot;
        bytes32 rowsHash;
        uint40 deadline;
    }

    /// One served request, signed by the operator's node key.
    #[derive(Debug, PartialEq, Eq)]
    struct ServiceReceipt {
        bytes32 requestId;
        uint32 account;
        uint32 operator;
        bytes32 modelRoot;
        bytes32 engine;
        uint32 promptTokens;
        uint32 completionTokens;
        uint64 modelRate;
        uint64 amount;
        bytes32 promptHash;
        bytes32 completionHash;
        bytes32 paramsHash;
        bytes32 proofRoot;
        uint40 startedAt;
        uint40 servedAt;
    }

    /// A node's proof that it holds its key, on one connection.
    #[derive(Debug, PartialEq, Eq)]
    struct NodeHello {
        bytes32 challenge;
        uint32 operator;
        address node;
        bytes32 modelsHash;
    }

    /// A keeper's short-lived pass to the settlement feed.
    #[derive(Debug, PartialEq, Eq)]
    struct KeeperAccess {
        address keeper;
        uint40 validUntil;
    }

    /// A node key's consent to belong to an operator (registry).
    #[derive(Debug, PartialEq, Eq)]
    struct NodeKey {
        uint32 operator;
        address key;
    }
}

/// Domain of what payers sign, and of clearances: the vault's.
pub fn credits_domain(chain_id: u64, vault: Address) -> Eip712Domain {
    domain("ParalleliXAICredits", chain_id, vault)
}

/// Domain of batches, receipts, node hellos and keeper passes: the settlement contract's.
pub fn settlement_domain(chain_id: u64, settlement: Address) -> Eip712Domain {
    domain("ParalleliXSettlement", chain_id, settlement)
}

/// Domain of `NodeKey`: the registry's.
pub fn registry_domain(chain_id: u64, registry: Address) -> Eip712Domain {
    domain("OperatorRegistry", chain_id, registry)
}

fn domain(name: &'static str, chain_id: u64, contract: Address) -> Eip712Domain {
    Eip712Domain::new(Some(name.into()), Some("1".into()), Some(U256::from(chain_id)), Some(contract), None)
}

/// The 32 bytes that are signed.
pub fn digest<T: SolStruct>(value: &T, domain: &Eip712Domain) -> B256 {
    value.eip712_signing_hash(domain)
}

/// Signs `value` under `domain`: 65 bytes `r ‖ s ‖ v`, low `s`, `v` 27 or 28. Errors when the signer does.
pub fn sign<T: SolStruct, S: SignerSync>(value: &T, domain: &Eip712Domain, signer: &S) -> Result<[u8; 65], TypedError> {
    Ok(signer.sign_hash_sync(&digest(value, domain)).map_err(TypedError::Signer)?.normalized_s().as_bytes())
}

/// The address whose key signed `value` under `domain`. Errors on a length other than 65, `v` other than 27 or 28, high `s`, or no such key.
pub fn recover<T: SolStruct>(value: &T, domain: &Eip712Domain, signature: &[u8]) -> Result<Address, TypedError> {
    recover_digest(digest(value, domain), signature)
}

/// As [`recover`], from a digest.
pub fn recover_digest(digest: B256, signature: &[u8]) -> Result<Address, TypedError> {
    let bytes: [u8; 65] = signature.try_into().map_err(|_| TypedError::Length { actual: signature.len() })?;
    if !matches!(bytes[64], 27 | 28) {
        return Err(TypedError::Recovery { v: bytes[64] });
    }
    let signature = Signature::from_raw_array(&bytes).map_err(TypedError::Malformed)?;
    if signature.normalize_s().is_some() {
        return Err(TypedError::HighS);
    }
    signature.recover_address_from_prehash(&digest).map_err(TypedError::Malformed)
}

/// Digest of a text signed by a wallet's `personal_sign` (EIP-191, version 0x45).
pub fn personal_digest(text: &str) -> B256 {
    eip191_hash_message(text)
}

/// Why a signature was not made or not accepted.
#[derive(Debug, Error)]
pub enum TypedError {
    /// Not `r ‖ s ‖ v`.
    #[error("a signature has 65 bytes, this one has {actual}")]
    Length {
        /// Bytes given.
        actual: usize,
    },
    /// Not 27 or 28.
    #[error("a signature ends in 27 or 28, this one ends in {v}")]
    Recovery {
        /// The last byte.
        v: u8,
    },
    /// The malleable twin of a signature.
    #[error("the signature's s is in the upper half of the curve order; use the lower twin")]
    HighS,
    /// Not a point on the curve.
    #[error("the signature belongs to no key: {0}")]
    Malformed(SignatureError),
    /// The signer refused.
    #[error("signing failed: {0}")]
    Signer(alloy::signers::Error),
}
