//! A signed transaction: what it pays, and how the next one outbids it.

use alloy::consensus::{SignableTransaction, TxEip1559, TxEnvelope};
use alloy::eips::eip2718::{Decodable2718, Encodable2718};
use alloy::primitives::{Address, B256, Bytes, TxKind, U256};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use thiserror::Error;

/// What a transaction is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Lands a batch.
    Settle,
    /// Pays operators out.
    Claim,
    /// Frees a nonce: nothing, to oneself.
    Cancel,
}

impl Purpose {
    const NAMES: [(Self, &'static str); 3] = [(Self::Settle, "settle"), (Self::Claim, "claim"), (Self::Cancel, "cancel")];

    /// As the journal writes it.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(purpose, _)| *purpose == self).map_or("", |(_, name)| name)
    }

    pub(crate) fn read(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, known)| *known == name).map(|(purpose, _)| *purpose)
    }
}

/// A transaction that was signed; its bytes are stored before they are broadcast.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Transaction hash.
    pub hash: B256,
    /// What it is for.
    pub purpose: Purpose,
    /// Its nonce.
    pub nonce: u64,
    /// EIP-2718 bytes.
    pub raw: Bytes,
    /// Wei per gas, tip included.
    pub max_fee_wei: u64,
    /// Wei per gas, the tip.
    pub max_priority_fee_wei: u64,
    /// Most gas.
    pub gas_limit: u64,
    /// How it ended.
    pub state: AttemptState,
    /// Seconds since the epoch.
    pub signed_at: u64,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptState {
    /// Not yet, or outbid.
    Live,
    /// In a block, and did what it was for.
    Mined(Paid),
    /// In a block, and did nothing.
    Reverted(Paid),
}

/// What a mined attempt cost, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paid {
    /// Its block.
    pub block_hash: B256,
    /// Height of its block.
    pub block_number: u64,
    /// Gas.
    pub gas_used: u64,
    /// Wei per gas.
    pub gas_price_wei: u64,
}

/// Both fees of EIP-1559, wei per gas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fees {
    /// Most in all.
    pub max_fee_wei: u64,
    /// The tip.
    pub max_priority_fee_wei: u64,
}

impl Fees {
    /// What the market asks: twice the base fee, which lasts for six full blocks, and the tip.
    pub fn market(base_fee_wei: u64, tip_wei: u64) -> Self {
        Self { max_fee_wei: base_fee_wei.saturating_mul(2).saturating_add(tip_wei), max_priority_fee_wei: tip_wei }
    }

    /// At least the market, and at least 12.5 % above `outbid` in both fees, rounded up: nodes ask for 10 %, some for 12.5 %.
    pub fn outbidding_up(self, outbid: Self) -> Self {
        let raised_up = |wei: u64| wei.saturating_add(wei.div_ceil(8)).saturating_add(1);
        Self {
            max_fee_wei: self.max_fee_wei.max(raised_up(outbid.max_fee_wei)),
            max_priority_fee_wei: self.max_priority_fee_wei.max(raised_up(outbid.max_priority_fee_wei)),
        }
    }
}

/// What a transaction does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// What it is for.
    pub purpose: Purpose,
    /// Which contract.
    pub to: Address,
    /// Call data.
    pub input: Bytes,
    /// Most gas.
    pub gas_limit: u64,
}

impl Attempt {
    /// Signs `call`. Errors when the key does.
    pub fn sign(call: &Call, (chain_id, nonce): (u64, u64), fees: Fees, signer: &PrivateKeySigner, now: u64) -> Result<Self, AttemptError> {
        let transaction = TxEip1559 {
            chain_id,
            nonce,
            gas_limit: call.gas_limit,
            max_fee_per_gas: fees.max_fee_wei.into(),
            max_priority_fee_per_gas: fees.max_priority_fee_wei.into(),
            to: TxKind::Call(call.to),
            value: U256::ZERO,
            access_list: Default::default(),
            input: call.input.clone(),
        };
        let signature = signer.sign_hash_sync(&transaction.signature_hash()).map_err(AttemptError::Sign)?;
        let signed = TxEnvelope::from(transaction.into_signed(signature));
        Ok(Self {
            hash: *signed.tx_hash(),
            purpose: call.purpose,
            nonce,
            raw: signed.encoded_2718().into(),
            max_fee_wei: fees.max_fee_wei,
            max_priority_fee_wei: fees.max_priority_fee_wei,
            gas_limit: call.gas_limit,
            state: AttemptState::Live,
            signed_at: now,
        })
    }

    /// What it does, read back from its bytes. Errors on bytes that are no EIP-1559 transaction of ours.
    pub fn call(&self) -> Result<Call, AttemptError> {
        let damaged = AttemptError::Damaged { hash: self.hash };
        match TxEnvelope::decode_2718(&mut self.raw.as_ref()) {
            Ok(TxEnvelope::Eip1559(signed)) => {
                let transaction = signed.tx();
                let to = transaction.to.to().copied().ok_or(damaged)?;
                Ok(Call { purpose: self.purpose, to, input: transaction.input.clone(), gas_limit: transaction.gas_limit })
            }
            _ => Err(damaged),
        }
    }

    /// What it pays at most.
    pub fn fees(&self) -> Fees {
        Fees { max_fee_wei: self.max_fee_wei, max_priority_fee_wei: self.max_priority_fee_wei }
    }
}

/// Why there is no transaction.
#[derive(Debug, Error)]
pub enum AttemptError {
    /// The key refused.
    #[error("signing the transaction: {0}")]
    Sign(alloy::signers::Error),
    /// The stored bytes are not ours.
    #[error("the journal's bytes of transaction {hash} are damaged")]
    Damaged {
        /// Which one.
        hash: B256,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_signed_reads_back_and_recovers_to_the_key() {
        let signer = PrivateKeySigner::random();
        let call = Call { purpose: Purpose::Settle, to: Address::repeat_byte(3), input: vec![1, 2, 3].into(), gas_limit: 90_000 };
        let attempt = Attempt::sign(&call, (31_337, 7), Fees { max_fee_wei: 9, max_priority_fee_wei: 2 }, &signer, 50).unwrap();
        assert_eq!(attempt.call().unwrap(), call);
        let Ok(TxEnvelope::Eip1559(signed)) = TxEnvelope::decode_2718(&mut attempt.raw.as_ref()) else { panic!("not EIP-1559") };
        let recovered = signed.signature().recover_address_from_prehash(&signed.signature_hash()).unwrap();
        assert_eq!((recovered, *signed.hash()), (signer.address(), attempt.hash));
    }

    proptest! {
        #[test]
        fn a_higher_bid_is_at_least_an_eighth_higher_in_both_fees(
            max_fee_wei in 0u64..1 << 60, max_priority_fee_wei in 0u64..1 << 60, base in 0u64..1 << 60, tip in 0u64..1 << 60,
        ) {
            let bid = Fees::market(base, tip).outbidding_up(Fees { max_fee_wei, max_priority_fee_wei });
            prop_assert!(u128::from(bid.max_fee_wei) * 8 > u128::from(max_fee_wei) * 9);
            prop_assert!(u128::from(bid.max_priority_fee_wei) * 8 > u128::from(max_priority_fee_wei) * 9);
            prop_assert!(bid.max_fee_wei >= base && bid.max_priority_fee_wei >= tip);
        }
    }
}
