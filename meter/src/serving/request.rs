//! One request through the rooms in order: hold → dispatch → stream → receipt. A task owns it from the hold on, so that a
//! client who goes away leaves nothing behind: the node is told, what arrived is charged, the rest is released.

use std::sync::Arc;
use std::time::Duration;

use daemon::CancellationToken;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio_util::sync::DropGuard;
use wire::node::{FailureCode, Job, SamplingParams};
use wire::{Address, B256, Credits, ModelRate, OperatorId};

use super::catalog::Model;
use super::dispatch::{DispatchError, Need};
use super::hold::{self, AnswerLength, HoldFor, Payer, Reservation};
use super::live::{self, Live};
use super::stream::Piece;
use super::{Place, Serving};
use crate::ledger::{HoldRefusal, LedgerError, ReceiptState};

/// Fallback nodes tried after the network's.
const FALLBACK_TRIES_MAX: usize = 2;
/// Time beyond the longest answer before recovery may settle a hold, seconds.
const HOLD_MARGIN_S: u64 = 120;

/// What a client asks for, checked and rendered.
pub struct Order {
    /// Minted for this request, or made of what the client calls it. One that has a hold already is refused.
    pub request_id: B256,
    /// Who pays.
    pub payer: Payer,
    /// What is served.
    pub model: Arc<Model>,
    /// Token ids of the rendered prompt.
    pub prompt: Vec<u32>,
    /// How to sample; `max_tokens` is set by the hold.
    pub params: SamplingParams,
    /// How long the answer may become.
    pub length: AnswerLength,
}

/// An answer on its way. Dropping it cancels the request.
pub struct Answer {
    /// Its id, which is the receipt's.
    pub request_id: B256,
    /// Tokens of the rendered prompt.
    pub prompt_tokens: u32,
    /// What is reserved.
    pub reservation: Reservation,
    /// What happens. Ends after [`AnswerEvent::Done`] or [`AnswerEvent::Failed`].
    pub events: mpsc::Receiver<AnswerEvent>,
    cancel: CancellationToken,
    _cancel: DropGuard,
}

impl Answer {
    /// Cancels the request without giving up its events: what arrived is still told, and charged.
    pub fn canceller(&self) -> CancellationToken {
        self.cancel.clone()
    }
}

/// What the client's side hears.
#[derive(Debug)]
pub enum AnswerEvent {
    /// The first token is here.
    Started(ServedBy),
    /// More text.
    Text(Piece),
    /// The answer is whole, and its charge durable.
    Done(Box<Outcome>),
    /// There is no answer, or no more of it. With an outcome, that much arrived and is charged.
    Failed(ServeError, Option<Box<Outcome>>),
}

/// Which node serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServedBy {
    /// Key of the node.
    pub node: Address,
    /// Its operator.
    pub operator: OperatorId,
    /// Whether it is project fallback hardware.
    pub fallback: bool,
}

/// Why an answer ended, as a client reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerEnd {
    /// End of turn, stop token or stop string.
    Stop,
    /// Its ceiling.
    Length,
    /// The client went away.
    Cancelled,
    /// The node, or this meter, did not get to the end.
    Interrupted,
}

impl AnswerEnd {
    /// As the ledger keeps it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Cancelled => "cancelled",
            Self::Interrupted => "error",
        }
    }
}

/// A charge that is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Why it ended.
    pub end: AnswerEnd,
    /// By whom.
    pub by: ServedBy,
    /// As counted here.
    pub prompt_tokens: u32,
    /// As charged.
    pub completion_tokens: u32,
    /// The charge.
    pub cost: Credits,
    /// Where the receipt stands.
    pub state: ReceiptState,
    /// Token ids of the answer, as charged.
    pub token_ids: Vec<u32>,
}

