//! SQLite: each write is one durable statement.

use async_trait::async_trait;
use sqlx::sqlite::SqlitePool;
use wire::{Address, B256};

use super::super::keys::{ApiKey, KeyId};
use super::super::secret::SecretHash;
use super::super::{IdentityError, UserId};
use super::passkeys::passkey_row;
use super::{
    Consumption, EXPIRED_KEPT_S, KeyRow, NewKeyRow, NewPasskeyRow, PasskeyRow, REVOKED_KEPT_S, Removal, SessionRow, Store, fixed, key_row,
    models_text, session_row, stored,
};

pub(super) struct SqliteStore {
    pub(super) pool: SqlitePool,
}

#[async_trait]
impl Store for SqliteStore {
    async fn add_challenge(&self, challenge: B256, expires_at: u64) -> Result<(), IdentityError> {
        let sql = "INSERT INTO challenges (challenge, expires_at) VALUES (?1, ?2)";
        sqlx::query(sql).bind(&challenge[..]).bind(stored(expires_at)).execute(&self.pool).await?;
        Ok(())
    }

    async fn consume_challenge(&self, challenge: B256, now_s: u64) -> Result<Consumption, IdentityError> {
        let sql = "UPDATE challenges SET consumed_at = ?2 WHERE challenge = ?1 AND consumed_at IS NULL AND expires_at > ?2";
        let updated = sqlx::query(sql).bind(&challenge[..]).bind(stored(now_s)).execute(&self.pool).await?;
        if updated.rows_affected() == 1 {
            return Ok(Consumption::Consumed);
        }
        let sql = "SELECT expires_at, consumed_at FROM challenges WHERE challenge = ?1";
        Ok(Consumption::refused(sqlx::query_as(sql).bind(&challenge[..]).fetch_optional(&self.pool).await?))
    }

    async fn sweep(&self, now_s: u64, challenges_max: u32) -> Result<(), IdentityError> {
        let expired_before = stored(now_s.saturating_sub(EXPIRED_KEPT_S));
        let revoked_before = stored(now_s.saturating_sub(REVOKED_KEPT_S));
        sqlx::query("DELETE FROM challenges WHERE expires_at < ?1").bind(expired_before).execute(&self.pool).await?;
        let oldest = "DELETE FROM challenges WHERE challenge IN
                      (SELECT challenge FROM challenges ORDER BY expires_at DESC LIMIT -1 OFFSET ?1)";
        sqlx::query(oldest).bind(challenges_max).execute(&self.pool).await?;
        sqlx::query("DELETE FROM sessions WHERE expires_at < ?1").bind(expired_before).execute(&self.pool).await?;
        sqlx::query("DELETE FROM api_keys WHERE revoked_at < ?1 OR expires_at < ?1").bind(revoked_before).execute(&self.pool).await?;
        Ok(())
    }

    async fn add_session(&self, row: &SessionRow, max: u32) -> Result<Vec<SecretHash>, IdentityError> {
        let (user, wallet) = (row.user.as_ref().map(|user| &user.0[..]), row.wallet.as_ref().map(|wallet| wallet.as_slice()));
        let sql =
            "INSERT INTO sessions (secret_hash, user_id, wallet, created_at, last_used_at, expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let insert = sqlx::query(sql).bind(&row.secret_hash[..]).bind(user).bind(wallet);
        let insert = insert.bind(stored(row.created_at)).bind(stored(row.last_used_at)).bind(stored(row.expires_at));
        insert.execute(&self.pool).await?;
        let oldest = "DELETE FROM sessions WHERE secret_hash IN
                      (SELECT secret_hash FROM sessions WHERE user_id IS ?1 AND wallet IS ?2
                       ORDER BY created_at DESC, secret_hash = ?4 DESC LIMIT -1 OFFSET ?3)
                      RETURNING secret_hash";
        let ended = sqlx::query_scalar(oldest).bind(user).bind(wallet).bind(max).bind(&row.secret_hash[..]);
        let ended: Vec<Vec<u8>> = ended.fetch_all(&self.pool).await?;
        ended.iter().map(|hash| fixed(hash, "sessions", "secret_hash")).collect()
    }

    async fn session(&self, hash: &SecretHash) -> Result<Option<SessionRow>, IdentityError> {
        let sql =
            "SELECT s.secret_hash, u.id AS user_id, coalesce(s.wallet, u.wallet) AS wallet, s.created_at, s.last_used_at, s.expires_at
                   FROM sessions s LEFT JOIN users u ON u.id = s.user_id OR u.wallet = s.wallet WHERE s.secret_hash = ?1";
        sqlx::query(sql).bind(&hash[..]).fetch_optional(&self.pool).await?.as_ref().map(session_row).transpose()
    }

