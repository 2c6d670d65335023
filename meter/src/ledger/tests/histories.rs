//! Random histories, checked against a plain model and against the other store.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};

use super::*;

/// Steps that may follow each other in any order. Small ranges, so that they meet.
#[derive(Clone, Debug)]
enum Step {
    Deposit {
        account: u32,
        amount: u64,
    },
    Withdraw {
        account: u32,
        amount: u64,
    },
    Authorize {
        account: u32,
        authorized_cum: u64,
        exposure: u64,
    },
    /// A block without events, so much later than the last one; with zero, as late as the meter's clock.
    Mine {
        seconds: u64,
    },
    Clear {
        account: u32,
    },
    /// The owner takes one of the clearances that were ever given to the vault, which does what it does.
    Close {
        account: u32,
        given: usize,
    },
    Reorg,
    Hold {
        account: u32,
        seed: u64,
        amount: u32,
    },
    Capture {
        seed: u64,
        amount: u32,
        signed: bool,
    },
    Release {
        seed: u64,
    },
    Sign {
        seed: u64,
    },
    Deliver {
        seed: u64,
        tokens: u32,
    },
    Pass {
        seconds: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let (account, seed) = (1u32..4, 1u64..16);
    prop_oneof![
        3 => (account.clone(), 1u64..400).prop_map(|(account, amount)| Step::Deposit { account, amount }),
        2 => (account.clone(), 1u64..200).prop_map(|(account, amount)| Step::Withdraw { account, amount }),
        2 => (account.clone(), 0u64..900, 0u64..500)
            .prop_map(|(account, authorized_cum, exposure)| Step::Authorize { account, authorized_cum, exposure }),
        3 => prop_oneof![Just(0), 1u64..700].prop_map(|seconds| Step::Mine { seconds }),
        4 => account.clone().prop_map(|account| Step::Clear { account }),
        1 => (account.clone(), any::<usize>()).prop_map(|(account, given)| Step::Close { account, given }),
        1 => Just(Step::Reorg),
        8 => (account, seed.clone(), 2u32..120).prop_map(|(account, seed, amount)| Step::Hold { account, seed, amount }),
        6 => (seed.clone(), 2u32..120, any::<bool>()).prop_map(|(seed, amount, signed)| Step::Capture { seed, amount, signed }),
        2 => seed.clone().prop_map(|seed| Step::Release { seed }),
        2 => seed.clone().prop_map(|seed| Step::Sign { seed }),
        2 => (seed, 1u32..60).prop_map(|(seed, tokens)| Step::Deliver { seed, tokens }),
        1 => (1u64..40_000).prop_map(|seconds| Step::Pass { seconds }),
    ]
}

#[derive(Clone, Debug, Default, PartialEq)]
struct ModelPayer {
    /// Goes below zero where the ledger writes off.
    available: i64,
    held: i64,
    unsettled: i64,
    net_deposited: i64,
    authorized_cum: i64,
    exposure: i64,
    authorized: bool,
    /// Whether the vault keeps anything back, but for time.
    kept: bool,
    nonce: u32,
    /// Nonce and deadline of the clearance that was given last.
    promise: Option<(u32, u64)>,
}

#[derive(Clone, Debug)]
struct ModelHold {
    account: u32,
    amount: i64,
    open: bool,
    expires_at: u64,
    delivered: u32,
    dispatched: bool,
    /// Ended by the sweep, so with a hash that no test's receipt has.
    recovered: bool,
    /// Charge, whether signed, since when, whether refunded.
    charge: Option<(i64, bool, u64, bool)>,
}

/// The same rules, written as plainly as can be: one map, no transfers, no write-off account.
#[derive(Clone, Debug, Default)]
struct Model {
    now: u64,
    /// Time of the chain's newest block.
    chain_time: u64,
    /// Account, nonce and deadline of every clearance that was given. Those that a block killed are forgotten: blocks that count stay.
    clearances: Vec<(u32, u32, u64)>,
    payers: BTreeMap<u32, ModelPayer>,
    holds: BTreeMap<u64, ModelHold>,
}

impl ModelPayer {
    fn closing(&self, chain_time: u64) -> Option<u64> {
        self.promise.filter(|(nonce, deadline)| self.nonce <= *nonce && chain_time <= *deadline).map(|(_, deadline)| deadline)
    }
}

impl Model {
    /// As `clear` of the ledger, in words.
    fn clear(&mut self, account: u32) -> String {
        let now = self.now.max(self.chain_time);
        let Some(payer) = self.payers.get_mut(&account) else { return "unknown".to_owned() };
        if !payer.kept || now > NOW + 103_600 {
            return "nothing kept".to_owned();
        } else if payer.held + payer.unsettled > 0 {
            return format!("outstanding {} {}", payer.held, payer.unsettled);
        }
        let standing = payer.closing(self.chain_time);
        let (nonce, earlier) = payer.promise.unwrap_or_default();
        let deadline = match standing {
            Some(until) if nonce != payer.nonce => return format!("standing {until}"),
            Some(until) if now <= until => until,
            _ => (now + 600).max(earlier),
        };
        payer.promise = Some((payer.nonce, deadline));
        self.clearances.push((account, payer.nonce, deadline));
        format!("cleared {} {deadline}", payer.nonce)
    }

