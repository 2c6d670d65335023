//! One whole trip: deposit, mirror, hold, dispatch, stream, receipt, batch, payout, each with its time.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::chain::plain;
use crate::http::{Api, Reply};
use crate::model::MODEL_ID;
use crate::network::Network;
use crate::network::depositor::{Depositor, Terms};
use crate::network::operators::Operator;
use crate::stop::{Stop, wait_until};

const RECEIPT_LIMIT: Duration = Duration::from_secs(60);
const PAYOUT_LIMIT: Duration = Duration::from_secs(180);
const ANSWER_TOKENS: u32 = 256;
/// A model of this size rambles at 1.
const TEMPERATURE: f32 = 0.2;

/// The eight rooms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// PRLX and an authorization on chain.
    Deposit,
    /// The meter's ledger has them.
    Mirror,
    /// The worst case is reserved in the ledger.
    Hold,
    /// A node works: its first token is here.
    Dispatch,
    /// The last token is here.
    Stream,
    /// The node has signed, the charge is captured.
    Receipt,
    /// The receipt stands in a batch that the settler signed.
    Batch,
    /// The operator is credited on chain.
    Payout,
}

impl fmt::Display for Room {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&format!("{self:?}").to_lowercase())
    }
}

/// How long each room took.
#[derive(Clone, Debug, Default)]
pub struct Timings(Vec<(Room, Duration, String)>);

impl Timings {
    /// Runs `work` as the step `room`; an error is told with the room's name.
    fn step<T>(&mut self, room: Room, work: impl FnOnce() -> Result<(T, String)>) -> Result<T> {
        let began = Instant::now();
        let (value, note) = work().with_context(|| format!("failed step: {room}"))?;
        self.0.push((room, began.elapsed(), note));
        Ok(value)
    }

    fn print(&self) {
        println!("\n{:<10} {:>9}", "step", "seconds");
        for (room, elapsed, note) in &self.0 {
            println!("{:<10} {:>9.3}  {note}", room.to_string(), elapsed.as_secs_f64());
        }
    }
}

/// The first two rooms: `name` has PRLX in the vault and an authorization, and the meter's ledger knows. True when money moved.
pub fn deposit(network: &Network, name: &str, terms: &Terms, timings: &mut Timings) -> Result<(Depositor, bool)> {
    let (depositor, moved) = timings.step(Room::Deposit, || {
        let (depositor, moved) = network.depositor(name, terms)?;
        let note = if moved { "deposited and authorized in one transaction" } else { "of an earlier run" };
        Ok(((depositor, moved), note.to_owned()))
    })?;
    timings.step(Room::Mirror, || {
        depositor.await_credits(&network.chain, &network.deployment, &network.meter(), network.stop())?;
        let credits = depositor.api(&network.meter())?.get("/v1/credits")?.ok("asking for credits")?;
        Ok(((), format!("{} credits available", credits["available_credits"])))
    })?;
    Ok((depositor, moved))
}

/// The other six, for one prompt; prints answer, cost and times.
pub fn run(network: &mut Network, depositor: &Depositor, prompt: &str, mut timings: Timings, stop: &Stop) -> Result<()> {
    let result = trip(network, depositor, prompt, &mut timings, stop);
    timings.print();
    match (result, network.obituary()) {
        (Err(error), Some(obituary)) => Err(error.context(obituary)),
        (result, _) => result,
    }
}

