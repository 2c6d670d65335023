//! One answer while it arrives: from the job to the first token, to the end, to the durable charge.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout, timeout_at};
use wire::node::{FailureCode, FinishReason, FromMeter, Job, ReceiptOutcome};
use wire::receipt::ServiceReceipt;

use super::audits::{Case, Drawn};
use super::fleet::{Lease, Node, NodeEvent};
use super::receipt::{self, Claim};
use super::request::{AnswerEnd, AnswerEvent, Interruption, Outcome, ServeError, ServedBy, Walk, with_retries};
use super::speeds::AnswerSpeed;
use super::stream::{AnswerStream, Piece, Tokens};
use crate::ledger::{Capture, CaptureError, Captured, DispatchRecord, LedgerError};

/// Between two notes of how much arrived.
const CHECKPOINT: Duration = Duration::from_secs(1);

/// An answer of which the first token is here.
pub(super) struct Live {
    lease: Lease,
    from_node: mpsc::Receiver<NodeEvent>,
    template: ServiceReceipt,
    answer: AnswerStream,
    first: Tokens,
    started: Instant,
    first_token: Instant,
}

/// What became of a job before its first token.
pub(super) enum Begun {
    Live(Box<Live>),
    Failed(NotBegun),
    Cancelled,
    Draining,
}

/// Why a node did not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotBegun {
    LinkLost,
    Refused(FailureCode),
    Empty,
    Timeout,
    Unpriced,
}

impl NotBegun {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::LinkLost => "link_lost",
            Self::Refused(FailureCode::Busy) => "busy",
            Self::Refused(FailureCode::TooLong) => "too_long",
            Self::Refused(FailureCode::UnknownModel) => "unknown_model",
            Self::Refused(FailureCode::BadParams) => "bad_params",
            Self::Refused(FailureCode::Engine) => "engine",
            Self::Empty => "empty",
            Self::Timeout => "first_token_timeout",
            Self::Unpriced => "unpriced",
        }
    }
}

/// Why tokens stopped.
enum Ended {
    /// The meter saw the end; the node may still be talking.
    Counted(FinishReason),
    /// The node said so, before the meter saw an end.
    ByNode(FinishReason, Box<Claim>),
    Interrupted(Interruption),
    ClientGone,
}

/// Sends the job and waits for its first token. A node that does not start is told to stop.
pub(super) async fn begin(walk: &Walk, mut lease: Lease) -> Begun {
    let rooms = walk.serving.rooms();
    let node = Arc::clone(lease.node());
    let job = walk.job(node.facts.operator, rooms.clock.now_s());
    let (template, answer) = match prepare(walk, &job) {
        Ok(prepared) => prepared,
        Err(reason) => return Begun::Failed(reason),
    };
    rooms.ledger.dispatched(DispatchRecord {
        request_id: job.request_id,
        node: node.facts.node,
        fallback: node.facts.fallback,
        template: template.clone(),
    });
    let started = Instant::now();
    let Some(mut from_node) = lease.start(job) else {
        return Begun::Failed(NotBegun::LinkLost);
    };

    let deadline = started + Duration::from_millis(rooms.limits.first_token_timeout_ms);
    let begun = tokio::select! {
        biased;
        () = walk.cancel.cancelled() => Begun::Cancelled,
        () = rooms.cut.cancelled() => Begun::Draining,
        event = timeout_at(deadline, from_node.recv()) => match event {
            Ok(Some(NodeEvent::Tokens(first))) => {
                metrics::histogram!("meter_first_token_seconds").record(started.elapsed().as_secs_f64());
                let first_token = Instant::now();
                return Begun::Live(Box::new(Live { lease, from_node, template, answer, first, started, first_token }));
            }
            Ok(Some(NodeEvent::Finished { .. })) => Begun::Failed(NotBegun::Empty),
            Ok(Some(NodeEvent::Failed { code, message })) => {
                tracing::warn!(node = %node.facts.node, ?code, message = %clipped(&message), "node refused a job");
                return Begun::Failed(NotBegun::Refused(code));
            }
            Ok(Some(NodeEvent::Lost) | None) => Begun::Failed(NotBegun::LinkLost),
            Err(_) => Begun::Failed(NotBegun::Timeout),
        },
    };
    node.send(FromMeter::Cancel { request_id: walk.order.request_id });
    begun
}

