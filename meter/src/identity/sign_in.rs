//! Signing in with a wallet: a challenge is given, signed inside an EIP-712 type, and consumed for a session.
//!
//! `challenge = keccak256(secret)` stands in the signed type, which may be published on chain; opening the session takes
//! the secret, which only the client that asked for it has. The first attempt with a secret consumes it, right or wrong.

use std::fmt;
use std::sync::atomic::Ordering;

use alloy::sol_types::Eip712Domain;
use thiserror::Error;
use wire::typed::{self, SignIn, SpendAuthorization, TypedError};
use wire::{Address, B256, keccak256};

use super::secret::{self, Kind, Secret};
use super::store::{Consumption, SessionRow};
use super::{AuthError, ContractWalletError, Identity, IdentityError, UserId, Verdict};

/// Challenges between two sweeps of what has expired.
const SWEEP_EVERY: u64 = 64;

/// What a client signs, and the secret that turns the signature into a session.
#[derive(Clone, PartialEq, Eq)]
pub struct Challenge {
    /// 32 random bytes, for the client alone.
    pub secret: B256,
    /// `keccak256(secret)`: goes into the signed type.
    pub challenge: B256,
    /// Unix seconds.
    pub expires_at: u64,
}

impl fmt::Debug for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Challenge").field("challenge", &self.challenge).field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

/// Which type the wallet signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignInKind {
    /// Opens the session and, on chain, permits debits.
    Authorization(SpendAuthorization),
    /// Opens the session and nothing else.
    SignIn(SignIn),
}

/// An attempt to sign in.
#[derive(Clone, PartialEq, Eq)]
pub struct SignInRequest {
    /// As the challenge gave it.
    pub secret: B256,
    /// What was signed.
    pub kind: SignInKind,
    /// 65 bytes `r ‖ s ‖ v`, or whatever a contract wallet takes.
    pub signature: Vec<u8>,
}

impl fmt::Debug for SignInRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignInRequest").field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// An open session: the only moment at which its secret can be read.
#[derive(Clone, Debug)]
pub struct Session {
    /// Goes into the cookie, or after `Bearer`.
    pub token: Secret,
    /// Whose it is: the user that a passkey or the wallet belongs to.
    pub user: Option<UserId>,
    /// The wallet that signed, or that the user has linked.
    pub wallet: Option<Address>,
    /// Unix seconds; it ends earlier when unused.
    pub expires_at: u64,
}

impl Identity {
    /// Gives out a challenge: single use, short-lived, bounded in number.
    pub async fn challenge(&self) -> Result<Challenge, IdentityError> {
        let now_s = self.now_s();
        if self.inner.challenges_issued.fetch_add(1, Ordering::Relaxed).is_multiple_of(SWEEP_EVERY) {
            self.inner.store.sweep(now_s, self.inner.settings.challenges_max).await?;
        }

        let secret = B256::from(secret::random_bytes()?);
        let challenge = keccak256(secret);
        let expires_at = now_s.saturating_add(self.inner.settings.challenge_lifetime_s);

        self.inner.store.add_challenge(challenge, expires_at).await?;
        Ok(Challenge { secret, challenge, expires_at })
    }

    /// Opens a session for the wallet that signed. `domain` is the vault's. Errors consume the challenge, except where the store failed.
    pub async fn sign_in(&self, request: &SignInRequest, domain: &Eip712Domain) -> Result<Session, SignInError> {
        let wallet = self.signing_wallet(request, domain).await?;
        let user = self.inner.store.user_of_wallet(wallet).await?;
        let (token, expires_at) = self.open_session(None, Some(wallet)).await?;
        tracing::info!(%wallet, "session opened");
        Ok(Session { token, user, wallet: Some(wallet), expires_at })
    }

