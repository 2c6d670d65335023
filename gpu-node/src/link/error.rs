//! Why there is no link, in words that an operator can act on.

use std::time::Duration;

use thiserror::Error;
use wire::node::PROTOCOL;
use wire::{Address, B256};

/// Longest text of a peer that is repeated in a log or a status, characters.
const QUOTE_CHARS_MAX: usize = 256;

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

/// A peer's words, cut and on one line.
pub(super) fn quote(text: &str) -> String {
    text.chars().take(QUOTE_CHARS_MAX).map(|character| if character.is_control() { ' ' } else { character }).collect()
}
