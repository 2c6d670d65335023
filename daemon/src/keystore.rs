//! Encrypted keys on disk: Web3 Secret Storage v3 with scrypt, password from a file that only its owner can read.
//!
//! Own code where `eth-keystore` exists, for three reasons: it fixes scrypt at N = 2^13, it creates the file readable for
//! everybody, and it panics on a keystore with short fields. The format is the common one: `cast` and geth open our
//! files, and we open theirs.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aes::Aes128;
use aes::cipher::{KeyIvInit, StreamCipher};
use alloy::primitives::{Address, B256, keccak256};
use alloy::signers::local::PrivateKeySigner;
use ctr::Ctr128BE;
use scrypt::{Params, scrypt};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::Zeroizing;

/// Cost of guessing one password: 2^17, about 128 MiB and a third of a second.
pub const SCRYPT_LOG_N: u8 = 17;

/// Highest cost that [`open`] accepts, so that a hostile file can't take all memory.
const SCRYPT_LOG_N_MAX: u8 = 20;
const PASSWORD_BYTES_MAX: u64 = 4_096;
const KEYSTORE_BYTES_MAX: u64 = 64 << 10;

/// Writes a new random key, encrypted, to `path`, mode 0600. Errors when the file exists: a key is never overwritten.
pub fn create(path: &Path, password_file: &Path) -> Result<Address, KeystoreError> {
    let mut secret = Zeroizing::new([0u8; 32]);
    rand::fill(&mut secret[..]);
    seal(path, &read_password(password_file)?, &secret, SCRYPT_LOG_N)
}

/// Encrypts the key of which the hex stands in `secret_file` (mode 0600). Errors as [`create`], and on a file that is no key.
pub fn import(path: &Path, password_file: &Path, secret_file: &Path) -> Result<Address, KeystoreError> {
    let text = read_secret_file(secret_file)?;
    let not_a_key = || KeystoreError::NotAKey { path: secret_file.to_owned() };
    let secret: B256 = text.parse().map_err(|_| not_a_key())?;
    seal(path, &read_password(password_file)?, &secret.0, SCRYPT_LOG_N)
}

/// Opens the key at `path`. Errors on a wrong password, a damaged file, or a password file that others can read.
pub fn open(path: &Path, password_file: &Path) -> Result<PrivateKeySigner, KeystoreError> {
    let stored = read_stored(path)?;
    let secret = unseal(path, &stored.crypto, &read_password(password_file)?)?;
    PrivateKeySigner::from_slice(&secret[..]).map_err(|_| KeystoreError::NotAKey { path: path.to_owned() })
}

/// The address that the file names, without the password. Errors when it names none.
pub fn address(path: &Path) -> Result<Address, KeystoreError> {
    let damaged = || KeystoreError::Damaged { path: path.to_owned(), what: "it names no address".into() };
    read_stored(path)?.address.and_then(|text| text.parse().ok()).ok_or_else(damaged)
}

/// The password in `path`, without its line end. Errors when anybody but the owner can read the file.
pub fn read_password(path: &Path) -> Result<Zeroizing<String>, KeystoreError> {
    let text = read_secret_file(path)?;
    if text.is_empty() { Err(KeystoreError::EmptyPassword { path: path.to_owned() }) } else { Ok(text) }
}

fn read_secret_file(path: &Path) -> Result<Zeroizing<String>, KeystoreError> {
    let read = |error| KeystoreError::Read { path: path.to_owned(), error };
    let facts = fs::metadata(path).map_err(read)?;
    let mode = facts.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeystoreError::Readable { path: path.to_owned(), mode });
    }
    if facts.len() > PASSWORD_BYTES_MAX {
        return Err(KeystoreError::Damaged { path: path.to_owned(), what: format!("{} bytes are too long for a secret", facts.len()) });
    }
    let text = Zeroizing::new(fs::read_to_string(path).map_err(read)?);
    Ok(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned()))
}

fn seal(path: &Path, password: &str, secret: &[u8; 32], log_n: u8) -> Result<Address, KeystoreError> {
    let signer = PrivateKeySigner::from_slice(secret).map_err(|_| KeystoreError::NotAKey { path: path.to_owned() })?;
    let (mut salt, mut iv, mut id) = ([0u8; 32], [0u8; 16], [0u8; 16]);
    rand::fill(&mut salt);
    rand::fill(&mut iv);
    rand::fill(&mut id);
    let derived = derive(path, password, &salt, log_n, 8, 1)?;
    let (cipher_key, mac_key) = halves(&derived);
    let mut ciphertext = *secret;
    Ctr128BE::<Aes128>::new(&cipher_key.into(), &iv.into()).apply_keystream(&mut ciphertext);
    let stored = Stored {
        version: 3,
        id: uuid(id),
        address: Some(format!("{:x}", signer.address())),
        crypto: Crypto {
            cipher: "aes-128-ctr".into(),
            cipherparams: CipherParams { iv: hex::encode(iv) },
            ciphertext: hex::encode(ciphertext),
            kdf: "scrypt".into(),
            kdfparams: KdfParams { dklen: 32, n: 1 << log_n, r: 8, p: 1, salt: hex::encode(salt) },
            mac: hex::encode(mac(&mac_key, &ciphertext)),
        },
    };
    let text = serde_json::to_string(&stored).map_err(|error| KeystoreError::Damaged { path: path.to_owned(), what: error.to_string() })?;
    write_new(path, text.as_bytes())?;
    Ok(signer.address())
}

