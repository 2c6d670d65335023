//! Identity as its callers see it, over SQLite always and over PostgreSQL when `DATABASE_URL` names one.

use std::sync::Arc;

use alloy::primitives::aliases::{U40, U48};
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::Eip712Domain;
use async_trait::async_trait;
use daemon::clock::ManualClock;
use http::{HeaderMap, HeaderValue};
use sqlx::Connection;
use wire::typed::{self, SignIn, SpendAuthorization};
use wire::{AccountId, Address, B256};

use super::*;

mod calling; // sessions and keys in use
mod signing_in; // challenges and signatures
mod users; // passkeys, wallets and whose session it is

const NOW_S: u64 = 1_900_000_000;

/// One fresh database, dropped at the end of the test where it is a file.
pub(crate) struct Database {
    pub(crate) url: String,
    _folder: tempfile::TempDir,
}

/// Every database that this run can reach, each empty.
pub(crate) async fn databases() -> Vec<Database> {
    let folder = tempfile::tempdir().unwrap();
    let mut databases = vec![Database { url: format!("sqlite://{}", folder.path().join("meter.sqlite").display()), _folder: folder }];
    if let Ok(server) = std::env::var("DATABASE_URL") {
        let schema = format!("identity_{}", uuid::Uuid::now_v7().simple());
        let mut connection = sqlx::PgConnection::connect(&server).await.unwrap();
        sqlx::query(sqlx::AssertSqlSafe(format!("CREATE SCHEMA {schema}"))).execute(&mut connection).await.unwrap();
        let separator = if server.contains('?') { '&' } else { '?' };
        let url = format!("{server}{separator}options=-csearch_path%3D{schema}");
        databases.push(Database { url, _folder: tempfile::tempdir().unwrap() });
    }
    databases
}

/// An identity with a clock of its own, and a wallet with account 7.
struct Room {
    identity: Identity,
    clock: Arc<ManualClock>,
    wallet: PrivateKeySigner,
    domain: Eip712Domain,
    database: Database,
}

struct AccountSeven(Address);

#[async_trait]
impl Accounts for AccountSeven {
    async fn account_of_wallet(&self, wallet: Address) -> Result<Option<AccountId>, Box<dyn std::error::Error + Send + Sync>> {
        Ok((wallet == self.0).then_some(AccountId(7)))
    }
}

async fn rooms() -> Vec<Room> {
    rooms_with(IdentitySettings::default(), None).await
}

async fn rooms_with(settings: IdentitySettings, contract_wallets: Option<Arc<dyn ContractWallets>>) -> Vec<Room> {
    let mut rooms = Vec::new();
    for database in databases().await {
        let clock = ManualClock::at_s(NOW_S);
        let wallet = PrivateKeySigner::from_bytes(&B256::repeat_byte(0x11)).unwrap();
        let neighbours =
            Neighbours { accounts: Some(Arc::new(AccountSeven(wallet.address()))), contract_wallets: contract_wallets.clone() };
        let identity = Identity::open(&database.url, settings.clone(), clock.clone(), neighbours).await.unwrap();
        let domain = typed::credits_domain(31_337, Address::repeat_byte(0xcc));
        rooms.push(Room { identity, clock, wallet, domain, database });
    }
    rooms
}

impl Room {
    fn sign_in_type(&self, challenge: B256) -> SignIn {
        SignIn { owner: self.wallet.address(), challenge, signDeadline: U40::from(NOW_S + 600) }
    }

    fn authorization(&self, challenge: B256) -> SpendAuthorization {
        SpendAuthorization {
            owner: self.wallet.address(),
            cap: 5_000_000_000,
            exposure: U48::from(1_000_000_000u64),
            validUntil: U40::from(NOW_S + 86_400),
            challenge,
            nonce: 0,
            signDeadline: U40::from(NOW_S + 600),
        }
    }

    /// A request that signs in, for tests to bend.
    async fn request(&self) -> SignInRequest {
        let challenge = self.identity.challenge().await.unwrap();
        let signed = self.sign_in_type(challenge.challenge);
        let signature = typed::sign(&signed, &self.domain, &self.wallet).unwrap().to_vec();
        SignInRequest { secret: challenge.secret, kind: SignInKind::SignIn(signed), signature }
    }

    async fn sign_in(&self, request: &SignInRequest) -> Result<Session, SignInError> {
        self.identity.sign_in(request, &self.domain).await
    }

    async fn session(&self) -> Session {
        self.sign_in(&self.request().await).await.unwrap()
    }

    fn advance_s(&self, by_s: u64) {
        self.clock.advance_ms(by_s * 1_000);
    }
}

fn bearer(secret: &str) -> HeaderMap {
    headers(&[("authorization", &format!("Bearer {secret}"))])
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())).collect()
}

async fn refusal(room: &Room, request: &SignInRequest) -> &'static str {
    room.sign_in(request).await.unwrap_err().code()
}

async fn auth_refusal(room: &Room, headers: &HeaderMap) -> &'static str {
    room.identity.authenticate(headers).await.unwrap_err().code()
}

impl Room {
    /// Signs in with a deadline that fits a clock that moved.
    async fn session_at_now(&self) -> Session {
        let challenge = self.identity.challenge().await.unwrap();
        let signed = SignIn { signDeadline: U40::MAX, ..self.sign_in_type(challenge.challenge) };
        let signature = typed::sign(&signed, &self.domain, &self.wallet).unwrap().to_vec();
        self.sign_in(&SignInRequest { secret: challenge.secret, kind: SignInKind::SignIn(signed), signature }).await.unwrap()
    }
}
