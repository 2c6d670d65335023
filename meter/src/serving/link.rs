//! One node's WebSocket, the meter's side (`docs/protocol.md`, section 6): challenge, hello, welcome, then frames both ways
//! until either side has enough.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use daemon::clock::SharedClock;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{MissedTickBehavior, interval, interval_at, timeout};
use wire::node::{FromMeter, FromNode, Hello, PING_SECONDS, PROTOCOL, SILENCE_SECONDS_MAX};
use wire::{Address, B256, OperatorId, typed};

use super::fleet::{Node, NodeEvent, NodeFacts};
use super::live::clipped;
use super::receipt::{self, Claim};
use super::{Rooms, Serving};
use crate::ledger::LedgerError;

/// From the challenge to the hello; a node has its key open by then.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// A link that takes no frame for so long is dead.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Receipts that wait for the ledger; the link is not read further meanwhile.
const RECEIPTS_MAX: usize = 256;
/// Receipts that ask the ledger at once, so that they share its commits.
const RECEIPTS_AT_ONCE: usize = 32;
/// Most models of one hello; bounds what is hashed for it.
const MODELS_MAX: usize = 1_024;

type Sink = SplitSink<WebSocket, Message>;
type Source = SplitStream<WebSocket>;

/// Serves one link to its end. `challenge` is 32 random bytes for this connection only; `place` is free again once the node is in.
pub async fn serve(serving: Serving, socket: WebSocket, challenge: B256, place: OwnedSemaphorePermit) {
    let (mut sink, mut source) = socket.split();
    let opened = open(&serving, &mut sink, &mut source, challenge).await;
    drop(place);
    let ended = match opened {
        Ok((node, outbox)) => {
            let NodeFacts { node: key, operator, fallback, .. } = node.facts;
            metrics::gauge!("meter_nodes_linked", "fallback" => if fallback { "yes" } else { "no" }).increment(1.0);
            tracing::info!(node = %key, %operator, fallback, version = %clipped(&node.facts.version), "node linked");
            let ended = work(&serving, &node, &mut sink, &mut source, outbox).await;
            serving.rooms().fleet.leave(&node);
            metrics::gauge!("meter_nodes_linked", "fallback" => if fallback { "yes" } else { "no" }).decrement(1.0);
            tracing::info!(node = %key, %operator, reason = %ended, "node link ended");
            ended
        }
        Err(ended) => {
            if let LinkEnd::Refused { code, .. } = &ended {
                let refused = FromMeter::Refused { code: (*code).to_owned(), message: ended.to_string() };
                let _ = send(&mut sink, &refused).await;
                metrics::counter!("meter_links_refused_total", "code" => *code).increment(1);
            }
            tracing::info!(reason = %ended, "node link not opened");
            ended
        }
    };
    // A reason is at most 123 bytes in a close frame.
    let reason: String = ended.to_string().chars().filter(char::is_ascii).take(120).collect();
    let close = CloseFrame { code: if ended.is_fault() { close_code::POLICY } else { close_code::NORMAL }, reason: reason.into() };
    let _ = timeout(WRITE_TIMEOUT, sink.send(Message::Close(Some(close)))).await;
}

async fn open(
    serving: &Serving,
    sink: &mut Sink,
    source: &mut Source,
    challenge: B256,
) -> Result<(Arc<Node>, mpsc::Receiver<FromMeter>), LinkEnd> {
    let rooms = serving.rooms();
    let opening = FromMeter::Challenge {
        protocol: PROTOCOL,
        challenge,
        chain_id: rooms.deployment.chain_id,
        settlement: rooms.deployment.settlement,
    };
    send(sink, &opening).await?;
    let hello = timeout(HELLO_TIMEOUT, next(source)).await.map_err(|_| LinkEnd::Silent { silence: HELLO_TIMEOUT })??;
    let FromNode::Hello(hello) = hello else {
        return Err(LinkEnd::refused("protocol", "the first frame must be a hello"));
    };
    let facts = check(rooms, hello, challenge).await?;
    let welcome = FromMeter::Welcome { heartbeat_ms: rooms.limits.heartbeat_ms, fallback: facts.fallback };
    rooms
        .fleet
        .join(facts, welcome, rooms.limits.nodes_max)
        .ok_or_else(|| LinkEnd::refused("full", "this meter has as many nodes as it takes"))
}