    /// Links the wallet that signed to the user whose fresh session `headers` carry: from then on it opens that user's sessions. Errors as [`Identity::sign_in`], without a session, for a
    /// session that is no user's, and for a wallet of another user that has passkeys.
    pub async fn link_wallet(
        &self,
        headers: &http::HeaderMap,
        request: &SignInRequest,
        domain: &Eip712Domain,
    ) -> Result<Address, SignInError> {
        let caller = self.authenticate(headers).await?;
        self.require_fresh(&caller)?;
        let wallet = self.signing_wallet(request, domain).await?;
        let user = caller.user.ok_or(SignInError::NoUser)?;
        if !self.inner.store.link_wallet(user, wallet).await? {
            return Err(SignInError::LinkedElsewhere { wallet });
        }
        // Every session of the user has the wallet from now on.
        self.inner.cache.forget_all();
        tracing::info!(%wallet, %user, "wallet linked");
        Ok(wallet)
    }

    /// Whose signature it is; consumes the challenge.
    async fn signing_wallet(&self, request: &SignInRequest, domain: &Eip712Domain) -> Result<Address, SignInError> {
        let now_s = self.now_s();
        let issued = keccak256(request.secret);
        match self.inner.store.consume_challenge(issued, now_s).await? {
            Consumption::Consumed => {}
            Consumption::Unknown => return Err(SignInError::UnknownChallenge),
            Consumption::Used => return Err(SignInError::UsedChallenge),
            Consumption::Expired { expires_at } => return Err(SignInError::ExpiredChallenge { expires_at, now_s }),
        }

        let statement = Statement::of(&request.kind, domain);
        if statement.challenge != issued {
            return Err(SignInError::WrongChallenge { signed: statement.challenge, issued });
        }
        if now_s > statement.sign_deadline {
            return Err(SignInError::ExpiredSignature { sign_deadline: statement.sign_deadline, now_s });
        }
        self.check_signature(&statement, &request.signature, domain).await?;

        Ok(statement.owner)
    }

    /// Ends the session that the headers carry. Again: the same error as any unknown session.
    pub async fn sign_out(&self, headers: &http::HeaderMap) -> Result<(), AuthError> {
        let hash = self.presented_session(headers)?;
        if self.end(&hash).await? { Ok(()) } else { Err(AuthError::UnknownSession) }
    }

    /// Ends the session whose cookie came with a sign-in that opened another one: a cookie from before must not count afterwards, whoever
    /// planted it (session fixation). A bearer credential is left alone, and so is a cookie that counts for nothing.
    pub async fn end_replaced(&self, headers: &http::HeaderMap) -> Result<(), IdentityError> {
        let Ok(hash) = self.session_of_cookie(headers) else { return Ok(()) };
        self.end(&hash).await?;
        Ok(())
    }

    /// ECDSA first, so that a wallet with a plain key never waits for the chain; then EIP-1271.
    async fn check_signature(&self, statement: &Statement, signature: &[u8], domain: &Eip712Domain) -> Result<(), SignInError> {
        let recovered = typed::recover_digest(statement.digest, signature);
        if recovered.as_ref().is_ok_and(|signer| *signer == statement.owner && !signer.is_zero()) {
            return Ok(());
        }
        if let Some(contract_wallets) = &self.inner.contract_wallets {
            match contract_wallets.accepts(statement.owner, statement.digest, signature).await? {
                Verdict::Accepted => return Ok(()),
                Verdict::Refused => return Err(SignInError::ContractRefused { owner: statement.owner }),
                Verdict::NotAContract => {}
            }
        }
        Err(SignInError::WrongSigner {
            recovered: recovered?,
            owner: statement.owner,
            chain_id: domain.chain_id.unwrap_or_default().saturating_to(),
            vault: domain.verifying_contract.unwrap_or_default(),
        })
    }

    /// A session of a user or of a wallet, and when it ends.
    pub(super) async fn open_session(&self, user: Option<UserId>, wallet: Option<Address>) -> Result<(Secret, u64), IdentityError> {
        let now_s = self.now_s();
        let token = secret::mint(Kind::Session)?;
        let expires_at = now_s.saturating_add(self.inner.settings.session_lifetime_s);
        let row =
            SessionRow { secret_hash: secret::hash(token.reveal()), user, wallet, created_at: now_s, last_used_at: now_s, expires_at };

        let ended = self.inner.store.add_session(&row, self.inner.settings.sessions_per_wallet_max).await?;

        for hash in &ended {
            self.inner.cache.forget(hash);
        }
        Ok((token, expires_at))
    }
}

