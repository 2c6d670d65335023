//! Calls that change nothing.

use std::collections::HashMap;

use alloy::primitives::{Address, B256, Bytes};
use serde::Deserialize;
use wire::receipt::ServiceReceipt;
use wire::settlement::{Carry, Feed, RECEIPTS_MAX, SignedReceipt};
use wire::{AccountId, Credits, OperatorId, merkle};

use super::decision::batch::signed_batch;
use super::decision::credits_or_zero;
use super::decision::request::stored_receipt;
use super::error::LedgerError;
use super::facts::{ChainOrigin, ChainPoint};
use super::rows::{BatchRow, BlockRow, CarryRow, CursorRow, KeyRow, NodeKeyRow, PayerRow, QuarantineRow, ReceiptRow};
use super::types::{AccountView, AuthorizationView, BatchView, CreditsView, KeyId, NodeOwner, Quarantine, StoredReceipt};
use super::{AuditReport, Ledger, audit};

/// Most receipts of one page.
pub const RECEIPTS_PAGE_MAX: u32 = 1_000;

/// Most rows of one question about usage.
pub const USAGE_ROWS_MAX: usize = 10_000;

/// What an account's requests of one day, one model and one key came to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct UsageRow {
    /// Days since the epoch, UTC.
    pub day: u64,
    /// Which model.
    pub model: String,
    /// Which key; `None` for a session.
    pub key: Option<String>,
    /// How many.
    pub requests: u64,
    /// As charged.
    pub prompt_tokens: u64,
    /// As charged.
    pub completion_tokens: u64,
    /// Credits, without what was given back.
    pub cost: Credits,
}

/// What the chain shows above the depth at which it counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// Credits that came in.
    pub deposits: HashMap<AccountId, Credits>,
    /// Accounts that were opened.
    pub opened: HashMap<Address, AccountId>,
}

impl Ledger {
    /// An account's money. All zero for an account that is not known.
    pub async fn credits(&self, account: AccountId) -> Result<CreditsView, LedgerError> {
        let now = self.shared.clock.now_s();
        let pending_deposits = self.pending(|pending| pending.deposits.get(&account).copied()).unwrap_or_default();
        let payer = self.payer(account).await?.unwrap_or_else(|| PayerRow::opened(account, Address::ZERO));
        let room = payer.available.min(payer.exposure_room()).min(payer.cap_room());
        let closing_until = self.closing_until(&payer, now).await?;
        Ok(CreditsView {
            available: credits_or_zero(payer.available),
            held: credits_or_zero(payer.held),
            unsettled: credits_or_zero(payer.unsettled),
            spendable: credits_or_zero(if payer.is_live(now) && closing_until.is_none() { room } else { 0 }),
            closing_until,
            pending_deposits,
            deposited: credits_or_zero(payer.facts.net_deposited),
            settled: credits_or_zero(payer.facts.settled),
            authorization: authorization(&payer, now),
        })
    }

    /// Until when a clearance stands in the way of spending; without a live authorization it stands in nobody's, also when it was used.
    async fn closing_until(&self, payer: &PayerRow, now: u64) -> Result<Option<u64>, LedgerError> {
        if payer.clearance.deadline == 0 || !payer.is_live(now) {
            return Ok(None);
        }
        let chain_time = self.cursor().await?.map_or(0, |cursor| cursor.timestamp.unsigned_abs());
        Ok(payer.closing_until(chain_time))
    }

    /// The account of an id.
    pub async fn account(&self, account: AccountId) -> Result<Option<AccountView>, LedgerError> {
        let now = self.shared.clock.now_s();
        Ok(self.payer(account).await?.filter(|payer| payer.opened == 1).map(|payer| account_view(&payer, now)))
    }

    /// The account of a wallet, also while the block that opened it is not deep enough.
    pub async fn account_of_wallet(&self, wallet: Address) -> Result<Option<AccountView>, LedgerError> {
        let readers = &self.shared.readers;
        let payer = readers.row::<PayerRow>(readers.statements().read_payer_of_wallet, &[&bytes(&wallet)]).await?;
        if let Some(payer) = payer {
            return Ok(Some(account_view(&payer, self.shared.clock.now_s())));
        }
        let opened = self.pending(|pending| pending.opened.get(&wallet).copied());
        Ok(opened.map(|account| AccountView { account, wallet, confirmed: false, authorization: None }))
    }

    async fn payer(&self, account: AccountId) -> Result<Option<PayerRow>, LedgerError> {
        let readers = &self.shared.readers;
        readers.row(readers.statements().read_payer, &[&account.to_string()]).await
    }