/// Why a request is not served. Until [`AnswerEvent::Started`] nothing is charged.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The ledger refused, before anything was dispatched.
    #[error(transparent)]
    Hold(#[from] HoldRefusal),
    /// No price is in force.
    #[error("model `{model}` has no price yet; choose another one")]
    NoRate {
        /// Which model.
        model: String,
    },
    /// No node, or no room.
    #[error(transparent)]
    Dispatch(#[from] DispatchError),
    /// Too many answers at once.
    #[error("too many answers are running; wait for one to end")]
    TooManyStreams,
    /// SIGTERM was here.
    #[error("this meter is stopping; send the request again")]
    Draining,
    /// Every node that was asked failed before its first token.
    #[error("{tried} nodes were asked and none could start the answer; nothing was charged, try again")]
    NoneStarted {
        /// How many.
        tried: usize,
    },
    /// The answer broke off.
    #[error("the answer broke off: {cause}; what arrived is charged, and nothing else")]
    BrokenOff {
        /// Why.
        cause: Interruption,
    },
    /// The ledger did not take the capture in time; recovery settles the hold for what arrived.
    #[error("the charge could not be recorded; it will be settled for what arrived")]
    Capture,
    /// The client went away.
    #[error("the request was cancelled")]
    Cancelled,
}

/// Why an answer broke off after its first token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Interruption {
    /// The link is gone.
    #[error("the node was lost")]
    NodeLost,
    /// The node said so.
    #[error("the node failed")]
    NodeFailed,
    /// No token for too long.
    #[error("the node fell silent")]
    Idle,
    /// The whole answer took too long.
    #[error("it took too long")]
    TotalTimeout,
    /// SIGTERM was here, and its deadline too.
    #[error("this meter is stopping")]
    Draining,
}

impl Serving {
    /// Admits a request, makes its hold, and leaves it to a task. Errors before anything is dispatched or charged.
    pub async fn serve(&self, order: Order) -> Result<Answer, ServeError> {
        let rooms = self.rooms();
        if !self.admits() {
            return Err(ServeError::Draining);
        }
        let now_s = rooms.clock.now_s();
        let rate = order.model.rate_at(now_s).ok_or_else(|| ServeError::NoRate { model: order.model.id.clone() })?;
        // A context is a `u32` of tokens, and the prompt fits into it.
        let prompt_tokens = order.prompt.len() as u32;
        if !rooms.dispatcher.any_online(&Need { model: &order.model.id, tokens: prompt_tokens + 1, tried: &[], fallback_only: false }) {
            return Err(DispatchError::NoNode.into());
        }
        let place = Place::take(self, order.request_id, order.payer.account).ok_or(ServeError::TooManyStreams)?;

        let reservation = self.hold(&order, rate, prompt_tokens, now_s).await?;

        let (sender, events) = mpsc::channel(reservation.max_tokens as usize + 4);
        let cancel = CancellationToken::new();
        let answer = Answer {
            request_id: order.request_id,
            prompt_tokens,
            reservation,
            events,
            cancel: cancel.clone(),
            _cancel: cancel.clone().drop_guard(),
        };
        tokio::spawn(Walk { serving: self.clone(), order, reservation, events: sender, cancel, _place: place }.run());
        Ok(answer)
    }

    async fn hold(&self, order: &Order, rate: ModelRate, prompt_tokens: u32, now_s: u64) -> Result<Reservation, HoldRefusal> {
        let rooms = self.rooms();
        let limits = &rooms.limits;
        let longest_ms = limits.queue_timeout_ms * u64::from(limits.retries_max + 3)
            + limits.first_token_timeout_ms * u64::from(limits.retries_max + 3)
            + limits.total_timeout_ms
            + limits.cancel_timeout_ms;
        let request = HoldFor {
            request_id: order.request_id,
            payer: &order.payer,
            model: &order.model,
            rate,
            prompt_tokens,
            expires_at_s: now_s + longest_ms.div_ceil(1_000) + HOLD_MARGIN_S,
        };
        let held = hold::reserve(&rooms.ledger, &request, order.length).await;
        match &held {
            Ok(_) => metrics::counter!("meter_holds_total", "outcome" => "held").increment(1),
            Err(_) => metrics::counter!("meter_holds_total", "outcome" => "refused").increment(1),
        }
        held
    }
}

/// A request with a hold, in the hands of its task.
pub(super) struct Walk {
    pub(super) serving: Serving,
    pub(super) order: Order,
    pub(super) reservation: Reservation,
    pub(super) events: mpsc::Sender<AnswerEvent>,
    /// The client went away.
    pub(super) cancel: CancellationToken,
    _place: Place,
}