/// What both signed types say, for one look.
struct Statement {
    owner: Address,
    challenge: B256,
    sign_deadline: u64,
    digest: B256,
}

impl Statement {
    fn of(kind: &SignInKind, domain: &Eip712Domain) -> Self {
        let (owner, challenge, deadline, digest) = match kind {
            SignInKind::Authorization(signed) => (signed.owner, signed.challenge, signed.signDeadline, typed::digest(signed, domain)),
            SignInKind::SignIn(signed) => (signed.owner, signed.challenge, signed.signDeadline, typed::digest(signed, domain)),
        };
        Self { owner, challenge, sign_deadline: deadline.to(), digest }
    }
}

/// Why no session was opened.
#[derive(Debug, Error)]
pub enum SignInError {
    /// Never given out here, or long gone.
    #[error("this secret belongs to no challenge of this meter; ask POST /v1/session/challenge for a new one")]
    UnknownChallenge,
    /// A second attempt.
    #[error("this challenge was used already; each one opens at most one session: ask for a new one")]
    UsedChallenge,
    /// Signed too late.
    #[error("this challenge expired at {expires_at} and it is {now_s} (Unix seconds); ask for a new one")]
    ExpiredChallenge {
        /// When it ended.
        expires_at: u64,
        /// The meter's clock.
        now_s: u64,
    },
    /// The signed type names another one.
    #[error("the signed challenge is {signed}, but this secret's is {issued}; sign the challenge that came with the secret")]
    WrongChallenge {
        /// In the signed type.
        signed: B256,
        /// Of the secret.
        issued: B256,
    },
    /// `signDeadline` is over.
    #[error("the signature was good until {sign_deadline} and it is {now_s} (Unix seconds); sign again with a later signDeadline")]
    ExpiredSignature {
        /// As signed.
        sign_deadline: u64,
        /// The meter's clock.
        now_s: u64,
    },
    /// Not a signature.
    #[error("the signature can't be read: {0}")]
    MalformedSignature(#[from] TypedError),
    /// Somebody else's, or of something else.
    #[error(
        "the signature recovers to {recovered}, not to the owner {owner}: sign exactly these fields with the owner's key under the domain \
         ParalleliXAICredits, version 1, chain id {chain_id}, contract {vault}"
    )]
    WrongSigner {
        /// Whose signature it would be under the meter's domain.
        recovered: Address,
        /// As signed.
        owner: Address,
        /// The meter's chain.
        chain_id: u64,
        /// The meter's vault.
        vault: Address,
    },
    /// EIP-1271 said no.
    #[error("the contract wallet {owner} does not accept this signature (EIP-1271)")]
    ContractRefused {
        /// The contract.
        owner: Address,
    },
    /// EIP-1271 could not be asked.
    #[error("the chain could not be asked whether the wallet is a contract that accepts this signature; try again in a moment")]
    ContractUnavailable(#[from] ContractWalletError),
    /// Not signed in well enough for this.
    #[error(transparent)]
    Caller(#[from] AuthError),
    /// A wallet's own session.
    #[error("this session is a wallet's own and no user's; add a passkey to it first, which makes a user of it")]
    NoUser,
    /// Somebody else's.
    #[error("wallet {wallet} is linked to another user that has passkeys; sign in as that user and remove them first")]
    LinkedElsewhere {
        /// Which wallet.
        wallet: Address,
    },
    /// The store failed.
    #[error("the session could not be opened")]
    Unavailable(#[from] IdentityError),
}

impl SignInError {
    /// The machine-readable code of the reply.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownChallenge => "unknown_challenge",
            Self::UsedChallenge => "used_challenge",
            Self::ExpiredChallenge { .. } => "expired_challenge",
            Self::WrongChallenge { .. } => "wrong_challenge",
            Self::ExpiredSignature { .. } => "expired_signature",
            Self::MalformedSignature(_) => "malformed_signature",
            Self::WrongSigner { .. } => "wrong_signer",
            Self::ContractRefused { .. } => "contract_refused",
            Self::Caller(error) => error.code(),
            Self::NoUser => "user_required",
            Self::LinkedElsewhere { .. } => "wallet_linked_elsewhere",
            Self::ContractUnavailable(_) | Self::Unavailable(_) => "unavailable",
        }
    }
}
