//! What must hold when something breaks in the middle: nobody pays twice, nobody pays for nothing, operators are paid.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::{Books, Scene, ask, ask_streaming, await_that, question, receipts};
use serde_json::{Value, json};
use xtask::chain::Sender;
use xtask::http::Api;
use xtask::network::depositor::{Depositor, Terms};

const LONG_QUESTION: &str = "Write a long and detailed story about a lighthouse keeper, the sea, and the ships that pass at night.";

fn credits(api: &Api, name: &str) -> Result<u64> {
    let credits = api.get("/v1/credits")?.ok("asking for credits")?;
    credits[name].as_u64().with_context(|| format!("/v1/credits has no `{name}`: {credits}"))
}

fn await_settled(scene: &Scene, depositor: &Depositor) -> Result<()> {
    await_that("all receipts to be settled", || Ok(receipts(scene, depositor)?.iter().all(|receipt| receipt["state"] == "settled")))
}

fn pool(scene: &Scene) -> Result<Value> {
    scene.meter().get("/v1/pool")?.ok("asking for the pool")
}

/// Answers that nodes were given, as the meter measured.
fn answers_served(scene: &Scene) -> Result<u64> {
    let pool = pool(scene)?;
    Ok(pool["nodes"].as_array().context("no nodes")?.iter().filter_map(|node| node["answers_served"]["value"].as_u64()).sum())
}

#[test]
fn a_node_killed_mid_stream_is_paid_for_what_arrived_once_it_is_back() -> Result<()> {
    Scene::play("node_killed", 1, false, |scene| {
        let depositor = scene.funded("depositor", &Terms::DEMO)?;
        let api = depositor.api(&scene.meter())?;

        let mut pieces = 0;
        let answer = ask_streaming(&api, &question(LONG_QUESTION, 600), |_| {
            pieces += 1;
            if pieces == 10 { scene.kill("node-1") } else { Ok(()) }
        })?;
        let completion = answer.usage["completion_tokens"].as_u64().context("an answer that broke off has usage")?;
        ensure!(answer.error.is_some(), "a broken answer must say so: {answer:?}");
        ensure!((10..600).contains(&completion), "{completion} tokens were charged");
        ensure!(answer.cost()? == (answer.tokens()? * scene.plan.model_rate).div_ceil(1_000_000), "{answer:?}");
        let waiting = api.get(&answer.receipt_path()?)?.ok("the receipt")?;
        ensure!(waiting["state"] == "awaiting_signature", "{waiting}");
        ensure!(credits(&api, "held_credits")? == 0, "the rest of the hold must be released");

        scene.restart("node-1")?;
        await_settled(scene, &depositor)?;
        let books = Books::read(scene, &[depositor])?;
        books.balance()?;
        ensure!(books.charged == answer.cost()?, "{books:?}");
        Ok(())
    })
}

#[test]
fn fallback_hardware_serves_and_says_so_when_no_network_node_is_online() -> Result<()> {
    Scene::play("fallback", 1, true, |scene| {
        let depositor = scene.funded("depositor", &Terms::DEMO)?;
        let api = depositor.api(&scene.meter())?;
        ensure!(ask(&api, "What is the sea?", 8)?.parallelix["fallback"] == false, "a network node was online");

        scene.kill("node-1")?;
        await_that("the dead node to leave the pool", || Ok(pool(scene)?["nodes_online"] == 0))?;
        let answer = ask(&api, "What is the sea?", 8)?;
        ensure!(answer.parallelix["fallback"] == true, "{:?}", answer.parallelix);

        await_settled(scene, &depositor)?;
        Books::read(scene, &[depositor])?.balance()
    })
}

/// A 402 of that code with both amounts; nothing held, charged or dispatched.
fn refused(scene: &Scene, depositor: &Depositor, code: &str) -> Result<()> {
    let api = depositor.api(&scene.meter())?;
    let (available, served) = (credits(&api, "available_credits")?, answers_served(scene)?);
    let reply = api.post("/v1/chat/completions", &question(LONG_QUESTION, 1_000))?;
    ensure!((reply.status, reply.code()) == (402, code), "{} {}", reply.status, reply.body);
    let metadata = &reply.body["error"]["metadata"];
    let (has, needs) = (metadata["available_credits"].as_u64(), metadata["needed_credits"].as_u64());
    ensure!(has.zip(needs).is_some_and(|(has, needs)| has < needs), "{metadata}");
    ensure!(metadata["action"].is_string(), "{metadata}");

    ensure!(credits(&api, "available_credits")? == available && credits(&api, "held_credits")? == 0, "money moved");
    ensure!(receipts(scene, depositor)?.is_empty(), "there is a receipt");
    ensure!(answers_served(scene)? == served, "a node was asked");
    Ok(())
}

