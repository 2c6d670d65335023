//! `gpu-node model pull` beside a hub on loopback that cuts, corrupts, stalls, ignores ranges and lies.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path as UrlPath, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use common::Quiet;
use common::gguf::gguf_of;
use futures_util::{StreamExt, stream};
use gpu_node::model::ModelFolder;
use gpu_node::model::import::{Outcome, import};
use gpu_node::model::pull::{Hub, HubUrl, Pull, PullError, PullLimits, free_bytes};
use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;

const REPO: &str = "owner/tiny";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const SHARD: &str = "model-00001-of-00002.safetensors";

/// What happens to one request of a file.
#[derive(Clone)]
enum Fault {
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
struct TestHub(Arc<Mutex<Shelf>>);

impl TestHub {
    fn of_folder(dir: &Path) -> Self {
        let hub = Self::default();
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            hub.put(path.file_name().unwrap().to_str().unwrap(), fs::read(&path).unwrap());
        }
        hub
    }

    fn put(&self, name: &str, bytes: Vec<u8>) {
        self.0.lock().unwrap().files.insert(name.to_owned(), bytes);
    }

    fn fault(&self, name: &str, faults: impl IntoIterator<Item = Fault>) {
        self.0.lock().unwrap().faults.entry(name.to_owned()).or_default().extend(faults);
    }

    fn set_listing(&self, status: u16, text: String) {
        self.0.lock().unwrap().listing = Some((status, text));
    }

    /// Names and ranges of the requests since the last call.
    fn requests(&self) -> Vec<(String, Option<String>, Option<String>)> {
        std::mem::take(&mut self.0.lock().unwrap().requests)
    }

    fn ranges_of(&self, name: &str) -> Vec<Option<String>> {
        self.requests().into_iter().filter(|(file, ..)| file == name).map(|(_, range, _)| range).collect()
    }