    /// The vault's own rule, at a block of this time.
    fn takes(&self, (account, nonce, deadline): (u32, u32, u64), time: u64) -> bool {
        time <= deadline && self.payers.get(&account).is_some_and(|payer| payer.nonce == nonce)
    }

    fn forget_dead_clearances(&mut self) {
        let Self { payers, chain_time, clearances, .. } = self;
        let dead = |account: u32, nonce: u32| payers.get(&account).is_none_or(|payer| payer.nonce > nonce);
        clearances.retain(|(account, nonce, deadline)| *chain_time <= *deadline && !dead(*account, *nonce));
    }

    fn hold(&mut self, account: u32, seed: u64, amount: i64) -> String {
        if let Some(hold) = self.holds.get(&seed) {
            return if (hold.account, hold.amount) == (account, amount) { "held again" } else { "conflict" }.to_owned();
        }
        let Some(payer) = self.payers.get_mut(&account) else { return "authorization".to_owned() };
        let used = payer.held + payer.unsettled;
        if !payer.authorized || self.now >= NOW + 100_000 {
            return "authorization".to_owned();
        } else if let Some(until) = payer.closing(self.chain_time) {
            return format!("closing {until}");
        } else if amount > payer.available {
            return format!("credits {}", payer.available.max(0));
        } else if used + amount > payer.exposure {
            return format!("exposure {}", (payer.exposure - used).max(0));
        } else if used + amount > payer.authorized_cum {
            return format!("cap {}", (payer.authorized_cum - used).max(0));
        }
        payer.available -= amount;
        payer.held += amount;
        let expires_at = NOW + 600;
        self.holds.insert(
            seed,
            ModelHold { account, amount, open: true, expires_at, delivered: 0, dispatched: false, recovered: false, charge: None },
        );
        "held".to_owned()
    }

    fn end(&mut self, seed: u64, charge: Option<(i64, bool)>) {
        let hold = self.holds.get_mut(&seed).unwrap();
        let payer = self.payers.get_mut(&hold.account).unwrap();
        let charged = charge.map_or(0, |(amount, _)| amount);
        payer.held -= hold.amount;
        payer.available += hold.amount - charged;
        payer.unsettled += charged;
        hold.open = false;
        hold.charge = charge.map(|(amount, signed)| (amount, signed, self.now, false));
    }

