//! A node that does as its script says, over a real link, with a real key.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::Eip712Domain;
use futures_util::{SinkExt, StreamExt};
use prompt::Prompter;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};
use wire::node::{
    AuditJob, AuditOutcome, Device, FailureCode, FinishReason, FromMeter, FromNode, Hello, Job, LINK_PATH, NodeStatus, PROTOCOL,
    ReceiptOutcome, SUBPROTOCOL, ServedModel, TokenLogprobs,
};
use wire::proof::{self, Window};
use wire::receipt::{ServiceReceipt, tokens_hash};
use wire::{Address, B256, Bytes, Credits, OperatorId, typed};

use super::network::{CONTEXT_TOKENS, MODEL, Network, OPERATOR, deployment, model_folder, until};

/// What a node does with a job, one after the other.
#[derive(Clone)]
pub enum Step {
    /// Sends these.
    Tokens(Vec<u32>),
    /// Sends these, each with the log-probability −1/2 and as many alternatives as the job asks for: ids from 97 on, from −1/2 down.
    Scored(Vec<u32>),
    /// Ends with a true receipt.
    Finish(FinishReason),
    /// Ends with a receipt changed like this, signed by the node, or by somebody else.
    FinishAs(fn(&mut ServiceReceipt), Option<PrivateKeySigner>),
    /// Says that it can't.
    Fail(FailureCode),
    /// Drops the link.
    Vanish,
}

/// What the node heard.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    pub welcomes: Vec<bool>,
    pub refusals: Vec<String>,
    pub jobs: Vec<Job>,
    pub cancels: Vec<B256>,
    pub asked_to_sign: Vec<ServiceReceipt>,
    pub acks: Vec<(B256, ReceiptOutcome)>,
    pub audits: Vec<AuditJob>,
    pub closed: bool,
}

pub type Script = Arc<dyn Fn(&Job) -> Vec<Step> + Send + Sync>;
/// What an auditor says to a job; the number counts those it heard before.
pub type Auditing = Arc<dyn Fn(&AuditJob, usize) -> Option<AuditOutcome> + Send + Sync>;
/// What a node sends when it is asked for windows, from what it served.
pub type Proofs = fn(&HashMap<B256, Vec<Window>>, B256) -> Option<Vec<Window>>;

/// A linked node.
pub struct FakeNode {
    pub address: Address,
    pub heard: Arc<Mutex<Heard>>,
    say: tokio::sync::mpsc::UnboundedSender<FromNode>,
}

/// How a node presents itself and behaves.
#[derive(Clone)]
pub struct Plan {
    pub signer: PrivateKeySigner,
    pub operator: OperatorId,
    pub capacity: u32,
    pub script: Script,
    /// Whether it answers `cancel`.
    pub obedient: bool,
    /// Whether it signs what it is asked to.
    pub signs: bool,
    pub hello: fn(&mut Hello),
    pub auditing: Auditing,
    pub proofs: Proofs,
}

impl Plan {
    pub fn new(script: impl Fn(&Job) -> Vec<Step> + Send + Sync + 'static) -> Self {
        Self {
            signer: PrivateKeySigner::random(),
            operator: OPERATOR,
            capacity: 64,
            script: Arc::new(script),
            obedient: true,
            signs: true,
            hello: |_| {},
            auditing: Arc::new(|job, _| Some(truth(job))),
            proofs: |served, request_id| served.get(&request_id).cloned(),
        }
    }

    /// Says `text`, ends its turn.
    pub fn saying(text: &'static str) -> Self {
        Self::new(move |_| vec![Step::Tokens(turn(text)), Step::Finish(FinishReason::Stop)])
    }
}

impl FakeNode {
    /// Registers the key and links.
    pub async fn join(network: &Network, plan: Plan) -> Self {
        network.register(plan.operator, plan.signer.address()).await;
        let node = Self::link(network, plan).await;
        node.until("welcome", |heard| (!heard.welcomes.is_empty()).then_some(())).await;
        node
    }

    /// Links, registered or not.
    pub async fn link(network: &Network, plan: Plan) -> Self {
        let mut request = format!("ws://{}{LINK_PATH}", network.address).into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", SUBPROTOCOL.parse().unwrap());
        // The last argument sets TCP_NODELAY.
        let (socket, _) = connect_async_with_config(request, None, true).await.unwrap();
        let heard = Arc::new(Mutex::new(Heard::default()));
        let (say, words) = tokio::sync::mpsc::unbounded_channel();
        let address = plan.signer.address();
        let life = Life { plan, socket, heard: Arc::clone(&heard), sent: HashMap::new(), served: HashMap::new() };
        tokio::spawn(life.run(words));
        Self { address, heard, say }
    }

