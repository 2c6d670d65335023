//! A hub of one repository, whose next answers a test may spoil.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path as UrlPath, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;

pub(crate) const REPO: &str = "owner/tiny";
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub(crate) const SHARD: &str = "model-00001-of-00002.safetensors";

/// What happens to one request of a file.
#[derive(Clone)]
pub(crate) enum Fault {
    /// The connection breaks after so many bytes.
    Cut(usize),
    /// After so many bytes nothing comes any more.
    Stall(usize),
    /// The whole file, whatever range was asked for.
    IgnoreRange,
    /// One bit is another.
    Corrupt,
    /// The head announces another length.
    Announce(u64),
    /// More bytes than the listing says, without a length in the head.
    Endless,
    Status(u16),
    Redirect(String),
}

#[derive(Default)]
struct Shelf {
    files: HashMap<String, Vec<u8>>,
    /// Of each file, for the next requests; an empty queue serves.
    faults: HashMap<String, VecDeque<Fault>>,
    /// Replaces the listing.
    listing: Option<(u16, String)>,
    /// Name, `Range` and `Authorization` of every request of a file.
    requests: Vec<(String, Option<String>, Option<String>)>,
}

#[derive(Clone, Default)]
pub(crate) struct TestHub(Arc<Mutex<Shelf>>);

impl TestHub {
    pub(crate) fn of_folder(dir: &Path) -> Self {
        let hub = Self::default();
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            hub.put(path.file_name().unwrap().to_str().unwrap(), fs::read(&path).unwrap());
        }
        hub
    }

    pub(crate) fn put(&self, name: &str, bytes: Vec<u8>) {
        self.0.lock().unwrap().files.insert(name.to_owned(), bytes);
    }

    pub(crate) fn fault(&self, name: &str, faults: impl IntoIterator<Item = Fault>) {
        self.0.lock().unwrap().faults.entry(name.to_owned()).or_default().extend(faults);
    }

    pub(crate) fn set_listing(&self, status: u16, text: String) {
        self.0.lock().unwrap().listing = Some((status, text));
    }

    /// Names and ranges of the requests since the last call.
    pub(crate) fn requests(&self) -> Vec<(String, Option<String>, Option<String>)> {
        std::mem::take(&mut self.0.lock().unwrap().requests)
    }

    pub(crate) fn ranges_of(&self, name: &str) -> Vec<Option<String>> {
        self.requests().into_iter().filter(|(file, ..)| file == name).map(|(_, range, _)| range).collect()
    }

    pub(crate) async fn serve(&self) -> String {
        let app = Router::new()
            .route("/api/models/{owner}/{name}/revision/{revision}", get(list))
            .route("/{owner}/{name}/resolve/{commit}/{file}", get(file))
            .with_state(self.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        format!("http://{address}")
    }

    pub(crate) fn listing(&self) -> Value {
        let shelf = self.0.lock().unwrap();
        let siblings: Vec<Value> = shelf.files.iter().map(|(name, bytes)| described(name, bytes)).collect();
        json!({"sha": COMMIT, "siblings": siblings})
    }
}

fn described(name: &str, bytes: &[u8]) -> Value {
    let mut file = json!({"rfilename": name, "size": bytes.len(), "blobId": git_sha1(bytes)});
    if name.ends_with(".safetensors") || name.ends_with(".gguf") {
        file["blobId"] = json!("00".repeat(20)); // of the pointer
        file["lfs"] = json!({"sha256": hex(&Sha256::digest(bytes)), "size": bytes.len(), "pointerSize": 134});
    }
    file
}

fn git_sha1(bytes: &[u8]) -> String {
    let mut hasher = Sha1::new();
    hasher.update(format!("blob {}\0", bytes.len()));
    hasher.update(bytes);
    hex(&hasher.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

async fn list(State(hub): State<TestHub>, UrlPath((owner, name, _)): UrlPath<(String, String, String)>) -> Response {
    if let Some((status, text)) = hub.0.lock().unwrap().listing.clone() {
        return (StatusCode::from_u16(status).unwrap(), text).into_response();
    }
    if format!("{owner}/{name}") != REPO {
        return StatusCode::NOT_FOUND.into_response();
    }
    hub.listing().to_string().into_response()
}

async fn file(
    State(hub): State<TestHub>,
    UrlPath((_, _, commit, name)): UrlPath<(String, String, String, String)>,
    headers: HeaderMap,
) -> Response {
    assert_eq!(commit, COMMIT, "files of one commit, whatever the branch does meanwhile");
    let text = |header| headers.get(header).map(|value| value.to_str().unwrap().to_owned());
    let range = text(header::RANGE);
    let (bytes, fault) = {
        let mut shelf = hub.0.lock().unwrap();
        shelf.requests.push((name.clone(), range.clone(), text(header::AUTHORIZATION)));
        let fault = shelf.faults.get_mut(&name).and_then(VecDeque::pop_front);
        (shelf.files.get(&name).cloned(), fault)
    };
    let Some(mut bytes) = bytes else { return StatusCode::NOT_FOUND.into_response() };
    let first = range.map(|range| range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse::<usize>().unwrap());
    let first = first.filter(|_| !matches!(fault, Some(Fault::IgnoreRange)));
    let total = bytes.len();
    let rest = bytes.split_off(first.unwrap_or(0).min(total));
    let mut answer = match fault {
        None | Some(Fault::IgnoreRange) => Body::from(rest).into_response(),
        // A body that waits lets the server send what it has before the connection breaks.
        Some(Fault::Cut(count)) => begun(
            rest,
            count,
            stream::once(async {
                tokio::task::yield_now().await;
                Err(std::io::Error::other("cut"))
            }),
        ),
        Some(Fault::Stall(count)) => begun(rest, count, stream::pending()),
        Some(Fault::Corrupt) => {
            let mut rest = rest;
            let middle = rest.len() / 2;
            rest[middle] ^= 1;
            Body::from(rest).into_response()
        }
        Some(Fault::Announce(length)) => {
            let mut answer = begun(rest, 100, stream::pending());
            answer.headers_mut().insert(header::CONTENT_LENGTH, length.into());
            answer
        }
        Some(Fault::Endless) => begun(rest.clone(), rest.len(), stream::repeat(Bytes::from_static(&[7; 1000])).map(Ok)),
        Some(Fault::Status(status)) => return StatusCode::from_u16(status).unwrap().into_response(),
        Some(Fault::Redirect(host)) => {
            let to = format!("{host}/{REPO}/resolve/{COMMIT}/{name}");
            return (StatusCode::FOUND, [(header::LOCATION, to)]).into_response();
        }
    };
    if let Some(first) = first {
        *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
        let range = format!("bytes {first}-{}/{total}", total - 1);
        answer.headers_mut().insert(header::CONTENT_RANGE, range.parse().unwrap());
    }
    answer
}

/// The first `count` bytes, then something else.
fn begun(bytes: Vec<u8>, count: usize, then: impl stream::Stream<Item = std::io::Result<Bytes>> + Send + 'static) -> Response {
    let begin = Bytes::copy_from_slice(&bytes[..count.min(bytes.len())]);
    Body::from_stream(stream::iter([Ok(begin)]).chain(then)).into_response()
}