fn unseal(path: &Path, crypto: &Crypto, password: &str) -> Result<Zeroizing<[u8; 32]>, KeystoreError> {
    let damaged = |what: &str| KeystoreError::Damaged { path: path.to_owned(), what: what.to_owned() };
    let kdf = &crypto.kdfparams;
    if crypto.cipher != "aes-128-ctr" || crypto.kdf != "scrypt" || kdf.dklen != 32 || !kdf.n.is_power_of_two() {
        return Err(damaged("only aes-128-ctr with scrypt (dklen 32, n a power of two) is read"));
    }
    let iv: [u8; 16] = hex::decode(&crypto.cipherparams.iv).ok().and_then(|iv| iv.try_into().ok()).ok_or_else(|| damaged("bad iv"))?;
    let salt = hex::decode(&kdf.salt).map_err(|_| damaged("bad salt"))?;
    let expected_mac = hex::decode(&crypto.mac).map_err(|_| damaged("bad mac"))?;
    let ciphertext: [u8; 32] =
        hex::decode(&crypto.ciphertext).ok().and_then(|text| text.try_into().ok()).ok_or_else(|| damaged("bad ciphertext"))?;
    let derived = derive(path, password, &salt, kdf.n.ilog2() as u8, kdf.r, kdf.p)?;
    let (cipher_key, mac_key) = halves(&derived);
    if mac(&mac_key, &ciphertext) != expected_mac {
        return Err(KeystoreError::WrongPassword { path: path.to_owned() });
    }
    let mut secret = Zeroizing::new(ciphertext);
    Ctr128BE::<Aes128>::new(&cipher_key.into(), &iv.into()).apply_keystream(&mut secret[..]);
    Ok(secret)
}

fn derive(path: &Path, password: &str, salt: &[u8], log_n: u8, r: u32, p: u32) -> Result<Zeroizing<[u8; 32]>, KeystoreError> {
    let refused =
        || KeystoreError::Damaged { path: path.to_owned(), what: format!("scrypt with n = 2^{log_n}, r = {r}, p = {p} is refused") };
    if log_n > SCRYPT_LOG_N_MAX || r > 16 || p > 16 {
        return Err(refused());
    }
    let params = Params::new(log_n, r, p).map_err(|_| refused())?;
    let mut derived = Zeroizing::new([0u8; 32]);
    scrypt(password.as_bytes(), salt, &params, &mut derived[..]).map_err(|_| refused())?;
    Ok(derived)
}

fn halves(derived: &[u8; 32]) -> ([u8; 16], [u8; 16]) {
    let (mut cipher_key, mut mac_key) = ([0u8; 16], [0u8; 16]);
    cipher_key.copy_from_slice(&derived[..16]);
    mac_key.copy_from_slice(&derived[16..]);
    (cipher_key, mac_key)
}

fn mac(mac_key: &[u8; 16], ciphertext: &[u8]) -> Vec<u8> {
    keccak256([&mac_key[..], ciphertext].concat()).to_vec()
}

fn read_stored(path: &Path) -> Result<Stored, KeystoreError> {
    let read = |error| KeystoreError::Read { path: path.to_owned(), error };
    let damaged = |what: String| KeystoreError::Damaged { path: path.to_owned(), what };
    let length_bytes = fs::metadata(path).map_err(read)?.len();
    if length_bytes > KEYSTORE_BYTES_MAX {
        return Err(damaged(format!("{length_bytes} bytes are too many for a keystore")));
    }
    serde_json::from_slice(&fs::read(path).map_err(read)?).map_err(|error| damaged(error.to_string()))
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<(), KeystoreError> {
    let write = |error| KeystoreError::Write { path: path.to_owned(), error };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(write)?;
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(write)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(write)
}

fn uuid(bytes: [u8; 16]) -> String {
    let text = hex::encode(bytes);
    [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-")
}

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(alias = "Crypto")]
    crypto: Crypto,
}

#[derive(Serialize, Deserialize)]
struct Crypto {
    cipher: String,
    cipherparams: CipherParams,
    ciphertext: String,
    kdf: String,
    kdfparams: KdfParams,
    mac: String,
}

#[derive(Serialize, Deserialize)]
struct CipherParams {
    iv: String,
}

#[derive(Serialize, Deserialize)]
struct KdfParams {
    dklen: u32,
    n: u64,
    r: u32,
    p: u32,
    salt: String,
}

