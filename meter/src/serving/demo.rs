//! The one answer that a meter's operator publishes for visitors. The file is the operator's word that it may be read by anybody; what it
//! says is shown only when it is what the receipt in this ledger commits to.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use prompt::{Message, PromptError};
use serde::Deserialize;
use thiserror::Error;
use wire::B256;
use wire::node::SamplingParams;
use wire::receipt::{ServiceReceipt, tokens_hash};

use super::catalog::Catalog;
use crate::ledger::{Ledger, LedgerError, StoredReceipt};

/// Largest file that is read, bytes: an answer of some thousand tokens.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Where the published answer lies. Clones share what was read.
#[derive(Clone, Default)]
pub struct Demo {
    file: Option<Arc<Path>>,
    read: Arc<Mutex<Option<Look>>>,
}

/// A look at the file, believed until the file changes: what anybody may ask for costs no tokenising.
struct Look {
    stamp: Stamp,
    found: Option<Arc<Published>>,
}

type Stamp = (Option<SystemTime>, u64);

/// The file, as an operator writes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DemoFile {
    receipt_id: B256,
    /// The only message of the conversation.
    question: String,
    token_ids: Vec<u32>,
    params: SamplingParams,
}

/// A question and its answer, which the receipt commits to.
#[derive(Clone, Debug, PartialEq)]
pub struct Published {
    /// The receipt's id.
    pub receipt_id: B256,
    /// What was asked.
    pub question: String,
    /// The text of `token_ids`.
    pub answer: String,
    /// The question as it was dispatched.
    pub prompt_token_ids: Vec<u32>,
    /// The answer.
    pub token_ids: Vec<u32>,
    /// How it was drawn.
    pub params: SamplingParams,
}

impl Demo {
    /// The answer in `file`, which may come, change and go while the meter runs; none without a file.
    pub fn of(file: Option<PathBuf>) -> Self {
        Self { file: file.map(Into::into), read: Arc::default() }
    }

    /// What is published, with its receipt as it stands now. `None` when the operator published nothing, or nothing that its receipt bears out:
    /// the log says which. Errors when the ledger can't be read.
    pub async fn shown(&self, catalog: &Catalog, ledger: &Ledger) -> Result<Option<(Arc<Published>, StoredReceipt)>, LedgerError> {
        let Some(file) = &self.file else { return Ok(None) };
        let Some(published) = self.published(file, catalog, ledger).await? else { return Ok(None) };
        Ok(ledger.receipt(published.receipt_id).await?.map(|stored| (published, stored)))
    }

    async fn published(&self, file: &Path, catalog: &Catalog, ledger: &Ledger) -> Result<Option<Arc<Published>>, LedgerError> {
        let Ok(facts) = tokio::fs::metadata(file).await else { return Ok(None) };
        let stamp = (facts.modified().ok(), facts.len());
        if let Some(look) = self.read.lock().unwrap_or_else(PoisonError::into_inner).as_ref()
            && look.stamp == stamp
        {
            return Ok(look.found.clone());
        }

        let found = match look(file, catalog, ledger).await {
            Ok(published) => Some(Arc::new(published)),
            Err(DemoError::Ledger(error)) => return Err(error),
            Err(error) => {
                tracing::warn!(file = %file.display(), %error, "demo answer is not shown");
                None
            }
        };

        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = Some(Look { stamp, found: found.clone() });
        Ok(found)
    }
}

async fn look(file: &Path, catalog: &Catalog, ledger: &Ledger) -> Result<Published, DemoError> {
    let bytes = tokio::fs::metadata(file).await?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(DemoError::TooLarge { bytes });
    }
    let given: DemoFile = serde_json::from_slice(&tokio::fs::read(file).await?)?;
    let receipt_id = given.receipt_id;
    let stored = ledger.receipt(receipt_id).await?.ok_or(DemoError::NoReceipt { receipt_id })?;
    check(given, &stored, catalog)
}

/// Holds the file against the receipt. Errors name the first thing that differs.
fn check(given: DemoFile, stored: &StoredReceipt, catalog: &Catalog) -> Result<Published, DemoError> {
    let DemoFile { receipt_id, question, token_ids, params } = given;
    let model = catalog.get(&stored.model).ok_or_else(|| DemoError::NoModel { model: stored.model.clone() })?;
    let prompt_token_ids = model.prompter.render(&[Message::new("user", question.as_str())])?;

    let ServiceReceipt { prompt_hash, completion_hash, params_hash, .. } = stored.receipt;
    let claims = [
        ("question", tokens_hash(&prompt_token_ids) == prompt_hash),
        ("token_ids", tokens_hash(&token_ids) == completion_hash),
        ("params", params.hash() == params_hash),
    ];
    if let Some((field, _)) = claims.into_iter().find(|(_, holds)| !holds) {
        return Err(DemoError::Differs { field, receipt_id });
    }

    let answer = model.prompter.decode(&token_ids)?;
    Ok(Published { receipt_id, question, answer, prompt_token_ids, token_ids, params })
}

/// Why a published answer is not shown.
#[derive(Debug, Error)]
enum DemoError {
    #[error("the file can't be read: {0}")]
    Read(#[from] io::Error),
    #[error("the file has {bytes} bytes, at most {FILE_BYTES_MAX} are read; publish a shorter answer")]
    TooLarge { bytes: u64 },
    #[error("the file is not of the form {{receipt_id, question, token_ids, params}}: {0}")]
    Form(#[from] serde_json::Error),
    #[error("this ledger has no receipt {receipt_id}; publish an answer that this meter served")]
    NoReceipt { receipt_id: B256 },
    #[error("model `{model}` is not served any more; publish an answer of one that is")]
    NoModel { model: String },
    #[error("the model's tokenizer refuses it: {0}")]
    Prompt(#[from] PromptError),
    #[error("`{field}` is not what receipt {receipt_id} commits to")]
    Differs { field: &'static str, receipt_id: B256 },
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}
