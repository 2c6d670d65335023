//! Headers → [`Caller`]. A bearer credential wins over a cookie; a cookie counts only in calls that our own page makes.

use http::{HeaderMap, header};
use subtle::ConstantTimeEq;
use thiserror::Error;
use wire::{AccountId, Address};

use super::keys::{ApiKey, KeyId, KeyLimits};
use super::secret::{self, Kind, MalformedSecret, SecretHash};
use super::store::SessionRow;
use super::{Identity, IdentityError, UserId};

/// How stale `last_used_at` may be, seconds: one write in this time instead of one per call.
const LAST_USED_STEP_S: u64 = 60;

/// Who is calling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The payer's wallet; `None` for a user that has linked none.
    pub wallet: Option<Address>,
    /// The user, when a passkey signed in or the wallet is linked to one.
    pub user: Option<UserId>,
    /// Its account in the vault; `None` before its first deposit or authorization.
    pub account: Option<AccountId>,
    /// The API key used, if one was.
    pub key: Option<ApiKeyFacts>,
    /// Whether a session is calling, not a key: keys can't make keys.
    pub session: bool,
    /// When that session was opened by a passkey or a signature, Unix seconds; 0 for a key.
    pub authenticated_at: u64,
}

/// The API key that calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKeyFacts {
    /// The key.
    pub id: KeyId,
    /// What it may do.
    pub limits: KeyLimits,
}

/// The session that calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurrentSession {
    /// Whose it is.
    pub caller: Caller,
    /// Unix seconds; it ends earlier when unused.
    pub expires_at: u64,
}

impl Identity {
    /// Whether the headers carry a session by cookie and by nothing else.
    pub fn comes_by_cookie(&self, headers: &HeaderMap) -> bool {
        !headers.contains_key(header::AUTHORIZATION) && self.cookie().read(headers).is_some()
    }

    /// The session that calls, from the store. Errors as [`Identity::authenticate`], and on an API key.
    pub async fn current_session(&self, headers: &HeaderMap) -> Result<CurrentSession, AuthError> {
        let hash = self.presented_session(headers)?;
        let (caller, expires_at) = self.caller_of_session(&hash, self.now_s()).await?;
        Ok(CurrentSession { caller: self.with_account(caller).await?, expires_at })
    }

    /// Says who is calling, from `Authorization: Bearer …` or the session cookie. Errors name what was presented and why it does not count.
    pub async fn authenticate(&self, headers: &HeaderMap) -> Result<Caller, AuthError> {
        let (kind, hash) = self.presented(headers)?;
        let now_s = self.now_s();
        let began = match self.inner.cache.get(&hash, now_s) {
            Ok(caller) if caller.account.is_some() => return Ok(caller),
            Ok(caller) => return Ok(self.with_account(caller).await?),
            Err(began) => began,
        };

        let (caller, expires_at_s) = match kind {
            Kind::ApiKey => self.caller_of_key(&hash, now_s).await?,
            Kind::Session => self.caller_of_session(&hash, now_s).await?,
        };
        let caller = self.with_account(caller).await?;

        self.inner.cache.put(began, hash, caller.clone(), now_s, expires_at_s);
        Ok(caller)
    }

    /// Lets a session through whose person was just there, by passkey or signature: a stolen or forgotten session alone must not make
    /// itself at home. Errors on an older one, and on a key.
    pub fn require_fresh(&self, caller: &Caller) -> Result<(), AuthError> {
        if !caller.session {
            return Err(AuthError::SessionRequired);
        }
        let (now_s, fresh_s) = (self.now_s(), self.inner.settings.fresh_s);
        if now_s >= caller.authenticated_at.saturating_add(fresh_s) {
            return Err(AuthError::NotFresh { authenticated_at: caller.authenticated_at, now_s, fresh_s });
        }
        Ok(())
    }

    /// Digest of the session that the headers carry; for signing out.
    pub(super) fn presented_session(&self, headers: &HeaderMap) -> Result<SecretHash, AuthError> {
        match self.presented(headers)? {
            (Kind::Session, hash) => Ok(hash),
            (Kind::ApiKey, _) => Err(AuthError::SessionRequired),
        }
    }

