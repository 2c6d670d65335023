-- Clearances: the settler's word that nothing more than `clearance_settled` is debited under the authorization before nonce
-- `clearance_nonce`, for the vault to take until `clearance_deadline`. Zero: none was ever given. The cursor's time says which deadlines are over.

ALTER TABLE payers ADD COLUMN clearance_settled  BIGINT NOT NULL DEFAULT 0 CHECK (clearance_settled >= 0);
ALTER TABLE payers ADD COLUMN clearance_nonce    BIGINT NOT NULL DEFAULT 0;
ALTER TABLE payers ADD COLUMN clearance_deadline BIGINT NOT NULL DEFAULT 0; -- seconds since the epoch, by the chain's clock
ALTER TABLE chain_cursor ADD COLUMN timestamp    BIGINT NOT NULL DEFAULT 0; -- of the block at `number`, seconds since the epoch
