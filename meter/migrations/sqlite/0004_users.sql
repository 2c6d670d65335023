-- Users with passkeys, and sessions that are a user's, a wallet's, or both. A passkey's row holds its public key; no row holds a secret.

CREATE TABLE users (
    id         BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16), -- random; the user handle of its passkeys
    wallet     BLOB    UNIQUE CHECK (length(wallet) = 20),           -- whose credits it spends, once linked
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE passkeys (
    credential_id BLOB    NOT NULL PRIMARY KEY CHECK (length(credential_id) BETWEEN 1 AND 1023),
    user_id       BLOB    NOT NULL REFERENCES users (id),
    name          TEXT    NOT NULL,
    credential    TEXT    NOT NULL, -- JSON: public key, counter and flags
    created_at    INTEGER NOT NULL,
    last_used_at  INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX passkeys_by_user ON passkeys (user_id, created_at);

-- SQLite can't drop NOT NULL, so the table is made anew.
CREATE TABLE sessions_anew (
    secret_hash  BLOB    NOT NULL PRIMARY KEY CHECK (length(secret_hash) = 32), -- SHA-256
    user_id      BLOB    REFERENCES users (id),
    wallet       BLOB    CHECK (length(wallet) = 20),
    created_at   INTEGER NOT NULL,
    last_used_at INTEGER NOT NULL,
    expires_at   INTEGER NOT NULL,
    CHECK ((user_id IS NULL) <> (wallet IS NULL))
) STRICT, WITHOUT ROWID;
INSERT INTO sessions_anew (secret_hash, wallet, created_at, last_used_at, expires_at)
    SELECT secret_hash, wallet, created_at, last_used_at, expires_at FROM sessions;
DROP TABLE sessions;
ALTER TABLE sessions_anew RENAME TO sessions;
CREATE INDEX sessions_by_wallet ON sessions (wallet, created_at);
CREATE INDEX sessions_by_user ON sessions (user_id, created_at);
CREATE INDEX sessions_by_expiry ON sessions (expires_at);