    fn presented(&self, headers: &HeaderMap) -> Result<(Kind, SecretHash), AuthError> {
        let mut lines = headers.get_all(header::AUTHORIZATION).iter();
        if let Some(line) = lines.next() {
            if lines.next().is_some() {
                return Err(AuthError::TwoCredentials);
            }
            let text = line.to_str().map_err(|_| AuthError::Scheme)?;
            let (scheme, credential) = text.split_once(' ').ok_or(AuthError::Scheme)?;
            if !scheme.eq_ignore_ascii_case("bearer") {
                return Err(AuthError::Scheme);
            }
            return Ok(secret::parse(credential.trim())?);
        }
        Ok((Kind::Session, self.session_of_cookie(headers)?))
    }

    /// Digest of the session that the cookie names, whatever else the headers carry.
    pub(super) fn session_of_cookie(&self, headers: &HeaderMap) -> Result<SecretHash, AuthError> {
        let cookie = self.cookie().read(headers).ok_or(AuthError::Missing)?;
        require_same_origin(headers)?;
        match secret::parse(cookie) {
            Ok((Kind::Session, hash)) => Ok(hash),
            _ => Err(AuthError::UnknownSession),
        }
    }

    /// The key's caller, and when the key ends.
    async fn caller_of_key(&self, hash: &SecretHash, now_s: u64) -> Result<(Caller, u64), AuthError> {
        let row = self.inner.store.key(hash).await?.filter(|row| bool::from(row.secret_hash.ct_eq(hash))).ok_or(AuthError::UnknownKey)?;
        let ApiKey { id, limits, last_used_at, revoked_at, .. } = row.key;
        if revoked_at.is_some() {
            return Err(AuthError::RevokedKey { id });
        }
        let expires_at = limits.expires_at.unwrap_or(u64::MAX);
        if now_s >= expires_at {
            return Err(AuthError::ExpiredKey { id, expired_at: expires_at, now_s });
        }
        if last_used_at.is_none_or(|last| now_s >= last.saturating_add(LAST_USED_STEP_S)) {
            self.inner.store.touch_key(id, now_s).await?;
        }
        let key = Some(ApiKeyFacts { id, limits });
        Ok((Caller { wallet: Some(row.wallet), user: None, account: None, key, session: false, authenticated_at: 0 }, expires_at))
    }

    async fn caller_of_session(&self, hash: &SecretHash, now_s: u64) -> Result<(Caller, u64), AuthError> {
        let row = self.inner.store.session(hash).await?.filter(|row| bool::from(row.secret_hash.ct_eq(hash)));
        let row = row.ok_or(AuthError::UnknownSession)?;
        let expired_at = self.ends_at(&row);
        if now_s >= expired_at {
            return Err(AuthError::ExpiredSession { now_s, expired_at });
        }
        if now_s >= row.last_used_at.saturating_add(LAST_USED_STEP_S) {
            self.inner.store.touch_session(hash, now_s).await?;
        }
        let caller =
            Caller { wallet: row.wallet, user: row.user, account: None, key: None, session: true, authenticated_at: row.created_at };
        Ok((caller, row.expires_at))
    }

    /// When a session ends by age or by rest, unless it is used.
    pub(super) fn ends_at(&self, row: &SessionRow) -> u64 {
        row.expires_at.min(row.last_used_at.saturating_add(self.inner.settings.session_idle_s))
    }

    /// An account is for ever once it is there; `None` is asked again at each call, so a first deposit counts at once.
    async fn with_account(&self, caller: Caller) -> Result<Caller, IdentityError> {
        let account = match caller.wallet {
            Some(wallet) => self.account_of(wallet).await?,
            None => None,
        };
        Ok(Caller { account, ..caller })
    }

    /// The account of `wallet`; `None` before its first deposit or authorization.
    pub async fn account_of(&self, wallet: Address) -> Result<Option<AccountId>, IdentityError> {
        let Some(accounts) = &self.inner.accounts else { return Ok(None) };
        accounts.account_of_wallet(wallet).await.map_err(|source| IdentityError::Accounts { wallet, source })
    }
}

