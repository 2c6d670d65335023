//! Accounts, operators, batches and stakes. Amounts are credits in 128 bits, so that nothing here can overflow; times are
//! seconds. An operation that is refused changes nothing.

/// Seconds between a revocation and the last debit.
pub const EXIT_DELAY: u128 = 3_600;
/// Seconds in which one transaction may debit an account.
pub const VELOCITY_WINDOW: u128 = 60;
/// No amount on the ledger is above this.
pub const MAX_CREDITS: u128 = i64::MAX as u128;
/// The most that one incident takes.
pub const INCIDENT_CAP: u128 = 1_000_000;
/// Credits that each payer and each operator starts with.
pub const FUNDS: u128 = 10_000_000;
/// Payers of the world; their accounts are opened by what they do first.
pub const PAYERS: usize = 4;
/// Operators of the world, ids 1 to 3, each its own payee.
pub const OPERATORS: usize = 3;
const HOUR: u128 = 3_600;
const BPS: u128 = 10_000;

/// Why an operation is refused; only that it is counts, the reason is for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused(pub &'static str);

type Outcome = Result<(), Refused>;

fn require(condition: bool, reason: &'static str) -> Outcome {
    if condition { Ok(()) } else { Err(Refused(reason)) }
}

/// One payer's account.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// Zero while it is not opened.
    pub id: u128,
    /// Ever debited.
    pub settled: u128,
    /// Deposits less withdrawals.
    pub deposited: u128,
    /// What the owner allowed to be debited, ever.
    pub authorized: u128,
    /// The most at risk at once.
    pub exposure: u128,
    /// The last debit.
    pub debited_at: u128,
    /// After it nothing can be debited.
    pub deadline: u128,
    /// Signatures used.
    pub nonce: u128,
    /// Credits outside, in the payer's wallet.
    pub wallet: u128,
    /// How far the transaction that debited last may go, and the number of that transaction.
    mark: (u128, u64),
}

impl Account {
    /// The lower of what is there and what is allowed.
    pub fn limit(&self) -> u128 {
        self.deposited.min(self.authorized)
    }

    fn live(&self, now: u128) -> bool {
        now <= self.deadline
    }

    fn locked(&self, now: u128) -> u128 {
        if self.live(now) { self.exposure.min(self.limit() - self.settled) } else { 0 }
    }
}

/// One operator.
#[derive(Clone, Debug, Default)]
pub struct Operator {
    /// Earned and not paid out.
    pub claimable: u128,
    /// At stake.
    pub staked: u128,
    /// On its way out.
    pub unbonding: u128,
    /// When that may leave.
    pub release_at: u128,
    /// Credits outside, in the operator's wallet.
    pub wallet: u128,
    slashable_from: u128,
}

/// When a suspension ends, and when the next may begin.
#[derive(Clone, Copy, Debug, Default)]
pub struct Suspension {
    /// The end.
    pub until: u128,
    next_from: u128,
}

impl Suspension {
    fn set(&mut self, suspend: bool, now: u128) -> Outcome {
        if suspend {
            require(now >= self.next_from, "it rests")?;
            *self = Self { until: now + 72 * HOUR, next_from: now + 144 * HOUR };
        } else {
            require(now < self.until, "nothing is suspended")?;
            *self = Self { until: now, next_from: now + 72 * HOUR };
        }
        Ok(())
    }
}

/// A row of a batch: the payer by index (one beyond the last is nobody), the operator by index, the cumulative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Index of the payer.
    pub payer: usize,
    /// Index of the operator.
    pub operator: usize,
    /// What `settled` shall be.
    pub cumulative: u128,
}

/// The whole state.
#[derive(Clone, Debug)]
pub struct Ledger {
    /// Seconds.
    pub now: u128,
    /// By index.
    pub accounts: [Account; PAYERS],
    /// By index.
    pub operators: [Operator; OPERATORS],
    /// Accounts opened.
    pub opened: u128,
    /// Fees not swept.
    pub fees: u128,
    /// Fee in force, basis points.
    pub fee_bps: u128,
    /// The last batch.
    pub seq: u128,
    /// Taken from stakes and not swept.
    pub slashed: u128,
    /// Fees and slashes swept.
    pub treasury: u128,
    /// Of deposits and authorizations.
    pub deposits: Suspension,
    /// Of the settler.
    pub settler: Suspension,
    proposed_fee: Option<(u128, u128)>,
    transaction: u64,
}

