//! SQLite: WAL with `synchronous = FULL`, so that what was answered survives a power cut. One connection writes, others read.
//! Rows that come as JSON are made binary once, since each `->>` would read their text anew.

use std::time::Duration;

use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use super::statements::Statements;

/// How long a writer waits for another process's transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How to open the file; it is made when it is not there.
pub(super) fn options(path: &str) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(true)
        // Statement journals and lists of one group: a few hundred KiB, which in files cost more than the work.
        .pragma("temp_store", "memory")
        .pragma("cache_size", "-65536")
}

/// Connections that can't write.
pub(super) fn readers(options: &SqliteConnectOptions, connections: u32) -> SqlitePool {
    SqlitePoolOptions::new().max_connections(connections).connect_lazy_with(options.clone().pragma("query_only", "on"))
}

macro_rules! payers {
    () => {
        r#"SELECT json_object('account', account, 'wallet', '\x' || lower(hex(wallet)), 'opened', opened, 'available', available,
                'held', held, 'unsettled', unsettled, 'written_off', written_off, 'net_deposited', net_deposited,
                'settled', settled, 'authorized_cum', authorized_cum, 'exposure', exposure, 'valid_until', valid_until,
                'settle_deadline', settle_deadline, 'next_nonce', next_nonce, 'last_settled_at', last_settled_at,
                'clearance_settled', clearance_settled, 'clearance_nonce', clearance_nonce, 'clearance_deadline', clearance_deadline)
            FROM payers "#
    };
}

macro_rules! key_usage {
    () => {
        r#"SELECT json_object('key', key, 'account', account, 'captured', captured, 'held', held)
            FROM key_usage "#
    };
}

macro_rules! holds {
    () => {
        r#"SELECT json_object('request_id', '\x' || lower(hex(request_id)), 'account', account, 'key', key, 'model', model, 'rate', rate,
                'prompt_tokens', prompt_tokens, 'max_tokens', max_tokens, 'amount', amount, 'state', state,
                'captured', captured, 'instance', instance, 'expires_at', expires_at,
                'node', iif(node IS NULL, NULL, '\x' || lower(hex(node))), 'fallback', fallback, 'template', template,
                'delivered_tokens', delivered_tokens,
                'delivered_hash', iif(delivered_hash IS NULL, NULL, '\x' || lower(hex(delivered_hash))), 'reason', reason,
                'created_at', created_at, 'ended_at', ended_at)
            FROM holds "#
    };
}

macro_rules! receipts {
    () => {
        r#"SELECT json_object('position', position, 'request_id', '\x' || lower(hex(request_id)), 'account', account, 'operator', operator,
                'amount', amount, 'key', key, 'model', model, 'node', '\x' || lower(hex(node)), 'fallback', fallback,
                'finish_reason', finish_reason, 'state', state, 'receipt', receipt,
                'signature', iif(signature IS NULL, NULL, '\x' || lower(hex(signature))), 'seq', seq,
                'leaf', iif(leaf IS NULL, NULL, '\x' || lower(hex(leaf))), 'created_at', created_at, 'signed_at', signed_at,
                'audit', audit, 'auditor', iif(auditor IS NULL, NULL, '\x' || lower(hex(auditor))))
            FROM receipts "#
    };
}

macro_rules! carries {
    () => {
        r#"SELECT json_object('account', account, 'operator', operator, 'amount', amount)
            FROM carries "#
    };
}

macro_rules! batches {
    () => {
        r#"SELECT json_object('seq', seq, 'proposal', proposal, 'owed', owed, 'rows_hash', '\x' || lower(hex(rows_hash)),
                'signature', '\x' || lower(hex(signature)), 'settler', '\x' || lower(hex(settler)), 'state', state,
                'transaction', iif("transaction" IS NULL, NULL, '\x' || lower(hex("transaction"))), 'created_at', created_at)
            FROM batches "#
    };
}

