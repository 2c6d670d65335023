-- The ledger (docs/protocol.md, section 8). Amounts are credits, times are seconds since the epoch.
-- A ledger account is an integer: kind << 32 | id, with kinds 1 vault, 2 payer, 3 held, 4 unsettled, 5 settled, 6 fees,
-- 7 write-off. The view transfers_named spells them out.

-- One row a payer: cached balances, and the chain's facts about the account at depth.
CREATE TABLE payers (
    account          INTEGER PRIMARY KEY CHECK (account > 0),
    wallet           BLOB    NOT NULL CHECK (length(wallet) = 20),
    opened           INTEGER NOT NULL,
    available        INTEGER NOT NULL CHECK (available >= 0),
    held             INTEGER NOT NULL CHECK (held >= 0),
    unsettled        INTEGER NOT NULL CHECK (unsettled >= 0),
    written_off      INTEGER NOT NULL CHECK (written_off >= 0),
    net_deposited    INTEGER NOT NULL CHECK (net_deposited >= 0),
    settled          INTEGER NOT NULL CHECK (settled >= 0),
    authorized_cum   INTEGER NOT NULL,
    exposure         INTEGER NOT NULL,
    valid_until      INTEGER NOT NULL,
    settle_deadline  INTEGER NOT NULL,
    next_nonce       INTEGER NOT NULL,
    last_settled_at  INTEGER NOT NULL,
    CHECK (available = 0 OR written_off = 0)
) STRICT;
CREATE UNIQUE INDEX payers_wallet ON payers (wallet) WHERE opened = 1;

-- Cached balances of the accounts that are no payer's. Vault and write-off are negative by nature.
CREATE TABLE balances (
    account INTEGER PRIMARY KEY,
    balance INTEGER NOT NULL,
    CHECK (balance >= 0 OR account >> 32 IN (1, 7))
) STRICT;

-- Every movement, for ever.
CREATE TABLE transfers (
    id         INTEGER PRIMARY KEY,
    source     INTEGER NOT NULL,
    target     INTEGER NOT NULL,
    amount     INTEGER NOT NULL CHECK (amount > 0),
    kind       TEXT    NOT NULL,
    reference  BLOB    NOT NULL,
    created_at INTEGER NOT NULL,
    CHECK (source <> target)
) STRICT;
CREATE UNIQUE INDEX transfers_reference ON transfers (reference, kind);
CREATE TRIGGER transfers_never_change BEFORE UPDATE ON transfers BEGIN SELECT RAISE(ABORT, 'transfers are append-only'); END;
CREATE TRIGGER transfers_never_go BEFORE DELETE ON transfers BEGIN SELECT RAISE(ABORT, 'transfers are append-only'); END;

CREATE VIEW transfers_named AS
SELECT id,
    CASE source >> 32 WHEN 1 THEN 'vault' WHEN 2 THEN 'payer:' || (source & 4294967295) WHEN 3 THEN 'held:' || (source & 4294967295)
        WHEN 4 THEN 'unsettled:' || (source & 4294967295) WHEN 5 THEN 'settled:' || (source & 4294967295)
        WHEN 6 THEN 'fees' ELSE 'write_off' END AS source,
    CASE target >> 32 WHEN 1 THEN 'vault' WHEN 2 THEN 'payer:' || (target & 4294967295) WHEN 3 THEN 'held:' || (target & 4294967295)
        WHEN 4 THEN 'unsettled:' || (target & 4294967295) WHEN 5 THEN 'settled:' || (target & 4294967295)
        WHEN 6 THEN 'fees' ELSE 'write_off' END AS target,
    amount, kind, hex(reference) AS reference, created_at
FROM transfers;

CREATE TABLE key_usage (
    key      TEXT PRIMARY KEY,
    account  INTEGER NOT NULL,
    captured INTEGER NOT NULL CHECK (captured >= 0),
    held     INTEGER NOT NULL CHECK (held >= 0)
) STRICT, WITHOUT ROWID;

