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
        "SELECT CAST(account AS TEXT), CAST(SUM(entry) AS BIGINT), CAST(SUM(cached) AS BIGINT)
         FROM (SELECT target AS account, amount AS entry, 0 AS cached FROM transfers
               UNION ALL SELECT source, -amount, 0 FROM transfers
               UNION ALL SELECT 8589934592 + account, 0, available FROM payers
               UNION ALL SELECT 12884901888 + account, 0, held FROM payers
               UNION ALL SELECT account, 0, balance FROM balances) AS sides GROUP BY account",
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
               WHERE state IN ('awaiting_signature', 'signed', 'batched')
               UNION ALL SELECT account, amount FROM carries) AS due GROUP BY account) AS open ON open.account = payers.account",
    ),
    (
        "an operator's unsettled is the sum of open receipts and carries",
        "SELECT CAST(operator AS TEXT), CAST(SUM(due) AS BIGINT), CAST(SUM(cached) AS BIGINT)
         FROM (SELECT operator, amount AS due, 0 AS cached FROM receipts
               WHERE state IN ('awaiting_signature', 'signed', 'batched')
               UNION ALL SELECT operator, amount, 0 FROM carries
               UNION ALL SELECT account - 17179869184, 0, balance FROM balances WHERE account >> 32 = 4) AS sides GROUP BY operator",
    ),
    (
        "what a payer was charged is what receipts say",
        "SELECT CAST(account AS TEXT), CAST(SUM(said) AS BIGINT), CAST(SUM(charged) AS BIGINT)
         FROM (SELECT account, 0 AS said, captured AS charged FROM holds
               UNION ALL SELECT account, amount, 0 FROM receipts) AS sides GROUP BY account",
    ),
    (
        "what was given back is what refunded and disputed receipts say",
        "SELECT 'receipts', CAST(COALESCE((SELECT SUM(amount) FROM receipts WHERE state IN ('refunded', 'disputed')), 0) AS BIGINT),
             CAST(COALESCE((SELECT SUM(amount) FROM transfers WHERE kind = 'refund'), 0) AS BIGINT)",
    ),
    (
        "every captured hold has its receipt",
        "SELECT 'receipts', (SELECT COUNT(*) FROM holds WHERE state = 'captured'), (SELECT COUNT(*) FROM receipts)",
    ),
    (
        "a key has spent what its receipts say",
        "SELECT key_usage.key, CAST(COALESCE(said.total, 0) AS BIGINT), key_usage.captured FROM key_usage
         LEFT JOIN (SELECT key, SUM(amount) AS total FROM receipts WHERE state NOT IN ('refunded', 'disputed') GROUP BY key) AS said
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