    /// An account's receipts, newest first, at most `limit` (1,000), before position `before`. Without proofs: one receipt has its own.
    pub async fn receipts(&self, account: AccountId, limit: u32, before: Option<u64>) -> Result<Vec<StoredReceipt>, LedgerError> {
        let readers = &self.shared.readers;
        let before = before.and_then(|position| i64::try_from(position).ok()).unwrap_or(i64::MAX).to_string();
        let (account, limit) = (account.to_string(), limit.min(RECEIPTS_PAGE_MAX).to_string());
        let rows: Vec<ReceiptRow> = readers.rows(readers.statements().read_receipts, &[&account, &before, &limit]).await?;
        let mut batches = HashMap::<i64, Option<BatchView>>::new();
        for seq in rows.iter().filter_map(|row| row.seq) {
            if let std::collections::hash_map::Entry::Vacant(vacant) = batches.entry(seq) {
                vacant.insert(self.batch(seq.unsigned_abs()).await?);
            }
        }
        let batch_of = |row: &ReceiptRow| row.seq.and_then(|seq| batches.get(&seq)).and_then(Option::as_ref);
        rows.iter().map(|row| stored(row, batch_of(row), None)).collect()
    }

    /// One receipt, with its proof once it is in a batch.
    pub async fn receipt(&self, request_id: B256) -> Result<Option<StoredReceipt>, LedgerError> {
        let readers = &self.shared.readers;
        let row = readers.row::<ReceiptRow>(readers.statements().read_receipt, &[&bytes(&request_id)]).await?;
        let Some(row) = row else { return Ok(None) };
        let Some(seq) = row.seq else { return stored(&row, None, None).map(Some) };
        let batch = self.batch(seq.unsigned_abs()).await?;
        let leaves = readers.texts(readers.statements().read_leaves, &[&seq.to_string()]).await?;
        let leaves: Vec<B256> = leaves.iter().filter_map(|text| text.strip_prefix("\\x")?.parse().ok()).collect();
        let index = leaves.iter().position(|leaf| Some(*leaf) == row.leaf);
        let proof = index.and_then(|index| merkle::proof(&leaves, index));
        stored(&row, batch.as_ref(), proof).map(Some)
    }

    /// Receipts of a node that it has not signed yet, oldest first, at most 1,000.
    pub async fn awaiting_signature(&self, node: Address) -> Result<Vec<ServiceReceipt>, LedgerError> {
        let readers = &self.shared.readers;
        let rows: Vec<ReceiptRow> = readers.rows(readers.statements().read_awaiting, &[&bytes(&node)]).await?;
        rows.iter().map(stored_receipt).collect()
    }

    /// An account's usage from `from_s` until before `until_s`, by day, model and key; at most one row more than [`USAGE_ROWS_MAX`].
    pub async fn usage(&self, account: AccountId, from_s: u64, until_s: u64) -> Result<Vec<UsageRow>, LedgerError> {
        let readers = &self.shared.readers;
        let (from, until, limit) = (from_s.to_string(), until_s.to_string(), (USAGE_ROWS_MAX + 1).to_string());
        readers.rows(readers.statements().read_usage, &[&account.to_string(), &from, &until, &limit]).await
    }

    /// What a key has spent and holds.
    pub async fn key_usage(&self, key: &KeyId) -> Result<Credits, LedgerError> {
        let readers = &self.shared.readers;
        let usage = readers.row::<KeyRow>(readers.statements().read_key, &[&key.0]).await?;
        Ok(credits_or_zero(usage.map_or(0, |usage| usage.captured.saturating_add(usage.held))))
    }

    /// What waits to be settled (`docs/protocol.md`, section 9). Carries of a batch that stands and isn't booked are left out.
    pub async fn feed(&self) -> Result<Feed, LedgerError> {
        let readers = &self.shared.readers;
        let statements = readers.statements();
        let settled_seq = self.cursor().await?.map_or(0, |cursor| cursor.settled_seq);
        let standing = readers.row::<BatchRow>(statements.read_open_batch, &[]).await?;
        let standing = standing.as_ref().map(signed_batch).transpose()?.map(|batch| batch.proposal.carries).unwrap_or_default();
        let rows: Vec<ReceiptRow> = readers.rows(statements.read_signed, &[&RECEIPTS_MAX.to_string()]).await?;
        let carries: Vec<CarryRow> = readers.rows(statements.read_carries, &[]).await?;
        let carries = carries.into_iter().map(|row| Carry {
            account: AccountId(row.account),
            operator: OperatorId(row.operator),
            amount: credits_or_zero(row.amount),
        });
        let in_standing = |carry: &Carry| standing.iter().any(|other| (other.account, other.operator) == (carry.account, carry.operator));
        let signed = |row: &ReceiptRow| {
            let signature = Bytes::from(row.signature.clone().unwrap_or_default());
            Ok(SignedReceipt { receipt: stored_receipt(row)?, signature, node: row.node })
        };
        Ok(Feed {
            next_seq: settled_seq.unsigned_abs() + 1,
            receipts: rows.iter().map(signed).collect::<Result<_, LedgerError>>()?,
            carries: carries.filter(|carry| !in_standing(carry)).collect(),
        })
    }

    /// A batch that was signed here.
    pub async fn batch(&self, seq: u64) -> Result<Option<BatchView>, LedgerError> {
        let readers = &self.shared.readers;
        let row = readers.row::<BatchRow>(readers.statements().read_batch, &[&seq.to_string()]).await?;
        let view = |row: BatchRow| Ok(BatchView { batch: signed_batch(&row)?, state: row.state, transaction: row.transaction });
        row.map(view).transpose()
    }

