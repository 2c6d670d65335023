//! A node under test, the meters it links to, and the engine that the test plays.

use std::fmt::Debug;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use alloy::signers::local::PrivateKeySigner;
use daemon::CancellationToken;
use daemon::clock::ManualClock;
use futures_util::{SinkExt, StreamExt};
use gpu_node::link::outbox::Outbox;
use gpu_node::link::serve::{Audit, Serve, ServeEvent, ServeJob, ServeLoad, ServingModel};
use gpu_node::link::{Declared, Identity, LinkLimits, LinkState, LinkTimings, MeterUrl, Node, Stores};
use gpu_node::proof::store::{ProofLimits, ProofStore};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use wire::deployment::Deployment;
use wire::node::{
    AuditJob, AuditOutcome, Device, FinishReason, FromMeter, FromNode, Hello, Job, PROTOCOL, SUBPROTOCOL, SamplingParams, ServedModel,
};
use wire::proof::Window;
use wire::{AccountId, Address, B256, ModelRate, OperatorId};

/// Seconds since the epoch at the start of every test.
pub const REGION: &str = "Nowhere, XX";
pub const NOW_S: u64 = 1_800_000_000;
pub const OPERATOR: OperatorId = OperatorId(7);
pub const MODEL: &str = "tiny-instruct";
const PATIENCE: Duration = Duration::from_secs(20);

pub fn deployment() -> Deployment {
    Deployment {
        chain_id: 31_337,
        deploy_block: 0,
        prlx: Address::repeat_byte(1),
        credits: Address::repeat_byte(2),
        settlement: Address::repeat_byte(3),
        registry: Address::repeat_byte(4),
        exit_delay: 3_600,
        velocity_window: 60,
        fee_bps: 1_000,
        settler: Address::repeat_byte(5),
    }
}

pub fn model() -> ServedModel {
    ServedModel { model: MODEL.into(), model_root: B256::repeat_byte(0xaa), engine: B256::repeat_byte(0xbb), context_tokens: 2_048 }
}

pub fn job(id: u8) -> Job {
    Job {
        request_id: B256::repeat_byte(id),
        account: AccountId(3),
        operator: OPERATOR,
        model: MODEL.into(),
        prompt: vec![1, 2, 3],
        params: SamplingParams { seed: 9, ..SamplingParams::greedy(64) },
        model_rate: ModelRate(4_000_000_000),
        started_at: NOW_S - 5,
    }
}

/// Waits for `future`, but not for ever.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited too long for {what}"))
}

