//! The meter's keeper calls (`docs/protocol.md`, sections 7 and 9): the feed, countersigning, and the batch that stands.

use std::time::Duration;

use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::Eip712Domain;
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use wire::Bytes;
use wire::receipt::seconds_u40;
use wire::settlement::{ACCESS_SCHEME, ACCESS_SECONDS_MAX, BatchProposal, Feed, RECEIPTS_MAX, SignedBatch};
use wire::typed::{self, KeeperAccess, TypedError};

/// Largest answer: 10,000 receipts of about 1.3 kB.
const BODY_BYTES_MAX: usize = 32 << 20;
/// A pass is valid for half of what the meter allows, so that a clock ahead of the meter's does not spoil it.
const PASS_SECONDS: u64 = ACCESS_SECONDS_MAX / 2;
/// Longest error text that is kept.
const MESSAGE_CHARS_MAX: usize = 300;

/// Calls one meter, with a pass signed by the keeper's key.
#[derive(Clone, Debug)]
pub struct Meter {
    client: reqwest::Client,
    base: Url,
    signer: PrivateKeySigner,
    domain: Eip712Domain,
}

/// The meter's answer to a proposal.
#[derive(Debug)]
pub enum Countersigned {
    /// Signed, with exactly the proposed content.
    Signed(SignedBatch),
    /// Another content was signed for this sequence number; ask for it.
    SeqTaken,
    /// The meter's ledger does not agree.
    Refused {
        /// HTTP status.
        status: u16,
        /// The meter's code.
        code: String,
        /// The meter's words.
        message: String,
    },
}

impl Meter {
    /// Calls the meter at `base`; each call may take `timeout`. Errors when the HTTP client can't be made.
    pub fn new(base: Url, timeout: Duration, signer: PrivateKeySigner, domain: Eip712Domain) -> Result<Self, FeedError> {
        let client = reqwest::Client::builder().timeout(timeout).connect_timeout(timeout).redirect(reqwest::redirect::Policy::none());
        let client = client.build().map_err(|error| FeedError::Transport { path: String::new(), error })?;
        Ok(Self { client, base, signer, domain })
    }

    /// What waits to be settled.
    pub async fn feed(&self, now: u64) -> Result<Feed, FeedError> {
        let answer = self.call(Method::GET, "/v1/settlement/feed", None, now).await?;
        let feed: Feed = answer.expect_ok()?;
        if feed.receipts.len() > RECEIPTS_MAX || feed.carries.len() > RECEIPTS_MAX {
            return Err(FeedError::TooMany { receipts: feed.receipts.len(), carries: feed.carries.len() });
        }
        Ok(feed)
    }

    /// Asks for the settler's signature. Errors when the meter can't be asked, or answers with another batch.
    pub async fn countersign(&self, proposal: &BatchProposal, now: u64) -> Result<Countersigned, FeedError> {
        let body = serde_json::to_vec(proposal).map_err(FeedError::Encode)?;
        let answer = self.call(Method::POST, "/v1/settlement/batches", Some(body), now).await?;
        if answer.status.is_success() {
            let signed: SignedBatch = answer.expect_ok()?;
            let same = BatchProposal { deadline: proposal.deadline, ..signed.proposal.clone() } == *proposal;
            return if same { Ok(Countersigned::Signed(signed)) } else { Err(FeedError::OtherBatch { seq: proposal.seq }) };
        }
        let error = answer.error();
        // Passes, overload and failures say nothing of the batch.
        let of_the_batch = matches!(answer.status.as_u16(), 400 | 404 | 409 | 413 | 422);
        match error {
            Some(error) if error.code == "seq_taken" && answer.status == StatusCode::CONFLICT => Ok(Countersigned::SeqTaken),
            Some(error) if of_the_batch => {
                Ok(Countersigned::Refused { status: answer.status.as_u16(), code: error.code, message: clip(&error.message) })
            }
            _ => Err(answer.failed()),
        }
    }

    /// The batch that stands for `seq`, whoever proposed it; `None` when none was signed.
    pub async fn standing(&self, seq: u64, now: u64) -> Result<Option<SignedBatch>, FeedError> {
        let answer = self.call(Method::GET, &format!("/v1/settlement/batches/{seq}"), None, now).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let batch: SignedBatch = answer.expect_ok()?;
        if batch.proposal.seq == seq { Ok(Some(batch)) } else { Err(FeedError::OtherBatch { seq }) }
    }

