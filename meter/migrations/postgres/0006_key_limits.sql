-- What an API key may do besides its credits: until when, and which models. Keys made before are without either limit.

ALTER TABLE api_keys ADD COLUMN expires_at BIGINT;  -- seconds since the epoch; null for a key that lasts until it is revoked
ALTER TABLE api_keys ADD COLUMN models     TEXT;    -- JSON array of model ids; null for all models
