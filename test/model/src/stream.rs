//! Random operations on the world, and a stream of them as bytes.
//!
//! A stream is records of `RECORD_WORDS` big-endian 64-bit words: the operation (`kind, seconds before it, a, b, c, d, e, rows`,
//! then four rows of `account id, operator id, cumulative`), whether it succeeds, and the state after it.

use crate::ledger::{EXIT_DELAY, INCIDENT_CAP, Ledger, OPERATORS, PAYERS, Refused, Row, VELOCITY_WINDOW};

/// Words of one record.
pub const RECORD_WORDS: usize = OPERATION_WORDS + STATE_WORDS;
const OPERATION_WORDS: usize = 20;
const STATE_WORDS: usize = 1 + 10 * PAYERS + 5 * OPERATORS + 9;
/// When every stream begins.
pub const START: u128 = 1_800_000_000;
const FEE_BPS: u128 = 1_000;
const MOST_ROWS: usize = 4;
/// Id of an account that never exists.
const NOBODY: u128 = 99;

/// SplitMix64: the same numbers for a seed on every machine and with every version of every crate.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u128) -> u128 {
        u128::from(self.next()) % bound
    }

    fn index(&mut self, bound: usize) -> usize {
        self.below(bound as u128) as usize
    }

    fn one_in(&mut self, bound: u128) -> bool {
        self.below(bound) == 0
    }
}

/// An operation as words, before and after the rows.
#[derive(Default)]
struct Operation {
    kind: u128,
    arguments: [u128; 5],
    rows: Vec<Row>,
}

/// `operations` records for `seed`.
pub fn stream(seed: u64, operations: usize) -> Vec<u8> {
    let mut random = Random(seed);
    let mut ledger = Ledger::new(START, FEE_BPS);
    let mut bytes = Vec::with_capacity(operations * RECORD_WORDS * 8);
    for number in 0..operations {
        let seconds = pause(&mut random);
        ledger.now += seconds;
        let (operation, succeeds) = step(&mut random, &mut ledger, number as u128);
        let mut words = vec![operation.kind, seconds];
        words.extend(operation.arguments);
        words.push(operation.rows.len() as u128);
        for place in 0..MOST_ROWS {
            let row = operation.rows.get(place);
            words.extend(row.map_or([0; 3], |row| [id(&ledger, row.payer), row.operator as u128 + 1, row.cumulative]));
        }
        words.push(u128::from(succeeds));
        words.extend(state(&ledger));
        bytes.extend(words.iter().flat_map(|word| (*word as u64).to_be_bytes()));
    }
    bytes
}

/// Half of the operations share a block with the one before.
fn pause(random: &mut Random) -> u128 {
    match random.below(20) {
        0..10 => 0,
        10..15 => random.below(2 * VELOCITY_WINDOW),
        15..19 => random.below(2 * EXIT_DELAY),
        _ => random.below(8 * 24 * 3_600),
    }
}

/// An account's id on the chain; one that is not opened yet has none, and id 0 is nobody's.
fn id(ledger: &Ledger, payer: usize) -> u128 {
    ledger.accounts.get(payer).map_or(NOBODY, |account| account.id)
}

/// Draws one operation, with arguments at and beside what is allowed, and does it.
fn step(random: &mut Random, ledger: &mut Ledger, number: u128) -> (Operation, bool) {
    let payer = random.index(PAYERS);
    let operator = random.index(OPERATORS);
    let (a, o) = (payer as u128, operator as u128);
    let kind = random.below(24);
    let operation = |kind: u128, arguments: [u128; 5]| Operation { kind, arguments, rows: Vec::new() };
    let (operation, outcome) = match kind {
        0..3 => {
            let (giver, amount) = (random.index(PAYERS), random.below(10_000));
            (operation(0, [giver as u128, a, amount, 0, 0]), ledger.deposit(giver, payer, amount))
        }
        3..6 => authorize(random, ledger, payer),
        6 => (operation(2, [a, random.below(2), 0, 0, 0]), ledger.revoke(payer)),
        7 => {
            let account = &ledger.accounts[payer];
            let settled = account.settled + u128::from(random.one_in(4));
            let nonce = account.nonce + u128::from(random.one_in(4));
            (operation(3, [a, settled, nonce, 0, 0]), ledger.close(payer, settled, nonce))
        }
        8..10 => {
            let account = &ledger.accounts[payer];
            let most = account.deposited - account.settled + 2;
            let amount = random.below(most);
            (operation(4, [a, amount, 0, 0, 0]), ledger.withdraw(payer, amount))
        }
        10..15 => settle(random, ledger),
        15 => {
            ledger.claim(operator);
            (operation(6, [o, 0, 0, 0, 0]), Ok(()))
        }
        16 => {
            (0..OPERATORS).for_each(|operator| ledger.claim(operator));
            (operation(7, [0; 5]), Ok(()))
        }
        17 => {
            if random.one_in(2) {
                ledger.sweep();
                (operation(8, [0; 5]), Ok(()))
            } else {
                ledger.sweep_slashed();
                (operation(9, [0; 5]), Ok(()))
            }
        }
        18 => {
            let amount = random.below(2 * INCIDENT_CAP);
            (operation(10, [o, amount, 0, 0, 0]), ledger.stake(operator, amount))
        }
        19 => {
            let amount = random.below(ledger.operators[operator].staked + 2);
            (operation(11, [o, amount, 0, 0, 0]), ledger.unstake(operator, amount))
        }
        20 => (operation(12, [o, 0, 0, 0, 0]), ledger.withdraw_stake(operator)),
        21 => {
            let amount = random.below(INCIDENT_CAP + 100_000);
            (operation(13, [o, amount, number, 0, 0]), ledger.slash(operator, amount))
        }
        22 => guard(random, ledger),
        _ => {
            if random.one_in(2) {
                let fee_bps = random.below(3_100);
                (operation(16, [fee_bps, 0, 0, 0, 0]), ledger.propose_fee(fee_bps))
            } else {
                (operation(17, [0; 5]), ledger.accept_fee())
            }
        }
    };
    (operation, outcome.is_ok())
}

