//! The terms of a request: whether a job can be taken, what its receipt says, and which receipts are signed on request.
//! Pure functions over `docs/protocol.md`, sections 5 and 6.2.

use thiserror::Error;
use wire::node::{FailureCode, Job, ServedModel};
use wire::receipt::{ServiceReceipt, tokens_hash};
use wire::{AmountError, B256, Credits, OperatorId, message_cost_up};

/// How far ahead of the node's clock a receipt's end may be, seconds; the meter grants the same.
const SERVED_AHEAD_SECONDS_MAX: u64 = 60;

/// What the node remembers of a request it served.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The job as it came, without what only the engine needed.
    pub terms: Terms,
    /// Token ids of the answer so far.
    pub completion: Vec<u32>,
    /// Root over the proof windows; zero unless the answer ended by itself.
    pub proof_root: B256,
}

/// The parts of a receipt that are settled when the job arrives.
#[derive(Clone, Debug, PartialEq)]
pub struct Terms(ServiceReceipt);

impl Terms {
    /// Of `job`, served with `model`.
    pub fn of(job: &Job, model: &ServedModel) -> Self {
        Self(ServiceReceipt {
            request_id: job.request_id,
            account: job.account,
            operator: job.operator,
            model_root: model.model_root,
            engine: model.engine,
            // A prompt longer than u32::MAX tokens does not fit a frame.
            prompt_tokens: job.prompt.len() as u32,
            completion_tokens: 0,
            model_rate: job.model_rate,
            amount: Credits::ZERO,
            prompt_hash: tokens_hash(&job.prompt),
            completion_hash: B256::ZERO,
            params_hash: job.params.hash(),
            proof_root: B256::ZERO,
            started_at: job.started_at,
            served_at: 0,
        })
    }

    /// Which request.
    pub fn request_id(&self) -> B256 {
        self.0.request_id
    }

    /// The receipt of an answer that ended at `now`. A node's clock behind the meter's counts as the start.
    /// Errors when the cost is no amount of credits, which [`check_job`] has ruled out.
    pub fn receipt(&self, completion: &[u32], proof_root: B256, now: u64) -> Result<ServiceReceipt, AmountError> {
        let mut receipt = ServiceReceipt {
            completion_tokens: completion.len() as u32,
            completion_hash: tokens_hash(completion),
            proof_root,
            served_at: now.max(self.0.started_at),
            ..self.0.clone()
        };
        receipt.amount = receipt.cost_up()?;
        Ok(receipt)
    }
}

/// Checks that `job` is for this operator and a model of ours (`model`), and that it fits. Errors with the code for `failed`.
pub fn check_job(job: &Job, operator: OperatorId, model: Option<&ServedModel>) -> Result<(), JobRefusal> {
    let refuse = |code, message| Err(JobRefusal { code, message });
    if job.operator != operator {
        let message = format!("the job is for operator {}, this node belongs to operator {operator}", job.operator);
        return refuse(FailureCode::BadParams, message);
    }
    let Some(model) = model else {
        return refuse(FailureCode::UnknownModel, format!("this node does not serve `{}`", job.model));
    };
    if let Err(error) = job.params.check() {
        return refuse(FailureCode::BadParams, error.to_string());
    }
    if job.prompt.is_empty() {
        return refuse(FailureCode::BadParams, "the prompt has no tokens".into());
    }
    let worst_case_tokens = job.prompt.len() as u64 + u64::from(job.params.max_tokens);
    if worst_case_tokens > u64::from(model.context_tokens) {
        let message = format!(
            "{} prompt tokens and max_tokens {} do not fit the context of {} tokens",
            job.prompt.len(),
            job.params.max_tokens,
            model.context_tokens
        );
        return refuse(FailureCode::TooLong, message);
    }
    match message_cost_up(job.model_rate, worst_case_tokens) {
        Ok(_) => Ok(()),
        Err(error) => refuse(FailureCode::BadParams, format!("model_rate {}: {error}", job.model_rate.0)),
    }
}

/// Why a job is not taken.
#[derive(Clone, Debug, PartialEq, Error)]
#[error("{message}")]
pub struct JobRefusal {
    /// For the `failed` frame.
    pub code: FailureCode,
    /// What was wrong.
    pub message: String,
}

