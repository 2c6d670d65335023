//! PostgreSQL: touched payers are locked in the order of their ids, so that several meters on one database are safe. Lists go through
//! `= ANY (ARRAY(…))`, which is an index look-up whatever the planner believes of their length.

use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use super::statements::Statements;

/// How the writer connects: its plans are made while tables are empty, and must not be those of an empty table for ever.
pub(super) fn writer(options: &PgConnectOptions) -> PgConnectOptions {
    options.clone().options([("enable_seqscan", "off"), ("jit", "off")])
}

/// Connections for reading.
pub(super) fn readers(options: &PgConnectOptions, connections: u32) -> PgPool {
    PgPoolOptions::new().max_connections(connections).connect_lazy_with(options.clone())
}

pub(super) const STATEMENTS: Statements = Statements {
    load_payers: "SELECT row_to_json(payers)::text FROM payers
            WHERE account = ANY (ARRAY(SELECT value::bigint FROM json_array_elements_text($1::json)
                UNION SELECT account FROM holds WHERE request_id = ANY (ARRAY(SELECT value::bytea FROM json_array_elements_text($2::json)))
                UNION SELECT account FROM receipts WHERE request_id = ANY (ARRAY(SELECT value::bytea FROM json_array_elements_text($2::json)))))
            ORDER BY account FOR UPDATE",
    load_holds: "SELECT row_to_json(holds)::text FROM holds WHERE request_id = ANY (ARRAY(SELECT value::bytea FROM json_array_elements_text($1::json)))",
    load_receipts: "SELECT row_to_json(receipts)::text FROM receipts WHERE request_id = ANY (ARRAY(SELECT value::bytea FROM json_array_elements_text($1::json)))",
    load_keys: "SELECT row_to_json(key_usage)::text FROM key_usage
            WHERE key = ANY (ARRAY(SELECT value FROM json_array_elements_text($1::json)
                UNION SELECT key FROM holds WHERE request_id = ANY (ARRAY(SELECT value::bytea FROM json_array_elements_text($2::json)))))",
    load_cursor: "SELECT row_to_json(chain_cursor)::text FROM chain_cursor FOR UPDATE",
    load_carries: "SELECT row_to_json(carries)::text FROM carries WHERE account = ANY (ARRAY(SELECT value::bigint FROM json_array_elements_text($1::json)))",
    load_batches: "SELECT row_to_json(batches)::text FROM batches WHERE seq = ANY (ARRAY(SELECT value::bigint FROM json_array_elements_text($1::json)))",
    load_events: "SELECT row_to_json(chain_events)::text FROM chain_events WHERE block_hash = ANY (ARRAY(SELECT value::bytea FROM json_array_elements_text($1::json)))",
    load_events_after: "SELECT row_to_json(chain_events)::text FROM chain_events WHERE block_number > $1::bigint AND applied = 1",
    load_operators: "SELECT row_to_json(operators)::text FROM operators WHERE operator = ANY (ARRAY(SELECT value::bigint FROM json_array_elements_text($1::json)))",
    load_node_keys: "SELECT row_to_json(node_keys)::text FROM node_keys WHERE node = ANY (ARRAY(SELECT value::bytea FROM json_array_elements_text($1::json)))",
    load_quarantines: "SELECT row_to_json(quarantines)::text FROM quarantines
            WHERE node = ANY (ARRAY(SELECT value::bytea FROM json_array_elements_text($1::json)
                UNION SELECT node FROM receipts WHERE request_id = ANY (ARRAY(SELECT value::bytea FROM json_array_elements_text($2::json)))))",
    put_payers: "INSERT INTO payers (account, wallet, opened, available, held, unsettled, written_off, net_deposited, settled, authorized_cum,
            exposure, valid_until, settle_deadline, next_nonce, last_settled_at, clearance_settled, clearance_nonce, clearance_deadline)
            SELECT account, wallet, opened, available, held, unsettled, written_off, net_deposited, settled, authorized_cum,
            exposure, valid_until, settle_deadline, next_nonce, last_settled_at, clearance_settled, clearance_nonce, clearance_deadline
            FROM json_populate_recordset(NULL::payers, $1::json)
            ON CONFLICT (account) DO UPDATE SET wallet = excluded.wallet, opened = excluded.opened, available = excluded.available, held = excluded.held,
            unsettled = excluded.unsettled, written_off = excluded.written_off, net_deposited = excluded.net_deposited,
            settled = excluded.settled, authorized_cum = excluded.authorized_cum, exposure = excluded.exposure,
            valid_until = excluded.valid_until, settle_deadline = excluded.settle_deadline,
            next_nonce = excluded.next_nonce, last_settled_at = excluded.last_settled_at,
            clearance_settled = excluded.clearance_settled, clearance_nonce = excluded.clearance_nonce,
            clearance_deadline = excluded.clearance_deadline",
    put_key_usage: "INSERT INTO key_usage (key, account, captured, held)
            SELECT key, account, captured, held
            FROM json_populate_recordset(NULL::key_usage, $1::json)
            ON CONFLICT (key) DO UPDATE SET captured = excluded.captured, held = excluded.held",
    put_holds: "INSERT INTO holds (request_id, account, key, model, rate, prompt_tokens, max_tokens, amount, state, captured, instance, expires_at,
            node, fallback, template, delivered_tokens, delivered_hash, reason, created_at, ended_at)
            SELECT request_id, account, key, model, rate, prompt_tokens, max_tokens, amount, state, captured, instance, expires_at,
            node, fallback, template, delivered_tokens, delivered_hash, reason, created_at, ended_at
            FROM json_populate_recordset(NULL::holds, $1::json)
            ON CONFLICT (request_id) DO UPDATE SET state = excluded.state, captured = excluded.captured, node = excluded.node, fallback = excluded.fallback,
            template = excluded.template, delivered_tokens = excluded.delivered_tokens,
            delivered_hash = excluded.delivered_hash, reason = excluded.reason, ended_at = excluded.ended_at",
    put_receipts: "INSERT INTO receipts (request_id, account, operator, amount, key, model, node, fallback, finish_reason, state, receipt, signature,
            seq, leaf, created_at, signed_at, audit, auditor)
            SELECT request_id, account, operator, amount, key, model, node, fallback, finish_reason, state, receipt, signature,
            seq, leaf, created_at, signed_at, audit, auditor
            FROM json_populate_recordset(NULL::receipts, $1::json)
            ON CONFLICT (request_id) DO UPDATE SET state = excluded.state, receipt = excluded.receipt, signature = excluded.signature, seq = excluded.seq,
            leaf = excluded.leaf, signed_at = excluded.signed_at, audit = excluded.audit, auditor = excluded.auditor",
    put_carries: "INSERT INTO carries (account, operator, amount)
            SELECT account, operator, amount
            FROM json_populate_recordset(NULL::carries, $1::json)
            ON CONFLICT (account, operator) DO UPDATE SET amount = excluded.amount",
    put_batches: r#"INSERT INTO batches (seq, proposal, owed, rows_hash, signature, settler, state, "transaction", created_at)
            SELECT seq, proposal, owed, rows_hash, signature, settler, state, "transaction", created_at
            FROM json_populate_recordset(NULL::batches, $1::json)
            ON CONFLICT (seq) DO UPDATE SET proposal = excluded.proposal, signature = excluded.signature, settler = excluded.settler,
            state = excluded.state, "transaction" = excluded."transaction""#,
    put_chain_events: r#"INSERT INTO chain_events (block_hash, log_index, "transaction", block_number, timestamp, body, undo, applications, applied)
            SELECT block_hash, log_index, "transaction", block_number, timestamp, body, undo, applications, applied
            FROM json_populate_recordset(NULL::chain_events, $1::json)
            ON CONFLICT (block_hash, log_index) DO UPDATE SET body = excluded.body, undo = excluded.undo, applications = excluded.applications, applied = excluded.applied"#,
    put_operators: "INSERT INTO operators (operator, owner, payout)
            SELECT operator, owner, payout
            FROM json_populate_recordset(NULL::operators, $1::json)
            ON CONFLICT (operator) DO UPDATE SET owner = excluded.owner, payout = excluded.payout",
    put_node_keys: "INSERT INTO node_keys (node, operator, since, until)
            SELECT node, operator, since, until
            FROM json_populate_recordset(NULL::node_keys, $1::json)
            ON CONFLICT (node) DO UPDATE SET operator = excluded.operator, since = excluded.since, until = excluded.until",
    put_quarantines: "INSERT INTO quarantines (node, operator, request_id, reason, since, cleared_at)
            SELECT node, operator, request_id, reason, since, cleared_at
            FROM json_populate_recordset(NULL::quarantines, $1::json)
            ON CONFLICT (node) DO UPDATE SET request_id = excluded.request_id, reason = excluded.reason, since = excluded.since,
            cleared_at = excluded.cleared_at",
    put_chain_blocks: "INSERT INTO chain_blocks (number, hash, parent)
            SELECT number, hash, parent
            FROM json_populate_recordset(NULL::chain_blocks, $1::json)
            ON CONFLICT (number) DO UPDATE SET hash = excluded.hash, parent = excluded.parent",
    put_transfers: "INSERT INTO transfers (source, target, amount, kind, reference, created_at)
            SELECT source, target, amount, kind, reference, created_at FROM json_populate_recordset(NULL::transfers, $1::json)",
    open_balances: "INSERT INTO balances (account, balance) SELECT account, 0 FROM json_to_recordset($1::json) AS change (account bigint)
            ORDER BY account ON CONFLICT DO NOTHING",
    add_balances: "WITH change AS (SELECT account, amount FROM json_to_recordset($1::json) AS change (account bigint, amount bigint)),
            locked AS (SELECT balances.account, amount FROM balances JOIN change USING (account) ORDER BY account FOR UPDATE OF balances)
            UPDATE balances SET balance = balance + locked.amount FROM locked WHERE balances.account = locked.account",
    assign_receipts: "UPDATE receipts SET state = 'batched', seq = place.seq, leaf = place.leaf
            FROM json_to_recordset($1::json) AS place (request_id bytea, seq bigint, leaf bytea)
            WHERE receipts.request_id = place.request_id",
    put_cursor: "INSERT INTO chain_cursor (id, chain_id, vault, number, hash, timestamp, settled_seq)
            SELECT 1, chain_id, vault, number, hash, timestamp, settled_seq FROM json_populate_recordset(NULL::chain_cursor, $1::json)
            ON CONFLICT (id) DO UPDATE SET number = excluded.number, hash = excluded.hash, timestamp = excluded.timestamp, settled_seq = excluded.settled_seq",
    renew_lease: "UPDATE instances SET lease_until = $3::bigint WHERE instance = $1 AND epoch = $2::bigint",
    enter: "INSERT INTO instances (instance, epoch, lease_until) VALUES ($1, 1, $2::bigint)
            ON CONFLICT (instance) DO UPDATE SET epoch = instances.epoch + 1, lease_until = excluded.lease_until RETURNING epoch::text",
    settle_receipts: "UPDATE receipts SET state = 'settled' WHERE state = 'batched' AND seq = ANY (ARRAY(SELECT value::bigint FROM json_array_elements_text($1::json)))",
    unsettle_receipts: "UPDATE receipts SET state = 'batched' WHERE state = 'settled' AND seq = ANY (ARRAY(SELECT value::bigint FROM json_array_elements_text($1::json)))",
    drop_operators: "DELETE FROM operators WHERE operator = ANY (ARRAY(SELECT value::bigint FROM json_array_elements_text($1::json)))",
    drop_node_keys: "DELETE FROM node_keys WHERE node = ANY (ARRAY(SELECT value::bytea FROM json_array_elements_text($1::json)))",
    drop_blocks_after: "DELETE FROM chain_blocks WHERE number > $1::bigint",
    drop_blocks_before: "DELETE FROM chain_blocks WHERE number <= $1::bigint",
    holds_to_recover: "SELECT request_id::text FROM holds WHERE state = 'held' AND (expires_at <= $1::bigint
            OR instance NOT IN (SELECT instance FROM instances WHERE lease_until >= $1::bigint)) ORDER BY expires_at LIMIT 1000",
    holds_of_instance: "SELECT request_id::text FROM holds WHERE state = 'held' AND instance = $1 ORDER BY expires_at LIMIT 1000",
    receipts_to_refund: "SELECT request_id::text FROM receipts WHERE state = 'awaiting_signature' AND created_at <= $1::bigint LIMIT 1000",
    audits_to_expire: "SELECT request_id::text FROM receipts WHERE audit = 'pending' AND created_at <= $1::bigint LIMIT 1000",
    receipts_to_dispute: "SELECT request_id::text FROM receipts WHERE state IN ('awaiting_signature', 'signed')
            AND node IN (SELECT node FROM quarantines WHERE cleared_at IS NULL) LIMIT 1000",
    read_payer: "SELECT row_to_json(payers)::text FROM payers WHERE account = $1::bigint",
    read_payer_of_wallet: "SELECT row_to_json(payers)::text FROM payers WHERE opened = 1 AND wallet = $1::bytea",
    read_receipt: "SELECT row_to_json(receipts)::text FROM receipts WHERE request_id = $1::bytea",
    read_receipts: "SELECT row_to_json(receipts)::text FROM receipts WHERE account = $1::bigint AND position < $2::bigint ORDER BY position DESC LIMIT $3::bigint",
    read_awaiting: "SELECT row_to_json(receipts)::text FROM receipts WHERE state = 'awaiting_signature' AND node = $1::bytea ORDER BY position LIMIT 1000",
    read_signed: "SELECT row_to_json(receipts)::text FROM receipts WHERE state = 'signed' AND (audit IS NULL OR audit <> 'pending')
            AND node NOT IN (SELECT node FROM quarantines WHERE cleared_at IS NULL) ORDER BY position LIMIT $1::bigint",
    read_batched: "SELECT row_to_json(receipts)::text FROM receipts WHERE state IN ('batched', 'settled') AND node = $1::bytea ORDER BY position DESC LIMIT 1000",
    read_leaves: "SELECT leaf::text FROM receipts WHERE seq = $1::bigint ORDER BY request_id",
    read_usage: "SELECT row_to_json(rows)::text FROM (
            SELECT created_at / 86400 AS day, model, key, count(*) AS requests, sum((receipt::json ->> 'prompt_tokens')::bigint)::bigint AS prompt_tokens,
                sum((receipt::json ->> 'completion_tokens')::bigint)::bigint AS completion_tokens,
                sum(CASE WHEN state IN ('refunded', 'disputed') THEN 0 ELSE amount END)::bigint AS cost
            FROM receipts WHERE account = $1::bigint AND created_at >= $2::bigint AND created_at < $3::bigint
            GROUP BY created_at / 86400, model, key ORDER BY day, model, key NULLS FIRST LIMIT $4::bigint) rows",
    read_key: "SELECT row_to_json(key_usage)::text FROM key_usage WHERE key = $1",
    read_carries: "SELECT row_to_json(carries)::text FROM carries WHERE amount > 0 ORDER BY account, operator",
    read_batch: "SELECT row_to_json(batches)::text FROM batches WHERE seq = $1::bigint",
    read_open_batch: "SELECT row_to_json(batches)::text FROM batches WHERE state = 'signed' ORDER BY seq LIMIT 1",
    read_node_key: "SELECT row_to_json(node_keys)::text FROM node_keys WHERE node = $1::bytea",
    read_quarantine: "SELECT row_to_json(quarantines)::text FROM quarantines WHERE node = $1::bytea AND cleared_at IS NULL",
    read_quarantines: "SELECT row_to_json(quarantines)::text FROM quarantines ORDER BY since DESC, node LIMIT 1000",
    read_cursor: "SELECT row_to_json(chain_cursor)::text FROM chain_cursor",
    read_blocks: "SELECT row_to_json(chain_blocks)::text FROM chain_blocks ORDER BY number DESC LIMIT 256",
};