/// Accepts a cookie only where the browser vouches that our own page, or the person, made the call.
///
/// `SameSite=Strict` already keeps other sites' calls without the cookie; this holds where that does not: a sibling
/// subdomain, an old browser. Without either header nobody vouches, so the call is refused.
fn require_same_origin(headers: &HeaderMap) -> Result<(), AuthError> {
    let by_person = headers.get("sec-fetch-site").is_some_and(|value| value.as_bytes() == b"none");
    if by_person || is_of_own_page(headers) { Ok(()) } else { Err(AuthError::CrossSite) }
}

/// Whether the browser vouches that a page of this very site made the call: nothing less may change anything by cookie.
pub fn is_of_own_page(headers: &HeaderMap) -> bool {
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    match headers.get("sec-fetch-site").map(|value| value.as_bytes()) {
        Some(site) => site == b"same-origin",
        None => match (text(header::ORIGIN), text(header::HOST)) {
            (Some(origin), Some(host)) => origin.split_once("://").is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host)),
            _ => false,
        },
    }
}

/// Why a call has no caller. None of the texts repeats what was presented.
#[derive(Debug, Error)]
pub enum AuthError {
    /// Nothing presented.
    #[error("this call needs an API key (Authorization: Bearer prlx_…) or a session; make a key in the page or sign in")]
    Missing,
    /// Not a bearer credential.
    #[error("the Authorization header has another form than `Bearer CREDENTIAL`; send `Authorization: Bearer prlx_…`")]
    Scheme,
    /// More than one Authorization header.
    #[error("two Authorization headers were sent; send one")]
    TwoCredentials,
    /// A form that no credential of ours has.
    #[error("{0}")]
    Malformed(#[from] MalformedSecret),
    /// No such key.
    #[error("this API key is not known here; check that it was made at this address, or make another one")]
    UnknownKey,
    /// Revoked by its owner.
    #[error("API key {id} was revoked; make another one")]
    RevokedKey {
        /// The key.
        id: KeyId,
    },
    /// Over, by its owner's choice.
    #[error("API key {id} ended at {expired_at} and it is {now_s} (Unix seconds); make another one")]
    ExpiredKey {
        /// The key.
        id: KeyId,
        /// When it ended.
        expired_at: u64,
        /// The meter's clock.
        now_s: u64,
    },
    /// No such session, or it was signed out.
    #[error("this session is not known here or was signed out; sign in again")]
    UnknownSession,
    /// Over, by age or by rest.
    #[error("this session ended at {expired_at} and it is {now_s} (Unix seconds); sign in again")]
    ExpiredSession {
        /// When it ended.
        expired_at: u64,
        /// The meter's clock.
        now_s: u64,
    },
    /// Opened too long ago for this.
    #[error(
        "this session was opened at {authenticated_at} and it is {now_s} (Unix seconds); this call wants one of the last {fresh_s} s: sign in again \
         with a passkey or the wallet"
    )]
    NotFresh {
        /// When it was opened.
        authenticated_at: u64,
        /// The meter's clock.
        now_s: u64,
        /// How long it counts as fresh.
        fresh_s: u64,
    },
    /// A cookie in a call that another site may have made.
    #[error("a session cookie counts only in calls from this site's own page; elsewhere send Authorization: Bearer")]
    CrossSite,
    /// A key where only a session may call.
    #[error("this call needs a session: an API key can't stand in for the wallet; sign in first")]
    SessionRequired,
    /// The store or the ledger's mirror failed.
    #[error("the credential could not be checked")]
    Unavailable(#[from] IdentityError),
}

impl AuthError {
    /// The machine-readable code of the reply.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing => "missing_credentials",
            Self::Scheme | Self::TwoCredentials => "malformed_authorization",
            Self::Malformed(_) => "malformed_api_key",
            Self::UnknownKey => "invalid_api_key",
            Self::RevokedKey { .. } => "revoked_api_key",
            Self::ExpiredKey { .. } => "key_expired",
            Self::UnknownSession => "invalid_session",
            Self::ExpiredSession { .. } => "expired_session",
            Self::CrossSite => "cross_site",
            Self::NotFresh { .. } => "reauthentication_required",
            Self::SessionRequired => "session_required",
            Self::Unavailable(_) => "unavailable",
        }
    }
}