    /// Who a node key belongs or belonged to, as the registry has it.
    pub async fn node_operator(&self, node: Address) -> Result<Option<NodeOwner>, LedgerError> {
        let readers = &self.shared.readers;
        let row = readers.row::<NodeKeyRow>(readers.statements().read_node_key, &[&bytes(&node)]).await?;
        Ok(row.map(|row| NodeOwner { operator: row.operator(), since: row.since.unsigned_abs(), until: row.until.map(i64::unsigned_abs) }))
    }

    /// The quarantine of a node that nobody has cleared.
    pub async fn quarantine(&self, node: Address) -> Result<Option<Quarantine>, LedgerError> {
        let readers = &self.shared.readers;
        let row = readers.row::<QuarantineRow>(readers.statements().read_quarantine, &[&bytes(&node)]).await?;
        Ok(row.map(quarantine))
    }

    /// All quarantines, cleared ones too, newest first; at most 1,000.
    pub async fn quarantines(&self) -> Result<Vec<Quarantine>, LedgerError> {
        let readers = &self.shared.readers;
        let rows: Vec<QuarantineRow> = readers.rows(readers.statements().read_quarantines, &[]).await?;
        Ok(rows.into_iter().map(quarantine).collect())
    }

    /// A node's receipts that are in batches: what a quarantine came too late for, and the registry's disputer may look at. Newest first,
    /// at most 1,000.
    pub async fn batched_receipts(&self, node: Address) -> Result<Vec<StoredReceipt>, LedgerError> {
        let readers = &self.shared.readers;
        let rows: Vec<ReceiptRow> = readers.rows(readers.statements().read_batched, &[&bytes(&node)]).await?;
        rows.iter().map(|row| stored(row, None, None)).collect()
    }

    /// Checks that the books are right: entries sum to balances, holds and receipts equal what is held and unsettled.
    pub async fn audit(&self) -> Result<AuditReport, LedgerError> {
        audit::audit(&self.shared.store).await
    }

    /// How far the chain was applied, and of which contracts.
    pub(crate) async fn chain_point(&self) -> Result<Option<(ChainOrigin, ChainPoint)>, LedgerError> {
        Ok(self.cursor().await?.map(|cursor| {
            let origin = ChainOrigin { chain_id: cursor.chain_id.unsigned_abs(), vault: cursor.vault };
            let (number, timestamp) = (cursor.number.unsigned_abs(), cursor.timestamp.unsigned_abs());
            (origin, ChainPoint { number, hash: cursor.hash, timestamp })
        }))
    }

    /// The blocks that are remembered, newest first.
    pub(crate) async fn chain_blocks(&self) -> Result<Vec<BlockRow>, LedgerError> {
        let readers = &self.shared.readers;
        readers.rows(readers.statements().read_blocks, &[]).await
    }

    async fn cursor(&self) -> Result<Option<CursorRow>, LedgerError> {
        let readers = &self.shared.readers;
        readers.row(readers.statements().read_cursor, &[]).await
    }
}

fn account_view(payer: &PayerRow, now: u64) -> AccountView {
    let authorization = authorization(payer, now);
    AccountView { account: AccountId(payer.account), wallet: payer.wallet, confirmed: true, authorization }
}

fn authorization(payer: &PayerRow, now: u64) -> Option<AuthorizationView> {
    // Every authorization and revocation advances the nonce.
    (payer.facts.next_nonce > 0).then(|| AuthorizationView {
        authorized_cum: credits_or_zero(payer.facts.authorized_cum),
        exposure: credits_or_zero(payer.facts.exposure),
        valid_until: payer.facts.valid_until.unsigned_abs(),
        settle_deadline: payer.facts.settle_deadline.unsigned_abs(),
        next_nonce: payer.facts.next_nonce,
        live: payer.is_live(now),
        room: credits_or_zero(payer.cap_room()),
    })
}

fn stored(row: &ReceiptRow, batch: Option<&BatchView>, proof: Option<Vec<B256>>) -> Result<StoredReceipt, LedgerError> {
    Ok(StoredReceipt {
        receipt: stored_receipt(row)?,
        signature: row.signature.clone().map(Bytes::from),
        node: row.node,
        fallback: row.fallback == 1,
        state: row.state,
        model: row.model.clone(),
        finish_reason: row.finish_reason.clone(),
        position: row.position.unwrap_or(0).unsigned_abs(),
        seq: row.seq.map(i64::unsigned_abs),
        leaf: row.leaf,
        proof,
        root: batch.map(|batch| batch.batch.proposal.receipts_root),
        transaction: batch.and_then(|batch| batch.transaction),
        created_at: row.created_at.unsigned_abs(),
        audit: row.audit,
        auditor: row.auditor,
    })
}

fn quarantine(row: QuarantineRow) -> Quarantine {
    Quarantine {
        node: row.node,
        operator: OperatorId(row.operator),
        request_id: row.request_id,
        reason: row.reason,
        since: row.since.unsigned_abs(),
        cleared_at: row.cleared_at.map(i64::unsigned_abs),
    }
}

fn bytes<T: AsRef<[u8]>>(value: &T) -> String {
    format!("\\x{}", hex::encode(value))
}