macro_rules! chain_events {
    () => {
        r#"SELECT json_object('block_hash', '\x' || lower(hex(block_hash)), 'log_index', log_index,
                'transaction', '\x' || lower(hex("transaction")), 'block_number', block_number, 'timestamp', timestamp,
                'body', body, 'undo', undo, 'applications', applications, 'applied', applied)
            FROM chain_events "#
    };
}

macro_rules! operators {
    () => {
        r#"SELECT json_object('operator', operator, 'owner', '\x' || lower(hex(owner)), 'payout', '\x' || lower(hex(payout)))
            FROM operators "#
    };
}

macro_rules! node_keys {
    () => {
        r#"SELECT json_object('node', '\x' || lower(hex(node)), 'operator', operator, 'since', since, 'until', until)
            FROM node_keys "#
    };
}

macro_rules! quarantines {
    () => {
        r#"SELECT json_object('node', '\x' || lower(hex(node)), 'operator', operator, 'request_id', '\x' || lower(hex(request_id)),
                'reason', reason, 'since', since, 'cleared_at', cleared_at)
            FROM quarantines "#
    };
}

macro_rules! chain_blocks {
    () => {
        r#"SELECT json_object('number', number, 'hash', '\x' || lower(hex(hash)), 'parent', '\x' || lower(hex(parent)))
            FROM chain_blocks "#
    };
}