impl Walk {
    async fn run(self) {
        let request_id = self.order.request_id;
        let event = match self.dispatch().await {
            Ok(live) => live.serve(&self).await,
            Err(error) => {
                self.release(&error).await;
                AnswerEvent::Failed(error, None)
            }
        };
        let outcome = match &event {
            AnswerEvent::Done(outcome) | AnswerEvent::Failed(_, Some(outcome)) => outcome.end.name(),
            _ => "released",
        };
        metrics::counter!("meter_answers_total", "outcome" => outcome).increment(1);
        tracing::info!(%request_id, account = %self.order.payer.account, outcome, "request ended");
        // One place a token is reserved beside those for the ends, so the channel has room.
        let _ = self.events.try_send(event);
    }

    /// Asks nodes until one sends its first token.
    async fn dispatch(&self) -> Result<Live, ServeError> {
        let rooms = self.serving.rooms();
        let network_tries = rooms.limits.retries_max as usize + 1;
        let mut tried: Vec<Address> = Vec::new();
        while tried.len() < network_tries + FALLBACK_TRIES_MAX {
            let need = Need {
                model: &self.order.model.id,
                // Both fit into the context together.
                tokens: self.order.prompt.len() as u32 + self.reservation.max_tokens,
                tried: &tried,
                fallback_only: tried.len() >= network_tries,
            };
            let lease = tokio::select! {
                biased;
                () = self.cancel.cancelled() => return Err(ServeError::Cancelled),
                () = rooms.cut.cancelled() => return Err(ServeError::Draining),
                lease = rooms.dispatcher.acquire(&need) => lease,
            };
            let lease = match lease {
                Ok(lease) => lease,
                Err(DispatchError::NoNode) if !tried.is_empty() => break,
                Err(error) => return Err(error.into()),
            };
            let node = Arc::clone(lease.node());
            match live::begin(self, lease).await {
                live::Begun::Live(live) => return Ok(*live),
                live::Begun::Cancelled => return Err(ServeError::Cancelled),
                live::Begun::Draining => return Err(ServeError::Draining),
                live::Begun::Failed(reason) => {
                    // A busy node is no worse for it.
                    if reason != live::NotBegun::Refused(FailureCode::Busy) {
                        node.failed();
                    }
                    metrics::counter!("meter_retries_total", "reason" => reason.name()).increment(1);
                    tracing::warn!(
                        request_id = %self.order.request_id, node = %node.facts.node, reason = reason.name(), "node did not start the answer"
                    );
                    tried.push(node.facts.node);
                }
            }
        }
        Err(ServeError::NoneStarted { tried: tried.len() })
    }

    async fn release(&self, error: &ServeError) {
        let reason = match error {
            ServeError::Cancelled => "cancelled",
            ServeError::Draining => "draining",
            _ => "not_served",
        };
        let released = with_retries(|| self.serving.rooms().ledger.release(self.order.request_id, reason)).await;
        if let Err(error) = released {
            tracing::error!(request_id = %self.order.request_id, %error, "hold was not released; recovery will do it");
        }
    }

    /// The job for one operator. It names no dispatch of its own: the receipt's id is the request's.
    pub(super) fn job(&self, operator: OperatorId, now_s: u64) -> Job {
        Job {
            request_id: self.order.request_id,
            account: self.order.payer.account,
            operator,
            model: self.order.model.id.clone(),
            prompt: self.order.prompt.clone(),
            params: SamplingParams { max_tokens: self.reservation.max_tokens, ..self.order.params.clone() },
            model_rate: self.reservation.rate,
            started_at: now_s,
        }
    }
}

/// Tries an idempotent call of the ledger again while its database fails, for half a minute at most.
pub(super) async fn with_retries<T, F>(mut call: impl FnMut() -> F) -> Result<T, LedgerError>
where
    F: Future<Output = Result<T, LedgerError>>,
{
    const WAITS_MS: [u64; 8] = [50, 100, 250, 500, 1_000, 4_000, 8_000, 16_000];
    for wait_ms in WAITS_MS {
        match call().await {
            Err(LedgerError::Database { reason }) => tracing::warn!(%reason, wait_ms, "ledger failed; trying again"),
            other => return other,
        }
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
    }
    call().await
}