fn prepare(walk: &Walk, job: &Job) -> Result<(ServiceReceipt, AnswerStream), NotBegun> {
    let template = receipt::template(job, &walk.order.model).map_err(|_| NotBegun::Unpriced)?;
    let answer = AnswerStream::new(&walk.order.model.prompter, &job.params).map_err(|_| NotBegun::Refused(FailureCode::BadParams))?;
    Ok((template, answer))
}

impl Live {
    /// Streams to the end and charges; the event is the answer's last one.
    pub(super) async fn serve(mut self, walk: &Walk) -> AnswerEvent {
        let by = self.served_by();
        tracing::info!(request_id = %walk.order.request_id, account = %walk.order.payer.account, node = %by.node, "answer started");
        let _ = walk.events.try_send(AnswerEvent::Started(by));
        let ended = self.stream(walk).await;
        let last_token = Instant::now();

        let (end, interruption, claim) = match ended {
            Ended::ByNode(reason, claim) => {
                let (end, interruption) = end_by_node(reason);
                (end, interruption, Some(*claim))
            }
            Ended::Counted(reason) => {
                let end = if reason == FinishReason::Length { AnswerEnd::Length } else { AnswerEnd::Stop };
                (end, None, self.last_word(walk, false).await)
            }
            Ended::ClientGone => (AnswerEnd::Cancelled, None, self.last_word(walk, true).await),
            Ended::Interrupted(cause @ (Interruption::NodeLost | Interruption::NodeFailed)) => (AnswerEnd::Interrupted, Some(cause), None),
            Ended::Interrupted(cause) => (AnswerEnd::Interrupted, Some(cause), self.last_word(walk, true).await),
        };
        if interruption.is_none() && end != AnswerEnd::Cancelled {
            let elapsed_s = (last_token - self.first_token).as_secs_f64();
            self.lease.node().measured(self.answer.count(), elapsed_s);
            let tokens_per_s = (self.answer.count() > 1 && elapsed_s > 0.0).then(|| f64::from(self.answer.count() - 1) / elapsed_s);
            let speed = AnswerSpeed { first_token: self.first_token - self.started, tokens_per_s };
            walk.serving.rooms().speeds.add(&walk.order.model.id, speed);
        } else if interruption.is_some_and(|cause| cause != Interruption::Draining) {
            self.lease.node().failed();
        }
        send_piece(walk, self.answer.finish());
        self.charge(walk, end, interruption, claim).await
    }