/// The `key` subcommand, the same in every binary.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum KeyCommand {
    /// Make a new encrypted key and print its address.
    New {
        /// Where the keystore goes; must not exist.
        #[arg(long)]
        out: PathBuf,
        /// File with the password, readable for its owner only.
        #[arg(long)]
        password_file: PathBuf,
    },
    /// Encrypt the hex key in a file and print its address.
    Import {
        /// Where the keystore goes; must not exist.
        #[arg(long)]
        out: PathBuf,
        /// File with the password, readable for its owner only.
        #[arg(long)]
        password_file: PathBuf,
        /// File with 64 hex digits, readable for its owner only.
        #[arg(long)]
        secret_file: PathBuf,
    },
    /// Print the address of a keystore; needs no password.
    Address {
        /// The keystore.
        path: PathBuf,
    },
}

impl KeyCommand {
    /// Does it; the address is what `main` prints.
    pub fn run(&self) -> Result<Address, KeystoreError> {
        match self {
            Self::New { out, password_file } => create(out, password_file),
            Self::Import { out, password_file, secret_file } => import(out, password_file, secret_file),
            Self::Address { path } => address(path),
        }
    }
}

/// Why a key can't be made or opened.
#[derive(Debug, Error)]
pub enum KeystoreError {
    /// Missing or unreadable.
    #[error("{}: {error}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// Exists already, or can't be written.
    #[error("{}: {error}; a key is never overwritten, name another file", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// A secret that others can read.
    #[error("{} has mode {mode:o}, others can read the secret; run `chmod 600 {}`", path.display(), path.display())]
    Readable {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Nothing in the password file.
    #[error("{} holds no password", path.display())]
    EmptyPassword {
        /// Which file.
        path: PathBuf,
    },
    /// The MAC differs.
    #[error("{}: the password is wrong, or the file is damaged", path.display())]
    WrongPassword {
        /// Which file.
        path: PathBuf,
    },
    /// Not a keystore that can be read.
    #[error("{} is no readable keystore: {what}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Not a secp256k1 key.
    #[error("{} holds no private key: 32 bytes, not zero, below the curve order", path.display())]
    NotAKey {
        /// Which file.
        path: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret_file(folder: &Path, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_new_key_opens_with_its_password_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let right = secret_file(folder.path(), "right", "correct horse\n", 0o600);
        let wrong = secret_file(folder.path(), "wrong", "battery staple\n", 0o600);
        let path = folder.path().join("key.json");
        let made = create(&path, &right).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(open(&path, &right).unwrap().address(), made);
        assert_eq!(address(&path).unwrap(), made);
        assert!(matches!(open(&path, &wrong), Err(KeystoreError::WrongPassword { .. })));
        assert!(matches!(create(&path, &right), Err(KeystoreError::Write { .. })));
    }

    #[test]
    fn a_password_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let open_to_all = secret_file(folder.path(), "password", "secret", 0o644);
        let error = create(&folder.path().join("key.json"), &open_to_all).unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
        assert!(!folder.path().join("key.json").exists());
    }

    /// The scrypt vector of the Web3 Secret Storage Definition.
    #[test]
    fn the_published_vector_opens() {
        let folder = tempfile::tempdir().unwrap();
        let password = secret_file(folder.path(), "password", "testpassword", 0o600);
        let path = folder.path().join("vector.json");
        fs::write(&path, r#"{"crypto":{"cipher":"aes-128-ctr","cipherparams":{"iv":"83dbcc02d8ccb40e466191a123791e0e"},"ciphertext":"d172bf743a674da9cdad04534d56926ef8358534d458fffccd4e6ad2fbde479c","kdf":"scrypt","kdfparams":{"dklen":32,"n":262144,"p":8,"r":1,"salt":"ab0c7876052600dd703518d6fc3fe8984592145b591fc8fb5c6d43190334ba19"},"mac":"2103ac29920d71da29f15d75b4a16dbe95cfd7ff8faea1056c33131d846e3097"},"id":"3198bc9c-6672-5ab3-d995-4942343ae5b6","version":3}"#).unwrap();
        let secret = open(&path, &password).unwrap().to_bytes();
        assert_eq!(hex::encode(secret), "7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d");
    }

    #[test]
    fn hostile_keystores_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let password = secret_file(folder.path(), "password", "secret", 0o600);
        let path = folder.path().join("key.json");
        create(&path, &password).unwrap();
        let good = fs::read_to_string(&path).unwrap();
        let dear = good.replace("\"n\":131072", "\"n\":1099511627776");
        let odd = good.replace("\"n\":131072", "\"n\":131071");
        let short = good.replace("\"dklen\":32", "\"dklen\":16");
        for hostile in [&dear, &odd, &short, &good[..good.len() / 2], "", "{}", "[1]"] {
            fs::write(&path, hostile).unwrap();
            assert!(matches!(open(&path, &password), Err(KeystoreError::Damaged { .. })), "{hostile}");
        }
    }
}
