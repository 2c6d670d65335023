//! The one task that writes: takes the operations that wait, reads what they touch once, decides them in order, writes what changed,
//! commits once, then answers all (`docs/protocol.md`, section 8). Nothing is acknowledged before it is durable; a commit that fails
//! answers everybody in it with the error. Beside it, the reconciler that settles what nobody will end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use alloy::primitives::{Address, B256, Bytes};
use daemon::clock::SharedClock;
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;
use wire::AccountId;
use wire::receipt::ServiceReceipt;
use wire::settlement::SignedBatch;

use super::clearance::{Clearance, ClearanceRefusal};
use super::decision::batch::{self, Signing};
use super::decision::{State, audit, chain, clearance, request};
use super::error::{AttachError, CaptureError, CountersignError, HoldRefusal, LedgerError};
use super::facts::{Advance, ChainOrigin, ChainPoint, FactError, Stepped};
use super::store::{Connection, Store, Touched};
use super::types::{AuditRecord, Capture, Captured, DispatchRecord, Held, HoldRequest, LedgerSettings, ReceiptState, Released};

/// Something to write.
#[derive(Clone, Debug)]
pub(super) enum Operation {
    Hold(HoldRequest),
    Dispatched(Box<DispatchRecord>),
    Checkpoint { request_id: B256, delivered_tokens: u32, delivered_hash: B256 },
    Capture(Box<Capture>),
    Release { request_id: B256, reason: String },
    Attach { receipt: Box<ServiceReceipt>, signature: Bytes },
    Recover { request_id: B256 },
    Refund { request_id: B256, refund_after_s: u64 },
    Conclude(Box<AuditRecord>),
    ExpireAudit { request_id: B256, audit_wait_s: u64 },
    Dispute { request_id: B256 },
    ClearQuarantine { node: Address },
    GiveClearance { account: AccountId, valid_s: u64 },
    Advance(Box<Advance>),
    Rewind { origin: ChainOrigin, from: ChainPoint, to: ChainPoint },
    Sign(Box<Signing>),
}

/// What became of it.
#[derive(Debug)]
pub(super) enum Answer {
    Hold(Result<Held, HoldRefusal>),
    Capture(Result<Captured, CaptureError>),
    Release(Released),
    Attach(Result<ReceiptState, AttachError>),
    Step(Result<Stepped, FactError>),
    Sign(Result<SignedBatch, CountersignError>),
    Clearance(Result<Clearance, ClearanceRefusal>),
    /// Whether it changed anything.
    Changed(bool),
    Noted,
}

type Reply = oneshot::Sender<Result<Answer, LedgerError>>;

/// What reaches the writer.
pub(super) enum Command {
    Operate(Operation, Reply),
    /// Write what is queued, settle what is due; answers when it is done.
    Sweep(oneshot::Sender<Result<(), LedgerError>>),
    /// As [`Command::Sweep`] without settling, and stop.
    Close(oneshot::Sender<()>),
}

/// Notes that nobody waits for. Bounded by the holds that are open: one dispatch a node tried, one checkpoint a request.
#[derive(Debug, Default)]
pub(super) struct Progress {
    dispatches: Vec<DispatchRecord>,
    checkpoints: HashMap<B256, (u32, B256)>,
}

impl Progress {
    pub(super) fn dispatched(&mut self, record: DispatchRecord) {
        self.dispatches.push(record);
    }

    pub(super) fn checkpoint(&mut self, request_id: B256, delivered_tokens: u32, delivered_hash: B256) {
        self.checkpoints.insert(request_id, (delivered_tokens, delivered_hash));
    }
}

impl Operation {
    fn touch(&self, touched: &mut Touched) {
        match self {
            Self::Hold(hold) => {
                touched.accounts.insert(hold.account.0);
                touched.requests.insert(hold.request_id);
                touched.keys.extend(hold.key.iter().map(|key| key.0.clone()));
            }
            Self::Dispatched(record) => touched.requests.extend([record.request_id]),
            Self::Checkpoint { request_id, .. }
            | Self::Release { request_id, .. }
            | Self::Recover { request_id }
            | Self::Refund { request_id, .. } => touched.requests.extend([*request_id]),
            Self::Capture(capture) => touched.requests.extend([capture.receipt.request_id]),
            Self::Attach { receipt, .. } => touched.requests.extend([receipt.request_id]),
            Self::Conclude(record) => {
                touched.quarantines = true;
                touched.requests.extend([record.request_id]);
            }
            Self::ExpireAudit { request_id, .. } => touched.requests.extend([*request_id]),
            Self::Dispute { request_id } => {
                touched.quarantines = true;
                touched.requests.extend([*request_id]);
            }
            Self::ClearQuarantine { node } => {
                touched.quarantines = true;
                touched.nodes.insert(*node);
            }
            Self::GiveClearance { account, .. } => {
                touched.chain_time = true;
                touched.accounts.insert(account.0);
            }
            Self::Advance(step) => {
                touched.chain = true;
                step.events.iter().for_each(|event| touched.add_event(event));
            }
            Self::Rewind { to, .. } => {
                touched.chain = true;
                touched.events_after = Some(to.number);
            }
            Self::Sign(signing) => {
                touched.chain = true;
                touched.quarantines = true;
                touched.seqs.insert(signing.batch.proposal.seq);
                touched.requests.extend(&signing.batch.proposal.receipts);
                touched.accounts.extend(signing.batch.proposal.carries.iter().map(|carry| carry.account.0));
            }
        }
    }

