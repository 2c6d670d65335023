//! The opening of a link: challenge, hello, welcome or refusal.

use std::time::Duration;

use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use wire::deployment::Deployment;
use wire::node::{FromMeter, FromNode, PROTOCOL};
use wire::{Address, B256};

use super::Node;
use super::error::{LinkError, quote};
use super::socket::{self, LinkTimings, Reader, Writer};
use super::url::MeterUrl;

/// How long a closing link waits for the other side.
pub(super) const CLOSE_WAIT: Duration = Duration::from_secs(2);
/// Status at most this often and at least this often, whatever the meter asks for, milliseconds.
const HEARTBEAT_MS: (u64, u64) = (100, 20_000);

/// The meter's first frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// Protocol of the meter.
    pub protocol: u32,
    /// What a hello signs.
    pub challenge: B256,
    /// Chain that the meter works with.
    pub chain_id: u64,
    /// Settlement contract that the meter works with.
    pub settlement: Address,
}

/// Opens a link only to hear the meter's first frame, without a hello: shows whether a meter is there.
pub async fn greet(meter: &MeterUrl, timings: &LinkTimings) -> Result<Greeting, LinkError> {
    let (_writer, mut reader) = socket::open(meter, timings).await?;
    greeting(&mut reader, timings).await
}

/// What the meter's welcome says.
pub(super) struct Welcome {
    pub(super) heartbeat: Duration,
    pub(super) fallback: bool,
}

/// Challenge, hello, welcome. Errors with the meter's refusal, and when the meter works with other contracts than ours.
pub(super) async fn shake_hands(node: &Node, meter: &MeterUrl, timings: &LinkTimings) -> Result<((Writer, Reader), Welcome), LinkError> {
    let (mut writer, mut reader) = socket::open(meter, timings).await?;
    match exchange(node, &mut writer, &mut reader, timings).await {
        Ok(welcome) => Ok(((writer, reader), welcome)),
        Err(error) => {
            if error.is_violation() {
                let _ = socket::write_close(&mut writer, CloseCode::Protocol, &error.to_string(), CLOSE_WAIT).await;
            }
            Err(error)
        }
    }
}

async fn exchange(node: &Node, writer: &mut Writer, reader: &mut Reader, timings: &LinkTimings) -> Result<Welcome, LinkError> {
    let greeting = greeting(reader, timings).await?;
    check_greeting(&greeting, &node.identity.deployment)?;
    let hello = node.hello(greeting.challenge).map_err(|error| LinkError::Sign { error: error.to_string() })?;
    socket::write(writer, &FromNode::Hello(hello), timings.silence).await?;
    match next_within(reader, timings.handshake).await? {
        FromMeter::Welcome { heartbeat_ms, fallback } => {
            Ok(Welcome { heartbeat: Duration::from_millis(heartbeat_ms.clamp(HEARTBEAT_MS.0, HEARTBEAT_MS.1)), fallback })
        }
        FromMeter::Refused { code, message } => Err(refused(&code, &message)),
        frame => Err(LinkError::Order { frame: name(&frame), when: "in place of a welcome" }),
    }
}

async fn greeting(reader: &mut Reader, timings: &LinkTimings) -> Result<Greeting, LinkError> {
    match next_within(reader, timings.handshake).await? {
        FromMeter::Challenge { protocol, challenge, chain_id, settlement } => Ok(Greeting { protocol, challenge, chain_id, settlement }),
        FromMeter::Refused { code, message } => Err(refused(&code, &message)),
        frame => Err(LinkError::Order { frame: name(&frame), when: "in place of a challenge" }),
    }
}

fn check_greeting(greeting: &Greeting, own: &Deployment) -> Result<(), LinkError> {
    if greeting.protocol != PROTOCOL {
        return Err(LinkError::Protocol { theirs: greeting.protocol });
    }
    if (greeting.chain_id, greeting.settlement) != (own.chain_id, own.settlement) {
        return Err(LinkError::Deployment {
            theirs: greeting.chain_id,
            their_settlement: greeting.settlement,
            own: own.chain_id,
            own_settlement: own.settlement,
        });
    }
    Ok(())
}

async fn next_within(reader: &mut Reader, limit: Duration) -> Result<FromMeter, LinkError> {
    timeout(limit, reader.next()).await.unwrap_or(Err(LinkError::Silent { silence: limit }))
}

fn refused(code: &str, message: &str) -> LinkError {
    LinkError::Refused { code: quote(code), message: quote(message) }
}

/// A frame's type, as on the wire.
pub(super) fn name(frame: &FromMeter) -> &'static str {
    match frame {
        FromMeter::Challenge { .. } => "challenge",
        FromMeter::Welcome { .. } => "welcome",
        FromMeter::Refused { .. } => "refused",
        FromMeter::Job(_) => "job",
        FromMeter::Cancel { .. } => "cancel",
        FromMeter::SignReceipt { .. } => "sign_receipt",
        FromMeter::ReceiptAck { .. } => "receipt_ack",
        FromMeter::ProofRequest { .. } => "proof_request",
        FromMeter::Audit(_) => "audit",
    }
}