#[test]
fn too_few_credits_and_too_little_exposure_are_refused_before_any_node_is_asked() -> Result<()> {
    Scene::play("refusals", 1, false, |scene| {
        let poor = Terms { deposit: 1_000_000, cap: 1_000_000, exposure: 1_000_000_000, ..Terms::DEMO };
        refused(scene, &scene.funded("poor", &poor)?, "insufficient_credits")?;
        let cautious = Terms { exposure: 1_000_000, ..Terms::DEMO };
        refused(scene, &scene.funded("cautious", &cautious)?, "exposure_exceeded")?;
        let capped = Terms { cap: 1_000_000, ..Terms::DEMO };
        let depositor = scene.funded("capped", &capped)?;
        refused(scene, &depositor, "cap_exceeded")?;
        Books::read(scene, &[depositor])?.balance()
    })
}

#[test]
fn of_fifty_requests_at_once_exactly_the_ten_that_the_balance_covers_run() -> Result<()> {
    const ANSWER_TOKENS: u32 = 8;
    Scene::play("fifty", 1, false, |scene| {
        let rich = scene.funded("rich", &Terms::DEMO)?;
        let sample = ask(&rich.api(&scene.meter())?, LONG_QUESTION, ANSWER_TOKENS)?;
        ensure!(sample.finish_reason.as_deref() == Some("length"), "the worst case must be what it costs: {sample:?}");

        let cost = sample.cost()?;
        let depositor = scene.funded("fifty", &Terms { deposit: 10 * cost, cap: 10 * cost, ..Terms::DEMO })?;
        let api = depositor.api(&scene.meter())?;
        let replies: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..50).map(|_| scope.spawn(|| api.post("/v1/chat/completions", &question(LONG_QUESTION, ANSWER_TOKENS)))).collect();
            threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a client panicked"))?).collect::<Result<_>>()
        })?;

        let ran = replies.iter().filter(|reply| reply.status == 200).count();
        let refused = replies.iter().filter(|reply| (reply.status, reply.code()) == (402, "insufficient_credits")).count();
        ensure!((ran, refused) == (10, 40), "{ran} ran, {refused} were refused");
        ensure!(credits(&api, "available_credits")? == 0 && credits(&api, "held_credits")? == 0, "10 × {cost} were there");
        await_settled(scene, &depositor)?;
        await_settled(scene, &rich)?;
        Books::read(scene, &[depositor, rich])?.balance()
    })
}

#[test]
fn a_meter_killed_between_hold_and_capture_settles_the_hold_once() -> Result<()> {
    Scene::play("meter_killed", 1, false, |scene| {
        let depositor = scene.funded("depositor", &Terms::DEMO)?;
        let api = depositor.api(&scene.meter())?;

        let mut first = None;
        let broken = ask_streaming(&api, &question(LONG_QUESTION, 2_000), |_| {
            // What arrived is written beside the hold each second.
            if first.get_or_insert_with(Instant::now).elapsed() > Duration::from_millis(2_500) { scene.kill("meter") } else { Ok(()) }
        });
        ensure!(broken.is_err() || broken.is_ok_and(|answer| answer.finish_reason.is_none()), "the answer can't have ended");

        scene.restart("meter")?;
        await_that("the hold to be settled", || Ok(credits(&api, "held_credits")? == 0))?;
        let (available, count) = (credits(&api, "available_credits")?, receipts(scene, &depositor)?.len());
        ensure!(available < Terms::DEMO.deposit && count == 1, "what arrived is charged once: {available} are left, {count} receipts");
        await_settled(scene, &depositor)?;

        scene.restart("meter")?;
        ensure!(credits(&api, "available_credits")? == available, "a second start settled the hold again");
        Books::read(scene, &[depositor])?.balance()
    })
}

