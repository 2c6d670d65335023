-- Who may call: challenges to sign, sessions, API keys. No row holds a secret, only the digest of one.

CREATE TABLE challenges (
    challenge   BLOB    NOT NULL PRIMARY KEY CHECK (length(challenge) = 32), -- keccak-256 of the client's secret
    expires_at  INTEGER NOT NULL,                                            -- seconds since the epoch
    consumed_at INTEGER                                                      -- set once, by the sign-in that used it
) STRICT, WITHOUT ROWID;
CREATE INDEX challenges_by_expiry ON challenges (expires_at);

CREATE TABLE sessions (
    secret_hash  BLOB    NOT NULL PRIMARY KEY CHECK (length(secret_hash) = 32), -- SHA-256
    wallet       BLOB    NOT NULL CHECK (length(wallet) = 20),
    created_at   INTEGER NOT NULL,
    last_used_at INTEGER NOT NULL,
    expires_at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX sessions_by_wallet ON sessions (wallet, created_at);
CREATE INDEX sessions_by_expiry ON sessions (expires_at);

CREATE TABLE api_keys (
    id            TEXT    NOT NULL PRIMARY KEY,
    secret_hash   BLOB    NOT NULL UNIQUE CHECK (length(secret_hash) = 32), -- SHA-256
    wallet        BLOB    NOT NULL CHECK (length(wallet) = 20),
    name          TEXT    NOT NULL,
    prefix        TEXT    NOT NULL,                                         -- the part that may be shown
    limit_credits INTEGER CHECK (limit_credits > 0),
    created_at    INTEGER NOT NULL,
    last_used_at  INTEGER,
    revoked_at    INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX api_keys_by_wallet ON api_keys (wallet, created_at);
