//! The hub's HTTP interface: the files of a revision, and requests that follow its redirects.
//!
//! `GET /api/models/{repo}/revision/{revision}?blobs=true` lists the files of one commit, `GET /{repo}/resolve/{commit}/{file}`
//! gives one. Source: the `huggingface_hub` client.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Client, Response, StatusCode, Url};
use serde::Deserialize;
use tokio::time::timeout;

use super::{PullError, PullLimits};
use crate::model::import::is_plain_name;

/// Longest listing in bytes; a repository of a thousand files takes a few hundred KiB.
const MAX_LISTING_BYTES: u64 = 32 << 20;
/// Most redirects; the hub's own storage takes one.
const MAX_REDIRECTS: usize = 5;
const MAX_NAME_BYTES: usize = 96;

/// Address of a hub. Without TLS only on this machine: the digests come the same way as the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubUrl(Url);

impl FromStr for HubUrl {
    type Err = PullError;

    fn from_str(text: &str) -> Result<Self, PullError> {
        let bad = |reason| PullError::HubUrl { url: text.to_owned(), reason };
        let url: Url = text.parse().map_err(|_| bad("it is no URL"))?;
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
            return Err(bad("it must be scheme, host and path alone; a token goes into a file"));
        }
        match url.scheme() {
            "https" => Ok(Self(url)),
            "http" if is_loopback(&url) => Ok(Self(url)),
            "http" => Err(bad("without TLS files and digests can be changed on the way; use https")),
            _ => Err(bad("it must begin with https://")),
        }
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host_str() {
        Some("localhost" | "[::1]") => true,
        Some(host) => host.parse::<std::net::Ipv4Addr>().is_ok_and(|ip| ip.is_loopback()),
        None => false,
    }
}

/// A file of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HubFile {
    pub(super) name: String,
    pub(super) size: u64,
    /// Large files.
    pub(super) sha256: Option<String>,
    /// Files that lie in git itself: SHA-1 over `blob SIZE\0` and the content.
    pub(super) git_sha1: Option<String>,
}

/// The files at the top of a repository.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) commit: String,
    pub(super) files: Vec<HubFile>,
}

impl Listing {
    pub(super) fn file(&self, name: &str) -> Option<&HubFile> {
        self.files.iter().find(|file| file.name == name)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawListing {
    sha: String,
    siblings: Vec<RawFile>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawFile {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<RawLfs>,
}

#[derive(Deserialize)]
struct RawLfs {
    #[serde(alias = "oid")]
    sha256: String,
    size: Option<u64>,
}

/// A hub and how it is asked.
pub struct Hub {
    url: HubUrl,
    client: Client,
    token: Option<HeaderValue>,
}

impl fmt::Display for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.url.0.as_str().trim_end_matches('/'))
    }
}

