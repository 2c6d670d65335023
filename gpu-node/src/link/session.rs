//! One welcomed link, to its loss or its drained close.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use daemon::CancellationToken;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::{Id, JoinError, JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use wire::B256;
use wire::node::{AuditJob, AuditOutcome, FailureCode, FromMeter, FromNode, Job, ReceiptOutcome};
use wire::receipt::ServiceReceipt;

use super::answer::Answering;
use super::error::LinkError;
use super::handshake::{CLOSE_WAIT, name, shake_hands};
use super::serve::Cancel;
use super::socket::{self, Outgoing, Reader};
use super::terms::{check_job, check_sign_request};
use super::url::MeterUrl;
use super::{LinkState, Node};

/// Frames of answers that wait for the network; more makes the engine wait.
const ANSWER_FRAMES_MAX: usize = 64;
/// Short frames (refusals, receipts on request, status) that wait; more closes the link.
const CONTROL_FRAMES_MAX: usize = 256;

/// Runs one link until it is lost (an error) or drained after `shutdown` (`Ok`). `meters` are all configured link addresses.
pub(super) async fn run(node: &Arc<Node>, meter: &MeterUrl, meters: &[String], shutdown: &CancellationToken) -> Result<(), LinkError> {
    let timings = node.limits.timings;
    let (opened, welcome) = tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        opened = shake_hands(node, meter, &timings) => opened?,
    };
    let (writer, reader) = opened;
    let address = meter.link();
    tracing::info!(meter = address, operator = %node.identity.operator, fallback = welcome.fallback, "welcomed, waiting for jobs");
    node.board.set(&address, LinkState::Linked { since: node.now_s(), fallback: welcome.fallback });
    let (control, control_queue) = mpsc::channel(CONTROL_FRAMES_MAX);
    let (answers, answer_queue) = mpsc::channel(ANSWER_FRAMES_MAX);
    let writing = tokio::spawn(socket::write_all(writer, control_queue, answer_queue, timings));
    let mut session = Session {
        node: Arc::clone(node),
        meter: address,
        control,
        answers,
        running: HashMap::new(),
        requests: HashMap::new(),
        tasks: JoinSet::new(),
        phase: Phase::Serving,
        audits_for: welcome.fallback,
    };
    session.resend(meters);
    session.serve(reader, writing, welcome.heartbeat, shutdown).await
}

struct Session {
    node: Arc<Node>,
    meter: String,
    control: mpsc::Sender<Outgoing>,
    answers: mpsc::Sender<Outgoing>,
    /// Jobs of this link, by request.
    running: HashMap<B256, Running>,
    /// Which task serves which request, so that a task that dies is answered for.
    requests: HashMap<Id, B256>,
    tasks: JoinSet<()>,
    phase: Phase,
    /// Whether this meter counts the node as its own hardware, and may have it audit others.
    audits_for: bool,
}

struct Running {
    cancel: Cancel,
    /// Set before the answer's last frame goes out: from then on the meter may name the request again.
    over: Arc<AtomicBool>,
    task: Id,
}

/// How far a drain has come.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Serving,
    /// Answers run to their end.
    Finishing {
        until: Instant,
    },
    /// Time is over; answers were cancelled and say so.
    Cancelling {
        until: Instant,
    },
    /// All answers are out; the meter acknowledges.
    Acknowledging {
        until: Instant,
    },
}

