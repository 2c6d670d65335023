//! A meter by script: it keeps the rules of `docs/protocol.md`, section 9, and fails on demand.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use alloy::primitives::{Address, B256};
use alloy::providers::RootProvider;
use alloy::signers::local::PrivateKeySigner;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;
use wire::contracts::Settlement;
use wire::deployment::Deployment;
use wire::receipt::seconds_u40;
use wire::settlement::{BatchProposal, Carry, Feed, SignedBatch, SignedReceipt};
use wire::typed::{self, KeeperAccess, SettlementBatch};
use wire::{Bytes, merkle, rows};

#[derive(Clone)]
pub struct ScriptedMeter {
    pub url: String,
    script: Arc<Mutex<Script>>,
    provider: RootProvider,
    deployment: Deployment,
}

pub struct Script {
    settler: PrivateKeySigner,
    receipts: Vec<SignedReceipt>,
    /// In the feed although no honest meter would put them there; they count in no sum.
    lies: Vec<SignedReceipt>,
    carries: Vec<Carry>,
    batches: BTreeMap<u64, SignedBatch>,
    keepers: BTreeSet<Address>,
    pub posts: u64,
    /// So many proposals are signed and their answers lost.
    pub lose_answers: u64,
    /// Batches with this receipt are refused.
    pub refused: Option<B256>,
    pub reversed_feed: bool,
}

impl ScriptedMeter {
    pub async fn start(settler: PrivateKeySigner, deployment: Deployment, provider: RootProvider) -> Self {
        let script = Script {
            settler,
            receipts: vec![],
            lies: vec![],
            carries: vec![],
            batches: BTreeMap::new(),
            keepers: BTreeSet::new(),
            posts: 0,
            lose_answers: 0,
            refused: None,
            reversed_feed: false,
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let meter = Self { url, script: Arc::new(Mutex::new(script)), provider, deployment };
        let routes = Router::new()
            .route("/v1/settlement/feed", get(feed))
            .route("/v1/settlement/batches", post(propose))
            .route("/v1/settlement/batches/{seq}", get(standing))
            .with_state(meter.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        meter
    }

    pub fn edit<T>(&self, edit: impl FnOnce(&mut Script) -> T) -> T {
        edit(&mut self.script.lock().unwrap())
    }

    pub fn push(&self, receipt: SignedReceipt) {
        self.edit(|script| script.receipts.push(receipt));
    }

    pub fn push_lie(&self, receipt: SignedReceipt) {
        self.edit(|script| script.lies.push(receipt));
    }

    pub fn push_carry(&self, carry: Carry) {
        self.edit(|script| script.carries.push(carry));
    }

    pub fn admit(&self, keeper: Address) {
        self.edit(|script| script.keepers.insert(keeper));
    }

    pub fn receipts(&self) -> Vec<SignedReceipt> {
        self.edit(|script| script.receipts.clone())
    }

    pub fn batch(&self, seq: u64) -> Option<SignedBatch> {
        self.edit(|script| script.batches.get(&seq).cloned())
    }

    async fn next_seq(&self) -> u64 {
        let settlement = Settlement::new(self.deployment.settlement, &self.provider);
        settlement.lastSeq().call().await.unwrap() + 1
    }

    fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(pass) = headers.get("authorization").and_then(|value| value.to_str().ok()) else { return false };
        let parts: Vec<&str> = pass.strip_prefix("Keeper ").unwrap_or_default().split('.').collect();
        let [keeper, valid_until, signature] = parts[..] else { return false };
        let (keeper, valid_until): (Address, u64) = (keeper.parse().unwrap(), valid_until.parse().unwrap());
        let signature: Bytes = signature.parse().unwrap();
        let access = KeeperAccess { keeper, validUntil: seconds_u40(valid_until) };
        let signer = typed::recover(&access, &self.deployment.settlement_domain(), &signature).unwrap();
        signer == keeper && self.edit(|script| script.keepers.contains(&keeper))
    }
}

impl Script {
    fn check(&self, proposal: &BatchProposal, domain: &alloy::sol_types::Eip712Domain) -> Result<(), String> {
        if self.refused.is_some_and(|refused| proposal.receipts.contains(&refused)) {
            return Err("the ledger has no such receipt".into());
        }
        let others = self.batches.values().filter(|batch| batch.proposal.seq != proposal.seq);
        let batched: BTreeSet<B256> = others.flat_map(|batch| batch.proposal.receipts.clone()).collect();
        let mut leaves = Vec::new();
        for id in &proposal.receipts {
            let known = self.receipts.iter().find(|signed| signed.receipt.request_id == *id).ok_or("unknown receipt")?;
            if batched.contains(id) {
                return Err("the receipt stands in another batch".into());
            }
            leaves.push(merkle::receipt_leaf(known.receipt.digest(domain)));
        }
        let root = merkle::root(&leaves).unwrap_or_default();
        if root == proposal.receipts_root { Ok(()) } else { Err("another root".into()) }
    }