/// Checks that a receipt the meter wants signed claims nothing that this node did not serve.
///
/// `answer` is what the node remembers; without it (the node restarted) everything that can be checked alone is, and a
/// proof root is not signed, because the node can't stand for a proof that it no longer knows.
pub fn check_sign_request(
    receipt: &ServiceReceipt,
    operator: OperatorId,
    models: &[ServedModel],
    answer: Option<&Answer>,
    now: u64,
) -> Result<(), Decline> {
    if receipt.operator != operator {
        return Err(Decline::Operator { asked: receipt.operator, own: operator });
    }
    if !models.iter().any(|model| model.model_root == receipt.model_root && model.engine == receipt.engine) {
        return Err(Decline::Model { model_root: receipt.model_root, engine: receipt.engine });
    }
    let cost = receipt.cost_up()?;
    if receipt.amount != cost {
        return Err(Decline::Amount { asked: receipt.amount, cost });
    }
    if receipt.served_at < receipt.started_at || receipt.served_at > now.saturating_add(SERVED_AHEAD_SECONDS_MAX) {
        return Err(Decline::Time { started_at: receipt.started_at, served_at: receipt.served_at, now });
    }
    match answer {
        Some(answer) => check_against(receipt, answer),
        None if receipt.proof_root != B256::ZERO => Err(Decline::Field { field: "proof_root" }),
        None => Ok(()),
    }
}

fn check_against(receipt: &ServiceReceipt, answer: &Answer) -> Result<(), Decline> {
    let terms = &answer.terms.0;
    let same = [
        ("request_id", receipt.request_id == terms.request_id),
        ("account", receipt.account == terms.account),
        ("model_root", receipt.model_root == terms.model_root),
        ("engine", receipt.engine == terms.engine),
        ("prompt_tokens", receipt.prompt_tokens == terms.prompt_tokens),
        ("model_rate", receipt.model_rate == terms.model_rate),
        ("prompt_hash", receipt.prompt_hash == terms.prompt_hash),
        ("params_hash", receipt.params_hash == terms.params_hash),
        ("started_at", receipt.started_at == terms.started_at),
        ("proof_root", receipt.proof_root == B256::ZERO || receipt.proof_root == answer.proof_root),
    ];
    if let Some((field, _)) = same.into_iter().find(|(_, equal)| !equal) {
        return Err(Decline::Field { field });
    }
    let Some(delivered) = answer.completion.get(..receipt.completion_tokens as usize) else {
        return Err(Decline::Tokens { asked: receipt.completion_tokens, served: answer.completion.len() });
    };
    if receipt.completion_hash != tokens_hash(delivered) {
        return Err(Decline::Field { field: "completion_hash" });
    }
    Ok(())
}

/// Why a receipt is not signed.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum Decline {
    /// Somebody else's.
    #[error("the receipt is for operator {asked}, this node belongs to operator {own}")]
    Operator {
        /// In the receipt.
        asked: OperatorId,
        /// Of this node.
        own: OperatorId,
    },
    /// Weights or engine that this node does not serve.
    #[error("this node serves no model with root {model_root} and engine {engine}")]
    Model {
        /// In the receipt.
        model_root: B256,
        /// In the receipt.
        engine: B256,
    },
    /// Not what the tokens cost.
    #[error("the receipt's amount is {} credits, its tokens cost {} at its rate", asked.get(), cost.get())]
    Amount {
        /// In the receipt.
        asked: Credits,
        /// By the rate.
        cost: Credits,
    },
    /// The tokens cost more than any amount.
    #[error("the receipt's cost is no amount: {0}")]
    Cost(#[from] AmountError),
    /// Ends before it starts, or ahead of the node's clock.
    #[error("the receipt runs from {started_at} to {served_at}, this node's clock says {now}; allowed is up to 60 s ahead")]
    Time {
        /// In the receipt.
        started_at: u64,
        /// In the receipt.
        served_at: u64,
        /// Of this node.
        now: u64,
    },
    /// More than was served.
    #[error("the receipt counts {asked} completion tokens, this node served {served}")]
    Tokens {
        /// In the receipt.
        asked: u32,
        /// By this node.
        served: usize,
    },
    /// Not as the job had it.
    #[error("the receipt's `{field}` is not what this node served")]
    Field {
        /// Which one.
        field: &'static str,
    },
}