    /// Operations on the chain's rows come alone in their transaction: when one is refused, nothing of it may be written.
    fn is_exclusive(&self) -> bool {
        matches!(self, Self::Advance(_) | Self::Rewind { .. } | Self::Sign(_))
    }

    fn decide(&self, state: &mut State) -> Answer {
        match self {
            Self::Hold(hold) => Answer::Hold(request::hold(state, hold)),
            Self::Capture(capture) => Answer::Capture(request::capture(state, capture)),
            Self::Release { request_id, reason } => Answer::Release(request::release(state, *request_id, reason)),
            Self::Recover { request_id } => Answer::Release(request::recover(state, *request_id, "recovered")),
            Self::Attach { receipt, signature } => Answer::Attach(request::attach(state, receipt, signature)),
            Self::Advance(step) => Answer::Step(chain::advance(state, step)),
            Self::Rewind { origin, from, to } => Answer::Step(chain::rewind(state, *origin, *from, *to)),
            Self::Sign(signing) => Answer::Sign(batch::sign(state, signing)),
            Self::GiveClearance { account, valid_s } => Answer::Clearance(clearance::give(state, *account, *valid_s)),
            Self::Dispatched(record) => {
                request::dispatched(state, record);
                Answer::Noted
            }
            Self::Checkpoint { request_id, delivered_tokens, delivered_hash } => {
                request::checkpoint(state, *request_id, *delivered_tokens, *delivered_hash);
                Answer::Noted
            }
            Self::Conclude(record) => Answer::Changed(audit::conclude(state, record)),
            Self::ExpireAudit { request_id, audit_wait_s } => Answer::Changed(audit::expire(state, *request_id, *audit_wait_s)),
            Self::Dispute { request_id } => Answer::Changed(audit::dispute(state, *request_id)),
            Self::ClearQuarantine { node } => Answer::Changed(audit::clear(state, *node)),
            Self::Refund { request_id, refund_after_s } => {
                request::refund(state, *request_id, *refund_after_s);
                Answer::Noted
            }
        }
    }
}

impl Answer {
    /// Whether the state that it leaves behind is half done.
    fn spoils(&self) -> bool {
        matches!(self, Self::Step(Err(_)) | Self::Sign(Err(_)))
    }
}

/// The writer: its connection, its lease, and what waits.
pub(super) struct Writer {
    store: Store,
    connection: Option<Connection>,
    settings: LedgerSettings,
    clock: SharedClock,
    progress: Arc<Mutex<Progress>>,
    epoch: i64,
    lease_until: u64,
    /// Commands of the last group: who came alone last time is not made to wait for company.
    last_group: usize,
}

impl Writer {
    /// Takes the instance's name over from its former life, and settles the holds of that.
    pub(super) async fn enter(
        store: Store,
        settings: LedgerSettings,
        clock: SharedClock,
        progress: Arc<Mutex<Progress>>,
    ) -> Result<Self, LedgerError> {
        let mut connection = store.connect_writer().await?;
        let lease_until = clock.now_s() + settings.lease_s;
        let statements = connection.statements();
        let entered = connection.texts(statements.enter, &[&settings.instance.0, &lease_until.to_string()]).await?;
        let epoch = entered.first().and_then(|epoch| epoch.parse().ok());
        let epoch = epoch.ok_or(LedgerError::Row { table: "instances", reason: "no epoch came back".to_owned() })?;
        let mut writer = Self { store, connection: Some(connection), settings, clock, progress, epoch, lease_until, last_group: 0 };
        loop {
            let orphans = writer.candidates(|statements| statements.holds_of_instance, &[&writer.settings.instance.0.clone()]).await?;
            if orphans.is_empty() {
                return Ok(writer);
            }
            tracing::info!(holds = orphans.len(), "found holds of a former life");
            writer.settle(orphans.into_iter().map(|request_id| Operation::Recover { request_id })).await?;
        }
    }