    fn capture(&mut self, seed: u64, amount: i64, signed: bool) -> String {
        let Some(hold) = self.holds.get_mut(&seed) else { return "unknown".to_owned() };
        if hold.open {
            if amount > hold.amount {
                return "above".to_owned();
            }
            self.end(seed, Some((amount, signed)));
            return format!("captured {amount}");
        }
        match &mut hold.charge {
            None => "released".to_owned(),
            Some((charged, ..)) if *charged != amount => format!("other {charged}"),
            Some(_) if hold.recovered => format!("other {amount}"),
            Some((_, _, _, true)) if signed => format!("other {amount}"),
            Some((_, is_signed, ..)) => {
                *is_signed |= signed;
                format!("captured again {amount}")
            }
        }
    }

    fn sweep(&mut self) {
        for seed in self.holds.keys().copied().collect::<Vec<_>>() {
            let hold = self.holds[&seed].clone();
            if hold.open && hold.expires_at <= self.now {
                let delivered = i64::from(hold.delivered) + 1;
                let charge = (hold.dispatched && hold.delivered > 0 && delivered <= hold.amount).then_some((delivered, false));
                self.end(seed, charge);
                self.holds.entry(seed).and_modify(|hold| hold.recovered = true);
            }
        }
        for hold in self.holds.values_mut() {
            if let Some((amount, false, since, refunded @ false)) = &mut hold.charge
                && *since + 86_400 <= self.now
            {
                *refunded = true;
                let payer = self.payers.get_mut(&hold.account).unwrap();
                payer.unsettled -= *amount;
                payer.available += *amount;
            }
        }
    }
}

fn said<T>(answer: Result<T, HoldRefusal>, again: impl FnOnce(T) -> bool) -> String {
    match answer {
        Ok(held) => if again(held) { "held again" } else { "held" }.to_owned(),
        Err(HoldRefusal::AuthorizationRequired { .. }) => "authorization".to_owned(),
        Err(HoldRefusal::Closing { until, .. }) => format!("closing {until}"),
        Err(HoldRefusal::InsufficientCredits { available, .. }) => format!("credits {}", available.get()),
        Err(HoldRefusal::ExposureExceeded { available, .. }) => format!("exposure {}", available.get()),
        Err(HoldRefusal::CapExceeded { available, .. }) => format!("cap {}", available.get()),
        Err(HoldRefusal::Conflict { .. }) => "conflict".to_owned(),
        Err(other) => other.to_string(),
    }
}

fn captured(answer: Result<Captured, CaptureError>) -> String {
    match answer {
        Ok(captured) if captured.replayed => format!("captured again {}", captured.amount.get()),
        Ok(captured) => format!("captured {}", captured.amount.get()),
        Err(CaptureError::Unknown { .. }) => "unknown".to_owned(),
        Err(CaptureError::Released { .. }) => "released".to_owned(),
        Err(CaptureError::AboveHold { .. }) => "above".to_owned(),
        Err(CaptureError::Conflict { amount, .. }) => format!("other {}", amount.get()),
        Err(other) => other.to_string(),
    }
}

fn cleared(answer: Result<Clearance, ClearanceRefusal>) -> String {
    match answer {
        Ok(Clearance { auth_nonce, deadline, .. }) => format!("cleared {auth_nonce} {deadline}"),
        Err(ClearanceRefusal::NothingKept) => "nothing kept".to_owned(),
        Err(ClearanceRefusal::Outstanding { held, unsettled }) => format!("outstanding {} {}", held.get(), unsettled.get()),
        Err(ClearanceRefusal::Standing { until }) => format!("standing {until}"),
        Err(ClearanceRefusal::Ledger(LedgerError::UnknownAccount { .. })) => "unknown".to_owned(),
        Err(other) => other.to_string(),
    }
}

/// Plays a history on a ledger and on the model beside it.
struct Play {
    ground: Ground,
    ledger: Ledger,
    model: Model,
    chain: TestChain,
    /// The chain and the payers' facts one block ago, for a reorg.
    before: Option<(TestChain, BTreeMap<u32, ModelPayer>)>,
}

impl Play {
    async fn facts(&mut self, account: u32, facts: impl FnOnce(&mut ModelPayer) -> Fact) {
        if !self.model.payers.contains_key(&account) {
            self.mine(vec![opened(AccountId(account))]).await;
        }
        let payer = self.model.payers.entry(account).or_default();
        self.before = Some((self.chain.clone(), BTreeMap::from([(account, payer.clone())])));
        let fact = facts(payer);
        self.mine(vec![fact]).await;
    }

