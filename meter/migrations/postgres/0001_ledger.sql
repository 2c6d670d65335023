-- The ledger (docs/protocol.md, section 8). Amounts are credits, times are seconds since the epoch.
-- A ledger account is an integer: kind << 32 | id, with kinds 1 vault, 2 payer, 3 held, 4 unsettled, 5 settled, 6 fees,
-- 7 write-off. The view transfers_named spells them out.

-- One row a payer: cached balances, and the chain's facts about the account at depth.
CREATE TABLE payers (
    account          BIGINT PRIMARY KEY CHECK (account > 0),
    wallet           BYTEA    NOT NULL CHECK (length(wallet) = 20),
    opened           BIGINT NOT NULL,
    available        BIGINT NOT NULL CHECK (available >= 0),
    held             BIGINT NOT NULL CHECK (held >= 0),
    unsettled        BIGINT NOT NULL CHECK (unsettled >= 0),
    written_off      BIGINT NOT NULL CHECK (written_off >= 0),
    net_deposited    BIGINT NOT NULL CHECK (net_deposited >= 0),
    settled          BIGINT NOT NULL CHECK (settled >= 0),
    authorized_cum   BIGINT NOT NULL,
    exposure         BIGINT NOT NULL,
    valid_until      BIGINT NOT NULL,
    settle_deadline  BIGINT NOT NULL,
    next_nonce       BIGINT NOT NULL,
    last_settled_at  BIGINT NOT NULL,
    CHECK (available = 0 OR written_off = 0)
);
CREATE UNIQUE INDEX payers_wallet ON payers (wallet) WHERE opened = 1;

-- Cached balances of the accounts that are no payer's. Vault and write-off are negative by nature.
CREATE TABLE balances (
    account BIGINT PRIMARY KEY,
    balance BIGINT NOT NULL,
    CHECK (balance >= 0 OR account >> 32 IN (1, 7))
);

-- Every movement, for ever.
CREATE TABLE transfers (
    id         BIGINT PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    source     BIGINT NOT NULL,
    target     BIGINT NOT NULL,
    amount     BIGINT NOT NULL CHECK (amount > 0),
    kind       TEXT    NOT NULL,
    reference  BYTEA    NOT NULL,
    created_at BIGINT NOT NULL,
    CHECK (source <> target)
);
CREATE UNIQUE INDEX transfers_reference ON transfers (reference, kind);
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'transfers are append-only'; END $$;
CREATE TRIGGER transfers_never_change BEFORE UPDATE OR DELETE OR TRUNCATE ON transfers EXECUTE FUNCTION refuse_change();

CREATE VIEW transfers_named AS
SELECT id,
    CASE source >> 32 WHEN 1 THEN 'vault' WHEN 2 THEN 'payer:' || (source & 4294967295) WHEN 3 THEN 'held:' || (source & 4294967295)
        WHEN 4 THEN 'unsettled:' || (source & 4294967295) WHEN 5 THEN 'settled:' || (source & 4294967295)
        WHEN 6 THEN 'fees' ELSE 'write_off' END AS source,
    CASE target >> 32 WHEN 1 THEN 'vault' WHEN 2 THEN 'payer:' || (target & 4294967295) WHEN 3 THEN 'held:' || (target & 4294967295)
        WHEN 4 THEN 'unsettled:' || (target & 4294967295) WHEN 5 THEN 'settled:' || (target & 4294967295)
        WHEN 6 THEN 'fees' ELSE 'write_off' END AS target,
    amount, kind, encode(reference, 'hex') AS reference, created_at
FROM transfers;

CREATE TABLE key_usage (
    key      TEXT PRIMARY KEY,
    account  BIGINT NOT NULL,
    captured BIGINT NOT NULL CHECK (captured >= 0),
    held     BIGINT NOT NULL CHECK (held >= 0)
);

