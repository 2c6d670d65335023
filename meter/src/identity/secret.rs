//! The form of API keys and session secrets: prefix ‖ 43 base-62 digits of 32 random bytes ‖ 6 base-62 digits of a checksum.
//!
//! The prefix lets secret scanners find a leaked one; the checksum refuses a mistyped one before any look-up. Stored is
//! the SHA-256 of the whole text: 256 random bits need no salt and no slow hash.

use std::fmt;

use rand::TryRng;
use rand::rngs::SysRng;
use sha2::{Digest, Sha256};
use thiserror::Error;
use wire::U256;

use super::IdentityError;

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const BODY_LEN: usize = 43; // 62^43 > 2^256
const CHECKSUM_LEN: usize = 6; // 62^6 > 2^32
const SHOWN_LEN: usize = 6; // of the body, in lists: 36 of 256 bits

/// A text that is never shown: `Debug` hides it, nothing prints it but [`Secret::reveal`].
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text, for the one reply that hands it out.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What a secret opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    ApiKey,
    Session,
}

impl Kind {
    pub(super) fn prefix(self) -> &'static str {
        match self {
            Self::ApiKey => "prlx_",
            Self::Session => "prls_",
        }
    }
}

/// SHA-256 of a secret: all that is stored and compared.
pub(super) type SecretHash = [u8; 32];

/// Makes a secret of `kind` from the operating system's randomness.
pub(super) fn mint(kind: Kind) -> Result<Secret, IdentityError> {
    let body = base62(U256::from_be_bytes(random_bytes()?), BODY_LEN);
    let checksum = checksum(kind, &body);
    Ok(Secret(format!("{}{body}{checksum}", kind.prefix())))
}

/// 32 bytes from the operating system.
pub(super) fn random_bytes() -> Result<[u8; 32], IdentityError> {
    let mut bytes = [0; 32];
    SysRng.try_fill_bytes(&mut bytes).map_err(IdentityError::Randomness)?;
    Ok(bytes)
}

/// The digest under which `secret` is stored.
pub(super) fn hash(secret: &str) -> SecretHash {
    Sha256::digest(secret.as_bytes()).into()
}

/// The beginning of a secret that a list may show.
pub(super) fn shown_prefix(kind: Kind, secret: &Secret) -> String {
    secret.0.chars().take(kind.prefix().len() + SHOWN_LEN).collect()
}

/// Reads what a caller presented: its kind and digest. Errors say what is wrong with the form and never repeat the text.
pub(super) fn parse(text: &str) -> Result<(Kind, SecretHash), MalformedSecret> {
    let kind = [Kind::ApiKey, Kind::Session].into_iter().find(|kind| text.starts_with(kind.prefix())).ok_or(MalformedSecret::Prefix)?;
    let rest = &text[kind.prefix().len()..];
    let expected = BODY_LEN + CHECKSUM_LEN;
    if rest.len() != expected {
        return Err(MalformedSecret::Length { expected: kind.prefix().len() + expected, actual: text.len() });
    }
    if !rest.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(MalformedSecret::Alphabet);
    }
    let (body, check) = rest.split_at(BODY_LEN);
    if checksum(kind, body) != check {
        return Err(MalformedSecret::Checksum);
    }
    Ok((kind, hash(text)))
}

fn checksum(kind: Kind, body: &str) -> String {
    let digest = Sha256::new().chain_update(kind.prefix()).chain_update(body).finalize();
    base62(U256::from_be_slice(&digest[..4]), CHECKSUM_LEN)
}

fn base62(mut number: U256, len: usize) -> String {
    let base = U256::from(DIGITS.len());
    let mut digits = vec![DIGITS[0]; len];
    for digit in digits.iter_mut().rev() {
        let (quotient, remainder) = number.div_rem(base);
        *digit = DIGITS[remainder.to::<usize>()];
        number = quotient;
    }
    digits.into_iter().map(char::from).collect()
}

/// Why a text can't be a credential of ours.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MalformedSecret {
    /// Neither a key's nor a session's prefix.
    #[error("a credential starts with prlx_ (API key) or prls_ (session); this one does not")]
    Prefix,
    /// Cut short, or something was added.
    #[error("the credential has {actual} characters where {expected} are due; copy it whole")]
    Length {
        /// Characters due.
        expected: usize,
        /// Bytes given.
        actual: usize,
    },
    /// Something other than letters and digits.
    #[error("the credential holds characters other than letters and digits; copy it whole")]
    Alphabet,
    /// A character is wrong.
    #[error("the credential's checksum does not match: a character is wrong; copy it again")]
    Checksum,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn minted_secret_is_read_back_as_its_kind_and_hash() {
        for kind in [Kind::ApiKey, Kind::Session] {
            let secret = mint(kind).unwrap();
            assert_eq!(parse(secret.reveal()), Ok((kind, hash(secret.reveal()))));
            assert_eq!(secret.reveal().len(), 54);
            assert_eq!(shown_prefix(kind, &secret), secret.reveal()[..11]);
        }
    }

    #[test]
    fn debug_of_a_secret_hides_it() {
        let secret = mint(Kind::ApiKey).unwrap();
        assert!(!format!("{secret:?}").contains(&secret.reveal()[5..11]));
    }

    #[test]
    fn greatest_number_fits_the_body() {
        assert_eq!(base62(U256::MAX, BODY_LEN + 1).as_bytes()[0], b'0');
        assert_ne!(base62(U256::MAX, BODY_LEN).as_bytes()[0], b'0');
    }

    #[test]
    fn a_key_with_the_prefix_of_a_session_is_refused() {
        let key = mint(Kind::ApiKey).unwrap();
        assert_eq!(parse(&key.reveal().replacen("prlx_", "prls_", 1)), Err(MalformedSecret::Checksum));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in ".{0,80}") {
            prop_assert!(parse(&text).is_err());
            let prefixed = format!("prlx_{text}");
            prop_assert!(parse(&prefixed).is_err());
        }

        #[test]
        fn one_changed_character_is_refused(position in 5usize..54, replacement in "[0-9A-Za-z]") {
            let secret = mint(Kind::ApiKey).unwrap();
            let mut text = secret.reveal().to_owned();
            prop_assume!(text[position..=position] != replacement);
            text.replace_range(position..=position, &replacement);
            prop_assert_eq!(parse(&text), Err(MalformedSecret::Checksum));
        }
    }
}