fn trip(network: &Network, depositor: &Depositor, prompt: &str, timings: &mut Timings, stop: &Stop) -> Result<()> {
    let api = depositor.api(&network.meter())?;
    let before: Vec<(u32, u128)> =
        network.operators.iter().map(|operator| Ok((operator.id, claimable(network, operator)?))).collect::<Result<_>>()?;
    let answer = Answer::ask(&api, prompt, timings)?;
    println!("\n{}\n", answer.text.trim());
    let usage = &answer.usage;
    println!(
        "cost: {} PRLX ({} credits) for {} prompt and {} completion tokens",
        plain(&usage["cost"]),
        usage["cost_credits"],
        usage["prompt_tokens"],
        usage["completion_tokens"]
    );
    let cost = usage["cost_credits"].as_u64().context("the answer names no cost")?;

    let path = format!("/v1/receipts/{}", answer.receipt_id);
    let state = |wanted: &[&str], limit: Duration| {
        wait_until(&format!("the receipt to be {}", wanted.join(" or ")), limit, stop, || {
            let receipt = api.get(&path)?.ok("asking for the receipt")?;
            Ok(wanted.iter().any(|state| receipt["state"] == *state).then_some(receipt))
        })
    };
    timings.step(Room::Receipt, || {
        let receipt = state(&["signed", "batched", "settled"], RECEIPT_LIMIT)?;
        Ok(((), format!("{} signed by operator {}", answer.receipt_id, receipt["receipt"]["operator"])))
    })?;
    timings.step(Room::Batch, || {
        let receipt = state(&["batched", "settled"], PAYOUT_LIMIT)?;
        Ok(((), format!("batch {}", receipt["batch"]["seq"])))
    })?;
    timings.step(Room::Payout, || {
        let receipt = state(&["settled"], PAYOUT_LIMIT)?;
        let operator = receipt["receipt"]["operator"].as_u64().context("the receipt names no operator")?;
        let operator = network.operators.iter().find(|known| u64::from(known.id) == operator).context("an unknown operator served")?;
        ensure!(
            verify(network, &receipt)?,
            "verifyReceipt says that receipt {} is not in batch {}",
            answer.receipt_id,
            receipt["batch"]["seq"]
        );
        let earlier = before.iter().find(|(id, _)| *id == operator.id).map_or(0, |(_, claimable)| *claimable);
        let share = claimable(network, operator)?.saturating_sub(earlier);
        let fee = u128::from(cost) * u128::from(network.deployment.fee_bps) / 10_000;
        ensure!(share >= u128::from(cost) - fee, "operator {} was credited {share} of {cost} credits less the fee {fee}", operator.id);
        Ok(((), format!("operator {} credited {share} credits on chain, verifyReceipt agrees", operator.id)))
    })
}

struct Answer {
    text: String,
    usage: Value,
    receipt_id: String,
    node: String,
}

impl Answer {
    /// Streams one chat completion. The hold is seen in the ledger, the other rooms by what arrives.
    fn ask(api: &Api, prompt: &str, timings: &mut Timings) -> Result<Self> {
        let body = json!({
            "model": MODEL_ID, "stream": true, "stream_options": {"include_usage": true}, "max_tokens": ANSWER_TOKENS, "temperature": TEMPERATURE,
            "messages": [{"role": "user", "content": prompt}],
        });
        let began = Instant::now();
        let done = Stop::default();
        let (reply, held) = std::thread::scope(|scope| {
            let watcher = scope.spawn(|| await_hold(api, began, &done));
            let reply = Self::stream(api, &body, began);
            done.request();
            (reply, watcher.join().unwrap_or_default())
        });
        let (reply, answer, at) = reply;
        let room = at.room(held.is_some());
        let reply = reply.with_context(|| format!("failed step: {room}"))?;
        ensure!(reply.status == 200, "failed step: {room}: the meter answered {} {}", reply.status, reply.message());
        let (Some(first), Some(end)) = (at.first, at.end) else { bail!("failed step: {room}: the answer broke off") };
        ensure!(!answer.receipt_id.is_empty(), "failed step: receipt: the answer names none");

        // A hold too short to be seen had ended with the first token at the latest.
        let (hold, credits) = held.filter(|(hold, _)| *hold <= first).unwrap_or((first, 0));
        timings.0.push((Room::Hold, hold, if credits > 0 { format!("{credits} credits reserved") } else { "with the dispatch".into() }));
        timings.0.push((Room::Dispatch, first - hold, format!("node {}, first token", answer.node)));
        timings.0.push((Room::Stream, end - first, format!("{} tokens", answer.usage["completion_tokens"])));
        Ok(answer)
    }

