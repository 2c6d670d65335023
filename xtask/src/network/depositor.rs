//! A depositor: a wallet that deposits PRLX and authorizes spending in one transaction, signs in, and makes an API key.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::deploy::Deployment;
use super::{keys, typed};
use crate::chain::{Chain, Key, Sender, plain};
use crate::http::Api;
use crate::secret;
use crate::stop::{Stop, wait_until};

/// Credits in one PRLX.
pub const CREDITS_PER_PRLX: u64 = 1_000_000_000;
const WEI_PER_CREDIT: u128 = 1_000_000_000;
const SIGN_SECONDS: u64 = 3_600;
const DAY_SECONDS: u64 = 86_400;
const MIRROR_LIMIT: Duration = Duration::from_secs(90);

/// What a depositor puts in and allows.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Credits deposited.
    pub deposit: u64,
    /// Most that may ever be debited.
    pub cap: u64,
    /// Most that may be metered and unsettled.
    pub exposure: u64,
    /// How long, seconds.
    pub valid_seconds: u64,
}

impl Terms {
    /// 100 PRLX, all of it spendable, 10 PRLX of it at once, for 30 days.
    pub const DEMO: Self = Self {
        deposit: 100 * CREDITS_PER_PRLX,
        cap: 100 * CREDITS_PER_PRLX,
        exposure: 10 * CREDITS_PER_PRLX,
        valid_seconds: 30 * DAY_SECONDS,
    };
}

/// A vault account as the chain has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccountView {
    /// 0 when the wallet has none.
    pub id: u32,
    /// Debited so far.
    pub settled: u64,
    /// `min(net_deposited, authorized_cum)`.
    pub limit: u64,
    /// Seconds since the epoch; 0 when nothing was authorized.
    pub settle_deadline: u64,
    /// Deposits less withdrawals.
    pub net_deposited: u64,
    /// Next nonce of an authorization.
    pub auth_nonce: u32,
}

/// A wallet with a vault account and an API key.
#[derive(Clone, Debug)]
pub struct Depositor {
    /// Its key.
    pub key: Key,
    /// The API key's file, mode 0600.
    pub api_key_file: PathBuf,
}

/// A signed authorization and the secret that opens a session with it.
struct Signed {
    authorization: Value,
    signature: String,
    secret: String,
}

impl Depositor {
    /// The wallet in `folder`; made with `binary key new` when it is not there.
    pub fn ready(binary: &Path, folder: &Path, stop: &Stop) -> Result<Self> {
        Ok(Self { key: keys::ready(binary, folder, "wallet", stop)?, api_key_file: folder.join("api.key") })
    }

    /// Deposits and authorizes unless the chain still has both, and makes an API key unless there is one that works.
    ///
    /// True when it sent a transaction.
    pub fn fund(&self, chain: &Chain, deployment: &Deployment, meter: &Api, terms: &Terms) -> Result<bool> {
        let account = self.account(chain, deployment)?;
        let now = chain.timestamp()?;
        let enough = account.limit.saturating_sub(account.settled) >= terms.deposit / 10;
        let long = account.settle_deadline >= now + DAY_SECONDS.min(terms.valid_seconds / 2);
        if !(enough && long) {
            let signed = self.deposit_and_authorize(chain, deployment, meter, terms, account.auth_nonce)?;
            let session = self.open_session(meter, &signed)?;
            self.make_key(meter, &session)?;
        } else if !self.has_working_key(meter) {
            let session = self.sign_in(chain, deployment, meter)?;
            self.make_key(meter, &session)?;
        }
        Ok(!(enough && long))
    }

    /// The interface with this depositor's API key.
    pub fn api(&self, meter: &Api) -> Result<Api> {
        Ok(meter.with_bearer(&secret::read(&self.api_key_file)?))
    }

    /// The vault account.
    pub fn account(&self, chain: &Chain, deployment: &Deployment) -> Result<AccountView> {
        let id = chain.call_number(&deployment.credits, "accountOf(address)(uint32)", &[&self.key.address])?;
        let id = u32::try_from(id).context("an account id has 32 bits")?;
        if id == 0 {
            return Ok(AccountView::default());
        }
        let view = "accounts(uint32[])((address,uint64,uint64,uint48,uint40,uint40,uint64,uint64,uint32)[])";
        let views = chain.call_one(&deployment.credits, view, &[&format!("[{id}]")])?;
        AccountView::read(id, &views[0])
    }

    /// Gets PRLX and gas from the development chain's first account, signs, deposits and authorizes.
    fn deposit_and_authorize(&self, chain: &Chain, deployment: &Deployment, meter: &Api, terms: &Terms, nonce: u32) -> Result<Signed> {
        let amount_wei = (u128::from(terms.deposit) * WEI_PER_CREDIT).to_string();
        chain.set_balance(&self.key.address, 10)?;
        let faucet = Sender::Unlocked(&deployment.faucet);
        chain.send(faucet, &deployment.prlx, "transfer(address,uint256)", &[&self.key.address, &amount_wei])?;

        let challenge = challenge(meter)?;
        let now = chain.timestamp()?;
        let deadline = now + SIGN_SECONDS;
        let authorization = json!({
            "owner": self.key.address, "cap": terms.cap, "exposure": terms.exposure, "validUntil": now + terms.valid_seconds,
            "challenge": challenge.hash, "nonce": nonce, "signDeadline": deadline,
        });
        let signature = chain.sign_typed(&self.key, &typed::spend_authorization(deployment, &authorization))?;
        let permit_nonce = chain.call_one(&deployment.prlx, "nonces(address)(uint256)", &[&self.key.address])?;
        let name = chain.call_one(&deployment.prlx, "name()(string)", &[])?;
        let permit = typed::permit(deployment, &plain(&name), &self.key.address, &amount_wei, &plain(&permit_nonce), deadline);
        let (v, r, s) = split(&chain.sign_typed(&self.key, &permit)?)?;

        let signed_fields = ["owner", "cap", "exposure", "validUntil", "challenge", "nonce", "signDeadline"];
        let tuple: Vec<String> = signed_fields.iter().map(|field| plain(&authorization[field])).collect();
        chain.send(
            Sender::Keystore(&self.key),
            &deployment.credits,
            "depositAndAuthorize(uint64,uint256,uint8,bytes32,bytes32,(address,uint64,uint48,uint40,bytes32,uint32,uint40),bytes)",
            &[&terms.deposit.to_string(), &deadline.to_string(), &v, &r, &s, &format!("({})", tuple.join(",")), &signature],
        )?;
        Ok(Signed { authorization, signature, secret: challenge.secret })
    }

