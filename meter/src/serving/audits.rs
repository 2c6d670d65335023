//! The audit room: a random sample of answers is computed again on fallback hardware, which is not told what it should find.
//!
//! The lot falls after the node's signed receipt is here, so a node can't know which answers are looked at. An accusation counts when a
//! second look finds the very same difference; until then, and when auditors are silent or talk nonsense, nobody is accused.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wire::node::{AuditJob, AuditOutcome, SamplingParams, WrongToken};
use wire::proof::{self, Window};
use wire::receipt::ServiceReceipt;
use wire::{Address, B256};

use super::Serving;
use super::fleet::Node;
use super::request::with_retries;
use crate::config::AuditSettings;
use crate::ledger::{AuditRecord, AuditState};

/// Audits that run at once; each is a prefill on an auditor that serves besides.
const AT_ONCE: usize = 4;
/// How often auditors are asked about one answer at most.
const LOOKS_MAX: usize = 3;
/// Prompt and answer together; more does not fit one frame.
const TOKENS_MAX: usize = 100_000;
/// Windows that are kept in memory once they are known to be right, all proofs together; 44 bytes each.
const KEPT_WINDOWS_MAX: usize = 1 << 16;

/// Draws a number, uniform in `0..10_000`. An argument, so that tests own it.
pub type Lot = Arc<dyn Fn() -> u32 + Send + Sync>;

/// What the lot says about an answer.
pub(super) enum Drawn {
    /// Not this one.
    No,
    /// This one, but nobody can look at it now.
    Skipped,
    /// This one; it has a place among the audits.
    Yes(OwnedSemaphorePermit),
}

impl Drawn {
    /// As the capture notes it.
    pub(super) fn state(&self) -> Option<AuditState> {
        match self {
            Self::No => None,
            Self::Skipped => Some(AuditState::Skipped),
            Self::Yes(_) => Some(AuditState::Pending),
        }
    }
}

/// An answer to be looked at. Its token ids live here and nowhere else.
pub(super) struct Case {
    pub(super) receipt: ServiceReceipt,
    /// Key of the node that served.
    pub(super) node: Address,
    pub(super) model: String,
    pub(super) prompt: Vec<u32>,
    pub(super) completion: Vec<u32>,
    pub(super) params: SamplingParams,
}

/// What audits share.
pub struct Audits {
    settings: AuditSettings,
    lot: Lot,
    places: Arc<Semaphore>,
    turns: Semaphore,
    kept: Mutex<KeptWindows>,
}

impl Audits {
    pub(super) fn new(settings: AuditSettings, lot: Lot) -> Self {
        let places = Arc::new(Semaphore::new(settings.pending_max.min(Semaphore::MAX_PERMITS)));
        Self { settings, lot, places, turns: Semaphore::new(AT_ONCE), kept: Mutex::default() }
    }

    /// Windows that were checked against their receipt's root before.
    pub fn known_windows(&self, request_id: &B256) -> Option<Vec<Window>> {
        self.kept().windows.get(request_id).cloned()
    }

    /// Keeps windows that were checked against their receipt's root.
    pub fn keep_windows(&self, request_id: B256, windows: Vec<Window>) {
        self.kept().add(request_id, windows);
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, KeptWindows> {
        // Whole after every change.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Proofs in memory, oldest forgotten first.
#[derive(Default)]
struct KeptWindows {
    windows: HashMap<B256, Vec<Window>>,
    order: VecDeque<B256>,
    count: usize,
}

impl KeptWindows {
    fn add(&mut self, request_id: B256, windows: Vec<Window>) {
        if self.windows.contains_key(&request_id) {
            return;
        }
        self.count += windows.len();
        self.order.push_back(request_id);
        self.windows.insert(request_id, windows);
        while self.count > KEPT_WINDOWS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.count -= self.windows.remove(&oldest).map_or(0, |windows| windows.len());
        }
    }
}

/// A difference that an auditor names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Difference {
    /// Other hidden states than were committed to.
    Root(B256),
    /// A token that the parameters do not draw.
    Token(WrongToken),
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Root(computed) => write!(f, "the hidden states have the root {computed}, which is not the signed one"),
            Self::Token(WrongToken { index, found, drawn: Some(drawn) }) => {
                write!(f, "token {index} of the answer is {found}, the parameters draw {drawn}")
            }
            Self::Token(WrongToken { index, found, drawn: None }) => {
                write!(f, "token {index} of the answer is {found}, where nothing can be drawn")
            }
        }
    }
}

/// One auditor's word.
enum Look {
    Equal(Vec<Window>),
    Differs(Difference),
    /// Silent, unwilling, or not making sense.
    Nothing(String),
}

/// What all looks together say.
struct Verdict {
    state: AuditState,
    auditor: Option<Address>,
    finding: String,
    windows: Vec<Window>,
    outcome: &'static str,
}

