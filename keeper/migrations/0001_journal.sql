-- Which chain and contract this journal speaks of: one row.
CREATE TABLE scope (
    id         INTEGER PRIMARY KEY CHECK (id = 1),
    chain_id   INTEGER NOT NULL,
    settlement BLOB    NOT NULL
) STRICT;

CREATE TABLE batches (
    id           INTEGER PRIMARY KEY,
    seq          INTEGER NOT NULL CHECK (seq > 0),
    state        TEXT    NOT NULL CHECK (state IN ('planned', 'signed', 'sent', 'mined', 'final', 'replaced', 'quarantined')),
    version      INTEGER NOT NULL,            -- counts every change; each change compares it
    adopted      INTEGER NOT NULL CHECK (adopted IN (0, 1)),
    proposal     TEXT    NOT NULL,            -- JSON, as it crossed the wire
    signature    BLOB,
    settler      BLOB,
    amounts      TEXT    NOT NULL,            -- JSON, credits per operator before the fee, as planned
    applied      TEXT,                        -- JSON, the same, as the chain applied them
    from_block   INTEGER NOT NULL,            -- the batch can't have landed below
    tx_hash      BLOB,
    block_hash   BLOB,
    block_number INTEGER,
    debited      INTEGER,                     -- credits, as the chain says
    fee          INTEGER,                     -- credits, as the chain says
    note         TEXT    NOT NULL,
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX one_live_batch_per_seq ON batches (seq) WHERE state NOT IN ('replaced', 'quarantined');

-- Every transaction that was ever signed, stored before it was broadcast. None is ever deleted.
CREATE TABLE attempts (
    hash                 BLOB    PRIMARY KEY,
    batch_id             INTEGER REFERENCES batches (id),
    purpose              TEXT    NOT NULL CHECK (purpose IN ('settle', 'claim', 'cancel')),
    nonce                INTEGER NOT NULL CHECK (nonce >= 0),
    raw                  BLOB    NOT NULL,
    max_fee_wei          INTEGER NOT NULL,
    max_priority_fee_wei INTEGER NOT NULL,
    gas_limit            INTEGER NOT NULL,
    state                TEXT    NOT NULL CHECK (state IN ('live', 'mined', 'reverted')),
    block_hash           BLOB,
    block_number         INTEGER,
    gas_used             INTEGER,
    gas_price_wei        INTEGER,
    signed_at            INTEGER NOT NULL
) STRICT;

CREATE INDEX attempts_by_batch ON attempts (batch_id, signed_at);
CREATE INDEX attempts_by_nonce ON attempts (nonce, state);

-- Receipts that the meter refused to countersign when they stood alone.
CREATE TABLE refused_receipts (
    request_id BLOB    PRIMARY KEY,
    reason     TEXT    NOT NULL,
    refused_at INTEGER NOT NULL
) STRICT;