impl Ledger {
    /// Nobody has done anything.
    pub fn new(now: u128, fee_bps: u128) -> Self {
        let accounts = std::array::from_fn(|_| Account { wallet: FUNDS, ..Account::default() });
        let operators = std::array::from_fn(|_| Operator { wallet: FUNDS, ..Operator::default() });
        Self {
            now,
            accounts,
            operators,
            opened: 0,
            fees: 0,
            fee_bps,
            seq: 0,
            slashed: 0,
            treasury: 0,
            deposits: Suspension::default(),
            settler: Suspension::default(),
            proposed_fee: None,
            transaction: 0,
        }
    }

    /// Owed to payers, operators and the treasury; by I1 it is what the vault holds.
    pub fn liabilities(&self) -> u128 {
        let balances: u128 = self.accounts.iter().map(|account| account.deposited - account.settled).sum();
        let claimable: u128 = self.operators.iter().map(|operator| operator.claimable).sum();
        balances + claimable + self.fees
    }

    fn open(&mut self, payer: usize) {
        if self.accounts[payer].id == 0 {
            self.opened += 1;
            self.accounts[payer].id = self.opened;
        }
    }

    fn require_open_for_deposits(&self) -> Outcome {
        require(self.now >= self.deposits.until, "deposits are suspended")
    }

    /// `giver` pays for `payer`.
    pub fn deposit(&mut self, giver: usize, payer: usize, amount: u128) -> Outcome {
        self.require_open_for_deposits()?;
        require(amount > 0, "nothing to deposit")?;
        require(amount <= self.accounts[giver].wallet, "the giver has less")?;
        self.open(payer);
        self.accounts[giver].wallet -= amount;
        self.accounts[payer].deposited += amount;
        Ok(())
    }

    /// `valid_until` is the last moment of new spending.
    pub fn authorize(&mut self, payer: usize, cap: u128, exposure: u128, valid_until: u128, nonce: u128) -> Outcome {
        self.require_open_for_deposits()?;
        require(valid_until > self.now && valid_until + EXIT_DELAY < 1 << 40, "it is over, or beyond 40 bits")?;
        let (now, account) = (self.now, &self.accounts[payer]);
        require(nonce == account.nonce, "another nonce")?;
        let authorized = (account.settled + cap).min(MAX_CREDITS);
        let deadline = valid_until + EXIT_DELAY;
        let grows = exposure >= account.exposure && deadline >= account.deadline && authorized >= account.authorized;
        require(!account.live(now) || grows, "what is live may only grow")?;
        self.open(payer);
        let account = &mut self.accounts[payer];
        (account.authorized, account.exposure, account.deadline) = (authorized, exposure, deadline);
        account.nonce += 1;
        Ok(())
    }

    /// Whoever sends it.
    pub fn revoke(&mut self, payer: usize) -> Outcome {
        let (now, account) = (self.now, &mut self.accounts[payer]);
        require(account.id != 0, "no account")?;
        account.authorized = account.authorized.min(account.settled + account.exposure);
        account.deadline = account.deadline.min(now + EXIT_DELAY);
        account.nonce += 1;
        Ok(())
    }

    /// With the settler's signature over `settled` and `nonce`.
    pub fn close(&mut self, payer: usize, settled: u128, nonce: u128) -> Outcome {
        let (now, suspended) = (self.now, self.now < self.settler.until);
        let account = &mut self.accounts[payer];
        require(account.id != 0, "no account")?;
        require(settled == account.settled && nonce == account.nonce, "the clearance is outdated")?;
        require(!suspended, "the settler is suspended")?;
        if account.live(now) {
            account.deadline = now - 1;
        }
        Ok(())
    }

    /// To the payer's own wallet.
    pub fn withdraw(&mut self, payer: usize, amount: u128) -> Outcome {
        let (now, account) = (self.now, &mut self.accounts[payer]);
        require(account.id != 0 && amount > 0, "no account, or nothing to withdraw")?;
        require(amount <= account.deposited - account.settled - account.locked(now), "more than is free")?;
        account.deposited -= amount;
        account.wallet += amount;
        Ok(())
    }

    /// One transaction with one batch or more, of which none is refused or all are.
    pub fn settle(&mut self, batches: &[Vec<Row>]) -> Outcome {
        require(self.now >= self.settler.until, "the settler is suspended")?;
        self.transaction += 1;
        for rows in batches {
            self.seq += 1;
            for group in rows.chunk_by(|left, right| left.operator == right.operator) {
                let total: u128 = group.iter().map(|row| self.debit(row)).sum();
                let fee = total * self.fee_bps / BPS;
                self.fees += fee;
                self.operators[group[0].operator].claimable += total - fee;
            }
        }
        Ok(())
    }