/// Looks until `found` says something.
pub async fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    soon(what, async {
        loop {
            if let Some(value) = found() {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await
}

/// The engine that the test plays: each submitted job comes with the channel for its events.
pub struct ScriptedEngine(mpsc::UnboundedSender<Submitted>);

pub struct Submitted {
    pub job: ServeJob,
    pub events: mpsc::Sender<ServeEvent>,
}

impl Serve for ScriptedEngine {
    fn submit(&self, job: ServeJob) -> mpsc::Receiver<ServeEvent> {
        let (events, receiver) = mpsc::channel(4);
        self.0.send(Submitted { job, events }).unwrap();
        receiver
    }

    fn load(&self) -> ServeLoad {
        ServeLoad {
            active: 1,
            queued: 0,
            decode_tokens_per_s: f32::NAN,
            prefill_tokens_per_s: 10.0,
            memory_used_bytes: 5,
            utilization_percent: 50.0,
            tflops: f32::INFINITY,
        }
    }
}

/// What the scripted engine proves.
pub fn windows() -> Vec<Window> {
    let window = |index: u32| Window { index, first_position: 3 * index, count: 3, digest: B256::repeat_byte(0xcc) };
    vec![window(0), window(1)]
}

/// The auditor that the test plays: each audit comes with the channel for its outcome.
pub struct ScriptedAuditor(mpsc::UnboundedSender<(AuditJob, oneshot::Sender<AuditOutcome>)>);

impl Audit for ScriptedAuditor {
    fn submit(&self, job: AuditJob) -> oneshot::Receiver<AuditOutcome> {
        let (reply, outcome) = oneshot::channel();
        self.0.send((job, reply)).unwrap();
        outcome
    }
}

impl Submitted {
    pub async fn tokens(&self, tokens: &[u32]) {
        soon("room for tokens", self.events.send(ServeEvent::Tokens { ids: tokens.to_vec(), logprobs: Vec::new() })).await.unwrap();
    }

    pub async fn finish(self, reason: FinishReason) {
        let windows = windows();
        soon("room for the end", self.events.send(ServeEvent::Finished { reason, windows })).await.unwrap();
    }

    pub async fn cancelled(&self) {
        until("cancellation", || self.job.cancel.is_cancelled().then_some(())).await;
    }
}

pub struct Rig {
    pub node: Arc<Node>,
    pub signer: PrivateKeySigner,
    pub submitted: mpsc::UnboundedReceiver<Submitted>,
    pub audits: mpsc::UnboundedReceiver<(AuditJob, oneshot::Sender<AuditOutcome>)>,
    pub shutdown: CancellationToken,
    pub running: JoinHandle<()>,
    pub folder: Arc<TempDir>,
}

pub struct Options {
    pub capacity: u32,
    pub drain: Duration,
    pub timings: LinkTimings,
    pub folder: Arc<TempDir>,
}

impl Default for Options {
    fn default() -> Self {
        let timings =
            LinkTimings { retry_first: Duration::from_millis(1), retry_most: Duration::from_millis(20), ..LinkTimings::default() };
        Self { capacity: 4, drain: Duration::from_secs(10), timings, folder: Arc::new(tempfile::tempdir().unwrap()) }
    }
}

/// Starts a node that links to `meters`.
pub fn start(meters: &[&ScriptedMeter], options: Options) -> Rig {
    // The key is the same after a restart.
    let signer = PrivateKeySigner::from_slice(&[0x42; 32]).unwrap();
    let (submit, submitted) = mpsc::unbounded_channel();
    let identity = Identity { operator: OPERATOR, signer: signer.clone(), deployment: deployment() };
    let (audit, audits) = mpsc::unbounded_channel();
    let models = vec![ServingModel { model: model(), engine: Arc::new(ScriptedEngine(submit)), auditor: Arc::new(ScriptedAuditor(audit)) }];
    let device = Device { kind: "cpu".into(), name: "scripted".into(), memory_bytes: 1 << 30, parallelism: 2 };
    let limits =
        LinkLimits { capacity: options.capacity, answer_silence: Duration::from_secs(10), drain: options.drain, timings: options.timings };
    let proofs = ProofStore::open(&options.folder.path().join("proofs"), ProofLimits { bytes_max: 1 << 20, keep_s: 1_000 }, NOW_S).unwrap();
    let stores = Stores { outbox: open_outbox(options.folder.path()), proofs };
    let node = Node::new(
        identity,
        models,
        Declared { device, region: Some(REGION.into()) },
        limits,
        stores,
        ManualClock::at_s(NOW_S),
        Arc::new(|| 0.5),
    );
    let urls: Vec<MeterUrl> = meters.iter().map(|meter| meter.url.parse().unwrap()).collect();
    let shutdown = CancellationToken::new();
    let (runner, token) = (Arc::clone(&node), shutdown.clone());
    let running = tokio::spawn(async move { runner.run(&urls, &token).await });
    Rig { node, signer, submitted, audits, shutdown, running, folder: options.folder }
}

pub fn open_outbox(folder: &Path) -> Outbox {
    Outbox::open(folder, 100).unwrap()
}

impl Rig {
    pub async fn submitted(&mut self) -> Submitted {
        soon("a job at the engine", self.submitted.recv()).await.unwrap()
    }

    pub async fn link_state<T>(&self, what: &str, wanted: impl Fn(&LinkState) -> Option<T>) -> T {
        until(what, || self.node.board().all().values().find_map(&wanted)).await
    }

    pub fn pending(&self) -> Vec<B256> {
        self.node.outbox().pending(|_| true).iter().map(|kept| kept.receipt.request_id).collect()
    }

    /// Ends the node as `kill -9` would: nothing is drained, nothing is flushed.
    pub async fn kill(self) -> Arc<TempDir> {
        self.running.abort();
        let _ = self.running.await;
        let folder = Arc::clone(&self.folder);
        drop(self.submitted);
        let node = Arc::downgrade(&self.node);
        drop(self.node);
        until("the end of the node", || (node.strong_count() == 0).then_some(())).await;
        folder
    }
}

/// The meter that the test plays.
pub struct ScriptedMeter {
    listener: TcpListener,
    pub url: String,
}

impl ScriptedMeter {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        Self { listener, url }
    }

    /// The next link, as far as the WebSocket.
    pub async fn accept(&self) -> Link {
        let (stream, _) = soon("a link", self.listener.accept()).await.unwrap();
        #[allow(clippy::result_large_err, reason = "the library's callback type")]
        let check = |request: &Request, mut response: Response| {
            assert_eq!(request.uri().path(), "/v1/node/link");
            let protocol = request.headers().get("sec-websocket-protocol").cloned().unwrap();
            assert_eq!(protocol, SUBPROTOCOL);
            response.headers_mut().insert("sec-websocket-protocol", protocol);
            Ok(response)
        };
        Link { socket: tokio_tungstenite::accept_hdr_async(stream, check).await.unwrap() }
    }

    /// The next link, welcomed.
    pub async fn welcome(&self) -> (Link, Hello) {
        self.welcomed(false).await
    }

    /// The next link, welcomed as fallback hardware or not.
    pub async fn welcome_as(&self, fallback: bool) -> Link {
        self.welcomed(fallback).await.0
    }

    async fn welcomed(&self, fallback: bool) -> (Link, Hello) {
        let mut link = self.accept().await;
        link.send(challenge()).await;
        let FromNode::Hello(hello) = link.next().await else { panic!("not a hello") };
        link.send(FromMeter::Welcome { heartbeat_ms: 60_000, fallback }).await;
        (link, hello)
    }
}

pub fn challenge() -> FromMeter {
    let Deployment { chain_id, settlement, .. } = deployment();
    FromMeter::Challenge { protocol: PROTOCOL, challenge: B256::repeat_byte(0x11), chain_id, settlement }
}

/// One link at the meter.
pub struct Link {
    pub socket: WebSocketStream<TcpStream>,
}

impl Link {
    pub async fn send(&mut self, frame: FromMeter) {
        self.send_text(serde_json::to_string(&frame).unwrap()).await;
    }

    pub async fn send_text(&mut self, text: String) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    /// The next frame, whatever it is.
    pub async fn next_any(&mut self) -> FromNode {
        loop {
            match soon("a frame", self.socket.next()).await {
                Some(Ok(Message::Text(text))) => return serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("not a frame: {other:?}"),
            }
        }
    }

    /// The next frame that is no status.
    pub async fn next(&mut self) -> FromNode {
        loop {
            let frame = self.next_any().await;
            if !matches!(frame, FromNode::Status(_)) {
                return frame;
            }
        }
    }

    /// All tokens up to the next frame of another kind, and that frame; checks that indices leave no gap.
    pub async fn answer(&mut self) -> (Vec<u32>, FromNode) {
        let mut answer = Vec::new();
        loop {
            match self.next().await {
                FromNode::Tokens { first, tokens, .. } => {
                    assert_eq!(first as usize, answer.len());
                    answer.extend(tokens);
                }
                other => return (answer, other),
            }
        }
    }

    /// The reason in the node's close frame; frames before it are skipped.
    pub async fn closed(&mut self) -> String {
        loop {
            match soon("a close", self.socket.next()).await {
                Some(Ok(Message::Close(frame))) => return frame.map_or(String::new(), |frame| frame.reason.to_string()),
                Some(Ok(_)) => {}
                other => return format!("{other:?}"),
            }
        }
    }
}

/// Asserts equality of two values that both sides computed.
#[track_caller]
pub fn same<T: PartialEq + Debug>(field: &str, left: &T, right: &T) {
    assert_eq!(left, right, "{field}");
}