    fn countersign(&mut self, proposal: BatchProposal, deployment: &Deployment) -> SignedBatch {
        let batch = SettlementBatch {
            seq: proposal.seq,
            receiptsRoot: proposal.receipts_root,
            rowsHash: rows::hash(&proposal.rows),
            deadline: seconds_u40(proposal.deadline),
        };
        let signature = typed::sign(&batch, &deployment.settlement_domain(), &self.settler).unwrap();
        let signed = SignedBatch { proposal, signature: signature.to_vec().into(), settler: self.settler.address() };
        self.batches.insert(signed.proposal.seq, signed.clone());
        signed
    }
}

fn refusal(status: StatusCode, code: &str, message: &str) -> Response {
    (status, Json(json!({"error": {"message": message, "type": "invalid_request_error", "param": null, "code": code}}))).into_response()
}

async fn feed(State(meter): State<ScriptedMeter>, headers: HeaderMap) -> Response {
    if !meter.admits(&headers) {
        return refusal(StatusCode::UNAUTHORIZED, "invalid_api_key", "no keeper");
    }
    let next_seq = meter.next_seq().await;
    meter.edit(|script| {
        let batched: BTreeSet<B256> = script.batches.values().flat_map(|batch| batch.proposal.receipts.clone()).collect();
        let settled_carries: Vec<Carry> = script.batches.values().flat_map(|batch| batch.proposal.carries.clone()).collect();
        let all = script.receipts.iter().chain(&script.lies);
        let mut receipts: Vec<_> = all.filter(|signed| !batched.contains(&signed.receipt.request_id)).cloned().collect();
        if script.reversed_feed {
            receipts.reverse();
        }
        let carries = script.carries.iter().filter(|carry| !settled_carries.contains(carry)).copied().collect();
        Json(Feed { next_seq, receipts, carries }).into_response()
    })
}

async fn propose(State(meter): State<ScriptedMeter>, headers: HeaderMap, Json(proposal): Json<BatchProposal>) -> Response {
    if !meter.admits(&headers) {
        return refusal(StatusCode::UNAUTHORIZED, "invalid_api_key", "no keeper");
    }
    let (next_seq, domain) = (meter.next_seq().await, meter.deployment.settlement_domain());
    meter.edit(|script| {
        script.posts += 1;
        if let Some(standing) = script.batches.get(&proposal.seq) {
            let same = BatchProposal { deadline: standing.proposal.deadline, ..proposal.clone() } == standing.proposal;
            if !same {
                return refusal(StatusCode::CONFLICT, "seq_taken", "another batch stands");
            }
        } else if proposal.seq != next_seq {
            return refusal(StatusCode::CONFLICT, "wrong_seq", "not the next one");
        }
        if let Err(message) = script.check(&proposal, &domain) {
            return refusal(StatusCode::BAD_REQUEST, "invalid_receipts", &message);
        }
        let signed = script.countersign(proposal, &meter.deployment);
        if script.lose_answers > 0 {
            script.lose_answers -= 1;
            return StatusCode::BAD_GATEWAY.into_response();
        }
        Json(signed).into_response()
    })
}

async fn standing(State(meter): State<ScriptedMeter>, headers: HeaderMap, Path(seq): Path<u64>) -> Response {
    if !meter.admits(&headers) {
        return refusal(StatusCode::UNAUTHORIZED, "invalid_api_key", "no keeper");
    }
    match meter.batch(seq) {
        Some(batch) => Json(batch).into_response(),
        None => refusal(StatusCode::NOT_FOUND, "not_found", "no batch of this number was signed"),
    }
}