#[test]
fn a_keeper_killed_between_send_and_record_pays_nobody_twice() -> Result<()> {
    Scene::play("keeper_killed", 1, false, |scene| {
        let depositor = scene.funded("depositor", &Terms::DEMO)?;
        let api = depositor.api(&scene.meter())?;

        for round in 0..3 {
            scene.chain.rpc("evm_setIntervalMining", json!([0]))?;
            let answer = ask(&api, "What is the sea?", 8)?;
            ensure!(answer.cost()? > 0, "round {round}");
            // The moment the transaction is out, and before any block has it.
            await_that("the settlement to be sent", || Ok(scene.chain.rpc("txpool_status", json!([]))?["pending"] != "0x0"))?;
            scene.kill("keeper")?;
            if round == 1 {
                // Lost by the network, too: the next keeper must send it again.
                scene.chain.rpc("anvil_dropAllTransactions", json!([]))?;
            }
            scene.chain.rpc("evm_setIntervalMining", json!([1]))?;
            scene.restart("keeper")?;
            await_settled(scene, &depositor)?;
        }

        let last = scene.chain.call_number(&scene.deployment.settlement, "lastSeq()(uint64)", &[])?;
        ensure!(last == 3, "three batches, not {last}");
        Books::read(scene, &[depositor])?.balance()
    })
}

#[test]
fn a_depositor_who_withdraws_everything_withdrawable_still_pays_the_operator() -> Result<()> {
    Scene::play("withdraw", 1, false, |scene| {
        let depositor = scene.funded("depositor", &Terms::DEMO)?;
        let api = depositor.api(&scene.meter())?;
        let (chain, vault) = (&scene.chain, &scene.deployment.credits);
        let id = depositor.account(chain, &scene.deployment)?.id.to_string();

        let (mut pieces, mut withdrawn) = (0, 0);
        let answer = ask_streaming(&api, &question(LONG_QUESTION, 200), |_| {
            pieces += 1;
            if pieces == 5 {
                withdrawn = chain.call_number(vault, "free(uint32)(uint64)", &[&id])?;
                chain.send(
                    Sender::Keystore(&depositor.key),
                    vault,
                    "withdraw(uint64,address)",
                    &[&withdrawn.to_string(), &depositor.key.address],
                )?;
            }
            Ok(())
        })?;
        ensure!(answer.error.is_none() && withdrawn > 0, "{answer:?}");
        ensure!(withdrawn == u128::from(Terms::DEMO.deposit - Terms::DEMO.exposure), "all but the exposure is free: {withdrawn}");

        await_settled(scene, &depositor)?;
        await_that("the withdrawal to be mirrored", || {
            Ok(u128::from(credits(&api, "deposited_credits")?) + withdrawn == u128::from(Terms::DEMO.deposit))
        })?;
        let books = Books::read(scene, &[depositor])?;
        books.balance()?;
        ensure!(books.debited == answer.cost()?, "{books:?}");
        Ok(())
    })
}

#[test]
fn a_deposit_that_a_reorganisation_drops_leaves_the_ledger_too() -> Result<()> {
    Scene::play("reorg", 1, false, |scene| {
        let stays = scene.funded("stays", &Terms::DEMO)?;
        let before = scene.chain.block_number()?;
        let dropped = scene.funded("dropped", &Terms::DEMO)?;
        let api = dropped.api(&scene.meter())?;
        ensure!(credits(&api, "available_credits")? == Terms::DEMO.deposit, "the deposit was mirrored");

        let depth = scene.chain.block_number()? - before;
        scene.chain.rpc("anvil_reorg", json!([depth, []]))?;
        await_that("the deposit to be reversed", || Ok(credits(&api, "available_credits")? == 0))?;
        let reply = api.post("/v1/chat/completions", &question("What is the sea?", 8))?;
        ensure!(reply.status == 402, "{} {}", reply.status, reply.body);

        // Who deposited earlier is untouched, and who lost it can do it again.
        ensure!(ask(&stays.api(&scene.meter())?, "What is the sea?", 8)?.cost()? > 0, "an answer costs something");
        let again = scene.funded("dropped", &Terms::DEMO)?;
        ensure!(credits(&again.api(&scene.meter())?, "available_credits")? == Terms::DEMO.deposit, "deposited once");
        await_settled(scene, &stays)?;
        Books::read(scene, &[stays, again])?.balance()
    })
}