CREATE TABLE holds (
    request_id       BLOB PRIMARY KEY CHECK (length(request_id) = 32),
    account          INTEGER NOT NULL,
    key              TEXT,
    model            TEXT    NOT NULL,
    rate             INTEGER NOT NULL,
    prompt_tokens    INTEGER NOT NULL,
    max_tokens       INTEGER NOT NULL,
    amount           INTEGER NOT NULL CHECK (amount >= 0),
    state            TEXT    NOT NULL CHECK (state IN ('held', 'captured', 'released')),
    captured         INTEGER NOT NULL CHECK (captured BETWEEN 0 AND amount),
    instance         TEXT    NOT NULL,
    expires_at       INTEGER NOT NULL,
    node             BLOB,
    fallback         INTEGER NOT NULL,
    template         TEXT,
    delivered_tokens INTEGER NOT NULL,
    delivered_hash   BLOB,
    reason           TEXT,
    created_at       INTEGER NOT NULL,
    ended_at         INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX holds_open ON holds (expires_at, instance) WHERE state = 'held';
CREATE INDEX holds_open_account ON holds (account) WHERE state = 'held';

CREATE TABLE receipts (
    position      INTEGER PRIMARY KEY,
    request_id    BLOB    NOT NULL UNIQUE CHECK (length(request_id) = 32),
    account       INTEGER NOT NULL,
    operator      INTEGER NOT NULL,
    amount        INTEGER NOT NULL CHECK (amount >= 0),
    key           TEXT,
    model         TEXT    NOT NULL,
    node          BLOB    NOT NULL,
    fallback      INTEGER NOT NULL,
    finish_reason TEXT    NOT NULL,
    state         TEXT    NOT NULL CHECK (state IN ('awaiting_signature', 'signed', 'batched', 'settled', 'refunded', 'disputed')),
    receipt       TEXT    NOT NULL,
    signature     BLOB,
    seq           INTEGER,
    leaf          BLOB,
    created_at    INTEGER NOT NULL,
    signed_at     INTEGER
) STRICT;
CREATE INDEX receipts_account ON receipts (account, position);
CREATE INDEX receipts_signed ON receipts (position) WHERE state = 'signed';
CREATE INDEX receipts_awaiting ON receipts (node, position) WHERE state = 'awaiting_signature';
CREATE INDEX receipts_seq ON receipts (seq, request_id) WHERE seq IS NOT NULL;

-- What batches could not debit.
CREATE TABLE carries (
    account  INTEGER NOT NULL,
    operator INTEGER NOT NULL,
    amount   INTEGER NOT NULL CHECK (amount >= 0),
    PRIMARY KEY (account, operator)
) STRICT, WITHOUT ROWID;

CREATE TABLE batches (
    seq         INTEGER PRIMARY KEY,
    proposal    TEXT    NOT NULL,
    owed        TEXT    NOT NULL,
    rows_hash   BLOB    NOT NULL,
    signature   BLOB    NOT NULL,
    settler     BLOB    NOT NULL,
    state       TEXT    NOT NULL CHECK (state IN ('signed', 'settled')),
    "transaction" BLOB,
    created_at  INTEGER NOT NULL
) STRICT;

-- Meters that hold, and until when the others leave their holds alone.
CREATE TABLE instances (
    instance    TEXT PRIMARY KEY,
    epoch       INTEGER NOT NULL,
    lease_until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- How far the mirror is, and of what.
CREATE TABLE chain_cursor (
    id          INTEGER PRIMARY KEY CHECK (id = 1),
    chain_id    INTEGER NOT NULL,
    vault       BLOB    NOT NULL,
    number      INTEGER NOT NULL,
    hash        BLOB    NOT NULL,
    settled_seq INTEGER NOT NULL
) STRICT;

-- The last 256 blocks, to find where a fork began.
CREATE TABLE chain_blocks (
    number INTEGER PRIMARY KEY,
    hash   BLOB NOT NULL,
    parent BLOB NOT NULL
) STRICT;

-- Every event that was ever applied, with what it takes to undo it.
CREATE TABLE chain_events (
    block_hash   BLOB    NOT NULL,
    log_index    INTEGER NOT NULL,
    "transaction" BLOB   NOT NULL,
    block_number INTEGER NOT NULL,
    timestamp    INTEGER NOT NULL,
    body         TEXT    NOT NULL,
    undo         TEXT    NOT NULL,
    applications INTEGER NOT NULL,
    applied      INTEGER NOT NULL,
    PRIMARY KEY (block_hash, log_index)
) STRICT, WITHOUT ROWID;
CREATE INDEX chain_events_number ON chain_events (block_number);

CREATE TABLE operators (
    operator INTEGER PRIMARY KEY,
    owner    BLOB NOT NULL,
    payout   BLOB NOT NULL
) STRICT;

CREATE TABLE node_keys (
    node     BLOB PRIMARY KEY CHECK (length(node) = 20),
    operator INTEGER NOT NULL,
    since    INTEGER NOT NULL,
    until    INTEGER
) STRICT, WITHOUT ROWID;