pub(super) const STATEMENTS: Statements = Statements {
    load_payers: concat!(payers!(), "WHERE account IN (SELECT value FROM json_each($1))
            OR account IN (SELECT account FROM holds WHERE request_id IN (SELECT unhex(substr(value, 3)) FROM json_each($2)))
            OR account IN (SELECT account FROM receipts WHERE request_id IN (SELECT unhex(substr(value, 3)) FROM json_each($2))) ORDER BY account"),
    load_holds: concat!(holds!(), "WHERE request_id IN (SELECT unhex(substr(value, 3)) FROM json_each($1))"),
    load_receipts: concat!(receipts!(), "WHERE request_id IN (SELECT unhex(substr(value, 3)) FROM json_each($1))"),
    load_keys: concat!(key_usage!(), "WHERE key IN (SELECT value FROM json_each($1))
            OR key IN (SELECT key FROM holds WHERE request_id IN (SELECT unhex(substr(value, 3)) FROM json_each($2)))"),
    load_cursor: r#"SELECT json_object('chain_id', chain_id, 'vault', '\x' || lower(hex(vault)), 'number', number,
            'hash', '\x' || lower(hex(hash)), 'timestamp', timestamp, 'settled_seq', settled_seq) FROM chain_cursor"#,
    load_carries: concat!(carries!(), "WHERE account IN (SELECT value FROM json_each($1))"),
    load_batches: concat!(batches!(), "WHERE seq IN (SELECT value FROM json_each($1))"),
    load_events: concat!(chain_events!(), "WHERE block_hash IN (SELECT unhex(substr(value, 3)) FROM json_each($1))"),
    load_events_after: concat!(chain_events!(), "WHERE block_number > CAST($1 AS INTEGER) AND applied = 1"),
    load_operators: concat!(operators!(), "WHERE operator IN (SELECT value FROM json_each($1))"),
    load_node_keys: concat!(node_keys!(), "WHERE node IN (SELECT unhex(substr(value, 3)) FROM json_each($1))"),
    load_quarantines: concat!(quarantines!(), "WHERE node IN (SELECT unhex(substr(value, 3)) FROM json_each($1))
            OR node IN (SELECT node FROM receipts WHERE request_id IN (SELECT unhex(substr(value, 3)) FROM json_each($2)))"),
    put_payers: "WITH list AS MATERIALIZED (SELECT jsonb(value) AS value FROM json_each($1))
            INSERT INTO payers (account, wallet, opened, available, held, unsettled, written_off, net_deposited, settled, authorized_cum,
            exposure, valid_until, settle_deadline, next_nonce, last_settled_at, clearance_settled, clearance_nonce, clearance_deadline)
            SELECT value->>'account', unhex(substr(value->>'wallet', 3)), value->>'opened', value->>'available', value->>'held',
            value->>'unsettled', value->>'written_off', value->>'net_deposited', value->>'settled',
            value->>'authorized_cum', value->>'exposure', value->>'valid_until', value->>'settle_deadline',
            value->>'next_nonce', value->>'last_settled_at', value->>'clearance_settled',
            value->>'clearance_nonce', value->>'clearance_deadline'
            FROM list WHERE true
            ON CONFLICT (account) DO UPDATE SET wallet = excluded.wallet, opened = excluded.opened, available = excluded.available, held = excluded.held,
            unsettled = excluded.unsettled, written_off = excluded.written_off, net_deposited = excluded.net_deposited,
            settled = excluded.settled, authorized_cum = excluded.authorized_cum, exposure = excluded.exposure,
            valid_until = excluded.valid_until, settle_deadline = excluded.settle_deadline,
            next_nonce = excluded.next_nonce, last_settled_at = excluded.last_settled_at,
            clearance_settled = excluded.clearance_settled, clearance_nonce = excluded.clearance_nonce,
            clearance_deadline = excluded.clearance_deadline",
    put_key_usage: "WITH list AS MATERIALIZED (SELECT jsonb(value) AS value FROM json_each($1))
            INSERT INTO key_usage (key, account, captured, held)
            SELECT value->>'key', value->>'account', value->>'captured', value->>'held'
            FROM list WHERE true
            ON CONFLICT (key) DO UPDATE SET captured = excluded.captured, held = excluded.held",
    put_holds: "WITH list AS MATERIALIZED (SELECT jsonb(value) AS value FROM json_each($1))
            INSERT INTO holds (request_id, account, key, model, rate, prompt_tokens, max_tokens, amount, state, captured, instance, expires_at,
            node, fallback, template, delivered_tokens, delivered_hash, reason, created_at, ended_at)
            SELECT unhex(substr(value->>'request_id', 3)), value->>'account', value->>'key', value->>'model', value->>'rate',
            value->>'prompt_tokens', value->>'max_tokens', value->>'amount', value->>'state', value->>'captured',
            value->>'instance', value->>'expires_at', unhex(substr(value->>'node', 3)), value->>'fallback',
            value->>'template', value->>'delivered_tokens', unhex(substr(value->>'delivered_hash', 3)), value->>'reason',
            value->>'created_at', value->>'ended_at'
            FROM list WHERE true
            ON CONFLICT (request_id) DO UPDATE SET state = excluded.state, captured = excluded.captured, node = excluded.node, fallback = excluded.fallback,
            template = excluded.template, delivered_tokens = excluded.delivered_tokens,
            delivered_hash = excluded.delivered_hash, reason = excluded.reason, ended_at = excluded.ended_at",
    put_receipts: "WITH list AS MATERIALIZED (SELECT jsonb(value) AS value FROM json_each($1))
            INSERT INTO receipts (request_id, account, operator, amount, key, model, node, fallback, finish_reason, state, receipt, signature,
            seq, leaf, created_at, signed_at, audit, auditor)
            SELECT unhex(substr(value->>'request_id', 3)), value->>'account', value->>'operator', value->>'amount', value->>'key',
            value->>'model', unhex(substr(value->>'node', 3)), value->>'fallback', value->>'finish_reason', value->>'state',
            value->>'receipt', unhex(substr(value->>'signature', 3)), value->>'seq', unhex(substr(value->>'leaf', 3)),
            value->>'created_at', value->>'signed_at', value->>'audit', unhex(substr(value->>'auditor', 3))
            FROM list WHERE true
            ON CONFLICT (request_id) DO UPDATE SET state = excluded.state, receipt = excluded.receipt, signature = excluded.signature, seq = excluded.seq,
            leaf = excluded.leaf, signed_at = excluded.signed_at, audit = excluded.audit, auditor = excluded.auditor",
    put_carries: "WITH list AS MATERIALIZED (SELECT jsonb(value) AS value FROM json_each($1))
            INSERT INTO carries (account, operator, amount)
            SELECT value->>'account', value->>'operator', value->>'amount'
            FROM list WHERE true
            ON CONFLICT (account, operator) DO UPDATE SET amount = excluded.amount",
    put_batches: r#"WITH list AS MATERIALIZED (SELECT jsonb(value) AS value FROM json_each($1))
            INSERT INTO batches (seq, proposal, owed, rows_hash, signature, settler, state, "transaction", created_at)
            SELECT value->>'seq', value->>'proposal', value->>'owed', unhex(substr(value->>'rows_hash', 3)),
            unhex(substr(value->>'signature', 3)), unhex(substr(value->>'settler', 3)), value->>'state',
            unhex(substr(value->>'transaction', 3)), value->>'created_at'
            FROM list WHERE true
            ON CONFLICT (seq) DO UPDATE SET proposal = excluded.proposal, signature = excluded.signature, settler = excluded.settler,
            state = excluded.state, "transaction" = excluded."transaction""#,
    put_chain_events: r#"WITH list AS MATERIALIZED (SELECT jsonb(value) AS value FROM json_each($1))
            INSERT INTO chain_events (block_hash, log_index, "transaction", block_number, timestamp, body, undo, applications, applied)
            SELECT unhex(substr(value->>'block_hash', 3)), value->>'log_index', unhex(substr(value->>'transaction', 3)),
            value->>'block_number', value->>'timestamp', value->>'body', value->>'undo', value->>'applications',
            value->>'applied'
            FROM list WHERE true
            ON CONFLICT (block_hash, log_index) DO UPDATE SET body = excluded.body, undo = excluded.undo, applications = excluded.applications, applied = excluded.applied"#,
    put_operators: "WITH list AS MATERIALIZED (SELECT jsonb(value) AS value FROM json_each($1))
            INSERT INTO operators (operator, owner, payout)
            SELECT value->>'operator', unhex(substr(value->>'owner', 3)), unhex(substr(value->>'payout', 3))
            FROM list WHERE true
            ON CONFLICT (operator) DO UPDATE SET owner = excluded.owner, payout = excluded.payout",
    put_node_keys: "WITH list AS MATERIALIZED (SELECT jsonb(value) AS value FROM json_each($1))
            INSERT INTO node_keys (node, operator, since, until)
            SELECT unhex(substr(value->>'node', 3)), value->>'operator', value->>'since', value->>'until'
            FROM list WHERE true
            ON CONFLICT (node) DO UPDATE SET operator = excluded.operator, since = excluded.since, until = excluded.until",
    put_quarantines: "WITH list AS MATERIALIZED (SELECT jsonb(value) AS value FROM json_each($1))
            INSERT INTO quarantines (node, operator, request_id, reason, since, cleared_at)
            SELECT unhex(substr(value->>'node', 3)), value->>'operator', unhex(substr(value->>'request_id', 3)), value->>'reason',
            value->>'since', value->>'cleared_at'
            FROM list WHERE true
            ON CONFLICT (node) DO UPDATE SET request_id = excluded.request_id, reason = excluded.reason, since = excluded.since,
            cleared_at = excluded.cleared_at",
    put_chain_blocks: "WITH list AS MATERIALIZED (SELECT jsonb(value) AS value FROM json_each($1))
            INSERT INTO chain_blocks (number, hash, parent)
            SELECT value->>'number', unhex(substr(value->>'hash', 3)), unhex(substr(value->>'parent', 3))
            FROM list WHERE true
            ON CONFLICT (number) DO UPDATE SET hash = excluded.hash, parent = excluded.parent",
    put_transfers: "WITH list AS MATERIALIZED (SELECT jsonb(value) AS value FROM json_each($1))
            INSERT INTO transfers (source, target, amount, kind, reference, created_at)
            SELECT value->>'source', value->>'target', value->>'amount', value->>'kind', unhex(substr(value->>'reference', 3)),
            value->>'created_at' FROM list",
    open_balances: "WITH list AS MATERIALIZED (SELECT jsonb(value) AS value FROM json_each($1))
            INSERT INTO balances (account, balance) SELECT value->>'account', 0 FROM list WHERE true ON CONFLICT DO NOTHING",
    add_balances: "WITH list AS MATERIALIZED (SELECT jsonb(value) AS value FROM json_each($1))
            UPDATE balances SET balance = balance + change.amount
            FROM (SELECT value->>'account' AS account, value->>'amount' AS amount FROM list) AS change
            WHERE balances.account = change.account",
    assign_receipts: "WITH list AS MATERIALIZED (SELECT jsonb(value) AS value FROM json_each($1))
            UPDATE receipts SET state = 'batched', seq = place.seq, leaf = place.leaf
            FROM (SELECT unhex(substr(value->>'request_id', 3)) AS request_id, value->>'seq' AS seq,
            unhex(substr(value->>'leaf', 3)) AS leaf FROM list) AS place WHERE receipts.request_id = place.request_id",
    put_cursor: "WITH list AS MATERIALIZED (SELECT jsonb(value) AS value FROM json_each($1))
            INSERT INTO chain_cursor (id, chain_id, vault, number, hash, timestamp, settled_seq)
            SELECT 1, value->>'chain_id', unhex(substr(value->>'vault', 3)), value->>'number', unhex(substr(value->>'hash', 3)),
            value->>'timestamp', value->>'settled_seq' FROM list WHERE true ON CONFLICT (id) DO UPDATE SET number = excluded.number,
            hash = excluded.hash, timestamp = excluded.timestamp, settled_seq = excluded.settled_seq",
    renew_lease: "UPDATE instances SET lease_until = CAST($3 AS INTEGER) WHERE instance = $1 AND epoch = CAST($2 AS INTEGER)",
    enter: "INSERT INTO instances (instance, epoch, lease_until) VALUES ($1, 1, CAST($2 AS INTEGER))
            ON CONFLICT (instance) DO UPDATE SET epoch = epoch + 1, lease_until = excluded.lease_until RETURNING CAST(epoch AS TEXT)",
    settle_receipts: "UPDATE receipts SET state = 'settled' WHERE state = 'batched' AND seq IN (SELECT value FROM json_each($1))",
    unsettle_receipts: "UPDATE receipts SET state = 'batched' WHERE state = 'settled' AND seq IN (SELECT value FROM json_each($1))",
    drop_operators: "DELETE FROM operators WHERE operator IN (SELECT value FROM json_each($1))",
    drop_node_keys: "DELETE FROM node_keys WHERE node IN (SELECT unhex(substr(value, 3)) FROM json_each($1))",
    drop_blocks_after: "DELETE FROM chain_blocks WHERE number > CAST($1 AS INTEGER)",
    drop_blocks_before: "DELETE FROM chain_blocks WHERE number <= CAST($1 AS INTEGER)",
    holds_to_recover: r#"SELECT '\x' || lower(hex(request_id)) FROM holds WHERE state = 'held' AND (expires_at <= CAST($1 AS INTEGER)
            OR instance NOT IN (SELECT instance FROM instances WHERE lease_until >= CAST($1 AS INTEGER))) ORDER BY expires_at LIMIT 1000"#,
    holds_of_instance: r#"SELECT '\x' || lower(hex(request_id)) FROM holds WHERE state = 'held' AND instance = $1 ORDER BY expires_at LIMIT 1000"#,
    receipts_to_refund: r#"SELECT '\x' || lower(hex(request_id)) FROM receipts WHERE state = 'awaiting_signature' AND created_at <= CAST($1 AS INTEGER) LIMIT 1000"#,
    audits_to_expire: r#"SELECT '\x' || lower(hex(request_id)) FROM receipts WHERE audit = 'pending' AND created_at <= CAST($1 AS INTEGER) LIMIT 1000"#,
    receipts_to_dispute: r#"SELECT '\x' || lower(hex(request_id)) FROM receipts WHERE state IN ('awaiting_signature', 'signed')
            AND node IN (SELECT node FROM quarantines WHERE cleared_at IS NULL) LIMIT 1000"#,
    read_payer: concat!(payers!(), "WHERE account = CAST($1 AS INTEGER)"),
    read_payer_of_wallet: concat!(payers!(), "WHERE opened = 1 AND wallet = unhex(substr($1, 3))"),
    read_receipt: concat!(receipts!(), "WHERE request_id = unhex(substr($1, 3))"),
    read_receipts: concat!(receipts!(), "WHERE account = CAST($1 AS INTEGER) AND position < CAST($2 AS INTEGER) ORDER BY position DESC LIMIT CAST($3 AS INTEGER)"),
    read_awaiting: concat!(receipts!(), "WHERE state = 'awaiting_signature' AND node = unhex(substr($1, 3)) ORDER BY position LIMIT 1000"),
    read_signed: concat!(receipts!(), "WHERE state = 'signed' AND (audit IS NULL OR audit <> 'pending')
            AND node NOT IN (SELECT node FROM quarantines WHERE cleared_at IS NULL) ORDER BY position LIMIT CAST($1 AS INTEGER)"),
    read_batched: concat!(receipts!(), "WHERE state IN ('batched', 'settled') AND node = unhex(substr($1, 3)) ORDER BY position DESC LIMIT 1000"),
    read_leaves: r#"SELECT '\x' || lower(hex(leaf)) FROM receipts WHERE seq = CAST($1 AS INTEGER) ORDER BY request_id"#,
    read_usage: "SELECT json_object('day', day, 'model', model, 'key', key, 'requests', count(*), 'prompt_tokens', sum(prompt_tokens),
                'completion_tokens', sum(completion_tokens), 'cost', sum(cost))
            FROM (SELECT created_at / 86400 AS day, model, key, receipt ->> '$.prompt_tokens' AS prompt_tokens,
                    receipt ->> '$.completion_tokens' AS completion_tokens, iif(state IN ('refunded', 'disputed'), 0, amount) AS cost
                FROM receipts WHERE account = CAST($1 AS INTEGER) AND created_at >= CAST($2 AS INTEGER) AND created_at < CAST($3 AS INTEGER))
            GROUP BY day, model, key ORDER BY day, model, key LIMIT CAST($4 AS INTEGER)",
    read_key: concat!(key_usage!(), "WHERE key = $1"),
    read_carries: concat!(carries!(), "WHERE amount > 0 ORDER BY account, operator"),
    read_batch: concat!(batches!(), "WHERE seq = CAST($1 AS INTEGER)"),
    read_open_batch: concat!(batches!(), "WHERE state = 'signed' ORDER BY seq LIMIT 1"),
    read_node_key: concat!(node_keys!(), "WHERE node = unhex(substr($1, 3))"),
    read_quarantine: concat!(quarantines!(), "WHERE node = unhex(substr($1, 3)) AND cleared_at IS NULL"),
    read_quarantines: concat!(quarantines!(), "ORDER BY since DESC, node LIMIT 1000"),
    read_cursor: r#"SELECT json_object('chain_id', chain_id, 'vault', '\x' || lower(hex(vault)), 'number', number,
            'hash', '\x' || lower(hex(hash)), 'timestamp', timestamp, 'settled_seq', settled_seq) FROM chain_cursor"#,
    read_blocks: concat!(chain_blocks!(), "ORDER BY number DESC LIMIT 256"),
};