impl Hub {
    /// `token` is sent to the hub itself and to no other host.
    pub fn new(url: HubUrl, token: Option<&str>) -> Result<Self, PullError> {
        let broken = |reason: String| PullError::Hub { hub: url.0.to_string(), reason };
        let client = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("gpu-node/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| broken(e.to_string()))?;
        let token = token
            .map(|token| HeaderValue::from_str(&format!("Bearer {token}")))
            .transpose()
            .map_err(|_| broken("the token has characters that no header can carry".to_owned()))?
            .map(|mut value| {
                value.set_sensitive(true);
                value
            });
        Ok(Self { url, client, token })
    }

    /// Files of a revision with sizes and digests.
    pub(super) async fn listing(&self, repo: &str, revision: &str, limits: &PullLimits) -> Result<Listing, PullError> {
        let repo_ok = repo.split('/').count() <= 2 && repo.split('/').all(|part| is_plain_name(part) && part.len() <= MAX_NAME_BYTES);
        if !repo_ok {
            return Err(PullError::Repo { text: repo.to_owned() });
        }
        let revision_ok = revision.len() <= 255 && revision.split('/').all(is_plain_name);
        if !revision_ok {
            return Err(PullError::Revision { text: revision.to_owned() });
        }
        let path = format!("api/models/{repo}/revision/{}?blobs=true", revision.replace('/', "%2F"));
        let what = format!("{repo} at {revision}");
        let bytes = self.small_file(&self.url_of(&path), &what, MAX_LISTING_BYTES, limits).await?;
        let bad = |reason: String| PullError::Hub { hub: self.to_string(), reason };
        let raw: RawListing = serde_json::from_slice(&bytes).map_err(|e| bad(format!("its listing of {what} does not parse: {e}")))?;
        // The commit becomes part of a path, here and there.
        if !is_plain_name(&raw.sha) {
            return Err(bad(format!("it names {:?} as the commit", raw.sha)));
        }
        let files = raw.siblings.into_iter().filter(|file| is_plain_name(&file.rfilename)).map(file_of).collect();
        Ok(Listing { commit: raw.sha, files })
    }

    pub(super) fn file_url(&self, repo: &str, commit: &str, name: &str) -> String {
        self.url_of(&format!("{repo}/resolve/{commit}/{name}"))
    }

    fn url_of(&self, path: &str) -> String {
        format!("{self}/{path}")
    }

    /// A short answer, whole; tried as often as a file is.
    pub(super) async fn small_file(&self, url: &str, what: &str, most: u64, limits: &PullLimits) -> Result<Bytes, PullError> {
        let mut failures = 0;
        loop {
            let reason = match self.try_small_file(url, most, limits).await {
                Ok(bytes) => return Ok(bytes),
                Err(Failure::Refused(status)) => return Err(refusal(what, status)),
                Err(Failure::Passing(reason)) => reason,
            };
            failures += 1;
            if failures >= limits.attempts {
                return Err(PullError::GivenUp { file: what.to_owned(), reason, attempts: failures });
            }
            tokio::time::sleep(limits.backoff(failures)).await;
        }
    }

    async fn try_small_file(&self, url: &str, most: u64, limits: &PullLimits) -> Result<Bytes, Failure> {
        let mut response = self.get(url, HeaderMap::new(), limits).await?.response;
        let mut bytes = Vec::new();
        while let Some(piece) = next_piece(&mut response, limits).await? {
            if bytes.len() as u64 + piece.len() as u64 > most {
                return Err(Failure::Passing(format!("the answer is longer than {most} bytes")));
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes.into())
    }

    /// A successful answer, after redirects.
    pub(super) async fn get(&self, url: &str, headers: HeaderMap, limits: &PullLimits) -> Result<Answer, Failure> {
        let mut url: Url = url.parse().map_err(|_| Failure::Passing(format!("{url:?} is no URL")))?;
        let mut linked_etag = None;
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.client.get(url.clone()).headers(headers.clone());
            if let Some(token) = self.token.as_ref().filter(|_| url.origin() == self.url.0.origin()) {
                request = request.header(AUTHORIZATION, token.clone());
            }
            let sent = timeout(limits.answer, request.send()).await;
            let response = sent
                .map_err(|_| Failure::Passing(format!("no answer within {:?}", limits.answer)))?
                .map_err(|e| Failure::Passing(describe(&e)))?;
            let etag = response.headers().get("x-linked-etag").and_then(|value| value.to_str().ok());
            linked_etag = linked_etag.or(etag.map(|etag| etag.trim_matches('"').to_owned()));
            let status = response.status();
            if !status.is_redirection() {
                return classify(status).map(|()| Answer { response, linked_etag });
            }
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let next = location.and_then(|location| url.join(location).ok());
            let next = next.ok_or_else(|| Failure::Passing(format!("{status} leads nowhere")))?;
            if next.scheme() != "https" && !is_loopback(&next) {
                return Err(Failure::Passing(format!("{status} leads away from TLS, to {next}")));
            }
            url = next;
        }
        Err(Failure::Passing(format!("more than {MAX_REDIRECTS} redirects")))
    }
}

/// An answer, and the digest that the hub named before it redirected.
pub(super) struct Answer {
    pub(super) response: Response,
    pub(super) linked_etag: Option<String>,
}

/// Why one request failed.
pub(super) enum Failure {
    /// The hub's answer would be the same again.
    Refused(StatusCode),
    /// Worth another try.
    Passing(String),
}

/// The next bytes of an answer; a connection that stalls is an error.
pub(super) async fn next_piece(response: &mut Response, limits: &PullLimits) -> Result<Option<Bytes>, Failure> {
    match timeout(limits.stall, response.chunk()).await {
        Ok(piece) => piece.map_err(|e| Failure::Passing(describe(&e))),
        Err(_) => Err(Failure::Passing(format!("nothing came for {:?}", limits.stall))),
    }
}

fn classify(status: StatusCode) -> Result<(), Failure> {
    match status {
        status if status.is_success() => Ok(()),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Err(Failure::Passing(status.to_string())),
        status if status.is_client_error() => Err(Failure::Refused(status)),
        status => Err(Failure::Passing(status.to_string())),
    }
}

/// A refusal in words.
pub(super) fn refusal(what: &str, status: StatusCode) -> PullError {
    let remedy = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ", accept the model's terms on the hub, and give --token-file",
        _ => "",
    };
    PullError::NotFound { what: what.to_owned(), status: status.as_u16(), remedy }
}

fn file_of(raw: RawFile) -> HubFile {
    let hex = |text: &String, length: usize| text.len() == length && text.bytes().all(|b| b.is_ascii_hexdigit());
    let size = raw.lfs.as_ref().and_then(|lfs| lfs.size).or(raw.size).unwrap_or(0);
    let is_large = raw.lfs.is_some();
    HubFile {
        name: raw.rfilename,
        size,
        sha256: raw.lfs.map(|lfs| lfs.sha256.to_ascii_lowercase()).filter(|digest| hex(digest, 64)),
        // Of a large file git has only a pointer.
        git_sha1: raw.blob_id.filter(|digest| !is_large && hex(digest, 40)).map(|digest| digest.to_ascii_lowercase()),
    }
}

/// An error with its causes; reqwest's own text names only the first.
fn describe(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
