//! The WebSocket to one meter: opening, frames, limits.

use std::fmt;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt, stream};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout, timeout_at};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::http::header::SEC_WEBSOCKET_PROTOCOL;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WebSocketError, Message, error::CapacityError};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};
use wire::node::{FRAME_BYTES_MAX, FromMeter, FromNode, SUBPROTOCOL};

use super::error::{LinkError, quote};
use super::url::MeterUrl;

/// A close frame's reason fits one control frame, bytes.
const REASON_BYTES_MAX: usize = 120;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// How long the link waits for what.
#[derive(Clone, Copy, Debug)]
pub struct LinkTimings {
    /// For TCP, TLS and the HTTP upgrade together.
    pub connect: Duration,
    /// For the meter's next step of the opening; it may ask a chain.
    pub handshake: Duration,
    /// Between two pings of ours.
    pub ping: Duration,
    /// A link silent for so long is dead; also the longest that one write may take.
    pub silence: Duration,
    /// First wait before a new attempt.
    pub retry_first: Duration,
    /// Longest wait before a new attempt.
    pub retry_most: Duration,
    /// A draining node waits so long for acknowledgements after its last answer.
    pub acks: Duration,
}

impl Default for LinkTimings {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            handshake: Duration::from_secs(20),
            ping: Duration::from_secs(wire::node::PING_SECONDS),
            silence: Duration::from_secs(wire::node::SILENCE_SECONDS_MAX),
            retry_first: Duration::from_millis(500),
            retry_most: Duration::from_secs(30),
            acks: Duration::from_secs(5),
        }
    }
}

/// Frames from the meter, one at a time.
pub(super) struct Reader {
    stream: stream::SplitStream<Socket>,
    silence: Duration,
    heard: Instant,
}

/// What the writing task is told.
#[derive(Debug)]
pub(super) enum Outgoing {
    Frame(Box<FromNode>),
    Close { code: CloseCode, reason: String },
}

pub(super) type Writer = stream::SplitSink<Socket, Message>;

/// Opens the link. Errors when the meter can't be reached or does not speak the sub-protocol.
pub(super) async fn open(meter: &MeterUrl, timings: &LinkTimings) -> Result<(Writer, Reader), LinkError> {
    let unreachable = |error: &dyn fmt::Display| LinkError::Unreachable { url: meter.link(), error: quote(&error.to_string()) };
    let mut request = meter.link().into_client_request().map_err(|error| unreachable(&error))?;
    request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    let limits = WebSocketConfig::default().max_message_size(Some(FRAME_BYTES_MAX)).max_frame_size(Some(FRAME_BYTES_MAX));
    let connecting = connect_async_with_config(request, Some(limits), true);
    let (socket, _) = match timeout(timings.connect, connecting).await {
        Err(_) => return Err(unreachable(&format!("no answer within {} s", timings.connect.as_secs()))),
        Ok(Err(WebSocketError::Http(answer))) => {
            return Err(unreachable(&format!("HTTP status {}; is this the meter's address?", answer.status())));
        }
        Ok(Err(error)) => return Err(unreachable(&error)),
        Ok(Ok(opened)) => opened,
    };
    let (writer, stream) = socket.split();
    Ok((writer, Reader { stream, silence: timings.silence, heard: Instant::now() }))
}

impl Reader {
    /// The next frame. Dropping the future loses nothing.
    /// Errors when the link is silent too long, closes, breaks, or carries what the protocol does not have.
    pub(super) async fn next(&mut self) -> Result<FromMeter, LinkError> {
        loop {
            let message = match timeout_at(self.heard + self.silence, self.stream.next()).await {
                Err(_) => return Err(LinkError::Silent { silence: self.silence }),
                Ok(None) => return Err(LinkError::Closed { reason: String::new() }),
                Ok(Some(Err(error))) => return Err(read_error(error)),
                Ok(Some(Ok(message))) => message,
            };
            self.heard = Instant::now();
            match message {
                Message::Text(text) => {
                    return serde_json::from_str(&text).map_err(|error| LinkError::Frame { error: quote(&error.to_string()) });
                }
                Message::Binary(_) => return Err(LinkError::Frame { error: "binary frame".into() }),
                Message::Close(frame) => {
                    return Err(LinkError::Closed { reason: frame.map_or(String::new(), |frame| quote(&frame.reason)) });
                }
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }

    /// Waits until the peer has closed too, so that nothing sent last is cut off by a reset.
    pub(super) async fn closed(mut self, limit: Duration) {
        let _ = timeout(limit, async { while let Some(Ok(_)) = self.stream.next().await {} }).await;
    }
}

/// Writes one frame. Errors when the peer takes longer than `limit` to make room.
pub(super) async fn write(writer: &mut Writer, frame: &FromNode, limit: Duration) -> Result<(), LinkError> {
    let text = serde_json::to_string(frame).map_err(|error| LinkError::Frame { error: error.to_string() })?;
    send(writer, Message::text(text), limit).await
}

/// Writes what both queues hold, `control` first, and pings, until told to close.
pub(super) async fn write_all(
    mut writer: Writer,
    mut control: mpsc::Receiver<Outgoing>,
    mut answers: mpsc::Receiver<Outgoing>,
    timings: LinkTimings,
) -> Result<(), LinkError> {
    let mut ping = interval_at(Instant::now() + timings.ping, timings.ping);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let outgoing = tokio::select! {
            biased;
            Some(outgoing) = control.recv() => outgoing,
            _ = ping.tick() => {
                send(&mut writer, Message::Ping(Vec::new().into()), timings.silence).await?;
                continue;
            }
            Some(outgoing) = answers.recv() => outgoing,
        };
        match outgoing {
            Outgoing::Frame(frame) => write(&mut writer, &frame, timings.silence).await?,
            Outgoing::Close { code, reason } => return write_close(&mut writer, code, &reason, timings.silence).await,
        }
    }
}

/// Closes this node's side, with a reason that is cut to what a close frame takes.
pub(super) async fn write_close(writer: &mut Writer, code: CloseCode, reason: &str, limit: Duration) -> Result<(), LinkError> {
    let reason = cut(reason, REASON_BYTES_MAX).to_owned().into();
    send(writer, Message::Close(Some(CloseFrame { code, reason })), limit).await
}

async fn send(writer: &mut Writer, message: Message, limit: Duration) -> Result<(), LinkError> {
    match timeout(limit, writer.send(message)).await {
        Err(_) => Err(LinkError::Stalled { limit }),
        Ok(Err(error)) => Err(read_error(error)),
        Ok(Ok(())) => Ok(()),
    }
}

fn read_error(error: WebSocketError) -> LinkError {
    match error {
        WebSocketError::Capacity(CapacityError::MessageTooLong { size, max_size }) => LinkError::TooLarge { bytes: size, most: max_size },
        WebSocketError::ConnectionClosed | WebSocketError::AlreadyClosed => LinkError::Closed { reason: String::new() },
        other => LinkError::Broken { error: quote(&other.to_string()) },
    }
}

fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_cut_text_is_a_prefix_within_the_limit(text in ".{0,80}", most in 0usize..90) {
            let short = cut(&text, most);
            prop_assert!(short.len() <= most && text.starts_with(short));
        }
    }
}