    /// Passes text on until the answer ends, for whatever reason.
    async fn stream(&mut self, walk: &Walk) -> Ended {
        let rooms = walk.serving.rooms();
        let limits = &rooms.limits;
        let first = std::mem::take(&mut self.first);
        send_piece(walk, self.answer.push(first));
        let (idle, total) = (Duration::from_millis(limits.idle_timeout_ms), self.started + Duration::from_millis(limits.total_timeout_ms));
        let mut checkpoint = interval(CHECKPOINT);
        checkpoint.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut noted = 0;
        let mut idle_until = Instant::now() + idle;
        loop {
            if let Some(reason) = self.answer.end() {
                return Ended::Counted(reason);
            }
            tokio::select! {
                biased;
                () = walk.cancel.cancelled() => return Ended::ClientGone,
                () = rooms.cut.cancelled() => return Ended::Interrupted(Interruption::Draining),
                _ = checkpoint.tick() => if self.answer.count() > noted {
                    noted = self.answer.count();
                    rooms.ledger.checkpoint(walk.order.request_id, noted, self.answer.hash());
                },
                event = self.from_node.recv() => match event {
                    Some(NodeEvent::Tokens(tokens)) => {
                        send_piece(walk, self.answer.push(tokens));
                        idle_until = Instant::now() + idle;
                    }
                    Some(NodeEvent::Finished { finish_reason, receipt, signature }) => {
                        return Ended::ByNode(finish_reason, Box::new(Claim { receipt: *receipt, signature }));
                    }
                    Some(NodeEvent::Failed { code, message }) => {
                        tracing::warn!(request_id = %walk.order.request_id, ?code, message = %clipped(&message), "node failed");
                        return Ended::Interrupted(Interruption::NodeFailed);
                    }
                    Some(NodeEvent::Lost) | None => return Ended::Interrupted(Interruption::NodeLost),
                },
                () = sleep_until(idle_until) => return Ended::Interrupted(Interruption::Idle),
                () = sleep_until(total) => return Ended::Interrupted(Interruption::TotalTimeout),
            }
        }
    }

    /// Waits for the node's final frame. Tokens that were on their way when the client left arrived, and count.
    async fn last_word(&mut self, walk: &Walk, mut cancelled: bool) -> Option<Claim> {
        let node = Arc::clone(self.lease.node());
        let cancel = FromMeter::Cancel { request_id: walk.order.request_id };
        if cancelled {
            node.send(cancel.clone());
        }
        let wait = Duration::from_millis(walk.serving.rooms().limits.cancel_timeout_ms);
        let final_frame = async {
            while let Some(event) = self.from_node.recv().await {
                match event {
                    NodeEvent::Tokens(tokens) => {
                        let _ = self.answer.push(tokens);
                        // It goes on although the answer is over.
                        if !std::mem::replace(&mut cancelled, true) {
                            node.send(cancel.clone());
                        }
                    }
                    NodeEvent::Finished { receipt, signature, .. } => return Some(Claim { receipt: *receipt, signature }),
                    NodeEvent::Failed { .. } | NodeEvent::Lost => return None,
                }
            }
            None
        };
        let claim = timeout(wait, final_frame).await;
        if claim.is_err() {
            node.send(cancel);
            tracing::warn!(request_id = %walk.order.request_id, node = %node.facts.node, "node did not end its answer; charged as counted");
        }
        claim.ok().flatten()
    }

    /// Compares, captures, tells the node.
    async fn charge(self, walk: &Walk, end: AnswerEnd, interruption: Option<Interruption>, claim: Option<Claim>) -> AnswerEvent {
        let rooms = walk.serving.rooms();
        let node = self.lease.node();
        let now_s = rooms.clock.now_s();
        let Ok(own) = receipt::own(&self.template, &self.answer, now_s) else {
            // The hold was for more tokens at this rate, so this can't be.
            return AnswerEvent::Failed(ServeError::Capture, None);
        };
        let verdict = receipt::judge(own, &self.answer, claim, node.facts.node, &rooms.domain, now_s);
        if let Some(problem) = &verdict.problem {
            metrics::counter!("meter_receipts_refused_total").increment(1);
            tracing::warn!(request_id = %walk.order.request_id, node = %node.facts.node, %problem, "node's receipt refused; charged as counted");
        }

        // Only now: the node's word is here, and it can't take it back.
        let drawn = walk.serving.draw(node, &walk.order.model.id, &verdict.receipt);
        let capture = Capture {
            receipt: verdict.receipt,
            signature: verdict.signature,
            node: node.facts.node,
            fallback: node.facts.fallback,
            finish_reason: end.name().to_owned(),
            audit: drawn.state(),
        };
        let captured = match captured(walk, capture.clone()).await {
            Ok(captured) => captured,
            Err(error) => {
                tracing::error!(request_id = %walk.order.request_id, %error, "capture failed; recovery settles the hold");
                return AnswerEvent::Failed(ServeError::Capture, None);
            }
        };

        tell_node(node, &capture, rooms);
        let token_ids = self.answer.tokens(capture.receipt.completion_tokens).to_vec();
        if let Drawn::Yes(place) = drawn {
            let job = walk.job(node.facts.operator, capture.receipt.started_at);
            let (receipt, completion) = (capture.receipt.clone(), token_ids.clone());
            let case = Case { receipt, node: node.facts.node, model: job.model, prompt: job.prompt, completion, params: job.params };
            walk.serving.audit(case, place);
        }
        metrics::counter!("meter_tokens_total", "kind" => "prompt").increment(u64::from(capture.receipt.prompt_tokens));
        metrics::counter!("meter_tokens_total", "kind" => "completion").increment(u64::from(capture.receipt.completion_tokens));
        metrics::counter!("meter_captured_credits_total").increment(captured.amount.get());
        let outcome = Box::new(Outcome {
            end,
            by: self.served_by(),
            prompt_tokens: capture.receipt.prompt_tokens,
            completion_tokens: capture.receipt.completion_tokens,
            cost: captured.amount,
            state: captured.state,
            token_ids,
        });
        match interruption {
            None => AnswerEvent::Done(outcome),
            Some(cause) => AnswerEvent::Failed(ServeError::BrokenOff { cause }, Some(outcome)),
        }
    }