impl Session {
    async fn serve(
        mut self,
        mut reader: Reader,
        mut writing: JoinHandle<Result<(), LinkError>>,
        heartbeat: Duration,
        shutdown: &CancellationToken,
    ) -> Result<(), LinkError> {
        let mut heartbeat = interval(heartbeat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let ended = loop {
            let until = self.phase.until();
            let step = tokio::select! {
                frame = reader.next() => match frame {
                    Ok(frame) => self.on_frame(frame).await,
                    Err(error) => Err(error),
                },
                Some(ended) = self.tasks.join_next_with_id() => self.on_task_end(ended),
                _ = heartbeat.tick() => { self.report_status(); Ok(()) }
                () = shutdown.cancelled(), if self.phase == Phase::Serving => { self.start_drain(); Ok(()) }
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => Ok(()),
                stopped = &mut writing => Err(stopped.unwrap_or(Err(LinkError::Writer)).err().unwrap_or(LinkError::Writer)),
            };
            if let Err(error) = step {
                break Err(error);
            }
            if self.advance_drain().is_break() {
                break Ok(());
            }
        };
        self.close(ended, reader, writing).await
    }

    async fn on_frame(&mut self, frame: FromMeter) -> Result<(), LinkError> {
        match frame {
            FromMeter::Job(job) => self.on_job(job),
            FromMeter::Cancel { request_id } => {
                // A cancel that crosses the end of its answer finds nothing.
                if let Some(running) = self.running.get(&request_id) {
                    running.cancel.cancel();
                }
                Ok(())
            }
            FromMeter::SignReceipt { receipt } => self.on_sign_receipt(receipt).await,
            FromMeter::ReceiptAck { request_id, outcome } => {
                self.on_ack(&request_id, outcome);
                Ok(())
            }
            FromMeter::ProofRequest { request_id } => {
                let windows = self.node.kept_proof(request_id).await;
                self.control(FromNode::Proof { request_id, windows })
            }
            FromMeter::Audit(job) => self.on_audit(job),
            frame @ (FromMeter::Challenge { .. } | FromMeter::Welcome { .. } | FromMeter::Refused { .. }) => {
                Err(LinkError::Order { frame: name(&frame), when: "after the welcome" })
            }
        }
    }

    fn on_job(&mut self, job: Job) -> Result<(), LinkError> {
        let request_id = job.request_id;
        if self.is_served_now(&request_id) {
            return Err(LinkError::SameJob { request_id });
        }
        let node = Arc::clone(&self.node);
        let serving = node.models.iter().find(|serving| serving.model.model == job.model);
        if let Err(refusal) = check_job(&job, node.identity.operator, serving.map(|serving| &serving.model)) {
            return self.fail(request_id, refusal.code, refusal.message);
        }
        let Some(serving) = serving else { return Ok(()) };
        if self.phase != Phase::Serving {
            return self.fail(request_id, FailureCode::Busy, "this node is draining".into());
        }
        let Ok(slot) = Arc::clone(&node.slots).try_acquire_owned() else {
            return self.fail(request_id, FailureCode::Busy, format!("all {} slots are taken", node.limits.capacity));
        };
        let promised = (node.limits.capacity as usize).saturating_sub(node.slots.available_permits());
        if !node.outbox.has_room_for(promised) {
            return self.fail(request_id, FailureCode::Busy, "too many receipts wait for acknowledgement".into());
        }
        tracing::info!(%request_id, model = job.model, prompt_tokens = job.prompt.len(), max_tokens = job.params.max_tokens, "job taken");
        let (cancel, over) = (Cancel::default(), Arc::new(AtomicBool::new(false)));
        let (meter, serving, out) = (self.meter.clone(), serving.clone(), self.answers.clone());
        let answering = Answering { node, meter, job, serving, cancel: cancel.clone(), over: Arc::clone(&over), out, slot };
        let task = self.tasks.spawn(answering.run()).id();
        self.requests.insert(task, request_id);
        self.running.insert(request_id, Running { cancel, over, task });
        Ok(())
    }

    /// Passes an audit to the auditor, whose queue is bounded; its answer goes out whenever it comes.
    fn on_audit(&mut self, job: AuditJob) -> Result<(), LinkError> {
        let audit_id = job.audit_id;
        let serving = self.node.models.iter().find(|serving| serving.model.model == job.model);
        let refusal = match serving {
            _ if !self.audits_for => "this node audits only for meters whose fallback hardware it is",
            _ if self.phase != Phase::Serving => "this node is draining",
            None => "this node does not serve that model",
            Some(serving) => {
                let outcome = serving.auditor.submit(job);
                let answers = self.answers.clone();
                self.tasks.spawn(async move {
                    // An auditor that ends without a word found nothing out, and the meter's wait ends by itself.
                    if let Ok(result) = outcome.await {
                        let _ = answers.send(Outgoing::Frame(Box::new(FromNode::AuditResult { audit_id, result }))).await;
                    }
                });
                return Ok(());
            }
        };
        self.control(FromNode::AuditResult { audit_id, result: AuditOutcome::Refused { message: refusal.to_owned() } })
    }

    fn is_served_now(&self, request_id: &B256) -> bool {
        self.running.get(request_id).is_some_and(|running| !running.over.load(Ordering::Acquire))
    }

    async fn on_sign_receipt(&mut self, receipt: ServiceReceipt) -> Result<(), LinkError> {
        let request_id = receipt.request_id;
        let checked = {
            let served = self.node.served();
            check_sign_request(&receipt, self.node.identity.operator, &self.node.models(), served.answer(&request_id), self.node.now_s())
        };
        let signed = match checked {
            Ok(()) if self.is_served_now(&request_id) => Err("the answer is still being served".into()),
            Ok(()) => self.node.sign_and_keep(&self.meter, &receipt).await.map_err(|error| error.to_string()),
            Err(decline) => Err(decline.to_string()),
        };
        let frame = match signed {
            Ok(signature) => FromNode::Receipt { receipt, signature },
            Err(message) => {
                tracing::warn!(%request_id, message, "receipt declined");
                metrics::counter!("node_receipts_declined_total").increment(1);
                FromNode::ReceiptDeclined { request_id, message }
            }
        };
        self.control(frame)
    }

    fn on_ack(&self, request_id: &B256, outcome: ReceiptOutcome) {
        match self.node.outbox.acknowledge(request_id) {
            Ok(true) if outcome == ReceiptOutcome::Unknown => tracing::warn!(%request_id, "meter knows no such request; receipt dropped"),
            Ok(_) => tracing::debug!(%request_id, ?outcome, "receipt acknowledged"),
            // Kept in memory and on disk: it is sent again and acknowledged again.
            Err(error) => tracing::error!(%request_id, %error, "acknowledgement was not stored"),
        }
        metrics::gauge!("node_receipts_unacknowledged").set(self.node.outbox.len() as f64);
    }

    fn on_task_end(&mut self, ended: Result<(Id, ()), JoinError>) -> Result<(), LinkError> {
        let (id, died) = match ended {
            Ok((id, ())) => (id, false),
            Err(error) => (error.id(), true),
        };
        let Some(request_id) = self.requests.remove(&id) else { return Ok(()) };
        if self.running.get(&request_id).is_some_and(|running| running.task == id)
            && let Some(running) = self.running.remove(&request_id)
        {
            running.cancel.cancel();
        }
        if died { self.fail(request_id, FailureCode::Engine, "the answer's task died".into()) } else { Ok(()) }
    }

    /// Sends the receipts again that this meter never acknowledged, and those of meters that are not configured any more.
    fn resend(&mut self, meters: &[String]) {
        let kept = self.node.outbox.pending(|of| of == self.meter || !meters.iter().any(|meter| meter == of));
        if kept.is_empty() {
            return;
        }
        tracing::info!(meter = self.meter, receipts = kept.len(), "sending unacknowledged receipts again");
        let answers = self.answers.clone();
        self.tasks.spawn(async move {
            for kept in kept {
                let frame = FromNode::Receipt { receipt: kept.receipt, signature: kept.signature };
                if answers.send(Outgoing::Frame(Box::new(frame))).await.is_err() {
                    return;
                }
            }
        });
    }

    fn start_drain(&mut self) {
        tracing::info!(meter = self.meter, running = self.running.len(), "draining");
        self.phase = Phase::Finishing { until: Instant::now() + self.node.limits.drain };
        self.report_status();
    }

    /// Moves a drain on; breaks when it is over.
    fn advance_drain(&mut self) -> ControlFlow<()> {
        let (now, acks) = (Instant::now(), self.node.limits.timings.acks);
        let idle = self.running.is_empty();
        match self.phase {
            Phase::Finishing { .. } | Phase::Cancelling { .. } if idle => self.phase = Phase::Acknowledging { until: now + acks },
            Phase::Finishing { until } if now >= until => {
                tracing::warn!(meter = self.meter, running = self.running.len(), "drain time is over: cancelling");
                self.running.values().for_each(|running| running.cancel.cancel());
                self.phase = Phase::Cancelling { until: now + acks };
            }
            Phase::Cancelling { until } if now >= until => return ControlFlow::Break(()),
            _ => {}
        }
        match self.phase {
            Phase::Acknowledging { until } if now >= until || self.node.outbox.pending(|of| of == self.meter).is_empty() => {
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        }
    }

    async fn close(
        mut self,
        ended: Result<(), LinkError>,
        reader: Reader,
        writing: JoinHandle<Result<(), LinkError>>,
    ) -> Result<(), LinkError> {
        // What runs on has nobody to run for; its tasks end when their engine does.
        self.running.values().for_each(|running| running.cancel.cancel());
        self.tasks.detach_all();
        let goodbye = match &ended {
            Ok(()) => Some((&self.answers, CloseCode::Normal, "drained".to_owned())),
            Err(error) if error.is_violation() => Some((&self.control, CloseCode::Protocol, error.to_string())),
            Err(_) => None,
        };
        let abort = writing.abort_handle();
        if let Some((queue, code, reason)) = goodbye {
            let closing = async {
                let _ = queue.send(Outgoing::Close { code, reason }).await;
                if let Ok(Ok(())) = writing.await {
                    reader.closed(CLOSE_WAIT).await;
                }
            };
            let _ = timeout(2 * CLOSE_WAIT, closing).await;
        }
        abort.abort();
        ended
    }

    fn report_status(&self) {
        // A status that finds no room is old by the time there is some.
        let status = self.node.status(self.phase != Phase::Serving);
        let _ = self.control.try_send(Outgoing::Frame(Box::new(FromNode::Status(status))));
    }

    fn fail(&self, request_id: B256, code: FailureCode, message: String) -> Result<(), LinkError> {
        tracing::warn!(%request_id, ?code, message, "job refused");
        metrics::counter!("node_jobs_total", "outcome" => "refused").increment(1);
        self.control(FromNode::Failed { request_id, code, message })
    }

    /// Queues a short frame without waiting: the reading side must never wait for the writing side.
    fn control(&self, frame: FromNode) -> Result<(), LinkError> {
        match self.control.try_send(Outgoing::Frame(Box::new(frame))) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_)) => Err(LinkError::Flooded { waiting: CONTROL_FRAMES_MAX }),
            Err(TrySendError::Closed(_)) => Err(LinkError::Writer),
        }
    }
}

impl Phase {
    fn until(self) -> Option<Instant> {
        match self {
            Self::Serving => None,
            Self::Finishing { until } | Self::Cancelling { until } | Self::Acknowledging { until } => Some(until),
        }
    }
}
