//! The audit: what must be equal in the books, read in one snapshot.

use super::accounts::LedgerAccount;
use super::error::LedgerError;
use super::store::Store;
use super::types::{AuditReport, Finding};

/// Most findings of one rule.
const FINDINGS_MAX: u32 = 100;

/// Name of a rule, and a query of subject, expected and actual for all that may differ. Codes of accounts: kind × 2^32 + id, kind 2
/// being payer, 3 held, 4 unsettled, 5 settled.
const RULES: &[(&str, &str)] = &[
    (
        "every balance is the sum of its entries",
        "SELECT CAST(COALESCE(entries.account, cached.account) AS TEXT), COALESCE(entries.total, 0), COALESCE(cached.balance, 0)
         FROM (SELECT account, CAST(SUM(amount) AS BIGINT) AS total
               FROM (SELECT target AS account, amount FROM transfers UNION ALL SELECT source, -amount FROM transfers) AS movements
               GROUP BY account) AS entries
         FULL OUTER JOIN (SELECT 8589934592 + account AS account, available AS balance FROM payers
               UNION ALL SELECT 12884901888 + account, held FROM payers
               UNION ALL SELECT account, balance FROM balances) AS cached ON entries.account = cached.account",
    ),
    (
        "all balances together are nothing",
        "SELECT 'all', CAST(0 AS BIGINT), CAST(COALESCE((SELECT SUM(balance) FROM balances), 0)
             + COALESCE((SELECT SUM(available + held) FROM payers), 0) AS BIGINT)",
    ),
    (
        "the vault is the opposite of what was deposited less withdrawn",
        "SELECT 'vault', CAST(-COALESCE((SELECT SUM(net_deposited) FROM payers), 0) AS BIGINT),
             CAST(COALESCE((SELECT balance FROM balances WHERE account = 4294967296), 0) AS BIGINT)",
    ),
    (
        "write-offs are what payers owe back",
        "SELECT 'write_off', CAST(-COALESCE((SELECT SUM(written_off) FROM payers), 0) AS BIGINT),
             CAST(COALESCE((SELECT balance FROM balances WHERE account = 30064771072), 0) AS BIGINT)",
    ),
    (
        "what was debited on chain is with operators and fees",
        "SELECT 'settled', CAST(COALESCE((SELECT SUM(settled) FROM payers), 0) AS BIGINT),
             CAST(COALESCE((SELECT SUM(balance) FROM balances WHERE account >> 32 IN (5, 6)), 0) AS BIGINT)",
    ),
    (
        "a payer's money is what the chain has of it",
        "SELECT CAST(account AS TEXT), net_deposited - settled, available + held + unsettled - written_off FROM payers",
    ),
    (
        "held is the sum of open holds",
        "SELECT CAST(payers.account AS TEXT), CAST(COALESCE(open.total, 0) AS BIGINT), payers.held FROM payers
         LEFT JOIN (SELECT account, SUM(amount) AS total FROM holds WHERE state = 'held' GROUP BY account) AS open
         ON open.account = payers.account",
    ),
    (
        "a payer's unsettled is the sum of open receipts and carries",
        "SELECT CAST(payers.account AS TEXT), CAST(COALESCE(open.total, 0) AS BIGINT), payers.unsettled FROM payers
         LEFT JOIN (SELECT account, SUM(amount) AS total FROM (SELECT account, amount FROM receipts
               WHERE state IN ('awaiting_signature', 'signed', 'batched', 'disputed')
               UNION ALL SELECT account, amount FROM carries) AS due GROUP BY account) AS open ON open.account = payers.account",
    ),
    (
        "an operator's unsettled is the sum of open receipts and carries",
        "SELECT CAST(COALESCE(open.operator, cached.operator) AS TEXT), CAST(COALESCE(open.total, 0) AS BIGINT), COALESCE(cached.balance, 0)
         FROM (SELECT operator, SUM(amount) AS total FROM (SELECT operator, amount FROM receipts
               WHERE state IN ('awaiting_signature', 'signed', 'batched', 'disputed')
               UNION ALL SELECT operator, amount FROM carries) AS due GROUP BY operator) AS open
         FULL OUTER JOIN (SELECT account - 17179869184 AS operator, balance FROM balances WHERE account >> 32 = 4) AS cached
         ON open.operator = cached.operator",
    ),
    (
        "what a payer was charged is what receipts say",
        "SELECT CAST(COALESCE(charged.account, said.account) AS TEXT), CAST(COALESCE(said.total, 0) AS BIGINT),
             CAST(COALESCE(charged.total, 0) AS BIGINT)
         FROM (SELECT account, SUM(captured) AS total FROM holds GROUP BY account) AS charged
         FULL OUTER JOIN (SELECT account, SUM(amount) AS total FROM receipts GROUP BY account) AS said
         ON charged.account = said.account",
    ),
    (
        "every captured hold has its receipt",
        "SELECT 'receipts', (SELECT COUNT(*) FROM holds WHERE state = 'captured'), (SELECT COUNT(*) FROM receipts)",
    ),
    (
        "a key has spent what its receipts say",
        "SELECT key_usage.key, CAST(COALESCE(said.total, 0) AS BIGINT), key_usage.captured FROM key_usage
         LEFT JOIN (SELECT key, SUM(amount) AS total FROM receipts WHERE state <> 'refunded' GROUP BY key) AS said
         ON said.key = key_usage.key",
    ),
    (
        "a key holds what its open holds say",
        "SELECT key_usage.key, CAST(COALESCE(open.total, 0) AS BIGINT), key_usage.held FROM key_usage
         LEFT JOIN (SELECT key, SUM(amount) AS total FROM holds WHERE state = 'held' GROUP BY key) AS open ON open.key = key_usage.key",
    ),
];

/// Reads the books on a connection of its own.
pub(super) async fn audit(store: &Store) -> Result<AuditReport, LedgerError> {
    let mut connection = store.connect().await?;
    connection.begin_snapshot().await?;
    let mut findings = Vec::new();
    for (rule, query) in RULES {
        let sql = format!(
            "WITH compared (subject, expected, actual) AS ({query})
             SELECT subject, expected, actual FROM compared WHERE expected <> actual LIMIT {FINDINGS_MAX}"
        );
        let differences = connection.differences(sql).await?;
        findings.extend(differences.into_iter().map(|(subject, expected, actual)| Finding {
            rule: (*rule).to_owned(),
            subject: named(subject),
            expected,
            actual,
        }));
    }
    connection.rollback().await?;
    Ok(AuditReport { rules: RULES.len() as u32, findings })
}

/// The name of a ledger account where a subject is its code.
fn named(subject: String) -> String {
    let account = subject.parse().ok().and_then(LedgerAccount::from_code);
    account.map_or(subject, |account| account.to_string())
}
