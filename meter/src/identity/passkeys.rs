//! Passkeys (WebAuthn): a user is made or found by one, without a password and without a wallet. User verification is always required,
//! credentials are discoverable, attestation is not asked for.

use std::fmt;

use http::HeaderMap;
use serde::{Serialize, Serializer};
use serde_json::Value;
use thiserror::Error;
use uuid::Uuid;
use webauthn_rs::prelude::{
    CredentialID, Passkey, PublicKeyCredential, RegisterPublicKeyCredential, Url, Webauthn, WebauthnBuilder, WebauthnError,
};
use wire::B256;

use super::ceremonies::{Begun, Registration};
use super::store::{NewPasskeyRow, Removal};
use super::{AuthError, Identity, IdentityError, IdentitySettings, Session};

/// Longest name of a passkey, characters.
const NAME_MAX_CHARS: usize = 64;
/// What authenticators show beside a user's passkey.
const RP_NAME: &str = "ParalleliX AI";
const DEFAULT_NAME: &str = "passkey";

/// A user: 128 random bits, not a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserId(pub [u8; 16]);

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl Serialize for UserId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The first half of a ceremony.
#[derive(Debug)]
pub struct Ceremony {
    /// Names it in the second half; single use.
    pub ceremony: B256,
    /// What the browser's `navigator.credentials` takes, bytes as base64url.
    pub public_key: Value,
}

/// A passkey as its user sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PasskeyFacts {
    /// The credential's id.
    pub id: Vec<u8>,
    /// The user's words.
    pub name: String,
    /// Unix seconds.
    pub created_at: u64,
    /// Unix seconds.
    pub last_used_at: Option<u64>,
}

/// The site that passkeys are for. Errors when the settings name none.
pub(super) fn relying_party(settings: &IdentitySettings) -> Result<Webauthn, IdentityError> {
    let wrong = |reason: String| IdentityError::Passkeys {
        origin: settings.passkey_origin.clone(),
        domain: settings.passkey_domain.clone(),
        reason,
    };
    let origin: Url = settings.passkey_origin.parse().map_err(|error| wrong(format!("{error}")))?;
    let builder = WebauthnBuilder::new(&settings.passkey_domain, &origin).map_err(|error| wrong(error.to_string()))?;
    // On the developer's own machine the port changes, and nobody else is there.
    let any_port = settings.passkey_domain == "localhost";
    builder.rp_name(RP_NAME).allow_any_port(any_port).build().map_err(|error| wrong(error.to_string()))
}