    async fn mine(&mut self, facts: Vec<Fact>) {
        self.chain.mine(&self.ledger, facts).await;
        self.model.chain_time = self.chain.tip.unwrap().timestamp;
        self.model.forget_dead_clearances();
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Deposit { account, amount } => {
                self.facts(account, |payer| {
                    payer.available += amount as i64;
                    payer.net_deposited += amount as i64;
                    deposited(AccountId(account), amount, payer.net_deposited as u64)
                })
                .await;
            }
            Step::Withdraw { account, amount } => {
                let net = self.model.payers.get(&account).map_or(0, |payer| payer.net_deposited);
                if net >= amount as i64 {
                    self.facts(account, |payer| {
                        payer.available -= amount as i64;
                        payer.net_deposited -= amount as i64;
                        Fact::Withdrawn { account: AccountId(account), amount, net_deposited: payer.net_deposited as u64 }
                    })
                    .await;
                }
            }
            Step::Authorize { account, authorized_cum, exposure } => {
                self.facts(account, |payer| {
                    payer.authorized_cum = authorized_cum as i64;
                    payer.exposure = exposure as i64;
                    (payer.authorized, payer.kept, payer.nonce) = (true, true, payer.nonce + 1);
                    authorized_again(AccountId(account), authorized_cum, exposure, payer.nonce - 1)
                })
                .await;
            }
            Step::Mine { seconds } => {
                if self.chain.tip.is_some() {
                    self.before = Some((self.chain.clone(), BTreeMap::new()));
                }
                let catch_up = self.model.now.saturating_sub(self.model.chain_time);
                self.chain.ahead_s += if seconds == 0 { catch_up } else { seconds };
                self.mine(vec![]).await;
            }
            Step::Clear { account } => {
                let expected = self.model.clear(account);
                assert_eq!(cleared(self.ledger.give_clearance(AccountId(account)).await), expected, "clear {account}");
            }
            Step::Close { account, given } => {
                let time = self.model.chain_time + 1;
                let given = self.model.clearances.get(given % self.model.clearances.len().max(1)).copied();
                if given.is_some_and(|given| given.0 == account && self.model.takes(given, time)) {
                    self.facts(account, |payer| {
                        (payer.authorized, payer.kept) = (false, false);
                        Fact::Closed { account: AccountId(account) }
                    })
                    .await;
                }
            }
            Step::Reorg => self.reorg().await,
            Step::Hold { account, seed, amount } => {
                let expected = self.model.hold(account, seed, i64::from(amount));
                let actual = said(self.ledger.hold(hold(AccountId(account), seed, amount)).await, |held| held.replayed);
                assert_eq!(actual, expected, "hold {seed}");
            }
            Step::Capture { seed, amount, signed } => {
                let account = self.model.holds.get(&seed).map_or(1, |hold| hold.account);
                let expected = self.model.capture(seed, i64::from(amount), signed);
                let signature = signed.then(signature);
                let actual = captured(self.ledger.capture(capture(receipt(AccountId(account), seed, amount), signature)).await);
                assert_eq!(actual, expected, "capture {seed}");
            }
            Step::Release { seed } => {
                if self.model.holds.get(&seed).is_some_and(|hold| hold.open) {
                    self.model.end(seed, None);
                }
                self.ledger.release(id(seed), "cancelled").await.unwrap();
            }
            Step::Sign { seed } => self.sign(seed).await,
            Step::Deliver { seed, tokens } => {
                let account = self.model.holds.get(&seed).map_or(1, |hold| hold.account);
                if let Some(hold) = self.model.holds.get_mut(&seed).filter(|hold| hold.open) {
                    hold.dispatched = true;
                    hold.delivered = hold.delivered.max(tokens);
                }
                self.ledger.dispatched(template(AccountId(account), seed));
                self.ledger.checkpoint(id(seed), tokens, B256::repeat_byte(9));
                self.ledger.sweep().await.unwrap();
                self.model.sweep();
            }
            Step::Pass { seconds } => {
                self.model.now += seconds;
                self.ground.clock.advance_ms(seconds * 1_000);
                self.ledger.sweep().await.unwrap();
                self.model.sweep();
            }
        }
    }