    /// Opens a session with the signature that also authorizes spending.
    fn open_session(&self, meter: &Api, signed: &Signed) -> Result<Api> {
        let body = json!({"secret": signed.secret, "authorization": signed.authorization, "signature": signed.signature});
        session(meter, &body)
    }

    /// Opens a session with a `SignIn`, which authorizes nothing.
    pub fn sign_in(&self, chain: &Chain, deployment: &Deployment, meter: &Api) -> Result<Api> {
        let challenge = challenge(meter)?;
        let sign_in = json!({"owner": self.key.address, "challenge": challenge.hash, "signDeadline": chain.timestamp()? + SIGN_SECONDS});
        let signature = chain.sign_typed(&self.key, &typed::sign_in(deployment, &sign_in))?;
        session(meter, &json!({"secret": challenge.secret, "sign_in": sign_in, "signature": signature}))
    }

    fn make_key(&self, meter: &Api, session: &Api) -> Result<()> {
        let made = session.post("/v1/keys", &json!({"name": "demo"}))?.ok("making an API key")?;
        let key = made["key"].as_str().context("the meter made an API key and did not show it")?;
        secret::write(&self.api_key_file, key)?;
        ensure!(self.has_working_key(meter), "the meter does not accept the API key that it just made");
        Ok(())
    }

    fn has_working_key(&self, meter: &Api) -> bool {
        self.api(meter).and_then(|api| api.get("/v1/credits")).is_ok_and(|reply| reply.status == 200)
    }

    /// Until the meter has mirrored the account's deposits.
    pub fn await_credits(&self, chain: &Chain, deployment: &Deployment, meter: &Api, stop: &Stop) -> Result<()> {
        let api = self.api(meter)?;
        let account = self.account(chain, deployment)?;
        wait_until("the meter to mirror the deposit", MIRROR_LIMIT, stop, || {
            let credits = api.get("/v1/credits")?.ok("asking for credits")?;
            let spendable = credits["spendable_credits"].as_u64().unwrap_or(0);
            Ok((spendable > 0 || account.limit == account.settled).then_some(()))
        })
    }
}

impl AccountView {
    /// From one element of what `accounts(uint32[])` returns: `[owner, settled, limit, …]`.
    fn read(id: u32, tuple: &Value) -> Result<Self> {
        let number = |index: usize| tuple[index].as_u64().with_context(|| format!("unreadable account view: {tuple}"));
        Ok(Self {
            id,
            settled: number(1)?,
            limit: number(2)?,
            settle_deadline: number(5)?,
            net_deposited: number(6)?,
            auth_nonce: u32::try_from(number(8)?).context("a nonce has 32 bits")?,
        })
    }
}

struct Challenge {
    secret: String,
    hash: String,
}

fn challenge(meter: &Api) -> Result<Challenge> {
    let given = meter.post("/v1/session/challenge", &json!({}))?.ok("asking for a challenge")?;
    let field = |name: &str| given[name].as_str().map(str::to_owned).with_context(|| format!("the challenge has no `{name}`"));
    Ok(Challenge { secret: field("secret")?, hash: field("challenge")? })
}

fn session(meter: &Api, body: &Value) -> Result<Api> {
    let opened = meter.post("/v1/session", body)?.ok("signing in")?;
    Ok(meter.with_bearer(opened["session_token"].as_str().context("the meter opened a session without a token")?))
}

/// `r ‖ s ‖ v` as `(v, r, s)`.
fn split(signature: &str) -> Result<(String, String, String)> {
    let digits = signature.trim_start_matches("0x");
    ensure!(digits.len() == 130 && digits.is_ascii(), "a signature has 65 bytes, this one is `{signature}`");
    let v = u8::from_str_radix(&digits[128..], 16).context("a signature is hex")?;
    Ok((v.to_string(), format!("0x{}", &digits[..64]), format!("0x{}", &digits[64..128])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_view_is_read_as_cast_prints_it() {
        let tuple = json!(["0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266", 7, 100, 50, 1_700_000_000, 1_800_000_000, 100, 200, 3]);
        let view = AccountView { id: 2, settled: 7, limit: 100, settle_deadline: 1_800_000_000, net_deposited: 100, auth_nonce: 3 };
        assert_eq!(AccountView::read(2, &tuple).unwrap(), view);
        assert!(AccountView::read(2, &json!([])).is_err());
    }

    #[test]
    fn a_signature_is_split_for_the_permit() {
        let signature = format!("0x{}{}1b", "11".repeat(32), "22".repeat(32));
        let (v, r, s) = split(&signature).unwrap();
        assert_eq!((v.as_str(), r, s), ("27", format!("0x{}", "11".repeat(32)), format!("0x{}", "22".repeat(32))));
        assert!(split("0x12").is_err());
    }
}