impl Identity {
    /// Begins to make a passkey: for the user whose fresh session `headers` carry, for a new user of a wallet's session, or for a new user.
    pub async fn begin_registration(&self, headers: &HeaderMap, name: Option<&str>) -> Result<Ceremony, PasskeyError> {
        let name = checked_name(name)?;
        let caller = match self.authenticate(headers).await {
            Ok(caller) => {
                self.require_fresh(&caller)?;
                Some(caller)
            }
            // An old cookie must not keep anybody from signing up.
            Err(AuthError::Missing | AuthError::UnknownSession | AuthError::ExpiredSession { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let session = caller.is_some().then(|| self.presented_session(headers)).transpose()?;
        let known = caller.as_ref().and_then(|caller| caller.user);
        let user = known.unwrap_or_else(|| UserId(*Uuid::new_v4().as_bytes()));
        let wallet = caller.filter(|_| known.is_none()).and_then(|caller| caller.wallet);
        let known_credentials = match known {
            Some(user) => self.inner.store.passkeys_of(user).await?.into_iter().map(|row| CredentialID::from(row.credential_id)).collect(),
            None => Vec::new(),
        };

        let uuid = Uuid::from_bytes(user.0);
        let started = self.inner.webauthn.start_passkey_registration(uuid, &name, &name, Some(known_credentials));
        let (options, state) = started?;
        let mut public_key = serde_json::to_value(options.public_key).map_err(IdentityError::Passkey)?;
        // Sign-in has no list of credentials, so the authenticator must keep this one.
        public_key["authenticatorSelection"]["residentKey"] = "required".into();
        public_key["authenticatorSelection"]["requireResidentKey"] = true.into();
        let begun = Begun::Registration(Box::new(Registration { state, user, wallet, name, session }));
        Ok(Ceremony { ceremony: self.inner.ceremonies.begin(begun, self.now_s())?, public_key })
    }

    /// Ends it: stores the passkey, and opens a session of its user.
    pub async fn finish_registration(
        &self,
        headers: &HeaderMap,
        ceremony: B256,
        credential: &RegisterPublicKeyCredential,
        name: Option<&str>,
    ) -> Result<Session, PasskeyError> {
        let Some(Begun::Registration(begun)) = self.inner.ceremonies.take(ceremony, self.now_s()) else {
            return Err(PasskeyError::UnknownCeremony);
        };
        if let Some(session) = begun.session {
            self.authenticate(headers).await?;
            if self.presented_session(headers)? != session {
                return Err(PasskeyError::OtherSession);
            }
        }
        let name = if name.is_some() { checked_name(name)? } else { begun.name };
        let passkey = self.inner.webauthn.finish_passkey_registration(credential, &begun.state)?;

        let stored = serde_json::to_string(&passkey).map_err(IdentityError::Passkey)?;
        let max = self.inner.settings.passkeys_per_user_max;
        let row = NewPasskeyRow {
            user: begun.user,
            wallet: begun.wallet,
            credential_id: passkey.cred_id(),
            name: &name,
            credential: &stored,
            created_at: self.now_s(),
        };
        if !self.inner.store.add_passkey(&row, max).await? {
            return Err(PasskeyError::NotAdded { max });
        }
        // A wallet's sessions have a user from now on.
        self.inner.cache.forget_all();
        tracing::info!(user = %begun.user, "passkey added");
        self.user_session(begun.user).await
    }

    /// Begins a sign-in with whatever passkey the person has for this site.
    pub fn begin_passkey_sign_in(&self) -> Result<Ceremony, PasskeyError> {
        let (options, state) = self.inner.webauthn.start_discoverable_authentication()?;
        let public_key = serde_json::to_value(options.public_key).map_err(IdentityError::Passkey)?;
        let ceremony = self.inner.ceremonies.begin(Begun::SignIn(Box::new(state)), self.now_s())?;
        Ok(Ceremony { ceremony, public_key })
    }

    /// Ends it with a session of the passkey's user.
    pub async fn finish_passkey_sign_in(&self, ceremony: B256, credential: &PublicKeyCredential) -> Result<Session, PasskeyError> {
        let Some(Begun::SignIn(state)) = self.inner.ceremonies.take(ceremony, self.now_s()) else {
            return Err(PasskeyError::UnknownCeremony);
        };
        let (user, credential_id) = self.inner.webauthn.identify_discoverable_authentication(credential)?;
        let row = self.inner.store.passkey(credential_id).await?;
        // Said the same of a credential that nobody has and of one that is somebody else's.
        let row = row.filter(|row| row.user.0 == *user.as_bytes()).ok_or(PasskeyError::UnknownPasskey)?;
        let mut passkey: Passkey = serde_json::from_str(&row.credential).map_err(IdentityError::Passkey)?;

        let result = self.inner.webauthn.finish_discoverable_authentication_v2(credential, *state, &passkey)?;
        if !result.user_verified() {
            return Err(PasskeyError::Refused(WebauthnError::UserNotVerified));
        }
        passkey.update_credential(&result);
        let updated = serde_json::to_string(&passkey).map_err(IdentityError::Passkey)?;
        if !self.inner.store.use_passkey(credential_id, &row.credential, &updated, self.now_s()).await? {
            return Err(PasskeyError::UnknownPasskey);
        }
        self.user_session(row.user).await
    }

    /// The user's passkeys, oldest first.
    pub async fn passkeys(&self, user: UserId) -> Result<Vec<PasskeyFacts>, IdentityError> {
        let rows = self.inner.store.passkeys_of(user).await?;
        Ok(rows
            .into_iter()
            .map(|row| PasskeyFacts { id: row.credential_id, name: row.name, created_at: row.created_at, last_used_at: row.last_used_at })
            .collect())
    }

    /// Removes a passkey of `user`. Errors when it is another's or nobody's, and when it is the last way in.
    pub async fn remove_passkey(&self, user: UserId, id: &[u8]) -> Result<(), PasskeyError> {
        match self.inner.store.remove_passkey(user, id).await? {
            Removal::Removed => {
                tracing::info!(%user, "passkey removed");
                Ok(())
            }
            Removal::Unknown => Err(PasskeyError::NotFound),
            Removal::LastWayIn => Err(PasskeyError::LastWayIn),
        }
    }

    async fn user_session(&self, user: UserId) -> Result<Session, PasskeyError> {
        let (token, expires_at) = self.open_session(Some(user), None).await?;
        let row = self.inner.store.session(&super::secret::hash(token.reveal())).await?;
        tracing::info!(%user, "session opened");
        Ok(Session { token, user: Some(user), wallet: row.and_then(|row| row.wallet), expires_at })
    }
}

fn checked_name(name: Option<&str>) -> Result<String, PasskeyError> {
    let name = name.unwrap_or(DEFAULT_NAME).trim();
    let chars = name.chars().count();
    if chars == 0 || chars > NAME_MAX_CHARS || name.chars().any(char::is_control) {
        return Err(PasskeyError::Name { chars });
    }
    Ok(name.to_owned())
}

/// Why a ceremony or a change of passkeys came to nothing.
#[derive(Debug, Error)]
pub enum PasskeyError {
    /// Never begun here, over, or too old.
    #[error("this ceremony is not known here, was used already or took too long; begin again")]
    UnknownCeremony,
    /// Begun by one session, ended by another.
    #[error("this ceremony was begun by another session; begin again")]
    OtherSession,
    /// Wrong in itself: challenge, origin, domain, signature, verification or counter.
    #[error("the passkey was refused: {0}")]
    Refused(#[from] WebauthnError),
    /// No user has it.
    #[error("no user here has this passkey; sign up, or sign in another way")]
    UnknownPasskey,
    /// Too many, or not a new one.
    #[error("this passkey was not added: it is known already, or the user has {max}, the most allowed")]
    NotAdded {
        /// Most allowed.
        max: u32,
    },
    /// Not printable, empty or long.
    #[error("a passkey's name has 1 to {NAME_MAX_CHARS} printable characters; this one has {chars}")]
    Name {
        /// Characters given.
        chars: usize,
    },
    /// Not this user's.
    #[error("you have no passkey of that id; GET /v1/passkeys lists them")]
    NotFound,
    /// Nobody could sign in any more.
    #[error("this passkey is the only way into this account; add another passkey or link a wallet first")]
    LastWayIn,
    /// Not signed in well enough.
    #[error(transparent)]
    Caller(#[from] AuthError),
    /// The store failed.
    #[error("the passkey could not be read or written")]
    Unavailable(#[from] IdentityError),
}

impl PasskeyError {
    /// The machine-readable code of the reply.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownCeremony | Self::OtherSession => "unknown_ceremony",
            Self::Refused(_) => "passkey_refused",
            Self::UnknownPasskey => "unknown_passkey",
            Self::NotAdded { .. } => "passkey_not_added",
            Self::Name { .. } => "invalid_name",
            Self::NotFound => "passkey_not_found",
            Self::LastWayIn => "last_way_in",
            Self::Caller(error) => error.code(),
            Self::Unavailable(_) => "unavailable",
        }
    }
}