    pub fn heard(&self) -> Heard {
        self.heard.lock().unwrap().clone()
    }

    pub async fn until<T>(&self, what: &str, look: impl Fn(&Heard) -> Option<T>) -> T {
        until(what, || std::future::ready(look(&self.heard.lock().unwrap()))).await
    }

    /// Sends a frame that no script has.
    pub fn say(&self, frame: FromNode) {
        self.say.send(frame).unwrap();
    }
}

struct Life {
    plan: Plan,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    heard: Arc<Mutex<Heard>>,
    sent: HashMap<B256, (Job, Vec<u32>)>,
    served: HashMap<B256, Vec<Window>>,
}

impl Life {
    async fn run(mut self, mut words: tokio::sync::mpsc::UnboundedReceiver<FromNode>) {
        loop {
            tokio::select! {
                word = words.recv() => match word {
                    Some(frame) => self.send(&frame).await,
                    None => break,
                },
                message = self.socket.next() => match message {
                    Some(Ok(Message::Text(text))) => {
                        let frame = serde_json::from_str(&text).unwrap();
                        if !self.hear(frame).await {
                            break;
                        }
                    }
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => break,
                },
            }
        }
        self.heard.lock().unwrap().closed = true;
    }

    async fn hear(&mut self, frame: FromMeter) -> bool {
        match frame {
            FromMeter::Challenge { challenge, .. } => self.introduce(challenge).await,
            FromMeter::Welcome { fallback, .. } => {
                self.heard.lock().unwrap().welcomes.push(fallback);
                let status = NodeStatus { capacity: self.plan.capacity, ..NodeStatus::default() };
                self.send(&FromNode::Status(status)).await;
            }
            FromMeter::Refused { code, .. } => self.heard.lock().unwrap().refusals.push(code),
            FromMeter::Job(job) => return self.work(job).await,
            FromMeter::Cancel { request_id } => {
                self.heard.lock().unwrap().cancels.push(request_id);
                if self.plan.obedient && self.sent.contains_key(&request_id) {
                    self.finish(request_id, FinishReason::Cancelled, |_| {}, None).await;
                }
            }
            FromMeter::SignReceipt { receipt } => {
                self.heard.lock().unwrap().asked_to_sign.push(receipt.clone());
                if self.plan.signs {
                    let signature = sign(&receipt, &self.plan.signer);
                    self.send(&FromNode::Receipt { receipt, signature }).await;
                }
            }
            FromMeter::ReceiptAck { request_id, outcome } => self.heard.lock().unwrap().acks.push((request_id, outcome)),
            FromMeter::ProofRequest { request_id } => {
                let windows = (self.plan.proofs)(&self.served, request_id);
                self.send(&FromNode::Proof { request_id, windows }).await;
            }
            FromMeter::Audit(job) => {
                let earlier = {
                    let mut heard = self.heard.lock().unwrap();
                    heard.audits.push(job.clone());
                    heard.audits.len() - 1
                };
                if let Some(result) = (self.plan.auditing)(&job, earlier) {
                    self.send(&FromNode::AuditResult { audit_id: job.audit_id, result }).await;
                }
            }
        }
        true
    }

    async fn introduce(&mut self, challenge: B256) {
        let prompter = prompter();
        let parts = prompter.engine_parts();
        let served = ServedModel {
            model: MODEL.into(),
            model_root: B256::repeat_byte(0xaa),
            engine: wire::receipt::engine_id("parallelix-x8-1", parts.tokenizer_json, parts.chat_template),
            context_tokens: CONTEXT_TOKENS,
        };
        let mut hello = Hello {
            protocol: PROTOCOL,
            operator: self.plan.operator,
            node: self.plan.signer.address(),
            models: vec![served],
            capacity: self.plan.capacity,
            device: Device { kind: "cpu".into(), name: "scripted".into(), memory_bytes: 1, parallelism: 1 },
            version: "0.0.0".into(),
            region: None,
            signature: Bytes::new(),
        };
        (self.plan.hello)(&mut hello);
        hello.signature = typed::sign(&hello.typed(challenge), &domain(), &self.plan.signer).unwrap().into();
        self.send(&FromNode::Hello(hello)).await;
    }