    async fn call(&self, method: Method, path: &str, body: Option<Vec<u8>>, now: u64) -> Result<Answer, FeedError> {
        let transport = |error| FeedError::Transport { path: path.to_owned(), error };
        let url = self.base.join(path).map_err(|_| FeedError::Url { base: self.base.clone() })?;
        let mut request = self.client.request(method, url).header("authorization", self.pass(now)?);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        let mut response = request.send().await.map_err(transport)?;
        let status = response.status();
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(transport)? {
            if bytes.len() + chunk.len() > BODY_BYTES_MAX {
                return Err(FeedError::TooLarge { path: path.to_owned() });
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Answer { path: path.to_owned(), status, bytes })
    }

    fn pass(&self, now: u64) -> Result<String, FeedError> {
        let valid_until = now + PASS_SECONDS;
        let access = KeeperAccess { keeper: self.signer.address(), validUntil: seconds_u40(valid_until) };
        let signature = typed::sign(&access, &self.domain, &self.signer).map_err(FeedError::Sign)?;
        Ok(format!("{ACCESS_SCHEME} {}.{valid_until}.{}", self.signer.address(), Bytes::copy_from_slice(&signature)))
    }
}

struct Answer {
    path: String,
    status: StatusCode,
    bytes: Vec<u8>,
}

#[derive(Deserialize)]
struct ErrorBody {
    error: ErrorObject,
}

#[derive(Deserialize)]
struct ErrorObject {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl Answer {
    fn expect_ok<T: DeserializeOwned>(&self) -> Result<T, FeedError> {
        if !self.status.is_success() {
            return Err(self.failed());
        }
        serde_json::from_slice(&self.bytes).map_err(|error| FeedError::Malformed { path: self.path.clone(), error })
    }

    fn error(&self) -> Option<ErrorObject> {
        serde_json::from_slice::<ErrorBody>(&self.bytes).ok().map(|body| body.error)
    }

    fn failed(&self) -> FeedError {
        let (path, status) = (self.path.clone(), self.status.as_u16());
        let message = self.error().map_or_else(|| "no message".to_owned(), |error| clip(&error.message));
        FeedError::Status { path, status, message }
    }
}

fn clip(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MESSAGE_CHARS_MAX).collect()
}

/// Why the meter was of no use in this round.
#[derive(Debug, Error)]
pub enum FeedError {
    /// It did not answer.
    #[error("meter {path}: {error}; the next round asks again")]
    Transport {
        /// Which call.
        path: String,
        /// What the library said.
        error: reqwest::Error,
    },
    /// It refused.
    #[error("meter {path}: HTTP {status}, {message}")]
    Status {
        /// Which call.
        path: String,
        /// HTTP status.
        status: u16,
        /// The meter's words.
        message: String,
    },
    /// Its answer can't be read.
    #[error("meter {path}: {error}; are meter and keeper of the same release?")]
    Malformed {
        /// Which call.
        path: String,
        /// Where and what.
        error: serde_json::Error,
    },
    /// Its answer is too long.
    #[error("meter {path}: the answer exceeds {BODY_BYTES_MAX} bytes")]
    TooLarge {
        /// Which call.
        path: String,
    },
    /// Its feed is too long.
    #[error("the feed has {receipts} receipts and {carries} carries; at most {RECEIPTS_MAX} of each are taken")]
    TooMany {
        /// How many receipts.
        receipts: usize,
        /// How many carries.
        carries: usize,
    },
    /// It answered with a batch that nobody asked for.
    #[error("the meter answered with another batch than the one for seq {seq}")]
    OtherBatch {
        /// Which one was asked for.
        seq: u64,
    },
    /// `meter_url` is no base.
    #[error("meter_url {base} can't have a path joined to it; write it as http://host:port")]
    Url {
        /// What was written.
        base: Url,
    },
    /// A proposal does not serialize.
    #[error("proposal: {0}")]
    Encode(serde_json::Error),
    /// The pass can't be signed.
    #[error("pass to the feed: {0}")]
    Sign(TypedError),
}
