//! Identity's two ties to the ledger: accounts come from its mirror of the chain, and a key's spending is booked under its id.

use async_trait::async_trait;
use wire::{AccountId, Address};

use super::{Accounts, KeyId};
use crate::ledger::{self, Ledger};

#[async_trait]
impl Accounts for Ledger {
    async fn account_of_wallet(&self, wallet: Address) -> Result<Option<AccountId>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Ledger::account_of_wallet(self, wallet).await?.map(|view| view.account))
    }
}

impl From<KeyId> for ledger::KeyId {
    fn from(id: KeyId) -> Self {
        Self(id.to_string())
    }
}