    /// `false` when the script drops the link.
    async fn work(&mut self, job: Job) -> bool {
        let request_id = job.request_id;
        self.heard.lock().unwrap().jobs.push(job.clone());
        let steps = (self.plan.script)(&job);
        self.sent.insert(request_id, (job, Vec::new()));
        for step in steps {
            match step {
                Step::Tokens(tokens) => {
                    let Some((_, sent)) = self.sent.get_mut(&request_id) else { break };
                    let first = sent.len() as u32;
                    sent.extend(&tokens);
                    self.send(&FromNode::Tokens { request_id, first, tokens, logprobs: None }).await;
                }
                Step::Scored(tokens) => {
                    let Some((job, sent)) = self.sent.get_mut(&request_id) else { break };
                    let first = sent.len() as u32;
                    sent.extend(&tokens);
                    let top: Vec<(u32, f32)> = (0..job.params.logprobs.unwrap_or(0)).map(|i| (97 + i, -0.5 - i as f32)).collect();
                    let logprobs = Some(tokens.iter().map(|_| TokenLogprobs { logprob: -0.5, top: top.clone() }).collect());
                    self.send(&FromNode::Tokens { request_id, first, tokens, logprobs }).await;
                }
                Step::Finish(reason) => self.finish(request_id, reason, |_| {}, None).await,
                Step::FinishAs(change, signer) => self.finish(request_id, FinishReason::Stop, change, signer).await,
                Step::Fail(code) => self.send(&FromNode::Failed { request_id, code, message: "as scripted".into() }).await,
                Step::Vanish => return false,
            }
        }
        true
    }

    async fn finish(
        &mut self,
        request_id: B256,
        finish_reason: FinishReason,
        change: fn(&mut ServiceReceipt),
        signer: Option<PrivateKeySigner>,
    ) {
        let Some((job, tokens)) = self.sent.remove(&request_id) else { return };
        let mut receipt = true_receipt(&job, &tokens);
        self.served.insert(request_id, true_windows(&job.prompt, &tokens));
        change(&mut receipt);
        let signature = sign(&receipt, signer.as_ref().unwrap_or(&self.plan.signer));
        self.send(&FromNode::Finished { request_id, finish_reason, receipt, signature }).await;
    }

    async fn send(&mut self, frame: &FromNode) {
        // The meter may have closed the link, which the next read shows.
        let _ = self.socket.send(Message::text(serde_json::to_string(frame).unwrap())).await;
    }
}

pub fn prompter() -> Prompter {
    Prompter::open(model_folder()).unwrap()
}

/// Token ids of `text` and the end of a turn.
pub fn turn(text: &str) -> Vec<u32> {
    let prompter = prompter();
    let mut tokens = prompter.encode(text).unwrap();
    tokens.push(prompter.eos_token_ids()[0]);
    tokens
}

/// Token ids of `text` alone.
pub fn words(text: &str) -> Vec<u32> {
    prompter().encode(text).unwrap()
}

pub fn domain() -> Eip712Domain {
    deployment(Address::ZERO).settlement_domain()
}

pub fn sign(receipt: &ServiceReceipt, signer: &PrivateKeySigner) -> Bytes {
    typed::sign(&receipt.typed(), &domain(), signer).unwrap().into()
}

/// Windows of the scripted model: every state is a function of the tokens before it, as with a real one.
pub fn true_windows(prompt: &[u32], completion: &[u32]) -> Vec<Window> {
    let tokens = [prompt, completion].concat();
    let layout = proof::layout(prompt.len() as u32, completion.len() as u32);
    let window = |(index, (first, count)): (usize, (u64, u64))| Window {
        index: index as u32,
        first_position: first as u32,
        count: count as u32,
        digest: tokens_hash(&tokens[..(first + count) as usize]),
    };
    layout.enumerate().map(window).collect()
}

/// What an honest auditor finds.
pub fn truth(job: &AuditJob) -> AuditOutcome {
    AuditOutcome::Computed { windows: true_windows(&job.prompt, &job.completion), first_wrong: None }
}

/// What an honest node states of a job, with a proof that the meter can't know.
pub fn true_receipt(job: &Job, tokens: &[u32]) -> ServiceReceipt {
    let parts = prompter().engine_parts();
    let blank = ServiceReceipt {
        request_id: job.request_id,
        account: job.account,
        operator: job.operator,
        model_root: B256::repeat_byte(0xaa),
        engine: wire::receipt::engine_id("parallelix-x8-1", parts.tokenizer_json, parts.chat_template),
        prompt_tokens: job.prompt.len() as u32,
        completion_tokens: tokens.len() as u32,
        model_rate: job.model_rate,
        amount: Credits::ZERO,
        prompt_hash: tokens_hash(&job.prompt),
        completion_hash: tokens_hash(tokens),
        params_hash: job.params.hash(),
        proof_root: proof::root(&true_windows(&job.prompt, tokens)),
        started_at: job.started_at,
        served_at: job.started_at,
    };
    ServiceReceipt { amount: blank.cost_up().unwrap(), ..blank }
}
