//! The meter's word that an account owes nothing (`docs/protocol.md`, section 8.2).

use alloy::primitives::{Address, Bytes};
use alloy::signers::{Signer, SignerSync};
use thiserror::Error;
use wire::AccountId;
use wire::contracts::Settlement;
use wire::deployment::Deployment;
use wire::receipt::seconds_u40;
use wire::typed::{self, ClosureClearance};

use super::{ChainProxy, ProxyError};
use crate::ledger::{Clearance, ClearanceRefusal, Ledger};

/// A clearance and the settler's signature of it, as the vault takes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedClearance {
    /// What is promised.
    pub clearance: Clearance,
    /// 65 bytes over `ClosureClearance`, in the vault's domain.
    pub signature: Bytes,
}

/// Why no clearance was signed.
#[derive(Debug, Error)]
pub enum ClearanceError {
    /// The vault asks for another key than the one of this meter.
    #[error("the settler on chain is {on_chain}, and this meter signs as {ours}; revoke instead, and withdraw after the exit delay")]
    OtherSettler {
        /// As the settlement contract has it.
        on_chain: Address,
        /// Of this meter's key.
        ours: Address,
    },
    /// The vault takes no clearance while the settler is suspended.
    #[error("the settler is suspended until {until}, seconds since the epoch; revoke instead, and withdraw after the exit delay")]
    Suspended {
        /// When that is over, seconds since the epoch.
        until: u64,
    },
    /// The signer refused; asked again, the same promise is signed.
    #[error("the settler's key did not sign: {reason}")]
    Signer {
        /// Why.
        reason: String,
    },
    /// The chain could not be asked who the settler is.
    #[error(transparent)]
    Chain(#[from] ProxyError),
    /// The books say no.
    #[error(transparent)]
    Refused(#[from] ClearanceRefusal),
}

impl Ledger {
    /// Promises and signs that nothing more is debited from `account`. A signature that the vault would refuse is not made: whoever
    /// can't close should not be kept from spending. The signature leaves this process only after the promise is stored.
    pub async fn sign_clearance<S: Signer + SignerSync>(
        &self,
        account: AccountId,
        signer: &S,
        chain: &ChainProxy,
        deployment: &Deployment,
        now_s: u64,
    ) -> Result<SignedClearance, ClearanceError> {
        check_settler(chain, deployment.settlement, signer.address(), now_s).await?;

        let clearance = self.give_clearance(account).await?;

        let typed_clearance = ClosureClearance {
            account: clearance.account.0,
            settled: clearance.settled.get(),
            authNonce: clearance.auth_nonce,
            deadline: seconds_u40(clearance.deadline),
        };
        let signature = typed::sign(&typed_clearance, &deployment.credits_domain(), signer);
        let signature = signature.map_err(|error| ClearanceError::Signer { reason: error.to_string() })?;
        Ok(SignedClearance { clearance, signature: signature.to_vec().into() })
    }
}

async fn check_settler(chain: &ChainProxy, settlement: Address, ours: Address, now_s: u64) -> Result<(), ClearanceError> {
    let on_chain = chain.view(settlement, &Settlement::settlerCall {}).await?;
    if on_chain != ours {
        return Err(ClearanceError::OtherSettler { on_chain, ours });
    }
    let until: u64 = chain.view(settlement, &Settlement::settlerSuspensionCall {}).await?.until.to();
    if now_s < until { Err(ClearanceError::Suspended { until }) } else { Ok(()) }
}
