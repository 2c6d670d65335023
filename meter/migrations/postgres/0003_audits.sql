-- Audits of receipts, and the nodes that failed one.

ALTER TABLE receipts ADD COLUMN audit TEXT CHECK (audit IN ('pending', 'audited', 'failed', 'skipped'));
ALTER TABLE receipts ADD COLUMN auditor BYTEA;
CREATE INDEX receipts_audit_pending ON receipts (created_at) WHERE audit = 'pending';
CREATE INDEX receipts_not_batched ON receipts (node) WHERE state IN ('awaiting_signature', 'signed');
CREATE INDEX receipts_in_batches ON receipts (node, position) WHERE state IN ('batched', 'settled');

CREATE TABLE quarantines (
    node       BYTEA PRIMARY KEY CHECK (length(node) = 20),
    operator   BIGINT NOT NULL,
    request_id BYTEA    NOT NULL CHECK (length(request_id) = 32),
    reason     TEXT    NOT NULL,
    since      BIGINT NOT NULL,
    cleared_at BIGINT
);