    async fn reorg(&mut self) {
        let Some((chain, payers)) = self.before.take() else { return };
        let tip = chain.tip.unwrap();
        self.ledger.rewind(ORIGIN, self.chain.tip.unwrap(), tip).await.unwrap();
        let salt = self.chain.salt + 1;
        self.chain = TestChain { salt, ..chain };
        self.model.chain_time = tip.timestamp;
        for (account, before) in payers {
            let payer = self.model.payers.get_mut(&account).unwrap();
            payer.available += before.net_deposited - payer.net_deposited;
            let money = (payer.available, payer.held, payer.unsettled);
            let promise = payer.promise;
            *payer = ModelPayer { available: money.0, held: money.1, unsettled: money.2, promise, ..before };
        }
    }

    async fn sign(&mut self, seed: u64) {
        let Some(hold) = self.model.holds.get_mut(&seed) else { return };
        let Some((amount, signed, _, refunded)) = &mut hold.charge else { return };
        let Some(stored) = self.ledger.receipt(id(seed)).await.unwrap() else { panic!("no receipt {seed}") };
        assert_eq!(stored.receipt.amount.as_i64(), *amount);
        let attached = self.ledger.attach_signature(&stored.receipt, signature()).await;
        if *refunded {
            assert!(matches!(attached, Err(AttachError::Refunded { .. })));
        } else {
            *signed = true;
            assert_eq!(attached.unwrap(), ReceiptState::Signed);
        }
    }

    async fn check(&self) {
        for (account, payer) in &self.model.payers {
            let expected = (payer.available.max(0) as u64, payer.held as u64, payer.unsettled as u64);
            assert_eq!(money(&self.ledger, AccountId(*account)).await, expected, "account {account}");
        }
        // Nothing is outstanding for as long as the vault takes any clearance that was ever given, in the next block or later.
        for given in &self.model.clearances {
            let payer = &self.model.payers[&given.0];
            let takes = self.model.takes(*given, self.model.chain_time);
            assert!(!takes || !payer.kept || payer.held + payer.unsettled == 0, "{given:?} may be used, with {payer:?}");
        }
        assert_clean(&self.ledger).await;
    }
}

async fn play(ground: Ground, history: Vec<Step>) {
    let ledger = ground.open().await;
    let model = Model { now: NOW, ..Model::default() };
    let mut play = Play { ground, ledger, model, chain: TestChain::new(), before: None };
    for step in history {
        play.take(step).await;
        play.check().await;
    }
    play.ledger.close().await;
}

/// Histories of one seed, so that both stores play the same.
fn histories(count: usize, steps: usize) -> Vec<Vec<Step>> {
    let mut runner = TestRunner::new_with_rng(Config::default(), proptest::test_runner::TestRng::deterministic_rng(Default::default()));
    let history = proptest::collection::vec(step(), steps);
    (0..count).map(|_| history.new_tree(&mut runner).unwrap().current()).collect()
}

behaviours!(every_history_ends_as_in_the_model);

async fn every_history_ends_as_in_the_model(ground: Ground) {
    for history in histories(1, 120) {
        play(ground.clone(), history).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twelve_more_histories_end_as_in_the_model_on_sqlite() {
    for history in histories(13, 60).split_off(1) {
        on_sqlite(|ground| play(ground, history)).await;
    }
}
