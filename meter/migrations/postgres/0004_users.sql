-- Users with passkeys, and sessions that are a user's, a wallet's, or both. A passkey's row holds its public key; no row holds a secret.

CREATE TABLE users (
    id         BYTEA  NOT NULL PRIMARY KEY CHECK (length(id) = 16), -- random; the user handle of its passkeys
    wallet     BYTEA  UNIQUE CHECK (length(wallet) = 20),           -- whose credits it spends, once linked
    created_at BIGINT NOT NULL
);

CREATE TABLE passkeys (
    credential_id BYTEA  NOT NULL PRIMARY KEY CHECK (length(credential_id) BETWEEN 1 AND 1023),
    user_id       BYTEA  NOT NULL REFERENCES users (id),
    name          TEXT   NOT NULL,
    credential    TEXT   NOT NULL, -- JSON: public key, counter and flags
    created_at    BIGINT NOT NULL,
    last_used_at  BIGINT
);
CREATE INDEX passkeys_by_user ON passkeys (user_id, created_at);

ALTER TABLE sessions ADD COLUMN user_id BYTEA REFERENCES users (id);
ALTER TABLE sessions ALTER COLUMN wallet DROP NOT NULL;
ALTER TABLE sessions ADD CONSTRAINT sessions_of_one CHECK ((user_id IS NULL) <> (wallet IS NULL));
CREATE INDEX sessions_by_user ON sessions (user_id, created_at);
