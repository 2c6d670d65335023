//! `gpu-node model pull` beside a hub on loopback that cuts, corrupts, stalls, ignores ranges and lies.

#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod hub;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::Quiet;
use common::gguf::gguf_of;
use gpu_node::model::ModelFolder;
use gpu_node::model::import::{Outcome, import};
use gpu_node::model::pull::{Hub, HubUrl, Pull, PullError, PullLimits, free_bytes};
use hub::{COMMIT, Fault, REPO, SHARD, TestHub};
use serde_json::json;

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