    /// Runs until it is closed, or until all handles are gone.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut sweep = interval(self.settings.sweep_period_ms);
        let mut progress = interval(self.settings.progress_period_ms);
        let mut waiting = Vec::new();
        loop {
            tokio::select! {
                received = commands.recv_many(&mut waiting, self.settings.group_ops_max.max(1)) => {
                    if received == 0 {
                        break;
                    }
                    self.await_company(&mut commands, &mut waiting).await;
                    self.last_group = waiting.len();
                    if let Some(closed) = self.obey(&mut waiting).await {
                        commands.close();
                        let _ = closed.send(());
                        return;
                    }
                }
                _ = progress.tick() => log_failure("write progress", self.write_progress().await),
                _ = sweep.tick() => log_failure("settle what is due", self.sweep().await),
            }
        }
        log_failure("write progress", self.write_progress().await);
    }

    async fn await_company(&self, commands: &mut mpsc::Receiver<Command>, waiting: &mut Vec<Command>) {
        if waiting.len() == 1 && self.last_group <= 1 {
            return;
        }
        let deadline = tokio::time::Instant::now() + Duration::from_millis(self.settings.group_wait_ms);
        while waiting.len() < self.settings.group_ops_max && self.settings.group_wait_ms > 0 {
            let room = self.settings.group_ops_max - waiting.len();
            match tokio::time::timeout_at(deadline, commands.recv_many(waiting, room)).await {
                Ok(received) if received > 0 => {}
                _ => return,
            }
        }
    }

    async fn obey(&mut self, waiting: &mut Vec<Command>) -> Option<oneshot::Sender<()>> {
        let mut group = Vec::with_capacity(waiting.len());
        let mut closed = None;
        for command in waiting.drain(..) {
            match command {
                Command::Operate(operation, reply) if operation.is_exclusive() => {
                    self.commit_group(&mut group).await;
                    self.commit_group(&mut vec![(operation, reply)]).await;
                }
                Command::Operate(operation, reply) => group.push((operation, reply)),
                Command::Sweep(reply) => {
                    self.commit_group(&mut group).await;
                    let swept = self.sweep().await;
                    let _ = reply.send(swept);
                }
                Command::Close(reply) => closed = Some(reply),
            }
        }
        self.commit_group(&mut group).await;
        if closed.is_some() {
            log_failure("write progress", self.write_progress().await);
        }
        closed
    }

    async fn commit_group(&mut self, group: &mut Vec<(Operation, Reply)>) {
        if group.is_empty() {
            return;
        }
        let (operations, replies): (Vec<Operation>, Vec<Reply>) = group.drain(..).unzip();
        let started = Instant::now();
        let notes = self.take_dispatches();
        let outcome = self.commit(&operations, &notes).await;
        if outcome.is_err() {
            self.put_back(notes);
        }
        metrics::histogram!("meter_ledger_commit_seconds").record(started.elapsed().as_secs_f64());
        metrics::histogram!("meter_ledger_group_operations").record(operations.len() as f64);
        // A caller that is gone needs no answer.
        match outcome {
            Ok(answers) => replies.into_iter().zip(answers).for_each(|(reply, answer)| drop(reply.send(Ok(answer)))),
            Err(error) => {
                metrics::counter!("meter_ledger_commit_failures_total").increment(1);
                tracing::error!(%error, operations = operations.len(), "a commit failed; nothing of it was acknowledged");
                replies.into_iter().for_each(|reply| drop(reply.send(Err(error.clone()))));
            }
        }
    }

    /// One transaction: `notes` first, then `operations`; the answers of the latter.
    async fn commit(&mut self, operations: &[Operation], notes: &[Operation]) -> Result<Vec<Answer>, LedgerError> {
        let outcome = self.transact(operations, notes).await;
        if outcome.is_err() {
            // Whatever state the connection is in, a new one has none.
            self.connection = None;
        }
        outcome
    }

    async fn transact(&mut self, operations: &[Operation], notes: &[Operation]) -> Result<Vec<Answer>, LedgerError> {
        let now = self.clock.now_s();
        let renewed = self.renewed_lease(now);
        let mut touched = Touched::default();
        notes.iter().chain(operations).for_each(|operation| operation.touch(&mut touched));
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(self.store.connect_writer().await?),
        };
        connection.begin().await?;
        if let Some(lease_until) = renewed {
            let parameters = [self.settings.instance.0.as_str(), &self.epoch.to_string(), &lease_until.to_string()];
            if connection.execute(connection.statements().renew_lease, &parameters).await? == 0 {
                return Err(LedgerError::Fenced { instance: self.settings.instance.0.clone() });
            }
        }
        let mut state = connection.load(touched, now, &self.settings.instance.0).await?;
        notes.iter().for_each(|note| drop(note.decide(&mut state)));
        let answers: Vec<Answer> = operations.iter().map(|operation| operation.decide(&mut state)).collect();
        if let Some(error) = state.broken {
            return Err(error);
        }
        if answers.iter().any(Answer::spoils) {
            connection.rollback().await?;
            return Ok(answers);
        }
        connection.write(&state).await?;
        connection.commit().await?;
        self.lease_until = renewed.unwrap_or(self.lease_until);
        Ok(answers)
    }

    /// The lease is renewed with a commit once a third of it is over, so whoever commits holds a live one.
    fn renewed_lease(&self, now: u64) -> Option<u64> {
        let lease_until = now + self.settings.lease_s;
        (self.lease_until + self.settings.lease_s / 3 < lease_until || self.lease_until < now).then_some(lease_until)
    }

    fn take_dispatches(&self) -> Vec<Operation> {
        let records = std::mem::take(&mut self.progress.lock().unwrap_or_else(PoisonError::into_inner).dispatches);
        records.into_iter().map(|record| Operation::Dispatched(Box::new(record))).collect()
    }

    /// Notes of a commit that failed are written with the next one. Checkpoints are not: a newer one comes within a second.
    fn put_back(&self, notes: Vec<Operation>) {
        let records = notes.into_iter().filter_map(|note| if let Operation::Dispatched(record) = note { Some(*record) } else { None });
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).dispatches.splice(0..0, records);
    }

    async fn write_progress(&mut self) -> Result<(), LedgerError> {
        let dispatches = self.take_dispatches();
        let written = self.settle(dispatches.iter().cloned()).await;
        if written.is_err() {
            self.put_back(dispatches);
            return written;
        }
        let mut notes = Vec::new();
        let checkpoints = std::mem::take(&mut self.progress.lock().unwrap_or_else(PoisonError::into_inner).checkpoints);
        notes.extend(checkpoints.into_iter().map(|(request_id, (delivered_tokens, delivered_hash))| Operation::Checkpoint {
            request_id,
            delivered_tokens,
            delivered_hash,
        }));
        self.settle(notes.into_iter()).await
    }

    /// Renews the lease, settles expired and orphaned holds, refunds what was never signed or comes from a quarantined node. Idempotent; the next period repeats it.
    async fn sweep(&mut self) -> Result<(), LedgerError> {
        self.write_progress().await?;
        let now = self.clock.now_s();
        if self.renewed_lease(now).is_some() {
            self.commit(&[], &[]).await?;
        }
        let orphans = self.candidates(|statements| statements.holds_to_recover, &[&now.to_string()]).await?;
        self.settle(orphans.into_iter().map(|request_id| Operation::Recover { request_id })).await?;
        let refund_after_s = self.settings.refund_after_s;
        let unsigned_since = now.saturating_sub(refund_after_s).to_string();
        let unsigned = self.candidates(|statements| statements.receipts_to_refund, &[&unsigned_since]).await?;
        self.settle(unsigned.into_iter().map(|request_id| Operation::Refund { request_id, refund_after_s })).await?;
        let audit_wait_s = self.settings.audit_wait_s;
        let pending_since = now.saturating_sub(audit_wait_s).to_string();
        let given_up = self.candidates(|statements| statements.audits_to_expire, &[&pending_since]).await?;
        self.settle(given_up.into_iter().map(|request_id| Operation::ExpireAudit { request_id, audit_wait_s })).await?;
        let disputed = self.candidates(|statements| statements.receipts_to_dispute, &[]).await?;
        self.settle(disputed.into_iter().map(|request_id| Operation::Dispute { request_id })).await
    }

    async fn candidates(
        &mut self,
        statement: impl Fn(&super::store::Statements) -> &'static str,
        parameters: &[&str],
    ) -> Result<Vec<B256>, LedgerError> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(self.store.connect_writer().await?),
        };
        let found = connection.texts(statement(connection.statements()), parameters).await;
        if found.is_err() {
            self.connection = None;
        }
        let parse = |text: &String| text.strip_prefix("\\x").and_then(|digits| digits.parse().ok());
        Ok(found?.iter().filter_map(parse).collect())
    }

    async fn settle(&mut self, operations: impl Iterator<Item = Operation>) -> Result<(), LedgerError> {
        let operations: Vec<Operation> = operations.collect();
        for group in operations.chunks(self.settings.group_ops_max.max(1)) {
            self.commit(group, &[]).await?;
        }
        Ok(())
    }
}

fn interval(period_ms: u64) -> tokio::time::Interval {
    let mut interval = tokio::time::interval(Duration::from_millis(period_ms.max(1)));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

fn log_failure(task: &'static str, outcome: Result<(), LedgerError>) {
    if let Err(error) = outcome {
        tracing::error!(%error, task, "the ledger's writer failed; it tries again next period");
    }
}