/// Who is it, does the registry know it, does it serve anything of ours.
async fn check(rooms: &Rooms, hello: Hello, challenge: B256) -> Result<NodeFacts, LinkEnd> {
    if hello.protocol != PROTOCOL {
        return Err(LinkEnd::refused(
            "protocol",
            format!("this meter speaks protocol {PROTOCOL}, the node {}; update the older one", hello.protocol),
        ));
    }
    if hello.models.len() > MODELS_MAX || hello.capacity == 0 {
        return Err(LinkEnd::refused("protocol", format!("a hello names 1 to {MODELS_MAX} models and a capacity of 1 or more")));
    }
    let signer = typed::recover(&hello.typed(challenge), &rooms.domain, &hello.signature)
        .map_err(|error| LinkEnd::refused("signature", error.to_string()))?;
    if signer != hello.node {
        return Err(LinkEnd::refused("signature", format!("the hello is signed by {signer}, it names {}", hello.node)));
    }
    if !is_registered(rooms, hello.node, hello.operator).await? {
        let message = format!(
            "the registry does not have key {} for operator {}; add it, and wait for the block to be deep enough",
            hello.node, hello.operator
        );
        return Err(LinkEnd::refused("not_registered", message));
    }
    let models = rooms.catalog.served(hello.models);
    if models.is_empty() {
        return Err(LinkEnd::refused(
            "no_model",
            "none of the node's models has the weights, tokenizer and template that this meter prices",
        ));
    }
    Ok(NodeFacts {
        node: hello.node,
        operator: hello.operator,
        fallback: rooms.fallback_operators.contains(&hello.operator),
        models,
        capacity: hello.capacity.min(rooms.limits.jobs_per_node_max),
        device: wire::node::Device { kind: clipped(&hello.device.kind), name: clipped(&hello.device.name), ..hello.device },
        version: clipped(&hello.version),
        region: hello.region.as_deref().map(clipped),
        linked_at: rooms.clock.now_s(),
        quarantine: rooms.ledger.quarantine(hello.node).await?,
    })
}

async fn is_registered(rooms: &Rooms, node: Address, operator: OperatorId) -> Result<bool, LedgerError> {
    let owner = rooms.ledger.node_operator(node).await?;
    Ok(owner.is_some_and(|owner| owner.operator == operator && owner.until.is_none()))
}

/// Reads, writes, settles receipts and checks the registry, all at once, until one of them ends.
async fn work(serving: &Serving, node: &Arc<Node>, sink: &mut Sink, source: &mut Source, outbox: mpsc::Receiver<FromMeter>) -> LinkEnd {
    let (claims, waiting) = mpsc::channel(RECEIPTS_MAX);
    tokio::select! {
        () = node.closed.cancelled() => LinkEnd::Closed,
        end = read(node, source, claims, &serving.rooms().clock) => end,
        end = write(sink, outbox) => end,
        () = settle_claims(serving, node, waiting) => LinkEnd::Closed,
        end = look_after(serving, node) => end,
    }
}

async fn read(node: &Node, source: &mut Source, claims: mpsc::Sender<Claim>, clock: &SharedClock) -> LinkEnd {
    loop {
        let frame = match next(source).await {
            Ok(frame) => frame,
            Err(end) => return end,
        };
        match frame {
            FromNode::Hello(_) => return LinkEnd::refused("protocol", "a second hello"),
            FromNode::Tokens { request_id, first, tokens, logprobs } => node.deliver_tokens(request_id, first, tokens, logprobs),
            FromNode::Failed { request_id, code, message } => {
                node.deliver_end(request_id, NodeEvent::Failed { code, message });
            }
            FromNode::Finished { request_id, finish_reason, receipt, signature } => {
                let event = NodeEvent::Finished { finish_reason, receipt: Box::new(receipt.clone()), signature: signature.clone() };
                if !node.deliver_end(request_id, event) && claims.send(Claim { receipt, signature }).await.is_err() {
                    return LinkEnd::Closed;
                }
            }
            FromNode::Receipt { receipt, signature } => {
                if claims.send(Claim { receipt, signature }).await.is_err() {
                    return LinkEnd::Closed;
                }
            }
            FromNode::ReceiptDeclined { request_id, message } => {
                metrics::counter!("meter_receipts_declined_total").increment(1);
                tracing::warn!(%request_id, node = %node.facts.node, message = %clipped(&message), "node declined to sign");
            }
            FromNode::Status(status) => node.report(status, clock.now_s()),
            // What nobody waits for any more, or never asked for, is dropped.
            FromNode::Proof { request_id, windows } => {
                node.proofs.answer(&request_id, windows);
            }
            FromNode::AuditResult { audit_id, result } => {
                node.audits.answer(&audit_id, result);
            }
        }
    }
}

async fn write(sink: &mut Sink, mut outbox: mpsc::Receiver<FromMeter>) -> LinkEnd {
    let mut ping = interval(Duration::from_secs(PING_SECONDS));
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let sent = tokio::select! {
            frame = outbox.recv() => match frame {
                Some(frame) => send(sink, &frame).await,
                None => return LinkEnd::Closed,
            },
            _ = ping.tick() => send_message(sink, Message::Ping(Vec::new().into())).await,
        };
        if let Err(end) = sent {
            return end;
        }
    }
}