    fn served_by(&self) -> ServedBy {
        let facts = &self.lease.node().facts;
        ServedBy { node: facts.node, operator: facts.operator, fallback: facts.fallback }
    }
}

/// The capture, tried again while the database fails. A capture that recovery made meanwhile is the one that stands.
async fn captured(walk: &Walk, capture: Capture) -> Result<Captured, CaptureError> {
    let request_id = walk.order.request_id;
    let ledger = &walk.serving.rooms().ledger;
    let outcome = with_retries(|| async {
        match ledger.capture(capture.clone()).await {
            Err(CaptureError::Ledger(error @ LedgerError::Database { .. })) => Err(error),
            other => Ok(other),
        }
    })
    .await?;
    match outcome {
        Err(CaptureError::Conflict { amount, state, .. }) => {
            tracing::warn!(%request_id, %amount, "captured before, by recovery");
            Ok(Captured { receipt_id: request_id, state, amount, replayed: true })
        }
        other => other,
    }
}

fn tell_node(node: &Node, capture: &Capture, rooms: &super::Rooms) {
    let request_id = capture.receipt.request_id;
    let frame = if capture.signature.is_some() {
        FromMeter::ReceiptAck { request_id, outcome: ReceiptOutcome::Captured }
    } else {
        FromMeter::SignReceipt { receipt: capture.receipt.clone() }
    };
    // A node that was lost may be back by now, over another link. Else it is asked when it is.
    let current = rooms.fleet.node(node.facts.node);
    if !current.is_some_and(|current| current.send(frame)) {
        tracing::debug!(%request_id, node = %node.facts.node, "node is away; it is asked when it is back");
    }
}

/// A node may not end an answer as cancelled that nobody cancelled.
fn end_by_node(reason: FinishReason) -> (AnswerEnd, Option<Interruption>) {
    match reason {
        FinishReason::Stop => (AnswerEnd::Stop, None),
        FinishReason::Length => (AnswerEnd::Length, None),
        FinishReason::Cancelled => (AnswerEnd::Interrupted, Some(Interruption::NodeFailed)),
    }
}

fn send_piece(walk: &Walk, piece: Piece) {
    if piece != Piece::default() {
        // One place a token is reserved, so the channel has room; an error means the client is gone, and cancels.
        let _ = walk.events.try_send(AnswerEvent::Text(piece));
    }
}

/// A node's words for the log: short, and on one line.
pub(super) fn clipped(message: &str) -> String {
    message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
}
