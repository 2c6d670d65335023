//! The WebSocket to one meter: address, opening, frames, limits.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt, stream};
use serde::Deserialize;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout, timeout_at};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::header::SEC_WEBSOCKET_PROTOCOL;
use tokio_tungstenite::tungstenite::http::{HeaderValue, Uri};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WebSocketError, Message, error::CapacityError};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};
use wire::node::{FRAME_BYTES_MAX, FromMeter, FromNode, LINK_PATH, PROTOCOL, SUBPROTOCOL};
use wire::{Address, B256};

/// Longest text of a peer that is repeated in a log or a status, characters.
const QUOTE_CHARS_MAX: usize = 256;
/// A close frame's reason fits one control frame, bytes.
const REASON_BYTES_MAX: usize = 120;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Where a meter is: `http://`, `https://`, `ws://` or `wss://`, host, optional port and path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct MeterUrl {
    secure: bool,
    /// Host, port and base path, without a slash at the end.
    rest: String,
}

impl MeterUrl {
    /// Address of the node link.
    pub fn link(&self) -> String {
        format!("{}://{}{LINK_PATH}", if self.secure { "wss" } else { "ws" }, self.rest)
    }

    /// Address of `path` on the meter's HTTP interface.
    pub fn http(&self, path: &str) -> String {
        format!("{}://{}{path}", if self.secure { "https" } else { "http" }, self.rest)
    }

    /// Whether prompts would cross a network in the clear: no TLS, and not this machine.
    pub fn is_exposed(&self) -> bool {
        let host = self.rest.split('/').next().unwrap_or_default();
        let host = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit())).map_or(host, |(host, _)| host);
        !self.secure && host != "localhost" && host != "[::1]" && !host.starts_with("127.")
    }
}

impl fmt::Display for MeterUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.http(""))
    }
}

impl FromStr for MeterUrl {
    type Err = LinkError;

    fn from_str(text: &str) -> Result<Self, LinkError> {
        let bad = || LinkError::Url { url: quote(text) };
        let uri: Uri = text.parse().map_err(|_| bad())?;
        let secure = match uri.scheme_str() {
            Some("https" | "wss") => true,
            Some("http" | "ws") => false,
            _ => return Err(bad()),
        };
        let host = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(bad)?;
        if uri.query().is_some() {
            return Err(bad());
        }
        Ok(Self { secure, rest: format!("{host}{}", uri.path().trim_end_matches('/')) })
    }
}

impl TryFrom<String> for MeterUrl {
    type Error = LinkError;

    fn try_from(text: String) -> Result<Self, LinkError> {
        text.parse()
    }
}

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
    Frame(FromNode),
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

/// A peer's words, cut and on one line.
pub(super) fn quote(text: &str) -> String {
    text.chars().take(QUOTE_CHARS_MAX).map(|character| if character.is_control() { ' ' } else { character }).collect()
}

fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Why there is no link.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LinkError {
    /// Not an address.
    #[error("`{url}` is not a meter's address; write it as https://meter.example, without user, password or query")]
    Url {
        /// What was written.
        url: String,
    },
    /// Nobody answers there.
    #[error("{url} can't be reached: {error}")]
    Unreachable {
        /// Which address.
        url: String,
        /// What happened.
        error: String,
    },
    /// Another version.
    #[error("the meter speaks protocol {theirs}, this node {PROTOCOL}")]
    Protocol {
        /// Of the meter.
        theirs: u32,
    },
    /// Signing there would sign for somebody else's contracts.
    #[error(
        "the meter works with chain {theirs} and settlement contract {their_settlement}, this node with chain {own} and {own_settlement}; \
         name the meter's deployment file in `chain.deployment`"
    )]
    Deployment {
        /// Chain of the meter.
        theirs: u64,
        /// Contract of the meter.
        their_settlement: Address,
        /// Chain in the config.
        own: u64,
        /// Contract in the config.
        own_settlement: Address,
    },
    /// The meter does not want this node.
    #[error("the meter refuses this node ({code}): {message}")]
    Refused {
        /// As the protocol has it.
        code: String,
        /// What the meter said.
        message: String,
    },
    /// A frame that the protocol does not have.
    #[error("unreadable frame: {error}")]
    Frame {
        /// What is wrong with it.
        error: String,
    },
    /// A frame at the wrong moment.
    #[error("the meter sent `{frame}` {when}")]
    Order {
        /// Its type.
        frame: &'static str,
        /// The moment.
        when: &'static str,
    },
    /// A request id that is being served.
    #[error("the meter sent the job {request_id} twice")]
    SameJob {
        /// Which one.
        request_id: B256,
    },
    /// Above the limit.
    #[error("a frame of {bytes} bytes is above the limit of {most} bytes")]
    TooLarge {
        /// Announced.
        bytes: usize,
        /// Allowed.
        most: usize,
    },
    /// More control frames than the meter reads answers.
    #[error("the meter sends faster than it reads: {waiting} answers wait")]
    Flooded {
        /// In the queue.
        waiting: usize,
    },
    /// Nothing came.
    #[error("the link was silent for {} ms", silence.as_millis())]
    Silent {
        /// The limit.
        silence: Duration,
    },
    /// Nothing could be sent.
    #[error("the meter read nothing for {} ms", limit.as_millis())]
    Stalled {
        /// The limit.
        limit: Duration,
    },
    /// By the peer.
    #[error("the meter closed the link{}{reason}", if reason.is_empty() { "" } else { ": " })]
    Closed {
        /// What it said.
        reason: String,
    },
    /// By the network.
    #[error("the link broke: {error}")]
    Broken {
        /// What happened.
        error: String,
    },
    /// The signer failed.
    #[error("the hello could not be signed: {error}")]
    Sign {
        /// What it said.
        error: String,
    },
    /// The program's own fault; the link starts anew.
    #[error("the link's writer stopped")]
    Writer,
}

impl LinkError {
    /// Whether the meter broke the protocol, and should be told so.
    pub(super) fn is_violation(&self) -> bool {
        matches!(
            self,
            Self::Protocol { .. }
                | Self::Deployment { .. }
                | Self::Frame { .. }
                | Self::Order { .. }
                | Self::SameJob { .. }
                | Self::TooLarge { .. }
                | Self::Flooded { .. }
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_meter_url_gives_both_addresses() {
        let url: MeterUrl = "https://meter.example:8443/base/".parse().unwrap();
        assert_eq!(url.link(), "wss://meter.example:8443/base/v1/node/link");
        assert_eq!(url.http("/healthz"), "https://meter.example:8443/base/healthz");
        let url: MeterUrl = "ws://127.0.0.1:8080".parse().unwrap();
        assert_eq!(url.link(), "ws://127.0.0.1:8080/v1/node/link");
    }

    #[test]
    fn only_plain_links_to_other_machines_are_exposed() {
        for (url, exposed) in [
            ("http://127.0.0.1:8080", false),
            ("ws://localhost", false),
            ("http://[::1]:80", false),
            ("http://10.0.0.1:80", true),
            ("wss://x", false),
        ] {
            assert_eq!(url.parse::<MeterUrl>().unwrap().is_exposed(), exposed, "{url}");
        }
    }

    #[test]
    fn what_is_no_meter_url_is_refused() {
        for url in ["", "meter.example", "ftp://meter.example", "https://user:secret@meter.example", "http://x?y=1", "http://"] {
            assert!(url.parse::<MeterUrl>().is_err(), "{url}");
        }
    }

    proptest! {
        #[test]
        fn parsing_any_url_never_panics(text in ".{0,60}") {
            let _ = text.parse::<MeterUrl>().map(|url| url.is_exposed());
        }

        #[test]
        fn a_cut_text_is_a_prefix_within_the_limit(text in ".{0,80}", most in 0usize..90) {
            let short = cut(&text, most);
            prop_assert!(short.len() <= most && text.starts_with(short));
        }
    }
}