CREATE TABLE holds (
    request_id       BYTEA PRIMARY KEY CHECK (length(request_id) = 32),
    account          BIGINT NOT NULL,
    key              TEXT,
    model            TEXT    NOT NULL,
    rate             BIGINT NOT NULL,
    prompt_tokens    BIGINT NOT NULL,
    max_tokens       BIGINT NOT NULL,
    amount           BIGINT NOT NULL CHECK (amount >= 0),
    state            TEXT    NOT NULL CHECK (state IN ('held', 'captured', 'released')),
    captured         BIGINT NOT NULL CHECK (captured BETWEEN 0 AND amount),
    instance         TEXT    NOT NULL,
    expires_at       BIGINT NOT NULL,
    node             BYTEA,
    fallback         BIGINT NOT NULL,
    template         TEXT,
    delivered_tokens BIGINT NOT NULL,
    delivered_hash   BYTEA,
    reason           TEXT,
    created_at       BIGINT NOT NULL,
    ended_at         BIGINT
);
CREATE INDEX holds_open ON holds (expires_at, instance) WHERE state = 'held';
CREATE INDEX holds_open_account ON holds (account) WHERE state = 'held';

CREATE TABLE receipts (
    position      BIGINT PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    request_id    BYTEA    NOT NULL UNIQUE CHECK (length(request_id) = 32),
    account       BIGINT NOT NULL,
    operator      BIGINT NOT NULL,
    amount        BIGINT NOT NULL CHECK (amount >= 0),
    key           TEXT,
    model         TEXT    NOT NULL,
    node          BYTEA    NOT NULL,
    fallback      BIGINT NOT NULL,
    finish_reason TEXT    NOT NULL,
    state         TEXT    NOT NULL CHECK (state IN ('awaiting_signature', 'signed', 'batched', 'settled', 'refunded', 'disputed')),
    receipt       TEXT    NOT NULL,
    signature     BYTEA,
    seq           BIGINT,
    leaf          BYTEA,
    created_at    BIGINT NOT NULL,
    signed_at     BIGINT
);
CREATE INDEX receipts_account ON receipts (account, position);
CREATE INDEX receipts_signed ON receipts (position) WHERE state = 'signed';
CREATE INDEX receipts_awaiting ON receipts (node, position) WHERE state = 'awaiting_signature';
CREATE INDEX receipts_seq ON receipts (seq, request_id) WHERE seq IS NOT NULL;

-- What batches could not debit.
CREATE TABLE carries (
    account  BIGINT NOT NULL,
    operator BIGINT NOT NULL,
    amount   BIGINT NOT NULL CHECK (amount >= 0),
    PRIMARY KEY (account, operator)
);

CREATE TABLE batches (
    seq         BIGINT PRIMARY KEY,
    proposal    TEXT    NOT NULL,
    owed        TEXT    NOT NULL,
    rows_hash   BYTEA    NOT NULL,
    signature   BYTEA    NOT NULL,
    settler     BYTEA    NOT NULL,
    state       TEXT    NOT NULL CHECK (state IN ('signed', 'settled')),
    "transaction" BYTEA,
    created_at  BIGINT NOT NULL
);

-- Meters that hold, and until when the others leave their holds alone.
CREATE TABLE instances (
    instance    TEXT PRIMARY KEY,
    epoch       BIGINT NOT NULL,
    lease_until BIGINT NOT NULL
);

-- How far the mirror is, and of what.
CREATE TABLE chain_cursor (
    id          BIGINT PRIMARY KEY CHECK (id = 1),
    chain_id    BIGINT NOT NULL,
    vault       BYTEA    NOT NULL,
    number      BIGINT NOT NULL,
    hash        BYTEA    NOT NULL,
    settled_seq BIGINT NOT NULL
);

-- The last 256 blocks, to find where a fork began.
CREATE TABLE chain_blocks (
    number BIGINT PRIMARY KEY,
    hash   BYTEA NOT NULL,
    parent BYTEA NOT NULL
);

-- Every event that was ever applied, with what it takes to undo it.
CREATE TABLE chain_events (
    block_hash   BYTEA    NOT NULL,
    log_index    BIGINT NOT NULL,
    "transaction" BYTEA   NOT NULL,
    block_number BIGINT NOT NULL,
    timestamp    BIGINT NOT NULL,
    body         TEXT    NOT NULL,
    undo         TEXT    NOT NULL,
    applications BIGINT NOT NULL,
    applied      BIGINT NOT NULL,
    PRIMARY KEY (block_hash, log_index)
);
CREATE INDEX chain_events_number ON chain_events (block_number);

CREATE TABLE operators (
    operator BIGINT PRIMARY KEY,
    owner    BYTEA NOT NULL,
    payout   BYTEA NOT NULL
);

CREATE TABLE node_keys (
    node     BYTEA PRIMARY KEY CHECK (length(node) = 20),
    operator BIGINT NOT NULL,
    since    BIGINT NOT NULL,
    until    BIGINT
);