    async fn sessions_of(&self, user: Option<UserId>, wallet: Option<Address>) -> Result<Vec<SessionRow>, IdentityError> {
        let sql = "SELECT secret_hash, user_id, wallet, created_at, last_used_at, expires_at FROM sessions
                   WHERE user_id = ?1 OR wallet = ?2 ORDER BY last_used_at DESC, created_at DESC, secret_hash";
        let (user, wallet) = (user.as_ref().map(|user| &user.0[..]), wallet.as_ref().map(|wallet| wallet.as_slice()));
        sqlx::query(sql).bind(user).bind(wallet).fetch_all(&self.pool).await?.iter().map(session_row).collect()
    }

    async fn touch_session(&self, hash: &SecretHash, now_s: u64) -> Result<(), IdentityError> {
        let sql = "UPDATE sessions SET last_used_at = ?2 WHERE secret_hash = ?1 AND last_used_at < ?2";
        sqlx::query(sql).bind(&hash[..]).bind(stored(now_s)).execute(&self.pool).await?;
        Ok(())
    }

    async fn remove_session(&self, hash: &SecretHash) -> Result<bool, IdentityError> {
        let removed = sqlx::query("DELETE FROM sessions WHERE secret_hash = ?1").bind(&hash[..]).execute(&self.pool).await?;
        Ok(removed.rows_affected() == 1)
    }

    async fn add_passkey(&self, row: &NewPasskeyRow<'_>, max: u32) -> Result<bool, IdentityError> {
        let user = "INSERT INTO users (id, wallet, created_at) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
        let user = sqlx::query(user).bind(&row.user.0[..]).bind(row.wallet.as_ref().map(|wallet| wallet.as_slice()));
        user.bind(stored(row.created_at)).execute(&self.pool).await?;
        let sql = "INSERT INTO passkeys (credential_id, user_id, name, credential, created_at)
                   SELECT ?1, id, ?3, ?4, ?5 FROM users
                   WHERE id = ?2 AND (SELECT count(*) FROM passkeys WHERE user_id = ?2) < ?6
                   ON CONFLICT DO NOTHING";
        let insert = sqlx::query(sql).bind(row.credential_id).bind(&row.user.0[..]).bind(row.name).bind(row.credential);
        Ok(insert.bind(stored(row.created_at)).bind(max).execute(&self.pool).await?.rows_affected() == 1)
    }

    async fn passkey(&self, credential_id: &[u8]) -> Result<Option<PasskeyRow>, IdentityError> {
        let sql = "SELECT credential_id, user_id, name, credential, created_at, last_used_at FROM passkeys WHERE credential_id = ?1";
        sqlx::query(sql).bind(credential_id).fetch_optional(&self.pool).await?.as_ref().map(passkey_row).transpose()
    }

    async fn passkeys_of(&self, user: UserId) -> Result<Vec<PasskeyRow>, IdentityError> {
        let sql = "SELECT credential_id, user_id, name, credential, created_at, last_used_at
                   FROM passkeys WHERE user_id = ?1 ORDER BY created_at, credential_id";
        let rows = sqlx::query(sql).bind(&user.0[..]).fetch_all(&self.pool).await?;
        rows.iter().map(passkey_row).collect()
    }

    async fn use_passkey(&self, credential_id: &[u8], was: &str, credential: &str, now_s: u64) -> Result<bool, IdentityError> {
        let sql = "UPDATE passkeys SET credential = ?3, last_used_at = ?4 WHERE credential_id = ?1 AND credential = ?2";
        let update = sqlx::query(sql).bind(credential_id).bind(was).bind(credential).bind(stored(now_s));
        Ok(update.execute(&self.pool).await?.rows_affected() == 1)
    }

    async fn remove_passkey(&self, user: UserId, credential_id: &[u8]) -> Result<Removal, IdentityError> {
        let sql = "DELETE FROM passkeys WHERE credential_id = ?1 AND user_id = ?2
                   AND ((SELECT count(*) FROM passkeys WHERE user_id = ?2) > 1 OR (SELECT wallet FROM users WHERE id = ?2) IS NOT NULL)";
        let removed = sqlx::query(sql).bind(credential_id).bind(&user.0[..]).execute(&self.pool).await?.rows_affected() == 1;
        if removed {
            return Ok(Removal::Removed);
        }
        let known = self.passkey(credential_id).await?.is_some_and(|row| row.user == user);
        Ok(if known { Removal::LastWayIn } else { Removal::Unknown })
    }

