//! How fast each node computes, as this coordinator measures it: an ordinary job with a random prompt and one token of answer, on a node
//! that has nothing else to do. Nobody pays for it, and the ledger never hears of it.
//!
//! *Absent:* a request that waits for a measurement; a word of the node's own in a figure; a frame by which a node could tell it from a
//! request (whoever reads the prompt finds no sense in it, and computes it all the same).

use std::sync::Arc;
use std::time::Duration;

use daemon::CancellationToken;
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};
use wire::node::{FromMeter, Job, ReceiptOutcome, SamplingParams};
use wire::receipt::ServiceReceipt;
use wire::{B256, ModelRate};

use super::Serving;
use super::audits::Case;
use super::catalog::Model;
use super::fleet::{Lease, Node, NodeEvent, Run};
use super::receipt::{self, Claim};
use super::stream::{AnswerStream, Tokens};
use crate::config::BenchmarkSettings;
use crate::ledger::AuditState;

/// Nodes that are measured at once: fewer than audits that run at once, so that those of answers go on.
const AT_ONCE: usize = 2;
/// One answer token: what is measured is the prompt.
const MAX_TOKENS: u32 = 1;

/// Draws 64 uniformly random bits. An argument, so that tests own it.
pub type Draw = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Measures nodes.
pub struct Benchmarks {
    serving: Serving,
    settings: BenchmarkSettings,
    draw: Draw,
}

/// Why there is no figure this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missed {
    /// A request came to the node, or waits for one of its kind: that goes first.
    Disturbed,
    /// The link ended, or takes nothing.
    Lost,
    /// The node said that it can't.
    Refused,
    /// No token, or no receipt, in time.
    Silent,
    /// Not a receipt for what arrived, signed by the node.
    WrongReceipt,
    /// Fallback hardware computed something else.
    Refuted,
}

impl Missed {
    fn name(self) -> &'static str {
        match self {
            Self::Disturbed => "disturbed",
            Self::Lost => "link_lost",
            Self::Refused => "refused",
            Self::Silent => "silent",
            Self::WrongReceipt => "wrong_receipt",
            Self::Refuted => "refuted",
        }
    }
}

/// A job's answer as it arrived.
struct Answered {
    elapsed: Duration,
    answer: AnswerStream,
    claim: Claim,
}

impl Benchmarks {
    /// Measures the nodes of `serving`; `draw` makes prompts.
    pub fn new(serving: Serving, settings: BenchmarkSettings, draw: Draw) -> Self {
        Self { serving, settings, draw }
    }

    /// Looks each period until `stop`, unless the settings say never.
    pub async fn run(self, stop: CancellationToken) {
        if self.settings.every_s == 0 {
            return;
        }
        let mut looks = interval(Duration::from_millis(self.settings.look_ms));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let looking = async {
            loop {
                looks.tick().await;
                self.look().await;
            }
        };
        tokio::select! {
            () = looking => {}
            () = stop.cancelled() => {}
        }
    }

    /// Measures every node that is idle and due, with each of its models, some nodes at once. Nothing happens when the settings say never.
    pub async fn look(&self) {
        if self.settings.every_s == 0 {
            return;
        }
        let nodes = futures_util::stream::iter(self.serving.rooms().fleet.nodes());
        nodes.for_each_concurrent(AT_ONCE, |node| async move { self.measure_models(&node).await }).await;
    }

    async fn measure_models(&self, node: &Arc<Node>) {
        let rooms = self.serving.rooms();
        for served in &node.facts.models {
            if !self.serving.admits() {
                return;
            }
            let now_s = rooms.clock.now_s();
            let Some(model) = rooms.catalog.get(&served.model) else { continue };
            let prompt_tokens = self.settings.prompt_tokens.min(served.context_tokens.saturating_sub(MAX_TOKENS));
            if !node.measurements.is_due(&model.id, now_s, self.settings.every_s) || !is_idle(node, &model.id, prompt_tokens, now_s) {
                continue;
            }
            // Without a price there is no job, and without operations no figure.
            let (Some(rate), Some(operations)) = (model.rate_at(now_s), model.operations_per_token) else { continue };
            let Some(lease) = node.reserve_idle(u64::from(prompt_tokens + MAX_TOKENS)) else { continue };
            node.measurements.attempt(&model.id, now_s);
            let job = self.job(node, model, rate, prompt_tokens, now_s);
            let outcome = match self.measure(lease, model, job, operations).await {
                Ok(run) => {
                    tracing::info!(node = %node.facts.node, model = model.id, tflops = run.tflops, audited = run.audited, "node measured");
                    node.measurements.add(run);
                    "measured"
                }
                Err(missed) => {
                    tracing::info!(node = %node.facts.node, model = model.id, reason = missed.name(), "node not measured");
                    missed.name()
                }
            };
            metrics::counter!("meter_benchmarks_total", "outcome" => outcome).increment(1);
        }
    }

    /// Of the form of any request, with a prompt that no cache holds and an account that the node has seen: it learns of nobody by it.
    fn job(&self, node: &Node, model: &Model, rate: ModelRate, prompt_tokens: u32, now_s: u64) -> Job {
        let mut id = [0; 32];
        id.chunks_exact_mut(8).for_each(|part| part.copy_from_slice(&(self.draw)().to_be_bytes()));
        let vocabulary = model.prompter.vocab_size().max(1) as u64;
        Job {
            request_id: B256::from(id),
            account: node.last_account(),
            operator: node.facts.operator,
            model: model.id.clone(),
            // A vocabulary's ids are `u32`.
            prompt: (0..prompt_tokens).map(|_| ((self.draw)() % vocabulary) as u32).collect(),
            params: SamplingParams { seed: (self.draw)(), ..SamplingParams::greedy(MAX_TOKENS) },
            model_rate: rate,
            started_at: now_s,
        }
    }

