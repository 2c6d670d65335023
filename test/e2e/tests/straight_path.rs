//! deposit → mirror → hold → dispatch → stream → receipt → batch → payout, asserted on both sides, to the credit.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use e2e::{Answer, Books, Scene, ask, ask_streaming, await_that, question, receipts};
use serde_json::Value;
use xtask::network::depositor::{CREDITS_PER_PRLX, Depositor, Terms};
use xtask::once::{claimable, verify};

const DEPOSITORS: usize = 5;
const ROUNDS: usize = 5;

/// Each asks in turn, all of them at once, half of them streaming.
fn round(scene: &Scene, depositors: &[Depositor], round: usize) -> Result<Vec<(usize, Answer)>> {
    let asked = |index: usize, depositor: &Depositor| -> Result<(usize, Answer)> {
        let api = depositor.api(&scene.meter())?;
        let text = format!("Name {} things that are blue.", 2 + round + index);
        let answer = if index.is_multiple_of(2) { ask(&api, &text, 24)? } else { ask_streaming(&api, &question(&text, 24), |_| Ok(()))? };
        Ok((index, answer))
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            depositors.iter().enumerate().map(|(index, depositor)| scope.spawn(move || asked(index, depositor))).collect();
        threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a client panicked"))?).collect()
    })
}

fn settled(scene: &Scene, depositors: &[Depositor]) -> Result<bool> {
    for depositor in depositors {
        if receipts(scene, depositor)?.iter().any(|receipt| receipt["state"] != "settled") {
            return Ok(false);
        }
    }
    Ok(true)
}

#[test]
fn twenty_five_requests_of_five_depositors_on_two_nodes_settle_to_the_credit() -> Result<()> {
    Scene::play("straight", 2, false, |scene| {
        let terms = Terms { deposit: 7 * CREDITS_PER_PRLX, ..Terms::DEMO };

        // Deposit and mirror.
        let depositors: Vec<Depositor> =
            (1..=DEPOSITORS).map(|number| scene.funded(&format!("depositor-{number}"), &terms)).collect::<Result<_>>()?;
        let opening = Books::read(scene, &depositors)?;
        let total = terms.deposit * DEPOSITORS as u64;
        ensure!((opening.deposited, opening.available, opening.debited) == (total, total, 0), "{opening:?}");

        // Hold, dispatch, stream.
        let mut answers = Vec::new();
        let mut batches = BTreeSet::new();
        for number in 0..ROUNDS {
            answers.extend(round(scene, &depositors, number)?);
            await_that("this round's receipts to be settled", || settled(scene, &depositors))?;
        }
        for (_, answer) in &answers {
            let cost = (answer.tokens()? * scene.plan.model_rate).div_ceil(1_000_000);
            ensure!(answer.cost()? == cost, "{} tokens cost {cost}, charged {}", answer.tokens()?, answer.cost()?);
            ensure!(answer.parallelix["fallback"] == false && !answer.text.is_empty(), "{answer:?}");
        }

        // Receipt, batch, payout.
        let mut served = BTreeSet::new();
        for (index, answer) in &answers {
            let depositor = depositors.get(*index).context("an unknown depositor")?;
            let receipt = depositor.api(&scene.meter())?.get(&answer.receipt_path()?)?.ok("a receipt")?;
            ensure!(receipt["cost_credits"] == answer.usage["cost_credits"], "receipt and usage differ: {receipt} {answer:?}");
            ensure!(receipt["batch"]["transaction"].is_string(), "a settled receipt names its transaction: {receipt}");
            ensure!(verify(scene, &receipt)?, "verifyReceipt refuses {receipt}");
            served.insert(receipt["receipt"]["operator"].as_u64());
            batches.insert(receipt["batch"]["seq"].as_u64());
        }
        ensure!(served.len() == 2, "both nodes should have served, only {served:?} did");
        ensure!(batches.len() >= 2, "several batches were expected, all was in {batches:?}");
        let books = Books::read(scene, &depositors)?;
        books.balance()?;
        let charged: u64 = answers.iter().map(|(_, answer)| answer.cost()).sum::<Result<u64>>()?;
        ensure!(books.charged == charged && answers.len() >= 20, "answers cost {charged}: {books:?}");

        claimed_credits_are_prlx(scene)
    })
}

/// What an operator is owed arrives at its payout address, in wei.
fn claimed_credits_are_prlx(scene: &Scene) -> Result<()> {
    for operator in &scene.operators {
        let (chain, deployment) = (&scene.chain, &scene.deployment);
        let payout = chain.call_one(&deployment.registry, "payoutOf(uint32)(address)", &[&operator.id.to_string()])?;
        let payout = payout.as_str().context("payoutOf returns an address")?.to_owned();
        let balance = || chain.call_number(&deployment.prlx, "balanceOf(address)(uint256)", &[&payout]);
        let (owed, before) = (claimable(scene, operator)?, balance()?);
        let anybody = xtask::chain::Sender::Unlocked(&deployment.faucet);
        chain.send(anybody, &deployment.credits, "claim(uint32)", &[&operator.id.to_string()])?;
        ensure!(balance()? - before == owed * 1_000_000_000, "operator {} was owed {owed} credits", operator.id);
        ensure!(claimable(scene, operator)? == 0, "operator {} is still owed", operator.id);
    }
    Ok(())
}

#[test]
fn a_second_start_continues_with_the_same_chain_ledger_and_key() -> Result<()> {
    Scene::play("restart", 1, false, |scene| {
        let depositors = [scene.funded("depositor", &Terms::DEMO)?];
        let api = depositors[0].api(&scene.meter())?;
        ask(&api, "What is the sea?", 8)?;
        await_that("the receipt to be settled", || settled(scene, &depositors))?;
        let before = Books::read(scene, &depositors)?;
        let available = || -> Result<Value> { Ok(api.get("/v1/credits")?.ok("asking for credits")?["available_credits"].clone()) };
        let left = available()?;

        for name in ["keeper", "node-1", "meter", "chain"] {
            scene.process(name)?.stop();
        }
        for name in ["chain", "meter", "node-1", "keeper"] {
            scene.restart(name)?;
        }

        ensure!(available()? == left, "credits changed over a restart");
        ensure!(Books::read(scene, &depositors)? == before, "the books changed over a restart");
        await_that("the node to be linked again", || Ok(ask(&api, "And the sky?", 8).is_ok()))?;
        await_that("the second receipt to be settled", || settled(scene, &depositors))?;
        Books::read(scene, &depositors)?.balance()
    })
}