fn authorize(random: &mut Random, ledger: &mut Ledger, payer: usize) -> (Operation, Result<(), Refused>) {
    let account = &ledger.accounts[payer];
    let cap = match random.below(8) {
        0 => u128::from(u64::MAX),
        1 => account.authorized.saturating_sub(account.settled),
        _ => random.below(20_000),
    };
    let exposure = if random.one_in(4) { account.exposure } else { random.below(2_000) };
    // From a second ago on.
    let valid_until = ledger.now - 1 + random.below(6 * 3_600);
    let nonce = account.nonce + u128::from(random.one_in(8));
    let outcome = ledger.authorize(payer, cap, exposure, valid_until, nonce);
    (Operation { kind: 1, arguments: [payer as u128, cap, exposure, valid_until, nonce], rows: Vec::new() }, outcome)
}

/// Rows of anybody, stale, within and far beyond; a third of them as two batches of one transaction.
fn settle(random: &mut Random, ledger: &mut Ledger) -> (Operation, Result<(), Refused>) {
    let count = 1 + random.index(MOST_ROWS);
    let mut rows = Vec::with_capacity(count);
    for _ in 0..count {
        let payer = random.index(PAYERS + 1);
        let settled = ledger.accounts.get(payer).map_or(0, |account| account.settled);
        let cumulative = match random.below(8) {
            0 => settled.saturating_sub(random.below(100)),
            1 => u128::from(u64::MAX),
            _ => settled + random.below(1_500),
        };
        rows.push(Row { payer, operator: random.index(OPERATORS), cumulative });
    }
    let first = if count > 1 && random.one_in(3) { 1 + random.index(count - 1) } else { count };
    let batches: Vec<Vec<Row>> =
        [&rows[..first], &rows[first..]].into_iter().filter(|rows| !rows.is_empty()).map(<[Row]>::to_vec).collect();
    let outcome = ledger.settle(&batches);
    (Operation { kind: 5, arguments: [first as u128, 0, 0, 0, 0], rows }, outcome)
}

/// The guardian suspends seldom, so that the rest of the stream is not idle.
fn guard(random: &mut Random, ledger: &mut Ledger) -> (Operation, Result<(), Refused>) {
    let suspend = random.one_in(3);
    let arguments = [u128::from(suspend), 0, 0, 0, 0];
    if random.one_in(2) {
        (Operation { kind: 14, arguments, rows: Vec::new() }, ledger.suspend_deposits(suspend))
    } else {
        (Operation { kind: 15, arguments, rows: Vec::new() }, ledger.suspend_settler(suspend))
    }
}

fn state(ledger: &Ledger) -> Vec<u128> {
    let mut words = Vec::with_capacity(STATE_WORDS);
    for a in &ledger.accounts {
        words.extend([a.id, a.settled, a.limit(), a.exposure, a.debited_at, a.deadline, a.deposited, a.authorized, a.nonce, a.wallet]);
    }
    for o in &ledger.operators {
        words.extend([o.claimable, o.staked, o.unbonding, o.release_at, o.wallet]);
    }
    words.extend([ledger.opened, ledger.fees, ledger.fee_bps, ledger.seq, ledger.slashed, ledger.treasury, ledger.liabilities()]);
    words.extend([ledger.deposits.until, ledger.settler.until]);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `cargo run -p model -- --seed 1 --operations 250` writes; forge replays it at every test run.
    #[test]
    fn the_committed_stream_is_what_the_model_says() {
        assert!(stream(1, 250) == include_bytes!("../../vectors/model.bin"), "write test/vectors/model.bin anew");
    }

    #[test]
    fn streams_have_both_outcomes_of_every_kind_and_end_rich_in_state() {
        let bytes = stream(7, 5_000);
        let word = |record: usize, place: usize| {
            let at = (record * RECORD_WORDS + place) * 8;
            bytes[at..at + 8].iter().fold(0_u64, |value, byte| value << 8 | u64::from(*byte))
        };
        let outcomes =
            |kind: u64, outcome: u64| (0..5_000).any(|record| word(record, 0) == kind && word(record, OPERATION_WORDS) == outcome);
        for kind in 0..18 {
            assert!(outcomes(kind, 1), "kind {kind} never succeeds");
            let always = (6..10).contains(&kind);
            assert!(always || outcomes(kind, 0), "kind {kind} is never refused");
        }
        assert!(word(4_999, OPERATION_WORDS + 2) > 0, "somebody was debited");
    }
}