/// Answers receipts that came late or again. Where the ledger fails nothing is answered, and the node sends them again.
async fn settle_claims(serving: &Serving, node: &Arc<Node>, waiting: mpsc::Receiver<Claim>) {
    let claims = futures_util::stream::unfold(waiting, |mut waiting| async { waiting.recv().await.map(|claim| (claim, waiting)) });
    claims
        .for_each_concurrent(RECEIPTS_AT_ONCE, |claim| async {
            let rooms = serving.rooms();
            let request_id = claim.receipt.request_id;
            let in_flight = rooms.is_running(request_id);
            match receipt::late(&rooms.ledger, &rooms.domain, node.facts.node, claim, in_flight, rooms.clock.now_s()).await {
                Ok(Some(reply)) => {
                    node.send_waiting(reply).await;
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(%request_id, %error, "late receipt was not recorded; the node sends it again"),
            }
        })
        .await;
}

/// Each period: is the key still registered, is the node quarantined (or cleared), and does it owe signatures.
async fn look_after(serving: &Serving, node: &Arc<Node>) -> LinkEnd {
    let rooms = serving.rooms();
    let period = Duration::from_millis(rooms.limits.registry_check_ms);
    let mut check = interval_at(tokio::time::Instant::now() + period, period);
    check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ask_for_signatures(rooms, node).await;
        check.tick().await;
        match is_registered(rooms, node.facts.node, node.facts.operator).await {
            Ok(true) => serving.refresh_quarantine(node.facts.node).await,
            Ok(false) => return LinkEnd::refused("not_registered", "the registry no longer has this key for this operator"),
            // The registry was asked when the link opened; a failing database is no reason to lose every node at once.
            Err(error) => tracing::warn!(node = %node.facts.node, %error, "registry check skipped"),
        }
    }
}

async fn ask_for_signatures(rooms: &Rooms, node: &Node) {
    match rooms.ledger.awaiting_signature(node.facts.node).await {
        Ok(receipts) => {
            for receipt in receipts {
                if !node.send_waiting(FromMeter::SignReceipt { receipt }).await {
                    return;
                }
            }
        }
        Err(error) => tracing::warn!(node = %node.facts.node, %error, "unsigned receipts could not be read; tried again later"),
    }
}

/// The next frame; control frames only keep the link alive.
async fn next(source: &mut Source) -> Result<FromNode, LinkEnd> {
    let silence = Duration::from_secs(SILENCE_SECONDS_MAX);
    loop {
        let message = timeout(silence, source.next()).await.map_err(|_| LinkEnd::Silent { silence })?;
        match message {
            Some(Ok(Message::Text(text))) => {
                return serde_json::from_str(&text).map_err(|error| LinkEnd::Malformed { reason: error.to_string() });
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(Message::Binary(_))) => return Err(LinkEnd::Malformed { reason: "a binary frame; frames are JSON text".into() }),
            Some(Ok(Message::Close(_))) | None => return Err(LinkEnd::ByNode),
            Some(Err(error)) => return Err(LinkEnd::Broken { reason: error.to_string() }),
        }
    }
}

async fn send(sink: &mut Sink, frame: &FromMeter) -> Result<(), LinkEnd> {
    let text = serde_json::to_string(frame).map_err(|error| LinkEnd::Broken { reason: error.to_string() })?;
    send_message(sink, Message::Text(text.into())).await
}

async fn send_message(sink: &mut Sink, message: Message) -> Result<(), LinkEnd> {
    match timeout(WRITE_TIMEOUT, sink.send(message)).await {
        Ok(sent) => sent.map_err(|error| LinkEnd::Broken { reason: error.to_string() }),
        Err(_) => Err(LinkEnd::WriteStalled),
    }
}

/// Why a link is over.
#[derive(Debug, Error)]
enum LinkEnd {
    #[error("{message}")]
    Refused { code: &'static str, message: String },
    #[error("silent for {} s", silence.as_secs())]
    Silent { silence: Duration },
    #[error("malformed frame: {reason}")]
    Malformed { reason: String },
    #[error("the node took no frame for {} s", WRITE_TIMEOUT.as_secs())]
    WriteStalled,
    #[error("connection broken: {reason}")]
    Broken { reason: String },
    #[error("closed by the node")]
    ByNode,
    #[error("replaced by a newer link, or this meter is stopping")]
    Closed,
    #[error("the registry's mirror can't be read now; connect again")]
    Ledger(#[from] LedgerError),
}

impl LinkEnd {
    fn refused(code: &'static str, message: impl Into<String>) -> Self {
        Self::Refused { code, message: message.into() }
    }

    fn is_fault(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Malformed { .. } | Self::Silent { .. })
    }
}