impl Serving {
    /// Draws the lot for an answer whose node has said its last word.
    pub(super) fn draw(&self, node: &Node, model: &str, receipt: &ServiceReceipt) -> Drawn {
        let audits = &self.rooms().audits;
        if receipt.completion_tokens == 0 || (audits.lot)() >= audits.settings.rate_bps {
            return Drawn::No;
        }
        let tokens = u64::from(receipt.prompt_tokens) + u64::from(receipt.completion_tokens);
        let skipped = |reason: &'static str| {
            metrics::counter!("meter_audits_total", "outcome" => "skipped", "reason" => reason).increment(1);
            Drawn::Skipped
        };
        if tokens > TOKENS_MAX as u64 {
            return skipped("too_long");
        }
        if self.auditor(node.facts.node, model, tokens as u32, &[]).is_none() {
            return skipped("no_auditor");
        }
        match Arc::clone(&audits.places).try_acquire_owned() {
            Ok(place) => Drawn::Yes(place),
            Err(_) => skipped("too_many"),
        }
    }

    /// Looks at an answer in the background; the capture that notes it as pending is durable.
    pub(super) fn audit(&self, case: Case, place: OwnedSemaphorePermit) {
        let serving = self.clone();
        tokio::spawn(async move {
            serving.conclude(&case).await;
            drop(place);
        });
    }

    async fn conclude(&self, case: &Case) {
        let rooms = self.rooms();
        let Ok(_turn) = rooms.audits.turns.acquire().await else { return };
        let verdict = self.examine(case).await;
        let request_id = case.receipt.request_id;
        let reason = if verdict.state == AuditState::Skipped { "no_verdict" } else { "" };
        metrics::counter!("meter_audits_total", "outcome" => verdict.outcome, "reason" => reason).increment(1);
        tracing::info!(%request_id, node = %case.node, outcome = verdict.outcome, "audit over");
        if !verdict.windows.is_empty() {
            rooms.audits.keep_windows(request_id, verdict.windows);
        }
        let record = AuditRecord { request_id, state: verdict.state, auditor: verdict.auditor, finding: verdict.finding.clone() };
        let stored = with_retries(|| rooms.ledger.conclude_audit(record.clone())).await;
        if let Err(error) = &stored {
            tracing::error!(%request_id, %error, "the audit's end was not recorded");
        }
        if verdict.state != AuditState::Failed {
            return;
        }
        tracing::error!(%request_id, node = %case.node, finding = verdict.finding, "node failed an audit and is quarantined");
        metrics::counter!("meter_nodes_quarantined_total").increment(1);
        self.refresh_quarantine(case.node).await;
        // The rest of its receipts that are not batched; the ledger would do it within its period too.
        if let Err(error) = rooms.ledger.sweep().await {
            tracing::warn!(%error, "receipts of a quarantined node are disputed with the next sweep");
        }
    }

    /// Tells the linked node's entry what the ledger says of it.
    pub(super) async fn refresh_quarantine(&self, key: Address) {
        let rooms = self.rooms();
        let Some(node) = rooms.fleet.node(key) else { return };
        match rooms.ledger.quarantine(key).await {
            Ok(quarantine) => node.set_quarantine(quarantine),
            Err(error) => tracing::warn!(node = %key, %error, "quarantine could not be read; tried again later"),
        }
    }

    /// Whether an answer that nobody pays for stands up to auditors; `Skipped` when none gives a verdict, and when audits are off.
    pub(super) async fn look_again(&self, case: &Case) -> AuditState {
        let audits = &self.rooms().audits;
        if audits.settings.rate_bps == 0 {
            return AuditState::Skipped;
        }
        match audits.turns.acquire().await {
            Ok(_turn) => self.examine(case).await.state,
            Err(_) => AuditState::Skipped,
        }
    }

    /// Asks auditors until one finds everything equal, or two looks find the same difference.
    async fn examine(&self, case: &Case) -> Verdict {
        let mut asked: Vec<Address> = Vec::new();
        let mut accusation: Option<Difference> = None;
        let verdict = |state, auditor, finding, windows, outcome| Verdict { state, auditor, finding, windows, outcome };
        for _ in 0..LOOKS_MAX {
            let Some(auditor) = self.auditor(case.node, &case.model, case.tokens(), &asked) else { break };
            let key = auditor.facts.node;
            asked.push(key);
            match (self.look(&auditor, case).await, accusation) {
                (Look::Equal(windows), None) => return verdict(AuditState::Audited, Some(key), String::new(), windows, "passed"),
                (Look::Equal(windows), Some(earlier)) => {
                    tracing::error!(request_id = %case.receipt.request_id, node = %case.node, asked = ?asked, %earlier, "auditors disagree; nobody is accused");
                    return verdict(AuditState::Audited, Some(key), String::new(), windows, "disagreed");
                }
                (Look::Differs(found), None) => accusation = Some(found),
                (Look::Differs(found), Some(earlier)) if found == earlier => {
                    return verdict(AuditState::Failed, Some(key), found.to_string(), Vec::new(), "failed");
                }
                (Look::Differs(found), Some(earlier)) => {
                    tracing::error!(request_id = %case.receipt.request_id, node = %case.node, asked = ?asked, %earlier, %found, "auditors accuse of different things; nobody is accused");
                    return verdict(AuditState::Skipped, None, String::new(), Vec::new(), "disagreed");
                }
                (Look::Nothing(reason), _) => {
                    tracing::warn!(request_id = %case.receipt.request_id, auditor = %key, reason, "auditor gave no usable answer");
                }
            }
        }
        verdict(AuditState::Skipped, None, String::new(), Vec::new(), "skipped")
    }

    fn auditor(&self, audited: Address, model: &str, tokens: u32, asked: &[Address]) -> Option<Arc<Node>> {
        let rooms = self.rooms();
        let mut able: Vec<Arc<Node>> = rooms.fleet.nodes();
        able.retain(|node| node.facts.node != audited && node.serves(model, tokens));
        choose(able, asked, rooms.clock.now_s())
    }

    async fn look(&self, auditor: &Node, case: &Case) -> Look {
        let wait = Duration::from_millis(self.rooms().audits.settings.timeout_ms);
        let job = AuditJob {
            audit_id: B256::from(rand::random::<[u8; 32]>()),
            model: case.model.clone(),
            prompt: case.prompt.clone(),
            completion: case.completion.clone(),
            params: case.params.clone(),
        };
        match auditor.ask_audit(job, wait).await {
            Ok(outcome) => case.judge(outcome),
            Err(error) => Look::Nothing(error.to_string()),
        }
    }
}

