//! Request bodies, bounded in bytes and in time.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use http::HeaderMap;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::ApiError;
use crate::config::Limits;

/// How many times its limit a body may have before the connection is cut.
const READ_PAST_FACTOR: usize = 8;

/// Headers and whole body. Errors with 413 above `bytes_max`, 408 after the time of `limits`, 400 when it breaks off.
pub(super) async fn read(request: Request, bytes_max: usize, limits: &Limits) -> Result<(HeaderMap, Bytes), ApiError> {
    let (parts, body) = request.into_parts();
    let read = tokio::time::timeout(Duration::from_millis(limits.body_timeout_ms), collect(body, bytes_max)).await;
    Ok((parts.headers, read.map_err(|_| ApiError::body_timeout())??))
}

/// As [`read`], parsed. Errors with 400 that says where the JSON is wrong.
pub(super) async fn json<T: DeserializeOwned>(request: Request, bytes_max: usize, limits: &Limits) -> Result<(HeaderMap, T), ApiError> {
    let (headers, bytes) = read(request, bytes_max, limits).await?;
    Ok((headers, parse(&bytes)?))
}

/// As [`json`], and a JSON object.
pub(super) async fn object(request: Request, limits: &Limits) -> Result<(HeaderMap, serde_json::Map<String, Value>), ApiError> {
    let (headers, bytes) = read(request, limits.body_bytes_max, limits).await?;
    match parse(&bytes)? {
        Value::Object(fields) => Ok((headers, fields)),
        _ => Err(ApiError::bad_request("invalid_json", "the body must be a JSON object")),
    }
}

/// JSON that was read already.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(bytes).map_err(|error| ApiError::bad_request("invalid_json", format!("the body can't be read as JSON: {error}")))
}

/// A body that is too long is read a little further and forgotten: a client that is cut off while it sends never sees why.
async fn collect(body: Body, bytes_max: usize) -> Result<Bytes, ApiError> {
    let (mut stream, mut bytes, mut seen) = (body.into_data_stream(), BytesMut::new(), 0);
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|_| ApiError::bad_request("incomplete_body", "the body broke off; send it again"))?;
        seen += chunk.len();
        if seen <= bytes_max {
            bytes.extend_from_slice(&chunk);
        } else if seen > bytes_max.saturating_mul(READ_PAST_FACTOR) {
            break;
        }
    }
    if seen > bytes_max { Err(ApiError::too_large(bytes_max)) } else { Ok(bytes.freeze()) }
}