    /// What the row moves: up to what it asks for, the limit, one exposure a transaction, one transaction a window.
    fn debit(&mut self, row: &Row) -> u128 {
        let (now, transaction) = (self.now, self.transaction);
        let Some(account) = self.accounts.get_mut(row.payer).filter(|account| account.id != 0) else { return 0 };
        if row.cumulative <= account.settled {
            return 0;
        }
        let reach = account.settled + account.exposure;
        let rested = now >= account.debited_at + VELOCITY_WINDOW;
        let ceiling = match account.mark {
            _ if rested => {
                account.mark = (reach, transaction);
                reach
            }
            (mark, of) if of == transaction => mark.min(reach),
            _ => 0,
        };
        let ceiling = if account.live(now) { ceiling.min(account.limit()) } else { 0 };
        let reached = row.cumulative.min(ceiling).max(account.settled);
        let moved = reached - account.settled;
        if moved > 0 {
            (account.settled, account.debited_at) = (reached, now);
        }
        moved
    }

    /// Nothing to claim is no error.
    pub fn claim(&mut self, operator: usize) {
        let operator = &mut self.operators[operator];
        operator.wallet += std::mem::take(&mut operator.claimable);
    }

    /// Fees to the treasury.
    pub fn sweep(&mut self) {
        self.treasury += std::mem::take(&mut self.fees);
    }

    /// Slashes to the treasury.
    pub fn sweep_slashed(&mut self) {
        self.treasury += std::mem::take(&mut self.slashed);
    }

    /// Into the registry.
    pub fn stake(&mut self, operator: usize, amount: u128) -> Outcome {
        let operator = &mut self.operators[operator];
        require(amount > 0 && amount <= operator.wallet, "nothing, or more than there is")?;
        operator.wallet -= amount;
        operator.staked += amount;
        Ok(())
    }

    /// Every call starts the week anew for all that is unbonding.
    pub fn unstake(&mut self, operator: usize, amount: u128) -> Outcome {
        let release_at = self.now + 7 * 24 * HOUR;
        let operator = &mut self.operators[operator];
        require(amount > 0 && amount <= operator.staked, "nothing, or more than is staked")?;
        operator.staked -= amount;
        operator.unbonding += amount;
        operator.release_at = release_at;
        Ok(())
    }

    /// What is unbonded.
    pub fn withdraw_stake(&mut self, operator: usize) -> Outcome {
        let (now, operator) = (self.now, &mut self.operators[operator]);
        require(operator.unbonding > 0 && now >= operator.release_at, "nothing, or too early")?;
        operator.wallet += std::mem::take(&mut operator.unbonding);
        Ok(())
    }

    /// First what is staked, then what is unbonding; each incident is used once by construction of the streams.
    pub fn slash(&mut self, operator: usize, amount: u128) -> Outcome {
        let (now, operator) = (self.now, &mut self.operators[operator]);
        require(amount > 0 && amount <= INCIDENT_CAP, "nothing, or above the cap")?;
        require(now >= operator.slashable_from, "slashed less than a day ago")?;
        require(amount <= operator.staked + operator.unbonding, "more than it has")?;
        let from_staked = amount.min(operator.staked);
        operator.staked -= from_staked;
        operator.unbonding -= amount - from_staked;
        operator.slashable_from = now + 24 * HOUR;
        self.slashed += amount;
        Ok(())
    }

    /// The guardian's.
    pub fn suspend_deposits(&mut self, suspend: bool) -> Outcome {
        self.deposits.set(suspend, self.now)
    }

    /// The guardian's.
    pub fn suspend_settler(&mut self, suspend: bool) -> Outcome {
        self.settler.set(suspend, self.now)
    }

    /// The owner's.
    pub fn propose_fee(&mut self, fee_bps: u128) -> Outcome {
        require(fee_bps <= 3_000, "above the ceiling")?;
        self.proposed_fee = Some((fee_bps, self.now + 2 * EXIT_DELAY));
        Ok(())
    }

    /// Within a week of being ready.
    pub fn accept_fee(&mut self) -> Outcome {
        let Some((fee_bps, ready_at)) = self.proposed_fee else { return Err(Refused("nothing is proposed")) };
        require(self.now >= ready_at && self.now <= ready_at + 7 * 24 * HOUR, "too early or lapsed")?;
        self.fee_bps = fee_bps;
        self.proposed_fee = None;
        Ok(())
    }
}