/// Of nodes that could, fallback hardware that still reports, and that has not been asked unless there is no other.
fn choose(mut able: Vec<Arc<Node>>, asked: &[Address], now_s: u64) -> Option<Arc<Node>> {
    able.retain(|node| node.facts.fallback && !node.is_stale(now_s));
    let times_asked = |node: &Arc<Node>| asked.iter().filter(|key| **key == node.facts.node).count();
    able.into_iter().min_by_key(|node| (times_asked(node), node.load().active))
}

impl Case {
    fn tokens(&self) -> u32 {
        self.receipt.prompt_tokens.saturating_add(self.receipt.completion_tokens)
    }

    /// An auditor's word against the signed statement. A root of zero has no states to compare; the tokens are compared all the same.
    fn judge(&self, outcome: AuditOutcome) -> Look {
        let (windows, first_wrong) = match outcome {
            AuditOutcome::Refused { message } => return Look::Nothing(super::live::clipped(&message)),
            AuditOutcome::Computed { windows, first_wrong } => (windows, first_wrong),
        };
        if let Some(wrong) = first_wrong {
            let about_this = self.completion.get(wrong.index as usize) == Some(&wrong.found) && wrong.drawn != Some(wrong.found);
            return if about_this {
                Look::Differs(Difference::Token(wrong))
            } else {
                Look::Nothing("it names a token that is not there".into())
            };
        }
        if let Err(error) = proof::check_layout(self.receipt.prompt_tokens, self.receipt.completion_tokens, &windows) {
            return Look::Nothing(error.to_string());
        }
        let root = proof::root(&windows);
        match self.receipt.proof_root {
            B256::ZERO => Look::Equal(Vec::new()),
            signed if signed == root => Look::Equal(windows),
            _ => Look::Differs(Difference::Root(root)),
        }
    }
}

#[cfg(test)]
mod tests {
    use wire::node::NodeStatus;

    use super::super::fleet::tests::{facts, join};
    use super::super::fleet::{Fleet, STALE_S};
    use super::*;

    #[tokio::test]
    async fn auditors_are_fallback_hardware_that_reports_and_each_is_asked_before_one_is_asked_again() {
        let fleet = Fleet::default();
        let (network, _a) = join(&fleet, facts(1, false, 9), 9).unwrap();
        let (silent, _b) = join(&fleet, facts(2, true, 9), 9).unwrap();
        let (heard, _c) = join(&fleet, facts(3, true, 9), 9).unwrap();
        [&network, &silent, &heard].into_iter().for_each(|node| node.report(NodeStatus::default(), 100));
        let chosen = |asked: &[&Arc<Node>], now_s| {
            let asked: Vec<Address> = asked.iter().map(|node| node.facts.node).collect();
            choose(fleet.nodes(), &asked, now_s).map(|node| node.facts.node)
        };
        assert_eq!(chosen(&[&heard], 100 + STALE_S), Some(silent.facts.node), "fifteen seconds are not too long");
        [&network, &heard].into_iter().for_each(|node| node.report(NodeStatus::default(), 100 + STALE_S));
        assert_eq!(chosen(&[&heard], 101 + STALE_S), Some(heard.facts.node), "rather again than one that is silent");
        assert_eq!(chosen(&[], 101 + 2 * STALE_S), None);
    }
}