    async fn measure(&self, lease: Lease, model: &Model, job: Job, operations_per_token: u64) -> Result<Run, Missed> {
        let rooms = self.serving.rooms();
        let node = Arc::clone(lease.node());
        let template = receipt::template(&job, model).map_err(|_| Missed::WrongReceipt)?;
        let Answered { elapsed, answer, claim } = self.ask(lease, model, &job).await?;

        let now_s = rooms.clock.now_s();
        let receipt = accepted(&template, &answer, claim, &node, &self.serving, now_s)?;
        let operations = operations_per_token as f64 * f64::from(receipt.prompt_tokens);
        let tflops = operations / elapsed.as_secs_f64().max(f64::MIN_POSITIVE) / 1e12;

        let completion = answer.tokens(receipt.completion_tokens).to_vec();
        let case = Case { receipt, node: node.facts.node, model: model.id.clone(), prompt: job.prompt, completion, params: job.params };
        let audited = match self.serving.look_again(&case).await {
            AuditState::Audited => true,
            AuditState::Failed => {
                tracing::warn!(node = %node.facts.node, model = model.id, tflops, "fallback hardware computed something else; the figure is dropped");
                node.measurements.distrust();
                return Err(Missed::Refuted);
            }
            AuditState::Pending | AuditState::Skipped => false,
        };
        Ok(Run::new(&model.id, tflops, audited, now_s, self.settings.every_s))
    }

    /// Sends the job and takes the time to its first token. The place is kept until the node's last word, so that it is free when it is given back.
    async fn ask(&self, mut lease: Lease, model: &Model, job: &Job) -> Result<Answered, Missed> {
        let rooms = self.serving.rooms();
        let node = Arc::clone(lease.node());
        let mut answer = AnswerStream::new(&model.prompter, &job.params).map_err(|_| Missed::Refused)?;
        let reserved = node.reserved();
        let started = Instant::now();
        let mut from_node = lease.start(job.clone()).ok_or(Missed::Lost)?;

        let deadline = started + Duration::from_millis(rooms.limits.first_token_timeout_ms);
        let first = tokio::select! {
            biased;
            first = timeout_at(deadline, from_node.recv()) => first_token(first.ok().flatten(), &node),
            () = rooms.dispatcher.somebody_waits_for(&model.id) => Err(Missed::Disturbed),
        };
        let elapsed = started.elapsed();
        let first = match first {
            Ok(first) => first,
            Err(missed) => {
                if matches!(missed, Missed::Silent | Missed::Disturbed) {
                    node.send(FromMeter::Cancel { request_id: job.request_id });
                    self.last_word(&node, &mut from_node, job.request_id).await;
                }
                return Err(missed);
            }
        };
        let _ = answer.push(first);
        let Some(claim) = self.last_word(&node, &mut from_node, job.request_id).await else {
            node.send(FromMeter::Cancel { request_id: job.request_id });
            return Err(Missed::Silent);
        };
        // Whatever ran beside it took its share of the node.
        if node.reserved() == reserved { Ok(Answered { elapsed, answer, claim }) } else { Err(Missed::Disturbed) }
    }

    /// The node's statement, if it makes one in time; it is told that nothing is charged.
    async fn last_word(&self, node: &Node, from_node: &mut mpsc::Receiver<NodeEvent>, request_id: B256) -> Option<Claim> {
        let wait = Duration::from_millis(self.serving.rooms().limits.cancel_timeout_ms);
        let statement = async {
            while let Some(event) = from_node.recv().await {
                match event {
                    // What goes on past the one token does not exist.
                    NodeEvent::Tokens(_) => {}
                    NodeEvent::Finished { receipt, signature, .. } => return Some(Claim { receipt: *receipt, signature }),
                    NodeEvent::Failed { .. } | NodeEvent::Lost => return None,
                }
            }
            None
        };
        let claim = timeout(wait, statement).await.ok().flatten()?;
        node.send(FromMeter::ReceiptAck { request_id, outcome: ReceiptOutcome::Released });
        Some(claim)
    }
}

/// Whether nothing is on the node, by our count and by its own word: it may serve other meters too.
fn is_idle(node: &Node, model: &str, prompt_tokens: u32, now_s: u64) -> bool {
    let load = node.load();
    let has_no_work = load.active == 0 && load.status.active == 0 && load.status.queued == 0;
    has_no_work && prompt_tokens > 0 && node.serves(model, prompt_tokens + MAX_TOKENS) && !node.is_stale(now_s)
}

fn first_token(event: Option<NodeEvent>, node: &Node) -> Result<Tokens, Missed> {
    match event {
        Some(NodeEvent::Tokens(first)) => Ok(first),
        Some(NodeEvent::Finished { .. } | NodeEvent::Failed { .. }) => Err(Missed::Refused),
        Some(NodeEvent::Lost) => Err(Missed::Lost),
        None if node.closed.is_cancelled() => Err(Missed::Lost),
        None => Err(Missed::Silent),
    }
}

/// The receipt, when it states exactly what arrived and the node's key signed it.
fn accepted(
    template: &ServiceReceipt,
    answer: &AnswerStream,
    claim: Claim,
    node: &Node,
    serving: &Serving,
    now_s: u64,
) -> Result<ServiceReceipt, Missed> {
    let own = receipt::own(template, answer, now_s).map_err(|_| Missed::WrongReceipt)?;
    let verdict = receipt::judge(own, answer, Some(claim), node.facts.node, &serving.rooms().domain, now_s);
    let is_whole = verdict.signature.is_some() && verdict.receipt.completion_tokens == MAX_TOKENS;
    if is_whole { Ok(verdict.receipt) } else { Err(Missed::WrongReceipt) }
}
