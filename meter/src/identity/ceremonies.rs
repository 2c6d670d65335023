//! Passkey ceremonies between their two halves: in memory, single use, short-lived, bounded. A ceremony ends at the meter where it began.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use webauthn_rs::prelude::{DiscoverableAuthentication, PasskeyRegistration};
use wire::{Address, B256};

use super::secret::{self, SecretHash};
use super::{IdentityError, UserId};

/// How long the person and the authenticator may take, seconds; browsers give up after this, too.
const LIFETIME_S: u64 = 300;
/// Ceremonies at once; above it the oldest go.
const CEREMONIES_MAX: usize = 4_096;

/// What must be remembered of one.
pub(super) enum Begun {
    Registration(Box<Registration>),
    SignIn(Box<DiscoverableAuthentication>),
}

pub(super) struct Registration {
    pub(super) state: PasskeyRegistration,
    pub(super) user: UserId,
    /// Of a user that is made for a wallet's session.
    pub(super) wallet: Option<Address>,
    pub(super) name: String,
    /// The session that asked, which must also be the one that finishes.
    pub(super) session: Option<SecretHash>,
}

/// All that have begun.
#[derive(Default)]
pub(super) struct Ceremonies(Mutex<HashMap<B256, (u64, Begun)>>);

impl Ceremonies {
    /// Remembers one, and names it.
    pub(super) fn begin(&self, begun: Begun, now_s: u64) -> Result<B256, IdentityError> {
        let name = B256::from(secret::random_bytes()?);
        let mut ceremonies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ceremonies.retain(|_, (until, _)| *until > now_s);
        if ceremonies.len() >= CEREMONIES_MAX
            && let Some(oldest) = ceremonies.iter().min_by_key(|(_, (until, _))| *until).map(|(name, _)| *name)
        {
            ceremonies.remove(&oldest);
        }
        ceremonies.insert(name, (now_s.saturating_add(LIFETIME_S), begun));
        Ok(name)
    }

    /// Takes one: the first look ends it, whatever comes of it.
    pub(super) fn take(&self, name: B256, now_s: u64) -> Option<Begun> {
        let taken = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
        taken.filter(|(until, _)| *until > now_s).map(|(_, begun)| begun)
    }
}