    async fn serve(&self) -> String {
        let app = Router::new()
            .route("/api/models/{owner}/{name}/revision/{revision}", get(list))
            .route("/{owner}/{name}/resolve/{commit}/{file}", get(file))
            .with_state(self.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        format!("http://{address}")
    }

    fn listing(&self) -> Value {
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

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../test/vectors/families/llama3")
}

fn limits() -> PullLimits {
    PullLimits {
        answer: Duration::from_secs(10),
        stall: Duration::from_millis(300),
        attempts: 5,
        backoff_first: Duration::from_millis(1),
        backoff_most: Duration::from_millis(5),
    }
}

struct Rig {
    hub: TestHub,
    url: String,
    dir: tempfile::TempDir,
}

impl Rig {
    async fn new() -> Self {
        daemon::install_tls();
        let hub = TestHub::of_folder(&source());
        let url = hub.serve().await;
        Self { hub, url, dir: tempfile::tempdir().unwrap() }
    }

    fn dest(&self) -> PathBuf {
        self.dir.path().join("models/tiny")
    }

    async fn pull(&self) -> Result<Outcome, PullError> {
        self.pull_with(|_| ()).await
    }

    async fn pull_with(&self, change: impl FnOnce(&mut Pull<'_>)) -> Result<Outcome, PullError> {
        self.pull_as(None, change).await
    }

    async fn pull_as(&self, token: Option<&str>, change: impl FnOnce(&mut Pull<'_>)) -> Result<Outcome, PullError> {
        let hub = Hub::new(self.url.parse().unwrap(), token).unwrap();
        let dest = self.dest();
        let mut pull = Pull {
            hub: &hub,
            repo: REPO,
            revision: "main",
            file: None,
            dest: &dest,
            threads: 1,
            keep_download: false,
            limits: limits(),
            free_bytes,
        };
        change(&mut pull);
        pull.run(&Quiet).await
    }

    /// Names inside the folder of models, sorted.
    fn models(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.dir.path().join("models")) else { return Vec::new() };
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn downloaded(&self, name: &str) -> Option<u64> {
        let folder = self.dir.path().join("models/.downloads").join(format!("owner--tiny@{COMMIT}"));
        fs::metadata(folder.join(name)).ok().map(|m| m.len())
    }
}

#[tokio::test]
async fn pulled_model_is_the_imported_folder_and_is_not_pulled_twice() {
    let rig = Rig::new().await;
    let Outcome::Imported(pulled) = rig.pull().await.unwrap() else { panic!("not imported") };
    let other = rig.dir.path().join("imported");
    let Outcome::Imported(imported) = import(&source(), &other, None, &Quiet).unwrap() else { panic!("not imported") };
    assert_eq!((pulled.model_root, &pulled.source_sha256, &pulled.files), (imported.model_root, &imported.source_sha256, &imported.files));
    assert_eq!(pulled.source_name, format!("{REPO}@{COMMIT}"));
    assert!(rig.downloaded(SHARD).is_none(), "downloads are removed after the import");
    assert!(rig.hub.requests().iter().all(|(name, ..)| name != "golden.json"), "only what is needed");

    assert_eq!(rig.pull().await.unwrap(), Outcome::AlreadyThere(pulled));
    assert_eq!(rig.hub.ranges_of(SHARD), []);
}

#[tokio::test]
async fn cut_failing_stalling_and_rangeless_connections_are_gone_on_with() {
    let rig = Rig::new().await;
    rig.hub.fault(SHARD, [Fault::Cut(40_000), Fault::Status(503), Fault::Stall(5_000), Fault::IgnoreRange]);
    rig.hub.fault("config.json", [Fault::Cut(10), Fault::Status(429)]);
    rig.pull().await.unwrap();
    let requests = rig.hub.requests();
    let ranges = |name: &str| requests.iter().filter(|(file, ..)| file == name).map(|(_, range, _)| range.as_deref()).collect::<Vec<_>>();
    let shard = ranges(SHARD);
    assert_eq!((shard.len(), shard[0]), (4, None));
    // A cut may lose bytes that were still under way, all of them even; a stall loses none.
    let at =
        |range: Option<&str>| range.map_or(0, |r| r.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse::<u64>().unwrap());
    assert!(at(shard[1]) <= 40_000);
    assert_eq!(at(shard[1]), at(shard[2]), "nothing came with the 503");
    assert_eq!(at(shard[3]), at(shard[2]) + 5_000, "what came before the stall is kept");
    assert_eq!(ranges("config.json").len(), 3);
    assert_eq!(rig.models(), [".downloads", "tiny"]);
}

#[tokio::test]
async fn a_pull_that_was_given_up_is_gone_on_with_by_the_next() {
    let rig = Rig::new().await;
    rig.hub.fault(SHARD, [Fault::Stall(30_000), Fault::Status(500), Fault::Status(502), Fault::Status(500), Fault::Status(500)]);
    let error = rig.pull().await.unwrap_err();
    assert!(matches!(error, PullError::GivenUp { ref file, attempts: 5, .. } if file == SHARD), "{error}");
    assert_eq!(rig.models(), [".downloads"], "nothing at the destination");
    rig.hub.requests();
    rig.pull().await.unwrap();
    assert_eq!(rig.hub.ranges_of(SHARD), [Some("bytes=30000-".to_owned())]);
}

#[tokio::test]
async fn damaged_bytes_are_fetched_again_once_and_then_refused_with_both_digests() {
    let rig = Rig::new().await;
    rig.hub.fault(SHARD, [Fault::Corrupt]);
    rig.hub.fault("tokenizer.json", [Fault::Corrupt]);
    rig.pull().await.unwrap();

    for name in [SHARD, "tokenizer.json"] {
        let rig = Rig::new().await;
        rig.hub.fault(name, [Fault::Corrupt, Fault::Corrupt]);
        let error = rig.pull().await.unwrap_err();
        let PullError::Digest { file, found, expected } = &error else { panic!("{error}") };
        assert!(file == name && found != expected && expected.len() >= 40, "{error}");
        assert_eq!(rig.models(), [".downloads"]);
        assert!(rig.downloaded(name).is_none() && rig.downloaded(&format!("{name}.part")).is_none(), "damaged bytes are not kept");
    }
}

#[tokio::test]
async fn lies_about_the_length_fill_no_disk_and_end() {
    for fault in [Fault::Endless, Fault::Announce(1 << 40), Fault::Announce(10)] {
        let rig = Rig::new().await;
        rig.hub.fault(SHARD, std::iter::repeat_n(fault, 5));
        let error = rig.pull().await.unwrap_err();
        assert!(matches!(error, PullError::GivenUp { attempts: 5, .. }), "{error}");
        assert_eq!(rig.models(), [".downloads"]);
        assert_eq!(rig.downloaded(&format!("{SHARD}.part")), Some(0));
    }
}

#[tokio::test]
async fn too_little_space_is_said_before_anything_is_downloaded() {
    let rig = Rig::new().await;
    let error = rig.pull_with(|pull| pull.free_bytes = |_| Ok(100_000)).await.unwrap_err();
    assert!(matches!(error, PullError::Space { free: 100_000, needed, .. } if needed > 250_000), "{error}");
    assert_eq!(rig.hub.ranges_of(SHARD), []);
}

#[tokio::test]
async fn a_taken_destination_is_said_before_anything_is_downloaded() {
    let rig = Rig::new().await;
    fs::create_dir_all(rig.dest()).unwrap();
    fs::write(rig.dest().join("mine.txt"), "x").unwrap();
    let error = rig.pull().await.unwrap_err();
    assert!(matches!(error, PullError::DestinationTaken { .. }), "{error}");
    assert_eq!(rig.hub.ranges_of(SHARD), []);
    assert!(rig.dest().join("mine.txt").exists());
}

#[tokio::test]
async fn the_token_goes_to_the_hub_and_not_to_where_it_redirects() {
    let rig = Rig::new().await;
    let storage = TestHub::of_folder(&source());
    let storage_url = storage.serve().await;
    rig.hub.fault(SHARD, [Fault::Redirect(storage_url)]);
    rig.pull_as(Some("secret"), |_| ()).await.unwrap();
    let sent = |hub: &TestHub| hub.requests().into_iter().find(|(name, ..)| name == SHARD).unwrap().2;
    assert_eq!(sent(&rig.hub).as_deref(), Some("Bearer secret"));
    assert_eq!(sent(&storage), None);

    let rig = Rig::new().await;
    rig.hub.fault(SHARD, (0..5).map(|_| Fault::Redirect("http://hub.invalid".to_owned())));
    let error = rig.pull().await.unwrap_err().to_string();
    assert!(error.contains("away from TLS"), "{error}");
}

#[tokio::test]
async fn refusals_of_the_hub_are_said_at_once() {
    let rig = Rig::new().await;
    rig.hub.fault("config.json", [Fault::Status(401)]);
    let error = rig.pull().await.unwrap_err();
    assert!(matches!(error, PullError::NotFound { status: 401, .. }) && error.to_string().contains("--token-file"), "{error}");
    let error = rig.pull_with(|pull| pull.repo = "owner/other").await.unwrap_err();
    assert!(matches!(error, PullError::NotFound { status: 404, .. }), "{error}");
    for repo in ["../etc", "a/b/c", "a b", "", "owner/.hidden"] {
        assert!(matches!(rig.pull_with(|pull| pull.repo = repo).await, Err(PullError::Repo { .. })), "{repo}");
    }
    assert!(matches!(rig.pull_with(|pull| pull.revision = "../main").await, Err(PullError::Revision { .. })));
}

#[tokio::test]
async fn listings_that_lead_elsewhere_or_are_none_are_refused() {
    let rig = Rig::new().await;
    let mut listing = rig.hub.listing();
    listing["sha"] = json!("../../etc");
    for text in [listing.to_string(), "{}".to_owned(), "<html>".to_owned(), "[".repeat(100_000)] {
        rig.hub.set_listing(200, text);
        assert!(matches!(rig.pull().await, Err(PullError::Hub { .. })));
    }
    let mut listing = rig.hub.listing();
    listing["siblings"].as_array_mut().unwrap().push(json!({"rfilename": "../../outside.safetensors", "size": 1}));
    rig.hub.set_listing(200, listing.to_string());
    rig.pull().await.unwrap();
    assert_eq!(rig.models(), [".downloads", "tiny"]);

    let rig = Rig::new().await;
    let index = json!({"weight_map": {"model.norm.weight": "../outside.safetensors"}});
    rig.hub.put("model.safetensors.index.json", index.to_string().into_bytes());
    let error = rig.pull().await.unwrap_err().to_string();
    assert!(error.contains("../outside"), "{error}");
}

#[tokio::test]
async fn weights_without_a_digest_are_not_taken() {
    let rig = Rig::new().await;
    let mut listing = rig.hub.listing();
    for file in listing["siblings"].as_array_mut().unwrap() {
        file.as_object_mut().unwrap().remove("lfs");
        file.as_object_mut().unwrap().remove("blobId");
    }
    rig.hub.set_listing(200, listing.to_string());
    let error = rig.pull().await.unwrap_err();
    assert!(matches!(error, PullError::NoDigest { .. }), "{error}");
}

#[tokio::test]
async fn one_gguf_file_is_pulled_by_name() {
    let rig = Rig::new().await;
    let folder = rig.dir.path().join("folder");
    import(&source(), &folder, None, &Quiet).unwrap();
    let folder = ModelFolder::open(&folder, 1, &|_| ()).unwrap();
    let hub = TestHub::default();
    hub.put("tiny.q8_0.gguf", gguf_of(&folder).finish());
    hub.put("README.md", b"words".to_vec());
    let rig = Rig { url: hub.serve().await, hub, ..rig };

    let error = rig.pull().await.unwrap_err().to_string();
    assert!(error.contains("--file") && error.contains("tiny.q8_0.gguf"), "{error}");
    let error = rig.pull_with(|pull| pull.file = Some("../tiny.q8_0.gguf")).await.unwrap_err();
    assert!(matches!(error, PullError::NothingToImport { .. }), "{error}");
    let Outcome::Imported(manifest) = rig.pull_with(|pull| pull.file = Some("tiny.q8_0.gguf")).await.unwrap() else { panic!() };
    assert_eq!(manifest.model_root, folder.model_root);
}

#[tokio::test]
async fn two_pulls_of_one_model_do_not_write_into_one_file() {
    let rig = Rig::new().await;
    let folder = rig.dir.path().join("models/.downloads").join(format!("owner--tiny@{COMMIT}"));
    fs::create_dir_all(&folder).unwrap();
    let other = fs::File::create(folder.join(".lock")).unwrap();
    other.lock().unwrap();
    assert!(matches!(rig.pull().await, Err(PullError::Busy { .. })));
    drop(other);
    rig.pull().await.unwrap();
}

#[test]
fn hubs_without_tls_are_on_this_machine() {
    for good in
        ["https://hub.example.org", "https://hub.example.org/base/", "http://127.0.0.1:9000", "http://localhost:80", "http://[::1]:1"]
    {
        assert!(good.parse::<HubUrl>().is_ok(), "{good}");
    }
    for bad in
        ["http://hub.example.org", "http://127.0.0.1.example.org", "ftp://x", "https://user:word@hub.example.org", "https://h?x=1", "hub"]
    {
        assert!(bad.parse::<HubUrl>().is_err(), "{bad}");
    }
}