    async fn user_of_wallet(&self, wallet: Address) -> Result<Option<UserId>, IdentityError> {
        let user: Option<Vec<u8>> =
            sqlx::query_scalar("SELECT id FROM users WHERE wallet = ?1").bind(wallet.as_slice()).fetch_optional(&self.pool).await?;
        user.map(|user| fixed(&user, "users", "id").map(UserId)).transpose()
    }

    async fn link_wallet(&self, user: UserId, wallet: Address) -> Result<bool, IdentityError> {
        let free = "UPDATE users SET wallet = NULL WHERE wallet = ?1 AND id <> ?2
                    AND NOT EXISTS (SELECT 1 FROM passkeys WHERE user_id = users.id)";
        sqlx::query(free).bind(wallet.as_slice()).bind(&user.0[..]).execute(&self.pool).await?;
        let link = "UPDATE users SET wallet = ?1 WHERE id = ?2
                    AND NOT EXISTS (SELECT 1 FROM users others WHERE others.wallet = ?1 AND others.id <> ?2)";
        Ok(sqlx::query(link).bind(wallet.as_slice()).bind(&user.0[..]).execute(&self.pool).await?.rows_affected() == 1)
    }

    async fn add_key(&self, row: &NewKeyRow<'_>, max: u32) -> Result<bool, IdentityError> {
        let sql = "INSERT INTO api_keys (id, secret_hash, wallet, name, prefix, limit_credits, expires_at, models, created_at)
                   SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9
                   WHERE (SELECT count(*) FROM api_keys
                          WHERE wallet = ?3 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > ?9)) < ?10";
        let ApiKey { id, name, prefix, limits, created_at, .. } = row.key;
        let insert = sqlx::query(sql).bind(id.to_string()).bind(&row.secret_hash[..]).bind(row.wallet.as_slice()).bind(name).bind(prefix);
        let insert = insert.bind(limits.credits.map(|credits| credits.as_i64())).bind(limits.expires_at.map(stored));
        let insert = insert.bind(models_text(limits)?).bind(stored(*created_at)).bind(max);
        Ok(insert.execute(&self.pool).await?.rows_affected() == 1)
    }

    async fn key(&self, hash: &SecretHash) -> Result<Option<KeyRow>, IdentityError> {
        let sql = "SELECT id, secret_hash, wallet, name, prefix, limit_credits, expires_at, models, created_at, last_used_at, revoked_at
                   FROM api_keys WHERE secret_hash = ?1";
        sqlx::query(sql).bind(&hash[..]).fetch_optional(&self.pool).await?.as_ref().map(key_row).transpose()
    }

    async fn keys_of(&self, wallet: Address) -> Result<Vec<ApiKey>, IdentityError> {
        let sql = "SELECT id, secret_hash, wallet, name, prefix, limit_credits, expires_at, models, created_at, last_used_at, revoked_at
                   FROM api_keys WHERE wallet = ?1 ORDER BY created_at DESC, id DESC";
        let rows = sqlx::query(sql).bind(wallet.as_slice()).fetch_all(&self.pool).await?;
        rows.iter().map(|row| key_row(row).map(|row| row.key)).collect()
    }

    async fn touch_key(&self, id: KeyId, now_s: u64) -> Result<(), IdentityError> {
        let sql = "UPDATE api_keys SET last_used_at = ?2 WHERE id = ?1 AND (last_used_at IS NULL OR last_used_at < ?2)";
        sqlx::query(sql).bind(id.to_string()).bind(stored(now_s)).execute(&self.pool).await?;
        Ok(())
    }

    async fn revoke_key(&self, wallet: Address, id: KeyId, now_s: u64) -> Result<Option<SecretHash>, IdentityError> {
        let sql = "UPDATE api_keys SET revoked_at = coalesce(revoked_at, ?3) WHERE id = ?1 AND wallet = ?2 RETURNING secret_hash";
        let hash = sqlx::query_scalar(sql).bind(id.to_string()).bind(wallet.as_slice()).bind(stored(now_s));
        let hash: Option<Vec<u8>> = hash.fetch_optional(&self.pool).await?;
        hash.map(|hash| fixed(&hash, "api_keys", "secret_hash")).transpose()
    }
}