    /// The answer as far as it came, and when its parts did.
    fn stream(api: &Api, body: &Value, began: Instant) -> (Result<Reply>, Self, At) {
        let mut at = At::default();
        let mut answer = Self { text: String::new(), usage: Value::Null, receipt_id: String::new(), node: String::new() };
        let reply = api.stream("/v1/chat/completions", body, |data| {
            if data == "[DONE]" {
                at.end = Some(began.elapsed());
                return Ok(false);
            }
            let chunk: Value = serde_json::from_str(data).with_context(|| format!("a chunk is not JSON: {data}"))?;
            if let Some(text) = chunk["choices"][0]["delta"]["content"].as_str().filter(|text| !text.is_empty()) {
                at.first.get_or_insert_with(|| began.elapsed());
                answer.text.push_str(text);
            }
            answer.take(&chunk)?;
            Ok(true)
        });
        (reply, answer, at)
    }

    fn take(&mut self, chunk: &Value) -> Result<()> {
        if let Some(message) = chunk["error"]["message"].as_str() {
            bail!("the answer ended with an error: {message}");
        }
        if chunk["usage"].is_object() {
            self.usage = chunk["usage"].clone();
        }
        let parallelix = &chunk["parallelix"];
        for (field, place) in [("receipt_id", &mut self.receipt_id), ("node", &mut self.node)] {
            if let Some(text) = parallelix[field].as_str() {
                text.clone_into(place);
            }
        }
        Ok(())
    }
}

/// When the ledger first shows a hold of this account, and of how much; `None` when the answer ended before it did.
fn await_hold(api: &Api, began: Instant, done: &Stop) -> Option<(Duration, u64)> {
    let held = || -> Result<Option<(Duration, u64)>> {
        let credits = api.get("/v1/credits")?.body["held_credits"].as_u64().unwrap_or(0);
        Ok((credits > 0).then(|| (began.elapsed(), credits)))
    };
    wait_until("a hold", PAYOUT_LIMIT, done, held).ok()
}

/// When the parts of an answer arrived.
#[derive(Default)]
struct At {
    first: Option<Duration>,
    end: Option<Duration>,
}

impl At {
    /// The room in which an answer that stops now was.
    fn room(&self, held: bool) -> Room {
        match (held, self.first) {
            (false, None) => Room::Hold,
            (true, None) => Room::Dispatch,
            _ => Room::Stream,
        }
    }
}

/// Credits that the vault owes the operator.
pub fn claimable(network: &Network, operator: &Operator) -> Result<u128> {
    let views =
        network.chain.call_one(&network.deployment.credits, "operators(uint32[])((address,uint96)[])", &[&format!("[{}]", operator.id)])?;
    plain(&views[0][1]).parse().with_context(|| format!("unreadable operator view: {views}"))
}

/// Asks the settlement contract whether a settled receipt (as `GET /v1/receipts/{id}` shows it) stands in its batch.
pub fn verify(network: &Network, shown: &Value) -> Result<bool> {
    const FIELDS: [&str; 15] = [
        "requestId",
        "account",
        "operator",
        "modelRoot",
        "engine",
        "promptTokens",
        "completionTokens",
        "modelRate",
        "amount",
        "promptHash",
        "completionHash",
        "paramsHash",
        "proofRoot",
        "startedAt",
        "servedAt",
    ];
    let receipt = &shown["receipt"];
    let field = |name: &str| -> Result<String> {
        let value = receipt.get(name).or_else(|| receipt.get(snake(name)));
        value.map(plain).with_context(|| format!("the receipt has no `{name}`"))
    };
    let tuple = FIELDS.iter().map(|name| field(name)).collect::<Result<Vec<_>>>()?.join(",");
    let proof: Vec<String> = shown["batch"]["proof"].as_array().context("the receipt has no Merkle proof")?.iter().map(plain).collect();
    let signature = "verifyReceipt(uint64,(bytes32,uint32,uint32,bytes32,bytes32,uint32,uint32,uint64,uint64,bytes32,bytes32,bytes32,bytes32,uint40,uint40),bytes,bytes32[])(bool)";
    let verdict = network.chain.call_one(
        &network.deployment.settlement,
        signature,
        &[&plain(&shown["batch"]["seq"]), &format!("({tuple})"), &plain(&shown["signature"]), &format!("[{}]", proof.join(","))],
    )?;
    Ok(verdict == true)
}

fn snake(name: &str) -> String {
    name.chars().flat_map(|c| if c.is_ascii_uppercase() { vec!['_', c.to_ascii_lowercase()] } else { vec![c] }).collect()
}
